"""The gateway over HTTP, serving one package, as a client would meet it."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bentos.client import GatewayClient, GatewayError
from bentos.package.loader import load
from bentos.package.safety import Safety
from bentos.tokens import Episode, Signer, new_nonce
from tests.bentos.gateway_process import EPISODE_KEY, GatewayProcess, wait_until
from tests.bentos.policy_packages import BOX, write_package

P = "/v1/policies/cartpole"


@pytest.fixture(scope="module")
def http(served: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


def test_one_decision(http: httpx.Client) -> None:
    answer = http.post(f"{P}/act", json={"observation": [0.0, 0.0, 0.0, 1.0]}).json()
    assert answer.pop("decision_id")
    assert answer == {"action": 1, "version": "7", "arm": "champion", "source": "policy", "adjusted": []}


def test_many_decisions_are_the_packages_own(served: GatewayProcess) -> None:
    observations = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    answer = served.client.act("cartpole", observations)
    assert answer["actions"] == load(served.home / "package").predict(observations).tolist()
    assert len(set(answer["decision_ids"])) == 300


def test_many_at_once_each_get_their_own_answer(served: GatewayProcess) -> None:
    wrong: list[Any] = []

    def ask(seed: int) -> None:
        observations = np.random.default_rng(seed).normal(size=(40, 4)).astype(np.float32)
        with GatewayClient(served.url) as client:
            for observation in observations:
                action = client.act("cartpole", [observation])["actions"][0]
                if action != int(observation[2] + observation[3] > 0):
                    wrong.append((seed, observation, action))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("POST", f"{P}/act", b'{"observation": [NaN, 0, 0, 0]}', 400, "json"),
        ("POST", f"{P}/act", b"{", 400, "json"),
        ("POST", f"{P}/act", b"", 400, "json"),
        ("POST", f"{P}/act", b'{"observation": [0, 0, 0, 0], "colour": 1}', 422, "body"),
        ("POST", f"{P}/act", b'{"observation": [0, 0, 0]}', 422, "shape"),
        ("POST", f"{P}/act", b'{"observation": ' + b"[" * 100_000, 400, "json"),
        ("POST", f"{P}/act", b'{"observation": [0,0,0,0], "episode_id": "e1.a.b"}', 403, "episode_id"),
        ("POST", "/v1/policies/chess/act", b'{"observation": []}', 404, "policy"),
        ("POST", f"{P}/dance", b"{}", 404, "path"),
        ("POST", f"{P}/act/more", b"{}", 404, "path"),
        ("POST", "/v1/policiesx", b"{}", 404, "path"),
        ("DELETE", f"{P}/act", b"", 405, "method"),
        ("PUT", f"{P}/override", b"{}", 401, "token"),
        ("POST", f"{P}/act", b" " * (17 * 2**20), 413, "body_size"),
    ],
)
def test_errors_are_problem_documents(
    http: httpx.Client, method: str, path: str, body: bytes, status: int, reason: str
) -> None:
    response = http.request(method, path, content=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["reason"]) == (status, reason)
    assert problem["detail"]


def test_a_wrong_admin_token_is_refused_and_the_right_one_overrides_until_cleared(served: GatewayProcess) -> None:
    with GatewayClient(served.url, "wrong") as stranger, pytest.raises(GatewayError) as caught:
        stranger.set_override("cartpole", 0, ttl_seconds=60, reason="mischief")
    assert caught.value.status == 403
    client = served.client
    observations = [[0.0, 0.0, 0.0, 1.0]] * 2
    client.set_override("cartpole", 0, ttl_seconds=60, reason="icy road", who="ada", user_id="u1")
    try:
        answer = client.act("cartpole", observations, user_ids=["u1", "u2"])
        assert (answer["actions"], answer["sources"]) == ([0, 1], ["override", "policy"])
        (shown,) = client.policy("cartpole")["overrides"]
        assert (shown["who"], shown["reason"], shown["user_id"]) == ("ada", "icy road", "u1")
    finally:
        assert client.clear_override("cartpole", user_id="u1")["cleared"] == 1
    assert client.act("cartpole", observations, user_ids=["u1", "u2"])["sources"] == ["policy", "policy"]


def test_an_override_outside_the_action_space_is_refused(served: GatewayProcess) -> None:
    for action in (2, -1, [0, 1], 0.5, "left", None):
        with pytest.raises(GatewayError) as caught:
            served.client.set_override("cartpole", action, ttl_seconds=1, reason="x")
        assert caught.value.status == 422


def test_outcomes_count_once_and_must_lie_in_the_range(served: GatewayProcess) -> None:
    client = served.client
    episodes = client.start_episodes("cartpole", [None, "ada"])
    assert {(one["version"], one["arm"]) for one in episodes} == {("7", "champion")}
    ended = [{"episode_id": one["episode_id"], "return": 12.0, "length": 12} for one in episodes]
    assert client.outcomes("cartpole", ended) == {"accepted": 2, "duplicates": 0}
    assert client.outcomes("cartpole", ended + ended) == {"accepted": 0, "duplicates": 4}
    for wrong in (501.0, -1.0):
        with pytest.raises(GatewayError) as caught:
            client.outcomes("cartpole", [{**ended[0], "return": wrong}])
        assert (caught.value.status, caught.value.reason) == (422, "return_range")


def test_a_forged_or_foreign_episode_cannot_report(served: GatewayProcess) -> None:
    foreign = Signer(EPISODE_KEY).episode_id(Episode("chess", "1", "champion", "", new_nonce(), "", 0.0))
    forged = Signer("another key").episode_id(Episode("cartpole", "7", "champion", "", new_nonce(), "", 0.0))
    for identity in (foreign, forged):
        with pytest.raises(GatewayError) as caught:
            served.client.outcomes("cartpole", [{"episode_id": identity, "return": 1.0, "length": 1}])
        assert caught.value.status == 403


def test_outcomes_are_refused_while_the_store_is_down_and_decisions_go_on(
    served: GatewayProcess, http: httpx.Client
) -> None:
    (episode,) = served.client.start_episodes("cartpole", [None])
    body = {"episode_id": episode["episode_id"], "return": 1.0, "length": 1}
    lock = sqlite3.connect(served.home / "airlock.db", isolation_level=None, timeout=30)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        refused = http.post(f"{P}/outcomes", json=body)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert http.post(f"{P}/act", json={"observation": [0.0] * 4}).status_code == 200
    finally:
        lock.execute("ROLLBACK")
    assert served.client.outcomes("cartpole", [body]) == {"accepted": 1, "duplicates": 0}


def test_statistics_and_metrics_show_what_happened(served: GatewayProcess, http: httpx.Client) -> None:
    def counted() -> tuple[int, float]:
        text = http.get("/metrics").text
        labels = 'arm="champion",policy="cartpole",source="policy",version="7"'
        found = re.search(rf"rl_inference_total\{{{labels}\}} (\S+)", text)
        return served.client.policy("cartpole")["statistics"]["total_inferences"], float(found[1]) if found else 0.0

    def still() -> Any:
        first = counted()
        time.sleep(2.5)
        return first if counted() == first else None

    shown, scraped = wait_until(still, "earlier decisions are all counted")
    served.client.act("cartpole", [[0.0, 0.0, 0.0, 1.0]] * 10)
    http.post(f"{P}/act", json={"observation": [0.0]})
    wait_until(lambda: counted() == (shown + 10, scraped + 10), "the decisions are shown and scraped")
    statistics = served.client.policy("cartpole")["statistics"]
    assert set(statistics["action_distribution"]) <= {"0", "1"}
    assert statistics["avg_latency_ms"] > 0

    def refused() -> str | None:
        text = http.get("/metrics").text
        return text if 'reason="shape"' in text else None

    text = wait_until(refused, "the refusal is scraped")
    for name in ("rl_inference_latency_seconds_bucket", "rl_action_total", "rl_batch_size_bucket", "rl_breaker_open"):
        assert f"{name}{{" in text


def test_health_readiness_and_bentomls_own_routes_stand_beside_the_hot_ones(http: httpx.Client) -> None:
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/readyz").status_code == http.get("/livez").status_code == 200
    assert "/act" in http.get("/docs.json").json()["paths"]
    typed = http.post("/act", json={"policy": "cartpole", "observations": [[0.0, 0.0, 0.0, 1.0]]})
    assert typed.json()["actions"] == [1]
    assert http.post("/act", json={"policy": "chess", "observations": [[0.0]]}).status_code == 404


def test_the_log_holds_one_json_line_a_problem(served: GatewayProcess, http: httpx.Client) -> None:
    marker = f"nothing-{time.time_ns()}"
    http.post(f"{P}/{marker}", content=b"")
    http.post(f"{P}/act", json={"observation": [0.0] * 4})

    def logged() -> Any:
        return [line for line in served.log.read_text().splitlines() if marker in line]

    (line,) = wait_until(logged, "the problem is logged")
    document = json.loads(line)
    assert (document["event"], document["status"], document["level"]) == ("problem", 404, "warning")
    assert "HTTP/1.1" not in served.log.read_text(), "no access log"


def test_the_live_worker_has_no_training_library_mapped(served: GatewayProcess) -> None:
    (worker,) = served.workers()
    mapped = Path(f"/proc/{worker.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "libtorch" not in mapped
    assert worker.memory_info().rss < 250e6


def test_serving_imports_neither_training_nor_orchestration_nor_registry_libraries(tmp_path: Path) -> None:
    write_package(tmp_path)
    program = (
        "import sys, bentos.service, bentos.server.factory, bentos.client; from bentos.package import load;"
        f"load({str(tmp_path)!r}).predict([0, 0, 0, 0]);"
        "heavy = {'torch', 'stable_baselines3', 'sb3_contrib', 'mlflow', 'airflow', 'tasks', 'gymnasium'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_rate_limit_is_carried_by_the_state_token(tmp_path: Path) -> None:
    write_package(tmp_path / "package", action_space=BOX, safety=Safety(rate_limit=0.5))
    gateway = GatewayProcess(tmp_path, AIRLOCK_PACKAGE=str(tmp_path / "package"))
    try:
        with httpx.Client(base_url=gateway.url, timeout=30) as http:
            body: dict[str, Any] = {"observation": [0.0, 0.0, 0.0, -1.0]}
            actions = []
            for _ in range(4):
                answer = http.post(f"{P}/act", json=body).json()
                actions.append((answer["action"], answer["adjusted"]))
                body = {"observation": [0.0, 0.0, 0.0, 1.0], "state": answer["state"]}
            assert actions == [([-1.0], []), ([-0.5], ["rate_limit"]), ([0.0], ["rate_limit"]), ([0.5], ["rate_limit"])]
            body["state"] = body["state"][:-2] + "AA"
            assert http.post(f"{P}/act", json=body).status_code == 403
    finally:
        gateway.stop()


def test_acknowledged_outcomes_survive_sigkill(tmp_path: Path) -> None:
    write_package(tmp_path / "package")
    gateway = GatewayProcess(tmp_path, AIRLOCK_PACKAGE=str(tmp_path / "package"))
    acknowledged: list[str] = []
    stopping = threading.Event()

    def report() -> None:
        with httpx.Client(base_url=gateway.url, timeout=60) as http:
            while not stopping.is_set():
                try:
                    identity = http.post(f"{P}/episodes").json()["episode_id"]
                    answer = http.post(f"{P}/outcomes", json={"episode_id": identity, "return": 1.0, "length": 1})
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    acknowledged.append(Signer(EPISODE_KEY).episode(identity).nonce)

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(acknowledged) > 50, "some outcomes are acknowledged")
    (worker,) = gateway.workers()
    worker.send_signal(signal.SIGKILL)
    stopping.set()
    for thread in threads:
        thread.join()
    gateway.kill()
    with sqlite3.connect(tmp_path / "airlock.db") as database:
        stored = [row[0] for row in database.execute("SELECT episode FROM outcomes")]
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))


def test_two_workers_share_a_fresh_store_and_either_shows_all_even_after_one_was_killed(tmp_path: Path) -> None:
    write_package(tmp_path / "package")
    gateway = GatewayProcess(tmp_path, AIRLOCK_PACKAGE=str(tmp_path / "package"), AIRLOCK_WORKERS="2")
    try:
        wait_until(lambda: len(gateway.workers()) == 2, "both workers are there")

        def ask(times: int) -> None:
            for _ in range(times):
                with GatewayClient(gateway.url) as client:  # a connection of its own, to whichever worker
                    client.act("cartpole", [[0.0, 0.0, 0.0, 1.0]] * 3)

        def counted() -> int:
            return int(gateway.client.policy("cartpole")["statistics"]["total_inferences"])

        ask(40)
        wait_until(lambda: [counted() for _ in range(6)] == [120] * 6, "every worker shows all decisions")
        query = "SELECT sum(json_extract(stats, '$.decisions')) FROM arm_stats"
        with sqlite3.connect(tmp_path / "airlock.db") as database:
            wait_until(lambda: database.execute(query).fetchone() == (120,), "the decisions are stored")
        gateway.workers()[0].send_signal(signal.SIGKILL)
        ask(20)
        wait_until(lambda: counted() == 180, "the dead worker's decisions still count")
    finally:
        gateway.stop()
