"""The benchmark's tables: every way to run the policy in one, what each variant holds in the other."""

from __future__ import annotations

from typing import Any

from tasks.build.variants.table import footprints, latencies, not_measured, text


def _row(p50: float) -> dict[str, float]:
    return {"p50_us": p50, "p90_us": 2 * p50, "p99_us": 20 * p50, "cpu_ms_per_1000": p50}


MEASURED: dict[str, dict[str, Any]] = {
    "fp32": {
        "batch": {"1": _row(5.0), "64": _row(90.0)},
        "io_binding": {"1": _row(3.5)},
        "load_ms": 2.0,
        "rss_mb": 60.0,
        "peak_rss_mb": 61.0,
        "size_bytes": 9_000,
        "relative_cost": 1.0,
        "cost_interval": [1.0, 1.0],
        "compared_with": {"sb3_predict": {"batch": {"1": _row(117.0), "1024": _row(500.0)}}},
        "providers": {"CUDAExecutionProvider": {"not_measured": "this ONNX Runtime does not have it"}},
    },
    "fp16": {
        "batch": {"1": _row(6.0), "64": _row(95.0)},
        "relative_cost": 1.1,
        "providers": {
            "CUDAExecutionProvider": {"not_measured": "this ONNX Runtime does not have it"},
            "TensorrtExecutionProvider": {"batch": {"64": _row(8.0)}},
        },
    },
}


def test_every_way_to_run_the_policy_has_a_line_and_every_batch_a_column() -> None:
    table = latencies(MEASURED)
    assert table.header == ["", "1", "64", "1024"]
    assert table.lines == [
        ["SB3 predict", "117 / 234 / 2,340", "", "500 / 1,000 / 10,000"],
        ["ONNX Runtime, fp32", "5.0 / 10.0 / 100", "90.0 / 180 / 1,800", ""],
        ["ONNX Runtime, fp32, io-binding", "3.5 / 7.0 / 70.0", "", ""],
        ["ONNX Runtime, fp16", "6.0 / 12.0 / 120", "95.0 / 190 / 1,900", ""],
        ["TensorrtExecutionProvider, fp16", "", "8.0 / 16.0 / 160", ""],
    ]


def test_a_footprint_holds_memory_size_and_cost_with_its_interval() -> None:
    assert footprints(MEASURED, 64).lines == [
        ["fp32", "2.0", "60", "61", "9.0", "90.00", "1.00 [1.00, 1.00]"],
        ["fp16", "0.0", "0", "0", "0.0", "95.00", "1.10"],
    ]


def test_what_is_absent_here_is_named_once() -> None:
    assert not_measured(MEASURED) == ["CUDAExecutionProvider: not measured, this ONNX Runtime does not have it"]
    shown = text(MEASURED, 64)
    assert shown.count("CUDAExecutionProvider") == 1
    assert "ONNX Runtime, fp32, io-binding" in shown
