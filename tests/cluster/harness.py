"""The services of docker-compose.yml as processes of this machine: started in order, watched, killed, restarted.

    with Cluster(directory) as cluster:
        cluster.kill("gateway-1")
        cluster.start("gateway-1")
        cluster.wait_healthy("gateway-1")

A service that ends by itself is started again where the file says so, as an engine would; one that was killed by
`kill` stays dead until `start`. Services with replicas have a number: `gateway-1`, `worker-train-1`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tasks.stack import processes
from tests.cluster import postgres
from tests.cluster.compose import REPOSITORY, Composition, Service, load
from tests.cluster.native import NOT_RUN, STAND_INS, Places
from tests.servers.postgres import unprivileged

START_SECONDS = 1200.0
CHECK_SECONDS = 90.0
DEFAULTS = {"AIRLOCK_SCHEDULES": "False", "AIRLOCK_MLFLOW_WORKERS": "1"}
"""Variables that tests want otherwise than users: nothing starts by the clock, and one worker is enough."""


class Container:
    """One container: a process with its descendants, in directories of its own."""

    def __init__(self, name: str, service: Service, places: Places) -> None:
        self.name, self.service, self.places = name, service, places
        self.address = places.address(name)
        self.log = places.directory / name / "log"
        self.environment = places.environment(service, name)
        self.command = places.command(service, name)
        self.health = places.health(service, name)
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        self.starts = 0

    @property
    def data(self) -> Path:
        """The directory of its first named volume."""
        return self.places.volume(next(mount.source for mount in self.service.mounts if mount.is_volume))

    def spawn(self) -> None:
        """Start the process."""
        command, options = self.command, {}
        if self.service.name == "postgres":
            command, options = postgres.command(command, self.data, self.address), unprivileged()
        # setproctitle would otherwise write over the environment that the mark stands in
        marked = {processes.MARK: processes.mark(self.places.directory, self.name), "SPT_NOENV": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd="/" if options else self.places.state(self.name),
                env={**self.environment, **marked},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )
        self.wanted = True
        self.starts += 1

    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def ended_well(self) -> bool:
        """Whether it has done its work."""
        return self.process is not None and self.process.poll() == 0

    def kill(self) -> None:
        """End it with all its processes, as when its machine goes down. PostgreSQL: its immediate shutdown."""
        self.wanted = False
        if self.service.name == "postgres" and self.process is not None and self.running():
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        left = processes.marked(self.places.directory, self.name)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=20)
        if self.process is not None:
            self.process.wait(20)

    def healthy(self) -> bool:
        """Whether its health check says so now; for a service that ends, whether it ended well."""
        if self.service.ends:
            return self.ended_well()
        if not self.running():
            return False
        try:
            done = subprocess.run(
                self.health, env=self.environment, capture_output=True, timeout=CHECK_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


class Cluster:
    """All services of docker-compose.yml that can run here, below `directory`; `variables` are those of `.env`."""

    def __init__(self, directory: Path, **variables: str) -> None:
        self.directory = directory.resolve()
        self.composition: Composition = load({**DEFAULTS, **variables})
        self.places = Places(self.composition, self.directory)
        if "AIRLOCK_AIRFLOW_BASE_URL" not in variables:
            own = {**DEFAULTS, **variables, "AIRLOCK_AIRFLOW_BASE_URL": "http://api-server:8080"}
            self.composition = self.places.composition = load(own)
        self.services = {
            handle: Container(handle, service, self.places)
            for service in self.composition.services.values()
            if service.name not in NOT_RUN
            for handle in service.handles
        }
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._keep, name="restarts", daemon=True)

    def __enter__(self) -> Cluster:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    def up(self) -> None:
        """Start all services, each when those it needs are healthy (or have ended well); return when all are."""
        self._secrets()
        for container in self.services.values():
            self.places.prepare(container.service, container.name, self.directory / "secrets")
        database = self.services["postgres"]
        scripts = self.places.root("postgres") / "docker-entrypoint-initdb.d"
        password = (self.directory / "secrets/postgres_password").read_text()
        reached = {**database.environment}
        _share(scripts.parent, self.places.root("postgres"))
        postgres.initialise(database.data, database.address, password, scripts, reached)
        self._watch.start()
        deadline = time.monotonic() + START_SECONDS
        healthy: set[str] = set()
        while len(healthy) < len(self.services):
            for name, container in self.services.items():
                if name in healthy:
                    continue
                if not container.starts:
                    if all(handle in healthy for other in container.service.needs for handle in self._handles(other)):
                        self.start(name)
                elif container.healthy():
                    healthy.add(name)
                assert container.starts < 5, f"{name} does not stay up:\n{container.tail()}"
            assert time.monotonic() < deadline, self._late(healthy)
            time.sleep(0.25)

    def _handles(self, service: str) -> tuple[str, ...]:
        return self.composition.services[service].handles

    def _late(self, healthy: set[str]) -> str:
        late = [container for name, container in self.services.items() if name not in healthy]
        return "\n\n".join(f"{container.name} is not healthy:\n{container.tail()}" for container in late)

    def _secrets(self) -> None:
        generate = REPOSITORY / "deploy/secrets/generate"
        subprocess.run(["sh", str(generate), str(self.directory / "secrets")], check=True)

    def _keep(self) -> None:
        """Start again what ended by itself, as its restart policy says, after a pause that grows."""
        while not self._over.wait(1.0):
            for container in self.services.values():
                with self._lock:
                    gone = container.wanted and not container.running()
                    if gone and not (container.service.ends and container.ended_well()):
                        if self._over.wait(min(5.0, 0.5 * container.starts)):
                            return
                        container.spawn()

    def start(self, name: str) -> None:
        """Start a service that does not run; returns at once."""
        with self._lock:
            if not self.services[name].running():
                self.services[name].spawn()

    def kill(self, name: str) -> None:
        """SIGKILL for the whole container; it stays dead until it is started."""
        with self._lock:
            self.services[name].kill()

    def healthy(self, name: str) -> bool:
        """Whether the service's health check passes now."""
        return self.services[name].healthy()

    def wait_healthy(self, name: str, seconds: float = START_SECONDS) -> None:
        """Return when the service's health check passes."""
        deadline = time.monotonic() + seconds
        while not self.services[name].healthy():
            assert time.monotonic() < deadline, f"{name} is not healthy:\n{self.services[name].tail()}"
            time.sleep(0.25)

    def environment(self, name: str) -> dict[str, str]:
        """The service's variables as they are here."""
        return dict(self.services[name].environment)

    def url(self, name: str) -> str:
        """Where the service answers."""
        container = self.services[name]
        return f"http://{container.address}:{container.service.ports[0]}"

    def logs(self, name: str) -> Path:
        """The service's log."""
        return self.services[name].log

    def secret(self, name: str) -> str:
        """A secret, with the addresses of this machine."""
        return self.places.names((self.directory / "secrets" / name).read_text(), "postgres")

    def client(self) -> dict[str, str]:
        """The variables of somebody who uses the cluster by `airlock` or by the code of tasks/."""
        return {
            "AIRLOCK_AIRFLOW_URL": self.url("api-server"),
            "AIRLOCK_AIRFLOW_USER": "admin",
            "AIRLOCK_AIRFLOW_PASSWORD": json.loads(self.secret("airflow_passwords"))["admin"],
            "AIRLOCK_GATEWAY_URL": self.url("loadbalancer"),
            "AIRLOCK_ADMIN_TOKEN": self.secret("admin_token"),
            "AIRLOCK_DATABASE_URL": self.secret("airlock_database_url"),
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "PROMETHEUS_URL": self.url("prometheus"),
        }

    def down(self) -> None:
        """End everything. What is on disk stays."""
        self._over.set()
        if self._watch.is_alive():
            self._watch.join(30)
        with self._lock:
            for container in reversed(self.services.values()):
                container.kill()
            processes.end(processes.marked(self.directory), patience=0)


def _share(*places: Path) -> None:
    """Let PostgreSQL's unprivileged user pass through the directories above its data."""
    for place in places:
        for above in (place, *place.parents):
            with contextlib.suppress(OSError):
                if not above.stat().st_mode & 0o001:
                    above.chmod(above.stat().st_mode | 0o011)


def covered() -> Mapping[str, Any]:
    """By service of docker-compose.yml, how it is covered: `native`, or the reason of a stand-in or of not running."""
    reasons = {name: stand_in.reason for name, stand_in in STAND_INS.items()}
    return {name: NOT_RUN.get(name) or reasons.get(name, "native") for name in load({}).services}
