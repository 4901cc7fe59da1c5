"""Real processes to test and measure: the gateway under `bentoml serve`, and an MLflow server written to over REST."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from bentos.client import GatewayClient
from bentos.http_client import trusted
from tasks.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[1]
ADMIN_TOKEN = "a-test-token"
EPISODE_KEY = "a-test-key"
PATIENCE_SECONDS = 60.0
START_SECONDS = 180.0
QUIET_MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Environment of an MLflow server that runs no jobs of its own."""


def wait_until(condition: Any, what: str, seconds: float = PATIENCE_SECONDS, pause: float = 0.05) -> Any:
    """The first true value of `condition()`, looked at every `pause` seconds; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(pause)
    raise AssertionError(f"not within {seconds} s: {what}")


class GatewayProcess:
    """`bentoml serve bentos.service:Gateway` (or another `service`) with a home of its own."""

    def __init__(self, home: Path, service: str = "bentos.service:Gateway", **environment: str) -> None:
        self.home = home
        self._service = service
        self.log = home / "gateway.log"
        self._environment = environment
        self.start()

    def start(self) -> None:
        """Start it (again) on a free port and wait until it is ready."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            **os.environ,
            "AIRLOCK_HOME": str(self.home),
            "BENTOML_HOME": str(self.home / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            "AIRLOCK_ADMIN_TOKEN": ADMIN_TOKEN,
            "AIRLOCK_EPISODE_KEY": EPISODE_KEY,
            "AIRLOCK_POLL_SECONDS": "0.2",
            **self._environment,
        }
        command = [sys.executable, "-m", "bentoml", "serve", self._service]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=REPOSITORY,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.client = GatewayClient(self.url, ADMIN_TOKEN)
        try:
            wait_until(self._ready, f"the gateway is ready; its log is {self.log}", START_SECONDS)
        except BaseException:
            self.kill()
            raise

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"the gateway ended:\n{self.log.read_text()[-4000:]}"
        return self.client.ready()

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if _is_worker(child)]

    def everywhere(self, policy: str, condition: Callable[[dict[str, Any]], bool]) -> bool:
        """Whether there are as many workers as asked for, all have started, and the route that each logged last of the
        policy is as expected."""
        started: set[int] = set()
        routes: dict[int, dict[str, Any]] = {}
        for line in self.log.read_text().splitlines():
            if not (line.startswith("{") and line.endswith("}")):
                continue
            entry = json.loads(line)
            if entry["event"] == "gateway started":
                started.add(entry["pid"])
            elif entry["event"] == "route changed" and entry["policy"] == policy:
                routes[entry["pid"]] = entry
        alive = {worker.pid for worker in self.workers()}
        asked = int(self._environment.get("AIRLOCK_WORKERS", "1"))
        return len(alive) == asked and alive <= started & routes.keys() and all(condition(routes[pid]) for pid in alive)

    def stop(self) -> None:
        """End it as an operator would."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL the server and its workers."""
        if self.process.poll() is not None:
            return
        keeper = psutil.Process(self.process.pid)
        keeper.suspend()  # it must not replace a worker now
        family = [keeper, *keeper.children(recursive=True)]
        for member in family:
            if member.is_running():
                member.kill()
        psutil.wait_procs(family, timeout=10)
        self.process.wait(10)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "_bentoml_impl.worker.service" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended meanwhile; a zombie counts, too
        return False


class MlflowProcess:
    """An MLflow server, and the few writes that a control plane makes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=self.url, timeout=30, verify=trusted(self.url))
        self._run, self._artifacts = "", ""
        home.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start it (again) on its port and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.home}/mlflow.db"]
        command += ["--artifacts-destination", str(self.home / "artifacts")]
        environment = {**os.environ, **QUIET_MLFLOW}
        with (self.home / "mlflow.log").open("ab") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(self._healthy, "MLflow answers", START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _healthy(self) -> bool:
        try:
            return self._http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """Kill it with all its children."""
        if self.process is None:
            return
        parent = psutil.Process(self.process.pid)
        family = [parent, *parent.children(recursive=True)]
        for member in family:
            if member.is_running():
                member.kill()
        psutil.wait_procs(family, timeout=10)
        self.process.wait(10)
        self.process = None

    def post(self, path: str, body: dict[str, Any], method: str = "POST") -> dict[str, Any]:
        """One REST call."""
        response = self._http.request(method, f"/api/2.0/mlflow/{path}", json=body)
        response.raise_for_status()
        document: dict[str, Any] = response.json()
        return document

    def publish(self, policy: str, package: Path, digest: str, status: str = "approved") -> str:
        """Upload a package and register it as the next version of the policy; the version."""
        if not self._run:
            experiment = self.post("experiments/create", {"name": "airlock"})["experiment_id"]
            run = self.post("runs/create", {"experiment_id": experiment})["run"]["info"]
            self._run, self._artifacts = run["run_id"], run["artifact_uri"]
        uri = f"{self._artifacts}/{policy}/{digest}"
        for file in package.iterdir():
            path = f"{uri.removeprefix('mlflow-artifacts:/')}/{file.name}"
            self._http.put(f"/api/2.0/mlflow-artifacts/artifacts/{path}", content=file.read_bytes()).raise_for_status()
        if self._http.get("/api/2.0/mlflow/registered-models/get", params={"name": policy}).status_code == 404:
            tags = [{"key": "airlock", "value": "policy"}]
            self.post("registered-models/create", {"name": policy, "tags": tags})
        tags = [
            {"key": key, "value": value}
            for key, value in (("package_uri", uri), ("package_sha256", digest), ("validation_status", status))
        ]
        created = self.post("model-versions/create", {"name": policy, "source": uri, "run_id": self._run, "tags": tags})
        return str(created["model_version"]["version"])

    def alias(self, policy: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        self.post("registered-models/alias", {"name": policy, "alias": alias, "version": version})

    def tag(self, policy: str, key: str, value: str) -> None:
        """Set a tag of the registered model."""
        self.post("registered-models/set-tag", {"name": policy, "key": key, "value": value})

    def untag(self, policy: str, key: str) -> None:
        """Delete a tag of the registered model."""
        self.post("registered-models/delete-tag", {"name": policy, "key": key}, method="DELETE")

    def tag_version(self, policy: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version."""
        self.post("model-versions/set-tag", {"name": policy, "version": version, "key": key, "value": value})
