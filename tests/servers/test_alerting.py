"""Every rule on the real Prometheus fires on its fault, reaches a receiver by the real Alertmanager, and clears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.alerts.prometheus import render
from tasks.checklist.alert_drill import Receiver
from tests.bentos.gateway_process import wait_until
from tests.servers.exposition import FAULTS, Told
from tests.servers.monitoring import Alertmanager, Page, Prometheus
from tests.servers.test_alert_rules import spec_of

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]
SECONDS = 120


def heard(bodies: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """The last status that was received of each alert, by policy and metric."""
    told = [alert for body in bodies for alert in body["alerts"]]
    return {(alert["labels"]["policy"], alert["labels"]["metric"]): alert["status"] for alert in told}


def test_every_rule_fires_reaches_a_receiver_and_clears(tmp_path: Path) -> None:
    versions = {metric: Told(metric) for metric in FAULTS}
    broken = False

    def page() -> str:
        for metric, told in versions.items():
            told.serve(metric if broken else None)
        return "".join(told.page() for told in versions.values())

    rules = render([spec_of(metric) for metric in versions], window="10s", patience="1s")
    own = {(metric, metric) for metric in FAULTS}
    down = {(metric, "gateway_up") for metric in FAULTS}
    with (
        Receiver() as receiver,
        Page(page) as gateway,
        Alertmanager(tmp_path / "alertmanager", receiver.url) as alertmanager,
        Prometheus(tmp_path / "prometheus", gateway.address, rules, f"127.0.0.1:{alertmanager.port}") as prometheus,
    ):
        told = receiver.received
        wait_until(lambda: prometheus.query("rl_inference_total > 2000"), "the calm was scraped for a while", SECONDS)
        assert heard(told) == {}, "nothing fires in the calm"
        broken = True
        wait_until(lambda: own <= heard(told).keys(), "every alert was received", SECONDS)
        assert heard(told) == dict.fromkeys(own, "firing"), "each fault raises its own alert and no other"
        broken = False
        wait_until(lambda: heard(told) == dict.fromkeys(own, "resolved"), "every alert was cleared", SECONDS)
        gateway.down = True
        wait_until(lambda: down <= heard(told).keys(), "the gateway's absence was received", SECONDS)
        gateway.down = False
        everything = dict.fromkeys(own | down, "resolved")
        wait_until(lambda: heard(told) == everything, "all is clear again", SECONDS)
