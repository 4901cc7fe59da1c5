"""A version's counters and figures as the gateway's page of metrics tells them, and a fault for every alert rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from bentos.telemetry.counters import LATENCY_BUCKETS, Arm
from tasks.alerts.readings import GAUGES

BASELINE_RETURN = 500.0
CALM = {"observation_drift": 0.01, "action_drift": 0.01, "action_shift": 0.05, "action_entropy": 0.6}


@dataclass
class Told:
    """What a gateway tells of one version of a policy."""

    policy: str
    arm: Arm = field(default_factory=Arm)
    figures: dict[str, float] = field(default_factory=lambda: dict(CALM))
    canary_hours: float = 0.0

    def serve(self, fault: str | None = None) -> None:
        """A hundred requests more, fifty episodes among them, with the fault of that metric."""
        self.figures, self.canary_hours = dict(CALM), 0.0
        for number in range(100):
            slow = fault == "latency_p99_ms" and number % 20 == 0
            self.arm.decided(1, 0.2 if slow else 0.001)
        self.arm.count(self.arm.sources, "policy", 100)
        self.arm.sampled(100, 0)
        for _ in range(50):
            self.arm.ended(300.0 if fault == "return_drop" else 490.0, 10)
        if fault is not None and fault in FAULTS:
            FAULTS[fault](self)

    def series(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Name, labels and value of every series, always the same ones."""
        ours = {"policy": self.policy, "version": "7", "arm": "champion"}
        stats = self.arm.to_json()
        for source, count in stats["sources"].items():
            yield "rl_inference_total", {**ours, "source": source}, count
        for kind, count in stats["faults"].items():
            yield "rl_faults_total", {**ours, "kind": kind}, count
        yield "rl_rejected_total", {**ours, "reason": "non_finite"}, stats["rejected"].get("non_finite", 0)
        yield "rl_observation_outliers_total", {**ours, "kind": "range"}, stats["observation_out_of_range"]
        yield "rl_observation_outliers_total", {**ours, "kind": "mahalanobis"}, stats["observation_outlier"]
        yield "rl_observations_sampled_total", ours, stats["observation_sampled"]
        bounds = [*map(str, LATENCY_BUCKETS), "+Inf"]
        for bound, count in zip(bounds, accumulate(stats["latency"]["counts"]), strict=True):
            yield "rl_inference_latency_seconds_bucket", {**ours, "le": bound}, count
        yield "rl_inference_latency_seconds_count", ours, stats["requests"]
        yield "rl_episode_return_sum", ours, stats["return_sum"]
        yield "rl_episode_return_count", ours, stats["episodes"]
        yield "rl_return_baseline", {**ours, "arm": ""}, BASELINE_RETURN
        yield "rl_canary_hours", {**ours, "version": "8", "arm": "challenger"}, self.canary_hours
        for metric, gauge in GAUGES.items():
            statistic = {"statistic": gauge.statistic} if gauge.statistic else {}
            yield gauge.family, {**ours, **statistic, "dimension": "all"}, self.figures[metric]

    def page(self) -> str:
        """The series as a page of metrics."""
        return "".join(f"{name}{selector(labels)} {value}\n" for name, labels, value in self.series())


def selector(labels: dict[str, str]) -> str:
    """Labels as Prometheus writes them."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _figure(metric: str, value: float) -> Callable[[Told], None]:
    return lambda told: told.figures.update({metric: value})


def _out_of_range(told: Told) -> None:
    told.arm.observation_out_of_range += 2


def _far(told: Told) -> None:
    told.arm.sampled(0, 6)


def _old_canary(told: Told) -> None:
    told.canary_hours = 25.0


FAULTS: dict[str, Callable[[Told], None]] = {
    "latency_p99_ms": lambda told: None,
    "return_drop": lambda told: None,
    "out_of_range_share": _out_of_range,
    "outlier_share": _far,
    "non_finite_observations": lambda told: told.arm.count(told.arm.rejected, "non_finite", 1),
    "fault_share": lambda told: told.arm.count(told.arm.faults, "exception", 2),
    "fallback_share": lambda told: told.arm.count(told.arm.sources, "fallback", 6),
    "canary_hours": _old_canary,
    "observation_drift": _figure("observation_drift", 1.1),
    "action_shift": _figure("action_shift", 0.21),
    "action_entropy": _figure("action_entropy", 0.09),
}
"""By metric, what breaks the rule on it; GATEWAY_DOWN is broken by a gateway that is down."""
