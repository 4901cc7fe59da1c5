"""What the gateway says is live, and what its metrics say of drift."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from bentos import settings
from tasks.monitoring import live as module
from tasks.monitoring.live import GatewaySilent, drift, live
from tests.tasks.gateway_double import GatewayDouble, serving

METRICS = """\
# HELP rl_observation_drift Distance
# TYPE rl_observation_drift gauge
rl_observation_drift{arm="champion",dimension="0",policy="cartpole",statistic="ks",version="1"} 0.1
rl_observation_drift{arm="champion",dimension="2",policy="cartpole",statistic="ks",version="1"} 0.3
rl_observation_drift{arm="champion",dimension="all",policy="cartpole",statistic="sequential",version="1"} 1.2
rl_observation_drift{arm="challenger",dimension="all",policy="cartpole",statistic="sequential",version="2"} NaN
# TYPE rl_action_drift gauge
rl_action_drift{arm="champion",dimension="all",policy="pendulum",statistic="sequential",version="7"} 0.999
# TYPE rl_inference_total counter
rl_inference_total{policy="cartpole"} 5.0
"""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))


def test_of_each_statistic_the_worst_dimension_is_told_with_the_alarm_first() -> None:
    found = drift(METRICS)
    assert [(f.statistic, f.dimension, f.value) for f in found["cartpole"]] == [
        ("sequential", "all", 1.2),
        ("ks", "2", 0.3),
    ]
    assert [figure.alarm for figure in found["cartpole"]] == [True, False]
    assert not found["pendulum"][0].alarm


def test_the_gateway_is_asked_as_its_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.url.path == "/metrics":
            return httpx.Response(200, text=METRICS)
        return httpx.Response(200, json={"policies": [{"policy": "cartpole", "champion": "1"}]})

    real = httpx.Client
    monkeypatch.setattr(module.httpx, "Client", lambda **given: real(transport=httpx.MockTransport(answer), **given))
    found = live("http://gateway")
    assert found.policies["cartpole"]["champion"] == "1"
    assert found.drift["cartpole"][0].alarm
    by_path = {request.url.path: request.headers.get("authorization") for request in asked}
    assert by_path == {"/v1/policies": f"Bearer {settings.secret('admin_token')}", "/metrics": None}


def test_a_gateway_without_metrics_still_says_what_is_live() -> None:
    with serving(GatewayDouble(policies=[{"policy": "cartpole", "champion": "3"}])) as gateway:
        found = live(gateway.url)
    assert (found.policies["cartpole"]["champion"], found.drift) == ("3", {})


def test_a_gateway_that_is_down_is_named() -> None:
    with pytest.raises(GatewaySilent, match=r"the gateway at http://127\.0\.0\.1:9 does not answer"):
        live("http://127.0.0.1:9")
