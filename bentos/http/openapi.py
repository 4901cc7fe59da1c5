"""The gateway's own routes as OpenAPI 3.1, merged into the document that BentoML serves of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import yaml

from bentos.gateway import schemas as wire
from bentos.http.oip import schemas as messages
from bentos.http.v1 import MAX_LOG

Document = dict[str, Any]

VERSION = "3.1.0"

_REFERENCE = "#/components/schemas/{name}"
_JSON = "application/json"
_PROBLEM = "application/problem+json"
_OCTETS = "application/octet-stream"
_ADMIN, _CLIENT = "admin", "client"
_DECISIONS, _CONTROL, _INFERENCE = "Decisions", "Policies and overrides", "Open Inference Protocol"
_POLICY = "/v1/policies/{policy}"
_MODEL = "/v2/models/{policy}"


class Operation(NamedTuple):
    """One method of one path. `body` and `answer` are types; of several, a request or answer is one of them."""

    method: str
    path: str
    tag: str
    summary: str
    answer: tuple[Any, ...]
    body: tuple[Any, ...] = ()
    token: str = ""
    status: int = 200
    needs_body: bool = True
    query: Mapping[str, Document] = MappingProxyType({})


def operations() -> Iterator[Operation]:
    """Every route of the gateway's own."""
    yield Operation("get", "/v1/policies", _CONTROL, "All policies: what is routed where, and statistics", (Document,))
    yield Operation("get", _POLICY, _CONTROL, "One policy: what is routed where, and statistics", (Document,))
    yield Operation(
        "post",
        f"{_POLICY}/act",
        _DECISIONS,
        "Decide: one action, or many",
        (wire.ActResponse, wire.ManyActResponse),
        (wire.ActRequest,),
        _CLIENT,
    )
    yield Operation(
        "post",
        f"{_POLICY}/episodes",
        _DECISIONS,
        "Start an episode, or many",
        (wire.Started, wire.ManyStarted),
        (wire.EpisodesRequest,),
        _CLIENT,
        201,
        False,
    )
    yield Operation(
        "post",
        f"{_POLICY}/outcomes",
        _DECISIONS,
        "Report how episodes ended; answered once that is stored",
        (wire.Stored,),
        (wire.Outcome, wire.ManyOutcomes),
        _CLIENT,
    )
    yield Operation(
        "post",
        f"{_POLICY}/rewards",
        _DECISIONS,
        "Report what steps of episodes earned; answered once that is stored",
        (wire.Stored,),
        (wire.Reward, wire.ManyRewards, list[wire.Reward]),
        _CLIENT,
    )
    yield Operation(
        "put",
        f"{_POLICY}/override",
        _CONTROL,
        "Have a human's action replace the policy's for a while",
        (Document,),
        (wire.OverrideRequest,),
        _ADMIN,
    )
    yield Operation(
        "delete",
        f"{_POLICY}/override",
        _CONTROL,
        "Clear an override",
        (Document,),
        (wire.ClearRequest,),
        _ADMIN,
        needs_body=False,
    )
    yield Operation(
        "get",
        f"{_POLICY}/override",
        _CONTROL,
        "The overrides of a policy, newest first: who, when, why, until, and what became of them",
        (Document,),
        token=_ADMIN,
        query={"limit": {"type": "integer", "minimum": 1, "maximum": MAX_LOG}},
    )
    yield Operation("get", "/v2", _INFERENCE, "What this server is", (messages.ServerMetadata,))
    yield Operation("get", "/v2/health/live", _INFERENCE, "Whether the server lives", (Document,))
    yield Operation("get", "/v2/health/ready", _INFERENCE, "Whether the server is ready", (Document,))
    yield Operation("get", "/v2/models/stats", _INFERENCE, "Statistics of all policies", (Document,))
    yield Operation("post", "/v2/repository/index", _INFERENCE, "Every version that can be asked", (list[Document],))
    for model in (_MODEL, f"{_MODEL}/versions/{{version}}"):
        yield Operation("get", model, _INFERENCE, "The policy's tensors and versions", (messages.ModelMetadata,))
        yield Operation("get", f"{model}/ready", _INFERENCE, "Whether it can be asked", (messages.ModelReady,))
        yield Operation("get", f"{model}/config", _INFERENCE, "Its configuration, as Triton shows it", (Document,))
        yield Operation("get", f"{model}/stats", _INFERENCE, "Its statistics", (Document,))
        yield Operation(
            "post",
            f"{model}/infer",
            _INFERENCE,
            "Decide; tensors are JSON, or bytes after the JSON",
            (messages.InferResponse,),
            (messages.InferRequest,),
            _CLIENT,
        )


class Described(dict[str, Any]):
    """A document that BentoML takes for a specification of its own: to serve it, and to keep it in a Bento as YAML."""

    def asdict(self) -> Document:
        """The document."""
        return dict(self)


yaml.add_representer(Described, lambda dumper, data: dumper.represent_dict(data))


def merged(base: Document, policies: Sequence[str]) -> Described:
    """BentoML's document with the gateway's own routes in it; `policies` are shown as examples of names."""
    own = list(operations())
    kinds = [kind for operation in own for kind in (*operation.answer, *operation.body)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    by_kind = {str(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: Document = {path: _cleaned(item) for path, item in base["paths"].items()}
    for operation in own:
        item = paths.setdefault(operation.path, {"parameters": _parameters(operation.path, policies)})
        item[operation.method] = _described(operation, by_kind)
    given = base.get("components") or {}
    whole = {
        **base,
        "openapi": VERSION,
        "tags": [*base.get("tags", []), *({"name": name} for name in (_DECISIONS, _CONTROL, _INFERENCE))],
        "paths": paths,
        "components": {
            **given,
            "schemas": {**given.get("schemas", {}), **components, "Problem": _PROBLEM_SCHEMA},
            "securitySchemes": {
                _ADMIN: {"type": "http", "scheme": "bearer", "description": "The admin token"},
                _CLIENT: {"type": "http", "scheme": "bearer", "description": "A client's token, where any are set"},
            },
        },
    }
    return Described(whole)


def _described(operation: Operation, schemas: Document) -> Document:
    binary = operation.path.endswith("/infer")
    parameters = [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    answers = {_JSON: {"schema": _one_of(operation.answer, schemas)}}
    if binary:
        answers[_OCTETS] = {"schema": {"type": "string", "format": "binary"}}
    described: Document = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": f"{operation.method} {operation.path}",
        "responses": {
            str(operation.status): {"description": "Done", "content": answers},
            "default": {
                "description": "Refused, or nothing can answer: what was expected, what came, and what to do",
                "content": {_PROBLEM: {"schema": {"$ref": _REFERENCE.format(name="Problem")}}},
            },
        },
    }
    if operation.path.endswith("/ready"):
        described["responses"]["503"] = {"description": "Not now", "content": {_JSON: answers[_JSON]}}
    if operation.body:
        content = {_JSON: {"schema": _one_of(operation.body, schemas)}}
        if binary:
            content[_OCTETS] = {"schema": {"type": "string", "format": "binary"}}
            parameters.append(
                {
                    "name": "Inference-Header-Content-Length",
                    "in": "header",
                    "description": "Bytes of the JSON at the body's beginning; without it, all of the body",
                    "schema": {"type": "integer", "minimum": 0},
                }
            )
        described["requestBody"] = {"required": operation.needs_body, "content": content}
    if parameters:
        described["parameters"] = parameters
    if operation.token:
        # none at all: clients need no token where none are set
        described["security"] = [{operation.token: []}, *([{}] if operation.token == _CLIENT else [])]
    return described


def _one_of(kinds: tuple[Any, ...], schemas: Document) -> Document:
    found: list[Document] = [schemas[str(kind)] for kind in kinds]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _parameters(path: str, policies: Sequence[str]) -> list[Document]:
    examples = {"policy": list(policies), "version": []}
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1, **({"examples": shown} if shown else {})},
        }
        for name, shown in examples.items()
        if f"{{{name}}}" in path
    ]


def _cleaned(item: Document) -> Document:
    """One of BentoML's paths without what OpenAPI 3 does not know."""
    return {
        method: {name: value for name, value in operation.items() if name not in ("consumes", "produces")}
        if isinstance(operation, dict)
        else operation
        for method, operation in item.items()
    }


_PROBLEM_SCHEMA: Document = {
    "title": "Problem",
    "description": "RFC 9457 problem details. `reason` is a short code; `expected` and `came` are for programs.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "reason"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string"},
        "error": {"type": "string"},
        "expected": {},
        "came": {},
    },
}
