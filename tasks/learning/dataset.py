"""Transitions: what whole episodes of the log have in common with a replay buffer, as arrays and as a Parquet file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import Misconfigured
from tasks.inputs import Array

METADATA = b"airlock"
POLICY_SOURCE = "policy"


@dataclass(frozen=True)
class Transitions:
    """Whole episodes, one row a step, ordered by episode and step.

    `episode` int64 [n] numbers the episodes from 0; `step` int64 [n]; `observation` and `next_observation` [n, d] as
    the environment emits them; `action` [n, ...] as it was executed; `log_prob` float64 [n] of the action as it was
    drawn, NaN where nobody drew what was executed; `reward` float64 [n]; `terminated`, `truncated` bool [n];
    `continued` bool [n] is false where the observation after the step is not known (its `next_observation` is then the
    step's own). `key`, `version` [episodes] are the episode's key and the version that answered it ("": several).
    """

    episode: Array
    step: Array
    observation: Array
    action: Array
    log_prob: Array
    reward: Array
    next_observation: Array
    terminated: Array
    truncated: Array
    continued: Array
    key: tuple[str, ...]
    version: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def episodes(self) -> int:
        """How many episodes there are."""
        return len(self.key)

    @property
    def lengths(self) -> Array:
        """Steps of each episode, int64 [episodes]."""
        return np.bincount(self.episode, minlength=self.episodes)

    @property
    def returns(self) -> Array:
        """Sum of each episode's rewards, float64 [episodes]."""
        return np.bincount(self.episode, weights=self.reward, minlength=self.episodes)

    def rows(self, chosen: Array) -> Transitions:
        """The rows where `chosen` (bool [n]) is true; episodes keep their numbers."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _ROWS})

    def only(self, episodes: Array) -> Transitions:
        """The episodes where `episodes` (bool [episodes]) is true, numbered anew from 0."""
        number = np.cumsum(episodes) - 1
        kept = self.rows(episodes[self.episode])
        return replace(
            kept,
            episode=number[kept.episode],
            key=tuple(key for key, keep in zip(self.key, episodes, strict=True) if keep),
            version=tuple(version for version, keep in zip(self.version, episodes, strict=True) if keep),
        )

    def held_out(self, share: float) -> Array:
        """Which episodes are kept from training, bool [episodes]: decided by the episode's key alone, so that
        an episode is on the same side in every dataset that it is in."""
        places = [int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32 for key in self.key]
        return np.array(places) < share


_ROWS = tuple(field.name for field in fields(Transitions) if field.name not in ("key", "version"))


def write(transitions: Transitions, path: Path, lineage: dict[str, Any]) -> str:
    """Write the dataset as one Parquet file with its lineage in the schema's metadata; its SHA-256 in hex.

    The same transitions and lineage give the same bytes (with the same pyarrow).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "episode": [transitions.key[number] for number in transitions.episode.tolist()],
        "version": [transitions.version[number] for number in transitions.episode.tolist()],
    }
    for name in _ROWS[1:]:
        values = getattr(transitions, name)
        columns[name] = values if values.ndim == 1 else _fixed(values)
    shapes = {name: list(getattr(transitions, name).shape[1:]) for name in _ROWS}
    document = json.dumps({"lineage": lineage, "shapes": shapes}, sort_keys=True).encode()
    table = pa.table(columns).replace_schema_metadata({METADATA: document})
    pq.write_table(table, path, compression="zstd")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fixed(values: Array) -> Any:
    import pyarrow as pa

    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def read(path: Path) -> tuple[Transitions, dict[str, Any]]:
    """The dataset in a file that `write` made, and its lineage. Raises Misconfigured for another file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise Misconfigured(f"{path}: not a dataset of transitions: {error}") from error
    if METADATA not in (table.schema.metadata or {}):
        raise Misconfigured(f"{path}: a Parquet file, but not a dataset of transitions that Airlock wrote")
    document = json.loads(table.schema.metadata[METADATA])
    keys, starts, number = np.unique(np.array(table["episode"].to_pylist()), return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(starts))  # the episodes' own order, not that of their keys
    versions = table["version"].to_pylist()
    arrays: dict[str, Any] = {"episode": order[number]}
    for name in _ROWS[1:]:
        column = table[name].combine_chunks()
        shape = document["shapes"][name]
        flat = column.flatten() if shape else column
        arrays[name] = flat.to_numpy(zero_copy_only=False).reshape(len(table), *shape)
    first = np.sort(starts)
    by_start = {int(start): str(key) for key, start in zip(keys, starts, strict=True)}
    return (
        Transitions(
            **arrays,
            key=tuple(by_start[int(start)] for start in first),
            version=tuple(versions[int(start)] for start in first),
        ),
        document["lineage"],
    )
