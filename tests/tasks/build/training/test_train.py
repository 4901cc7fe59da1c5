"""Training: the same seed gives the same weights, and a person can watch it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.build.training import progress
from tasks.build.training.agent import load_model
from tasks.build.training.train import params_digest, train_model
from tasks.errors import Misconfigured
from tasks.spec.files import load
from tasks.spec.params import Params, effective
from tasks.spec.sections import PolicySpec
from tasks.stages.artifacts import TRAINING
from tasks.stages.train import train
from tasks.tracking.release import Release, client

MakePolicy = Callable[..., str]


def _spec(make_policy: MakePolicy, base: str = "cartpole", **train: Any) -> PolicySpec:
    return load(make_policy(base, train={"total_timesteps": 512, **train}))


def _weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_model(directory / "model.zip").model.policy.state_dict()


@pytest.mark.parametrize(("base", "steps"), [("cartpole", 512), ("pendulum", 250)])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    base: str, steps: int, make_policy: MakePolicy, tmp_path: Path
) -> None:
    spec = _spec(make_policy, base, total_timesteps=steps)
    weights = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        (tmp_path / name).mkdir()
        train_model(effective(spec, Params(seed=seed)), tmp_path / name)
        weights.append(_weights(tmp_path / name))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_training_says_how_far_it_is_and_keeps_the_learning_curve(
    make_policy: MakePolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, logger="tasks.build.training.progress"):
        training = train_model(_spec(make_policy), tmp_path)
    lines = [record.getMessage() for record in caplog.records if "steps/s" in record.getMessage()]
    assert any(" 50 %" in line for line in lines)
    assert all("mean return" in line and "s left" in line for line in lines)
    assert training.timesteps == 512
    assert training.curve[-1][0] == 512
    assert [point[0] for point in training.curve] == sorted({point[0] for point in training.curve})


def test_metrics_go_out_in_batches_not_one_call_a_value(make_policy: MakePolicy, tmp_path: Path) -> None:
    batches: list[list[tuple[str, float, int, int]]] = []
    train_model(_spec(make_policy), tmp_path, sink=lambda batch: batches.append(list(batch)))
    values = [value for batch in batches for value in batch]
    assert {"train/loss", "rollout/ep_rew_mean"} <= {value[0] for value in values}
    assert len(batches) < len(values) / 10


def test_statistics_of_normalization_are_saved_beside_the_model(make_policy: MakePolicy, tmp_path: Path) -> None:
    train_model(_spec(make_policy, normalize=True), tmp_path)
    agent = load_model(tmp_path / "model.zip", tmp_path / "vecnormalize.pkl")
    assert agent.normalizer is not None
    assert agent.normalizer.obs_rms.count > 500


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"hyperparameters": {"n_stepz": 3}}, "n_stepz"),
        ({"algorithm": "sac", "hyperparameters": {}}, "does not accept this combination"),
    ],
)
def test_a_combination_that_does_not_exist_is_a_persons_to_change(
    train: dict[str, Any], said: str, make_policy: MakePolicy, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match=said):
        train_model(_spec(make_policy, **train), tmp_path)


def test_an_environment_that_is_not_installed_is_a_persons_to_change(make_policy: MakePolicy, tmp_path: Path) -> None:
    spec = load(make_policy(environment={"id": "Nowhere-v0"}))
    with pytest.raises(Misconfigured, match="environment 'Nowhere-v0' cannot be made"):
        train_model(spec, tmp_path)


def test_the_digest_changes_with_all_that_decides_the_weights(make_policy: MakePolicy) -> None:
    spec = _spec(make_policy)
    digests = {
        params_digest(spec, "train"),
        params_digest(effective(spec, Params(seed=1)), "train"),
        params_digest(effective(spec, Params(timesteps=1)), "train"),
        params_digest(spec, "train", "champion's run"),
    }
    assert len(digests) == 4
    assert params_digest(effective(spec, Params(max_hours=1)), "train") == params_digest(spec, "train")


def test_the_stage_trains_once_and_keeps_the_model_in_the_run(mlflow_server: str, make_policy: MakePolicy) -> None:
    name = make_policy(train={"total_timesteps": 512})
    release = Release.open(name, "run", Params())
    first = train(release)
    assert not first["kept"]
    training = release.get_json(TRAINING)
    assert train(release) == {**first, "kept": True}
    assert release.get_json(TRAINING) == training
    metrics = client().get_run(release.run_id).data.metrics
    assert "rollout/ep_rew_mean" in metrics
