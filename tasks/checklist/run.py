"""Running checks, each timed, and the gate: one pure function from what they found to a verdict with its reasons.

A check that raises has failed, with its error as the reason, unless the cause can pass.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.checklist.types import PHASES, Check, Checklist, Finding, Phase, Verdict
from tasks.control.lease import LeaseHeld, LeaseLost
from tasks.spec.sections import Mode
from tasks.tracking.client import RegistryUnavailable

log = logging.getLogger(__name__)


def run_check(check_id: str, phase: Phase, mode: Mode, check: Callable[[], Finding]) -> Check:
    """Run one check. What it raises is a failure whose reason is the error; `off` skips it.

    A registry that does not answer or a lease that another holds says nothing about the policy: that is raised.
    """
    if mode == "off":
        return Check.of(check_id, phase, mode, Finding("skip", "switched off by the policy spec"), 0.0)
    started = time.monotonic()
    try:
        finding = check()
    except (LeaseHeld, LeaseLost, RegistryUnavailable):
        raise
    except Exception as error:
        log.exception("the check %s raised", check_id)
        finding = Finding("fail", f"the check could not be made: {type(error).__name__}: {error}")
    return Check.of(check_id, phase, mode, finding, time.monotonic() - started)


def run_all(
    policy: str,
    version: str,
    phase: Phase,
    checks: Mapping[str, Callable[[], Finding]],
    mode: Callable[[str], Mode],
    decided_by: str,
) -> tuple[Checklist, Decision]:
    """Run every check of `phase` in order and pass them through the gate."""
    results = tuple(run_check(check_id, phase, mode(check_id), check) for check_id, check in checks.items())
    decision = decide(PHASES[phase], results)
    return Checklist(policy, version, phase, decision.verdict, decided_by, time.time(), results), decision


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
