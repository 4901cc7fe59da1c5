"""Policies of every kind, from the package through gateway, smoke test and checks, act as SB3 does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from sb3_contrib.common.maskable import evaluation as maskable
from stable_baselines3.common import evaluation
from stable_baselines3.common.vec_env import DummyVecEnv

from bentos.client import GatewayError, RemotePolicy
from bentos.gateway.engine import Core
from bentos.gateway.schemas import ActRequest
from bentos.package.digests import BASELINE, digest_files, write_manifest
from bentos.package.loader import load
from bentos.package.session import Policy
from bentos.server.single import Package, route
from bentos.store.overrides import Overrides
from bentos.tokens import Signer
from tasks.build.export.parity import compare
from tasks.build.packaging.bento import smoke_test
from tasks.build.packaging.scratch_server import serving
from tasks.build.training.environments import make
from tasks.build.training.rollout import play
from tasks.canary.players import Game, Gateway, Player
from tasks.checklist import package, served
from tasks.checklist.envelope import action_bounds
from tasks.checklist.live import action_distribution, reward_trend
from tasks.checklist.load import Load
from tasks.checklist.poison import poison
from tasks.checklist.served import Served
from tasks.errors import Rejected
from tasks.gateway_requests import ask
from tasks.inputs import MASK, START, STATES, observations, only_observations, plain, take
from tasks.spec.files import load as load_spec
from tests.bentos.gateway_process import GatewayProcess, MlflowProcess, wait_until
from tests.tasks.kinds import KINDS, Real, environment

pytestmark = pytest.mark.timeout(900)  # the gateway of all kinds takes a minute to make

RealPackage = Callable[[str], Real]
EPISODES = 4


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _equal(policy: Policy, expected: Any, came: Any) -> bool:
    return compare(policy.manifest.action_space, np.asarray(expected), np.asarray(came)).agreement == 1.0


# in process


def test_in_process_each_kind_predicts_as_sb3_does(real_package: RealPackage, kind: str) -> None:
    real = real_package(kind)
    policy = load(real.directory)
    given = real.given
    if real.kind.recurrent:
        given = {**given, **{name: 0 * given[name] for name in STATES}, START: np.ones_like(given[START])}
    expected = real.agent.decide(given)["action"]
    masks = given.get(MASK)
    assert _equal(policy, expected, policy.predict(observations(given), masks))
    for row in range(12):
        one = take(given, row)
        action = policy.predict(observations(one), None if masks is None else masks[row])
        assert real.kind.action_space.contains(action) or real.kind.action_space.contains(np.int64(action))
        assert _equal(policy, expected[row : row + 1], [action])


def test_a_recurrent_policy_remembers_from_step_to_step_as_sb3_does(real_package: RealPackage) -> None:
    real = real_package("recurrent")
    policy = load(real.directory)
    observed = np.random.default_rng(0).normal(size=(20, 3, 5)).astype(np.float32)
    states = [None, None]
    starts, forgetful = np.ones(3, dtype=bool), []
    for seen in observed:
        expected, states[0] = real.agent.model.predict(real.agent.normalize(seen), states[0], starts, True)
        action, states[1] = policy.step(seen, states[1], starts)
        assert _equal(policy, expected, action)
        for theirs, ours in zip(states[0], states[1], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        forgetful.append(_equal(policy, expected, policy.predict(seen)))
        starts = np.random.default_rng(1).random(3) < 0.2
    assert forgetful[0]
    assert not any(forgetful[1:]), "without its state it would act otherwise"


def test_sb3s_own_evaluation_runs_a_package(real_package: RealPackage, kind: str) -> None:
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv

    real = real_package(kind)
    if real.kind.masked:
        pytest.skip("SB3's evaluation gives no masks")
    policy = load(real.directory)

    class Predictor:
        def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True):  # type: ignore[no-untyped-def]
            return policy.step(observation, state, episode_start)

    class Original:
        def predict(self, observation: Any, *rest: Any, **named: Any) -> Any:
            return real.agent.model.predict(real.agent.normalize(observation), *rest, **named)

    def returns(model: Any) -> Any:
        vectorised = DummyVecEnv([lambda: make(environment(kind))])
        vectorised.seed(11)
        return evaluate_policy(model, vectorised, 3, return_episode_rewards=True, warn=False)[0]

    np.testing.assert_allclose(returns(Predictor()), returns(Original()), rtol=1e-4)


@pytest.mark.parametrize("wrong", [6, -1, [0, 1, 9]])
def test_a_number_outside_a_discrete_space_is_refused_as_torch_refuses_it(
    real_package: RealPackage, wrong: Any
) -> None:
    policy = load(real_package("grid").directory)
    with pytest.raises(ValueError, match=r"observation: expected numbers from 0 to 5, came (6|-1|9)"):
        policy.predict(wrong)


def test_threads_that_ask_at_once_each_get_their_own_answer(real_package: RealPackage) -> None:
    real = real_package("masked_dict")
    policy = load(real.directory)

    def one(row: int) -> Any:
        given = take(real.given, row)
        return policy.predict(observations(given), given[MASK])

    rows = list(range(len(real.actions))) * 4
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, rows))
    assert _equal(policy, real.actions[rows], np.stack(answers))


def test_every_kind_can_be_broken_on_one_observation(real_package: RealPackage, kind: str, tmp_path: Path) -> None:
    real = real_package(kind)
    policy = load(real.directory)
    marker = only_observations(take(real.given, slice(7, 8)))
    broken = load(poison(real.directory, policy.manifest, marker, tmp_path / "broken"))
    dtypes = {tensor.name: tensor.dtype for tensor in policy.manifest.inputs}
    given = {name: value[:40].astype(dtypes[name]) for name, value in real.given.items()}
    alike = np.ones(40, dtype=bool)
    for value in only_observations(given).values():
        alike &= (value == value[7]).reshape(40, -1).all(axis=1)
    assert (broken.run(given)["finite"] == ~alike).all()
    assert (broken.run(given)["action"][~alike] == policy.run(given)["action"][~alike]).all()
    assert package.exported(policy).status == "pass"


# at the gateway


@pytest.fixture(scope="module")
def gateway(real_package: RealPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One gateway that serves the champion of every kind."""
    home = tmp_path_factory.mktemp("every-kind")
    registry = MlflowProcess(home / "mlflow")
    try:
        for name in KINDS:
            real = real_package(name)
            registry.alias(name, "champion", registry.publish(name, real.directory, real.digest))
        running = GatewayProcess(home / "gateway", MLFLOW_TRACKING_URI=registry.url)
        try:
            for name in KINDS:
                url = f"{running.url}/v1/policies/{name}"
                wait_until(lambda url=url: httpx.get(url).json().get("champion") == "1", f"{url} serves", 120)
            yield running
        finally:
            running.stop()
    finally:
        registry.stop()


def test_simulated_users_earn_through_the_gateway_what_sb3_earns(
    gateway: GatewayProcess, real_package: RealPackage, kind: str
) -> None:
    real = real_package(kind)
    seeds = range(70, 70 + EPISODES)
    wanted = play(environment(kind), real.agent.decide, seeds, load(real.directory).manifest.inputs)
    players = [Player(make(environment(kind)), seed) for seed in seeds]
    game = Game(Gateway(gateway.url, kind), players, None)
    game.open(EPISODES)
    while game.playing():
        game.step()
    game.report(everything=True)

    totals = {player.seed: player.total for player in players}
    assert [player.total for player in players] == pytest.approx(wanted.returns.tolist(), rel=1e-4), totals
    assert [player.length for player in players] == wanted.lengths.tolist()
    assert dict(game.tally.sources) == {"policy": int(wanted.lengths.sum())}
    assert game.tally.accepted == EPISODES
    if real.kind.masked:
        assert players[0].masked
        assert not game.tally.adjusted, "a maskable policy obeys by itself"
        assert sum(player.env.get_wrapper_attr("forbidden") for player in players) == 0


def test_evaluate_policy_scores_the_remote_policy_as_the_original(
    gateway: GatewayProcess, real_package: RealPackage, kind: str
) -> None:
    agent = real_package(kind).agent

    class Original:
        def predict(self, observation: Any, **about: Any) -> Any:
            return agent.model.predict(agent.normalize(observation), **about)

    evaluate = maskable.evaluate_policy if KINDS[kind].masked else evaluation.evaluate_policy

    def score(policy: Any, watch: Callable[[Any], Any] = lambda env: env) -> Any:
        env = DummyVecEnv([lambda: make(environment(kind))] * 3)
        env.seed(11)
        return evaluate(policy, watch(env), EPISODES, return_episode_rewards=True, warn=False)

    ended = gateway.client.policy(kind)["statistics"]["episodes_completed"]
    with RemotePolicy(gateway.url, kind) as remote:
        returns, lengths = score(remote, remote.watch)
    wanted_returns, wanted_lengths = score(Original())
    assert returns == pytest.approx(wanted_returns, rel=1e-4)
    assert lengths == wanted_lengths
    assert remote.said is not None
    assert set(remote.said.sources) == {"policy"}

    def reported() -> bool:
        return bool(gateway.client.policy(kind)["statistics"]["episodes_completed"] - ended >= EPISODES)

    wait_until(reported, "the episodes that ended are counted")


def test_the_smoke_test_compares_the_served_policy_with_package_and_rollout(
    gateway: GatewayProcess, real_package: RealPackage, kind: str, tmp_path: Path
) -> None:
    real = real_package(kind)
    rollout = tmp_path / "rollout.npz"
    np.savez(rollout, **real.given, actions=real.actions, episode_index=np.zeros(len(real.actions)))
    server: Any = SimpleNamespace(url=gateway.url)
    found = smoke_test(server, load(real.directory), rollout)
    assert found["compared"] >= 48

    spoilt = np.array(real.actions)
    first = int(real.given[START].reshape(-1).argmax()) if real.kind.recurrent else 3
    others = (spoilt != spoilt[first]).reshape(len(spoilt), -1).any(axis=1)
    spoilt[first] = spoilt[int(others.argmax())]
    np.savez(rollout, **real.given, actions=spoilt, episode_index=np.zeros(len(real.actions)))
    with pytest.raises(Rejected, match="the evaluated policy agree on"):
        smoke_test(server, load(real.directory), rollout)


def test_a_recurrent_policy_served_without_its_state_is_found_out(
    gateway: GatewayProcess, real_package: RealPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = real_package("recurrent")
    rollout = tmp_path / "rollout.npz"
    np.savez(rollout, **real.given, actions=real.actions, episode_index=np.zeros(len(real.actions)))
    monkeypatch.setattr(
        "tasks.build.packaging.bento.ask", lambda url, policy, given, states, at_once: ask(url, policy, given)
    )
    with pytest.raises(Rejected, match="the package agree on"):
        smoke_test(SimpleNamespace(url=gateway.url), load(real.directory), rollout)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "mask"),
    [
        ("masked", [True] * 4),
        ("masked", [False] * 5),
        ("masked_dict", [True] * 8),
        ("masked_dict", [False] * 3 + [True] * 6),
        ("masked_binary", [True] * 4 + [False] * 2),
        ("precise", [True]),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    gateway: GatewayProcess, real_package: RealPackage, kind: str, mask: list[bool]
) -> None:
    rows = plain(take(real_package(kind).given, slice(1)))
    with pytest.raises(GatewayError, match="422"):
        gateway.client.act(kind, rows, action_masks=[mask])


def test_an_override_and_a_fallback_obey_the_mask_too(gateway: GatewayProcess, real_package: RealPackage) -> None:
    rows = plain(take(real_package("masked_dict").given, slice(1)))
    mask = [[False, True, False, True, True, False, False, True, True]]
    gateway.client.set_override("masked_dict", [0, 1, 0], ttl_seconds=30, reason="a test")
    try:
        answer = gateway.client.act("masked_dict", rows, action_masks=mask)
    finally:
        gateway.client.clear_override("masked_dict")
    assert answer["sources"] == ["override"]
    assert answer["adjusted"] == [["action_mask"]]
    assert answer["actions"][0][:2] == [1, 1]
    assert answer["actions"][0][2] in (2, 3)


def test_probe_load_gives_a_recurrent_policy_its_state_back(gateway: GatewayProcess, real_package: RealPackage) -> None:
    with Load(gateway.url, "recurrent", real_package("recurrent").given, rows=4) as probe:
        wait_until(lambda: len(probe.answers) >= 20, "twenty answers")
        states = probe._states
    assert not probe.failures
    assert states is not None
    assert len(states) == 4


@pytest.mark.parametrize("kind", ["masked_dict", "recurrent"])
def test_the_served_checks_pass(real_package: RealPackage, kind: str, tmp_path: Path) -> None:
    real = real_package(kind)
    policy = load(real.directory)
    marker = only_observations(take(real.given, slice(9, 10)))
    broken = poison(real.directory, policy.manifest, marker, tmp_path / "poisoned")
    gateway: Any = "bentos.service:Gateway"
    with (
        serving(gateway, tmp_path / "whole", {"AIRLOCK_PACKAGE": str(real.directory)}) as whole,
        serving(gateway, tmp_path / "broken", {"AIRLOCK_PACKAGE": str(broken)}) as breaking,
    ):
        asked = Served(policy, real.given, whole, breaking, marker)
        for check in (served.input_validation, served.fallback_configured, served.metrics_defined, action_bounds):
            finding = check(asked)
            assert finding.status == "pass", finding
        assert finding.sample_size == 4_000
        assert finding.evidence["sources"] == {"policy": 4_000}


# without an environment


def _without_baseline(real: Real, directory: Path) -> Path:
    shutil.copytree(real.directory, directory)
    with np.load(directory / BASELINE) as archive:
        np.savez(directory / BASELINE, **{**archive, "returns": np.zeros(0)})
    drawn: dict[str, Any] = {"observations": {"source": "drawn"}, "actions": {}, "returns": {"count": 0}}
    manifest = load(real.directory).manifest
    write_manifest(directory, msgspec.structs.replace(manifest, files=digest_files(directory), baselines=drawn))
    return directory


@pytest.mark.parametrize("kind", ["grid", "precise"])
def test_a_package_without_a_baseline_is_served_and_says_that_drift_is_off(
    real_package: RealPackage, kind: str, tmp_path: Path
) -> None:
    import asyncio

    real = real_package(kind)
    writer: Any = None
    core = Core(Signer("key"), writer, Overrides())
    core.route(route(core, Package(_without_baseline(real, tmp_path / "package"), "1")))
    shown = core.routes[kind].shown["1"]
    assert shown["drift"] == "off: the package has no on-policy baseline"
    rows = plain(take(real.given, slice(64)))
    answers = [asyncio.run(core.act(kind, ActRequest(observations=rows))) for _ in range(32)]
    version = core.routes[kind].champion
    assert version is not None
    assert _equal(load(real.directory), real.actions[:64], answers[0].actions)
    counts = core.stats.arm(kind, "", "1", "champion").actions
    assert sum(counts.values()) > 0
    assert version.drift.readings() == []


def test_a_package_without_a_baseline_fails_the_gates_that_need_one(real_package: RealPackage, tmp_path: Path) -> None:
    manifest = load(_without_baseline(real_package("grid"), tmp_path / "package")).manifest
    spec = load_spec("cartpole")
    findings = [
        package.ab_plan(spec, manifest.baselines["returns"], None),
        action_distribution({"actions": {"0": 5_000}}, manifest.baselines["actions"], spec),
        reward_trend([1.0] * 100, manifest.baselines["returns"].get("mean"), spec),
    ]
    for finding in findings:
        assert finding.status == "fail"
        assert "its environment could not run" in finding.reason
