"""The guard: who may ask. An admin token for what changes the gateway, and, if there are any, tokens of clients."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bentos.errors import Problem

VARIABLE = "AIRLOCK_CLIENT_TOKENS"

Headers = Sequence[tuple[bytes, bytes]]

_BEARER = b"bearer "


class ClientToken(NamedTuple):
    """A client's name, its token, and until when that holds (Unix seconds, None: for ever)."""

    name: str
    token: bytes
    until: float | None


class Guard:
    """Lets requests pass by their `Authorization: Bearer`, compared in constant time.

    Without client tokens `closed` is false: everybody may ask for decisions, and nobody needs to call `client`.
    """

    def __init__(self, admin_token: str, clients: Sequence[ClientToken] = ()) -> None:
        self.closed = bool(clients)
        self._admin = admin_token.encode()
        self._clients = tuple(clients)

    def is_admin(self, headers: Headers) -> bool:
        """Whether a request carries the admin token."""
        return hmac.compare_digest(_given(headers), self._admin)

    def admin(self, headers: Headers) -> None:
        """Let only the admin token pass. Raises Problem (401, 403)."""
        if not self.is_admin(headers):
            raise _refused(headers, "admin")

    def client(self, headers: Headers) -> None:
        """Let client tokens that still hold pass, and the admin token. Raises Problem (401, 403)."""
        given = _given(headers)
        found = None
        for client in self._clients:  # all of them: how long it takes must not tell which one it was
            if hmac.compare_digest(given, client.token):
                found = client
        if found is None:
            if not self.is_admin(headers):
                raise _refused(headers, "client")
        elif found.until is not None and found.until <= time.time():
            raise Problem(403, "token_expired", f"the token of {found.name!r} has expired")


def clients() -> list[ClientToken]:
    """The client tokens of `$AIRLOCK_CLIENT_TOKENS`: `name:token` or `name:token:unix_seconds`, with commas or lines
    between them, or `@` and the path of a file of them. Raises ValueError, without showing a token.
    """
    given = os.environ.get(VARIABLE, "")
    if given.startswith("@"):
        given = Path(given[1:]).expanduser().read_text()
    entries = [entry.strip() for entry in given.replace("\n", ",").split(",") if entry.strip()]
    return [_client(number, entry) for number, entry in enumerate(entries, 1)]


def _client(number: int, entry: str) -> ClientToken:
    name, _, rest = entry.partition(":")
    token, _, until = rest.partition(":")
    if not name or not token:
        raise ValueError(f"{VARIABLE}: entry {number} must be name:token or name:token:unix_seconds")
    try:
        return ClientToken(name, token.encode(), float(until) if until else None)
    except ValueError:
        raise ValueError(f"{VARIABLE}: entry {number} ({name}) ends in no number of Unix seconds") from None


def _given(headers: Headers) -> bytes:
    """The token that a request carries, empty for none."""
    for name, value in headers:
        if name == b"authorization":
            return value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else b""
    return b""


def _refused(headers: Headers, who: str) -> Problem:
    if not _given(headers):
        return Problem(401, "token", f"this call needs `Authorization: Bearer <{who} token>`")
    return Problem(403, "token", f"the {who} token is wrong")
