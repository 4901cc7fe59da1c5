"""The check that no action leaves the envelope, whatever the packaged service is asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from bentos.package.action_masks import Masks
from bentos.package.session import Policy
from tasks.checklist.fuzz import extreme_questions
from tasks.checklist.served import Served
from tasks.checklist.types import Finding
from tasks.gateway_requests import ask, numbers
from tasks.inputs import MASK, Inputs

EXTREMES, FEWEST, NUMBERS = 4_000, 64, 8_000_000
"""Extreme observations asked for: fewer where they hold more numbers than that together, but some always."""


def action_bounds(served: Served) -> Finding:
    """Actions for thousands of observations, extreme ones included, never leave the envelope."""
    asked = min(EXTREMES, max(FEWEST, NUMBERS // numbers(served.given)))
    questions = extreme_questions(served.given, served.package.manifest, asked)
    batch = served.package.manifest.serve.batch_size
    answer = ask(served.server.url, served.policy, questions, at_once=batch)
    outside = _outside(served.package, answer["actions"])
    forbidden = _forbidden(served.package, questions, answer["actions"])
    sources = Counter(answer["sources"])
    adjusted = Counter(reason for row in answer["adjusted"] for reason in row)
    wrong = outside + forbidden
    if not wrong and sources["policy"] < asked / 2:
        reason = f"the policy itself answered only {sources['policy']} of {asked} questions: too few to tell"
        return Finding(
            "inconclusive", reason, sources["policy"], asked / 2, "answers", asked, {"sources": dict(sources)}
        )
    masks = ", each under a mask of its own" if MASK in questions else ""
    return Finding(
        "fail" if wrong else "pass",
        f"{outside} of {asked} actions left the envelope, {forbidden} were forbidden by their mask"
        if wrong
        else f"all {asked:,} actions inside the envelope, extreme observations included{masks}",
        observed=wrong,
        threshold=0,
        unit="outside",
        sample_size=asked,
        evidence={"sources": dict(sources), "adjusted": dict(adjusted), "forbidden": forbidden},
    )


def _forbidden(package: Policy, question: Inputs, actions: list[Any]) -> int:
    """How many actions their row's mask does not allow."""
    if MASK not in question:
        return 0
    space = package.manifest.action_space
    given = np.asarray(actions, dtype=np.dtype(space.dtype)).reshape(len(actions), *space.shape)
    obeyed = Masks(space).obeyed(question[MASK], given, None)
    return int((obeyed != given).reshape(len(given), -1).any(axis=1).sum())


def _outside(package: Policy, actions: list[Any]) -> int:
    """How many actions are no member of the action space, or leave its bounds shrunk by the safety margin."""
    space, safety = package.manifest.action_space, package.manifest.safety
    if space.type == "Discrete":
        allowed = range(space.start, space.start + (space.n or 0))
        return sum(not (isinstance(action, int) and action in allowed) for action in actions)
    values = np.asarray(actions, dtype=np.float64).reshape(len(actions), -1)
    if space.type == "MultiDiscrete":
        limit = np.asarray(space.nvec, dtype=float).reshape(-1) - 1
        return int((~((values >= 0) & (values <= limit))).any(axis=1).sum())
    if space.type == "MultiBinary":
        return int((~np.isin(values, (0, 1))).any(axis=1).sum())
    low, high = space.bounds()
    if safety.action_bounds is not None:
        low, high = (np.broadcast_to(np.asarray(end, dtype=float), low.shape) for end in safety.action_bounds)
    margin = safety.safety_margin * np.where(np.isfinite(high - low), high - low, 0.0)
    low, high = (low + margin).reshape(-1), (high - margin).reshape(-1)
    slack = 1e-6 * np.maximum(1.0, np.abs(np.where(np.isfinite(high), high, 1.0)))
    return int((~((values >= low - slack) & (values <= high + slack))).any(axis=1).sum())
