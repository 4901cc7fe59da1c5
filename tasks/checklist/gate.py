"""The gate: one pure function from what the checks found to a verdict with its reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.checklist.types import Check, Verdict


@dataclass(frozen=True)
class Decision:
    """Whether the gate opens, and why not: one line for each check that keeps it shut."""

    verdict: Verdict
    reasons: tuple[str, ...]


def decide(expected: Iterable[str], checks: Sequence[Check]) -> Decision:
    """Open only if every expected check is there and every enforced one passed.

    A check that failed, was skipped or was inconclusive keeps an enforcing gate shut; in `dry_run` it is only
    reported, and `off` means it was not run. An expected check without a result, or one with two, keeps it shut too,
    whatever its mode: then nobody knows what was found.
    """
    reasons: list[str] = []
    for check_id in expected:
        found = [check for check in checks if check.id == check_id]
        if not found:
            reasons.append(f"{check_id}: no result")
        elif len(found) > 1:
            reasons.append(f"{check_id}: {len(found)} results, expected one")
        elif found[0].blocks:
            reasons.append(f"{check_id}: {found[0].status}: {found[0].reason}")
    return Decision("fail" if reasons else "pass", tuple(reasons))
