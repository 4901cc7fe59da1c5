"""Alerts: thresholds as data made from the spec, one pure evaluation, delivery to webhooks."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import httpx

from tasks.readings import Reading
from tasks.spec import PolicySpec

log = logging.getLogger(__name__)

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
ATTEMPTS, PAUSE_SECONDS, TIMEOUT_SECONDS = 3, 0.2, 3.0


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
    """A broken rule, ready to send."""

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


@dataclass(frozen=True)
class Delivery:
    """What became of sending to one receiver."""

    url: str
    delivered: bool
    attempts: int
    error: str = ""


def rules(spec: PolicySpec) -> list[Rule]:
    """The ten alerts of a policy with the thresholds its spec sets."""
    low, high = spec.safety.observation_range or (float("-inf"), float("inf"))
    window = min(spec.monitor.window, 100)
    return [
        Rule(
            "HIGH_LATENCY",
            "latency_p99_ms",
            "above",
            spec.alerts.max_latency_ms,
            "ms",
            "critical",
            "p99 of decision latency",
            20,
        ),
        Rule(
            "OOD_OBSERVATION",
            "out_of_range_share",
            "above",
            MAX_OUT_OF_RANGE,
            "share",
            "warning",
            f"observations outside [{low:g}, {high:g}]",
            20,
        ),
        Rule(
            "NAN_OBSERVATION",
            "non_finite_observations",
            "above",
            0.0,
            "requests",
            "warning",
            "observations that were not finite",
        ),
        Rule(
            "ACTION_SHIFT",
            "action_shift",
            "above",
            MAX_ACTION_SHIFT,
            "total variation",
            "warning",
            "actions against the baseline",
            window,
        ),
        Rule(
            "LOW_ENTROPY",
            "action_entropy",
            "below",
            spec.monitor.min_entropy,
            "nats",
            "warning",
            "entropy of the actions",
            window,
        ),
        Rule(
            "PERFORMANCE_DEGRADATION",
            "return_drop",
            "above",
            spec.monitor.max_return_drop,
            "share",
            "critical",
            "mean return lost against the baseline",
            20,
        ),
        Rule("HIGH_ERROR_RATE", "fault_share", "above", MAX_ERRORS, "share", "critical", "decisions with a fault", 20),
        Rule(
            "HIGH_FALLBACK_RATE",
            "fallback_share",
            "above",
            MAX_FALLBACKS,
            "share",
            "warning",
            "decisions by the fallback",
            20,
        ),
        Rule("GATEWAY_DOWN", "gateway_up", "below", 1.0, "up", "critical", "the gateway does not answer"),
        Rule(
            "CANARY_STUCK",
            "canary_hours",
            "above",
            spec.canary.max_hours,
            "h",
            "warning",
            "the canary outlived its budget",
        ),
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


def payload(alerts: Sequence[Alert]) -> dict[str, Any]:
    """The JSON body a receiver gets."""
    alerts_json = [{name: _plain(value) for name, value in asdict(alert).items()} for alert in alerts]
    return {"schema_version": 1, "source": "airlock", "alerts": alerts_json}


def _plain(value: Any) -> Any:
    # JSON has no infinity, and a p99 past the last bucket is one
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def deliver(alerts: Sequence[Alert], urls: Iterable[str]) -> list[Delivery]:
    """Post the alerts to every receiver, each tried up to three times. Never raises for a receiver's fault."""
    return [_post(url, payload(alerts)) for url in urls] if alerts else []


def _post(url: str, body: dict[str, Any]) -> Delivery:
    error = ""
    for attempt in range(1, ATTEMPTS + 1):
        if attempt > 1:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 2))
        try:
            answer = httpx.post(url, json=body, timeout=TIMEOUT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            error = f"{type(problem).__name__}: {problem}"
            continue
        if answer.is_success:
            return Delivery(url, True, attempt)
        error = f"HTTP {answer.status_code}"
        if answer.status_code < 500 and answer.status_code != 429:
            break
    log.warning("alert not delivered to %s: %s", url, error)
    return Delivery(url, False, attempt, error)
