"""The rollback drill: traffic really moves to the version before (or the fallback) and back, under load, timed.

Behind a load balancer nobody says how many gateways there are, and one that lags behind is seen only when it is asked.
So each request makes a connection of its own, and a move is done with the first of a hundred answers in a row that are
all as wanted, over more than a poll: of ten gateways that are asked at random, a hundred answers miss one in 1 of
37,000 drills.
"""

from __future__ import annotations

import time

from bentos import settings
from tasks.checklist.load import Answer, Load
from tasks.checklist.types import Finding
from tasks.control.plane import ControlPlane
from tasks.inputs import Inputs

MAX_SECONDS = 10.0
"""Gateways poll every second and have the previous version loaded; ten times that is a rollback that does not work."""

ANSWERS = 100
"""In a row; fewer where so many take longer than `MAX_SECONDS`."""

_POLLS = 1.5
"""How many polls the row lasts: a gateway looks at the registry every 0.8 to 1.2 polls."""


def rollback_tested(control: ControlPlane, url: str, policy: str, version: str, given: Inputs) -> Finding:
    """Roll back and forth with requests running: both moves seen of all gateways in time, no request failed."""
    lasting = _POLLS * settings.poll_seconds()
    with Load(url, policy, given, kept_connections=0) as load:
        if load.wait_for(lambda answer: answer.version == version, 0.0, MAX_SECONDS) is None:
            last = load.answers[-1] if load.answers else None
            return Finding("fail", f"version {version} does not answer, so nothing was moved; the last answer: {last}")
        started = time.monotonic()
        with control.drill(policy) as moved:
            previous = moved["previous"]
            there = load.wait_for(
                lambda answer: _rolled_back(answer, previous), started, MAX_SECONDS, answers=ANSWERS, lasting=lasting
            )
            turned = time.monotonic()
        back = load.wait_for(
            lambda answer: answer.version == version, turned, MAX_SECONDS, answers=ANSWERS, lasting=lasting
        )
    failures = [answer.error for answer in load.failures]
    target = f"version {previous}" if previous else "the fallback"
    problems = [] if there is not None else [f"{target} did not answer alone within {MAX_SECONDS:g} s"]
    problems += [] if back is not None else [f"version {version} was not back alone within {MAX_SECONDS:g} s"]
    if failures:
        problems.append(f"{len(failures)} of {len(load.answers)} requests failed: {failures[0]}")
    return Finding(
        "fail" if problems else "pass",
        "; ".join(problems)
        or f"{target} served after {there:.2f} s, version {version} again after {back:.2f} s, "
        f"0 of {len(load.answers)} requests failed",
        observed=there,
        threshold=MAX_SECONDS,
        unit="s",
        sample_size=len(load.answers),
        evidence={
            "to": previous,
            "seconds_there": there,
            "seconds_back": back,
            "seconds_seen": lasting,
            "failures": failures[:5],
        },
    )


def _rolled_back(answer: Answer, previous: str | None) -> bool:
    return answer.version == previous if previous else answer.source == "fallback"
