"""A person's action: followed by every worker, shown, logged, and set by the command line."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from bentos.rows import Decision, Rows
from bentos.runners import settled
from bentos.runners.override import Override
from bentos.store import overrides, tables
from bentos.store.overrides import Active, Overrides
from bentos.tokens import CHAMPION, Episode, user_hash
from tests.bentos.gateway_process import ADMIN_TOKEN, GatewayProcess, wait_until
from tests.bentos.policy_packages import write_package

LEANING = [0.0, 0.0, 0.0, 1.0]
WORKER = 12
"""Characters of a decision id that name the worker."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """CartPole, which goes right (1) when the pole leans right, on two workers."""
    home = tmp_path_factory.mktemp("overridden")
    write_package(home / "package")
    found = GatewayProcess(home, AIRLOCK_PACKAGE=str(home / "package"), AIRLOCK_VERSION="7", AIRLOCK_WORKERS="2")
    wait_until(lambda: len(answers(found)) == 2, "both workers answer")
    yield found
    found.stop()


def answers(gateway: GatewayProcess) -> dict[str, set[str]]:
    """Who answers on each of the two workers: connections are made anew until both were met often, or one never."""
    found: dict[str, set[str]] = {}
    with httpx.Client(base_url=gateway.url, headers={"connection": "close"}) as client:
        for number in range(400):
            answer = client.post("/v1/policies/cartpole/act", json={"observation": LEANING}).json()
            found.setdefault(answer["decision_id"][:WORKER], set()).add(answer["source"])
            if len(found) == 2 and number > 20:
                break
    return found


def all_from(gateway: GatewayProcess, source: str) -> Callable[[], bool]:
    return lambda: list(answers(gateway).values()) == [{source}] * 2


def test_every_worker_follows_an_override_that_one_of_them_took_and_its_end(gateway: GatewayProcess) -> None:
    gateway.client.set_override("cartpole", 0, ttl_seconds=300, reason="icy road", who="ada")
    try:
        wait_until(all_from(gateway, "override"), "both workers override", 10)
        scraped = lambda: 'rl_override_active{policy="cartpole",scope="all"} 1.0' in metrics(gateway)  # noqa: E731
        wait_until(scraped, "the gauge shows it", 10)
        assert 'rl_override_active{policy="cartpole",scope="user"} 0.0' in metrics(gateway)
        (listed,) = gateway.client.policies()
        assert [one["reason"] for one in listed["overrides"]] == ["icy road"]
    finally:
        gateway.client.clear_override("cartpole")
    wait_until(all_from(gateway, "policy"), "both workers are back", 10)
    cleared = lambda: 'rl_override_active{policy="cartpole",scope="all"} 0.0' in metrics(gateway)  # noqa: E731
    wait_until(cleared, "the gauge shows its end", 10)


def test_an_override_ends_by_itself(gateway: GatewayProcess) -> None:
    gateway.client.set_override("cartpole", 0, ttl_seconds=0.5, reason="a moment")
    wait_until(all_from(gateway, "policy"), "it has expired", 10)


def metrics(gateway: GatewayProcess) -> str:
    return httpx.get(f"{gateway.url}/metrics").text


@pytest.fixture
def airlock(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`airlock override cartpole …` against the gateway: exit code, stdout, stderr."""
    from tasks.cli import app

    monkeypatch.setenv("AIRLOCK_GATEWAY_URL", gateway.url)
    monkeypatch.setenv("AIRLOCK_ADMIN_TOKEN", ADMIN_TOKEN)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["airlock", "override", "cartpole", *arguments])
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_the_command_line_sets_lists_clears_and_tells_the_log(airlock: Callable[..., tuple[int, str, str]]) -> None:
    assert airlock("set", "--action", "1", "--reason", "a [bold] try", "--user", "u7", "--ttl", "60")[0] == 0
    code, out, _ = airlock("list", "--json")
    assert code == 0
    (active,) = json.loads(out)["log"]
    assert (active["action"], active["user_id"], active["state"], active["reason"]) == (
        1,
        "u7",
        "active",
        "a [bold] try",
    )
    assert active["who"].endswith("(command line)")
    assert active["until"] - active["set_at"] == pytest.approx(60)
    code, out, _ = airlock("clear", "--user", "u7", "--json")
    assert (code, json.loads(out)["cleared"]) == (0, 1)
    assert json.loads(airlock("list", "--json")[1])["log"] == []
    code, out, _ = airlock("log")
    assert code == 0
    assert "a [bold] try" in out
    assert "cleared" in out
    (entry,) = json.loads(airlock("log", "--json", "--limit", "1")[1])["log"]
    assert (entry["state"], entry["cleared_by"]) == ("cleared", entry["who"])
    assert entry["cleared_at"] >= entry["set_at"]


def test_the_command_line_says_what_is_wrong_in_a_line(
    airlock: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert airlock("set", "--action", "1")[0] == 2
    assert airlock("set", "--action", "{", "--reason", "x")[0] == 2
    code, _, err = airlock("set", "--action", "9", "--reason", "x")
    assert code == 1
    assert "does not fit the policy's action space" in err
    monkeypatch.setenv("AIRLOCK_ADMIN_TOKEN", "wrong")
    code, _, err = airlock("log")
    assert (code, "403" in err) == (1, True)
    code, _, err = airlock("log", "--url", "http://127.0.0.1:1")
    assert (code, "cannot be reached" in err) == (1, True)


def test_the_log_needs_the_admin_token_and_a_sensible_limit(gateway: GatewayProcess) -> None:
    address = f"{gateway.url}/v1/policies/cartpole/override"
    assert httpx.get(address).status_code == 401
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    assert httpx.get(f"{address}?limit=0", headers=headers).status_code == 422
    assert httpx.get(f"{address}?limit=1001", headers=headers).status_code == 422
    assert httpx.get(f"{gateway.url}/v1/policies/chess/override", headers=headers).status_code == 404


# the table


def test_the_log_tells_of_each_override_what_became_of_it() -> None:
    engine = sa.create_engine("sqlite://")
    tables.metadata.create_all(engine)
    base = {"policy": "p", "user_id": None, "episode": None, "force": False, "who": "ada", "reason": "r"}
    with engine.begin() as connection:
        overrides.put(connection, {**base, "action": 0, "set_at": 1.0, "until": 5.0})
        overrides.put(connection, {**base, "action": 1, "set_at": 10.0, "until": 50.0, "who": "bob"})
        overrides.put(connection, {**base, "action": 2, "set_at": 20.0, "until": 90.0})
        overrides.put(connection, {**base, "policy": "other", "action": 3, "set_at": 20.0, "until": 90.0})
        found = overrides.log(connection, "p", 30.0, 10)
        assert [(one["action"], one["state"]) for one in found] == [(2, "active"), (1, "cleared"), (0, "expired")]
        assert (found[1]["who"], found[1]["cleared_by"], found[1]["cleared_at"]) == ("bob", "ada", 20.0)
        assert [one["action"] for one in overrides.log(connection, "p", 30.0, 1)] == [2]


# the runner


class Zeros:
    async def decide(self, rows: Rows) -> Decision:
        return Decision(np.zeros(rows.size), np.ones(rows.size, bool), ["policy"] * rows.size, ["1"] * rows.size)


async def overridden(rows: Rows, *active: Active) -> Decision:
    known = Overrides()
    known.replace(list(active))
    return await settled(Override(Zeros(), "p", known).decide(rows))


def active(number: int, action: float, user: str = "", episode: str = "", force: bool = False) -> Active:
    return Active(number, "p", user, user or None, episode, action, force, "ada", "r", 0.0, time.time() + 60)


def test_the_nearest_override_wins_episode_before_user_before_all() -> None:
    ada, bob = user_hash("ada"), user_hash("bob")
    episode = Episode("p", "1", CHAMPION, "", "n1", ada, 0.0)
    rows = Rows({}, 4, episodes=[episode, None, None, None], users=["", ada, bob, ""])
    decision = asyncio.run(
        overridden(rows, active(1, 1.0), active(2, 2.0, user=ada), active(3, 3.0, episode="n1", force=True))
    )
    assert decision.action.tolist() == [3.0, 2.0, 1.0, 1.0]
    assert decision.sources == ["override"] * 4
    assert decision.forced is not None
    assert decision.forced.tolist() == [True, False, False, False]
    only_ada = asyncio.run(overridden(rows, active(2, 2.0, user=ada)))
    assert only_ada.action.tolist() == [2.0, 2.0, 0.0, 0.0]
    assert only_ada.sources == ["override", "override", "policy", "policy"]


def test_rows_of_nobody_in_particular_take_the_latest_override_for_all() -> None:
    decision = asyncio.run(overridden(Rows({}, 3), active(1, 1.0), active(2, 5.0, user="x"), active(3, 4.0)))
    assert decision.action.tolist() == [4.0] * 3
    untouched: Any = asyncio.run(overridden(Rows({}, 3), active(2, 5.0, user="x")))
    assert untouched.sources == ["policy"] * 3
