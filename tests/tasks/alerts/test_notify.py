"""Alerts reach those whom the spec names, receivers that misbehave hurt nobody, and no secret is told."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tasks.alerts import notify
from tasks.alerts.notify import deliver, receiver
from tasks.alerts.rules import Alert


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PAUSE_SECONDS", 0.0)


@contextmanager
def receiving(statuses: list[int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
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
    with receiving([204]) as (url, bodies):
        (delivery,) = deliver([_alert()], [url])
    assert (delivery.delivered, delivery.attempts) == (True, 1)
    assert bodies[0]["alerts"][0]["name"] == "HIGH_LATENCY"
    assert bodies[0]["alerts"][0]["observed"] == 250.0


def test_a_receiver_that_fails_for_a_moment_is_tried_again() -> None:
    with receiving([503, 429, 200]) as (url, bodies):
        (delivery,) = deliver([_alert()], [url])
    assert (delivery.delivered, len(bodies)) == (True, 3)


def test_a_receiver_that_stays_down_is_given_up_without_raising() -> None:
    with receiving([500]) as (url, bodies):
        (delivery,) = deliver([_alert()], [url])
    assert (delivery.delivered, delivery.error, len(bodies)) == (False, "HTTP 500", notify.ATTEMPTS)


def test_a_refusal_is_not_repeated() -> None:
    with receiving([400]) as (url, bodies):
        (delivery,) = deliver([_alert()], [url])
    assert (delivery.delivered, len(bodies)) == (False, 1)


def test_one_dead_receiver_does_not_keep_the_alert_from_another() -> None:
    with receiving([200]) as (url, bodies):
        dead, alive = deliver([_alert()], ["http://127.0.0.1:9/", url])
    assert (dead.delivered, alive.delivered, len(bodies)) == (False, True, 1)


def test_a_latency_past_the_last_bucket_can_be_sent() -> None:
    with receiving([200]) as (url, bodies):
        (delivery,) = deliver([_alert(float("inf"))], [url])
    assert delivery.delivered
    assert bodies[0]["alerts"][0]["observed"] == "inf"


def test_nothing_raised_sends_nothing() -> None:
    with receiving([200]) as (url, bodies):
        assert deliver([], [url]) == []
    assert bodies == []


def test_other_services_are_told_by_apprise_in_words() -> None:
    with receiving([200]) as (url, bodies):
        service = url.replace("http://", "json://user:secret@")
        (delivery,) = deliver([_alert()], [service])
    assert (delivery.to, delivery.delivered) == ("json://…", True)
    assert bodies[0]["title"] == "Alert: HIGH_LATENCY of cartpole"
    assert bodies[0]["message"] == "firing HIGH_LATENCY (cartpole 3): slow"


def test_a_url_that_nobody_knows_is_said_to_be_so() -> None:
    (delivery,) = deliver([_alert()], ["nosuchservice://token"])
    assert not delivery.delivered
    assert "Apprise" in delivery.error


def test_a_receiver_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving([200]) as (url, bodies):
        monkeypatch.setenv("PAGER", url)
        (delivery,) = deliver([_alert()], ["$PAGER"])
    assert (delivery.delivered, len(bodies)) == (True, 1)
    monkeypatch.delenv("PAGER")
    (delivery,) = deliver([_alert()], ["${PAGER}"])
    assert (delivery.delivered, delivery.error) == (False, "set PAGER in the environment of Airflow's workers")


def test_no_part_of_a_url_that_may_be_secret_is_logged_or_returned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), receiving([400]) as (url, _):
        port = url.rstrip("/").rpartition(":")[2]
        secret = f"http://user:hunter2@127.0.0.1:{port}/hooks/t0ken?key=s3cret"
        found = deliver([_alert()], [secret, "json://hunter2:t0ken@127.0.0.1:9/s3cret", "slack://t0ken"])
    assert not any(delivery.delivered for delivery in found)
    said = caplog.text + repr(found)
    assert [word for word in ("hunter2", "t0ken", "s3cret") if word in said] == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://a:b@hooks.example.org:8443/x?y", "https://hooks.example.org:8443"),
        ("https://[broken", "https://…"),
        ("slack://token/token", "slack://…"),
        ("token", "a receiver"),
    ],
)
def test_of_a_receiver_only_what_is_no_secret_is_told(url: str, told: str) -> None:
    assert receiver(url) == told
