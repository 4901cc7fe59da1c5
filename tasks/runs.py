"""A release's MLflow run: where every stage keeps its artifacts and evidence, found again by the DAG run's id."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bentos import home
from tasks.errors import Misconfigured
from tasks.spec import Params, PolicySpec, effective, load

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG_DAG_RUN = "airlock.dag_run_id"
TAG_POLICY = "airlock.policy"
TAG_STAGE = "airlock.stage"
TAG_VERSION = "airlock.version"
TAG_VERDICT = "airlock.verdict"
TAG_REASON = "airlock.reason"
SPEC = "spec.json"
PARAMS = "params.json"


def client() -> MlflowClient:
    """An MLflow client of the configured server; no call waits longer than a few retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=home.mlflow_url(), registry_uri=home.mlflow_url())


@dataclass(frozen=True)
class Release:
    """One release of one policy: the DAG run that drives it and the MLflow run that records it."""

    policy: str
    dag_run_id: str
    run_id: str
    experiment_id: str
    spec: PolicySpec
    params: Params

    @staticmethod
    def open(policy: str, dag_run_id: str, params: Params) -> Release:
        """Find the release of this DAG run, or begin it. The spec is frozen into the run at its beginning.

        Raises SpecError when the spec or the parameters do not validate.
        """
        found = Release.find(policy, dag_run_id)
        if found:
            return found
        spec = effective(load(policy), params)
        mlflow = client()
        experiment = mlflow.get_experiment_by_name(policy)
        experiment_id = experiment.experiment_id if experiment else mlflow.create_experiment(policy)
        run = mlflow.create_run(
            experiment_id,
            run_name=dag_run_id,
            tags={TAG_DAG_RUN: dag_run_id, TAG_POLICY: policy, TAG_STAGE: "opened"},
        )
        release = Release(policy, dag_run_id, run.info.run_id, experiment_id, spec, params)
        release.put_json(PARAMS, params.model_dump(mode="json"))
        release.put_json(SPEC, spec.model_dump(mode="json"))
        return release

    @staticmethod
    def find(policy: str, dag_run_id: str) -> Release | None:
        """The release of this DAG run, or None when it never began (or was killed while beginning)."""
        mlflow = client()
        experiment = mlflow.get_experiment_by_name(policy)
        if experiment is None:
            return None
        runs = mlflow.search_runs(
            [experiment.experiment_id],
            f"tags.`{TAG_DAG_RUN}` = '{dag_run_id}'",
            order_by=["attributes.start_time ASC"],
        )
        for run in runs:
            names = {item.path for item in mlflow.list_artifacts(run.info.run_id)}
            if SPEC in names:
                spec, params = (_read_json(mlflow, run.info.run_id, name) for name in (SPEC, PARAMS))
                return Release(
                    policy,
                    dag_run_id,
                    run.info.run_id,
                    experiment.experiment_id,
                    PolicySpec.model_validate(spec),
                    Params.model_validate(params),
                )
        return None

    @staticmethod
    def get(policy: str, dag_run_id: str) -> Release:
        """The release of this DAG run. Raises Misconfigured when it never began."""
        found = Release.find(policy, dag_run_id)
        if found is None:
            raise Misconfigured(f"no release of {policy} by the DAG run {dag_run_id!r} is recorded in MLflow")
        return found

    def put_json(self, path: str, document: Any) -> None:
        """Write a JSON artifact at `path` of the run, replacing what was there."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / Path(path).name
            local.write_text(json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n")
            self.put_file(local, str(Path(path).parent))

    def get_json(self, path: str) -> Any | None:
        """Read a JSON artifact of the run, or None when there is none."""
        return _read_json(client(), self.run_id, path) if self.has(path) else None

    def has(self, path: str) -> bool:
        """Whether the run has an artifact (file) at `path`."""
        parent = str(Path(path).parent)
        items = client().list_artifacts(self.run_id, None if parent == "." else parent)
        return any(item.path == path for item in items)

    def put_file(self, local: Path, folder: str = ".") -> None:
        """Upload one file into `folder` of the run's artifacts."""
        client().log_artifact(self.run_id, str(local), None if folder == "." else folder)

    def put_directory(self, local: Path, folder: str) -> None:
        """Upload the files of a directory into `folder` of the run's artifacts."""
        client().log_artifacts(self.run_id, str(local), folder)

    def fetch(self, path: str, into: Path) -> Path:
        """Download an artifact (file or folder) below `into` and return its local path."""
        return Path(client().download_artifacts(self.run_id, path, str(into)))

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Log metrics of the run, in one call."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        client().log_batch(
            self.run_id, metrics=[Metric(key, float(value), now, step) for key, value in metrics.items()]
        )

    def tag(self, **tags: str) -> None:
        """Set tags of the run, each under `airlock.`."""
        mlflow = client()
        for key, value in tags.items():
            mlflow.set_tag(self.run_id, f"airlock.{key}", value)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary directory for one stage's files, gone afterwards."""
        with tempfile.TemporaryDirectory(prefix=f"airlock-{self.policy}-") as directory:
            yield Path(directory)


def _read_json(mlflow: MlflowClient, run_id: str, path: str) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        return json.loads(Path(mlflow.download_artifacts(run_id, path, scratch)).read_text())
