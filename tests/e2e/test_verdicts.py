"""Verdicts on the live stack: releases of imported policies, tried on an application whose returns the tests decide."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.canary import Canary
from bentos.client import GatewayClient
from bentos.store import tables
from tasks.canary.planning import Planner
from tasks.control.plane import ControlPlane
from tasks.stack.airflow_api import Airflow, Run
from tasks.stack.release_progress import outcome
from tasks.tracking.release import Release

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]
DAG = "release_cartpole"
MEAN, DEVIATION = 400.0, 40.0
HARMLESS = [0.01, 0.02, -0.01, 0.03]
TOO_FAST = [0.0, 1e9, 0.0, 0.0]
"""An observation at which `fragile` overflows: no episode of CartPole comes near it."""


class Application:
    """Asks for decisions and reports outcomes, 16 episodes at a time, until it is stopped."""

    def __init__(
        self,
        shift: float = 0.0,
        observation: Callable[[str], list[float]] = lambda arm: HARMLESS,
        users: Callable[[], list[str | None]] = lambda: [None] * 16,
        deviation: float = DEVIATION,
    ) -> None:
        """Returns are drawn around `MEAN`, the challenger's moved by `shift`; `observation` is by arm."""
        self._deviation = deviation
        self.shift, self._observation, self._users = shift, observation, users
        self._random = np.random.default_rng(3)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sources: Counter[tuple[str, str]] = Counter()
        self.error: Exception | None = None

    def __enter__(self) -> Application:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with GatewayClient(settings.gateway_url()) as client:
                while not self._stop.wait(0.05):
                    if any(one["policy"] == "cartpole" and one["versions"] for one in client.policies()):
                        self._play(client)
        except Exception as error:  # noqa: BLE001 - raised where the application is stopped
            self.error = error

    def _play(self, client: GatewayClient) -> None:
        started = client.start_episodes("cartpole", self._users())
        arms = [one["arm"] for one in started]
        ids = [one["episode_id"] for one in started]
        for one, arm in zip(ids, arms, strict=True):
            self.sources[arm, client.act("cartpole", [self._observation(arm)], [one])["sources"][0]] += 1
        returns = self._random.normal(MEAN, self._deviation, len(ids)) + self.shift * (np.array(arms) == "challenger")
        client.outcomes(
            "cartpole",
            [
                {"episode_id": one, "return": float(np.clip(value, 0, 500)), "length": 100}
                for one, value in zip(ids, returns, strict=True)
            ],
        )


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two untrained policies: `sound`, and `fragile`, which overflows at observations that no episode has."""
    import torch
    from stable_baselines3 import PPO

    directory = tmp_path_factory.mktemp("zips")
    sound = PPO("MlpPolicy", "CartPole-v1", seed=1, device="cpu")
    sound.save(directory / "sound.zip")
    fragile = PPO("MlpPolicy", "CartPole-v1", seed=1, device="cpu", policy_kwargs={"activation_fn": torch.nn.ReLU})
    with torch.no_grad():
        first, second = fragile.policy.mlp_extractor.policy_net[0], fragile.policy.mlp_extractor.policy_net[2]
        first.weight *= 1e31
        first.bias *= 1e31
        second.weight *= 1e-31
    fragile.save(directory / "fragile.zip")
    return {name: directory / f"{name}.zip" for name in ("sound", "fragile")}


def release(airflow: Airflow, zip_path: Path, application: Application) -> Run:
    """Release the zip while the application runs. What it asks says nothing of CartPole: those checks only look on."""
    params = {
        "source": "zip",
        "zip_path": str(zip_path),
        "minimum_mean_return": 1,
        "canary_steps": [0.5],
        "simulate_users": 0,
        "dry_run_checks": ["action_distribution", "reward_trend", "finite_outputs"],
    }
    run = airflow.trigger(DAG, params)
    with application:
        return airflow.follow(DAG, run.run_id, timeout=600)


@pytest.fixture(scope="module")
def champion(airflow: Airflow, zips: dict[str, Path]) -> str:
    """There is a champion: one of a release before, or `sound`, released here."""
    if ControlPlane("test").state("cartpole")["champion"] is None:
        run = release(airflow, zips["sound"], Application())
        assert outcome("cartpole", run)["outcome"] == "promoted"
    version: str = ControlPlane("test").state("cartpole")["champion"]
    return version


def verdict(run: Run) -> dict[str, Any]:
    document = Release.get("cartpole", run.run_id).get_json("canary/verdict.json")
    assert document is not None, outcome("cartpole", run)
    return document


def test_a_challenger_that_is_one_standard_deviation_worse_is_rolled_back_by_the_sequence(
    airflow: Airflow, zips: dict[str, Path], champion: str
) -> None:
    found = verdict(release(airflow, zips["sound"], Application(shift=-DEVIATION)))
    assert found["verdict"] == "roll_back"
    assert found["difference"]["upper"] < 0
    assert sum(found["units"]["finished"].values() if "finished" in found["units"] else found["units"].values()) < 400
    assert ControlPlane("test").state("cartpole")["champion"] == champion


def test_a_challenger_that_returns_nan_is_out_of_traffic_within_twenty_requests(
    airflow: Airflow, zips: dict[str, Path], champion: str
) -> None:
    application = Application(observation=lambda arm: TOO_FAST if arm == "challenger" else HARMLESS)
    run = release(airflow, zips["fragile"], application)
    found = verdict(run)
    assert found["verdict"] == "roll_back"
    assert application.sources["challenger", "fallback"] > 0
    with tables.connect(settings.database_url()).connect() as connection:
        rows = connection.execute(
            sa.select(tables.arm_stats.c.stats).where(
                tables.arm_stats.c.version == found["version"], tables.arm_stats.c.arm == "challenger"
            )
        )
        assert 0 < sum(row.stats["faults"]["non_finite"] for row in rows) <= 20
    assert ControlPlane("test").state("cartpole")["champion"] == champion


def test_a_broken_splitter_ends_the_canary_inconclusive(airflow: Airflow, zips: dict[str, Path], champion: str) -> None:
    numbers = iter(range(10**9))

    def lopsided() -> list[str | None]:
        """Users of whom two in three of those that would go to the challenger never arrive."""
        with GatewayClient(settings.gateway_url()) as client:
            document = client.policy("cartpole")["canary"]
        if document is None:
            return [None] * 16
        document.pop("withdrawn")
        canary = Canary(**document)
        users: list[str | None] = []
        while len(users) < 16:
            number = next(numbers)
            if canary.arm(f"u{number}") != "challenger" or number % 3 == 0:
                users.append(f"u{number}")
        return users

    run = release(airflow, zips["sound"], Application(users=lopsided))
    found = verdict(run)
    assert (found["verdict"], "ratio" in found["reason"]) == ("inconclusive", True), found["reason"]
    assert ControlPlane("test").state("cartpole")["champion"] == champion


def test_an_equal_challenger_is_promoted_within_a_margin_that_was_planned_for_that(
    airflow: Airflow, zips: dict[str, Path], champion: str
) -> None:
    run = release(airflow, zips["sound"], Application())
    made = Release.get("cartpole", run.run_id)
    returns = np.clip(np.random.default_rng(0).normal(MEAN, DEVIATION, 200), 0, 500)
    prospect = Planner(returns, made.spec.canary, canaries=200).prospect("equal", 0.0)
    assert prospect.promote is not None
    assert prospect.promote >= 0.99
    found = verdict(run)
    assert found["verdict"] == "promote"
    assert ControlPlane("test").state("cartpole")["champion"] == found["version"] != champion
