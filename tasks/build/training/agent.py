"""Import Stable-Baselines3 zips: what is pickled in them is opened here, through `pickles`, and nowhere else.

A foreign zip is opened in a process of its own, with limits of time and memory and without this process's
environment variables, and saved again with today's classes. That guards against broken files, not against malice:
open only files you trust.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import inputs, sandbox
from tasks.build.training.algorithms import algorithm_class
from tasks.build.training.pickles import alias_gym, fresh_space, number, open_field, open_normalizer
from tasks.build.training.zip_file import guess_algorithm, is_pickled, read_data
from tasks.errors import Misconfigured
from tasks.inputs import Inputs, Outputs

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecNormalize


LIMITS = sandbox.Limits(seconds=120.0, memory_mb=3000.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agent:
    """A model with the normalization it was trained under: what it does is `decide` from raw observations."""

    algorithm: str
    model: BaseAlgorithm
    normalizer: VecNormalize | None

    def normalize(self, observations: Any) -> Any:
        """Raw observations (an array [n, ...], or a dict of them) as the model was trained on them."""
        return observations if self.normalizer is None else self.normalizer.normalize_obs(observations)

    def decide(self, given: Inputs) -> Outputs:
        """SB3's deterministic `predict` of raw observations, through the real VecNormalize.

        `action` [n, ...]; a recurrent policy's `next_state_h` and `next_state_c` [n, layers, hidden], too.
        """
        options: dict[str, Any] = {}
        if inputs.MASK in given:
            options["action_masks"] = given[inputs.MASK]
        if inputs.START in given:
            options["state"] = tuple(given[name].swapaxes(0, 1) for name in inputs.STATES)
            options["episode_start"] = given[inputs.START]
        observed = self.normalize(inputs.observations(given))
        action, states = self.model.predict(observed, deterministic=True, **options)
        outputs = {"action": np.asarray(action)}
        if inputs.START in given:
            outputs |= {f"next_{name}": state.swapaxes(0, 1) for name, state in zip(inputs.STATES, states, strict=True)}
        return outputs


def load_model(zip_path: Path, vecnormalize_path: Path | None = None, algorithm: str | None = None) -> Agent:
    """Open an SB3 zip (a pickle: this runs code that is in it) with its VecNormalize statistics, if any.

    Raises Misconfigured, naming the file and the cause, for a file that cannot be opened, weights that are not
    finite, or statistics that do not fit.
    """
    document = read_data(zip_path)
    name = algorithm or guess_algorithm(zip_path)
    cls = algorithm_class(name)
    alias_gym()
    kept = {}
    for key in ("observation_space", "action_space", "policy_class", "policy_kwargs"):
        if key not in document:
            raise Misconfigured(f"{zip_path}: not a Stable-Baselines3 zip: its `data` has no {key}")
        value = open_field(document[key], f"{zip_path}: its {key}")
        kept[key] = fresh_space(value, f"{zip_path}: its {key}") if key.endswith("space") else value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = cls.load(zip_path, device="cpu", custom_objects=_untrained(document) | kept)
    except Misconfigured:
        raise
    except Exception as error:
        # Torch lists what is missing or of another shape in further lines.
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".removesuffix(": ")
        raise Misconfigured(f"{zip_path}: cannot be opened as {name}: {said}") from error
    if broken := [key for key, value in model.policy.state_dict().items() if not bool(value.isfinite().all())]:
        raise Misconfigured(f"{zip_path}: weights that are not finite: {broken[:5]}")
    model.policy.set_training_mode(False)
    normalizer = None if vecnormalize_path is None else open_normalizer(vecnormalize_path, model.observation_space)
    return Agent(name, model, normalizer)


_TRAINING = {
    "learning_rate": 0.0,
    "lr_schedule": lambda _: 0.0,
    "clip_range": lambda _: 0.0,
    "exploration_schedule": lambda _: 0.0,
    "buffer_size": 1,
    "optimize_memory_usage": False,
    "n_envs": 1,
    "n_steps": 1,
    "train_freq": 1,
    "replay_buffer_kwargs": {},
    "rollout_buffer_kwargs": {},
}
"""What only training needs: replaced, so that no large buffer is made and no code of another Python is unpickled."""


def _untrained(document: dict[str, Any]) -> dict[str, Any]:
    """Replacements for all that `predict` has no use for: what else is pickled, where it is no plain number."""
    import torch

    replaced = {key: number(value) for key, value in document.items() if is_pickled(value)}
    if "device" in document:
        replaced["device"] = torch.device("cpu")
    return replaced | {key: value for key, value in _TRAINING.items() if key in document}


def resave(zip_path: Path, vecnormalize: Path | None, algorithm: str | None, into: Path) -> dict[str, Any]:
    """Open a zip and write it again as `model.zip` (and `vecnormalize.pkl`) into `into`; says what it was."""
    agent = load_model(zip_path, vecnormalize, algorithm)
    agent.model.save(into / "model.zip", exclude=["replay_buffer", "rollout_buffer", "_last_obs"])
    if agent.normalizer is not None:
        agent.normalizer.save(str(into / "vecnormalize.pkl"))
    return {
        "algorithm": agent.algorithm,
        "timesteps": int(agent.model.num_timesteps or 0),
        "seed": int(agent.model.seed or 0),
        "observation_space": str(agent.model.observation_space),
        "action_space": str(agent.model.action_space),
    }


def resave_apart(
    zip_path: Path,
    into: Path,
    algorithm: str | None = None,
    vecnormalize: Path | None = None,
    limits: sandbox.Limits = LIMITS,
) -> dict[str, Any]:
    """`resave` in a process of its own, within limits. Raises Misconfigured with its explanation, or with the limit."""
    read_data(zip_path, limits.memory_mb)
    request = {
        "zip": str(zip_path.absolute()),
        "into": str(into.absolute()),
        "algorithm": algorithm,
        "vecnormalize": str(vecnormalize.absolute()) if vecnormalize else None,
    }
    return sandbox.run("tasks.build.training.agent", request, str(zip_path), limits)


def _work(request: dict[str, Any], say: sandbox.Say) -> dict[str, Any]:
    say("opening it")
    statistics = request["vecnormalize"]
    return resave(
        Path(request["zip"]), Path(statistics) if statistics else None, request["algorithm"], Path(request["into"])
    )


if __name__ == "__main__":
    sandbox.answer(_work)
