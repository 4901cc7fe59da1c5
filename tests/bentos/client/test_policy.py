"""RemotePolicy at a real gateway: SB3's evaluation gives the offline score, and the gateway hears how episodes end."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from bentos.client import AsyncRemotePolicy, GatewayError, RemotePolicy
from bentos.package.loader import load
from bentos.package.manifest import Outcomes
from tests.bentos.gateway_process import GatewayProcess
from tests.bentos.policy_packages import BOX, box_graph, write_package

ECHO = [[1.0], [0.0], [0.0], [0.0]]
"""The served policy answers the first number of what it is asked."""


class Walk(gymnasium.Env[Any, Any]):
    """Episodes of 1 to some 20 steps; each step is worth what the action says, weighed by what it should have been."""

    def __init__(self, seed: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-2, 2, (4,))
        self.action_space = gymnasium.spaces.Box(-2, 2, (1,))
        self._seed: int | None = seed

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=self._seed if seed is None else seed)
        self._seed = None
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        assert action.dtype == np.float32, "actions come in the action space's own type"
        reward = float(action[0] * self._seen[0] + self._seen[1])
        ending = self.np_random.random() < 0.15
        return self._observe(), reward, ending, False, {}

    def _observe(self) -> Any:
        self._seen = self.np_random.uniform(-2, 2, 4).astype(np.float32)
        return self._seen


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """The echo, served alone."""
    home = tmp_path_factory.mktemp("echo")
    write_package(home / "package", name="echo", graph=box_graph(ECHO, [0.0]), action_space=BOX, outcomes=Outcomes())
    running = GatewayProcess(home, AIRLOCK_PACKAGE=str(home / "package"), AIRLOCK_VERSION="7")
    yield running
    running.stop()


@pytest.fixture
def remote(gateway: GatewayProcess) -> Iterator[RemotePolicy]:
    with RemotePolicy(gateway.url, "echo") as one:
        yield one


class Offline:
    """The package in this process, as a predictor."""

    def __init__(self, directory: Path) -> None:
        self._policy = load(directory)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        return np.asarray(self._policy.predict(observation)), None


def walks(count: int) -> Any:
    return DummyVecEnv([lambda seed=seed: Walk(seed) for seed in range(count)])


def score(policy: Any, env: Any, episodes: int = 7) -> Any:
    return evaluate_policy(policy, env, episodes, return_episode_rewards=True, warn=False)


def stored(gateway: GatewayProcess) -> list[tuple[float, int, str]]:
    """The outcomes that the gateway has stored, in their order."""
    with sqlite3.connect(gateway.home / "airlock.db") as database:
        query = "SELECT episode_return, length, kind FROM outcomes ORDER BY outcome_seq"
        return list(database.execute(query).fetchall())


@pytest.mark.parametrize("make", [lambda: Walk(1), lambda: walks(1), lambda: walks(3)], ids=["env", "one", "three"])
def test_evaluate_policy_gives_the_offline_score(remote: RemotePolicy, gateway: GatewayProcess, make: Any) -> None:
    assert score(remote, make()) == score(Offline(gateway.home / "package"), make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Walk(1),
        lambda: walks(1),
        lambda: walks(3),
        lambda: VecMonitor(walks(3)),
        lambda: DummyVecEnv([lambda seed=seed: Monitor(Walk(seed)) for seed in range(3)]),
    ],
    ids=["env", "one", "three", "vec-monitor", "monitors"],
)
def test_a_watched_environment_scores_the_same_and_its_episodes_are_reported(
    remote: RemotePolicy, gateway: GatewayProcess, make: Any
) -> None:
    before = len(stored(gateway))
    offline = score(Offline(gateway.home / "package"), make())
    assert score(remote, remote.watch(make())) == offline
    reported = stored(gateway)[before:]
    for value, length in zip(*offline, strict=True):
        match = next(one for one in reported if one[1:] == (length, "reported") and abs(one[0] - value) < 1e-4)
        reported.remove(match)


def test_two_evaluations_follow_each_other_watched_or_not(remote: RemotePolicy, gateway: GatewayProcess) -> None:
    offline = score(Offline(gateway.home / "package"), walks(3))
    watched = remote.watch(walks(3))
    score(remote, watched)
    assert score(remote, walks(3)) == offline
    before = len(stored(gateway))
    score(remote, watched)
    assert len(stored(gateway)) - before >= 7


def test_a_loop_of_ones_own_reports_by_hand(remote: RemotePolicy, gateway: GatewayProcess) -> None:
    before = len(stored(gateway))
    state, start = None, True
    for total in (3.0, 4.0):
        for _ in range(5):
            _, state = remote.predict(np.ones(4), state, np.array([start]))
            start = False
        remote.report(total)
        start = True
    assert stored(gateway)[before:] == [(3.0, 5, "reported"), (4.0, 5, "reported")]


def test_an_episode_keeps_its_id_from_start_to_start(remote: RemotePolicy) -> None:
    ids = []
    state = None
    for starts in ([True, True], [False, False], [True, False], [False, False]):
        _, state = remote.predict(np.ones((2, 4)), state, np.array(starts))
        assert remote.said is not None
        ids.append(remote.said.episode_ids)
    (a, b), (c, d), (e, f), (g, h) = ids
    assert b == d == f == h
    assert a == c
    assert len({a, b}) == 2
    # the first environment's episode had two steps when it began anew
    assert e == g != a


def test_without_episode_starts_the_champion_is_asked_outside_of_any_episode(remote: RemotePolicy) -> None:
    action, state = remote.predict(np.array([0.5, 0, 0, 0]))
    assert state is None
    assert action.tolist() == [0.5]
    assert action.dtype == np.float32
    assert remote.said is not None
    assert remote.said.episode_ids == [None]
    assert (remote.said.versions, remote.said.sources) == (["7"], ["policy"])


def test_64_threads_that_share_one_get_each_its_own_answers(remote: RemotePolicy) -> None:
    wrong: list[Any] = []
    barrier = threading.Barrier(64)

    def ask(thread: int) -> None:
        barrier.wait()
        state, start = None, np.ones(2, dtype=bool)
        for turn in range(10):
            mine = np.zeros((2, 4), dtype=np.float32)
            mine[:, 0] = (thread * 20 + turn * 2 + np.arange(2)) / 1024
            actions, state = remote.predict(mine, state, start)
            start = np.zeros(2, dtype=bool)
            episodes = remote.said.episode_ids if remote.said else []
            if turn == 0:
                first = episodes
            if not np.array_equal(actions, mine[:, :1]) or episodes != first:
                wrong.append((thread, turn, actions.tolist()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_64_tasks_that_share_one_get_each_its_own_answers(gateway: GatewayProcess) -> None:
    async def play(remote: AsyncRemotePolicy, task: int) -> bool:
        state = None
        for turn in range(10):
            mine = np.array([(task * 10 + turn) / 512 - 1, 0, 0, 0], dtype=np.float32)
            action, state = await remote.predict(mine, state, np.array([turn == 0]))
            if action.tolist() != mine[:1].tolist():
                return False
        await remote.report(float(task))
        return True

    async def everyone() -> list[bool]:
        async with AsyncRemotePolicy(gateway.url, "echo") as remote:
            return await asyncio.gather(*(asyncio.create_task(play(remote, task)) for task in range(64)))

    before = len(stored(gateway))
    assert all(asyncio.run(everyone()))
    assert sorted(stored(gateway)[before:]) == [(float(task), 10, "reported") for task in range(64)]


def test_stochastic_actions_of_a_policy_that_does_not_explore_are_refused_with_what_to_do(remote: RemotePolicy) -> None:
    with pytest.raises(ValueError, match=r"deterministic=True.*serve\.explore: true"):
        remote.predict(np.ones(4), deterministic=False)


def test_an_unknown_policy_is_named(gateway: GatewayProcess) -> None:
    with RemotePolicy(gateway.url, "nobody") as remote, pytest.raises(GatewayError, match="no policy 'nobody'"):
        remote.predict(np.ones(4))


def test_a_gateway_that_is_gone_gives_way_to_the_next(gateway: GatewayProcess) -> None:
    with RemotePolicy(["http://127.0.0.1:9", gateway.url], "echo") as remote:
        assert remote.predict(np.ones(4))[0].tolist() == [1.0]
