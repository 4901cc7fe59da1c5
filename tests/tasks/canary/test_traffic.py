"""Simulated users against a stand-in gateway: whole episodes, bulk requests, honest counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tasks.canary.players import Gateway, TrafficError
from tasks.canary.traffic import play
from tests.tasks.gateway_double import GatewayDouble, serving


@pytest.fixture
def gateway() -> Iterator[GatewayDouble]:
    with serving(GatewayDouble()) as double:
        yield double


def test_plays_the_asked_number_of_whole_episodes_and_reports_each_once(gateway: GatewayDouble) -> None:
    seen = play("cartpole", gateway.url, episodes=20, concurrency=8)

    assert seen["episodes"] == len(gateway.issued) == len(gateway.outcomes) == 20
    assert seen["outcomes"] == {"accepted": 20, "duplicates": 0}
    assert seen["failures"] == 0
    # CartPole pays 1 a step: what was reported is what was played.
    assert all(outcome["return"] == outcome["length"] for outcome in gateway.outcomes.values())
    assert seen["decisions"] == gateway.rows == sum(outcome["length"] for outcome in gateway.outcomes.values())


def test_one_request_a_step_serves_all_running_episodes(gateway: GatewayDouble) -> None:
    seen = play("cartpole", gateway.url, episodes=16, concurrency=16)
    assert seen["decisions"] / seen["requests"] > 8


def test_reports_returns_by_arm(gateway: GatewayDouble) -> None:
    gateway.canary = {"generation": "g"}
    seen = play("cartpole", gateway.url, episodes=10, concurrency=4)

    assert {arm: item["episodes"] for arm, item in seen["arms"].items()} == {"control": 5, "challenger": 5}
    returns = [
        gateway.outcomes[episode["episode_id"]]["return"] for episode in gateway.issued if episode["arm"] == "control"
    ]
    assert seen["arms"]["control"]["mean"] == pytest.approx(sum(returns) / len(returns))
    assert set(seen["latency_ms"]) == {"p50", "p90", "p99", "max"}


def test_users_come_back_in_turn_and_by_default_there_are_none(gateway: GatewayDouble) -> None:
    play("cartpole", gateway.url, episodes=6, concurrency=2, users=3)
    assert gateway.users == ["user-0", "user-1", "user-2"] * 2
    gateway.users.clear()
    play("cartpole", gateway.url, episodes=2, concurrency=2)
    assert gateway.users == [None, None]


def test_the_same_seed_plays_the_same_episodes(gateway: GatewayDouble) -> None:
    def lengths() -> list[int]:
        gateway.issued.clear()
        gateway.outcomes.clear()
        play("cartpole", gateway.url, episodes=6, concurrency=3, seed=5)
        return [gateway.outcomes[f"e{number}"]["length"] for number in range(6)]

    assert lengths() == lengths()


def test_plays_an_environment_with_continuous_actions(gateway: GatewayDouble) -> None:
    seen = play("pendulum", gateway.url, episodes=2, concurrency=2)
    assert [outcome["length"] for outcome in gateway.outcomes.values()] == [200, 200]
    assert -2000 < seen["arms"]["champion"]["mean"] < 0


def test_a_failed_request_is_counted_even_when_its_retry_succeeds(gateway: GatewayDouble) -> None:
    gateway.faults = [503, 503]
    seen = play("cartpole", gateway.url, episodes=2, concurrency=2)

    assert seen["failures"] == 2
    assert seen["failed"] == {"503": 2}
    assert seen["episodes"] == 2


def test_a_refusal_that_will_not_change_ends_the_play_at_once(gateway: GatewayDouble) -> None:
    gateway.faults = [404]
    with pytest.raises(TrafficError, match="404"):
        play("cartpole", gateway.url, episodes=2, concurrency=2)


def test_a_gateway_that_is_away_is_an_error_that_names_it(
    gateway: GatewayDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.canary.players._FIRST_PATIENCE", 0.2)
    with pytest.raises(TrafficError, match=r"127\.0\.0\.1:9/.*ConnectError"):
        play("cartpole", "http://127.0.0.1:9", episodes=1)


def test_a_gateway_that_has_answered_is_waited_for(gateway: GatewayDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.canary.players._FIRST_PATIENCE", 0.0)
    never, before = Gateway(gateway.url, "cartpole"), Gateway(gateway.url, "cartpole")
    question = {"observations": [[0.0] * 4]}
    before.call("POST", "/act", question)
    gateway.faults = [503, 503, 503]
    assert before.call("POST", "/act", question)
    gateway.faults = [503]
    with pytest.raises(TrafficError, match="503"):
        never.call("POST", "/act", question)


def test_plays_until_the_canary_has_ended_and_then_some_champion_episodes(gateway: GatewayDouble) -> None:
    gateway.canary, gateway.ends_after = {"generation": "g"}, 30
    seen = play("cartpole", gateway.url, concurrency=8, until_canary_ends=True)

    assert seen["canary"] == "g"
    assert seen["arms"]["champion"]["episodes"] >= 8
    assert seen["arms"]["control"]["episodes"] + seen["arms"]["challenger"]["episodes"] >= 30
    # Nobody is left hanging: every episode that was begun was played to its end and reported.
    assert len(gateway.outcomes) == len(gateway.issued)


def test_one_of_several_gateways_that_has_not_heard_of_the_canary_does_not_end_it(
    gateway: GatewayDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.canary.traffic._POLL_SECONDS", 0.01)
    gateway.canary, gateway.ends_after, gateway.lagging = {"generation": "g"}, 100, True
    seen = play("cartpole", gateway.url, concurrency=8, until_canary_ends=True)
    assert seen["arms"]["control"]["episodes"] + seen["arms"]["challenger"]["episodes"] >= 100


def test_waits_for_a_canary_that_is_not_there_yet(gateway: GatewayDouble) -> None:
    gateway.ends_after = 5
    threading.Timer(0.3, lambda: setattr(gateway, "canary", {"generation": "late"})).start()
    seen = play("cartpole", gateway.url, concurrency=4, until_canary_ends=True)
    assert seen["canary"] == "late"


def test_a_stop_ends_the_play_and_still_reports_what_has_ended(gateway: GatewayDouble) -> None:
    seen = play("cartpole", gateway.url, episodes=10_000, concurrency=4, stopped=lambda: len(gateway.issued) >= 12)

    assert seen["episodes"] == len(gateway.outcomes)
    assert 8 <= seen["episodes"] < 100


def test_says_how_it_goes(gateway: GatewayDouble) -> None:
    told: list[int] = []
    gateway.canary = {"generation": "g"}

    def listen(seen: object) -> None:
        told.append(len(gateway.outcomes))
        gateway.canary = None

    play("cartpole", gateway.url, concurrency=4, until_canary_ends=True, on_progress=listen)
    assert told


def test_asks_how_long_to_play() -> None:
    with pytest.raises(ValueError, match="how many episodes"):
        play("cartpole", "http://127.0.0.1:9")
