"""Whether a foreign policy's environment can be played: by its id, its versions and its spaces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tasks.build.packaging.playable import MAXIMUM_BYTES, MAXIMUM_STEPS, find_playable, unplayed
from tasks.build.training.zoo import Layout

CARTPOLE = spaces.Box(-np.inf, np.inf, (4,), np.float32)


def _model(observed: Any = CARTPOLE, acted: Any = None) -> Any:
    return SimpleNamespace(observation_space=observed, action_space=acted or spaces.Discrete(2))


class _Endless(gymnasium.Env[Any, Any]):
    """Episodes that never end, in spaces of one's choice."""

    def __init__(self, observed: Any = CARTPOLE, acted: Any = None) -> None:
        self.observation_space, self.action_space = observed, acted or spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def _registered() -> Any:
    for name in ("AirlockEndless-v2", "AirlockEndless-v3"):
        gymnasium.register(name, _Endless)
    yield
    for name in ("AirlockEndless-v2", "AirlockEndless-v3"):
        del gymnasium.registry[name]


def test_an_environment_that_fits_is_played_for_as_long_as_it_says() -> None:
    playable = find_playable(Layout("CartPole-v1"), _model())
    assert playable.environment is not None
    assert playable.environment.id == "CartPole-v1"
    assert playable.environment.kwargs == {"max_episode_steps": 500}
    assert playable.described == {"id": "CartPole-v1", "kwargs": {}}
    assert playable.space.shape == (4,)


def test_one_that_never_ends_is_cut() -> None:
    playable = find_playable(Layout("AirlockEndless-v3"), _model())
    assert playable.environment is not None
    assert playable.environment.kwargs == {"max_episode_steps": MAXIMUM_STEPS}


def test_one_that_shows_images_is_cut_before_they_fill_the_memory() -> None:
    image = spaces.Box(0, 255, (96, 96, 3), np.uint8)
    playable = find_playable(Layout("AirlockEndless-v3", {"observed": image}), _model(image))
    assert playable.environment is not None
    steps = playable.environment.kwargs["max_episode_steps"]
    assert MAXIMUM_BYTES * 0.99 < 16 * steps * 96 * 96 * 3 <= MAXIMUM_BYTES


def test_a_version_that_is_gone_gives_way_to_the_newest_and_says_so() -> None:
    playable = find_playable(Layout("AirlockEndless-v0"), _model())
    assert playable.environment is not None
    assert playable.described["id"] == "AirlockEndless-v3"
    assert playable.described["note"] == "trained in AirlockEndless-v0, which is not registered any more"
    assert find_playable(Layout("AirlockEndless-v2"), _model()).described["id"] == "AirlockEndless-v2"


@pytest.mark.parametrize(
    ("layout", "model", "said"),
    [
        (Layout(None), _model(), "no environment is named: name it with --env"),
        (Layout("Unheard-v1"), _model(), "Unheard-v1"),
        (Layout("ALE/Pong-v5"), _model(), "ALE"),
        (Layout("CartPole-v1", {"nonsense": 1}), _model(), "nonsense"),
        (Layout("CartPole-v1", prepared=("4 frames stacked",)), _model(), "was 4 frames stacked"),
        (Layout("CartPole-v1"), _model(spaces.Box(-1, 1, (16,))), r"observes Box.*\(4,\).*but the model Box.*\(16,\)"),
        (Layout("CartPole-v1"), _model(acted=spaces.Discrete(3)), r"takes Discrete\(2\).*acts in Discrete\(3\)"),
        (Layout("Pendulum-v1"), _model(spaces.Box(-8, 8, (3,)), spaces.Box(-1, 1, (1,))), "takes Box"),
    ],
)
def test_what_cannot_be_played_says_why_in_the_manifest(layout: Layout, model: Any, said: str) -> None:
    playable = find_playable(layout, model)
    assert playable.environment is None
    assert playable.described["id"] == layout.environment
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(playable.reason)
    assert playable.described["note"] == f"not played: {playable.reason}"


@pytest.mark.parametrize(
    ("observed", "model", "fits"),
    [
        (spaces.Box(0, 255, (36, 40, 3), np.uint8), spaces.Box(0, 255, (3, 36, 40), np.uint8), True),
        (spaces.Box(0, 255, (36, 40, 3), np.uint8), spaces.Box(0, 255, (4, 36, 40), np.uint8), False),
        (spaces.Dict({"a": CARTPOLE}), spaces.Dict({"a": CARTPOLE}), True),
        (spaces.Dict({"b": CARTPOLE}), spaces.Dict({"a": CARTPOLE}), False),
        (spaces.Discrete(4), spaces.Discrete(4), True),
        (spaces.Discrete(4), spaces.Discrete(5), False),
        (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([2, 3]), True),
        (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 2]), False),
        (spaces.MultiBinary(3), spaces.MultiBinary(3), True),
    ],
)
def test_spaces_fit_or_do_not(observed: Any, model: Any, fits: bool) -> None:
    playable = find_playable(Layout("AirlockEndless-v3", {"observed": observed}), _model(model))
    assert (playable.environment is not None) is fits


def test_one_that_fails_while_it_is_played_says_so() -> None:
    playable = find_playable(Layout("CartPole-v1"), _model())
    found = unplayed(playable, ValueError("no display\nat all"))
    assert found.environment is None
    assert found.reason == "CartPole-v1 cannot be played: ValueError: no display"
