"""What a package's manifest says of its baseline, read into cells; older packages say less."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from bentos import logs
from bentos.package.manifest import Manifest
from bentos.rows import Array
from bentos.telemetry.histogram import Cells, Column
from bentos.telemetry.outliers import Outliers

_ROWS_PER_EPISODE = 32.0
"""Where a baseline does not say how many independent rows it is worth: one of this many."""


@dataclass(frozen=True)
class Observations:
    """The observation baseline of `d` dimensions, input by input of the graph.

    `entries_by_input` says which entries (int [k]) of an input, flattened, they are. `mean` and `std` [d]; `cells` is
    None in packages from before there were any; `effective` independent rows. `outliers` is None in older packages and
    where there were too few rows to say what is usual.
    """

    entries_by_input: tuple[tuple[str, Array], ...]
    names: tuple[str, ...]
    mean: Array
    std: Array
    cells: Cells | None
    effective: float
    outliers: Outliers | None = None


@dataclass(frozen=True)
class Actions:
    """The action baseline; `discrete` ones are choices, the others have an order."""

    cells: Cells
    discrete: bool
    effective: float


def observations(manifest: Manifest) -> Observations | None:
    """The observation baseline, or None where the manifest has none that fits its inputs (a warning says so)."""
    try:
        return _observations(manifest)
    except (KeyError, TypeError, ValueError) as error:
        logs.warning("observation baseline not readable", policy=manifest.name, detail=repr(error))
        return None


def actions(manifest: Manifest) -> Actions | None:
    """The action baseline, or None where the manifest has none that fits its actions (a warning says so)."""
    try:
        return _actions(manifest)
    except (KeyError, TypeError, ValueError) as error:
        logs.warning("action baseline not readable", policy=manifest.name, detail=repr(error))
        return None


def _observations(manifest: Manifest) -> Observations | None:
    document = manifest.baselines.get("observations") or {}
    sizes = {tensor.name: int(np.prod(tensor.shape, dtype=np.int64)) for tensor in manifest.inputs}
    columns: list[dict[str, Any]] = document.get("columns") or []
    if columns:
        places = tuple((str(column["input"]), int(column["index"])) for column in columns)
        if any(index >= sizes.get(name, 0) for name, index in places):
            return None
        names = tuple(_dimension(name, index) for name, index in places)
        found = [
            Column(name, tuple(column["edges"]), tuple(column["counts"]))
            for name, column in zip(names, columns, strict=True)
        ]
        mean, std = (np.array([column[key] for column in columns], dtype=np.float64) for key in ("mean", "std"))
        outliers = Outliers.read(document.get("mahalanobis"), mean)
        return Observations(_by_input(places), names, mean, std, Cells(found), _effective(document, found[0]), outliers)
    if document.get("mean") is None or document.get("std") is None:
        return None
    mean, std = (np.asarray(document[key], dtype=np.float64).reshape(-1) for key in ("mean", "std"))
    if mean.size != sizes.get("observation") or std.size != mean.size:
        return None
    places = tuple(("observation", index) for index in range(mean.size))
    return Observations(_by_input(places), tuple(map(str, range(mean.size))), mean, std, None, 1.0)


def _actions(manifest: Manifest) -> Actions | None:
    document = manifest.baselines.get("actions") or {}
    counts = document.get("counts")
    if not counts:
        return None
    discrete = document["kind"] == "discrete"
    if discrete:
        columns = [Column("0", tuple(float(k) + 0.5 for k in range(len(counts) - 1)), tuple(counts))]
    else:
        columns = [
            Column(str(index), tuple(edges[1:-1]), tuple(column))
            for index, (edges, column) in enumerate(zip(document["edges"], counts, strict=True))
        ]
    if len(columns) != max(int(np.prod(manifest.action_space.shape, dtype=np.int64)), 1):
        return None
    return Actions(Cells(columns, grouped=not discrete), discrete, _effective(document, columns[0]))


def _effective(document: dict[str, Any], column: Column) -> float:
    return float(document.get("effective") or max(1.0, sum(column.counts) / _ROWS_PER_EPISODE))


def _by_input(places: tuple[tuple[str, int], ...]) -> tuple[tuple[str, Array], ...]:
    inputs = [(name, list(group)) for name, group in itertools.groupby(places, key=lambda place: place[0])]
    return tuple((name, np.array([index for _, index in group])) for name, group in inputs)


def _dimension(name: str, index: int) -> str:
    part = name.removeprefix("observation").removeprefix(".")
    return f"{part}.{index}" if part else str(index)
