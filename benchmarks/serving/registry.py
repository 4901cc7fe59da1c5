"""An MLflow server of the benchmark's own, with policies registered as a release registers them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import QUIET_MLFLOW
from benchmarks.serving.server import Launch, Server
from tasks.ports import free_port

START_SECONDS = 240.0
"""It makes its tables first: on a busy machine that takes minutes."""


class Registry:
    """A context manager: the server runs while it is entered."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._http = httpx.Client(base_url=self.url, timeout=30)

    def __enter__(self) -> Registry:
        self._directory.mkdir()
        store = f"sqlite:///{self._directory / 'mlflow.db'}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", store]
        command += ["--artifacts-destination", str(self._directory / "artifacts")]
        self._server = Server(Launch(command, QUIET_MLFLOW), self._directory / "mlflow.log")
        self._server.wait(self._healthy, START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._server.stop()

    def champion(self, policy: str, package: Path, digest: str) -> None:
        """Upload a package, register it as the policy's version, and make that its champion."""
        created = self._post("experiments/create", {"name": policy})["experiment_id"]
        run = self._post("runs/create", {"experiment_id": created})["run"]["info"]
        uri = f"{run['artifact_uri']}/package"
        path = uri.removeprefix("mlflow-artifacts:/")
        for file in package.iterdir():
            place = f"/api/2.0/mlflow-artifacts/artifacts/{path}/{file.name}"
            self._http.put(place, content=file.read_bytes()).raise_for_status()
        self._post("registered-models/create", {"name": policy, "tags": [{"key": "airlock", "value": "policy"}]})
        tags = {"package_uri": uri, "package_sha256": digest, "validation_status": "promoted"}
        version = {
            "name": policy,
            "source": uri,
            "run_id": run["run_id"],
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        number = self._post("model-versions/create", version)["model_version"]["version"]
        self._post("registered-models/alias", {"name": policy, "alias": "champion", "version": str(number)})

    def _healthy(self) -> bool:
        try:
            return self._http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(f"/api/2.0/mlflow/{path}", json=body)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document
