"""The releases of a policy so far, newest first, as their MLflow runs tell them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from bentos import settings
from tasks.tracking.release import TAG_DAG_RUN, TAG_POLICY, TAG_STAGE, TAG_VERSION
from tasks.tracking.runs import TrackedRun, Tracking

SHOWN = 20


@dataclass(frozen=True)
class PastRelease:
    """One release. `outcome` is null while it runs; `stage` is what it last did; `started` is in Unix seconds.

    `version` is null when it registered none; `links` name the pages of its DAG run, MLflow run and model version.
    """

    dag_run_id: str
    run_id: str
    version: str | None
    stage: str
    outcome: str | None
    reason: str
    started: float
    links: Mapping[str, str]


def releases(policy: str, count: int = SHOWN) -> list[PastRelease]:
    """The last `count` releases. Raises RegistryUnavailable and RegistryRefused."""
    with Tracking() as tracking:
        experiment = tracking.experiment(policy)
        if experiment is None:
            return []
        runs = tracking.latest(experiment, f"tags.`{TAG_POLICY}` = '{policy}'", count)
    return [_release(policy, experiment, run) for run in runs]


def _release(policy: str, experiment: str, run: TrackedRun) -> PastRelease:
    tags = run.tags
    version, dag_run = tags.get(TAG_VERSION) or None, tags.get(TAG_DAG_RUN, "")
    mlflow = settings.mlflow_url().rstrip("/")
    links = {
        "DAG run": f"{settings.airflow_url()}/dags/{quote(f'release_{policy}')}/runs/{quote(dag_run, safe='')}",
        "MLflow run": f"{mlflow}/#/experiments/{quote(experiment)}/runs/{quote(run.run_id)}",
    }
    if version:
        links["model version"] = f"{mlflow}/#/models/{quote(policy)}/versions/{quote(version)}"
    return PastRelease(
        dag_run,
        run.run_id,
        version,
        tags.get(TAG_STAGE, ""),
        tags.get("airlock.outcome") or None,
        tags.get("airlock.reason", ""),
        run.started,
        links,
    )
