"""A real Prometheus fed by a real gateway: every query of every dashboard has data, and both sources say the same."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from bentos.canary import Canary
from bentos.package.manifest import Serve
from bentos.package.safety import Safety
from bentos.store import tables
from tasks.alerts import rules as alerts
from tasks.alerts.readings import readings
from tasks.build.packaging.baselines import baselines
from tasks.monitoring.checks import checks, gather
from tasks.monitoring.reports import Memory
from tasks.monitoring.sources import GatewaySource, PrometheusSilent, PrometheusSource, Since
from tasks.spec.sections import PolicySpec
from tests.bentos.gateway_process import GatewayProcess, MlflowProcess, wait_until
from tests.bentos.policy_packages import DISCRETE, discrete_graph, write_package
from tests.servers.monitoring import DEPLOY, Prometheus
from tests.servers.test_alert_rules import spec_of

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]
POLICY = "cartpole"


@dataclass
class World:
    """A gateway under traffic and the Prometheus that scrapes it; `began` is before the first decision."""

    gateway: GatewayProcess
    prometheus: Prometheus
    began: float
    baseline: dict[str, Any]


def play(gateway: GatewayProcess, generator: np.random.Generator, mean: float) -> None:
    """Rows like the baseline's, episodes that end, and what is refused or changed now and then."""
    base = f"{gateway.url}/v1/policies/{POLICY}"
    with httpx.Client(timeout=30) as client:
        opened = client.post(f"{base}/episodes", json={"user_ids": [f"u{n}" for n in range(20)]}).json()["episodes"]
        for _ in range(5):
            rows = generator.normal(mean, 1.0, size=(20, 4)).tolist()
            ids = [episode["episode_id"] for episode in opened]
            masks = [[True, False]] * 2 + [[True, True]] * 18
            question = {"observations": rows, "episode_ids": ids, "action_masks": masks}
            client.post(f"{base}/act", json=question).raise_for_status()
        outcomes = [{"episode_id": e["episode_id"], "return": 400.0 + n, "length": 5} for n, e in enumerate(opened)]
        client.post(f"{base}/outcomes", json={"outcomes": outcomes}).raise_for_status()
        far = [[20.0, 0.0, 0.0, 0.0]] * 4
        client.post(f"{base}/act", json={"observations": far}).raise_for_status()
        refused = client.post(f"{base}/act", json={"observation": [1e39, 0.0, 0.0, 0.0]})  # past float32
        assert (refused.status_code, "finite" in refused.text) == (422, True), refused.text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A champion and a canary, served for long enough that everything there is to tell is told."""
    home = tmp_path_factory.mktemp("observed")
    generator = np.random.default_rng(3)
    seen = generator.normal(size=(4000, 4)).astype(np.float32)
    graph = discrete_graph([[0, 0], [0, 0], [-1, 1], [-1, 1]], [0, 0])
    acted = (seen[:, 2] + seen[:, 3] > 0).astype(np.int64)
    measured = baselines(DISCRETE, {"observation": seen}, acted, np.full(40, 405.0) + np.arange(40) % 3)
    serve = Serve(fallback={"constant": 0}, deadline_ms=60_000)
    safety = Safety(observation_range=(-10, 10))
    mlflow = MlflowProcess(home / "mlflow")
    gateway = None
    try:
        for version in ("1", "2"):
            where = home / version
            digest = write_package(where, graph=graph, serve=serve, safety=safety, baselines=measured)
            assert mlflow.publish(POLICY, where, digest) == version
        mlflow.alias(POLICY, "champion", "1")
        canary = Canary("g", "1", "2", 0.25, "ab" * 16, 1, time.time() - 3600)
        mlflow.tag(POLICY, "canary", json.dumps(canary.document()))
        gateway = GatewayProcess(home / "gateway", MLFLOW_TRACKING_URI=mlflow.url)
        gateway.client.close()
        with Prometheus(home / "prometheus", gateway.url.removeprefix("http://")) as prometheus:
            shown = f"{gateway.url}/v1/policies/{POLICY}"
            wait_until(lambda: (httpx.get(shown).json().get("canary") or {}).get("version") == "2", "a canary", 120)
            play(gateway, generator, 0.0)
            wait_until(lambda: prometheus.query("rl_inference_total"), "the first scrape", 60)
            began = time.time()
            told = 'rl_action_entropy{version="2",dimension="all"} >= 0'
            deadline = time.monotonic() + 240
            while not (prometheus.query(told) and time.time() - began > 15):
                assert time.monotonic() < deadline, "no full window of the challenger"
                play(gateway, generator, 0.0)
            time.sleep(3)
            yield World(gateway, prometheus, began, measured)
    finally:
        if gateway is not None:
            gateway.kill()
        mlflow.stop()


def queries() -> list[tuple[str, str]]:
    """Every query of every panel, with its dashboard and title."""
    found = []
    for file in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            found += [(f"{file.stem}: {panel['title']}", target["expr"]) for target in panel["targets"]]
    return found


def test_every_query_of_every_dashboard_returns_data(world: World) -> None:
    empty = []
    for title, query in queries():
        asked = query.replace("$__rate_interval", "10m").replace("$policy", POLICY)
        samples = world.prometheus.query(asked)
        if not samples or all(sample["value"][1] == "NaN" for sample in samples):
            empty.append(f"{title}: {asked}")
    assert empty == []
    assert len(queries()) > 25


def test_every_metric_that_a_rule_or_a_panel_names_is_one_of_the_gateways(world: World) -> None:
    told = set(httpx.get(f"{world.prometheus.url}/api/v1/label/__name__/values").json()["data"])
    rules = (DEPLOY / "prometheus" / "airlock-rules.yml").read_text()
    named = set(re.findall(r"rl_\w+", rules + " ".join(query for _, query in queries())))
    assert named - told == set()


def patient(spec: PolicySpec) -> PolicySpec:
    """The spec with limits of latency that a busy machine keeps, too."""
    serve = spec.serve.model_copy(update={"latency_slo_ms": 60_000})
    return spec.model_copy(update={"serve": serve, "alerts": spec.alerts.model_copy(update={"max_latency_ms": 60_000})})


def test_both_sources_give_the_same_verdict_on_the_same_traffic(world: World) -> None:
    spec = patient(spec_of(POLICY))
    engine = tables.connect(f"sqlite:///{world.gateway.home}/airlock.db")
    own, scraped = GatewaySource(engine, world.gateway.url), PrometheusSource(world.prometheus.url)
    since, at = Since(world.began - 60), time.time()
    found, raised = {}, {}
    for name, source in (("gateway", own), ("prometheus", scraped)):
        evidence = gather(engine, spec, "1", world.baseline, source, Memory(since=since), at)
        assert evidence.seen.source == name
        found[name] = {check.id: check.status for check in checks(spec, evidence)}
        numbers = readings(evidence.seen.counters, evidence.baseline_return, evidence.seen.figures)
        fired = [alert.metric for alert in alerts.evaluate(alerts.rules(spec), numbers, POLICY, "1", at)]
        raised[name] = [metric for metric in fired if metric != "outlier_share"]  # as sampled it is near its limit
        assert numbers["latency_p99_ms"].samples > 100
    assert found["gateway"] == found["prometheus"]
    assert found["gateway"]["action_distribution"] == "pass"
    assert raised["gateway"] == raised["prometheus"]
    assert raised["gateway"] == ["out_of_range_share", "non_finite_observations"]


def test_a_prometheus_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(PrometheusSilent) as silent:
        PrometheusSource("http://user:hunter2@127.0.0.1:9").seen("p", "1", Since(0.0), 1.0)
    assert "http://127.0.0.1:9" in str(silent.value)
    assert "hunter2" not in str(silent.value)
