"""Evaluation: fixed seeds, whole episodes, an interval, and evidence that outlives a rejection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.build.training.agent import load_model
from tasks.build.training.evaluation import evaluate_policy, judge, load_rollout, save_rollout
from tasks.build.training.rollout import bootstrap_interval, play
from tasks.errors import Rejected
from tasks.inputs import Inputs, Outputs, size
from tasks.spec.params import Params
from tasks.spec.sections import Environment
from tasks.stages.artifacts import EVALUATION, ROLLOUT
from tasks.stages.evaluate import evaluate
from tasks.stages.train import train
from tasks.tracking.release import Release

CARTPOLE = Environment(id="CartPole-v1")


def _lean(given: Inputs) -> Outputs:
    """Push towards where the pole falls: episodes of a few dozen steps."""
    return {"action": (given["observation"][:, 2] > 0).astype(np.int64)}


def test_the_same_seeds_give_identical_returns_however_many_run_at_once() -> None:
    together = play(CARTPOLE, _lean, range(12), n_envs=12)
    few = play(CARTPOLE, _lean, range(12), n_envs=5)
    assert together.returns.tolist() == few.returns.tolist()
    assert np.array_equal(together.inputs["observation"], few.inputs["observation"])
    assert len(set(together.returns.tolist())) > 1


def test_an_episode_is_whole_and_is_not_mixed_with_the_next() -> None:
    import gymnasium

    rollout = play(CARTPOLE, _lean, [3, 4], n_envs=1)
    environment = gymnasium.make("CartPole-v1")
    for episode, seed in enumerate([3, 4]):
        observation, _ = environment.reset(seed=seed)
        total, steps, done = 0.0, 0, False
        mine = rollout.inputs["observation"][rollout.episode_index == episode]
        while not done:
            assert np.array_equal(mine[steps], observation)
            observation, reward, terminated, truncated, _ = environment.step(
                int(_lean({"observation": observation[None]})["action"][0])
            )
            total, steps, done = total + float(reward), steps + 1, terminated or truncated
        assert (total, steps) == (rollout.returns[episode], rollout.lengths[episode])


def test_a_trained_policy_returns_the_same_twice(trained: Path) -> None:
    agent = load_model(trained / "model.zip")
    first, rollout = evaluate_policy(CARTPOLE, agent.decide, 10, 0)
    second, again = evaluate_policy(CARTPOLE, agent.decide, 10, 0)
    assert first == second
    assert np.array_equal(rollout.actions, again.actions)


def test_short_episodes_still_give_2000_on_policy_observations(tmp_path: Path) -> None:
    evaluation, rollout = evaluate_policy(
        CARTPOLE, lambda given: {"action": np.zeros(size(given), dtype=np.int64)}, 5, 0
    )
    assert evaluation.episodes == len(evaluation.returns) == 5
    save_rollout(rollout, tmp_path / "rollout.npz")
    given, actions = load_rollout(tmp_path / "rollout.npz")
    observations = given["observation"]
    assert len(observations) == len(actions) >= 2_000
    assert observations.dtype == np.float32


@pytest.mark.parametrize(("minimum", "passed"), [(20.0, True), (20.1, False)])
def test_a_candidate_passes_when_its_mean_reaches_the_minimum(minimum: float, passed: bool) -> None:
    evaluation = judge(np.array([10.0, 20.0, 30.0]), np.array([1, 2, 3]), minimum)
    assert evaluation.mean == 20
    assert evaluation.lower < 20 < evaluation.upper
    assert evaluation.passed is passed


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    samples = generator.exponential(size=(300, 50))
    intervals = [bootstrap_interval(sample, resamples=1_000) for sample in samples]
    assert 0.88 <= np.mean([low <= 1.0 <= high for low, high in intervals]) <= 0.98


def test_a_candidate_below_the_minimum_is_rejected_after_its_evidence_was_kept(
    mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path
) -> None:
    name = make_policy(train={"total_timesteps": 256}, evaluate={"episodes": 5, "minimum_mean_return": 499})
    release = Release.open(name, "run", Params())
    train(release)
    with pytest.raises(Rejected, match="the spec asks for 499"):
        evaluate(release)
    evidence = release.get_json(EVALUATION)
    assert evidence["passed"] is False
    assert len(evidence["returns"]) == 5
    assert size(load_rollout(release.fetch(ROLLOUT, tmp_path))[0]) >= 2_000
