"""Hyperparameters: rl-zoo words become constructor arguments, and what cannot be understood is named."""

from __future__ import annotations

import pytest
from torch import nn

from tasks.build.training.hyperparameters import constructor_arguments
from tasks.errors import Misconfigured


def test_a_linear_schedule_falls_from_its_start_to_zero() -> None:
    rate = constructor_arguments({"learning_rate": "lin_0.001"}, 1)["learning_rate"]
    assert [rate(1.0), rate(0.5), rate(0.0)] == [0.001, 0.0005, 0.0]


def test_numbers_stay_numbers_even_when_yaml_reads_them_as_text() -> None:
    arguments = constructor_arguments({"learning_rate": "7.3e-4", "clip_range": 0.2, "gamma": 0.98}, 1)
    assert arguments == {"learning_rate": 7.3e-4, "clip_range": 0.2, "gamma": 0.98}


def test_an_activation_is_given_by_name_and_a_train_frequency_as_a_list() -> None:
    arguments = constructor_arguments(
        {"policy_kwargs": {"net_arch": [8], "activation_fn": "ReLU"}, "train_freq": [1, "episode"]}, 1
    )
    assert arguments == {
        "policy_kwargs": {"net_arch": [8], "activation_fn": nn.ReLU},
        "train_freq": (1, "episode"),
    }


def test_action_noise_has_the_length_of_the_action() -> None:
    noise = constructor_arguments({"noise_type": "normal", "noise_std": 0.3}, 3)["action_noise"]
    assert noise().shape == (3,)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rate": "cosine_0.1"}, "hyperparameters.learning_rate: expected a number or lin_<number>"),
        ({"policy_kwargs": "dict(net_arch=[64])"}, "hyperparameters.policy_kwargs: expected a YAML mapping"),
        ({"policy_kwargs": {"activation_fn": "os.system"}}, "activation_fn: expected one of"),
        ({"noise_type": "pink"}, "hyperparameters.noise_type: expected one of"),
        ({"n_envs": 4, "n_timesteps": 10}, "hyperparameters.n_envs: give it as train.n_envs"),
    ],
)
def test_what_cannot_be_understood_is_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        constructor_arguments(given, 1)
    assert said in str(refused.value)
