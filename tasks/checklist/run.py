"""Running checks: each timed; one that raises has failed, with its error as the reason, unless the cause can pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from tasks.checklist.gate import Decision, decide
from tasks.checklist.types import PHASES, Check, Checklist, Finding, Phase
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
