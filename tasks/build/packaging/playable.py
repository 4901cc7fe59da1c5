"""Whether a foreign policy's environment can be played here: it can be made, and its spaces are the model's."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.build.export.paired_returns import EPISODES
from tasks.build.training.environments import make, parts
from tasks.errors import first_line
from tasks.spec.sections import Environment

if TYPE_CHECKING:
    from gymnasium import Space

    from tasks.build.training.zoo import Layout

MAXIMUM_STEPS = 2_000
"""Episodes are cut there: one that never ends would never be compared."""
MAXIMUM_BYTES = 2**26
"""Those of images are cut where all episodes together have shown that much: they are slow to render, and are kept."""

_VERSIONED = re.compile(r"(?P<name>.+)-v(?P<version>\d+)")


@dataclass(frozen=True)
class Playable:
    """An environment to play, or the `reason` why there is none.

    `described` is what the manifest says of it; `space` is what it observes, before anything is transposed.
    """

    described: dict[str, Any]
    environment: Environment | None = None
    space: Space[Any] | None = None
    reason: str = ""


def find_playable(layout: Layout, model: Any) -> Playable:
    """The environment a zip's layout names, where it can be made here and its spaces are the model's.

    A version that is not registered any more gives way to the newest that is; the manifest says so.
    """
    described: dict[str, Any] = {"id": layout.environment, "kwargs": dict(layout.kwargs)}
    if layout.environment is None:
        return _unplayable(described, "no environment is named: name it with --env")
    if layout.prepared:
        return _unplayable(
            described, f"in training the environment was {' and '.join(layout.prepared)}, which is not repeated here"
        )
    _import(layout.packages)
    reasons = []
    for name in [layout.environment, *_newer(layout.environment)]:
        try:
            single = make(Environment(id=name, kwargs=layout.kwargs))
        except Exception as error:  # noqa: BLE001 - whatever a foreign environment raises, it cannot be played
            reasons.append(first_line(error))
            continue
        observed, acted = single.observation_space, single.action_space
        limit = single.spec.max_episode_steps if single.spec else None
        single.close()
        if misfit := _misfit(model, observed, acted):
            reasons.append(f"{name} {misfit}")
            continue
        if name != layout.environment:
            described |= {"id": name, "note": f"trained in {layout.environment}, which is not registered any more"}
        steps = min(limit or MAXIMUM_STEPS, MAXIMUM_STEPS, _affordable(observed))
        return Playable(described, Environment(id=name, kwargs={**layout.kwargs, "max_episode_steps": steps}), observed)
    return _unplayable(described, reasons[-1])


def _unplayable(described: dict[str, Any], reason: str) -> Playable:
    return Playable({**described, "note": f"not played: {reason}"}, reason=reason)


def _affordable(observed: Space[Any]) -> int:
    """How many steps an episode may have until all of them have shown `MAXIMUM_BYTES`."""
    row = sum(int(np.prod(part.shape or ())) * np.dtype(part.dtype).itemsize for part in parts(observed).values())
    return max(1, MAXIMUM_BYTES // (EPISODES * max(row, 1)))


def unplayed(playable: Playable, error: Exception) -> Playable:
    """The same environment, after playing it failed."""
    name = playable.described["id"]
    return _unplayable(playable.described, f"{name} cannot be played: {type(error).__name__}: {first_line(error)}")


def _import(packages: Iterable[str]) -> None:
    """Import what registers environments, as the rl-zoo's `gym_packages` does; what is missing shows in `make`."""
    for package in packages:
        try:
            importlib.import_module(package)
        except Exception:  # noqa: BLE001 - see above
            continue


def _newer(name: str) -> list[str]:
    """The newest registered version of an environment's id, in a list; nothing where there is none but itself."""
    import gymnasium

    match = _VERSIONED.fullmatch(name)
    if match is None:
        return []
    found = [
        (int(other["version"]), known)
        for known in gymnasium.registry
        if (other := _VERSIONED.fullmatch(known)) and other["name"] == match["name"] and known != name
    ]
    return [max(found)[1]] if found else []


def _misfit(model: Any, observed: Space[Any], acted: Space[Any]) -> str:
    """How an environment's spaces differ from the model's, in words; empty where they do not."""
    if not _alike(model.observation_space, observed):
        return f"observes {_brief(observed)}, but the model {_brief(model.observation_space)}"
    if not _alike(model.action_space, acted) or not _same_bounds(model.action_space, acted):
        return f"takes {_brief(acted)}, but the model acts in {_brief(model.action_space)}"
    return ""


def _brief(space: Any) -> str:
    return " ".join(str(space).split())


def _alike(ours: Any, theirs: Any) -> bool:
    if type(ours).__name__ != type(theirs).__name__:
        return False
    match type(ours).__name__:
        case "Dict":
            return list(ours.spaces) == list(theirs.spaces) and all(
                _alike(part, theirs.spaces[key]) for key, part in ours.spaces.items()
            )
        case "Discrete":
            return bool(ours.n == theirs.n and ours.start == theirs.start)
        case "MultiDiscrete":
            return bool(np.array_equal(ours.nvec, theirs.nvec))
        case _:
            shape, kind = tuple(theirs.shape), np.dtype(theirs.dtype).kind
            transposed = (shape[2], *shape[:2]) if len(shape) == 3 and kind == "u" else shape
            return tuple(ours.shape) in (shape, transposed) and np.dtype(ours.dtype).kind == kind


def _same_bounds(ours: Any, theirs: Any) -> bool:
    if type(ours).__name__ != "Box":
        return True
    return bool(np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high))
