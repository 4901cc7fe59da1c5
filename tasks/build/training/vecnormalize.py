"""Whether VecNormalize statistics belong to a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import Misconfigured


def check_statistics(normalizer: Any, space: Any, path: Path) -> None:
    """Raise Misconfigured, naming `path`, unless a VecNormalize can prepare observations of the model's `space`.

    Its statistics must have the shapes of what the model observes, be finite, and come from an environment that
    observes within the same bounds: a model and its statistics are saved from one environment.
    """
    if not normalizer.norm_obs:
        return
    statistics = normalizer.obs_rms
    parts = getattr(space, "spaces", None)
    if isinstance(statistics, Mapping) != (parts is not None):
        kinds = ("a Dict", "an array")
        theirs, ours = kinds if isinstance(statistics, Mapping) else kinds[::-1]
        raise Misconfigured(
            f"{path}: statistics of {theirs} of observations, but the model observes {ours}: they belong to another "
            "model"
        )
    if parts is None:
        _check_part(statistics, space, path, "")
    else:
        if unknown := sorted(set(statistics) - set(parts)):
            raise Misconfigured(
                f"{path}: statistics of {unknown}, but the model observes {sorted(parts)}: they belong to another model"
            )
        for key, part in statistics.items():
            _check_part(part, parts[key], path, f" of {key!r}")
    _check_bounds(getattr(normalizer, "observation_space", None), space, path)


def _check_part(statistics: Any, space: Any, path: Path, name: str) -> None:
    shape = tuple(statistics.mean.shape)
    if shape != tuple(space.shape):
        raise Misconfigured(
            f"{path}: statistics{name} of shape {shape}, but the model observes {tuple(space.shape)}: they belong to "
            "another model"
        )
    if not (np.isfinite(statistics.mean).all() and np.isfinite(statistics.var).all()):
        raise Misconfigured(f"{path}: statistics{name} that are not finite")


def _check_bounds(theirs: Any, ours: Any, path: Path) -> None:
    if not hasattr(theirs, "low") or not hasattr(ours, "low") or theirs.shape != ours.shape:
        return
    if not (np.allclose(theirs.low, ours.low) and np.allclose(theirs.high, ours.high)):
        raise Misconfigured(
            f"{path}: statistics of an environment that observes {theirs}, but the model observes {ours}: they belong "
            "to another model"
        )
