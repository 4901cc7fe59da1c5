"""Checks of a version in production, from what the gateway counted and stored: pure functions of evidence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.alerts import readings
from tasks.alerts.rules import MAX_ACTION_SHIFT, MAX_ERRORS
from tasks.checklist.package import NO_BASELINE
from tasks.checklist.types import Finding
from tasks.spec.sections import PolicySpec

MINIMUM_REQUESTS, MINIMUM_DECISIONS, MINIMUM_RETURNS = 100, 1_000, 20
MAX_RSS_MB, MAX_GROWTH_MB, MAX_NEW_FILES = 4_000.0, 64.0, 64
"""A gateway worker takes about 150 MB; growth is over a few seconds of load, in which nothing should pile up."""


@dataclass(frozen=True)
class Usage:
    """The gateways' workers at one moment, added up: resident memory (MB), CPU seconds used so far, open files."""

    rss_mb: float
    cpu_seconds: float
    files: int


def latency_sla(counters: Mapping[str, Any], spec: PolicySpec) -> Finding:
    """p99 of the version's requests at the gateway, from its histogram, against the spec's objective."""
    requests, limit = int(counters["requests"]), spec.serve.latency_slo_ms
    p50, p99 = (readings.quantile_ms(counters["latency"], q) for q in (0.5, 0.99))
    evidence = {"p50_ms": p50, "p99_ms": p99, "histogram": counters["latency"]}
    if requests < MINIMUM_REQUESTS:
        return _too_few("requests", requests, MINIMUM_REQUESTS)
    return Finding(
        "pass" if p99 <= limit else "fail",
        f"p50 {p50:.3g} ms, p99 {p99:.3g} ms at the gateway, objective {limit:g} ms",
        observed=p99,
        threshold=limit,
        unit="ms",
        sample_size=requests,
        evidence=evidence,
    )


def finite_outputs(counters: Mapping[str, Any]) -> Finding:
    """No decision of the version had an output that was not finite."""
    decisions, broken = int(counters["decisions"]), int(counters["faults"].get("non_finite", 0))
    if not broken and decisions < MINIMUM_DECISIONS:
        return _too_few("decisions", decisions, MINIMUM_DECISIONS)
    return Finding(
        "fail" if broken else "pass",
        f"{broken} of {decisions:,} decisions were not finite",
        observed=broken,
        threshold=0,
        unit="not finite",
        sample_size=decisions,
        evidence={"faults": counters["faults"]},
    )


def action_distribution(counters: Mapping[str, Any], baseline: Mapping[str, Any], spec: PolicySpec) -> Finding:
    """Live actions against the package's on-policy baseline, by total variation (the largest over dimensions).

    Actions of one episode depend on each other, so the chi-squared statistic is kept as evidence, not as the test.
    """
    if not baseline:
        return Finding("fail", f"there are no actions to compare with: {NO_BASELINE}")
    pairs = readings.action_counts(counters["actions"], baseline)
    seen, wanted = int(pairs[0][0].sum()), min(spec.monitor.window, MINIMUM_DECISIONS)
    if seen < wanted:
        return _too_few("actions", seen, wanted)
    shift = max(readings.total_variation(*pair) for pair in pairs)
    return Finding(
        "pass" if shift <= MAX_ACTION_SHIFT else "fail",
        f"actions moved by {shift:.3f} from the evaluation's (total variation; {MAX_ACTION_SHIFT:g} is allowed)",
        observed=shift,
        threshold=MAX_ACTION_SHIFT,
        unit="total variation",
        sample_size=seen,
        evidence={
            "chi_squared": max(readings.chi_squared(*pair) for pair in pairs),
            "entropy_nats": min(readings.entropy(live) for live, _ in pairs),
            "live": [live.astype(int).tolist() for live, _ in pairs],
            "baseline": [expected.astype(int).tolist() for _, expected in pairs],
        },
    )


def reward_trend(returns: Sequence[float], evaluated: float | None, spec: PolicySpec) -> Finding:
    """Mean return in production against the evaluation's: not degraded by more than the spec's share.

    Fails when even the upper end of the live mean's one-sided 95 % interval lies below; a mean below whose interval
    reaches above is inconclusive. A package without an evaluated return fails.
    """
    if evaluated is None:
        return Finding("fail", f"there is no return to compare with: {NO_BASELINE}")
    if len(returns) < MINIMUM_RETURNS:
        return _too_few("returns", len(returns), MINIMUM_RETURNS)
    limit = spec.monitor.max_return_drop
    mean = statistics.fmean(returns)
    upper = mean + 1.645 * statistics.stdev(returns) / math.sqrt(len(returns))
    drop = readings.return_drop(returns, evaluated).value
    least = readings.return_drop([upper], evaluated).value
    status = "pass" if drop <= limit else "fail" if least > limit else "inconclusive"
    return Finding(
        status,  # type: ignore[arg-type]
        f"mean return {mean:.1f} in production, {evaluated:.1f} when evaluated: {abs(drop):.1%} "
        f"{'lost' if drop > 0 else 'gained'}, {limit:.0%} may be lost",
        observed=drop,
        threshold=limit,
        unit="share lost",
        sample_size=len(returns),
        evidence={"mean": mean, "upper": upper, "evaluated": evaluated},
    )


def error_rate(counters: Mapping[str, Any], requests: int, failures: Sequence[str]) -> Finding:
    """Faulty decisions of the version and failed probe requests, each against one share."""
    decisions, faults = int(counters["decisions"]), sum(counters["faults"].values())
    if decisions < MINIMUM_DECISIONS:
        return _too_few("decisions", decisions, MINIMUM_DECISIONS)
    share = max(faults / decisions, len(failures) / max(requests, 1))
    return Finding(
        "pass" if share <= MAX_ERRORS else "fail",
        f"{faults} faults in {decisions:,} decisions, {len(failures)} of {requests:,} probe requests failed",
        observed=share,
        threshold=MAX_ERRORS,
        unit="share",
        sample_size=decisions,
        evidence={"faults": counters["faults"], "failures": list(failures)[:5]},
    )


def resource_usage(samples: Sequence[Usage], decisions: int) -> Finding:
    """Memory, CPU and open files of the gateways over a few seconds of load: no growth, and below a limit."""
    if len(samples) < 3:
        return Finding("inconclusive", "the gateway told too little of its workers")
    first, last = samples[0], samples[-1]
    growth, files = last.rss_mb - first.rss_mb, last.files - first.files
    stable = growth <= MAX_GROWTH_MB and last.rss_mb <= MAX_RSS_MB and files <= MAX_NEW_FILES
    return Finding(
        "pass" if stable else "fail",
        f"{last.rss_mb:.0f} MB ({growth:+.1f} MB), {last.files} open files ({files:+d}), "
        f"{last.cpu_seconds - first.cpu_seconds:.1f} s of CPU over {decisions:,} decisions",
        observed=growth,
        threshold=MAX_GROWTH_MB,
        unit="MB growth",
        sample_size=len(samples),
        evidence={"first": asdict(first), "last": asdict(last), "limit_mb": MAX_RSS_MB},
    )


def _too_few(what: str, came: int, wanted: int) -> Finding:
    return Finding(
        "inconclusive",
        f"{came} {what} are too few to tell; {wanted} are needed",
        observed=came,
        threshold=wanted,
        unit=what,
        sample_size=came,
    )
