"""Alerts: thresholds as data made from the spec, and one pure evaluation.

The same rules are rendered for Prometheus by `tasks/alerts/prometheus.py` and sent by `tasks/alerts/notify.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.alerts.readings import Reading
from tasks.spec.sections import PolicySpec

NAMES = (
    "HIGH_LATENCY",
    "OOD_OBSERVATION",
    "NAN_OBSERVATION",
    "ACTION_SHIFT",
    "LOW_ENTROPY",
    "PERFORMANCE_DEGRADATION",
    "HIGH_ERROR_RATE",
    "HIGH_FALLBACK_RATE",
    "GATEWAY_DOWN",
    "CANARY_STUCK",
)
MAX_ACTION_SHIFT = 0.2
"""Total variation distance: an event's probability moved by a fifth. Actions of one episode depend on each other, so
a significance test on their counts fires for nothing; an effect size does not."""
MAX_OUT_OF_RANGE, MAX_ERRORS, MAX_FALLBACKS = 0.01, 0.01, 0.05
MAX_OUTLIERS = 0.05
"""Share of sampled observations beyond the distance from the baseline's mean that 0.1 % of its own rows pass (see
`tasks/build/packaging/baselines.py`): fifty times as many. Rows of one episode depend on each other: hence the room."""
DRIFT_ALARM = 1.0
"""Sequential evidence of drift, in units of its alarm (see `bentos/telemetry/sequential.py`)."""


@dataclass(frozen=True)
class Rule:
    """Raise `alert` when `metric` is `above` (or `below`) `threshold`, once it rests on `minimum_samples`."""

    alert: str
    metric: str
    comparison: Literal["above", "below"]
    threshold: float
    unit: str
    severity: Literal["warning", "critical"]
    summary: str
    minimum_samples: int = 1

    def breached(self, reading: Reading) -> bool:
        """Whether a reading breaks the rule. NaN does; too few samples do not."""
        if reading.samples < self.minimum_samples:
            return False
        kept = reading.value <= self.threshold if self.comparison == "above" else reading.value >= self.threshold
        return not kept


@dataclass(frozen=True)
class Alert:
    """A broken rule, or one that is kept again (`resolved`), ready to send. `at` is Unix seconds."""

    name: str
    policy: str
    version: str | None
    severity: str
    summary: str
    metric: str
    observed: float
    threshold: float
    unit: str
    samples: int
    at: float
    status: Literal["firing", "resolved"] = "firing"


def rules(spec: PolicySpec) -> list[Rule]:
    """The alerts of a policy with the thresholds its spec sets. An alert may have two rules, on different metrics."""
    monitor, slow = spec.monitor, spec.alerts.max_latency_ms
    low, high = spec.safety.observation_range or (float("-inf"), float("inf"))
    outside = f"observations outside [{low:g}, {high:g}]"
    far = "observations far from all of the baseline (Mahalanobis)"
    drift, shift, drop = "evidence that observations have drifted", "actions against the baseline", "mean return lost"
    stuck = "the canary outlived its budget"
    return [
        Rule("HIGH_LATENCY", "latency_p99_ms", "above", slow, "ms", "critical", "p99 of decision latency", 20),
        Rule("OOD_OBSERVATION", "out_of_range_share", "above", MAX_OUT_OF_RANGE, "share", "warning", outside, 20),
        Rule("OOD_OBSERVATION", "outlier_share", "above", MAX_OUTLIERS, "share", "warning", far, 200),
        Rule("OOD_OBSERVATION", "observation_drift", "above", DRIFT_ALARM, "times the alarm", "warning", drift),
        Rule("NAN_OBSERVATION", "non_finite_observations", "above", 0.0, "requests", "warning", "not finite"),
        Rule("ACTION_SHIFT", "action_shift", "above", MAX_ACTION_SHIFT, "total variation", "warning", shift),
        Rule("LOW_ENTROPY", "action_entropy", "below", monitor.min_entropy, "nats", "warning", "entropy of actions"),
        Rule("PERFORMANCE_DEGRADATION", "return_drop", "above", monitor.max_return_drop, "share", "critical", drop, 20),
        Rule("HIGH_ERROR_RATE", "fault_share", "above", MAX_ERRORS, "share", "critical", "decisions with a fault", 20),
        Rule("HIGH_FALLBACK_RATE", "fallback_share", "above", MAX_FALLBACKS, "share", "warning", "by the fallback", 20),
        Rule("GATEWAY_DOWN", "gateway_up", "below", 1.0, "up", "critical", "the gateway does not answer"),
        Rule("CANARY_STUCK", "canary_hours", "above", spec.canary.max_hours, "h", "warning", stuck),
    ]


def evaluate(
    rules: Iterable[Rule], evidence: Mapping[str, Reading], policy: str, version: str | None, at: float
) -> list[Alert]:
    """The alerts that the evidence raises, in the order of the rules. A metric without a reading raises none."""
    return [
        Alert(
            rule.alert,
            policy,
            version,
            rule.severity,
            f"{rule.summary}: {evidence[rule.metric].value:.4g} {rule.unit}, threshold {rule.threshold:g}",
            rule.metric,
            evidence[rule.metric].value,
            rule.threshold,
            rule.unit,
            evidence[rule.metric].samples,
            at,
        )
        for rule in rules
        if rule.metric in evidence and rule.breached(evidence[rule.metric])
    ]
