"""The pictures of a model card. Each function draws one PNG; none needs a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, BLUE, ORANGE, GREEN, RED = "#1f2933", "#cbd2d9", "#2f6fb4", "#d9822b", "#2f855a", "#c53030"
COLOURS = (BLUE, ORANGE, GREEN, "#6b46c1", RED)


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.7), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.135, 0.155, 0.84, 0.745))
    axes.set_title(title, loc="left", fontsize=8, color=INK)
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(y, fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path, legend: bool = True) -> Path:
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path)
    return path


def learning_curve(path: Path, curve: Sequence[Sequence[float]], minimum: float) -> Path:
    """Mean episode return during training: `curve` holds [timesteps, mean return] pairs."""
    figure, axes = _figure("Learning curve", "environment steps", "mean return")
    if curve:
        steps, returns = np.asarray(curve, dtype=float).T
        axes.plot(steps, returns, color=BLUE, linewidth=1.8, label="training")
    axes.axhline(minimum, color=RED, linewidth=1, linestyle="--", label=f"required {minimum:g}")
    return _save(figure, axes, path)


def return_distribution(path: Path, evaluation: Mapping[str, Any]) -> Path:
    """Returns of the evaluation episodes with their mean, its confidence interval and the required minimum."""
    returns = np.asarray(evaluation["returns"], dtype=float)
    figure, axes = _figure(f"Returns of {len(returns)} seeded episodes", "return", "episodes")
    axes.hist(returns, bins=min(20, max(5, len(returns) // 3)), color=BLUE, alpha=0.55)
    level = f"{100 * evaluation['confidence']:.0f} %"
    axes.axvspan(
        evaluation["lower"], evaluation["upper"], color=GREEN, alpha=0.2, label=f"{level} interval of the mean"
    )
    axes.axvline(evaluation["mean"], color=GREEN, linewidth=1.8, label=f"mean {evaluation['mean']:.1f}")
    axes.axvline(
        evaluation["minimum"], color=RED, linewidth=1, linestyle="--", label=f"required {evaluation['minimum']:g}"
    )
    return _save(figure, axes, path)


def latency(path: Path, benchmark: Mapping[str, Mapping[str, Any]], shipped: str) -> Path:
    """p99 (line) and p50 (dots) of one model call by batch size, a colour a variant; both axes logarithmic.

    The dashed line is the p50 of SB3's `predict`, where the export measured it.
    """
    figure, axes = _figure("Latency of one model call", "rows in the batch", "microseconds")
    predict = (benchmark.get("fp32", {}).get("compared_with") or {}).get("sb3_predict", {}).get("batch", {})
    if predict:
        sizes = sorted(map(int, predict))
        medians = [predict[str(size)]["p50_us"] for size in sizes]
        axes.plot(sizes, medians, color=INK, linewidth=1, linestyle="--", label="SB3 predict p50")
    for index, (variant, row) in enumerate(benchmark.items()):
        colour = COLOURS[index % len(COLOURS)]
        batches = sorted(row["batch"], key=int)
        sizes = [int(batch) for batch in batches]
        name = f"{variant} (shipped)" if variant == shipped else variant
        width = 2.4 if variant == shipped else 1.2
        axes.plot(
            sizes, [row["batch"][b]["p99_us"] for b in batches], color=colour, linewidth=width, label=f"{name} p99"
        )
        axes.plot(sizes, [row["batch"][b]["p50_us"] for b in batches], "o", color=colour, markersize=3)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    return _save(figure, axes, path)


def action_distribution(path: Path, actions: Mapping[str, Any]) -> Path:
    """Actions of the evaluation episodes: a bar an action, or a histogram a dimension for continuous ones."""
    figure, axes = _figure("Actions, on policy", "action", "share of decisions")
    if actions["kind"] == "discrete":
        counts = np.asarray(actions["counts"], dtype=float)
        shares = counts / max(counts.sum(), 1.0)
        axes.bar(np.arange(len(shares)), shares, color=BLUE, width=0.7)
        axes.set_xticks(np.arange(len(shares)))
    else:
        for index, (edges, counts) in enumerate(zip(actions["edges"], actions["counts"], strict=True)):
            values = np.asarray(counts, dtype=float)
            bounds = _closed(np.asarray([np.nan if edge is None else edge for edge in edges], dtype=float), len(values))
            axes.stairs(values / max(values.sum(), 1.0), bounds, color=COLOURS[index % 5], label=f"dimension {index}")
    return _save(figure, axes, path)


def _closed(edges: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.float64]:
    """Edges of `bins` bins: inner edges, or edges with infinite ends, are closed by one more bin width."""
    inner = edges[np.isfinite(edges)]
    if len(inner) == bins + 1:
        return inner
    width = float(np.diff(inner).mean()) if len(inner) > 1 else 1.0
    return np.concatenate([[inner[0] - width], inner, [inner[-1] + width]])[: bins + 1]
