"""Alerts: thresholds from the spec, evaluated on both sides, delivered to receivers that misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tasks import alerts
from tasks.alerts import Alert, Rule, deliver, evaluate, rules
from tasks.readings import Reading
from tasks.spec import PolicySpec, load


@pytest.fixture
def spec() -> PolicySpec:
    return load("cartpole")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "PAUSE_SECONDS", 0.0)


def test_every_alert_of_the_contract_has_one_rule(spec: PolicySpec) -> None:
    assert tuple(rule.alert for rule in rules(spec)) == alerts.NAMES


def test_thresholds_are_the_specs(spec: PolicySpec) -> None:
    document = spec.model_dump(mode="json")
    document["alerts"]["max_latency_ms"] = 7
    document["monitor"]["min_entropy"] = 0.3
    found = {rule.alert: rule.threshold for rule in rules(PolicySpec.model_validate(document))}
    assert (found["HIGH_LATENCY"], found["LOW_ENTROPY"]) == (7, 0.3)


@pytest.mark.parametrize("name", alerts.NAMES)
def test_an_alert_is_silent_at_its_threshold_and_raised_beyond(spec: PolicySpec, name: str) -> None:
    rule = next(rule for rule in rules(spec) if rule.alert == name)
    beyond = rule.threshold + (0.5 if rule.comparison == "above" else -0.5)

    def raised(value: float, samples: int) -> list[str]:
        evidence = {rule.metric: Reading(value, samples)}
        return [alert.name for alert in evaluate(rules(spec), evidence, "cartpole", "3", at=0.0)]

    assert raised(rule.threshold, rule.minimum_samples) == []
    assert raised(beyond, rule.minimum_samples) == [name]
    assert raised(beyond, rule.minimum_samples - 1) == []


def test_a_reading_that_is_not_a_number_breaks_the_rule() -> None:
    rule = Rule("HIGH_LATENCY", "p99", "above", 5.0, "ms", "critical", "p99")
    assert rule.breached(Reading(float("nan"), 1))


def test_an_alert_says_what_was_seen_and_what_was_allowed(spec: PolicySpec) -> None:
    (alert,) = evaluate(rules(spec), {"latency_p99_ms": Reading(250.0, 100)}, "cartpole", "3", at=5.0)
    assert (alert.policy, alert.version, alert.observed, alert.threshold, alert.at) == ("cartpole", "3", 250, 100, 5)
    assert "250 ms" in alert.summary
    assert "100" in alert.summary


@contextmanager
def _receiver(statuses: list[int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver that answers with `statuses` in turn, the last one forever, and what it was sent."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(statuses[min(len(bodies), len(statuses)) - 1])
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", bodies
    server.shutdown()
    server.server_close()
    thread.join()


def _alert(observed: float = 250.0) -> Alert:
    return Alert("HIGH_LATENCY", "cartpole", "3", "critical", "slow", "latency_p99_ms", observed, 100.0, "ms", 9, 1.0)


def test_a_receiver_gets_the_alert_as_json() -> None:
    with _receiver([204]) as (url, bodies):
        (delivery,) = deliver([_alert()], [url])
    assert (delivery.delivered, delivery.attempts) == (True, 1)
    assert bodies[0]["alerts"][0]["name"] == "HIGH_LATENCY"
    assert bodies[0]["alerts"][0]["observed"] == 250.0


def test_a_receiver_that_fails_for_a_moment_is_tried_again() -> None:
    with _receiver([503, 429, 200]) as (url, bodies):
        (delivery,) = deliver([_alert()], [url])
    assert (delivery.delivered, len(bodies)) == (True, 3)


def test_a_receiver_that_stays_down_is_given_up_without_raising() -> None:
    with _receiver([500]) as (url, bodies):
        (delivery,) = deliver([_alert()], [url])
    assert (delivery.delivered, delivery.error, len(bodies)) == (False, "HTTP 500", alerts.ATTEMPTS)


def test_a_refusal_is_not_repeated() -> None:
    with _receiver([400]) as (url, bodies):
        (delivery,) = deliver([_alert()], [url])
    assert (delivery.delivered, len(bodies)) == (False, 1)


def test_one_dead_receiver_does_not_keep_the_alert_from_another() -> None:
    with _receiver([200]) as (url, bodies):
        dead, alive = deliver([_alert()], ["http://127.0.0.1:9/", url])
    assert (dead.delivered, alive.delivered, len(bodies)) == (False, True, 1)


def test_a_latency_past_the_last_bucket_can_be_sent() -> None:
    with _receiver([200]) as (url, bodies):
        (delivery,) = deliver([_alert(float("inf"))], [url])
    assert delivery.delivered
    assert bodies[0]["alerts"][0]["observed"] == "inf"


def test_nothing_raised_sends_nothing() -> None:
    with _receiver([200]) as (url, bodies):
        assert deliver([], [url]) == []
    assert bodies == []
