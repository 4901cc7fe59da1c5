"""The environment variables that every process of the stack lives in."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from bentos import settings
from tasks.spec.files import dags_directory

REPOSITORY = Path(__file__).resolve().parents[2]
ADMIN = "admin"


def airflow_home() -> Path:
    """Airflow's own home, below Airlock's."""
    return settings.home() / "airflow"


def passwords_file() -> Path:
    """Where the logins of the Airflow UI stand: JSON, user name to password, mode 0600."""
    return airflow_home() / "simple_auth_manager_passwords.json.generated"


def passwords() -> dict[str, str]:
    """Logins of the Airflow UI by user name, generated on first use.

    They are made here rather than by Airflow, which would print them into a log.
    """
    path = passwords_file()
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({user: secrets.token_urlsafe(12) for user in (ADMIN, "viewer")}, file)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return {str(user): str(word) for user, word in json.loads(path.read_text()).items()}


def _fixed() -> dict[str, str]:
    """Settings tied to this home and its ports: a variable left over from elsewhere must not win over them."""
    base = airflow_home()
    url = f"http://127.0.0.1:{settings.port('airflow', 8080)}"
    return {
        "AIRLOCK_HOME": str(settings.home()),
        "AIRLOCK_AIRFLOW_URL": url,
        "AIRLOCK_GATEWAY_URL": settings.gateway_url(),
        "MLFLOW_TRACKING_URI": settings.mlflow_url(),
        "AIRFLOW_HOME": str(base),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_directory()),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(base / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin,viewer:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords_file()),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(settings.port("airflow", 8080)),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": settings.secret("airflow_secret_key"),
        "AIRFLOW__API_AUTH__JWT_SECRET": settings.secret("airflow_jwt_secret"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(base / "logs"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(base / "logs" / "dag_processor"),
    }


def _defaults() -> dict[str, str]:
    """Settings a user may replace by setting the same variable."""
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow_home() / 'airflow.db'}",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # A killed scheduler's tasks are put back (15 + 5 s) before their silence counts as a failed try (30 s).
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "10",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
        # 0.1 would save a tenth of a second a task, and keep a fifth of a core busy with nothing to do.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
        # How soon the end of a task process is seen: the default, 5 s, delays each deferral that much.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # A task outlives an API server that is away for some minutes, and is heard of within 5 s of its return.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "60",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "5",
        "AIRFLOW__WORKERS__MISSING_DAG_RETRY_DELAY": "10",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def airflow_environment(caller: Mapping[str, str] | None = None) -> dict[str, str]:
    """All variables a process needs to be part of this home's Airflow (for `os.environ` or a child process).

    `caller` (by default `os.environ`) may replace tuning and databases, never what belongs to this home.
    """
    caller = os.environ if caller is None else caller
    defaults = {name: caller.get(name, value) for name, value in _defaults().items()}
    path = caller.get("PATH", os.defpath)
    binaries = str(Path(sys.executable).parent)
    return {**defaults, **_fixed(), "PATH": path if path.startswith(binaries) else f"{binaries}{os.pathsep}{path}"}
