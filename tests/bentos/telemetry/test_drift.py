"""Drift: what is read off the cells agrees with SciPy, false alarms come as rarely as set, and looking costs little."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.stats

from bentos.package.digests import read_manifest
from bentos.package.manifest import Manifest, Tensor
from bentos.rows import Decision, Rows
from bentos.runners import settled
from bentos.runners.record import Record
from bentos.telemetry import baseline
from bentos.telemetry.counters import ActionLabels, Stats
from bentos.telemetry.drift import WINDOW, Drift, Reading
from bentos.telemetry.histogram import Cells, Column, entropy
from bentos.telemetry.sampling import BLOCKS, ROWS, Block, Sample, Turns
from bentos.telemetry.sequential import Detector, categorical, ordered
from bentos.tokens import Episode
from tasks.build.packaging.baselines import CELLS, baselines, cells
from tests.bentos.policy_packages import BOX, DISCRETE, write_package

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, int], Array]

SHAPES: dict[str, Draw] = {
    "normal": lambda g, n: g.normal(size=n),
    "heavy tailed": lambda g, n: g.standard_t(2, n),
    "often at its bound": lambda g, n: np.minimum(g.normal(size=n), 0.3),
    "whole numbers": lambda g, n: g.poisson(3, n).astype(float),
}
CHANGES: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "moved": lambda x: x + 0.3,
    "spread": lambda x: 2 * x,
}


def column(values: Array, name: str = "0") -> Column:
    edges, counts = cells(values)
    return Column(name, tuple(edges), tuple(counts))


def counted(known: Cells, values: Array) -> Array:
    return known.count(known.codes(values.reshape(len(values), -1)))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kolmogorov_smirnov_distance_is_scipys_to_the_share_of_a_cell(shape: str, change: str) -> None:
    generator = np.random.default_rng(1)
    before, now = SHAPES[shape](generator, 4000), CHANGES[change](SHAPES[shape](generator, 1000))
    found = Cells([column(before)])
    distance = found.kolmogorov_smirnov(counted(found, now))[0]
    exact = scipy.stats.ks_2samp(before, now).statistic
    assert exact - 1.6 / CELLS <= distance <= exact + 1e-9


def test_chi_squared_is_scipys_over_its_degrees_of_freedom() -> None:
    known, now = np.array([700, 0, 250, 50]), np.array([640.0, 3, 300, 57])
    found = Cells([Column("0", (0.5, 1.5, 2.5), tuple(known))], grouped=False)
    expected = (known + 0.5) / (known + 0.5).sum() * now.sum()
    assert found.chi_squared(now[None])[0] == pytest.approx(scipy.stats.chisquare(now, expected).statistic / 3)


def test_chi_squared_of_rows_of_the_baseline_is_that_of_its_distribution() -> None:
    generator = np.random.default_rng(2)
    found = Cells([column(generator.normal(size=50_000))])
    values = [found.chi_squared(counted(found, generator.normal(size=1000)))[0] * 9 for _ in range(300)]
    assert scipy.stats.kstest(values, scipy.stats.chi2(9).cdf).pvalue > 0.01


def test_population_stability_is_the_divergence_both_ways() -> None:
    known, now = np.array([700, 250, 50]), np.array([600.0, 320, 80])
    found = Cells([Column("0", (0.5, 1.5), tuple(known))], grouped=False)
    p, q = (known + 0.5) / (known + 0.5).sum(), (now + 0.5) / (now + 0.5).sum()
    both = scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p)
    assert found.population_stability(now[None])[0] == pytest.approx(both)


def test_entropy_and_total_variation_are_those_of_the_shares() -> None:
    counts = np.array([[10.0, 30, 0], [5, 5, 0]])
    np.testing.assert_allclose(entropy(counts), [scipy.stats.entropy(row) for row in counts])
    found = Cells([Column("0", (0.5,), (50, 50))])
    assert found.total_variation(np.array([[600, 200]]))[0] == pytest.approx(0.25)


def test_dimensions_with_different_numbers_of_cells_do_not_touch_each_other() -> None:
    generator = np.random.default_rng(3)
    wide, narrow = column(generator.normal(size=3000), "a"), column(np.repeat([0.0, 1.0], 1500), "b")
    rows = np.stack([generator.normal(0.5, 1, 1000), np.repeat([0.0, 1.0], [800, 200])], axis=1)
    both = Cells([wide, narrow])
    for index, one in enumerate((wide, narrow)):
        alone = Cells([one])
        for statistic in ("kolmogorov_smirnov", "chi_squared", "population_stability", "total_variation"):
            together = getattr(both, statistic)(counted(both, rows))[index]
            assert together == pytest.approx(getattr(alone, statistic)(counted(alone, rows[:, [index]]))[0])


def test_what_never_varied_is_missed_when_it_does() -> None:
    found = Cells([column(np.zeros(2000))])
    moved = counted(found, np.full(1000, 1e-6))
    assert found.kolmogorov_smirnov(moved)[0] == 1.0
    assert found.population_stability(moved)[0] > 5
    detector = ordered(found, 100, run_length=1e6)
    assert max(detector.look(found.codes(np.array([[1e-6]]))[0]) for _ in range(12)) >= 1


def test_a_column_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="one count more than edges"):
        Column("3", (0.0, 1.0), (5, 5))
    with pytest.raises(ValueError, match="finite edges that rise"):
        Column("3", (1.0, 0.0), (5, 5, 5))


class TestDetector:
    @staticmethod
    def uniform(dimensions: int = 2) -> Cells:
        return Cells([Column(str(d), tuple(np.linspace(0, 1, 17)[1:-1]), (10,) * 16) for d in range(dimensions)])

    @pytest.mark.parametrize("run_length", [50, 200])
    def test_false_alarms_come_no_sooner_than_set_on_average(self, run_length: int) -> None:
        # nothing tolerated: features have exactly the mean the bets allow, the hardest case there is
        known = self.uniform()
        rank = known.middles
        spread = abs(2 * rank - 1)
        table = np.stack([rank, 1 - rank, spread, 1 - spread], axis=-1)
        allowed = np.einsum("dc,dcf->df", known.shares, table)
        generator = np.random.default_rng(4)
        runs = []
        for _ in range(200):
            detector = Detector(table, allowed, run_length)
            rows = generator.integers(0, 16, (30 * run_length, 2))
            runs.append(next((n for n, row in enumerate(rows, 1) if detector.look(row) >= 1), len(rows)))
        error = float(np.std(runs)) / math.sqrt(len(runs))
        assert np.mean(runs) >= run_length - 3 * error
        assert np.mean(runs) <= 3 * run_length, "a detector that never fires would pass the line above"

    @pytest.mark.parametrize(
        ("change", "rows"),
        [
            (lambda x: x + 1.0, 110),
            (lambda x: x - 0.5, 550),
            (lambda x: 3 * x, 120),
            (lambda x: 0.2 * x, 120),
        ],
        ids=["moved by a deviation", "moved by half of one", "wider", "narrower"],
    )
    def test_a_change_is_found_in_few_rows(self, change: Callable[[Array], Array], rows: int) -> None:
        generator = np.random.default_rng(5)
        known = Cells([column(generator.normal(size=4000), str(d)) for d in range(4)])
        delays = []
        for _ in range(20):
            detector = ordered(known, 400)
            for row in generator.normal(size=(300, 4)):
                assert detector.look(known.codes(row[None])[0]) < 1
            seen = generator.normal(size=(2000, 4))
            seen[:, 2] = change(seen[:, 2])
            delays.append(next(n for n, row in enumerate(seen, 1) if detector.look(known.codes(row[None])[0]) >= 1))
        assert np.median(delays) <= rows

    def test_a_policy_that_prefers_another_action_is_found(self) -> None:
        known = Cells([Column("0", (0.5, 1.5), (600, 390, 10))], grouped=False)
        generator = np.random.default_rng(6)
        for shares, rows in (((0.2, 0.79, 0.01), 100), ((0.5, 0.3, 0.2), 200)):
            detector = categorical(known, 300)
            actions = generator.choice(3, 3000, p=shares)
            assert next(n for n, action in enumerate(actions, 1) if detector.look(np.array([action])) >= 1) <= rows

    def test_the_evidence_falls_again_when_a_drift_is_over(self) -> None:
        known = self.uniform(1)
        detector = ordered(known, 1000)
        generator = np.random.default_rng(7)
        for _ in range(5000):
            detector.look(np.array([15]))
        assert detector.evidence == 100
        for row in generator.integers(0, 16, (3000, 1)):
            detector.look(row)
        assert detector.evidence < 1


def episodes(generator: np.random.Generator, number: int, steps: int = 100) -> tuple[Array, Array]:
    """Steps [number · steps, 2] of episodes whose rows depend on each other, and the episode of each."""
    places = generator.normal(size=(number, 1, 2))
    walk = generator.normal(0, 0.3, size=(number, steps, 2))
    return (places + walk).reshape(-1, 2), np.repeat(np.arange(number), steps)


def manifest(directory: Path, seed: int, number: int = 40) -> Manifest:
    generator = np.random.default_rng(seed)
    observations, index = episodes(generator, number)
    document = baselines(
        DISCRETE, {"observation": observations}, generator.integers(0, 2, len(index)), np.ones(number), index
    )
    write_package(directory, baselines=document)
    made = read_manifest(directory)
    return msgspec.structs.replace(made, inputs=(Tensor("observation", "float32", (2,)),))


def ask(drift: Drift, observations: Array, actions: Array, named: list[Episode | None] | None = None) -> None:
    drift.sample(Rows(feeds={"observation": observations}, size=len(observations), episodes=named), actions)


def value(readings: list[Reading], subject: str, statistic: str, dimension: str = "all") -> float:
    (found,) = [r.value for r in readings if r[:3] == (subject, statistic, dimension)]
    return found


def test_a_baseline_of_few_episodes_is_not_held_against_a_policy_that_does_not_drift(tmp_path: Path) -> None:
    # 4,000 rows of 40 episodes: taken for independent, their own sampling error would pass for a drift
    alarms = {True: 0, False: 0}
    for seed in range(8):
        made = manifest(tmp_path / str(seed), seed)
        seen = baseline.observations(made)
        assert seen is not None
        assert seen.cells is not None
        assert 10 <= seen.effective <= 120
        rows = seen.cells.codes(episodes(np.random.default_rng(100 + seed), 6000, 1)[0])
        for told in alarms:
            detector = ordered(seen.cells, seen.effective if told else 4000)
            alarms[told] += max(detector.look(row) for row in rows) >= 1
    assert alarms[True] == 0
    assert alarms[False] >= 4


def test_a_window_is_told_once_it_is_full_and_slides_after(tmp_path: Path) -> None:
    generator = np.random.default_rng(8)
    drift = Drift(manifest(tmp_path, 0))
    for looks in range(WINDOW // 100):
        assert [r for r in drift.readings() if r.statistic != "sequential"] == [], looks
        rows, _ = episodes(generator, 100, 1)
        ask(drift, rows, np.zeros(100, np.int64))
    readings = drift.readings()
    assert value(readings, "observation", "psi") < 0.1
    assert value(readings, "action", "total_variation") == pytest.approx(0.5, abs=0.02)
    assert value(readings, "action", "entropy") == 0.0
    assert not [r for r in readings if r.statistic == "ks" and r.subject == "action"], "choices have no order"
    for _ in range(WINDOW // 100):
        rows, _ = episodes(generator, 100, 1)
        ask(drift, rows + np.array([0.0, 2.0]), generator.integers(0, 2, 100))
        readings = drift.readings()
    assert value(readings, "observation", "psi") > 0.25
    assert value(readings, "observation", "ks", "1") > 0.5 > value(readings, "observation", "ks", "0")
    assert value(readings, "observation", "mean", "1") == pytest.approx(2.0, abs=0.4)
    assert value(readings, "action", "total_variation") < 0.06
    assert drift.readings() == [], "nothing new"


def test_continuous_actions_are_read_over_the_baselines_bins(tmp_path: Path) -> None:
    document = {"actions": {"kind": "continuous", "edges": [[-2.0, -1.0, 0.0, 1.0, 2.0]], "counts": [[10] * 4]}}
    write_package(tmp_path, action_space=BOX, baselines=document)
    drift = Drift(read_manifest(tmp_path))
    for _ in range(WINDOW // 100):
        ask(drift, np.zeros((100, 4), np.float32), np.linspace(-2, 0, 100, endpoint=False)[:, None])
        readings = drift.readings()
    assert value(readings, "action", "total_variation") == pytest.approx(0.5)
    assert value(readings, "action", "ks") == pytest.approx(0.5)
    assert not [r for r in readings if r.subject == "observation"], "this baseline has none"


def test_a_package_from_before_there_were_cells_tells_the_distance_of_means(tmp_path: Path) -> None:
    write_package(tmp_path, baselines={"observations": {"mean": [0.0] * 4, "std": [2.0] * 4}})
    drift = Drift(read_manifest(tmp_path))
    for _ in range(WINDOW // 100):
        ask(drift, np.full((100, 4), 3.0, np.float32), np.zeros(100, np.int64))
        readings = drift.readings()
    assert {r.statistic for r in readings} == {"mean"}
    assert value(readings, "observation", "mean") == pytest.approx(1.5)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"observations": {"mean": [0.0], "std": [1.0]}, "actions": {"kind": "continuous", "counts": []}},
        {"observations": {"columns": [{"input": "observation", "index": 4, "edges": [], "counts": [1]}]}},
        {"observations": {"columns": [{"input": "camera", "index": 0, "edges": [], "counts": [1]}]}},
        {"observations": {"columns": [{"input": "observation", "index": 0, "edges": [1, 0], "counts": [1, 1, 1]}]}},
        {
            "observations": {"columns": [{}]},
            "actions": {"kind": "continuous", "counts": [[1, 1]], "edges": [[0, None, 2]]},
        },
    ],
    ids=["none", "other shape", "no such entry", "no such input", "edges that fall", "nonsense"],
)
def test_a_baseline_that_does_not_fit_the_policy_is_left_alone(tmp_path: Path, document: dict[str, Any]) -> None:
    write_package(tmp_path, baselines=document)
    read = read_manifest(tmp_path)
    assert baseline.observations(read) is None
    drift = Drift(read)
    ask(drift, np.zeros((5, 4), np.float32), np.zeros(5, np.int64))
    assert drift.readings() == []


def test_dict_observations_are_read_input_by_input(tmp_path: Path) -> None:
    generator = np.random.default_rng(9)
    seen = {
        "observation.place": generator.normal(size=(2000, 2)),
        "observation.speed": generator.normal(5, 1, size=(2000, 1)),
    }
    write_package(tmp_path, baselines=baselines(DISCRETE, seen, generator.integers(0, 2, 2000), np.ones(20)))
    inputs = (Tensor("observation.place", "float32", (2,)), Tensor("observation.speed", "float32", (1,)))
    drift = Drift(msgspec.structs.replace(read_manifest(tmp_path), inputs=inputs))
    for start in range(0, 2000, 100):
        feeds = {name: part[start : start + 100] for name, part in seen.items()}
        feeds["observation.speed"] = feeds["observation.speed"] + 3.0
        drift.sample(Rows(feeds=feeds, size=100), generator.integers(0, 2, 100))
        readings = drift.readings()
    assert value(readings, "observation", "psi", "speed.0") > 1 > value(readings, "observation", "psi", "place.1")


def test_the_gateway_exports_every_figure_by_statistic_and_dimension(tmp_path: Path) -> None:
    # in a process of its own: prometheus_client keeps one registry a process
    generator = np.random.default_rng(10)
    document = baselines(
        DISCRETE, {"observation": generator.normal(size=(2000, 4))}, generator.integers(0, 2, 2000), np.ones(20)
    )
    write_package(tmp_path, baselines=document)
    script = f"""
from types import SimpleNamespace as Of
import numpy as np
from prometheus_client import generate_latest
from bentos.telemetry.drift import Drift
from bentos.server.metrics import Metrics
from bentos.package import read_manifest
from bentos.rows import Decision, Rows
from bentos.runners.record import Record
from bentos.telemetry.counters import ActionLabels, Arm, Stats
from pathlib import Path
drift, metrics = Drift(read_manifest(Path({str(tmp_path)!r}))), Metrics()
route = Of(policy="p", versions={{}}, canary=None, champion=Of(name="7", drift=drift))
for _ in range(10):
    drift.sample(Rows(feeds={{"observation": np.zeros((100, 4), np.float32)}}, size=100), np.zeros(100, np.int64))
    metrics.show(route)
arm = Arm()
arm.observation_out_of_range, arm.changed = 3, True
arm.sampled(50, 2)
metrics.flush([(("p", "", "7", "champion"), arm)])
print(generate_latest().decode())
route.champion = Of(name="8", drift=Drift(read_manifest(Path({str(tmp_path)!r}))))
metrics.show(route)
print("AFTER", generate_latest().decode())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = done.stdout.split("AFTER")
    labels = 'arm="champion",dimension="{}",policy="p",statistic="{}",version="7"'
    for statistic in ("ks", "chi_squared", "psi", "mean"):
        assert f"rl_observation_drift{{{labels.format('3', statistic)}}}" in before
    for statistic in ("chi_squared", "psi", "total_variation", "sequential"):
        assert f"rl_action_drift{{{labels.format('all', statistic)}}}" in before
    assert 'rl_action_entropy{arm="champion",dimension="all",policy="p",version="7"} 0.0' in before
    for kind, count in (("range", 3), ("mahalanobis", 2)):
        outliers = f'rl_observation_outliers_total{{arm="champion",kind="{kind}",policy="p",version="7"}}'
        assert f"{outliers} {count}.0" in before
    assert 'rl_observations_sampled_total{arm="champion",policy="p",version="7"} 50.0' in before
    ended = re.findall(r'rl_(?:observation|action)_(?:drift|entropy)\{.*version="7".*\} (\S+)', after)
    assert len(ended) > 10
    assert set(ended) == {"NaN"}, "a version that is champion no more raises no alarm"


def test_a_canary_that_another_replaces_directly_has_no_weight_left() -> None:
    script = """
from types import SimpleNamespace as Of
from prometheus_client import generate_latest
from bentos.canary import Canary
from bentos.server.metrics import Metrics
metrics = Metrics()
for version, weight in (("8", 0.25), ("9", 0.05)):
    canary = Canary("g" + version, "7", version, weight, "ab" * 16, 1, 1.0)
    metrics.show(Of(policy="p", versions={}, canary=canary, champion=None))
print(generate_latest().decode())
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    weights = dict(re.findall(r'rl_canary_weight\{arm="challenger",policy="p",version="(\d)"\} (\S+)', told))
    assert weights == {"8": "0.0", "9": "0.05"}


def test_what_was_decided_is_handed_over(tmp_path: Path) -> None:
    class Inner:
        async def decide(self, rows: Rows) -> Decision:
            return Decision(np.ones(rows.size, np.int64), np.ones(rows.size, bool), ["policy"] * rows.size, ["1"])

    write_package(tmp_path, baselines={"actions": {"kind": "discrete", "counts": [50, 50]}})
    made = read_manifest(tmp_path)
    drift = Drift(made)
    record = Record(Inner(), "p", ActionLabels(made), Stats(), drift)
    for _ in range(WINDOW // 100):
        asyncio.run(settled(record.decide(Rows(feeds={"observation": np.zeros((100, 4), np.float32)}, size=100))))
        readings = drift.readings()
    assert value(readings, "action", "total_variation") == pytest.approx(0.5)


class TestSample:
    def test_every_request_is_as_likely(self) -> None:
        generator, sample = Random(1), None
        kept = np.zeros(500)
        for _ in range(400):
            sample = Sample(generator)
            for number in range(500):
                sample.add(Rows(feeds={"observation": np.zeros((1, 1))}, size=1), np.array([number]))
            taken = sample.take()
            assert len(taken) == BLOCKS
            kept[[int(block.actions[0]) for block, _ in taken]] += 1
        expected = 400 * BLOCKS / 500
        assert scipy.stats.chisquare(kept.reshape(10, 50).sum(axis=1), [50 * expected] * 10).pvalue > 0.001

    def test_arrays_are_kept_by_reference_but_large_ones_give_a_row(self) -> None:
        sample = Sample(Random(2))
        small, large = np.zeros((8, 4), np.float32), np.arange(100_000.0).reshape(100, 1000)
        sample.add(Rows(feeds={"observation": small}, size=8), np.zeros(8))
        sample.add(Rows(feeds={"observation": large}, size=100), np.arange(100))
        (first, _), (second, _) = sample.take()
        assert first.feeds["observation"] is small
        assert second.feeds["observation"].shape == (1, 1000)
        assert second.feeds["observation"][0, 0] == 1000 * second.actions[0]
        assert not np.shares_memory(second.feeds["observation"], large)

    def test_of_many_rows_some_are_taken_each_as_likely(self) -> None:
        sample = Sample(Random(3))
        counts = np.zeros(2)
        for _ in range(50):
            for size in (100, 900):
                sample.add(Rows(feeds={"observation": np.zeros((size, 1))}, size=size), np.arange(size))
            taken = sample.take()
            assert sum(len(index) for _, index in taken) == ROWS
            for place, (block, index) in enumerate(taken):
                assert len(set(index.tolist())) == len(index)
                assert index.max() < block.size
                counts[place] += len(index)
        assert counts[0] / counts.sum() == pytest.approx(0.1, abs=0.02)


def test_the_detector_sees_about_one_row_an_episode() -> None:
    def turn(turns: Turns, nonce: str | None) -> int | None:
        named = None if nonce is None else [Episode("p", "1", "champion", "", nonce, "", 0.0)]
        return turns.choose([(Block({}, np.zeros(1), named, 1), np.array([0]))])

    slow, busy, unnamed = Turns(Random(4)), Turns(Random(5)), Turns(Random(6))
    assert 20 <= sum(turn(slow, str(second // 50)) is not None for second in range(2000)) <= 80
    assert sum(turn(busy, str(second)) is not None for second in range(500)) == 500
    assert sum(turn(unnamed, None) is not None for _ in range(500)) == 500


def test_outliers_are_counted_for_the_arm_that_saw_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(12)
    usual = generator.normal(size=(2000, 4)).astype(np.float32)
    write_package(
        tmp_path, baselines=baselines(DISCRETE, {"observation": usual}, generator.integers(0, 2, 2000), np.ones(20))
    )
    made = read_manifest(tmp_path)
    drift, stats = Drift(made), Stats()

    class Says:
        async def decide(self, rows: Rows) -> Decision:
            finite = np.ones(rows.size, bool)
            return Decision(np.zeros(rows.size, np.int64), finite, ["policy"] * rows.size, ["1"] * rows.size)

    record = Record(Says(), "p", ActionLabels(made), stats, drift)
    for arm, moved in (("control", 0.0), ("challenger", 9.0)):
        rows = Rows({"observation": usual[:40] + np.float32(moved)}, 40, version="1", arm=arm)
        asyncio.run(settled(record.decide(rows)))
    drift.readings()
    counted = {arm: stats.arm("p", "", "1", arm).to_json() for arm in ("control", "challenger")}
    assert counted["control"]["observation_sampled"] == counted["challenger"]["observation_sampled"] == 40
    assert counted["control"]["observation_outlier"] <= 1
    assert counted["challenger"]["observation_outlier"] == 40
