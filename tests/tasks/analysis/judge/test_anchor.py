"""The best champion so far, and what may be lost since."""

from __future__ import annotations

import pytest

from tasks.analysis.judge.anchor import Anchor, after, floor

BEST = Anchor("3", 0.0)


@pytest.mark.parametrize(
    ("anchor", "objective", "expected"),
    [
        (None, "non_inferiority", -10.0),
        (BEST, "non_inferiority", -10.0),
        (Anchor("3", -4.0), "non_inferiority", -6.0),
        (Anchor("3", -10.0), "non_inferiority", 0.0),
        (Anchor("3", -25.0), "non_inferiority", 0.0),
        (None, "superiority", 0.0),
        (Anchor("3", -4.0), "superiority", 0.0),
    ],
)
def test_what_was_lost_since_the_anchor_is_taken_off_the_margin(
    anchor: Anchor | None, objective: str, expected: float
) -> None:
    assert floor(objective, 10.0, anchor) == expected  # type: ignore[arg-type]


def test_a_first_release_is_its_own_anchor() -> None:
    assert after(None, version="1", champion=None, lower=None) == Anchor("1", 0.0)


def test_losses_add_up_from_release_to_release() -> None:
    second = after(BEST, version="4", champion="3", lower=-6.0)
    assert second == Anchor("3", -6.0)
    assert after(second, version="5", champion="4", lower=-3.0) == Anchor("3", -9.0)


def test_a_champion_without_a_record_is_the_anchor() -> None:
    assert after(None, version="8", champion="7", lower=-2.0) == Anchor("7", -2.0)


def test_a_gain_that_makes_up_for_the_losses_makes_a_new_anchor() -> None:
    assert after(Anchor("3", -6.0), version="5", champion="4", lower=4.0) == Anchor("3", -2.0)
    assert after(Anchor("3", -6.0), version="5", champion="4", lower=6.0) == Anchor("5", 0.0)


def test_it_survives_being_written_down() -> None:
    assert Anchor.from_json(Anchor("3", -1.5).to_json()) == Anchor("3", -1.5)
