"""Calls: what can be asked of a gateway, as steps that threads and asyncio alike can run."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from .retry import Request, Servers, Steps, persist


class Calls:
    """Requests to one installation's gateways. All of them can be sent twice and count once."""

    def __init__(self, urls: str | Sequence[str], patience: float) -> None:
        """`patience` is how long a request is tried, in seconds. Raises ValueError for an address that is none."""
        self._servers = Servers(urls)
        self._patience = patience

    @property
    def urls(self) -> list[str]:
        """The gateways' addresses."""
        return self._servers.urls

    def policies(self) -> Steps[list[dict[str, Any]]]:
        """The documents of all policies."""
        document: dict[str, Any] = yield from self.send("GET", "/v1/policies")
        found: list[dict[str, Any]] = document["policies"]
        return found

    def policy(self, policy: str) -> Steps[dict[str, Any]]:
        """The document of one policy."""
        return (yield from self.send("GET", _path(policy)))

    def start_episodes(
        self, policy: str, user_ids: Sequence[str | None], observations: Any = None
    ) -> Steps[list[dict[str, Any]]]:
        """Start one episode a user. A key of its own makes the request one and the same however often it is sent."""
        body: dict[str, Any] = {"user_ids": list(user_ids), "idempotency_key": secrets.token_hex(16)}
        if observations is not None:
            body["observations"] = observations
        document: dict[str, Any] = yield from self.send("POST", _path(policy, "episodes"), body)
        started: list[dict[str, Any]] = document["episodes"]
        return started

    def act(self, policy: str, body: dict[str, Any]) -> Steps[dict[str, Any]]:
        """Decide."""
        return (yield from self.send("POST", _path(policy, "act"), body))

    def outcomes(self, policy: str, outcomes: Sequence[dict[str, Any]]) -> Steps[dict[str, Any]]:
        """Report ended episodes."""
        return (yield from self.send("POST", _path(policy, "outcomes"), {"outcomes": list(outcomes)}))

    def rewards(self, policy: str, rewards: Sequence[dict[str, Any]]) -> Steps[dict[str, Any]]:
        """Report steps."""
        return (yield from self.send("POST", _path(policy, "rewards"), {"rewards": list(rewards)}))

    def override(self, method: str, policy: str, body: dict[str, Any]) -> Steps[dict[str, Any]]:
        """Set or clear an override."""
        return (yield from self.send(method, _path(policy, "override"), body))

    def send(self, method: str, path: str, body: Any = None) -> Steps[dict[str, Any]]:
        """The document that answers a request. Raises GatewayError, as all calls do."""
        data = None if body is None else _encode(body)
        document: dict[str, Any] = _decode(
            (yield from persist(Request(method, path, data), self._servers, self._patience))
        )
        return document


def _path(policy: str, action: str = "") -> str:
    return f"/v1/policies/{quote(policy, safe='')}" + (f"/{action}" if action else "")


def _plain(value: Any) -> Any:
    """What JSON does not know of itself: arrays and numbers of NumPy."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"expected JSON values and arrays, came {type(value).__name__}")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_decode = msgspec.json.Decoder().decode
