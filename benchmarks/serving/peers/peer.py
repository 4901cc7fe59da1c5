"""A peer: one way to serve the policy, how it is started, and how it is asked."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import msgspec

from benchmarks.serving.policy import Policy
from benchmarks.serving.server import Launch
from bentos.http_client import trusted

Observations = list[list[float]]


@dataclass(frozen=True)
class Site:
    """What a peer is started with: the Python of its environment, a free port, the policy, and a directory of its own.

    `workers` is how many processes may answer.
    """

    python: str
    port: int
    policy: Policy
    directory: Path
    workers: int = 1

    @property
    def url(self) -> str:
        """Where it will answer."""
        return f"http://127.0.0.1:{self.port}"

    def app(self, name: str, *arguments: object) -> list[str]:
        """The command line of one of `benchmarks.serving.apps`."""
        return [self.python, "-m", f"benchmarks.serving.apps.{name}", *map(str, arguments)]


class Peer:
    """By default one that takes `{"observation": [...]}` and answers `{"action": n}`."""

    name: ClassVar[str]
    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """What is installed into an environment of its own; nothing: it runs in the project's."""

    environment: ClassVar[str] = ""
    """The name of that environment."""

    embeds_python: ClassVar[bool] = False
    """Whether it loads libpython, and with it the standard library of the interpreter that libpython belongs to."""

    path = "/act"
    many_path: str | None = None
    """Where many observations are asked at once, if they can be."""

    def launch(self, site: Site) -> Launch:
        """How it is started."""
        raise NotImplementedError

    def bodies(self, observations: Observations, url: str) -> list[bytes]:
        """A request's body for every observation; the server answers at `url` already."""
        return [msgspec.json.encode({"observation": observation}) for observation in observations]

    def many(self, observations: Observations, url: str) -> bytes:
        """The body of one request for all observations."""
        return msgspec.json.encode({"observations": observations})

    def actions(self, answer: Any) -> list[int]:
        """The actions of an answer's JSON document, of one observation or of many."""
        return list(answer["actions"]) if "actions" in answer else [int(answer["action"])]


class Script(Peer):
    """One that is a module of `benchmarks.serving.apps`, given the policy's graph; many are asked at `/acts`."""

    app: ClassVar[str]
    many_path = "/acts"

    def launch(self, site: Site) -> Launch:
        """One worker."""
        return Launch(site.app(self.app, self.served(site.policy), site.port))

    def served(self, policy: Policy) -> Path:
        """What is served of the policy."""
        return policy.graph


def post(url: str, body: bytes) -> Any:
    """The JSON document that a server answers. Raises httpx.HTTPError."""
    answer = httpx.post(url, content=body, headers=JSON, timeout=30, verify=trusted(url))
    answer.raise_for_status()
    return msgspec.json.decode(answer.content)


RUNTIME = ("onnxruntime==1.31.1", "numpy==2.4.6", "msgspec==0.22.0")
"""What every peer in an environment of its own runs the graph with: the project's own versions."""

JSON = {"Content-Type": "application/json"}
PROJECT_PYTHON = sys.executable
