"""What a policy is asked with: a batch of rows for every input of its graph, whatever the observation space.

An array observation travels as `observation`, the parts of a Dict as `observation.<key>`; a maskable policy's
`action_mask` and a recurrent one's `state_h`, `state_c` and `episode_start` stand beside them. All have the same number
of rows. Observations keep the environment's own dtype here; a graph casts them to its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Inputs: TypeAlias = dict[str, Array]
Outputs: TypeAlias = dict[str, Array]
Decide: TypeAlias = Callable[[Inputs], Outputs]
"""A batch in, the outputs out; `action` [n, ...] is always among them, as `env.step` takes it."""

OBSERVATION = "observation"
MASK = "action_mask"
START = "episode_start"
STATES = ("state_h", "state_c")


def of_observations(observations: Any) -> Inputs:
    """Inputs of a batch of observations: an array [n, ...], or a dict of arrays for a Dict space."""
    if isinstance(observations, Mapping):
        return {f"{OBSERVATION}.{key}": np.asarray(value) for key, value in observations.items()}
    return {OBSERVATION: np.asarray(observations)}


def stack(observations: Sequence[Any]) -> Inputs:
    """Inputs of single observations, one row each."""
    if isinstance(observations[0], Mapping):
        return of_observations({key: np.stack([one[key] for one in observations]) for key in observations[0]})
    return of_observations(np.stack(observations))


def observations(inputs: Inputs) -> Any:
    """The observations among the inputs as SB3 takes them: an array, or a dict of arrays."""
    if OBSERVATION in inputs:
        return inputs[OBSERVATION]
    prefix = f"{OBSERVATION}."
    return {name.removeprefix(prefix): value for name, value in inputs.items() if name.startswith(prefix)}


def only_observations(inputs: Inputs) -> Inputs:
    """The inputs without mask and state."""
    return {name: value for name, value in inputs.items() if name.partition(".")[0] == OBSERVATION}


def size(inputs: Inputs) -> int:
    """The number of rows."""
    return len(next(iter(inputs.values())))


def take(inputs: Inputs, rows: Any) -> Inputs:
    """Chosen rows of every input: a slice, a mask or indices."""
    return {name: value[rows] for name, value in inputs.items()}


def concatenate(parts: Sequence[Inputs]) -> Inputs:
    """All rows of several batches, in order."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def spread(inputs: Inputs, rows: int) -> Inputs:
    """At most `rows` rows, evenly spaced."""
    total = size(inputs)
    return inputs if total <= rows else take(inputs, np.linspace(0, total - 1, rows).astype(np.int64))


def repeat(inputs: Inputs, rows: int) -> Inputs:
    """Exactly `rows` rows, the given ones again and again, contiguous."""
    index = np.arange(rows) % size(inputs)
    return {name: np.ascontiguousarray(value[index]) for name, value in inputs.items()}


def flat(inputs: Inputs) -> Array:
    """All observations side by side as float64 [n, dimensions], parts of a Dict in the graph's order."""
    rows = size(inputs)
    return np.concatenate(
        [value.reshape(rows, -1).astype(np.float64) for value in only_observations(inputs).values()], axis=1
    )


def plain(inputs: Inputs) -> list[Any]:
    """The observations as JSON carries them: one nested list, or one object of them, a row."""
    values = observations(inputs)
    if isinstance(values, dict):
        return [{key: value[row].tolist() for key, value in values.items()} for row in range(size(inputs))]
    return list(values.tolist())


def in_batches(decide: Decide, inputs: Inputs, batch: int) -> Outputs:
    """Outputs for all rows, asked for `batch` of them at a time."""
    parts = [decide(take(inputs, slice(at, at + batch))) for at in range(0, size(inputs), batch)]
    return concatenate(parts)
