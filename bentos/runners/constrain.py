"""Constrain: no action leaves the envelope, whoever chose it; every change carries a reason code."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import msgspec
import numpy as np

from bentos.envelope import build
from bentos.envelope.continuous import Box
from bentos.envelope.discrete import Permitted
from bentos.package.manifest import Manifest, Space
from bentos.package.safety import Safety
from bentos.rows import Array, Decision, Rows
from bentos.runners import Deciding, Runner


class Constrain:
    """Holds actions to the envelope (`bentos.envelope.adjustment`). Rows that an override forced are left alone.

    Rules that forbid choices are known before the policy is asked: it gets the mask that they and the request make
    together, so that a graph that takes masks chooses among what is allowed, and others say which choice is next best.
    """

    def __init__(
        self,
        following: Runner,
        space: Space,
        safety: Safety,
        observations: Space | None = None,
        fallback: Array | None = None,
    ) -> None:
        """For actions of `space` and raw observations of the space `observations`, with the spec's constant `fallback`.

        Raises PackageError for limits that do not fit them.
        """
        self.following = following
        envelope = build(space, safety, observations, fallback)
        self._box = envelope if isinstance(envelope, Box) else None
        self._choices = None if isinstance(envelope, Box) else envelope

    @classmethod
    def of(cls, following: Runner, manifest: Manifest) -> Constrain:
        """The envelope of a package. Raises PackageError where its limits do not fit its spaces."""
        constant = (manifest.serve.fallback or {}).get("constant")
        fallback = None if constant is None else np.asarray(constant, dtype=manifest.action_space.dtype)
        return cls(following, manifest.action_space, manifest.safety, manifest.observation_space, fallback)

    def decide(self, rows: Rows) -> Deciding:
        """The inner action, moved into the envelope where it was outside."""
        permitted = None if self._choices is None else self._choices.permitted(rows)
        if permitted is not None and permitted.both is not rows.masks:
            decision = self.following.decide(msgspec.structs.replace(rows, masks=permitted.both))
        else:
            decision = self.following.decide(rows)
        if isinstance(decision, Decision):
            return self._hold(rows, decision, permitted)
        return self._held(rows, decision, permitted)

    async def _held(self, rows: Rows, coming: Coroutine[Any, Any, Decision], permitted: Permitted | None) -> Decision:
        return self._hold(rows, await coming, permitted)

    def _hold(self, rows: Rows, decision: Decision, permitted: Permitted | None) -> Decision:
        if self._choices is not None:
            self._choices.hold(decision, permitted)
        elif self._box is not None:
            self._box.hold(rows, decision)
        return decision
