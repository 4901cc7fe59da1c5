"""The alert rules of `tasks/alerts/rules.py` as Prometheus reads them: the same metrics, thresholds and least samples.

Every metric of a rule has one expression here, by policy and version, over the counters that the gateway exports. What
Prometheus computes from them is what `tasks/alerts/readings.py` computes from the same counters; tests hold both
together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from bentos.telemetry.counters import LATENCY_BUCKETS
from tasks.alerts import rules as alerts
from tasks.alerts.readings import GAUGES, Gauge
from tasks.alerts.rules import Rule
from tasks.errors import Misconfigured
from tasks.spec.sections import PolicySpec

JOB = "airlock"
"""The scrape job of the gateways, in `deploy/prometheus/prometheus.yml`."""

WINDOW, PATIENCE = "5m", {"critical": "1m", "warning": "5m"}
_BY = "by (policy, version)"
_SLOWEST_MS = 1000 * LATENCY_BUCKETS[-1]


@dataclass(frozen=True)
class Expression:
    """A metric in PromQL: its value and the samples it rests on (null: it is told only once there are enough)."""

    value: str
    samples: str | None = None


def duration(text: str) -> str:
    """A duration as Prometheus writes them. Raises Misconfigured for anything else."""
    if not re.fullmatch(r"([0-9]+(ms|[smhdwy]))+", text):
        raise Misconfigured(f"expected a duration such as 30s, 5m or 1h, came {text!r}")
    return text


def _gained(series: str, window: str, of: str = "increase") -> str:
    return f"sum {_BY} ({of}({series}[{window}]))"


def _gauge(gauge: Gauge, served: str) -> Expression:
    statistic = f',statistic="{gauge.statistic}"' if gauge.statistic else ""
    chosen = f'{gauge.family}{{{served},dimension="all"{statistic}}}'
    return Expression(f"{'min' if gauge.least else 'max'} {_BY} ({chosen})")


def expressions(policy: str, window: str = WINDOW) -> dict[str, Expression]:
    """Every metric that rules are about, in PromQL, for the versions of `policy` over the last `window`."""
    served = f'policy="{policy}",arm!="shadow"'
    sampled = _gained(f"rl_observations_sampled_total{{{served}}}", window)
    decisions = _gained(f"rl_inference_total{{{served}}}", window)
    requests = _gained(f"rl_inference_latency_seconds_count{{{served}}}", window)
    buckets = f"sum by (policy, version, le) (increase(rl_inference_latency_seconds_bucket{{{served}}}[{window}]))"
    p99 = f"1000 * histogram_quantile(0.99, {buckets})"
    # both with `delta`: returns may be negative, so their sum is no counter
    returned = _gained(f"rl_episode_return_sum{{{served}}}", window, "delta")
    ended = _gained(f"rl_episode_return_count{{{served}}}", window, "delta")
    measured = f"max {_BY} (rl_return_baseline{{{served}}})"
    started = f'max by (policy) (rl_canary_hours{{policy="{policy}"}})'
    down = f'min(up{{job="{JOB}"}}) or vector(0)'

    def share(series: str, whole: str = decisions) -> Expression:
        return Expression(f"{_gained(series, window)} / {whole}", whole)

    return {
        # past the last bucket nobody knows how slow: as slow as can be
        "latency_p99_ms": Expression(f"({p99} < {_SLOWEST_MS:g} or {p99} * Inf)", requests),
        "out_of_range_share": share(f'rl_observation_outliers_total{{{served},kind="range"}}'),
        "outlier_share": share(f'rl_observation_outliers_total{{{served},kind="mahalanobis"}}', sampled),
        "non_finite_observations": Expression(_gained(f'rl_rejected_total{{{served},reason="non_finite"}}', window)),
        "fault_share": share(f"rl_faults_total{{{served}}}"),
        "fallback_share": share(f'rl_inference_total{{{served},source="fallback"}}'),
        "return_drop": Expression(f"({measured} - {returned} / {ended}) / clamp_min(abs({measured}), 1e-9)", ended),
        "gateway_up": Expression(f'label_replace({down}, "policy", "{policy}", "", "")'),
        "canary_hours": Expression(started),
        **{metric: _gauge(gauge, served) for metric, gauge in GAUGES.items()},
    }


def condition(rule: Rule, expression: Expression) -> str:
    """When the rule is broken, in PromQL."""
    broken = f"{expression.value} {'>' if rule.comparison == 'above' else '<'} {rule.threshold:g}"
    if expression.samples is None:
        return broken
    # extrapolation makes 20 samples 19.999…
    return f"{broken} and {expression.samples} >= {rule.minimum_samples - 0.5:g}"


def document(
    specs: Iterable[PolicySpec], window: str = WINDOW, patience: dict[str, str] | str | None = None
) -> dict[str, Any]:
    """The rules file of Prometheus for these policies: one group each.

    `window` is the stretch of time that rates are read over; `patience` how long a rule must stay broken before its
    alert fires, by severity or for all. Both are durations as Prometheus writes them.
    """
    wait = PATIENCE if patience is None else patience
    return {
        "groups": [
            {
                "name": f"airlock-{spec.name}",
                "rules": [_rendered(rule, spec, window, wait) for rule in alerts.rules(spec)],
            }
            for spec in specs
        ]
    }


def _rendered(rule: Rule, spec: PolicySpec, window: str, patience: dict[str, str] | str) -> dict[str, Any]:
    return {
        "alert": rule.alert,
        "expr": condition(rule, expressions(spec.name, window)[rule.metric]),
        "for": patience if isinstance(patience, str) else patience[rule.severity],
        "labels": {"severity": rule.severity, "policy": spec.name, "metric": rule.metric},
        "annotations": {
            "summary": f"{spec.name}: {rule.summary}: {{{{ $value }}}} {rule.unit}, threshold {rule.threshold:g}"
        },
    }


def resource(rules: dict[str, Any]) -> dict[str, Any]:
    """The rules file `rules` as a PrometheusRule, which the Prometheus operator reads on Kubernetes."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": JOB, "labels": {"app.kubernetes.io/part-of": JOB}},
        "spec": rules,
    }


def render(
    specs: Iterable[PolicySpec],
    window: str = WINDOW,
    patience: dict[str, str] | str | None = None,
    kubernetes: bool = False,
) -> str:
    """`document` as YAML; with `kubernetes` as a `resource`."""
    rules = document(specs, window, patience)
    text: str = yaml.safe_dump(resource(rules) if kubernetes else rules, sort_keys=False, width=10_000)
    return text
