"""What is pickled in an SB3 zip, and its VecNormalize statistics: opening either runs code that is in it."""

from __future__ import annotations

import base64
import io
import pickle
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.build.training.zip_file import is_pickled
from tasks.errors import Misconfigured, first_line

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecNormalize


def alias_gym() -> None:
    """Let pickles of the gym 0.21 era find their spaces in Gymnasium."""
    import gymnasium
    import gymnasium.spaces

    sys.modules.setdefault("gym", gymnasium)
    sys.modules.setdefault("gym.spaces", gymnasium.spaces)
    for name in ("box", "discrete", "multi_discrete", "multi_binary", "dict", "tuple", "space"):
        sys.modules.setdefault(f"gym.spaces.{name}", sys.modules[f"gymnasium.spaces.{name}"])


def fresh_space(space: Any, whose: str) -> Any:
    """The same space made anew: a pickled one of another version lacks attributes."""
    from gymnasium import spaces

    match type(space).__name__:
        case "Box":
            return spaces.Box(space.low, space.high, dtype=_scalar(space))
        case "Discrete":
            return spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0)), dtype=_scalar(space))
        case "MultiDiscrete":
            return spaces.MultiDiscrete(space.nvec, dtype=_scalar(space), start=getattr(space, "start", None))
        case "MultiBinary":
            return spaces.MultiBinary(space.n)
        case "Dict":
            return spaces.Dict({name: fresh_space(part, whose) for name, part in space.spaces.items()})
    raise Misconfigured(
        f"{whose} is a {type(space).__name__}; supported: Box, Discrete, MultiDiscrete, MultiBinary, Dict"
    )


def _scalar(space: Any) -> Any:
    """The NumPy type of a space's numbers."""
    return np.dtype(space.dtype).type


def number(value: dict[str, Any]) -> float | None:
    """A pickled NumPy scalar (SAC's target entropy is one) as a float; None for everything else, left unopened."""
    if "numpy" not in str(value.get(":type:")):
        return None
    try:
        return float(pickle.loads(base64.b64decode(value[":serialized:"])))  # noqa: S301 - the one place for it
    except Exception:  # noqa: BLE001 - an array, say: nothing that acting needs
        return None


def open_field(value: Any, whose: str) -> Any:
    """A value of a zip's `data`, unpickled where it is pickled. Raises Misconfigured that names what is missing."""
    if not is_pickled(value):
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pickle.loads(base64.b64decode(value[":serialized:"]))  # noqa: S301 - the one place for it
    except (ImportError, AttributeError) as error:
        raise Misconfigured(
            f"{whose} needs {_missing(error)}, which cannot be imported ({error}); install the package "
            "that has it, or put the directory of its module on PYTHONPATH"
        ) from error
    except Exception as error:
        raise Misconfigured(f"{whose} cannot be read: {type(error).__name__}: {first_line(error)}") from error


def _missing(error: ImportError | AttributeError) -> str:
    """The class or module that an unpickling looked for in vain, as Python names it in its message."""
    if isinstance(error, ImportError):
        return f"the module {error.name!r}"
    if found := re.search(r"attribute '(?P<name>[^']+)' on <module '(?P<module>[^']+)'", str(error)):
        return f"{found['module']}.{found['name']}"
    return f"the attribute {error.name!r}"


def open_normalizer(path: Path, space: Any) -> VecNormalize:
    """VecNormalize statistics that fit the model's observation `space`. Raises Misconfigured for anything else."""
    from stable_baselines3.common.vec_env import VecNormalize

    if not path.is_file():
        raise Misconfigured(f"{path}: no such file; expected VecNormalize statistics")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            normalizer = pickle.load(io.BytesIO(path.read_bytes()))  # noqa: S301 - the one place for it
    except Exception as error:
        raise Misconfigured(
            f"{path}: cannot be opened as VecNormalize statistics: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(normalizer, VecNormalize):
        raise Misconfigured(f"{path}: expected VecNormalize statistics, came {type(normalizer).__name__}")
    normalizer.training = False
    check_statistics(normalizer, space, path)
    return normalizer


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
