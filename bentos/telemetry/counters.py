"""In-process aggregates: counters of one worker per policy, generation, version and arm.

They cost nanoseconds on the decision path and are flushed about once a second, to Prometheus and to `arm_stats`.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bentos.package.manifest import Manifest
from bentos.rows import Array

LATENCY_BUCKETS = (
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
"""Upper bounds, seconds, as far as an objective may go; the last count is of what was slower."""

Key = tuple[str, str, str, str]

SHADOW = "shadow"
"""The arm of what a challenger decided beside the champion, serving nobody (see bentos/runners/shadow.py)."""


class Arm:
    """Cumulative counters of one (policy, generation, version, arm) in this worker."""

    def __init__(self) -> None:
        self.decisions = 0
        self.requests = 0
        self.sources: dict[str, int] = {}
        self.faults: dict[str, int] = {}
        self.adjusted: dict[str, int] = {}
        self.rejected: dict[str, int] = {}
        self.latency = [0] * (len(LATENCY_BUCKETS) + 1)
        self.latency_sum = 0.0
        self.actions: dict[str, int] = {}
        self.returns: list[float] = []
        self.episodes = 0
        self.return_sum = 0.0
        self.length_sum = 0
        self.last_return = 0.0
        self.breaker_open = False
        self.observation_out_of_range = 0
        self.observation_sampled = 0
        self.observation_outlier = 0
        self.shadow: dict[str, float] = {}
        self.last_decided = 0.0
        """Unix seconds of the last decision, as exact as the counters are flushed; 0 before any."""
        self.changed = False
        self._known_requests = 0

    def dated(self, now: float) -> None:
        """If there were requests since the last call, the last of them was now."""
        if self.requests != self._known_requests:
            self._known_requests = self.requests
            self.last_decided = now

    def decided(self, rows: int, seconds: float, requests: int = 1) -> None:
        """A request of `rows` decisions, or `requests` of so many together, took `seconds` each."""
        self.decisions += rows
        self.requests += requests
        self.latency[bisect_left(LATENCY_BUCKETS, seconds)] += requests
        self.latency_sum += seconds * requests
        self.changed = True

    def count(self, counter: dict[str, int], name: str, times: int) -> None:
        """Add to one of the named counters."""
        if times:
            counter[name] = counter.get(name, 0) + times
            self.changed = True

    def sampled(self, rows: int, outliers: int) -> None:
        """Of `rows` observations that were looked at, `outliers` were far from all of the baseline (Mahalanobis)."""
        self.observation_sampled += rows
        self.observation_outlier += outliers
        self.changed = True

    def ended(self, episode_return: float, length: int) -> None:
        """An episode reported its outcome."""
        self.episodes += 1
        self.return_sum += episode_return
        self.length_sum += length
        self.last_return = episode_return
        self.returns.append(episode_return)
        self.changed = True

    def to_json(self) -> dict[str, Any]:
        """The counters as `arm_stats.stats` stores them."""
        return {
            "decisions": self.decisions,
            "requests": self.requests,
            "sources": {"policy": 0, "fallback": 0, "override": 0, **self.sources},
            "faults": {"non_finite": 0, "exception": 0, "deadline": 0, **self.faults},
            "adjusted": dict(self.adjusted),
            "rejected": dict(self.rejected),
            "latency": {"buckets": list(LATENCY_BUCKETS), "counts": list(self.latency), "sum": self.latency_sum},
            "actions": dict(self.actions),
            "episodes": self.episodes,
            "return_sum": self.return_sum,
            "length_sum": self.length_sum,
            "last_decided": self.last_decided,
            "breaker_open": self.breaker_open,
            "observation_out_of_range": self.observation_out_of_range,
            "observation_sampled": self.observation_sampled,
            "observation_outlier": self.observation_outlier,
            "shadow": dict(self.shadow),
        }


class Stats:
    """All arms of this worker."""

    def __init__(self) -> None:
        self.arms: dict[Key, Arm] = {}

    def arm(self, policy: str, generation: str, version: str, arm: str) -> Arm:
        """The counters of an arm, made when first asked for."""
        key = (policy, generation, version, arm)
        found = self.arms.get(key)
        if found is None:
            found = self.arms[key] = Arm()
        return found

    def take_changed(self) -> list[tuple[Key, Arm]]:
        """The arms that changed since the last call."""
        changed = [(key, arm) for key, arm in self.arms.items() if arm.changed]
        for _, arm in changed:
            arm.changed = False
            arm.dated(time.time())
        return changed


class ActionLabels:
    """Names actions for counting: a discrete action by its index, a continuous one by dimension and baseline bin.

    Bin `k` of dimension `i` is "d<i>:<k>", with the edges of the manifest's action baseline; values outside count in
    the first or last bin. Without a baseline the action space's bounds are cut into ten bins, where finite.
    """

    def __init__(self, manifest: Manifest) -> None:
        space = manifest.action_space
        self._discrete = space.type == "Discrete"
        self._start = space.start
        self._names = [str(space.start + place) for place in range(space.n or 0)]
        self._whole = space.type in ("MultiDiscrete", "MultiBinary")
        self._edges: list[list[float]] = []
        baseline = manifest.baselines.get("actions") or {}
        if baseline.get("kind") == "continuous":
            self._edges = [list(map(float, edges[1:-1])) for edges in baseline["edges"]]
        elif space.type == "Box":
            low, high = (end.reshape(-1) for end in space.bounds())
            self._edges = [
                np.linspace(a, b, 11)[1:-1].tolist() if np.isfinite(b - a) else []
                for a, b in zip(low, high, strict=True)
            ]

    def count(self, actions: Array, into: dict[str, int]) -> None:
        """Count a batch of actions [n, ...]."""
        if self._discrete:
            if len(actions) == 1:
                name = self._names[actions.item() - self._start]
                into[name] = into.get(name, 0) + 1
            else:
                counts = np.bincount(actions.reshape(-1) - self._start)
                _add(into, self._names[: len(counts)], counts.tolist())
            return
        columns = actions.reshape(len(actions), -1)
        for dimension in range(columns.shape[1]):
            column = columns[:, dimension]
            if self._whole:
                values, counts = np.unique(column, return_counts=True)
                _add(into, (f"d{dimension}:{value}" for value in values.tolist()), counts.tolist())
            elif dimension < len(self._edges):
                edges = self._edges[dimension]
                if len(column) == 1:
                    _add(into, (f"d{dimension}:{bisect_right(edges, column[0])}",), (1,))
                else:
                    counts = np.bincount(np.searchsorted(edges, column, side="right"))
                    _add(into, (f"d{dimension}:{bin}" for bin in range(len(counts))), counts.tolist())


def _add(into: dict[str, int], names: Iterable[str], counts: Iterable[int]) -> None:
    for name, count in zip(names, counts, strict=True):
        if count:
            into[name] = into.get(name, 0) + count


def total(documents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add up `arm_stats.stats` documents (of several workers, or arms)."""
    summed = Arm().to_json()
    for document in documents:
        for name, value in document.items():
            if name == "latency":
                summed["latency"]["sum"] += value["sum"]
                counts, more = summed["latency"]["counts"], latency_counts(value)
                summed["latency"]["counts"] = [a + b for a, b in zip(counts, more, strict=True)]
            elif isinstance(value, dict):
                for key, times in value.items():
                    summed[name][key] = summed[name].get(key, 0) + times
            elif name == "last_decided":
                summed[name] = max(summed[name], value)
            elif isinstance(value, bool):
                summed[name] = summed[name] or value
            else:
                summed[name] += value
    return summed


def latency_counts(latency: Mapping[str, Any]) -> list[int]:
    """A stored histogram's counts by `LATENCY_BUCKETS`. An older gateway's may have fewer buckets: what was slower than
    its last one may have been as slow as can be. Of other buckets nothing is known."""
    buckets, counts = tuple(latency["buckets"]), list(latency["counts"])
    missing = len(LATENCY_BUCKETS) - len(buckets)
    if buckets != LATENCY_BUCKETS[: len(buckets)]:
        return [0] * (len(LATENCY_BUCKETS) + 1)
    return [*counts[:-1], *[0] * missing, counts[-1]]


def statistics(summed: dict[str, Any]) -> dict[str, Any]:
    """What a person asks first: counts, mean latency (ms), action distribution (shares), mean return."""
    actions = sum(summed["actions"].values())
    return {
        "total_inferences": summed["decisions"],
        "avg_latency_ms": 1000.0 * summed["latency"]["sum"] / max(1, summed["requests"]),
        "action_distribution": {name: count / actions for name, count in sorted(summed["actions"].items())},
        "episodes_completed": summed["episodes"],
        "avg_episode_reward": summed["return_sum"] / summed["episodes"] if summed["episodes"] else 0.0,
    }
