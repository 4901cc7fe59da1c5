"""The routes of the Open Inference Protocol under `/v2`, and who may ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any, NamedTuple
from urllib.parse import unquote

from bentos.errors import Problem
from bentos.gateway.engine import Core
from bentos.gateway.gateway import Gateway
from bentos.http.auth import Guard
from bentos.http.cache import Known
from bentos.http.messages import JSON, MAX_BODY, Request, Response, otherwise
from bentos.http.oip.compression import WORTH_BYTES, chosen, compress, expand
from bentos.http.oip.metadata import Model, of_version
from bentos.http.oip.requests import ask_of, parse
from bentos.http.oip.responses import response, wanted
from bentos.http.oip.schemas import ModelReady, ServerMetadata, encode
from bentos.routing.route import Route, no_version
from bentos.runners import settled

EXTENSIONS = ["binary_tensor_data", "model_configuration", "parameters", "statistics"]

_OCTETS = b"application/octet-stream"


class Place(NamedTuple):
    """What a path names: a model and perhaps one of its versions (empty: the gateway chooses), and what of it."""

    policy: str
    version: str
    action: str


Handler = Callable[[Place, Request], Awaitable[Response]]


class InferenceProtocol:
    """One worker's routes under `/v2`."""

    prefix = "/v2"

    def __init__(self, gateway: Callable[[], Gateway], unready: Callable[[], str | None], guard: Guard) -> None:
        """`gateway` gives the running gateway, and raises Problem (503) before there is one; `unready` says why others
        should be asked in its place."""
        self._gateway = gateway
        self._unready = unready
        self._guard = guard
        self._places = Known[str, Place]()
        self._models: dict[str, tuple[Route, Model]] = {}
        self._handlers: dict[tuple[str, str], Handler] = {
            ("POST", "infer"): self._infer,
            ("GET", "model"): self._metadata,
            ("GET", "ready"): self._ready,
            ("GET", "config"): self._configuration,
            ("GET", "stats"): self._statistics,
            ("GET", "server"): self._server,
            ("GET", "live"): self._live,
            ("GET", "health"): self._health,
            ("POST", "index"): self._index,
        }

    async def answer(self, request: Request) -> Response:
        """The reply to a request under `/v2`. Raises Problem, which then says of which policy it is."""
        place = self._places.get(request.path) or self._place(request.path)
        try:
            key = (request.method, place.action)
            return await (self._handlers.get(key) or otherwise(self._handlers, place.action, request))(place, request)
        except Problem as problem:
            problem.policy = place.policy
            raise

    def _place(self, path: str) -> Place:
        place = place_of(path)
        if place is None:
            raise Problem(404, "path", f"there is nothing at {path}")
        self._places.learn(path, place)
        return place

    async def _infer(self, place: Place, request: Request) -> Response:
        if self._guard.closed:
            self._guard.client(request.headers)
        core = self._gateway().core
        encoding, json_size, accepted = "", None, ""
        for name, value in request.headers:
            if name == b"content-encoding":
                encoding = value.decode("latin-1")
            elif name == b"inference-header-content-length":
                json_size = value.decode("latin-1")
            elif name == b"accept-encoding":
                accepted = value.decode("latin-1")
        model = self._model(core, place.policy)
        body = expand(request.body, encoding, MAX_BODY) if encoding else request.body
        inference, rest = parse(body, json_size)
        outputs = wanted(model, inference)
        ask = ask_of(model, inference, rest)
        ask.version = place.version or None
        body, head = response(
            model, inference, outputs, await settled(core.decide(place.policy, ask)), core.decision_ids
        )
        headers: list[tuple[bytes, bytes]] = []
        if head is not None:
            headers.append((b"inference-header-content-length", b"%d" % head))
        if accepted and len(body) >= WORTH_BYTES and (encoding := chosen(accepted) or ""):
            body = compress(body, encoding)
            headers.append((b"content-encoding", encoding.encode()))
        return Response(200, body, JSON if head is None else _OCTETS, headers)

    def _model(self, core: Core, policy: str) -> Model:
        """The model of a policy as it is routed now. Raises Problem (404, 503)."""
        route = core.known(policy)
        known = self._models.get(policy)
        if known is not None and known[0] is route:
            return known[1]
        if route.manifest is None:
            raise no_version(policy)
        model = Model(route.manifest, any(version.stateful for version in route.versions.values()))
        self._models[policy] = (route, model)
        return model

    async def _metadata(self, place: Place, _request: Request) -> Response:
        core = self._gateway().core
        model = self._model(core, place.policy)
        route = core.known(place.policy)
        if place.version:
            route.seat_of_version(place.version)
        return _json(model.metadata(route.answering))

    async def _configuration(self, place: Place, _request: Request) -> Response:
        core = self._gateway().core
        if place.version:
            core.known(place.policy).seat_of_version(place.version)
        return _json(self._model(core, place.policy).configuration())

    async def _ready(self, place: Place, _request: Request) -> Response:
        route = self._gateway().core.known(place.policy)
        if place.version:
            route.seat_of_version(place.version)
        ready = bool(place.version) or route.manifest is not None
        return _json(ModelReady(place.policy, ready), 200 if ready else 503)

    async def _statistics(self, place: Place, _request: Request) -> Response:
        gateway = self._gateway()
        routes = [gateway.core.known(place.policy)] if place.policy else list(gateway.core.routes.values())
        if place.version:
            routes[0].seat_of_version(place.version)
        found = []
        for route in routes:
            cells = await gateway.views.cells(route.policy)
            versions = [place.version] if place.version else route.answering
            found += [of_version(route.policy, version, cells) for version in versions]
        return _json({"model_stats": found})

    async def _server(self, _place: Place, _request: Request) -> Response:
        return _json(ServerMetadata("airlock", _version(), EXTENSIONS))

    async def _live(self, _place: Place, _request: Request) -> Response:
        return _json({"live": True})

    async def _health(self, _place: Place, _request: Request) -> Response:
        ready = self._unready() is None
        return _json({"ready": ready}, 200 if ready else 503)

    async def _index(self, _place: Place, _request: Request) -> Response:
        """Every policy's versions that can be asked for, as Triton's repository index has them."""
        routes = self._gateway().core.routes
        return _json(
            [
                {"name": name, "version": version, "state": "READY", "reason": ""}
                for name in sorted(routes)
                for version in routes[name].answering
            ]
        )


def place_of(path: str) -> Place | None:
    """What an undecoded path under `/v2` names, None for nothing."""
    parts = [unquote(part) for part in path.removesuffix("/").split("/")[2:]]
    match parts:
        case []:
            return Place("", "", "server")
        case ["health", "live"]:
            return Place("", "", "live")
        case ["health", "ready"]:
            return Place("", "", "health")
        case ["repository", "index"]:
            return Place("", "", "index")
        case ["models", "stats"]:
            return Place("", "", "stats")
        case ["models", policy] if policy:
            return Place(policy, "", "model")
        case ["models", policy, ("infer" | "ready" | "config" | "stats") as action] if policy:
            return Place(policy, "", action)
        case ["models", policy, "versions", version] if policy and version:
            return Place(policy, version, "model")
        case ["models", policy, "versions", version, ("infer" | "ready" | "config" | "stats") as action] if (
            policy and version
        ):
            return Place(policy, version, action)
    return None


def _json(document: Any, status: int = 200) -> Response:
    return Response(status, encode(document))


def _version() -> str:
    try:
        return metadata.version("airlock-rl")
    except metadata.PackageNotFoundError:  # a built Bento carries the code, not the installed package
        return "0"
