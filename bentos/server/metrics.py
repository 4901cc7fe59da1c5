"""The gateway's Prometheus metrics: fed once a second from the in-process aggregates, readable from any worker."""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bentos.routing.route import Route
from bentos.routing.version import Version
from bentos.store.overrides import SCOPES, Active
from bentos.telemetry.counters import LATENCY_BUCKETS, Arm, Key

_LABELS = ("policy", "version", "arm")
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_STEPS = (10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000, 5000)
_RETURN_BUCKETS = (*(-step for step in reversed(_STEPS)), 0, *_STEPS)


class Metrics:
    """Mirrors `Arm` counters into prometheus_client, whose multiprocess files any worker's `/metrics` adds up.

    prometheus_client decides at its first import whether it is multiprocess, by an environment variable that
    `bentoml serve` sets for its workers: hence the late import.
    """

    def __init__(self) -> None:
        import prometheus_client as prometheus

        _forget_dead_workers()
        counter, gauge, histogram = prometheus.Counter, prometheus.Gauge, prometheus.Histogram
        self._inference = counter("rl_inference", "Decisions", [*_LABELS, "source"])
        self._latency = histogram("rl_inference_latency_seconds", "Decision latency", _LABELS, buckets=LATENCY_BUCKETS)
        self._action = counter("rl_action", "Actions, by index or by dimension and bin", [*_LABELS, "action"])
        self._reward = gauge("rl_episode_reward", "Return of the last episode", _LABELS, multiprocess_mode="mostrecent")
        self._return = histogram("rl_episode_return", "Returns of episodes", _LABELS, buckets=_RETURN_BUCKETS)
        self._episodes = counter("rl_episodes", "Episodes that reported an outcome", _LABELS)
        self._faults = counter("rl_faults", "Faulty decisions", [*_LABELS, "kind"])
        self._adjustments = counter("rl_adjustments", "Actions changed by the envelope", [*_LABELS, "reason"])
        self._outliers = counter(
            "rl_observation_outliers",
            "Observations out of the spec's range, of all, and far from the baseline (mahalanobis), of those sampled",
            [*_LABELS, "kind"],
        )
        self._sampled = counter("rl_observations_sampled", "Observations looked at for kind mahalanobis", _LABELS)
        self._rejected = counter("rl_rejected", "Requests refused", [*_LABELS, "reason"])
        told = [*_LABELS, "statistic", "dimension"]
        self._drift = {
            "observation": gauge(
                "rl_observation_drift",
                "Distance of recent observations from the baseline's; statistic sequential raises its alarm at 1",
                told,
                multiprocess_mode="livemax",
            ),
            "action": gauge(
                "rl_action_drift",
                "Distance of recent actions from the baseline's; statistic sequential raises its alarm at 1",
                told,
                multiprocess_mode="livemax",
            ),
        }
        self._entropy = gauge(
            "rl_action_entropy",
            "Entropy of recent actions, nats",
            [*_LABELS, "dimension"],
            multiprocess_mode="livemin",
        )
        self._weight = gauge(
            "rl_canary_weight", "Weight of each arm of the running canary", _LABELS, multiprocess_mode="livemostrecent"
        )
        self._hours = gauge(
            "rl_canary_hours", "Age of the running canary, hours; 0 once it ended", _LABELS, multiprocess_mode="livemax"
        )
        self._baseline = gauge(
            "rl_return_baseline", "Mean return that the package was measured at", _LABELS, multiprocess_mode="livemax"
        )
        self._breaker = gauge("rl_breaker_open", "1 while the breaker is open", _LABELS, multiprocess_mode="livemax")
        self._batch = histogram("rl_batch_size", "Rows per model call", _LABELS, buckets=_BATCH_BUCKETS)
        self._log_lost = counter("rl_decision_log_lost", "Decisions of logged episodes that the log had no room for")
        self._events_lost = counter(
            "rl_episode_events_lost", "Events of episodes that were lost before they were stored"
        )
        self._withdrawn = counter(
            "rl_starts_withdrawn", "Stored starts of experiment episodes that nobody was told of, closed as such"
        )
        self._overrides = gauge(
            "rl_override_active", "Active overrides", ["policy", "scope"], multiprocess_mode="livemax"
        )
        self._usage = {
            "process_resident_memory_bytes": gauge(
                "rl_worker_memory_bytes", "Resident memory of a worker", ["worker"], multiprocess_mode="livemax"
            ),
            "process_cpu_seconds_total": gauge(
                "rl_worker_cpu_seconds", "CPU time a worker has used", ["worker"], multiprocess_mode="livemax"
            ),
            "process_open_fds": gauge(
                "rl_worker_open_files", "Files and connections a worker holds", ["worker"], multiprocess_mode="livemax"
            ),
        }
        self._process = prometheus.ProcessCollector(registry=None)
        self._shown: dict[tuple[Any, ...], float] = {}
        self._challengers: dict[str, str] = {}
        self._begun: set[tuple[str, str, str]] = set()
        self._watched = {
            self._inference: ("policy", "fallback", "override"),
            self._faults: ("non_finite", "exception", "deadline"),
            self._rejected: ("non_finite",),
            self._outliers: ("range", "mahalanobis"),
        }
        self._told: dict[str, dict[tuple[str, str], set[Any]]] = {}

    def flush(self, changed: Iterable[tuple[Key, Arm]]) -> None:
        """Add what the counters gained since the last flush."""
        for key, arm in changed:
            policy, _, version, name = key
            labels = (policy, version, name)
            self._begin(labels)
            for source, count in arm.sources.items():
                self._grow(self._inference, key, (*labels, source), count)
            for action, count in arm.actions.items():
                self._grow(self._action, key, (*labels, action), count)
            for kind, count in arm.faults.items():
                self._grow(self._faults, key, (*labels, kind), count)
            for reason, count in arm.adjusted.items():
                self._grow(self._adjustments, key, (*labels, reason), count)
            for reason, count in arm.rejected.items():
                self._grow(self._rejected, key, (*labels, reason), count)
            self._grow(self._outliers, key, (*labels, "range"), arm.observation_out_of_range)
            self._grow(self._outliers, key, (*labels, "mahalanobis"), arm.observation_outlier)
            self._grow(self._sampled, key, labels, arm.observation_sampled)
            self._grow(self._episodes, key, labels, arm.episodes)
            self._grow_histogram(self._latency, key, labels, arm.latency, arm.latency_sum)
            returns, arm.returns = arm.returns, []
            for value in returns:
                self._return.labels(*labels).observe(value)
            if returns:
                self._reward.labels(*labels).set(returns[-1])

    def lost(self, decisions: int, events: int) -> None:
        """Bring to the counters what this worker's journal has lost so far."""
        self._log_lost.inc(self._gain(("decisions lost",), decisions))
        self._events_lost.inc(self._gain(("events lost",), events))

    def withdrawn(self, starts: int) -> None:
        """Bring to the counter how many starts this worker has withdrawn so far."""
        self._withdrawn.inc(self._gain(("starts withdrawn",), starts))

    def show_usage(self, worker: str) -> None:
        """Bring what this process uses to the gauges, where the system tells it (Linux)."""
        for family in self._process.collect():
            for sample in family.samples:
                if (gauge := self._usage.get(sample.name)) is not None:
                    gauge.labels(worker).set(sample.value)

    def show(self, route: Route) -> None:
        """Bring the state of a policy's route to the gauges."""
        policy = route.policy
        for name, version in route.versions.items():
            self._breaker.labels(policy, name, "").set(1 if version.breaker.open else 0)
            sizes, version.batch.sizes = version.batch.sizes, {}
            for size, count in sizes.items():
                child = self._batch.labels(policy, name, "")
                child._buckets[int(np.searchsorted(_BATCH_BUCKETS, size))].inc(count)
                child._sum.inc(size * count)
            if (mean := version.manifest.baselines.get("returns", {}).get("mean")) is not None:
                self._baseline.labels(policy, name, "").set(mean)
        weight = route.canary.weight if route.canary else 0.0
        before = self._challengers.get(policy)
        challenger = route.canary.version if route.canary else before
        if before is not None and before != challenger:
            self._weight.labels(policy, before, "challenger").set(0.0)
            self._hours.labels(policy, before, "challenger").set(0.0)
        if challenger is not None:
            self._challengers[policy] = challenger
            self._weight.labels(policy, challenger, "challenger").set(weight)
            hours = route.canary.age(time.time()) / 3600 if route.canary else 0.0
            self._hours.labels(policy, challenger, "challenger").set(hours)
        compared = {} if route.champion is None else {(route.champion.name, "champion"): route.champion}
        if route.canary is not None and route.canary.version in route.versions:
            compared[route.canary.version, "challenger"] = route.versions[route.canary.version]
        self._show_drift(policy, compared)

    def show_overrides(self, policy: str, active: Iterable[Active]) -> None:
        """Bring the number of a policy's overrides that hold now to the gauge, by scope: all, user or episode."""
        now = time.time()
        held = Counter(one.scope for one in active if one.until > now)
        for scope in SCOPES:
            self._overrides.labels(policy, scope).set(held[scope])

    def _show_drift(self, policy: str, compared: dict[tuple[str, str], Version]) -> None:
        told = self._told.setdefault(policy, {})
        for key in told.keys() - compared.keys():
            # a series cannot be taken back from the multiprocess files; not a number raises no alarm
            for gauge in told.pop(key):
                gauge.set(math.nan)
        for (name, arm), version in compared.items():
            gauges = told.setdefault((name, arm), set())
            for subject, statistic, dimension, value in version.drift.readings():
                labels = (dimension,) if statistic == "entropy" else (statistic, dimension)
                family = self._entropy if statistic == "entropy" else self._drift[subject]
                gauge = family.labels(policy, name, arm, *labels)
                gauge.set(value)
                gauges.add(gauge)

    def _begin(self, labels: tuple[str, str, str]) -> None:
        """Let the counters that alerts are about begin at 0: what grew before the first scrape is no increase."""
        if labels not in self._begun:
            self._begun.add(labels)
            self._sampled.labels(*labels)
            for counter, values in self._watched.items():
                for value in values:
                    counter.labels(*labels, value)

    def _gain(self, identity: tuple[Any, ...], value: float) -> float:
        gained = value - self._shown.get(identity, 0)
        self._shown[identity] = value
        return gained

    def _grow(self, counter: Any, key: Key, labels: tuple[str, ...], value: float) -> None:
        # the key carries the generation: two canaries of one version are two sources of one series
        gained = self._gain((counter, key, labels), value)
        if gained:
            counter.labels(*labels).inc(gained)

    def _grow_histogram(
        self, histogram: Any, key: Key, labels: tuple[str, ...], counts: list[int], total: float
    ) -> None:
        child = histogram.labels(*labels)
        for bucket, count in enumerate(counts):
            gained = self._gain((histogram, key, bucket), count)
            if gained:
                # prometheus_client can only observe one value at a time; its buckets hold plain, not yet
                # accumulated, counts, so adding to them is the same as that many observations
                child._buckets[bucket].inc(gained)
        child._sum.inc(self._gain((histogram, key, "sum"), total))


def _forget_dead_workers() -> None:
    """Drop the live gauges of workers that were killed: nobody else tells prometheus_client that they are gone."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not directory:
        return
    from prometheus_client import multiprocess

    for file in Path(directory).glob("gauge_live*_*.db"):
        found = re.search(r"_(\d+)\.db$", file.name)
        if found and not Path("/proc", found[1]).exists():
            multiprocess.mark_process_dead(int(found[1]), directory)  # type: ignore[no-untyped-call]
