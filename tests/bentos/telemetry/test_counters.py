"""Counters: what a worker counts, and how workers add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bentos.package.digests import read_manifest
from bentos.telemetry.counters import LATENCY_BUCKETS, ActionLabels, Arm, Stats, statistics, total
from tests.bentos.policy_packages import BOX, write_package


def arm(decisions: int, seconds: float) -> Arm:
    counters = Arm()
    for _ in range(decisions):
        counters.decided(1, seconds)
    counters.count(counters.actions, "1", decisions)
    counters.ended(10.0 * decisions, decisions)
    return counters


def test_workers_add_up() -> None:
    summed = total([arm(1, 0.001).to_json(), arm(3, 0.003).to_json()])
    assert (summed["decisions"], summed["requests"], summed["actions"]) == (4, 4, {"1": 4})
    assert sum(summed["latency"]["counts"]) == 4
    shown = statistics(summed)
    assert shown["avg_latency_ms"] == pytest.approx(2.5)
    assert (shown["episodes_completed"], shown["avg_episode_reward"]) == (2, 20.0)
    assert shown["action_distribution"] == {"1": 1.0}


def test_nothing_counted_is_no_division_by_zero() -> None:
    assert statistics(total([]))["avg_episode_reward"] == 0.0


def test_only_what_changed_is_flushed() -> None:
    stats = Stats()
    stats.arm("p", "", "1", "champion").decided(1, 0.1)
    assert [key for key, _ in stats.take_changed()] == [("p", "", "1", "champion")]
    assert stats.take_changed() == []


def test_continuous_actions_count_by_dimension_and_the_baselines_bin(tmp_path: Path) -> None:
    baseline = {"actions": {"kind": "continuous", "edges": [[-2.0, -1.0, 0.0, 1.0, 2.0]], "counts": [[1, 1, 1, 1]]}}
    write_package(tmp_path, action_space=BOX, baselines=baseline)
    labels = ActionLabels(read_manifest(tmp_path))
    actions = np.array([[-2.0], [-1.5], [-0.5], [0.0], [1.5], [2.0]], np.float32)
    many: dict[str, int] = {}
    labels.count(actions, many)
    one_by_one: dict[str, int] = {}
    for action in actions:
        labels.count(action[None], one_by_one)
    assert many == one_by_one == {"d0:0": 2, "d0:1": 1, "d0:2": 1, "d0:3": 2}


def test_histograms_of_older_gateways_are_added_up_with_todays() -> None:
    fast, slow = Arm(), Arm()
    fast.decided(1, 0.02)
    slow.decided(1, 7.0)
    older = slow.to_json()
    last = older["latency"]["buckets"].index(5.0) + 1
    older["latency"] = {"buckets": older["latency"]["buckets"][:last], "counts": [0] * last + [1], "sum": 7.0}
    counts = total([fast.to_json(), older])["latency"]["counts"]
    assert (sum(counts), counts[-1]) == (2, 1)
    assert counts[LATENCY_BUCKETS.index(0.025)] == 1
