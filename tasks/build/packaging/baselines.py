"""What serving is later compared with: on-policy observations, actions and returns, as the manifest's `baselines`.

Of an exploring policy actions are drawn, as served actions are; `mahalanobis` is how far observations usually lie from
their mean, which `bentos.telemetry.outliers` flags outliers by.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos import package
from bentos.package.distributions import distribution_of
from bentos.package.manifest import PackageError
from bentos.telemetry.outliers import Outliers
from tasks.build.export.graph import decider
from tasks.errors import Misconfigured
from tasks.inputs import Array, Inputs, in_batches, only_observations

if TYPE_CHECKING:
    from tasks.build.export.formats import Exported


ACTION_BINS = 20
CELLS = 64
"""About as many cells a dimension is cut into: a Kolmogorov-Smirnov distance read off them is right to 1/64."""

MAX_COLUMNS = 64
"""Most dimensions of an observation that are cut into cells; of more, as many, evenly spaced, are chosen."""

_LEAST_ROWS = 4
_BLOCKS = 32


def baselines(
    space: package.Space, given: Inputs, actions: Array, returns: Array, episodes: Array | None = None
) -> dict[str, Any]:
    """The `baselines` section of a manifest, as JSON.

    `given` and `actions` [n, ...] (of `space`) are steps ordered by episode and then by time; `returns` [episodes].
    `episodes` [n] says which episode each step is of.

    Observations: `mean`, `std`, `min`, `max` of every entry, flattened, and `columns`, each one entry `index` of the
    graph's input `input` with its cells (see `bentos.telemetry.histogram.Column`); `mahalanobis` (see
    `tasks.build.packaging.baselines`) is of the same entries, in their order. Continuous actions are counted per
    dimension in 20 bins over the span of the space (of the actions, if unbounded), those of MultiDiscrete and
    MultiBinary spaces in one bin a value. `effective` says how many independent rows these rows are worth, since those
    of one episode depend on each other. Without returns the rows were drawn, not met: they are no
    baseline of anything, and none is given.
    """
    if not len(returns):
        return {"observations": {"source": "drawn"}, "actions": {}, "returns": {"count": 0}}
    inputs = {name: _flat(part) for name, part in only_observations(given).items()}
    flat = np.concatenate(list(inputs.values()), axis=1)
    places = [(name, index) for name, part in inputs.items() for index in range(part.shape[1])]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(MAX_COLUMNS, len(places))).round().astype(np.int64))
    effective = effective_rows(_ranks(flat[:, chosen]), episodes)
    return {
        "observations": {
            "mean": flat.mean(axis=0).tolist(),
            "std": flat.std(axis=0).tolist(),
            "min": flat.min(axis=0).tolist(),
            "max": flat.max(axis=0).tolist(),
            "count": len(flat),
            "source": "on-policy",
            "columns": [_column(places[place], flat[:, place]) for place in chosen],
            "effective": effective,
            "mahalanobis": mahalanobis(flat[:, chosen], effective, episodes),
        },
        "actions": _actions(space, actions, episodes),
        "returns": {"mean": float(returns.mean()), "std": float(returns.std(ddof=1)), "count": len(returns)},
    }


def cells(values: Array) -> tuple[list[float], list[int]]:
    """Edges and counts of about `CELLS` cells of about as many of the `values` [n] each.

    A value that alone fills a cell (a bound that is often touched, a constant) gets one of its own, between two open
    ones, so that whatever comes beside it is seen.
    """
    least = max(len(values) / CELLS, _LEAST_ROWS)
    edges: list[float] = []
    counts = [0]
    for value, count in zip(*(found.tolist() for found in np.unique(values, return_counts=True)), strict=True):
        if count > least:
            if not edges or edges[-1] < value:
                edges.append(value)
                counts.append(count)
            else:
                counts[-1] = count
            edges.append(float(np.nextafter(value, np.inf)))
            counts.append(0)
            continue
        if counts[-1] >= least:
            edges.append(value)
            counts.append(0)
        counts[-1] += count
    return edges, counts


def effective_rows(features: Array, episodes: Array | None = None) -> float:
    """How many independent rows `features` [n, d] are worth, between 1 and n: that of the most dependent feature.

    The variance of the mean by batch means (Glynn & Whitt 1991): an episode a batch where `episodes` [n] names at
    least eight, else 32 stretches of the rows in order.
    """
    rows = len(features)
    blocks = np.unique(episodes, return_inverse=True)[1] if episodes is not None else np.zeros(rows, dtype=np.int64)
    if blocks.max(initial=0) < 7:
        blocks = np.arange(rows) * min(_BLOCKS, rows) // rows
    number = int(blocks.max()) + 1
    if number < 2:
        return 1.0
    sizes = np.bincount(blocks, minlength=number)[:, None]
    centred = features - features.mean(axis=0)
    sums = np.stack([np.bincount(blocks, weights=column, minlength=number) for column in centred.T], axis=1)
    of_mean = (sums**2).sum(axis=0) / rows**2 * number / (number - 1)
    of_row = centred.var(axis=0)
    varies = of_row > 0
    if not varies.any() or not sizes.all():
        return float(rows)
    worth = of_row[varies] / np.maximum(of_mean[varies], of_row[varies] / rows)
    return float(np.clip(worth.min(), 1.0, rows))


def _flat(observations: Array) -> Array:
    return observations.reshape(len(observations), -1).astype(np.float64)


def _column(place: tuple[str, int], values: Array) -> dict[str, Any]:
    edges, counts = cells(values)
    mean, std = float(values.mean()), float(values.std())
    return {"input": place[0], "index": place[1], "mean": mean, "std": std, "edges": edges, "counts": counts}


def _ranks(values: Array) -> Array:
    """Mid-ranks of each column of `values` [n, d]: the mean share of values below and not above."""
    ordered = np.sort(values, axis=0)
    columns = [
        (np.searchsorted(known, column, "left") + np.searchsorted(known, column, "right")) / (2 * len(values))
        for known, column in zip(ordered.T, values.T, strict=True)
    ]
    return np.stack(columns, axis=1)


def _actions(space: package.Space, actions: Array, episodes: Array | None) -> dict[str, Any]:
    if space.type == "Discrete":
        chosen = actions.reshape(-1)
        counts = np.bincount(chosen, minlength=space.n or 0)
        taken = (chosen[:, None] == np.flatnonzero(counts)).astype(np.float64)
        return {"kind": "discrete", "counts": counts.tolist(), "effective": effective_rows(taken, episodes)}
    values = _flat(actions)
    if space.type == "Box":
        low, high = (bound.reshape(-1) for bound in space.bounds())
        low = np.where(np.isfinite(low), low, values.min(axis=0))
        high = np.where(np.isfinite(high), high, values.max(axis=0))
        high = np.where(high > low, high, low + 1.0)
        edges = [np.linspace(*ends, ACTION_BINS + 1) for ends in zip(low, high, strict=True)]
    else:
        # one bin a whole number, so that bin k is the action k
        edges = [np.arange(n + 1) - 0.5 for n in space.nvec or (2,) * values.shape[1]]
    binned = [
        np.histogram(np.clip(column, *ends[[0, -1]]), ends)[0] for column, ends in zip(values.T, edges, strict=True)
    ]
    return {
        "kind": "continuous",
        "edges": [ends.tolist() for ends in edges],
        "counts": [column.tolist() for column in binned],
        "effective": effective_rows(_ranks(values), episodes),
    }


QUANTILE = 0.999
"""Share of the baseline's rows that lie within the threshold."""

LEAST_ROWS = 200
_LEAST_SHRINKAGE = 1e-3
_LEAST_SPREAD = 0.01
_STRETCHES = 20


def mahalanobis(values: Array, effective: float, episodes: Array | None = None) -> dict[str, Any] | None:
    """The `mahalanobis` section of an observation baseline, as JSON, of `values` [n, k]; None of fewer than 200 rows.

    `factor`: the lower triangle of W, with W'W the inverse of the covariance; `threshold`: the distance within which
    `quantile` of the rows lie. So that rows are not judged by what was fitted to them, each half of the episodes (of 20
    stretches of the rows, where fewer than two are named) is judged by the other. `shrinkage` says how much of the
    correlations was given up for independence: k of k + `effective` parts, the independent rows there are.
    """
    rows, k = values.shape
    if rows < LEAST_ROWS:
        return None
    numbers = np.zeros(rows) if episodes is None else np.unique(episodes, return_inverse=True)[1]
    if numbers.max() < 1:
        numbers = np.arange(rows) * _STRETCHES // rows
    odd = numbers % 2 == 1
    distances = [
        Outliers(values[fitted].mean(axis=0), _factor(values[fitted], effective / 2), 1.0).distances(values[~fitted])
        for fitted in (odd, ~odd)
    ]
    return {
        "factor": _factor(values, effective).tolist(),
        "threshold": max(float(np.quantile(np.concatenate(distances), QUANTILE, method="higher")), 1e-6),
        "quantile": QUANTILE,
        "shrinkage": _shrinkage(k, effective),
        "rows": rows,
    }


def _factor(values: Array, effective: float) -> Array:
    """The lower triangle of W, row by row. An entry that never varied is taken to vary a little: any change is far."""
    k = values.shape[1]
    spread = values.std(axis=0)
    least = _LEAST_SPREAD * float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
    spread = np.maximum(spread, least)
    scaled = (values - values.mean(axis=0)) / spread
    correlations = (1.0 - _shrinkage(k, effective)) * (scaled.T @ scaled) / len(values)
    np.fill_diagonal(correlations, 1.0)
    inverse = np.linalg.inv(np.linalg.cholesky(correlations))
    found: Array = (inverse / spread)[np.tril_indices(k)]
    return found


def _shrinkage(k: int, effective: float) -> float:
    return max(_LEAST_SHRINKAGE, k / (k + effective))


_ROWS = 256


def explored(graph: Path, exported: Exported, given: Inputs) -> Array:
    """One action [n, ...] drawn for each of the `given` rows; the same rows and graph always give the same.

    Raises Misconfigured for a policy that cannot explore.
    """
    try:
        distribution = distribution_of(exported.distribution, exported.action_space, exported.outputs)
    except PackageError as error:
        raise Misconfigured(str(error)) from error
    found = in_batches(decider(graph), given, _ROWS)
    parameters = [found[name] for name in distribution.outputs]
    return distribution.draw(parameters, None, np.random.default_rng(0))[0]
