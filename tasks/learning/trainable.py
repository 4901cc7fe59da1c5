"""A champion's model made ready to learn on: built from the spec's hyperparameters, with the champion's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.build.training.agent import Agent, load_model
from tasks.build.training.train import MODEL, VECNORMALIZE
from tasks.errors import Misconfigured
from tasks.spec.sections import ON_POLICY

if TYPE_CHECKING:
    from tasks.spec.sections import PolicySpec


@dataclass(frozen=True)
class Champion:
    """A champion's files: its model's zip with its statistics, if any, as they lie in `directory`."""

    directory: Path
    algorithm: str

    @property
    def zip(self) -> Path:
        """The model."""
        return self.directory / Path(MODEL).name

    @property
    def statistics(self) -> Path | None:
        """The VecNormalize statistics, or None."""
        path = self.directory / Path(VECNORMALIZE).name
        return path if path.exists() else None

    def agent(self) -> Agent:
        """The champion as it acts."""
        return load_model(self.zip, self.statistics, self.algorithm)


def _nowhere(observation_space: Any, action_space: Any) -> Any:
    """What SB3 asks of an environment before it trains, its spaces; it cannot be acted in."""
    import gymnasium

    class Nowhere(gymnasium.Env[Any, Any]):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            raise NotImplementedError("learning from the log has no environment")

        def step(self, action: Any) -> Any:
            raise NotImplementedError("learning from the log has no environment")

    found = Nowhere()
    found.observation_space, found.action_space = observation_space, action_space
    return found


def trainable(spec: PolicySpec, champion: Champion, seed: int) -> Agent:
    """The champion's model with the spec's optimisers, made without any environment, and with its normalization frozen.

    Raises Misconfigured where its weights do not fit the spec's network.
    """
    import numpy as np
    import torch

    from tasks.build.training.algorithms import algorithm_class
    from tasks.build.training.hyperparameters import constructor_arguments

    torch.set_num_threads(1)
    found = champion.agent()
    spaces = found.model.observation_space, found.model.action_space
    arguments: dict[str, Any] = constructor_arguments(spec.train.hyperparameters, int(np.prod(spaces[1].shape or (1,))))
    if spec.train.algorithm not in ON_POLICY:
        arguments["buffer_size"] = 1  # the log is the buffer
    cls = algorithm_class(spec.train.algorithm)
    model = cls(spec.train.policy, _nowhere(*spaces), seed=seed, device="cpu", **arguments)
    try:
        model.set_parameters(found.model.get_parameters(), exact_match=True, device="cpu")
    except (ValueError, RuntimeError, KeyError) as error:
        raise Misconfigured(
            f"learn: the champion's weights do not fit this spec's network: {error}; release a champion of this spec "
            "first"
        ) from error
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(None, []))
    model._current_progress_remaining = 1.0
    return Agent(champion.algorithm, model, found.normalizer)
