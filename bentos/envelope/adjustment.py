"""The reasons for which the envelope changes an action, and how a decision is changed: only the rows that differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bentos.package.manifest import Array
from bentos.rows import Decision

BOUNDS = "bounds"
RATE_LIMIT = "rate_limit"
ACCELERATION_LIMIT = "acceleration_limit"
CONSTRAINT = "constraint"
INFEASIBLE = "infeasible"
"""The limits contradict each other for this observation: what left the gateway is the least that was possible."""
ACTION_MASK = "action_mask"
MASK_RULE = "mask_rule"


def change(decision: Decision, wanted: Array, reasons: Mapping[str, Array], missed: Array | None = None) -> None:
    """Replace the rows of `decision` that differ from `wanted` [n, ...]; those that an override forced stay.

    `reasons` says by code which rows (bool [n]) broke that limit: a changed row is noted for each that it broke. The
    rows `missed` (bool [n]) are noted as infeasible even where their action stays.
    """
    differs = (wanted != decision.action).reshape(len(wanted), -1).any(axis=1)
    if decision.forced is not None:
        differs &= ~decision.forced
        missed = None if missed is None else missed & ~decision.forced
    changed = np.flatnonzero(differs)
    if len(changed):
        decision.action = np.array(decision.action)
        decision.action[changed] = wanted[changed]
        for reason, broken in reasons.items():
            decision.adjust(np.flatnonzero(differs & broken), reason)
    if missed is not None and missed.any():
        decision.adjust(np.flatnonzero(missed), INFEASIBLE)
