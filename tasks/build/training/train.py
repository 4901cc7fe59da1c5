"""Train a candidate: seeded Stable-Baselines3 training, watched while it runs, the same weights for the same seed."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import Misconfigured
from tasks.spec.sections import PolicySpec

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from tasks.build.training.progress import Sink

MODEL = "model/model.zip"
VECNORMALIZE = "model/vecnormalize.pkl"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """How a model came to be. `curve` is [[timesteps, mean return], ...]; `seconds` is wall time."""

    algorithm: str
    timesteps: int
    seconds: float
    seed: int
    source: str
    curve: list[list[float]]
    params_digest: str


def params_digest(spec: PolicySpec, source: str, warm_start_from: str | None = None) -> str:
    """Hex SHA-256 of all that decides the weights: environment, training section, source and starting point."""
    document = {
        "environment": spec.environment.model_dump(mode="json"),
        "train": spec.train.model_dump(mode="json"),
        "source": source,
        "warm_start_from": warm_start_from,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def build_model(spec: PolicySpec) -> BaseAlgorithm:
    """An untrained model of the spec on its seeded, vectorised environment.

    Raises Misconfigured when the environment, a hyperparameter or their combination does not exist, or the spec's
    limits do not fit the environment.
    """
    import numpy as np
    import torch
    from stable_baselines3.common.vec_env import VecNormalize

    from tasks.build.training.algorithms import algorithm_class
    from tasks.build.training.environments import check_limits, make_vectorised
    from tasks.build.training.hyperparameters import constructor_arguments

    torch.set_num_threads(1)  # networks this small lose time to a second thread, and one adds up in one order
    vectorised = make_vectorised(spec.environment, spec.train.n_envs, spec.train.seed)
    check_limits(spec, vectorised.observation_space, vectorised.action_space)
    arguments = constructor_arguments(spec.train.hyperparameters, int(np.prod(vectorised.action_space.shape or (1,))))
    if spec.train.normalize:
        vectorised = VecNormalize(vectorised, gamma=arguments.get("gamma", 0.99))
    algorithm = algorithm_class(spec.train.algorithm)
    try:
        return algorithm(spec.train.policy, vectorised, seed=spec.train.seed, device="cpu", verbose=0, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise Misconfigured(
            f"{spec.train.algorithm} does not accept this combination of environment, policy and hyperparameters: "
            f"{error}"
        ) from error


def train_model(
    spec: PolicySpec,
    directory: Path,
    sink: Sink | None = None,
    warm_start: Callable[[BaseAlgorithm], None] | None = None,
    digest: str | None = None,
) -> Training:
    """Train by the spec and write `model.zip` (and `vecnormalize.pkl`) into `directory`.

    `sink` receives the SB3 logger's scalars in batches; `warm_start` may change the model's weights first.
    """
    from stable_baselines3.common.logger import Logger

    from tasks.build.training.progress import MetricsWriter, Progress

    model = build_model(spec)
    if warm_start:
        warm_start(model)
    writer = MetricsWriter(sink or (lambda _batch: None))
    model.set_logger(Logger(None, [writer]))
    progress = Progress(spec.train.total_timesteps)
    started = time.monotonic()
    model.learn(spec.train.total_timesteps, callback=progress)
    writer.close()
    seconds = round(time.monotonic() - started, 3)
    model.save(directory / Path(MODEL).name)
    if (normalizer := model.get_vec_normalize_env()) is not None:
        normalizer.save(str(directory / Path(VECNORMALIZE).name))
    return Training(
        algorithm=spec.train.algorithm,
        timesteps=int(model.num_timesteps),
        seconds=seconds,
        seed=spec.train.seed,
        source="train",
        curve=progress.curve,
        params_digest=digest or params_digest(spec, "train"),
    )
