"""Selection: the choice follows the gate and the measurements, and says why."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.selection import choose


def _measured(**costs: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """Variants by (relative cost, p99 in µs) at batch 64, each cost known to a twentieth."""
    return {
        name.replace("_", "-"): {
            "batch": {"64": {"p50_us": 10 * cost, "p99_us": p99, "rows_per_second": 1.0}},
            "relative_cost": cost,
            "cost_interval": [cost - 0.05, cost + 0.05],
            "size_bytes": 2_000_000 if name == "fp32" else 500_000,
        }
        for name, (cost, p99) in costs.items()
    }


def _judged(**accepted: bool) -> dict[str, dict[str, Any]]:
    return {
        name.replace("_", "-"): {"accepted_actions": value, "reason": "as fp32" if value else "unlike fp32"}
        for name, value in accepted.items()
    }


@pytest.mark.parametrize(
    ("measured", "judged", "variant", "accepted", "said"),
    [
        (
            _measured(fp32=(1, 20), fp16=(1.4, 30)),
            _judged(fp16=True),
            "fp32",
            [],
            "fp16 was rejected: gains nothing: takes 1.40 [1.35, 1.45] times fp32's time at batch 64",
        ),
        (_measured(fp32=(1, 20), fp16=(0.5, 20)), _judged(fp16=True), "fp16", ["fp16"], "fp16 ships: p50 5.0 µs"),
        (
            _measured(fp32=(1, 20), fp16=(0.86, 20)),
            _judged(fp16=True),
            "fp32",
            ["fp16"],
            "fp16 passed and takes 0.86 times fp32's time; a gain of less than 10 % goes to fp32",
        ),
        (
            _measured(fp32=(1, 20), int8_static=(0.1, 5)),
            _judged(int8_static=False),
            "fp32",
            [],
            "int8-static was rejected: unlike fp32",
        ),
        (
            _measured(fp32=(1, 20), fp16=(0.7, 15), int8_static=(0.5, 10)),
            _judged(fp16=True, int8_static=True),
            "int8-static",
            ["fp16", "int8-static"],
            "fp16 passed and takes 0.70 times",
        ),
        (
            _measured(fp32=(1, 20_000), int8_static=(0.95, 5_000)),
            _judged(int8_static=True),
            "int8-static",
            ["int8-static"],
            "fp32 misses the latency objective of 10 ms",
        ),
        (
            _measured(fp32=(1, 20), fp16=(0.5, 20_000)),
            _judged(fp16=True),
            "fp32",
            ["fp16"],
            "fp16 misses the latency objective of 10 ms",
        ),
        (
            _measured(fp32=(1, 20_000), fp16=(0.5, 20_000)),
            _judged(fp16=True),
            "fp32",
            ["fp16"],
            "no variant keeps its p99 within 10 ms",
        ),
        (_measured(fp32=(1, 20)), _judged(fp16=True), "fp32", [], "fp16 was rejected: it was not benchmarked"),
        (_measured(fp32=(1, 20)), _judged(fp16=False), "fp32", [], "fp16 was rejected: unlike fp32"),
    ],
)
def test_the_fastest_variant_that_passed_its_gate_ships_and_ties_go_to_fp32(
    measured: dict[str, Any], judged: dict[str, Any], variant: str, accepted: list[str], said: str
) -> None:
    selection = choose(measured, judged, 64, slo_ms=10)
    assert selection.variant == variant
    assert selection.accepted == ["fp32", *accepted]
    assert said in selection.reason


def test_a_variant_whose_gain_is_not_sure_does_not_replace_fp32() -> None:
    measured = _measured(fp32=(1, 20), fp16=(0.5, 20))
    measured["fp16"]["cost_interval"] = [0.1, 0.95]
    assert choose(measured, _judged(fp16=True), 64, slo_ms=10).variant == "fp32"
