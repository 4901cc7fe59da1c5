"""Which episodes of the log are learned from: a rule each, by rows as the gateway writes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from bentos.store import tables
from tasks.learning.log import SUSPECT, Found, collect, versions, waiting
from tests.tasks.learning.logged import WANTED, Rows


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return tables.create(f"sqlite:///{tmp_path}/airlock.db")


def read(engine: sa.Engine, foreign: frozenset[str] = frozenset(), **changed: Any) -> Found:
    from dataclasses import replace

    with engine.connect() as connection:
        return collect(connection, replace(WANTED, **changed), foreign)


def drop_reward(rows: Rows) -> None:
    del rows.rewards[1]
    rows.outcomes = []


def drop_decision(rows: Rows) -> None:
    del rows.decisions[1]


def double_decision(rows: Rows) -> None:
    rows.decisions.append(dict(rows.decisions[1]))


def unfinished(rows: Rows) -> None:
    rows.rewards[2]["truncated"] = False
    rows.outcomes = []


def abandoned(rows: Rows) -> None:
    rows.outcomes[0]["kind"] = "abandoned"


def too_large(rows: Rows) -> None:
    rows.decisions[1]["observation"] = None


def other_observation(rows: Rows) -> None:
    rows.decisions[1]["observation"] = np.float32([1, 2, 3]).tobytes()


def other_action(rows: Rows) -> None:
    rows.decisions[1]["action"] = 1


def action_outside(rows: Rows) -> None:
    rows.decisions[1]["action"] = [2.5]


def nan_observation(rows: Rows) -> None:
    rows.decisions[1]["observation"] = np.float32([math.nan, 0]).tobytes()


def other_return(rows: Rows) -> None:
    rows.outcomes[0]["episode_return"] = 30.0


def other_length(rows: Rows) -> None:
    rows.outcomes[0]["length"] = 4


def return_outside(rows: Rows) -> None:
    rows.rewards[0]["reward"] = -9.0
    rows.outcomes[0]["episode_return"] = -7.0


def reward_outside(rows: Rows) -> None:
    rows.rewards[0]["reward"] = 11.0
    rows.outcomes[0]["episode_return"] = 13.0


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (drop_reward, "gap"),
        (drop_decision, "gap"),
        (double_decision, "gap"),
        (unfinished, "unfinished"),
        (abandoned, "abandoned"),
        (too_large, "no_observation"),
        (other_observation, "other_space"),
        (other_action, "other_space"),
        (action_outside, "other_space"),
        (nan_observation, "not_finite"),
        (other_return, "mismatch"),
        (other_length, "mismatch"),
        (return_outside, "out_of_range"),
        (reward_outside, "out_of_range"),
    ],
)
def test_each_rule_leaves_its_episode_out_whole_and_counts_it(
    spoil: Callable[[Rows], None], rule: str, engine: sa.Engine
) -> None:
    Rows("good").insert(engine)
    rows = Rows("bad")
    spoil(rows)
    rows.insert(engine)
    found = read(engine, return_range=(-5.0, 100.0))
    assert found.left_out == {rule: 1}
    assert found.transitions is not None
    assert found.transitions.key == ("good",)
    assert found.suspect == (0.5 if rule in SUSPECT else 0.0)


def test_transitions_are_what_was_seen_done_and_earned(engine: sa.Engine) -> None:
    Rows("one").insert(engine)
    found = read(engine)
    data = found.transitions
    assert data is not None
    assert data.observation.tolist() == [[0, 0.5], [1, 0.5], [2, 0.5]]
    assert data.next_observation.tolist() == [[1, 0.5], [2, 0.5], [3, 0.5]]
    assert data.action.tolist() == [[0.25]] * 3
    assert data.log_prob.tolist() == [-0.5] * 3
    assert data.returns.tolist() == [3.0]
    assert data.truncated.tolist() == [False, False, True]
    assert data.continued.all()
    assert (found.first_at, found.last_at) == (1000.0, 1002.0)
    assert found.sources == {"policy": 3}


def test_a_next_observation_that_was_not_told_is_that_of_the_next_decision_and_unknown_at_the_end(
    engine: sa.Engine,
) -> None:
    rows = Rows("one")
    for row in rows.rewards:
        row["next_observation"] = None
    rows.insert(engine)
    data = read(engine).transitions
    assert data is not None
    assert data.next_observation[:2].tolist() == [[1, 0.5], [2, 0.5]]
    assert data.continued.tolist() == [True, True, False]


def test_an_executed_action_counts_whoever_chose_it_but_only_a_draw_has_a_probability(engine: sa.Engine) -> None:
    rows = Rows("one")
    rows.decisions[0] |= {"source": "override", "log_prob": None, "action": [1.5]}
    rows.decisions[1] |= {"adjusted": ["rate_limit"], "action": [0.75]}
    rows.decisions[2] |= {"action": [2.0]}  # on the bound: what was drawn may have lain beyond
    rows.insert(engine)
    found = read(engine)
    assert found.transitions is not None
    assert found.transitions.action.tolist() == [[1.5], [0.75], [2.0]]
    assert np.isnan(found.transitions.log_prob).all()
    assert found.sources == {"override": 1, "policy": 2}
    assert found.adjusted == 1


def test_steps_past_the_end_are_not_of_the_episode(engine: sa.Engine) -> None:
    rows = Rows("one")
    rows.rewards[1]["terminated"] = True
    rows.outcomes[0] |= {"episode_return": 2.0, "length": 2}
    rows.decisions.pop()
    rows.insert(engine)
    data = read(engine).transitions
    assert data is not None
    assert len(data) == 2
    assert data.terminated.tolist() == [False, True]


def test_episodes_of_versions_with_other_spaces_are_left_out(engine: sa.Engine) -> None:
    Rows("one").insert(engine)
    rows = Rows("two")
    for row in rows.decisions:
        row["version"] = "2"
    rows.insert(engine)
    with engine.connect() as connection:
        assert versions(connection, "p") == ["1", "2"]
    assert read(engine, frozenset({"2"})).left_out == {"other_space": 1}


def test_the_newest_whole_episodes_fill_the_buffer_oldest_first(engine: sa.Engine) -> None:
    for name in "abcde":
        Rows(name).insert(engine)
    found = read(engine, buffer_size=8)
    assert found.transitions is not None
    assert found.transitions.key == ("d", "e")
    assert found.through == 15
    with engine.connect() as connection:
        assert waiting(connection, "p", 9) == 6
        assert waiting(connection, "q", 0) == 0


def test_an_empty_log_is_no_episode(engine: sa.Engine) -> None:
    found = read(engine)
    assert (found.transitions, found.left_out, found.suspect) == (None, {}, 0.0)
