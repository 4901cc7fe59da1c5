"""What is pickled in an SB3 zip, and its VecNormalize statistics: opening either runs code that is in it."""

from __future__ import annotations

import base64
import io
import pickle
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.build.training.vecnormalize import check_statistics
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
