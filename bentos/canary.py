"""Which arm a unit belongs to while a canary runs: a pure function of the canary's salt and weight."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from bentos.tokens import CHALLENGER, CHAMPION, CONTROL

MAXIMUM_WEIGHT = 0.5


class Canary(msgspec.Struct, frozen=True):
    """The running canary, as the registered model's tag `canary` holds it.

    `weight` is the share of units of each arm (at most 1/2); `salt` is hex; `champion` is None on a first release.
    `paused_at` is when a person paused it (Unix seconds, 0: it is not paused), `paused_seconds` how long it had been
    paused before; a paused canary keeps its weight and its arms, and gateways need not know of it.
    """

    generation: str
    champion: str | None
    version: str
    weight: float
    salt: str
    step: int = 0
    started_at: float = 0.0
    paused_at: float = 0.0
    paused_seconds: float = 0.0

    def arm(self, unit: str) -> str:
        """The arm of a unit: challenger in [0, w), control in [1 − w, 1), champion (outside) between.

        As w grows nobody switches between control and challenger. A first release has no champion, so no control.
        """
        digest = hashlib.blake2b(unit.encode(), key=bytes.fromhex(self.salt), digest_size=8).digest()
        position = int.from_bytes(digest, "big") / 2**64
        if position < self.weight:
            return CHALLENGER
        if position >= 1.0 - self.weight and self.champion is not None:
            return CONTROL
        return CHAMPION

    def age(self, now: float) -> float:
        """How long it has run by `now`, in seconds, without the time that it was paused; 0 where no start is known."""
        if not self.started_at:
            return 0.0
        paused = self.paused_seconds + (max(0.0, now - self.paused_at) if self.paused_at else 0.0)
        return max(0.0, now - self.started_at - paused)

    def document(self) -> dict[str, Any]:
        """The canary as plain JSON values."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


def parse(document: str) -> Canary:
    """Parse the tag. Raises ValueError that says what does not fit."""
    canary = msgspec.json.decode(document, type=Canary)
    if not 0.0 <= canary.weight <= MAXIMUM_WEIGHT:
        raise ValueError(f"the canary's weight must lie in [0, {MAXIMUM_WEIGHT}], came {canary.weight}")
    if not 1 <= len(bytes.fromhex(canary.salt)) <= 64:
        raise ValueError("the canary's salt must be 1 to 64 bytes in hex")
    return canary
