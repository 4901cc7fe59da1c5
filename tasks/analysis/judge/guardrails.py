"""What ends a canary at once, whatever its returns say: pure functions of both arms' counters and units.

Tripwires have no error probability (a challenger that does such a thing is out): non-finite outputs, exceptions,
fault events, latency, a much larger share of answers by the fallback. The others are tests, each with a budget of its
own (`ALPHA`): what befalls units (faults, fallbacks, adjustments, abandonment), the lower tail of their returns, and
the sample ratio. They can only stop a canary, so they add nothing to false promotion; `budget` adds them up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from tasks.analysis.sequential import rates, sample_ratio
from tasks.analysis.sequential.decision import Bools
from tasks.analysis.sequential.wealth import Floats

ALPHA = 0.01
"""Error probability of each test: how often it stops a canary whose challenger does no worse."""

RATES = ("fault", "fallback", "adjustment")
"""What may befall a unit, however often in it: `Units.events` says which; abandonment is known of every unit."""

TAIL_RATIO = 1.5
"""The challenger may have this many times control's share of bad returns: means are compared by the primary test."""

LATENCY_RATIO = 1.5
LATENCY_REQUESTS = 500
FALLBACK_DECISIONS = 500
FALLBACK_SHARE = 0.02
FALLBACK_RATIO = 3.0


@dataclass(frozen=True)
class ArmStats:
    """Counters of one arm, summed over gateway workers.

    `latency_bounds` are a histogram's upper bounds in seconds; `latency_counts` counts requests, one more than bounds.
    """

    decisions: int = 0
    fallbacks: int = 0
    non_finite: int = 0
    exceptions: int = 0
    breaker_open: bool = False
    latency_bounds: tuple[float, ...] = ()
    latency_counts: tuple[int, ...] = ()

    @staticmethod
    def of(document: Mapping[str, Any]) -> ArmStats:
        """Read the gateway's counters of one arm, as `bentos.telemetry.counters.total` adds them up."""
        return ArmStats(
            decisions=document["decisions"],
            fallbacks=document["sources"]["fallback"],
            non_finite=document["faults"]["non_finite"],
            exceptions=document["faults"]["exception"],
            breaker_open=document["breaker_open"],
            latency_bounds=tuple(document["latency"]["buckets"]),
            latency_counts=tuple(document["latency"]["counts"]),
        )

    def beside(self, shadow: ArmStats) -> ArmStats:
        """With what the same version did in shadow. Latency stays its own: in shadow no request waits for an answer."""
        return replace(
            self,
            decisions=self.decisions + shadow.decisions,
            fallbacks=self.fallbacks + shadow.fallbacks,
            non_finite=self.non_finite + shadow.non_finite,
            exceptions=self.exceptions + shadow.exceptions,
            breaker_open=self.breaker_open or shadow.breaker_open,
        )

    @property
    def fallback_share(self) -> float:
        """Share of decisions that the fallback answered."""
        return self.fallbacks / self.decisions if self.decisions else 0.0

    def latency_quantile(self, share: float) -> float | None:
        """A latency quantile in seconds, linear within its bucket as Prometheus does; None without observations.

        Infinite past the last bucket, where nobody knows how slow it was.
        """
        total = sum(self.latency_counts)
        if not total:
            return None
        rank, below, low = share * total, 0, 0.0
        for high, count in zip(self.latency_bounds, self.latency_counts, strict=False):
            if below + count >= rank and count:
                return low + (high - low) * (rank - below) / count
            below, low = below + count, high
        return math.inf


@dataclass(frozen=True)
class Guardrail:
    """One guardrail at one look. `fired` is what it demands, or null; `observed` and `threshold` are in `unit`.

    `at` is how many units in order of start it took to fire; null if it did not, or is no test of units.
    """

    id: str
    fired: Literal["roll_back", "inconclusive"] | None
    observed: float
    threshold: float
    unit: str
    reason: str
    at: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def non_finite(challenger: ArmStats) -> Guardrail:
    """A single NaN or infinity among the challenger's outputs."""
    return _tripwire("non_finite", challenger.non_finite, "non-finite outputs of the challenger")


def exceptions(challenger: ArmStats) -> Guardrail:
    """A single exception while the challenger decided."""
    return _tripwire("exceptions", challenger.exceptions, "exceptions while the challenger decided")


def breaker(challenger: ArmStats, events: tuple[str, ...]) -> Guardrail:
    """An open breaker, or a fault event that a gateway committed for the challenger's version (an opened breaker, a
    refused package) since the canary began.
    """
    found = _tripwire("breaker", len(events) + challenger.breaker_open, "open breakers or fault events")
    return Guardrail(**{**asdict(found), "reason": f"{found.reason}: {events[0]}"}) if events else found


def latency(control: ArmStats, challenger: ArmStats, slo_seconds: float) -> Guardrail:
    """The challenger's p99 beyond the objective and well beyond the concurrent control's (alone on a first release)."""
    ours, theirs = challenger.latency_quantile(0.99), control.latency_quantile(0.99)
    threshold = max(slo_seconds, LATENCY_RATIO * theirs) if theirs is not None else slo_seconds
    few = min(sum(challenger.latency_counts), sum(control.latency_counts) or LATENCY_REQUESTS) < LATENCY_REQUESTS
    fired = ours is not None and not few and ours > threshold
    beside = f", {LATENCY_RATIO} times control's {_in_words(theirs, control)}" if theirs is not None else ""
    came = _in_words(ours or 0.0, challenger)
    return Guardrail(
        "latency",
        "roll_back" if fired else None,
        _known_ms(ours or 0.0, challenger),
        _known_ms(threshold, control),
        "ms",
        f"the challenger's p99 latency is {came} (objective {1e3 * slo_seconds:g} ms{beside})",
    )


def _known_ms(seconds: float, arm: ArmStats) -> float:
    """A latency in milliseconds; past the last bucket that one's bound, the most that is known."""
    return 1e3 * (seconds if math.isfinite(seconds) else arm.latency_bounds[-1])


def _in_words(seconds: float, arm: ArmStats) -> str:
    return f"{'' if math.isfinite(seconds) else 'more than '}{_known_ms(seconds, arm):.1f} ms"


def fallback_rate(control: ArmStats, challenger: ArmStats) -> Guardrail:
    """The share of the challenger's decisions that its fallback had to answer, against a floor and control's share.

    Decisions come in bursts, so this is a tripwire with room to spare and not a test.
    """
    threshold = max(FALLBACK_SHARE, FALLBACK_RATIO * control.fallback_share)
    share = challenger.fallback_share
    fired = challenger.decisions >= FALLBACK_DECISIONS and share > threshold
    return Guardrail(
        "fallback_rate",
        "roll_back" if fired else None,
        share,
        threshold,
        "share",
        f"the fallback answered {share:.2%} of the challenger's {challenger.decisions} decisions "
        f"(control: {control.fallback_share:.2%})",
    )


def abandonment(challenger: Bools, abandoned: Bools) -> Guardrail:
    """More units of the challenger than of control never report: see `rates`."""
    return _rate("abandonment", challenger, abandoned, "units of the challenger never reported")


def befallen(kind: str, challenger: Bools, befell: Bools) -> Guardrail:
    """More units of the challenger than of control met with `kind`, one of `RATES`, once or more: see `rates`."""
    return _rate(f"{kind}_rate_of_units", challenger, befell, f"units of the challenger met with a {kind}")


def tail(challenger: Bools, returns: Floats) -> Guardrail:
    """The challenger has more than `TAIL_RATIO` times control's share of bad returns: see `lower_tail`."""
    bad = rates.bad(returns)
    share = f"{rates.SHARE:.0%}"
    return _rate("lower_tail", challenger, bad, f"returns of the challenger were among the lowest {share}", TAIL_RATIO)


def budget(alpha: float, *, first_release: bool) -> dict[str, float]:
    """The error probability of the whole judge, at most: of a false roll_back and of a false inconclusive.

    Sums of the tests' own: `alpha` of the primary test, and `ALPHA` of each guardrail that is a test.
    """
    if first_release:
        return {"roll_back": alpha, "inconclusive": 0.0}
    return {"roll_back": alpha + (len(RATES) + 2) * ALPHA, "inconclusive": sample_ratio.ALPHA}


def _rate(name: str, challenger: Bools, befell: Bools, what: str, allowed: float = 1.0) -> Guardrail:
    best = rates.Rate(allowed).feed(challenger, befell)
    fired = np.flatnonzero(best >= math.log(1.0 / ALPHA))
    ours = int((befell & challenger).sum())
    return Guardrail(
        name,
        "roll_back" if len(fired) else None,
        math.exp(min(float(best[-1]), 50.0)) if len(best) else 1.0,
        1.0 / ALPHA,
        "e-value",
        f"{ours} {what}, {int(befell.sum()) - ours} of control",
        int(fired[0]) + 1 if len(fired) else None,
    )


def ratio(assigned: Bools) -> Guardrail:
    """Units at their assignment against the fair coin: a broken split ends the canary as inconclusive."""
    evidence = sample_ratio.log_evidence(assigned)
    fired = np.flatnonzero(evidence >= math.log(1.0 / sample_ratio.ALPHA))
    ours = int(assigned.sum())
    return Guardrail(
        "sample_ratio",
        "inconclusive" if len(fired) else None,
        math.exp(min(float(evidence.max()), 50.0)) if len(evidence) else 1.0,
        1.0 / sample_ratio.ALPHA,
        "e-value",
        f"{ours} units were assigned to the challenger and {len(assigned) - ours} to control, by a fair coin",
        int(fired[0]) + 1 if len(fired) else None,
    )


def _tripwire(name: str, count: int, what: str) -> Guardrail:
    return Guardrail(name, "roll_back" if count else None, count, 0, "count", f"{count} {what}")
