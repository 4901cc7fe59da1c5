"""How a service of docker-compose.yml becomes a process of this machine: its names, paths and programs, by one table.

Every container gets a loopback address of its own (127.x.y.n), so that ports stay as they are. `localhost` and 0.0.0.0
become that address, `name:port` becomes the address of `name`, and paths of the container a directory below its own.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import yaml

from tests.cluster.compose import REPOSITORY, Composition, Service

DAGS = "/opt/airlock/lib/python3.11/site-packages/dags"
PROGRAMS = {"/bin/prometheus": "prometheus", "/bin/alertmanager": "prometheus-alertmanager"}
"""Programs that Debian's packages name otherwise than the images."""

NOT_RUN = {"grafana": "Debian has no Grafana; its dashboards' queries are tested on Prometheus (tests/servers)"}
"""Services that are not started here, with the reason."""


@dataclass(frozen=True)
class StandIn:
    """Another program in the place of a service's own, with the reason."""

    command: tuple[str, ...]
    health: tuple[str, ...]
    reason: str


STAND_INS = {
    "s3": StandIn(
        command=(
            "sh",
            "-c",
            'NANIO_ACCESS_KEY="$(cat /run/secrets/s3_access_key)" NANIO_SECRET_KEY="$(cat /run/secrets/s3_secret_key)" '
            "exec nanio serve --data-dir /data --host 0.0.0.0 --port 7070 --no-access-log",
        ),
        health=("curl", "--silent", "--output", "/dev/null", "http://localhost:7070/"),
        reason="VersityGW is in no package registry; nanio speaks the same protocol and keeps its objects on disk, too",
    )
}
"""Services whose program is another one here."""


class Places:
    """Where the containers of a composition are on this machine: addresses and directories."""

    def __init__(self, composition: Composition, directory: Path) -> None:
        self.composition = composition
        self.directory = directory
        chance = SystemRandom()
        network = f"127.{chance.randrange(64, 255)}.{chance.randrange(0, 255)}"
        handles = [handle for service in composition.services.values() for handle in service.handles]
        self._addresses = {handle: f"{network}.{number}" for number, handle in enumerate(handles, 1)}

    def address(self, handle: str) -> str:
        """The container's address."""
        return self._addresses[handle]

    def root(self, handle: str) -> Path:
        """What stands for the container's `/`."""
        return self.directory / handle / "root"

    def state(self, handle: str) -> Path:
        """The container's working directory."""
        return self.root(handle) / "var/lib/airlock"

    def volume(self, name: str) -> Path:
        """A named volume's directory."""
        return self.directory / "volumes" / name

    def names(self, text: str, own: str) -> str:
        """The text with every service's name replaced by its address where a port follows, and no user's password."""
        for service in self.composition.services.values():
            if service.replicas is None:
                text = re.sub(rf"(?<![\w.-]){service.name}(?=:\d+(?![\w@-]))", self.address(service.name), text)
        return re.sub(r"(?<![\w.-])(localhost|0\.0\.0\.0)(?![\w-])", self.address(own), text)

    def render(self, text: str, service: Service, handle: str) -> str:
        """An argument or a variable of the container, as it is here."""
        text = self.names(text, handle).replace("%h", handle)
        paths = {DAGS: REPOSITORY / "dags", "/run/secrets": self.root(handle) / "run/secrets"}
        paths["/var/lib/airlock"] = self.state(handle)
        for mount in service.mounts:
            paths[mount.target] = self.volume(mount.source) if mount.is_volume else self.root(handle) / mount.target[1:]
        for path in sorted(paths, key=len, reverse=True):
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", str(paths[path]), text)
        return text

    def command(self, service: Service, handle: str) -> list[str]:
        """What is started."""
        stand_in = STAND_INS.get(service.name)
        command = stand_in.command if stand_in else service.command
        return [PROGRAMS.get(part, self.render(part, service, handle)) for part in command]

    def health(self, service: Service, handle: str) -> list[str]:
        """What says, by ending with 0, that the container is healthy; nothing where the file has no check."""
        stand_in = STAND_INS.get(service.name)
        return [self.render(part, service, handle) for part in (stand_in.health if stand_in else service.health)]

    def environment(self, service: Service, handle: str) -> dict[str, str]:
        """All variables of the container: the file's, and what an image would bring."""
        kept = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_") or name == "LANG"}
        binaries = Path(sys.executable).parent
        return {
            **kept,
            "PATH": f"{binaries}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": str(self.root(handle) / "tmp"),
            "HOSTNAME": handle,
            **{name: self.render(value, service, handle) for name, value in service.environment.items()},
        }

    def prepare(self, service: Service, handle: str, secrets: Path) -> None:
        """Make the container's directories, with its own secrets and configuration files and no others."""
        root = self.root(handle)
        for place in (root / "run/secrets", root / "tmp", self.state(handle)):
            place.mkdir(parents=True, exist_ok=True)
        for name in service.secrets:
            (root / "run/secrets" / name).write_text(self.names((secrets / name).read_text(), handle))
        for mount in service.mounts:
            if mount.is_volume:
                self.volume(mount.source).mkdir(parents=True, exist_ok=True)
                continue
            source, target = REPOSITORY / mount.source, root / mount.target[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_file():
                target.write_text(self._file(source, handle))
                shutil.copymode(source, target)

    def _file(self, source: Path, own: str) -> str:
        """A configuration file as it is here. Where a name stands for all replicas, their addresses are listed."""
        text = source.read_text()
        if source.name == "haproxy.cfg":
            text = re.sub(r"server-template (\S+?)-? \d+ (\S+):(\d+) resolvers.*", self._servers, text)
        if source.name == "prometheus.yml":
            document = yaml.safe_load(text)
            for job in document["scrape_configs"]:
                found = [name for lookup in job.pop("dns_sd_configs", []) for name in self._targets(lookup)]
                job["static_configs"] = [{"targets": found}]
            text = yaml.safe_dump(document)
        return self.names(text, own)

    def _servers(self, found: re.Match[str]) -> str:
        handles = self.composition.services[found[2]].handles
        return "\n    ".join(f"server {handle} {self.address(handle)}:{found[3]}" for handle in handles)

    def _targets(self, lookup: Mapping[str, str | int | Sequence[str]]) -> list[str]:
        names = lookup["names"]
        assert isinstance(names, list)
        handles = [handle for name in names for handle in self.composition.services[name].handles]
        return [f"{self.address(handle)}:{lookup['port']}" for handle in handles]
