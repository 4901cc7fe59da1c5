"""How many files have to be read to follow one thing through the code: `python -m benchmarks.walks`.

A walk lists the files of the rooms that have functions which run, each once, in the order in which they are entered:

- `act`: from the bytes of a request for one decision to the bytes of its answer.
- `outcome`: from the bytes of a reported outcome, through its commit, to the judge's verdict on what is stored.
- `canary_tag`: from a canary's tag in the registry, through its challenger's package and route, to its first decision.

The gateway, its protocol, its database (SQLite) and the judge are those that production has. MLflow is a double that
speaks its REST API. The gateway's loops are ended before anything is counted, and each walk has a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import itertools
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import uvicorn
from uvicorn.protocols.http import auto
from uvicorn.server import ServerState

import bentos
from bentos.canary import Canary
from bentos.server import factory
from bentos.tokens import CHALLENGER, CONTROL
from tasks.canary import lifecycle
from tests.bentos.policy_packages import constant_graph, write_package
from tests.tasks.analysis import plans

ROOT = Path(bentos.__file__).parents[1]
ROOMS = tuple(f"{ROOT / room}{os.sep}" for room in ("bentos", "tasks", "plugins", "dags"))
WARM_UP = 5
EPISODES = 500

POLICY, CHAMPION_VERSION, CHALLENGER_VERSION = "cartpole", "1", "2"
OBSERVATION = [0.0, 0.0, 0.1, 0.0]
CANARY = Canary(generation="2-walk", champion=CHAMPION_VERSION, version=CHALLENGER_VERSION, weight=0.5, salt="00" * 8)
PLAN = replace(
    plans.PLAN,
    version=CHALLENGER_VERSION,
    champion=CHAMPION_VERSION,
    generation=CANARY.generation,
    steps=(CANARY.weight,),
)
RETURNS = {CHALLENGER: 450.0, CONTROL: 250.0}

_entered: dict[str, None] | None = None
"""The files entered so far, while a walk is counted."""


def _note(frame: FrameType, event: str, _argument: Any) -> None:
    """The profile function. Bodies of modules and classes are no functions: their variables are not optimized."""
    code = frame.f_code
    if (
        event == "call"
        and _entered is not None
        and code.co_flags & inspect.CO_OPTIMIZED
        and code.co_filename.startswith(ROOMS)
    ):
        _entered.setdefault(str(Path(code.co_filename).relative_to(ROOT)))


@contextmanager
def counted() -> Iterator[list[str]]:
    """The files that are entered within the block, by this thread or one that was started since `run` began.

    The list is filled when the block ends.
    """
    global _entered
    walk: list[str] = []
    _entered = {}
    sys.setprofile(_note)
    try:
        yield walk
    finally:
        sys.setprofile(None)
        walk += _entered
        _entered = None


class Mlflow(ThreadingHTTPServer):
    """A double of MLflow with one policy, whose packages stand in `directory`.

    It has a champion; once `canary` is set, also the challenger, and the tag that says so.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _MlflowRequest)
        self.directory = directory
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.canary: Canary | None = None
        self._versions = {}
        for action, (version, status) in enumerate(((CHAMPION_VERSION, "promoted"), (CHALLENGER_VERSION, "approved"))):
            digest = write_package(directory / version, name=POLICY, graph=constant_graph(action))
            uri = f"mlflow-artifacts:/{version}"
            self._versions[version] = {"package_uri": uri, "package_sha256": digest, "validation_status": status}

    def answer(self, path: str, query: dict[str, list[str]]) -> bytes:
        """The body of the answer to a GET request."""
        artifact = path.partition("/mlflow-artifacts/artifacts/")[2]
        if artifact:
            return (self.directory / artifact).read_bytes()
        if path.endswith("model-versions/get"):
            return json.dumps({"model_version": self._version(query["version"][0])}).encode()
        canary = {} if self.canary is None else {"canary": json.dumps(self.canary.document())}
        model = {
            "name": POLICY,
            "tags": _pairs({"airlock": "policy", **canary}),
            "aliases": [{"alias": "champion", "version": CHAMPION_VERSION}],
            "latest_versions": [self._version(self.canary.version if self.canary else CHAMPION_VERSION)],
        }
        return json.dumps({"registered_models": [model], "registered_model": model}).encode()

    def _version(self, version: str) -> dict[str, Any]:
        return {"name": POLICY, "version": version, "tags": _pairs(self._versions[version])}


class _MlflowRequest(BaseHTTPRequestHandler):
    server: Mlflow

    def do_GET(self) -> None:
        """Answer with what the double says."""
        asked = urlsplit(self.path)
        body = self.server.answer(asked.path, parse_qs(asked.query))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _pairs(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


@contextmanager
def mlflow(directory: Path) -> Iterator[Mlflow]:
    """The double of MLflow, answering while the block runs."""
    with Mlflow(directory) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Connection(asyncio.Transport):
    """One connection to the gateway: its protocol is given bytes of requests, and writes those of responses here."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        protocol.connection_made(self)

    def is_closing(self) -> bool:
        """It never is."""
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """A whole response."""
        self._response.set_result(bytes(data))

    async def ask(self, request: bytes) -> bytes:
        """The bytes of the response to the bytes of a request."""
        self._response = asyncio.get_running_loop().create_future()
        self._protocol.data_received(request)
        return await self._response

    async def post(self, action: str, document: dict[str, Any]) -> dict[str, Any]:
        """The JSON that comes back for a JSON request."""
        return _read(await self.ask(_request(action, document)))


def _request(action: str, document: dict[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    return b"POST /v1/policies/%b/%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        POLICY.encode(),
        action.encode(),
        len(body),
        body,
    )


def _read(response: bytes) -> dict[str, Any]:
    head, _, body = response.partition(b"\r\n\r\n")
    if head.split()[1] not in (b"200", b"201"):
        raise RuntimeError(response.decode())
    document: dict[str, Any] = json.loads(body)
    return document


class Gateway:
    """The gateway that this process runs, as `bentos.server.factory` makes it; all that is known of its inside."""

    def __init__(self) -> None:
        self._app = factory.app(_behind, None)
        self._config = uvicorn.Config(self._app, http=auto.AutoHTTPProtocol, ws="none", lifespan="off", log_config=None)
        self._config.load()
        self._state = ServerState()

    def connect(self) -> Connection:
        """A new connection."""
        protocol: Any = self._config.http_protocol_class
        return Connection(protocol(config=self._config, server_state=self._state, app_state={}))

    async def start(self) -> None:
        """Start, end the loops, and wait until what the registry asks for is loaded."""
        await self._lifespan("startup")
        running = self._app.router.gateway
        if running is None or running._follower is None:
            raise RuntimeError("the gateway did not start")
        self._follower = running._follower
        for task in asyncio.all_tasks():
            if task.get_name().startswith("airlock-"):
                task.cancel()
        await self._settle()

    async def follow(self) -> None:
        """Look at the registry once, until what is asked for is loaded and routed."""
        await self._follower.poll()
        await self._settle()

    async def stop(self) -> None:
        """Stop."""
        await self._lifespan("shutdown")

    async def _lifespan(self, event: str) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": f"lifespan.{event}.complete"}

        async def send(_message: Any) -> None:
            pass

        await self._app({"type": "lifespan"}, receive, send)

    async def _settle(self) -> None:
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


async def _behind(_scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Stands behind the gateway in BentoML's place: is ready at once."""
    await send(await receive())


@asynccontextmanager
async def _started() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


async def act(gateway: Gateway, _registry: Mlflow) -> list[str]:
    """One plain request for one decision, as it was sent before."""
    connection, request = gateway.connect(), _request("act", {"observation": OBSERVATION})
    for _ in range(WARM_UP):
        await connection.ask(request)
    with counted() as walk:
        response = await connection.ask(request)
    _expect(_read(response)["version"], CHAMPION_VERSION)
    return walk


async def outcome(gateway: Gateway, registry: Mlflow) -> list[str]:
    """One outcome, and the look at the canary after it, as looked before."""
    registry.canary = CANARY
    await gateway.follow()
    connection = gateway.connect()
    users = [f"user-{number}" for number in range(EPISODES)]
    started = (await connection.post("episodes", {"user_ids": users}))["episodes"]
    outcomes = [{"episode_id": one["episode_id"], "return": RETURNS[one["arm"]], "length": 1} for one in started]
    await connection.post("outcomes", {"outcomes": outcomes[WARM_UP + 1 :]})
    for one in outcomes[1 : WARM_UP + 1]:
        await connection.post("outcomes", one)
        await _look()
    request = _request("outcomes", outcomes[0])
    with counted() as walk:
        response = await connection.ask(request)
        judgement = await _look()
    _expect(_read(response)["accepted"], 1)
    _expect(judgement["verdict"], "promote")
    return walk


async def _look() -> dict[str, Any]:
    """What the canary operator's trigger sees, in a thread as there."""
    return await asyncio.to_thread(lifecycle.look, PLAN.policy, PLAN.generation, PLAN.document())


async def canary_tag(gateway: Gateway, registry: Mlflow) -> list[str]:
    """A poll that finds a new version and its canary, and the first request of a user of the challenger."""
    user = next(user for user in map(str, itertools.count()) if CANARY.arm(user) == CHALLENGER)
    request = _request("act", {"observation": OBSERVATION, "user_id": user})
    registry.canary = CANARY
    with counted() as walk:
        await gateway.follow()
        response = await gateway.connect().ask(request)
    _expect(_read(response)["version"], CHALLENGER_VERSION)
    return walk


def _expect(came: Any, expected: Any) -> None:
    if came != expected:
        raise RuntimeError(f"the walk took another way: expected {expected!r}, came {came!r}")


WALKS = {"act": act, "outcome": outcome, "canary_tag": canary_tag}


def run(name: str) -> list[str]:
    """The files of a walk. Call it once a process: a process has one gateway."""
    logging.disable(logging.INFO)
    threading.setprofile(_note)

    async def walk(registry: Mlflow) -> list[str]:
        async with _started() as gateway:
            return await WALKS[name](gateway, registry)

    with tempfile.TemporaryDirectory() as directory, mlflow(Path(directory) / "packages") as registry:
        home = {"AIRLOCK_HOME": directory, "MLFLOW_TRACKING_URI": registry.url, "AIRLOCK_POLL_SECONDS": "0"}
        with patch.dict(os.environ, home):
            for variable in [name for name in os.environ if name.startswith("AIRLOCK_") and name not in home]:
                del os.environ[variable]
            return asyncio.run(walk(registry))


def main() -> None:
    """Print the walks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("walks", nargs="*", metavar="WALK", help=f"some of {', '.join(WALKS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON document: each walk's `count` and `files`")
    given = parser.parse_args()
    names = given.walks or list(WALKS)
    if unknown := set(names) - WALKS.keys():
        parser.error(f"there is no walk {', '.join(sorted(unknown))}")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        found = dict(zip(names, processes.map(run, names), strict=True))
    if given.json:
        document = {name: {"count": len(files), "files": files} for name, files in found.items()}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    for name, files in found.items():
        sys.stdout.write("\n".join([f"{name}: {len(files)} files", *(f"  {file}" for file in files), ""]) + "\n")


if __name__ == "__main__":
    main()
