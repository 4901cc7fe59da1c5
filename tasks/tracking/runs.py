"""Runs of MLflow over REST: their tags, metrics and artifacts, which the server itself must store and serve."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from tasks.errors import Misconfigured
from tasks.tracking.client import Connection, RegistryRefused

_SCHEME = "mlflow-artifacts:"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"

MetricRow = tuple[str, float, int, int]
"""Key, value, Unix milliseconds, step."""


@dataclass(frozen=True)
class TrackedRun:
    """A run: where its artifacts lie on the server, its tags, and when it began (Unix seconds)."""

    run_id: str
    artifact_uri: str
    tags: dict[str, str]
    started: float

    @property
    def root(self) -> str:
        """The folder of its artifacts below the server's artifact route. Raises Misconfigured where there is none."""
        if not self.artifact_uri.startswith(_SCHEME):
            raise Misconfigured(
                f"the artifacts of run {self.run_id} lie at {self.artifact_uri}, not on the MLflow server: "
                "start `mlflow server` with --serve-artifacts and --artifacts-destination"
            )
        return self.artifact_uri.removeprefix(_SCHEME).lstrip("/")


class Tracking(Connection):
    """The runs of one MLflow server. Every method raises RegistryUnavailable and RegistryRefused."""

    def experiment(self, name: str) -> str | None:
        """The id of the experiment of this name, or None."""
        answer = self.ask("GET", "experiments/get-by-name", {"experiment_name": name}, missing_ok=True)
        return str(answer["experiment"]["experiment_id"]) if answer else None

    def ensure_experiment(self, name: str) -> str:
        """The id of the experiment of this name, created if there is none."""
        found = self.experiment(name)
        if found is not None:
            return found
        try:
            answer = self.ask("POST", "experiments/create", {"name": name})
        except RegistryRefused:
            found = self.experiment(name)  # another process was quicker
            if found is None:
                raise
            return found
        assert answer is not None
        return str(answer["experiment_id"])

    def begin(self, experiment_id: str, name: str, tags: dict[str, str]) -> TrackedRun:
        """A new run."""
        fields = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": _now(),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        answer = self.ask("POST", "runs/create", fields)
        assert answer is not None
        return _run(answer["run"])

    def search(self, experiment_id: str, condition: str) -> list[TrackedRun]:
        """Runs of an experiment that fulfil a filter, oldest first, at most 100."""
        return self._search(experiment_id, condition, "ASC", 100)

    def latest(self, experiment_id: str, condition: str, count: int) -> list[TrackedRun]:
        """The last `count` runs of an experiment that fulfil a filter, newest first."""
        return self._search(experiment_id, condition, "DESC", count)

    def _search(
        self, experiment_id: str, condition: str, order: Literal["ASC", "DESC"], count: int
    ) -> list[TrackedRun]:
        fields = {
            "experiment_ids": [experiment_id],
            "filter": condition,
            "order_by": [f"attributes.start_time {order}"],
            "max_results": count,
        }
        answer = self.ask("POST", "runs/search", fields) or {}
        return [_run(item) for item in answer.get("runs", [])]

    def get(self, run_id: str) -> TrackedRun:
        """A run. Raises RegistryRefused where there is none."""
        answer = self.ask("GET", "runs/get", {"run_id": run_id})
        assert answer is not None
        return _run(answer["run"])

    def tag(self, run_id: str, tags: dict[str, str]) -> None:
        """Set tags of a run."""
        fields = {"run_id": run_id, "tags": [{"key": key, "value": value} for key, value in tags.items()]}
        self.ask("POST", "runs/log-batch", fields)

    def log(self, run_id: str, metrics: list[MetricRow], model_id: str | None = None) -> None:
        """Log metrics of a run, at most 1,000 in one call; with `model_id`, of that logged model, too."""
        linked = {"model_id": model_id} if model_id else {}
        for start in range(0, len(metrics), 1000):
            rows = [
                {"key": key, "value": value, "timestamp": timestamp, "step": step, **linked}
                for key, value, timestamp, step in metrics[start : start + 1000]
            ]
            self.ask("POST", "runs/log-batch", {"run_id": run_id, "metrics": rows})

    def end(self, run_id: str, status: Literal["FINISHED", "FAILED"]) -> None:
        """Close a run."""
        self.ask("POST", "runs/update", {"run_id": run_id, "status": status, "end_time": _now()})

    def files(self, root: str, folder: str = "") -> list[tuple[str, bool]]:
        """What lies in a folder of a run's artifacts: (path from the root, whether it is a folder)."""
        answer = self.send("GET", _ARTIFACTS, {"path": f"{root}/{folder}".rstrip("/")})
        if answer.status_code == 404:
            return []
        self._accept(answer, folder)
        base = PurePosixPath(folder)
        return [
            (str(base / PurePosixPath(item["path"]).name), bool(item.get("is_dir")))
            for item in answer.json().get("files", [])
        ]

    def read(self, root: str, path: str) -> bytes | None:
        """The bytes of an artifact, or None when there is none."""
        folder = path.rpartition("/")[0]
        address = f"{_ARTIFACTS}/{quote(f'{root}/{path}')}"
        answer = self.file(address, None, lambda: [name for name, _ in self.files(root, folder)], path)
        if answer is None or answer.status_code == 404:
            return None
        self._accept(answer, path)
        return answer.content

    def write(self, root: str, path: str, content: bytes) -> None:
        """Store an artifact, replacing what was there."""
        self._accept(self.send("PUT", f"{_ARTIFACTS}/{quote(f'{root}/{path}')}", content=content), path)

    def fetch(self, root: str, path: str, into: Path) -> Path:
        """Download an artifact, file or folder, below `into`. Raises RegistryRefused when there is neither."""
        target = into / path
        content = self.read(root, path) if PurePosixPath(path).suffix else None
        if content is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            return target
        found = self.files(root, path)
        if not found:
            raise RegistryRefused(f"MLflow at {self.url} has no artifact {path} under {root}")
        target.mkdir(parents=True, exist_ok=True)
        for name, is_folder in found:
            if is_folder:
                self.fetch(root, name, into)
            else:
                (into / name).write_bytes(self.read(root, name) or b"")
        return target

    def _accept(self, answer: Any, path: str) -> None:
        if answer.status_code >= 300:
            raise RegistryRefused(
                f"MLflow at {self.url} refused the artifact {path}: {answer.status_code} {answer.text[:200]}"
            )


def _now() -> int:
    return int(time.time() * 1000)


def _run(document: dict[str, Any]) -> TrackedRun:
    info, data = document["info"], document.get("data", {})
    tags = {item["key"]: item["value"] for item in data.get("tags", [])}
    return TrackedRun(str(info["run_id"]), str(info["artifact_uri"]), tags, int(info["start_time"]) / 1000)
