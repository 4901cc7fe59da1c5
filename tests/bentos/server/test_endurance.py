"""A little of what `python -m benchmarks.endurance` does at length: workers die, versions change, nobody notices."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.endurance import Killer, Players, Releases, remote_play, run_cycles, run_outcomes
from bentos.package.manifest import Serve
from tests.bentos.gateway_process import GatewayProcess, MlflowProcess
from tests.bentos.policy_packages import write_package

POLICY = "endurance"


@pytest.fixture(scope="module")
def gateway(mlflow: MlflowProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Two workers that follow the registry."""
    home = tmp_path_factory.mktemp("endurance")
    running = GatewayProcess(home, MLFLOW_TRACKING_URI=mlflow.url, AIRLOCK_WORKERS="2")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def releases(mlflow: MlflowProcess, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """The policy, with a champion."""
    scratch = tmp_path_factory.mktemp("releases")
    serve = Serve(fallback={"constant": 0}, deadline_ms=60_000)  # a busy machine shall not bring the fallback in
    write_package(scratch / "package", name=POLICY, serve=serve)
    return Releases(mlflow, gateway, scratch / "package", scratch)


def test_a_remote_policy_sees_no_failure_and_each_episode_one_version(
    gateway: GatewayProcess, releases: Releases
) -> None:
    chance = random.Random(0)
    players = Players(remote_play(gateway, POLICY))
    seen = run_cycles(releases, players, cycles=2, actions=2_000, killer=Killer(gateway, chance), chance=chance)
    assert not seen.failures
    assert not seen.changes
    assert seen.kills == 2
    assert seen.actions >= 2_000
    assert seen.episodes > 0
    assert set(seen.sources) == {"policy"}


def test_an_acknowledged_outcome_is_stored_once_whoever_is_killed(gateway: GatewayProcess, releases: Releases) -> None:
    kept = run_outcomes(gateway, releases.name, Killer(gateway, random.Random(1), within=0.1), kills=2)
    assert kept.acknowledged > 0
    assert (kept.missing, kept.changed, kept.failed) == (0, 0, 0)
    assert kept.stored >= kept.acknowledged
