"""How a policy fared over time, from stored rows, as series of a few points that a chart can draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from bentos.store.outcomes import WITHDRAWN
from tasks.cache import Fresh

BINS = 60
ROWS = 20_000
"""Most rows of a table that a chart is made of: the newest."""

_SEARCHED = 10 * ROWS
"""Most rows of a table, all policies', that are searched for them."""

_FRESH_SECONDS = 10.0
_MOST_SERIES = 4
_DRIFT = {"OOD_OBSERVATION": "observations", "ACTION_SHIFT": "actions"}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One line: a value for each of its chart's times, null where nothing was stored."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Chart:
    """Lines over `times` (Unix seconds, growing). `threshold` is a level worth seeing, `note` says what is drawn."""

    id: str
    title: str
    unit: str
    note: str
    times: tuple[float, ...]
    series: tuple[Series, ...]
    threshold: float | None = None


def charts(policy: str) -> list[Chart]:
    """Returns, latency and drift over time, as far as there are rows."""
    with tables.connect(settings.database_url()).connect() as connection:
        found = [_returns(connection, policy), *_decisions(connection, policy), _drift(connection, policy)]
    return [chart for chart in found if chart is not None]


def _newest(
    connection: sa.Connection, key: sa.Column[int], policy: str, *columns: sa.ColumnElement[Any]
) -> Sequence[Any]:
    """The newest rows of a policy, oldest first.

    They are found by going back along the key: by the index of the policy, all of its rows would have to be sorted.
    """
    newest = sa.select(sa.func.max(key)).scalar_subquery()
    by_key = sa.func.coalesce(key.table.c.policy, "") == policy
    query = sa.select(*columns).where(key > newest - _SEARCHED, by_key).order_by(key.desc()).limit(ROWS)
    return connection.execute(query).all()[::-1]


def _returns(connection: sa.Connection, policy: str) -> Chart | None:
    table = tables.outcomes.c
    columns = (table.recorded_at, table.version, table.episode_return, table.kind)
    rows = [row[:3] for row in _newest(connection, table.outcome_seq, policy, *columns) if row.kind != WITHDRAWN]
    if not rows:
        return None
    times, versions, values = (np.array(column) for column in zip(*rows, strict=True))
    centres, places = bins(times)
    shown = list(dict.fromkeys(versions[::-1].tolist()))[:_MOST_SERIES]
    series = [
        Series(f"version {name}" if name else "fallback", binned(np.mean, values, places, versions == name))
        for name in sorted(shown)
    ]
    note = f"Mean return of the episodes that ended then, the last {len(rows):,} of them."
    return Chart("returns", "Returns", "return", note, centres, tuple(series))


def _decisions(connection: sa.Connection, policy: str) -> list[Chart]:
    table = tables.decisions.c
    rows = _newest(connection, table.id, policy, table.at, table.latency_seconds, table.observation_norm)
    if not rows:
        return []
    times, latency, norms = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    centres, places = bins(times)
    everything = np.ones(len(rows), dtype=bool)
    logged = f"the last {len(rows):,} decisions in the log, which keeps a sample of all episodes"
    ranks = tuple(
        Series(name, binned(lambda part, share=share: np.quantile(part, share), 1e3 * latency, places, everything))
        for name, share in (("p50", 0.5), ("p99", 0.99))
    )
    size = Series("mean norm", binned(np.mean, norms, places, everything))
    return [
        Chart("latency", "Latency at the gateway", "ms", f"Of {logged}.", centres, ranks),
        Chart("observations", "Size of observations", "norm", f"Of {logged}.", centres, (size,)),
    ]


def _drift(connection: sa.Connection, policy: str) -> Chart | None:
    table = tables.monitor_reports.c
    rows = [row for row in _newest(connection, table.id, policy, table.at, table.report) if row.report.get("alerts")]
    if not rows:
        return None
    values: dict[str, list[float | None]] = {name: [] for name in _DRIFT}
    for row in rows:
        alerts = {alert["name"]: alert for alert in row.report["alerts"]}
        for name, kept in values.items():
            kept.append(_of_threshold(alerts.get(name, {})))
    series = tuple(Series(_DRIFT[name], tuple(found)) for name, found in values.items())
    note = "What monitoring runs measured, as a multiple of the threshold of its alert."
    return Chart("drift", "Drift", "of the threshold", note, tuple(float(row.at) for row in rows), series, 1.0)


def _of_threshold(alert: dict[str, Any]) -> float | None:
    value, threshold = alert.get("value"), alert.get("threshold")
    return float(value) / float(threshold) if value is not None and threshold else None


def bins(times: Floats) -> tuple[tuple[float, ...], npt.NDArray[np.intp]]:
    """At most `BINS` equal stretches of time: the middle of each (Unix seconds), and in which each of `times` lies."""
    low, high = float(times.min()), float(times.max())
    if high <= low:
        return (low,), np.zeros(len(times), dtype=np.intp)
    edges = np.linspace(low, high, BINS + 1)
    places = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, BINS - 1)
    return tuple(((edges[1:] + edges[:-1]) / 2).tolist()), places


def binned(
    of: Any, values: Floats, places: npt.NDArray[np.intp], chosen: npt.NDArray[np.bool_]
) -> tuple[float | None, ...]:
    """`of` the chosen values in each stretch [at most `BINS`]; null where there is none."""
    count = int(places.max()) + 1
    found: list[float | None] = [None] * count
    for place in range(count):
        part = values[chosen & (places == place)]
        if len(part):
            found[place] = float(of(part))
    return tuple(found)


recent = Fresh(charts, _FRESH_SECONDS)
"""What `charts` said, at most ten seconds ago."""
