"""Links from a task in the Airflow UI to what it wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from bentos import settings
from tasks.tracking.release import Release

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


def policy_of(dag_id: str) -> str:
    """The policy of a DAG of Airlock: `release_cartpole` is one of `cartpole`."""
    return dag_id.partition("_")[2]


class MlflowRunLink(BaseOperatorLink):
    """The release's MLflow run: artifacts, metrics and evidence of every stage."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """URL of the run, or the empty string when the release never began."""
        release = Release.find(policy_of(ti_key.dag_id), ti_key.run_id)
        if release is None:
            return ""
        return f"{settings.mlflow_url()}/#/experiments/{release.experiment_id}/runs/{release.run_id}"


class ModelVersionLink(BaseOperatorLink):
    """The model version that the release registered: its card, tags and aliases."""

    name = "Model version"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """URL of the version, or the empty string while there is none."""
        from tasks.tracking.release import version_of

        policy = policy_of(ti_key.dag_id)
        release = Release.find(policy, ti_key.run_id)
        version = version_of(release) if release else None
        return f"{settings.mlflow_url()}/#/models/{quote(policy)}/versions/{version}" if version else ""


class ConsoleLink(BaseOperatorLink):
    """The policy's page of the console."""

    name = "Airlock console"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """URL of the page."""
        return f"{settings.airflow_url()}/airlock/policies/{quote(policy_of(ti_key.dag_id))}"


LINKS = (MlflowRunLink(), ModelVersionLink(), ConsoleLink())
