"""Selection: the choice follows the measurements, and the package it makes is the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos import package
from tasks import benchmark, runs
from tasks.errors import Misconfigured, Rejected
from tasks.evaluate import ROLLOUT, evaluate, load_rollout
from tasks.export import export
from tasks.quantize import quantize
from tasks.select import SELECTION, baselines, choose, select, verify
from tasks.spec import Params
from tasks.train import train


def _measured(**costs: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """Variants by (relative cost, p99 in µs) at batch 64."""
    return {
        name.replace("_", "-"): {
            "batch": {"64": {"p50_us": 10 * cost, "p99_us": p99, "rows_per_second": 1.0}},
            "relative_cost": cost,
            "size_bytes": 1,
        }
        for name, (cost, p99) in costs.items()
    }


def _judged(**accepted: bool) -> dict[str, dict[str, Any]]:
    return {
        name.replace("_", "-"): {"accepted_actions": value, "reason": "as fp32" if value else "unlike fp32"}
        for name, value in accepted.items()
    }


@pytest.mark.parametrize(
    ("measured", "judged", "variant", "said"),
    [
        (_measured(fp32=(1, 20), fp16=(1.4, 30)), _judged(fp16=True), "fp32", "fp16 takes 1.40 times fp32's time"),
        (_measured(fp32=(1, 20), fp16=(0.5, 20)), _judged(fp16=True), "fp16", "fp16 ships: p50 5.0 µs"),
        (_measured(fp32=(1, 20), fp16=(0.91, 20)), _judged(fp16=True), "fp32", "a gain of less than 10 %"),
        (_measured(fp32=(1, 20), int8_static=(0.1, 5)), _judged(int8_static=False), "fp32", "unlike fp32"),
        (
            _measured(fp32=(1, 20_000), int8_static=(0.95, 5_000)),
            _judged(int8_static=True),
            "int8-static",
            "fp32 misses the latency objective of 10 ms",
        ),
        (
            _measured(fp32=(1, 20), fp16=(0.5, 20_000)),
            _judged(fp16=True),
            "fp32",
            "fp16 misses the latency objective of 10 ms",
        ),
        (
            _measured(fp32=(1, 20_000), fp16=(0.5, 20_000)),
            _judged(fp16=True),
            "fp32",
            "no variant keeps its p99 within 10 ms",
        ),
        (_measured(fp32=(1, 20)), _judged(fp16=True), "fp32", "fp16 was rejected: it was not benchmarked"),
    ],
)
def test_the_fastest_accepted_variant_ships_and_ties_go_to_fp32(
    measured: dict[str, Any], judged: dict[str, Any], variant: str, said: str
) -> None:
    selection = choose(measured, judged, 64, slo_ms=10)
    assert selection.variant == variant
    assert said in selection.reason


def test_baselines_count_what_the_policy_saw_and_did() -> None:
    given = {"observation": np.array([[0.0, 2.0], [2.0, 4.0]], np.float32)}
    returns = np.array([1.0, 3.0])
    discrete = baselines(package.Space("Discrete", "int64", n=3), given, np.array([2, 2]), returns)
    assert discrete["observations"] == {
        "mean": [1.0, 3.0],
        "std": [1.0, 1.0],
        "min": [0.0, 2.0],
        "max": [2.0, 4.0],
        "count": 2,
        "source": "on-policy",
    }
    assert discrete["actions"] == {"kind": "discrete", "counts": [0, 0, 2]}
    assert discrete["returns"]["mean"] == 2.0
    box = package.Space("Box", "float32", (1,), (-2.0,), (2.0,))
    continuous = baselines(box, given, np.array([[-2.0], [2.0]]), returns)["actions"]
    assert (continuous["edges"][0][0], continuous["edges"][0][-1]) == (-2.0, 2.0)
    assert (continuous["counts"][0][0], continuous["counts"][0][-1], sum(continuous["counts"][0])) == (1, 1, 2)


def test_drawn_rows_are_no_baseline() -> None:
    given = {"observation": np.zeros((2, 2), np.float32)}
    found = baselines(package.Space("Discrete", "int64", n=3), given, np.array([2, 2]), np.array([]))
    assert found == {"observations": {"source": "drawn"}, "actions": {}, "returns": {"count": 0}}


def test_selecting_before_measuring_names_what_is_missing(mlflow_server: str, make_policy: Callable[..., str]) -> None:
    release = runs.Release.open(make_policy(), "run", Params())
    with pytest.raises(Misconfigured, match=r"has no benchmark/fp32\.json"):
        select(release)


@pytest.mark.parametrize(("base", "steps"), [("cartpole", 1_024), ("pendulum", 300)])
def test_a_candidate_becomes_a_package_that_acts_as_it_did(
    base: str, steps: int, mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path
) -> None:
    name = make_policy(base, train={"total_timesteps": steps}, evaluate={"episodes": 4, "minimum_mean_return": -1e6})
    release = runs.Release.open(name, "run", Params())
    for stage in (train, evaluate, export, quantize):
        stage(release)
    for family in benchmark.FAMILIES:
        benchmark.benchmark(release, family)
    first = select(release)

    directory = release.fetch("package", tmp_path)
    policy = package.load(directory, first["package_sha256"])
    given, actions = load_rollout(release.fetch(ROLLOUT, tmp_path))
    assert policy.variant == first["variant"]
    assert package.load(directory, variant="fp32").predict(given["observation"]) == pytest.approx(actions, abs=4e-5)
    assert policy.predict(given["observation"][0]).shape == actions[0].shape

    manifest = policy.manifest
    assert manifest.name == name
    assert manifest.training["dag_run_id"] == "run"
    assert {"policy.onnx", "policy.ts", "policy.pt2", "baseline.npz"} <= set(manifest.files)
    rejected = {variant for variant, entry in manifest.quantization.items() if not entry["accepted_actions"]}
    assert not rejected & set(manifest.variants)
    assert {path.name for path in directory.iterdir()} == {*manifest.files, "policy.json"}
    assert len(policy.baseline().inputs["observation"]) == 2_048
    assert "compared_with" in manifest.benchmark["fp32"]
    assert release.get_json(SELECTION)["variant"] == first["variant"]

    assert select(release) == first

    wrong = np.roll(actions, 1, axis=0) if base == "pendulum" else 1 - actions
    with pytest.raises(Rejected, match="the assembled package agrees with the original on"):
        verify(directory, first["package_sha256"], given, wrong)
