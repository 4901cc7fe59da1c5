"""Signed ids and tokens: what a gateway must know of an episode travels with it, so that any replica can serve it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import TypeVar

import msgspec

CHAMPION = "champion"
CONTROL = "control"
CHALLENGER = "challenger"

_TAG_BYTES = 16
_REMEMBERED = 100_000
_T = TypeVar("_T")


class Forged(Exception):
    """An id or token that this installation did not sign, or that was signed for something else."""


class Episode(msgspec.Struct, frozen=True, array_like=True):
    """What an episode id carries.

    `version` is empty for an episode that the fallback answers; `generation` is empty outside an experiment; `nonce`
    (32 hex digits) is the episode's key in the store; `user` is a 64-bit hash of the user id, empty without one.
    `started_at` is in Unix seconds.
    """

    policy: str
    version: str
    arm: str
    generation: str
    nonce: str
    user: str
    started_at: float


class Memory(msgspec.Struct, frozen=True, array_like=True):
    """A recurrent state and the version it is of: `tensors` maps a graph input to the bytes of its array, C order."""

    version: str
    tensors: dict[str, bytes]


class State(msgspec.Struct, frozen=True, array_like=True):
    """What a `state` token carries from one step of an episode to the next. `action` is the last action, flat."""

    policy: str
    nonce: str
    step: int
    action: list[float] | None
    memory: Memory | None = None


def new_nonce() -> str:
    """A fresh episode key: 128 random bits in hex."""
    return secrets.token_hex(16)


def user_hash(user_id: str) -> str:
    """The hash of a user id that an episode id carries, so that ids never reveal a user."""
    return hashlib.blake2b(user_id.encode(), digest_size=8, person=b"airlock-user").hexdigest()


class Signer:
    """Signs and checks ids and tokens with HMAC-SHA256 (128-bit tags) under one key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self.seen: dict[str, Episode] = {}
        """Episodes by their ids, of ids that were checked before. Not for changing."""

    def nonce(self, policy: str, generation: str, key: str, place: int) -> str:
        """The episode key of a client's request key: always the same, and no client can tell it beforehand."""
        message = msgspec.json.encode([policy, generation, key, place])
        return hmac.digest(self._key, b"n1." + message, "sha256")[:16].hex()

    def episode_id(self, episode: Episode) -> str:
        """The id of an episode: URL-safe text, around 150 characters."""
        return self._sign("e1", msgspec.json.encode(episode))

    def episode(self, episode_id: str) -> Episode:
        """The episode of an id. Raises Forged. Ids checked before are remembered: later steps cost a lookup."""
        seen = self.seen.get(episode_id)
        if seen is None:
            seen = self._open("e1", episode_id, Episode, msgspec.json.decode)
            if len(self.seen) >= _REMEMBERED:
                self.seen.clear()
            self.seen[episode_id] = seen
        return seen

    def state_token(self, state: State) -> str:
        """The `state` token that a client sends back with the next step."""
        return self._sign("s1", msgspec.msgpack.encode(state))

    def state(self, token: str, policy: str, nonce: str) -> State:
        """The state in a token of this policy and episode (empty nonce: no episode). Raises Forged."""
        state = self._open("s1", token, State, msgspec.msgpack.decode)
        if state.policy != policy or state.nonce != nonce:
            raise Forged("the state token belongs to another episode")
        return state

    def _tag(self, kind: str, payload: bytes) -> bytes:
        return hmac.digest(self._key, kind.encode() + b"." + payload, "sha256")[:_TAG_BYTES]

    def _sign(self, kind: str, payload: bytes) -> str:
        return f"{kind}.{_encode(payload)}.{_encode(self._tag(kind, payload))}"

    def _open(self, kind: str, token: str, wanted: type[_T], decode: object) -> _T:
        parts = token.split(".")
        if len(parts) != 3 or parts[0] != kind:
            raise Forged(f"not {'an episode id' if kind == 'e1' else 'a state token'} of this gateway")
        try:
            payload, tag = _decode(parts[1]), _decode(parts[2])
        except (binascii.Error, ValueError) as error:
            raise Forged("not base64") from error
        if not hmac.compare_digest(tag, self._tag(kind, payload)):
            raise Forged("the signature does not fit")
        try:
            return decode(payload, type=wanted)  # type: ignore[operator]
        except msgspec.MsgspecError as error:
            raise Forged("signed by another version of Airlock") from error


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
