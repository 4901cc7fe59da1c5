"""A release's MLflow run: where every stage keeps its artifacts and evidence, found again by the DAG run's id."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bentos import settings
from tasks.errors import Misconfigured
from tasks.spec.files import load
from tasks.spec.params import Params, effective
from tasks.spec.sections import PolicySpec
from tasks.tracking.runs import MetricRow, TrackedRun, Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG_DAG_RUN = "airlock.dag_run_id"
TAG_POLICY = "airlock.policy"
TAG_STAGE = "airlock.stage"
TAG_VERSION = "airlock.version"
TAG_MODEL = "airlock.model_id"
SPEC = "spec.json"
PARAMS = "params.json"


def client() -> MlflowClient:
    """MLflow's own client of the configured server, for what needs its model flavours."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.mlflow_url(), registry_uri=settings.mlflow_url())


def recorded(policy: str, tag: str, dag_run_id: str, *names: str) -> tuple[str, TrackedRun, tuple[bytes, ...]] | None:
    """The experiment, the run that bears `tag` for a DAG run, and its documents of those names, all of which it has."""
    with Tracking() as tracking:
        experiment_id = tracking.experiment(policy)
        if experiment_id is None:
            return None
        for run in tracking.search(experiment_id, f"tags.`{tag}` = '{dag_run_id}'"):
            kept = tuple(found for name in names if (found := tracking.read(run.root, name)) is not None)
            if len(kept) == len(names):
                return experiment_id, run, kept
    return None


@dataclass(frozen=True)
class Release:
    """One release of one policy: the DAG run that drives it and the MLflow run that records it.

    `root` is where the run's artifacts lie on the MLflow server.
    """

    policy: str
    dag_run_id: str
    run_id: str
    experiment_id: str
    spec: PolicySpec
    params: Params
    root: str = ""

    @staticmethod
    def open(policy: str, dag_run_id: str, params: Params) -> Release:
        """Find the release of this DAG run, or begin it. The spec is frozen into the run at its beginning.

        Raises SpecError when the spec or the parameters do not validate.
        """
        found = Release.find(policy, dag_run_id)
        if found:
            return found
        spec = effective(load(policy), params)
        with Tracking() as tracking:
            experiment_id = tracking.ensure_experiment(policy)
            tags = {TAG_DAG_RUN: dag_run_id, TAG_POLICY: policy, TAG_STAGE: "opened"}
            run = tracking.begin(experiment_id, dag_run_id, tags)
        release = Release(policy, dag_run_id, run.run_id, experiment_id, spec, params, run.root)
        release.put_json(PARAMS, params.model_dump(mode="json"))
        release.put_json(SPEC, spec.model_dump(mode="json"))
        return release

    @staticmethod
    def find(policy: str, dag_run_id: str) -> Release | None:
        """The release of this DAG run, or None when it never began (or was killed while beginning)."""
        found = recorded(policy, TAG_DAG_RUN, dag_run_id, SPEC, PARAMS)
        if found is None:
            return None
        experiment_id, run, (spec, params) = found
        return Release(
            policy,
            dag_run_id,
            run.run_id,
            experiment_id,
            PolicySpec.model_validate_json(spec),
            Params.model_validate_json(params),
            run.root,
        )

    @staticmethod
    def get(policy: str, dag_run_id: str) -> Release:
        """The release of this DAG run. Raises Misconfigured when it never began."""
        found = Release.find(policy, dag_run_id)
        if found is None:
            raise Misconfigured(f"no release of {policy} by the DAG run {dag_run_id!r} is recorded in MLflow")
        return found

    def put_json(self, path: str, document: Any) -> None:
        """Write a JSON artifact at `path` of the run, replacing what was there."""
        content = json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"
        with Tracking() as tracking:
            tracking.write(self.root, path, content.encode())

    def get_json(self, path: str) -> Any | None:
        """Read a JSON artifact of the run, or None when there is none."""
        with Tracking() as tracking:
            content = tracking.read(self.root, path)
        return None if content is None else json.loads(content)

    def need_json(self, path: str) -> dict[str, Any]:
        """The document that an earlier stage kept at `path`. Raises Misconfigured where there is none."""
        document = self.get_json(path)
        if document is None:
            raise Misconfigured(f"the run {self.run_id} has no {path}: run the stage that writes it first")
        return dict(document)

    def has(self, path: str) -> bool:
        """Whether the run has an artifact (file) at `path`."""
        return path in self.files(str(Path(path).parent))

    def files(self, folder: str) -> list[str]:
        """The artifacts (files) in a folder of the run, by their paths."""
        with Tracking() as tracking:
            found = tracking.files(self.root, "" if folder == "." else folder)
        return [name for name, is_folder in found if not is_folder]

    def put_file(self, local: Path, folder: str = ".") -> None:
        """Upload one file into `folder` of the run's artifacts."""
        with Tracking() as tracking:
            tracking.write(self.root, (Path(folder) / local.name).as_posix(), local.read_bytes())

    def put_directory(self, local: Path, folder: str) -> None:
        """Upload the files of a directory into `folder` of the run's artifacts."""
        with Tracking() as tracking:
            for path in sorted(p for p in local.rglob("*") if p.is_file()):
                target = (Path(folder) / path.relative_to(local)).as_posix()
                tracking.write(self.root, target, path.read_bytes())

    def fetch(self, path: str, into: Path) -> Path:
        """Download an artifact (file or folder) below `into` and return its local path."""
        with Tracking() as tracking:
            return tracking.fetch(self.root, path, into)

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Log metrics of the run, in one call."""
        now = int(time.time() * 1000)
        self.log_rows([(key, float(value), now, step) for key, value in metrics.items()])

    def log_model_metrics(self, metrics: dict[str, float]) -> None:
        """Log metrics of the run and of the logged model that it registered, in one call."""
        now = int(time.time() * 1000)
        rows: list[MetricRow] = [(key, float(value), now, 0) for key, value in metrics.items()]
        with Tracking() as tracking:
            tracking.log(self.run_id, rows, tracking.get(self.run_id).tags.get(TAG_MODEL))

    def log_rows(self, rows: list[MetricRow]) -> None:
        """Log metrics with their own times and steps."""
        with Tracking() as tracking:
            tracking.log(self.run_id, rows)

    def tag(self, **tags: str) -> None:
        """Set tags of the run, each under `airlock.`."""
        with Tracking() as tracking:
            tracking.tag(self.run_id, {f"airlock.{key}": value for key, value in tags.items()})

    def tracked(self) -> TrackedRun:
        """The run as MLflow has it now: its tags and when it began."""
        with Tracking() as tracking:
            return tracking.get(self.run_id)

    def end(self, status: Literal["FINISHED", "FAILED"]) -> None:
        """Close the run."""
        with Tracking() as tracking:
            tracking.end(self.run_id, status)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary directory for one stage's files, gone afterwards."""
        with tempfile.TemporaryDirectory(prefix=f"airlock-{self.policy}-") as directory:
            yield Path(directory)


def version_of(release: Release) -> str | None:
    """The model version this release registered, or None when it has not come that far."""
    return release.tracked().tags.get(TAG_VERSION)
