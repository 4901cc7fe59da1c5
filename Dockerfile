# The images of Airlock, one target a role: gateway, control (Airflow's services), worker (Airflow's tasks), mlflow.
# What is installed stands in deploy/requirements and pyproject.toml; every version in constraints.txt.
# `--build-arg PIP_EXTRA_INDEX_URL=...` names a further package index, such as one with PyTorch's wheels for CPUs.

FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 DO_NOT_TRACK=true BENTOML_DO_NOT_TRACK=True \
    MLFLOW_DISABLE_TELEMETRY=true AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False AIRFLOW__CORE__LOAD_EXAMPLES=False \
    GIT_PYTHON_REFRESH=quiet AIRLOCK_HOME=/var/lib/airlock HOME=/var/lib/airlock BENTOML_HOME=/var/lib/airlock/bentoml \
    AIRFLOW_HOME=/var/lib/airlock/airflow PATH=/opt/airlock/bin:$PATH
RUN groupadd --gid 10001 airlock && \
    useradd --uid 10001 --gid 10001 --home-dir /var/lib/airlock --no-create-home --shell /usr/sbin/nologin airlock && \
    install --directory --owner 10001 --group 10001 --mode 0700 \
        /var/lib/airlock /var/lib/airlock/airflow /var/log/airlock


# Airlock itself as a wheel, and the packages of its extras `scale` and `kubernetes` as a list.
FROM base AS project
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY deploy/requirements deploy/requirements
COPY deploy/launch deploy/launch
COPY bentos bentos
COPY tasks tasks
COPY plugins plugins
COPY dags dags
RUN pip wheel --no-cache-dir --no-deps --wheel-dir wheels . && \
    python -c "import tomllib; extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; print(*extras['scale'], *extras['kubernetes'], sep='\n')" > deploy/requirements/scale.txt


# What follows is installed in stages of their own, so that neither pip's settings nor the sources are in an image.
FROM base AS packages
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/airlock
COPY --from=project /build/deploy/requirements requirements

FROM packages AS gateway-packages
RUN pip install --no-cache-dir -c constraints.txt -r requirements/core.txt -r requirements/gateway.txt \
    "psycopg[binary]" dumb-init
COPY --from=project /build/wheels wheels
RUN pip install --no-cache-dir --no-deps wheels/*.whl

FROM packages AS control-packages
RUN pip install --no-cache-dir -c constraints.txt -r requirements/core.txt -r requirements/control.txt \
    -r requirements/scale.txt dumb-init
COPY --from=project /build/wheels wheels
RUN pip install --no-cache-dir --no-deps wheels/*.whl

FROM packages AS worker-packages
RUN pip install --no-cache-dir -c constraints.txt -r requirements/core.txt -r requirements/gateway.txt \
    -r requirements/control.txt -r requirements/worker.txt -r requirements/scale.txt dumb-init
COPY --from=project /build/wheels wheels
RUN pip install --no-cache-dir --no-deps wheels/*.whl

FROM packages AS mlflow-packages
RUN pip install --no-cache-dir -c constraints.txt mlflow "psycopg[binary]" boto3 dumb-init


# The gateway: neither torch nor Stable-Baselines3, MLflow or Airflow.
FROM base AS gateway
COPY --from=gateway-packages /opt/airlock /opt/airlock
USER 10001:10001
WORKDIR /var/lib/airlock
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
ENTRYPOINT ["dumb-init", "--single-child", "--"]
CMD ["bentoml", "serve", "bentos.service:Gateway", "--host", "0.0.0.0", "--port", "3000"]


# Airflow's api-server, scheduler, dag-processor and triggerer, with Airlock's DAGs and its plugin; neither torch nor MLflow.
FROM base AS control
ENV AIRFLOW__CORE__DAGS_FOLDER=/opt/airlock/lib/python3.11/site-packages/dags
COPY --from=control-packages /opt/airlock /opt/airlock
USER 10001:10001
WORKDIR /var/lib/airlock
EXPOSE 8080
# Of the api-server. Whoever runs another of the services sets its own, such as `airflow jobs check`.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=5 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/api/v2/monitor/health', timeout=9)"]
ENTRYPOINT ["dumb-init", "--single-child", "--"]
CMD ["airflow", "api-server", "--host", "0.0.0.0", "--port", "8080"]


# A Celery worker, or the pod of one task: everything.
FROM base AS worker
ENV AIRFLOW__CORE__DAGS_FOLDER=/opt/airlock/lib/python3.11/site-packages/dags
COPY --from=worker-packages /opt/airlock /opt/airlock
USER 10001:10001
WORKDIR /var/lib/airlock
# Of a Celery worker. The pod of one task is judged by how it ends.
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s --retries=3 \
    CMD ["sh", "-c", "exec celery --app airflow.providers.celery.executors.celery_executor.app inspect ping --destination celery@$HOSTNAME"]
ENTRYPOINT ["dumb-init", "--single-child", "--"]
CMD ["airflow", "celery", "worker", "--queues", "default,train"]


# MLflow's server, with the drivers for PostgreSQL and S3.
FROM base AS mlflow
COPY --from=mlflow-packages /opt/airlock /opt/airlock
USER 10001:10001
WORKDIR /var/lib/airlock
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=5 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=9)"]
ENTRYPOINT ["dumb-init", "--single-child", "--"]
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"]
