"""docker-compose.yml, read as Compose reads it: merged, interpolated, its services as typed values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = REPOSITORY / "docker-compose.yml"
VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")


@dataclass(frozen=True)
class Mount:
    """What stands at `target` in the container: a named volume, or a file or folder of the repository."""

    source: str
    target: str

    @property
    def is_volume(self) -> bool:
        """Whether it is a named volume."""
        return not self.source.startswith((".", "/"))


@dataclass(frozen=True)
class Service:
    """One service; `command` has its entrypoint before it, `ports` are those it listens on."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    mounts: tuple[Mount, ...]
    ports: tuple[int, ...]
    published: tuple[str, ...]
    health: tuple[str, ...]
    needs: Mapping[str, str]
    restart: str
    replicas: int | None
    user: str
    document: Mapping[str, Any]

    @property
    def ends(self) -> bool:
        """Whether it does its work once and ends."""
        return self.restart == "on-failure"

    @property
    def handles(self) -> tuple[str, ...]:
        """A name for each container."""
        if self.replicas is None:
            return (self.name,)
        return tuple(f"{self.name}-{number}" for number in range(1, self.replicas + 1))


@dataclass(frozen=True)
class Composition:
    """The whole file. `secrets` are the files they come from, by name."""

    services: Mapping[str, Service]
    secrets: Mapping[str, str]
    volumes: tuple[str, ...]
    variables: frozenset[str]


def interpolate(node: Any, variables: Mapping[str, str], read: set[str]) -> Any:
    """`${NAME:-default}` and `$$` in every text below `node`; the names go to `read`. Raises KeyError for no value."""
    if isinstance(node, dict):
        return {key: interpolate(value, variables, read) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolate(value, variables, read) for value in node]
    if not isinstance(node, str):
        return node

    def value(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        read.add(found["name"])
        return variables.get(found["name"]) or found["default"] or ""

    return VARIABLE.sub(value, node)


def load(variables: Mapping[str, str] | None = None, file: Path = FILE) -> Composition:
    """The composition with these variables (by default those of the environment)."""
    read: set[str] = set()
    document = interpolate(yaml.safe_load(file.read_text()), os.environ if variables is None else variables, read)
    return Composition(
        services={name: _service(name, fields) for name, fields in document["services"].items()},
        secrets={name: fields["file"] for name, fields in document["secrets"].items()},
        volumes=tuple(document["volumes"]),
        variables=frozenset(read),
    )


def _service(name: str, fields: Mapping[str, Any]) -> Service:
    test = list(fields.get("healthcheck", {}).get("test", []))
    health = ["sh", "-c", test[1]] if test[:1] == ["CMD-SHELL"] else test[1:]
    published = tuple(fields.get("ports", []))
    ports = [*fields.get("expose", []), *(entry.rsplit(":", 1)[-1] for entry in published)]
    replicas = fields.get("deploy", {}).get("replicas")
    return Service(
        name=name,
        image=fields["image"],
        command=(*fields.get("entrypoint", []), *fields.get("command", [])),
        environment={key: str(value) for key, value in fields.get("environment", {}).items()},
        secrets=tuple(fields.get("secrets", [])),
        mounts=tuple(Mount(*entry.split(":")[:2]) for entry in fields.get("volumes", [])),
        ports=tuple(map(int, ports)),
        published=published,
        health=tuple(health),
        needs={other: how["condition"] for other, how in fields.get("depends_on", {}).items()},
        restart=fields["restart"],
        replicas=None if replicas is None else int(replicas),
        user=str(fields.get("user", "")),
        document=fields,
    )
