"""The card's pictures: each is drawn, for every shape of evidence, without a display."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.reporting import plots

EVALUATION = {
    "returns": [400.0, 480.0, 500.0],
    "mean": 460.0,
    "lower": 420.0,
    "upper": 490.0,
    "confidence": 0.95,
    "minimum": 400.0,
}
BATCH = {"1": {"p50_us": 5.0, "p99_us": 9.0}, "64": {"p50_us": 12.0, "p99_us": 30.0}}


def _is_png(path: Path) -> bool:
    data = path.read_bytes()
    return data.startswith(b"\x89PNG") and len(data) > 2_000


@pytest.mark.parametrize("curve", [[[1_000, 20.0], [2_000, 90.0]], []])
def test_learning_curve(tmp_path: Path, curve: list[list[float]]) -> None:
    assert _is_png(plots.learning_curve(tmp_path / "a.png", curve, 400))


def test_return_distribution(tmp_path: Path) -> None:
    assert _is_png(plots.return_distribution(tmp_path / "a.png", EVALUATION))


def test_latency_with_more_variants_than_colours(tmp_path: Path) -> None:
    variants = {f"variant-{k}": {"batch": BATCH} for k in range(7)}
    assert _is_png(plots.latency(tmp_path / "a.png", variants, "variant-1"))


def test_latency_beside_what_one_would_serve_instead(tmp_path: Path) -> None:
    alone = plots.latency(tmp_path / "a.png", {"fp32": {"batch": BATCH}}, "fp32").read_bytes()
    compared = {"fp32": {"batch": BATCH, "compared_with": {"sb3_predict": {"batch": BATCH}}}}
    assert plots.latency(tmp_path / "b.png", compared, "fp32").read_bytes() != alone


@pytest.mark.parametrize(
    "actions",
    [
        {"kind": "discrete", "counts": [10, 30]},
        {"kind": "continuous", "edges": [[-1, 0, 1]], "counts": [[5, 9]]},
        {"kind": "continuous", "edges": [[0, 1, 2]] * 7, "counts": [[5, 9]] * 7},
    ],
)
def test_action_distribution(tmp_path: Path, actions: dict[str, object]) -> None:
    assert _is_png(plots.action_distribution(tmp_path / "a.png", actions))
