"""What the gateway's counters say of one version, as numbers that a threshold can be held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from bentos.store import tables
from bentos.telemetry import counters as stats

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gauge:
    """A figure that the gateway tells of a version's last 1,000 rows: one sample of the metric `family`.

    Of several workers' (and arms') figures the worst counts: the largest, or the `least`.
    """

    family: str
    statistic: str | None
    least: bool = False


GAUGES = {
    "observation_drift": Gauge("rl_observation_drift", "sequential"),
    "action_drift": Gauge("rl_action_drift", "sequential"),
    "action_shift": Gauge("rl_action_drift", "total_variation"),
    "action_entropy": Gauge("rl_action_entropy", None, least=True),
}
"""The gauges that alerts and the monitor read, by metric (see `bentos/telemetry/drift.py`)."""


@dataclass(frozen=True)
class Reading:
    """One measured number and how many samples it rests on."""

    value: float
    samples: int


def counters(engine: sa.Engine, policy: str, version: str) -> dict[str, Any]:
    """Counters of what a version served, summed over arms, canaries and gateway workers (as `arm_stats.stats`)."""
    table = tables.arm_stats
    served = table.c.arm != stats.SHADOW
    query = sa.select(table.c.stats).where(table.c.policy == policy, table.c.version == version, served)
    with engine.connect() as connection:
        return stats.total(row.stats for row in connection.execute(query))


def quantile_ms(latency: Mapping[str, Any], q: float) -> float:
    """The q-quantile of a latency histogram in milliseconds, linear inside its bucket; infinite past the last one."""
    counts, bounds = latency["counts"], latency["buckets"]
    wanted = q * sum(counts)
    passed = 0.0
    for index, count in enumerate(counts):
        if count and passed + count >= wanted:
            if index == len(bounds):
                return math.inf
            low = bounds[index - 1] if index else 0.0
            return 1000.0 * float(low + (bounds[index] - low) * (wanted - passed) / count)
        passed += count
    return 0.0


def action_counts(actions: Mapping[str, int], baseline: Mapping[str, Any]) -> list[tuple[Counts, Counts]]:
    """Live and baseline counts, dimension by dimension, each over the same bins (one "dimension" when discrete)."""
    if baseline["kind"] == "discrete":
        expected = np.asarray(baseline["counts"], dtype=float)
        return [(np.array([actions.get(str(k), 0) for k in range(len(expected))], dtype=float), expected)]
    pairs = []
    for dimension, counts in enumerate(baseline["counts"]):
        expected = np.asarray(counts, dtype=float)
        live = np.array([actions.get(f"d{dimension}:{k}", 0) for k in range(len(expected))], dtype=float)
        pairs.append((live, expected))
    return pairs


def total_variation(live: Counts, expected: Counts) -> float:
    """Half the summed difference of two distributions: the largest difference in probability of any event; 0 to 1."""
    return float(abs(live / max(live.sum(), 1.0) - expected / max(expected.sum(), 1.0)).sum() / 2)


def chi_squared(live: Counts, expected: Counts) -> float:
    """Pearson's statistic of homogeneity of two count vectors (two-sample), for the record beside the effect size."""
    pooled = live + expected
    kept = pooled > 0
    share = pooled[kept] / pooled.sum()
    value = sum(float((((c[kept] - c.sum() * share) ** 2) / (c.sum() * share)).sum()) for c in (live, expected))
    return value if live.sum() and expected.sum() else 0.0


def entropy(counts: Counts) -> float:
    """Entropy of a distribution in nats."""
    share = counts[counts > 0] / max(counts.sum(), 1.0)
    return float(-(share * np.log(share)).sum())


def readings(
    summed: Mapping[str, Any], baseline_return: float | None = None, figures: Mapping[str, float] | None = None
) -> dict[str, Reading]:
    """Numbers for the alert rules, from summed counters, the package's mean return and figures of `GAUGES`.

    A metric that cannot be told is left out: no returns yet, a window that is not full.
    """
    decisions, requests, episodes = int(summed["decisions"]), int(summed["requests"]), int(summed["episodes"])
    sampled = int(summed["observation_sampled"])
    share = 1.0 / max(decisions, 1)
    found = {
        "latency_p99_ms": Reading(quantile_ms(summed["latency"], 0.99), requests),
        "out_of_range_share": Reading(summed["observation_out_of_range"] * share, decisions),
        "outlier_share": Reading(summed["observation_outlier"] / max(sampled, 1), sampled),
        "non_finite_observations": Reading(float(summed["rejected"].get("non_finite", 0)), max(requests, 1)),
        "fault_share": Reading(sum(summed["faults"].values()) * share, decisions),
        "fallback_share": Reading(summed["sources"]["fallback"] * share, decisions),
    }
    if baseline_return is not None and episodes:
        lost = baseline_return - summed["return_sum"] / episodes
        found["return_drop"] = Reading(lost / max(abs(baseline_return), 1e-9), episodes)
    for metric, value in (figures or {}).items():
        if not math.isnan(value):
            found[metric] = Reading(value, 1)
    return found


def return_drop(returns: Sequence[float], baseline_mean: float) -> Reading:
    """Share of the baseline's mean return that the mean of `returns` lost; negative when it gained."""
    mean = float(np.mean(returns)) if len(returns) else baseline_mean
    return Reading((baseline_mean - mean) / max(abs(baseline_mean), 1e-9), len(returns))
