"""Arms: challenger in [0, w), control in [1 − w, 1), and nobody switches as w grows."""

from __future__ import annotations

import hashlib
import json

import pytest

from bentos.canary import Canary, parse

UNITS = [f"user-{number}" for number in range(4000)]


def canary(weight: float, champion: str | None = "1") -> Canary:
    return Canary("g", champion, "2", weight, "00ff00ff")


def test_arms_are_the_stated_function_of_salt_and_unit() -> None:
    for unit in UNITS[:200]:
        digest = hashlib.blake2b(unit.encode(), key=bytes.fromhex("00ff00ff"), digest_size=8).digest()
        position = int.from_bytes(digest, "big") / 2**64
        expected = "challenger" if position < 0.3 else "control" if position >= 0.7 else "champion"
        assert canary(0.3).arm(unit) == expected


def test_nobody_switches_arms_as_the_weight_grows() -> None:
    for unit in UNITS:
        arms = [canary(weight).arm(unit) for weight in (0.05, 0.1, 0.25, 0.5)]
        joined = [arm for arm in arms if arm != "champion"]
        assert len(set(joined)) <= 1
        assert arms == ["champion"] * (len(arms) - len(joined)) + joined


def test_both_arms_get_their_weight_and_half_leaves_nobody_outside() -> None:
    arms = [canary(0.25).arm(unit) for unit in UNITS]
    assert 0.22 < arms.count("control") / len(UNITS) < 0.28
    assert 0.22 < arms.count("challenger") / len(UNITS) < 0.28
    assert "champion" not in [canary(0.5).arm(unit) for unit in UNITS]


def test_weight_zero_is_champion_only() -> None:
    assert {canary(0.0).arm(unit) for unit in UNITS} == {"champion"}


def test_a_first_release_has_no_control_arm() -> None:
    assert {canary(0.25, champion=None).arm(unit) for unit in UNITS} == {"champion", "challenger"}


@pytest.mark.parametrize(
    "change", [{"weight": 0.6}, {"weight": -0.1}, {"salt": "xyz"}, {"salt": ""}, {"version": 4}, {"weight": "much"}]
)
def test_a_tag_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    document = {"generation": "g", "champion": "1", "version": "2", "weight": 0.1, "salt": "00", **change}
    with pytest.raises(ValueError, match=r"."):
        parse(json.dumps(document))
