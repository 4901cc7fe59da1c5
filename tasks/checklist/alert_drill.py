"""The alerts check: a real rule made too tight is broken by live evidence, sent, and received back."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from tasks.alerts import notify, rules
from tasks.alerts.readings import Reading
from tasks.checklist.types import Finding
from tasks.spec.sections import PolicySpec

DRILLED = "HIGH_LATENCY"


class Receiver:
    """A webhook receiver on a free local port that keeps what it gets; a context manager."""

    def __init__(self) -> None:
        received: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: what came is kept, not printed."""

        self.received = received
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/alerts"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


def alerts_working(spec: PolicySpec, version: str, evidence: Mapping[str, Reading], at: float) -> Finding:
    """Raise the latency alert for real, with its threshold put below the live reading, and receive it.

    It goes to a receiver of this check and to every one the spec notifies, and says that it is a drill.
    """
    rule = next(rule for rule in rules.rules(spec) if rule.alert == DRILLED)
    reading = evidence[rule.metric]
    tight = replace(rule, threshold=min(rule.threshold, reading.value / 2), minimum_samples=0)
    raised = rules.evaluate([tight], evidence, spec.name, version, at)
    drilled = [replace(alert, severity="warning", summary=f"drill: {alert.summary}") for alert in raised]
    with Receiver() as receiver:
        deliveries = notify.deliver(drilled, [receiver.url, *spec.alerts.notify])
        received = [alert for body in receiver.received for alert in body["alerts"]]
    problems = [f"{d.to}: {d.error}" for d in deliveries if not d.delivered]
    if not raised:
        problems.append(f"{DRILLED} was not raised by {reading.value:.3g} {rule.unit} against {tight.threshold:.3g}")
    elif not any(alert["name"] == DRILLED and alert["version"] == version for alert in received):
        problems.append("what was received is not the alert that was raised")
    return Finding(
        "fail" if problems else "pass",
        "; ".join(problems)
        or f"{DRILLED} raised at {tight.threshold:.3g} ms and received by {len(deliveries)} "
        f"receiver{'s' if len(deliveries) > 1 else ''}",
        observed=sum(delivery.delivered for delivery in deliveries),
        threshold=1 + len(spec.alerts.notify),
        unit="deliveries",
        sample_size=len(deliveries),
        evidence={"received": received[:1], "deliveries": [asdict(delivery) for delivery in deliveries]},
    )
