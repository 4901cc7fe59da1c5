"""The picture of a canary: both arms' running means, the confidence sequence, thresholds, ramp and verdict."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.analysis.judge import anchor
from tasks.analysis.judge.plan import CanaryPlan
from tasks.analysis.judge.units import Units, within_budget
from tasks.analysis.judge.verdict import decide
from tasks.analysis.sequential.wealth import Floats
from tasks.reporting.plots import BLUE, FAINT, GREEN, INK, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = 80
"""Looks at which the confidence sequence is drawn."""

_POINTS = 300
_APART = 0.17

_COLOURS = {"promote": GREEN, "roll_back": RED}
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "airlock", "font.family": "DejaVu Sans", "font.size": 8}


@dataclass(frozen=True)
class Course:
    """The confidence sequence at some looks, all [looks]: units analysed by then, estimate and bounds (NaN: none yet).

    In return units: of the difference, or on a first release of the challenger's mean. `ended` is the number of units
    at the primary test's verdict, or all that the budget allows.
    """

    units: Floats
    estimate: Floats
    lower: Floats
    upper: Floats
    ended: int


def course(units: Units, plan: CanaryPlan, looks: int = LOOKS) -> Course:
    """What the judge's primary test said at evenly spaced looks, up to its verdict."""
    used = units.first(within_budget(units.challenger, plan.max_units_per_arm))
    last = decide(used, plan)
    wanted = np.unique(np.linspace(1, max(last.units, 1), looks).round().astype(np.int64))
    found = [decide(used.first(int(count)), plan).bounds for count in wanted[:-1]] + [last.bounds]
    columns = [
        np.array([np.nan if value is None else value for value in column], dtype=np.float64)
        for column in zip(*((bounds.estimate, bounds.lower, bounds.upper) for bounds in found), strict=True)
    ]
    estimate, lower, upper = columns
    return Course(wanted.astype(np.float64), estimate, lower, upper, last.units)


def ramp(units: Units, plan: CanaryPlan) -> list[tuple[int, float]]:
    """When each step of the plan could begin, as units analysed before it, and its weight."""
    arms = [units.challenger] if plan.champion is None else [units.challenger, ~units.challenger]
    least = np.minimum.reduce([np.cumsum(arm) for arm in arms])
    begun = [(int(np.searchsorted(least, plan.units_per_step * step)) + 1, step) for step in range(1, len(plan.steps))]
    return [(0, plan.steps[0])] + [(unit, plan.steps[step]) for unit, step in begun if unit <= len(least)]


def picture(
    path: Path,
    units: Units,
    plan: CanaryPlan,
    verdict: str,
    reason: str = "",
    steps: Sequence[tuple[int, float]] | None = None,
) -> Path:
    """Draw a canary, running or ended, to `path`: a PNG or an SVG, by its suffix; returns the path.

    `verdict` and `reason` are the judge's words (a guardrail's, too). `steps` says when each step of the ramp began,
    as (units analysed before it, weight); without it, when the plan let it. The same canary gives the same bytes.
    Raises ValueError for another suffix.
    """
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"a canary is drawn as .png or .svg, came {path.name}")
    _draw(path, path.suffix.removeprefix("."), units, plan, verdict, reason, steps)
    return path


def svg(
    units: Units, plan: CanaryPlan, verdict: str, reason: str = "", steps: Sequence[tuple[int, float]] | None = None
) -> bytes:
    """The same picture as an SVG document. One thread at a time: matplotlib's settings are the process's."""
    target = io.BytesIO()
    _draw(target, "svg", units, plan, verdict, reason, steps)
    return target.getvalue()


def _draw(
    target: Path | io.BytesIO,
    kind: str,
    units: Units,
    plan: CanaryPlan,
    verdict: str,
    reason: str,
    steps: Sequence[tuple[int, float]] | None,
) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.8), dpi=110)
        FigureCanvasAgg(figure)
        grid = {"left": 0.09, "right": 0.86, "top": 0.84, "bottom": 0.09, "hspace": 0.12}
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1, 1.25], **grid})
        _head(figure, plan, verdict, reason)
        drawn, analysed = course(units, plan), len(units.challenger)
        _means(above, units, plan, drawn.ended)
        _sequence(below, drawn, plan)
        begun = ramp(units, plan) if steps is None else steps
        below.set_xlim(0, max(analysed, 5))
        below.xaxis.get_major_locator().set_params(integer=True)
        below.set_xlabel("units analysed, in order of their start", color=INK)
        _moments((above, below), begun, verdict, drawn.ended)
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(target, format=kind, metadata=metadata)


def _head(figure: Figure, plan: CanaryPlan, verdict: str, reason: str) -> None:
    against = "a first release" if plan.champion is None else f"against version {plan.champion}"
    said = "running" if verdict == "continue" else verdict.replace("_", " ")
    figure.text(0.09, 0.955, f"{plan.policy} version {plan.version}, {against}", color=INK, fontsize=10)
    figure.text(0.86, 0.955, said, color=_COLOURS.get(verdict, INK), fontsize=10, fontweight="bold", ha="right")
    lines = textwrap.wrap(reason, 118)
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1][:114]} ..."]
    figure.text(0.09, 0.94, "\n".join(lines), color=INK, fontsize=7, va="top")


def _means(axes: Axes, units: Units, plan: CanaryPlan, ended: int) -> None:
    ends: list[tuple[float, str, str]] = []
    arms = [("challenger", ORANGE, units.challenger)]
    if plan.champion is not None:
        arms.append(("control", BLUE, ~units.challenger))
    for name, colour, arm in arms:
        places = np.flatnonzero(arm) + 1.0
        if not len(places):
            continue
        means = np.cumsum(units.returns[arm]) / np.arange(1, len(places) + 1)
        kept = np.unique(np.linspace(0, len(places) - 1, _POINTS).astype(np.int64))
        until = int((places[kept] <= ended).sum())
        axes.plot(places[kept][:until], means[kept][:until], color=colour, lw=1.6)
        axes.plot(places[kept][max(until - 1, 0) :], means[kept][max(until - 1, 0) :], color=colour, lw=1.6, alpha=0.3)
        count = int((places <= ended).sum())
        if count:
            ends.append((float(means[count - 1]), f"{name}\n{means[count - 1]:.4g} ({count})", colour))
    if not len(units.returns):
        axes.text(0.5, 0.5, "no unit has ended yet", transform=axes.transAxes, color=INK, ha="center", va="center")
        axes.set_yticks([])
    _frame(axes, "running mean return")
    _at_the_end(axes, ends)


def _sequence(axes: Axes, drawn: Course, plan: CanaryPlan) -> None:
    first = plan.champion is None
    ceiling = plan.threshold if first else 0.0
    floor = ceiling if first else anchor.floor(plan.objective, plan.margin, plan.anchor)
    known = np.isfinite(drawn.lower) & np.isfinite(drawn.upper)
    axes.fill_between(drawn.units[known], drawn.lower[known], drawn.upper[known], color=INK, alpha=0.12, linewidth=0)
    axes.plot(drawn.units, drawn.estimate, color=INK, lw=1.4)
    if floor == ceiling:
        marks = [(ceiling, f"minimum {ceiling:g}" if first else "0", RED)]
    else:
        marks = [
            (ceiling, "0: roll back\nif all below", RED),
            (floor, f"−{-floor:.3g}: promote\nif all above", GREEN),
        ]
    for height, _, colour in marks:
        axes.axhline(height, color=colour, lw=1, linestyle="--")
    axes.set_ylim(*_limits(drawn, [height for height, _, _ in marks]))
    what = "mean return" if first else "challenger − control"
    _frame(axes, f"{what}, {100 * (1 - plan.alpha):g} % a side")
    _at_the_end(axes, marks)


def _limits(drawn: Course, marks: Sequence[float]) -> tuple[float, float]:
    """Heights that show the thresholds and the later two thirds of the sequence: the first bounds are of no use."""
    late = slice(len(drawn.units) // 3, None)
    shown = np.concatenate([drawn.lower[late], drawn.upper[late], drawn.estimate[late], marks])
    shown = shown[np.isfinite(shown)]
    low, high = float(shown.min()), float(shown.max())
    room = 0.08 * (high - low) or max(abs(low), 1.0)
    return low - room, high + room


def _moments(both: tuple[Axes, Axes], begun: Sequence[tuple[int, float]], verdict: str, ended: int) -> None:
    for axes in both:
        for unit, _ in begun:
            axes.axvline(unit, color=FAINT, lw=0.9, zorder=0)
        if verdict != "continue":
            axes.axvline(ended, color=_COLOURS.get(verdict, INK), lw=1.6, zorder=3, clip_on=False)
    above = both[0]
    crowd, labels = 0.07 * above.get_xlim()[1], list[tuple[int, str]]()
    for unit, weight in begun:
        if labels and unit - labels[-1][0] < crowd:
            labels[-1] = labels[-1][0], f"{labels[-1][1]}, {100 * weight:g}"
        else:
            labels.append((unit, f"{100 * weight:g}"))
    for unit, text in labels:
        above.annotate(
            f"{text} %",
            (unit, 1.0),
            xycoords=above.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            color=INK,
            fontsize=6.5,
        )


def _frame(axes: Axes, label: str) -> None:
    axes.set_ylabel(label, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _at_the_end(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """At most two labels right of the axes at their heights, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    ordered = sorted(labels)
    heights = [(value - low) / (high - low) for value, _, _ in ordered]
    if len(heights) == 2 and heights[1] - heights[0] < _APART:
        middle = sum(heights) / 2
        heights = [middle - _APART / 2, middle + _APART / 2]
    for height, (_, text, colour) in zip(heights, ordered, strict=True):
        axes.annotate(
            text, (1.01, height), xycoords="axes fraction", color=colour, fontsize=7, va="center", annotation_clip=False
        )
