"""Requests that one look at the network brings are decided together, and answered as if each had come alone."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from bentos.errors import Problem
from bentos.gateway.schemas import ActRequest, Started
from bentos.http import cache
from bentos.http.auth import ClientToken, Guard
from bentos.http.coalescing import decide
from bentos.http.messages import Request
from bentos.http.router import Router
from bentos.package.manifest import Serve
from bentos.rows import Decision, Rows
from bentos.runners import settled
from tests.bentos.gateway_process import GatewayProcess, wait_until
from tests.bentos.in_process import BREAKS, FINE, Desk

ACT = "/v1/policies/cartpole/act"
AT_ONCE = 32


def _body(observation: list[float], **more: Any) -> bytes:
    return msgspec.json.encode({"observation": observation, **more})


def _read(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        length = 0
        while line := file.readline().strip().lower():
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return status, json.loads(file.read(length))


def _at_once(gateway: GatewayProcess, bodies: list[bytes]) -> list[tuple[int, dict[str, Any]]]:
    """The answers to requests that all lie before the worker when it next looks; their heads are known to it."""
    requests = [
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (ACT.encode(), len(body), body)
        for body in bodies
    ]
    connections = [socket.create_connection(("127.0.0.1", gateway.port), timeout=60) for _ in bodies]
    try:
        for connection, request in zip(connections, requests, strict=True):
            connection.sendall(request)
            _read(connection)
        (worker,) = gateway.workers()
        worker.suspend()
        try:
            for connection, request in zip(connections, requests, strict=True):
                connection.sendall(request)
        finally:
            worker.resume()
        return [_read(connection) for connection in connections]
    finally:
        for connection in connections:
            connection.close()


def _counted(gateway: GatewayProcess, name: str) -> float:
    lines = httpx.get(f"{gateway.url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def test_each_gets_its_own_answer_and_is_counted_as_one_request(served: GatewayProcess) -> None:
    chance = random.Random(0)
    asked = [[round(chance.uniform(-1, 1), 3) for _ in range(4)] for _ in range(AT_ONCE)]
    names = ("rl_inference_total", "rl_inference_latency_seconds_count", "rl_batch_size_count")
    before = wait_until(lambda: _settled(served, names), "nobody else asks")
    answers = _at_once(served, [_body(one) for one in asked])
    assert [status for status, _ in answers] == [200] * AT_ONCE
    assert [answer["action"] for _, answer in answers] == [int(one[2] + one[3] > 0) for one in asked]
    assert len({answer["decision_id"] for _, answer in answers}) == AT_ONCE
    wait_until(lambda: _counted(served, names[0]) == before[0] + 2 * AT_ONCE, "all decisions are counted")
    after = wait_until(lambda: _settled(served, names), "all is counted")
    assert after[1] - before[1] == 2 * AT_ONCE, "each has a latency of its own"
    assert after[2] - before[2] < 2 * AT_ONCE, "the graph was called less often than it was asked"


def _settled(gateway: GatewayProcess, names: tuple[str, ...]) -> list[float] | None:
    """The counters, once they stand still for longer than the gateway takes to tell them."""
    first = [_counted(gateway, name) for name in names]
    time.sleep(2.5)
    return first if [_counted(gateway, name) for name in names] == first else None


def test_what_is_wrong_with_one_is_told_to_that_one_alone(served: GatewayProcess) -> None:
    wrong = {
        3: (b"{", 400),
        8: (_body([0.0, 0.0, 0.0]), 422),
        9: (b'{"observation": "high"}', 422),
        15: (_body(FINE, episode_id="forged"), 403),
        20: (_body(FINE, user_id=""), 422),
        21: (_body(FINE, action_mask=[True]), 422),
    }
    for chosen in ([3], [8], list(wrong)):
        bodies = [wrong[place][0] if place in chosen else _body(FINE) for place in range(AT_ONCE)]
        answers = _at_once(served, bodies)
        assert [status for status, _ in answers] == [
            wrong[place][1] if place in chosen else 200 for place in range(AT_ONCE)
        ]
        assert {answer["action"] for status, answer in answers if status == 200} == {1}


def test_requests_of_all_kinds_are_answered_as_each_would_be_alone(served: GatewayProcess) -> None:
    episodes = [one["episode_id"] for one in served.client.start_episodes("cartpole", [None] * AT_ONCE)]
    bodies = [_body([0.0, 0.0, 0.0, place - 15.5], episode_id=episode) for place, episode in enumerate(episodes)]
    bodies += [_body(FINE, user_id=f"user {place}") for place in range(8)]
    bodies += [msgspec.json.encode({"observations": [FINE, BREAKS, FINE]})] * 2
    alone = [httpx.post(f"{served.url}{ACT}", content=body, timeout=60).json() for body in bodies]
    together = [answer for _, answer in _at_once(served, bodies)]
    for one, other in zip(alone, together, strict=True):
        one.pop("decision_id", None), other.pop("decision_id", None)
        one.pop("decision_ids", None), other.pop("decision_ids", None)
    assert together == alone


async def _answers(desk: Desk, bodies: list[bytes]) -> list[bytes | Problem | None]:
    found: list[bytes | Problem | None] = [b"nobody answered"] * len(bodies)

    async def settle(places: Sequence[int], coming: Any) -> None:
        for place, answer in zip(places, await settled(coming), strict=True):
            found[place] = answer

    await asyncio.gather(*(settle(*part) for part in decide(desk.core, "cartpole", bodies)))
    return found


def _told(body: bytes | Problem | None) -> Any:
    assert isinstance(body, bytes)
    answer = json.loads(body)
    answer.pop("decision_id")
    return answer


def test_arms_faults_and_overrides_are_each_rows_own(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        episodes: list[Started] = await desk.start(16)
        assert {episode.arm for episode in episodes} == {"control", "challenger"}
        asked = [(episode, observation) for episode in episodes for observation in (BREAKS, FINE)]
        bodies = [_body(observation, episode_id=episode.episode_id) for episode, observation in asked]
        together = [_told(body) for body in await _answers(desk, bodies)]
        alone = []
        for episode, observation in asked:
            answer = msgspec.to_builtins(await desk.act(episode, observation))
            alone.append({name: value for name, value in answer.items() if name != "decision_id"})
        assert together == alone
        broken = [one for one, (_, observation) in zip(together, asked, strict=True) if observation is BREAKS]
        assert {(one["arm"], one["source"], one["version"]) for one in broken} == {
            ("control", "policy", "1"),
            ("challenger", "fallback", "1"),
        }
        arms = {key[3]: arm for key, arm in desk.core.stats.arms.items() if key[1]}
        assert {name: arm.requests for name, arm in arms.items()} == {
            name: 4 * sum(episode.arm == name for episode in episodes) for name in arms
        }
        assert all(sum(arm.latency) == arm.requests == arm.decisions for arm in arms.values())

    desk = Desk(tmp_path, f"sqlite:///{tmp_path}/airlock.db", serve=Serve(max_errors=100))
    asyncio.run(desk.run(work))


def _slowed(desk: Desk, seconds: float, name: str = "1") -> list[int]:
    """Have each call of a version's graph take so long, in a thread; the sizes of the calls."""
    version = desk.core.routes["cartpole"].versions[name]
    run, sizes = version.infer.run, []

    def slow(rows: Rows) -> Decision:
        sizes.append(rows.size)
        time.sleep(seconds)
        return run(rows)

    version.infer.run = slow  # type: ignore[method-assign]
    version.batch.inline_rows = 0
    desk.core.route(desk.core.routes["cartpole"])
    return sizes


def test_requests_to_a_slow_version_wait_in_its_queue_as_one(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        sizes = _slowed(desk, 0.02)
        bodies = [_body([0.0, 0.0, 0.0, place - 3.5]) for place in range(8)]
        assert [_told(body)["action"] for body in await _answers(desk, bodies)] == [0] * 4 + [1] * 4
        assert sizes == [8]
        (arm,) = [arm for key, arm in desk.core.stats.arms.items() if key[2] == "1"]
        assert (arm.requests, arm.decisions, sum(arm.latency)) == (8, 8, 8)

    desk = Desk(tmp_path, f"sqlite:///{tmp_path}/airlock.db", serve=Serve(deadline_ms=30_000.0))
    asyncio.run(desk.run(work))


def test_those_that_missed_the_deadline_together_do_not_wait_again(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        sizes = _slowed(desk, 2.0)
        answers = await _answers(desk, [_body(FINE)] * 8)
        assert [isinstance(answer, Problem) and answer.status for answer in answers] == [503] * 8, (
            "there is no fallback"
        )
        assert sizes == [8]

    desk = Desk(tmp_path, f"sqlite:///{tmp_path}/airlock.db", serve=Serve(deadline_ms=500.0))
    asyncio.run(desk.run(work))


@pytest.mark.parametrize("fails", ["late", "full"])
def test_an_arm_neither_waits_for_another_nor_bears_its_faults(tmp_path: Path, fails: str) -> None:
    async def work(desk: Desk) -> None:
        _slowed(desk, 0.0, "1")
        _slowed(desk, 5.0, "2")
        challenger = desk.core.routes["cartpole"].versions["2"]
        if fails == "full":
            challenger.batch._max_queued = 0
        episodes = await desk.start(16)
        bodies = [_body(FINE, episode_id=episode.episode_id) for episode in episodes]
        control, other = decide(desk.core, "cartpole", bodies)
        if episodes[control[0][0]].arm != "control":
            control, other = other, control
        second = asyncio.ensure_future(settled(other[1]))
        began = time.monotonic()
        answers = [_told(body) for body in await settled(control[1])]
        assert {(answer["arm"], answer["source"]) for answer in answers} == {("control", "policy")}
        if fails == "late":
            assert not second.done(), "the challenger still is at it"
            assert time.monotonic() - began < 5.0
            assert {_told(body)["source"] for body in await second} == {"fallback"}, "the champion answers for it"
        else:
            assert list(await second) == [None] * len(other[0]), "each is asked by itself, and told when to come again"
        (arm,) = [arm for key, arm in desk.core.stats.arms.items() if key[3] == "control"]
        assert (arm.requests, sum(arm.latency)) == (len(control[0]), len(control[0]))

    desk = Desk(tmp_path, f"sqlite:///{tmp_path}/airlock.db", serve=Serve(deadline_ms=1_500.0))
    asyncio.run(desk.run(work))


@pytest.mark.parametrize(
    "package",
    [{"serve": Serve(batch_size=1)}, {"serve": Serve(max_wait_ms=5.0, deadline_ms=60_000)}],
    ids=["batch size 1", "waits for company"],
)
def test_versions_that_do_not_gain_are_asked_one_at_a_time(tmp_path: Path, package: dict[str, Any]) -> None:
    async def work(desk: Desk) -> None:
        assert desk.core.gathering("cartpole") is None
        assert decide(desk.core, "cartpole", [_body(FINE)] * 4) == [(range(4), [None] * 4)]
        assert (await desk.core.act("cartpole", ActRequest(observation=FINE))).version == "1"

    desk = Desk(tmp_path, f"sqlite:///{tmp_path}/airlock.db", **package)
    asyncio.run(desk.run(work))


def test_paths_of_policies_that_nobody_has_do_not_keep_out_those_of_others() -> None:
    router = Router(Guard("of-the-admin"))
    for path in [*(f"/v1/policies/{number}/act" for number in range(cache.MOST + 1)), ACT]:
        router.answer(Request("POST", path, b"", (), b"{}"))
    assert router.v1.decides(ACT) == "cartpole"


def test_a_request_without_the_clients_token_is_not_decided_with_the_others() -> None:
    router = Router(Guard("admin", [ClientToken("client", b"secret", None), ClientToken("former", b"old", 1.0)]))
    asked = {token: Request("POST", ACT, b"", [(b"authorization", b"Bearer " + token)], b"") for token in
             (b"secret", b"admin", b"wrong", b"old", b"")}  # fmt: skip
    assert {token: router.v1.admits(request) for token, request in asked.items()} == {
        b"secret": True,
        b"admin": True,
        b"wrong": False,
        b"old": False,
        b"": False,
    }
