"""Selection: the choice follows the gate and the measurements, and says why."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.build.variants.selection import COMPARED_BATCH, choose, fastest_batch


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


def _curve(**rows: tuple[float, float]) -> dict[str, dict[str, float]]:
    """Batch size (after an underscore) -> p99 in ms and rows a second."""
    return {
        size.lstrip("_"): {"p50_us": p99 * 500, "p99_us": p99 * 1000, "rows_per_second": rate}
        for size, (p99, rate) in rows.items()
    }


@pytest.mark.parametrize(
    ("curve", "limit_ms", "rows", "said"),
    [
        (_curve(_1=(0.1, 1e4), _64=(0.5, 1e5), _256=(2, 2e5)), 10, 256, "200,000 rows/s measured"),
        (_curve(_1=(0.1, 1e4), _64=(0.5, 1e5), _256=(6, 2e5)), 10, 64, "of at most 100,000 where two calls"),
        (_curve(_1=(0.1, 1e4), _8=(0.2, 9.5e4), _256=(2, 1e5)), 10, 8, "95,000 rows/s measured, of at most 100,000"),
        (_curve(_1=(0.1, 1e4), _8=(0.2, 8e3)), 10, 1, "p99 of a call 0.1 ms"),
        (_curve(_8=(60, 100), _1=(40, 20)), 50, 1, "two calls of no batch size end within 50 ms"),
        ({}, 10, COMPARED_BATCH, "no batch size was measured"),
    ],
)
def test_the_batch_size_is_that_of_most_rows_a_second_within_the_limit_and_ties_go_to_the_smaller(
    curve: dict[str, Any], limit_ms: float, rows: int, said: str
) -> None:
    found = fastest_batch(curve, limit_ms)
    assert found.rows == rows
    assert said in found.reason


def test_a_batch_size_is_chosen_for_the_variant_that_ships_unless_the_spec_gives_one() -> None:
    measured = _measured(fp32=(1, 20), fp16=(0.5, 20))
    for name, best in (("fp32", 256), ("fp16", 64)):
        rates = {8: 1e4, COMPARED_BATCH: 1e4, 64: 1e5, 256: 1e6 if best == 256 else 1e4}
        measured[name]["batch"] = {
            str(size): {"p50_us": 9.0, "p99_us": 20.0, "rows_per_second": rate} for size, rate in rates.items()
        }
    judged = _judged(fp16=True)
    chosen = choose(measured, judged, None, slo_ms=10, deadline_ms=50)
    assert (chosen.variant, chosen.batch_size) == ("fp16", 64)
    assert "Batches of 64 rows: 100,000 rows/s measured" in chosen.reason
    assert chosen.reason.endswith(f"{chosen.batch_reason}.")
    given = choose(measured, judged, 8, slo_ms=10, deadline_ms=50)
    assert (given.batch_size, given.batch_reason) == (8, "the spec says so")
    tight = choose(measured, judged, None, slo_ms=10, deadline_ms=0.03)
    assert tight.batch_size == 8, "the deadline counts where it is shorter than the objective"
