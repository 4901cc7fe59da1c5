"""The picture of a canary: its sequence is the judge's, its ramp the plan's, and it is drawn for every ending."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.analysis.judge.anchor import Anchor
from tasks.analysis.judge.plan import CanaryPlan
from tasks.analysis.judge.units import Units
from tasks.analysis.judge.verdict import Evidence, decide, judge
from tasks.reporting.canary_plot import course, picture, ramp
from tests.tasks.analysis import plans

PLAN = replace(plans.PLAN, version="2", champion="1", generation="g", max_units_per_arm=300)


def units(count: int, difference: float = 0.0, seed: int = 0, alone: bool = False) -> Units:
    generator = np.random.default_rng(seed)
    arm = np.ones(count, dtype=bool) if alone else generator.random(count) < 0.5
    returns = np.where(generator.random(count) < 0.7, 500.0, generator.uniform(100, 500, count))
    moved = np.clip(returns + np.where(arm, difference, 0.0), 0, 500)
    finished = {"control": int((~arm).sum()), "challenger": int(arm.sum())}
    return Units(arm, arm, moved, np.zeros(count, dtype=bool), finished, 0)


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, bounds=None)], ids=["bounded", "unbounded"])
def test_the_sequence_is_what_the_judge_said_at_each_look_up_to_its_verdict(plan: CanaryPlan) -> None:
    found = units(400, -120.0)
    last = decide(found, plan)
    assert last.verdict == "roll_back"
    drawn = course(found, plan, looks=20)
    assert drawn.ended == drawn.units[-1] == last.units
    assert (drawn.lower[-1], drawn.upper[-1]) == (last.bounds.lower, last.bounds.upper)
    middle = int(drawn.units[10])
    known = decide(found.first(middle), plan).bounds
    expected = [np.nan if value is None else value for value in (known.estimate, known.lower, known.upper)]
    np.testing.assert_array_equal([drawn.estimate[10], drawn.lower[10], drawn.upper[10]], expected)


def test_a_canary_over_its_budget_is_drawn_up_to_it() -> None:
    found = units(900)
    drawn = course(found, replace(PLAN, margin=1.0), looks=5)
    assert max(found.count(drawn.ended).values()) == PLAN.max_units_per_arm


def test_the_ramp_is_when_both_arms_had_their_units() -> None:
    found = units(100)
    (_, first), (second, weight), (third, last) = ramp(found, PLAN)
    assert (first, weight, last) == (0.05, 0.25, 0.5)
    for place, needed in ((second, 10), (third, 20)):
        assert min(found.count(place).values()) == needed
        assert min(found.count(place - 1).values()) == needed - 1
    assert ramp(found.first(30), PLAN) == [(0, 0.05), (second, 0.25)]
    assert ramp(units(30, alone=True), replace(PLAN, champion=None)) == [(0, 0.05), (10, 0.25), (20, 0.5)]


def words(path: Path) -> str:
    root = ElementTree.fromstring(path.read_text())
    return " ".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))


def test_an_svg_says_in_words_what_was_decided(tmp_path: Path) -> None:
    found = units(400, -120.0)
    judgement = judge(Evidence(found), PLAN)
    said = words(picture(tmp_path / "a.svg", found, PLAN, judgement.verdict, judgement.reason))
    assert "cartpole version 2, against version 1" in said
    assert "roll back" in said
    assert "upper bound" in said
    assert "−25: promote" in said
    assert f"challenger {found.returns[found.challenger][: judgement.units['challenger']].mean():.4g}" in said
    assert f"({judgement.units['control']})" in said


def test_the_threshold_is_what_is_left_of_the_margin_since_the_anchor(tmp_path: Path) -> None:
    anchored = replace(PLAN, anchor=Anchor("1", -15.0))
    assert "−10: promote" in words(picture(tmp_path / "a.svg", units(50), anchored, "continue"))


@pytest.mark.parametrize(
    ("found", "plan", "verdict"),
    [
        (units(700), replace(PLAN, margin=60.0), "promote"),
        (units(900), replace(PLAN, margin=1.0), "inconclusive"),
        (units(50), PLAN, "continue"),
        (units(60), replace(PLAN, objective="superiority"), "continue"),
        (units(90, 20.0, alone=True), replace(PLAN, champion=None), "promote"),
        (units(90, 20.0, alone=True), replace(PLAN, champion=None, bounds=None), "promote"),
        (units(1), PLAN, "roll_back"),
        (units(0), PLAN, "roll_back"),
        (units(0, alone=True), replace(PLAN, champion=None), "continue"),
        (replace(units(80), returns=np.full(80, 500.0)), PLAN, "continue"),
    ],
    ids=[
        "promoted",
        "over its budget",
        "running",
        "for a gain",
        "first release",
        "first release, unbounded",
        "one unit",
        "no unit",
        "no unit of a first release",
        "all returns equal",
    ],
)
def test_every_ending_is_drawn(tmp_path: Path, found: Units, plan: CanaryPlan, verdict: str) -> None:
    long = "guardrail non_finite: 5 non-finite outputs of the challenger; " * 6
    png = picture(tmp_path / "a.png", found, plan, verdict, long).read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000
    said = words(picture(tmp_path / "a.svg", found, plan, verdict, long))
    assert ("running" if verdict == "continue" else verdict.replace("_", " ")) in said


def test_the_moments_of_the_ramp_may_be_given(tmp_path: Path) -> None:
    assert re.search(r"12\.5 %", words(picture(tmp_path / "a.svg", units(50), PLAN, "continue", steps=[(7, 0.125)])))


def test_the_same_canary_gives_the_same_bytes(tmp_path: Path) -> None:
    for suffix in (".png", ".svg"):
        first, second = (
            picture(tmp_path / f"{name}{suffix}", units(40), PLAN, "continue").read_bytes() for name in "ab"
        )
        assert first == second


def test_a_picture_is_light(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.svg", units(4000), replace(PLAN, max_units_per_arm=2000, margin=5.0), "inconclusive")
    assert path.stat().st_size < 100_000


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.png or \.svg, came a\.pdf"):
        picture(tmp_path / "a.pdf", units(10), PLAN, "continue")
