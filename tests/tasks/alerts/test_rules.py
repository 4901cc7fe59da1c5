"""Alerts: thresholds from the spec, evaluated on both sides."""

from __future__ import annotations

import pytest

from tasks.alerts import rules as alerts
from tasks.alerts.readings import Reading
from tasks.alerts.rules import Rule, evaluate, rules
from tasks.spec.files import load
from tasks.spec.sections import PolicySpec


@pytest.fixture
def spec() -> PolicySpec:
    return load("cartpole")


def test_every_alert_of_the_contract_has_a_rule_and_no_metric_has_two(spec: PolicySpec) -> None:
    assert tuple(dict.fromkeys(rule.alert for rule in rules(spec))) == alerts.NAMES
    metrics = [rule.metric for rule in rules(spec)]
    assert len(set(metrics)) == len(metrics)


def test_thresholds_are_the_specs(spec: PolicySpec) -> None:
    document = spec.model_dump(mode="json")
    document["alerts"]["max_latency_ms"] = 7
    document["monitor"]["min_entropy"] = 0.3
    found = {rule.alert: rule.threshold for rule in rules(PolicySpec.model_validate(document))}
    assert (found["HIGH_LATENCY"], found["LOW_ENTROPY"]) == (7, 0.3)


@pytest.mark.parametrize("metric", [rule.metric for rule in rules(load("cartpole"))])
def test_an_alert_is_silent_at_its_threshold_and_raised_beyond(spec: PolicySpec, metric: str) -> None:
    rule = next(rule for rule in rules(spec) if rule.metric == metric)
    beyond = rule.threshold + (0.5 if rule.comparison == "above" else -0.5)

    def raised(value: float, samples: int) -> list[str]:
        evidence = {rule.metric: Reading(value, samples)}
        return [alert.name for alert in evaluate(rules(spec), evidence, "cartpole", "3", at=0.0)]

    assert raised(rule.threshold, rule.minimum_samples) == []
    assert raised(beyond, rule.minimum_samples) == [rule.alert]
    assert raised(beyond, rule.minimum_samples - 1) == []


def test_a_reading_that_is_not_a_number_breaks_the_rule() -> None:
    rule = Rule("HIGH_LATENCY", "p99", "above", 5.0, "ms", "critical", "p99")
    assert rule.breached(Reading(float("nan"), 1))


def test_an_alert_says_what_was_seen_and_what_was_allowed(spec: PolicySpec) -> None:
    (alert,) = evaluate(rules(spec), {"latency_p99_ms": Reading(250.0, 100)}, "cartpole", "3", at=5.0)
    assert (alert.policy, alert.version, alert.observed, alert.threshold, alert.at) == ("cartpole", "3", 250, 100, 5)
    assert "250 ms" in alert.summary
    assert "100" in alert.summary
