"""A release that starts warm continues from its champion's weights, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.build.training.train import MODEL, train_model
from tasks.control.plane import ControlPlane
from tasks.errors import Misconfigured
from tasks.spec.params import Params
from tasks.stages.register import register
from tasks.stages.train import train
from tasks.tracking.release import Release
from tests.tasks import fabricated

STILL = {"n_steps": 32, "batch_size": 256, "n_epochs": 1, "learning_rate": 0.0}
"""Hyperparameters that change no weight: what comes out of training is what went in."""


def weights(file: Path) -> dict[str, Any]:
    """The policy network's parameters in a zip."""
    from stable_baselines3 import PPO

    return dict(PPO.load(file, device="cpu").policy.state_dict())


def with_champion(policy: str, trained: Path) -> None:
    """A first version whose model is the trained one, champion."""
    first = fabricated.candidate(policy, "manual__1")
    first.put_file(trained / "model.zip", "model")
    version = register(first)["version"]
    control = ControlPlane("a test")
    control.approve(policy, version)
    control.start_canary(policy, version, "manual__1", 0.05)
    control.promote(policy, "manual__1", "a test promotes it")


def test_training_starts_from_the_champions_weights(
    mlflow_server: str, make_policy: Callable[..., str], trained: Path, tmp_path: Path
) -> None:
    import torch

    policy = make_policy(train={"warm_start": True, "hyperparameters": STILL, "total_timesteps": 256})
    with_champion(policy, trained)
    second = Release.open(policy, "scheduled__2", Params())
    assert train(second)["kept"] is False
    champion, continued = weights(trained / "model.zip"), weights(second.fetch(MODEL, tmp_path / "warm"))
    assert all(torch.equal(champion[name], continued[name]) for name in champion)
    assert train(second)["kept"] is True

    train_model(second.spec, tmp_path)  # the same spec, and nothing to start from
    fresh = weights(tmp_path / "model.zip")
    assert not all(torch.equal(champion[name], fresh[name]) for name in champion)


def test_weights_of_another_shape_end_the_release_with_what_to_do(
    mlflow_server: str, make_policy: Callable[..., str], trained: Path
) -> None:
    larger = {**STILL, "policy_kwargs": {"net_arch": [32]}}
    policy = make_policy(train={"warm_start": True, "hyperparameters": larger, "total_timesteps": 256})
    with_champion(policy, trained)
    with pytest.raises(Misconfigured, match=r"(?s)do not fit this spec's network.*set warm_start: false"):
        train(Release.open(policy, "scheduled__2", Params()))
