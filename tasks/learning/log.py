"""The log, read for learning: which episodes of `decisions`, `rewards` and `outcomes` can be learned from, and why not.

Each rule has a name; what it leaves out is counted under it. An episode is used whole or not at all.

    unfinished       no step ended it (it runs, or its client went away): what came later is not known
    abandoned        its outcome says so; the score is the spec's, not the environment's
    gap              a decision or a reward of a step is missing or doubled (two workers answered, rows were lost)
    no_observation   an observation was too large to be logged
    other_space      the version that answered had other spaces, or an action lies outside of the champion's
    not_finite       an observation or a reward is not a number
    mismatch         its rewards do not add up to its outcome, or its length is another (suspect)
    out_of_range     its return or a reward lies outside the spec's range (suspect)

What answered does not matter to a transition: the action that was executed is logged (an override's, the fallback's, or
what the envelope made of the policy's), and what the environment did is a fact about that action. Its probability is
another thing: `log_prob` is kept only where the policy's own draw was executed unchanged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from bentos.package.manifest import Space
from bentos.rows import POLICY
from bentos.store import tables
from tasks.inputs import Array
from tasks.learning.dataset import Transitions
from tasks.spec.safety import Range

SUSPECT = ("mismatch", "out_of_range")
"""What an honest client never causes."""

_CHUNK = 500
_CLOSE = 1e-6


@dataclass(frozen=True)
class Wanted:
    """What is asked of the log: the champion's spaces, and the spec's ranges and most transitions."""

    policy: str
    observation_dtype: str
    observation_shape: tuple[int, ...]
    action_space: Space
    return_range: Range | None
    reward_range: Range | None
    buffer_size: int


@dataclass(frozen=True)
class Found:
    """What the log holds: usable transitions (None: no episode), episodes left out by rule, and how far it was read.

    `through` is the id of the last decision in it; `first_at`, `last_at` are Unix seconds; `sources` counts the usable
    decisions by what answered, `adjusted` those that the envelope changed.
    """

    transitions: Transitions | None
    left_out: dict[str, int]
    through: int
    first_at: float
    last_at: float
    sources: dict[str, int]
    adjusted: int

    @property
    def suspect(self) -> float:
        """Share of suspect episodes among those that ended."""
        bad = sum(self.left_out.get(rule, 0) for rule in SUSPECT)
        good = self.transitions.episodes if self.transitions else 0
        return bad / (bad + good) if bad else 0.0


def waiting(connection: sa.Connection, policy: str, through: int) -> int:
    """How many decisions were logged after the one with the id `through`."""
    table = tables.decisions.c
    query = sa.select(sa.func.count()).where(table.policy == policy, table.id > through)
    return int(connection.execute(query).scalar_one())


def versions(connection: sa.Connection, policy: str) -> list[str]:
    """The versions that answered a logged decision."""
    table = tables.decisions.c
    query = sa.select(table.version).distinct().where(table.policy == policy, table.version.is_not(None))
    return sorted(str(row.version) for row in connection.execute(query))


def collect(connection: sa.Connection, wanted: Wanted, foreign: frozenset[str] = frozenset()) -> Found:
    """The newest whole episodes of the policy, at most `buffer_size` transitions of usable ones, oldest first.

    Versions in `foreign` have other spaces than the champion.
    """
    table = tables.decisions.c
    newest = connection.execute(
        sa.select(table.id, table.episode)
        .where(table.policy == wanted.policy)
        .order_by(table.id.desc())
        .limit(wanted.buffer_size)
    ).all()
    if not newest:
        return Found(None, {}, 0, 0.0, 0.0, {}, 0)
    keys = list(dict.fromkeys(row.episode for row in newest))  # the newest first
    left_out: Counter[str] = Counter()
    usable: list[_Episode] = []
    rows = 0
    for episode in _episodes(connection, wanted.policy, keys):
        rule = _rule(episode, wanted, foreign)
        if rule:
            left_out[rule] += 1
        elif rows + len(episode.decisions) <= wanted.buffer_size or not usable:
            usable.append(episode)
            rows += len(episode.decisions)
    usable.reverse()
    used = [row for episode in usable for row in episode.decisions]
    return Found(
        _transitions(usable, wanted) if usable else None,
        dict(left_out),
        max(row.id for row in newest),
        min((row.at for row in used), default=0.0),
        max((row.at for row in used), default=0.0),
        dict(Counter(row.source for row in used)),
        sum(bool(row.adjusted) for row in used),
    )


@dataclass
class _Episode:
    key: str
    decisions: list[Any]
    rewards: list[Any]
    outcome: Any


def _episodes(connection: sa.Connection, policy: str, keys: Sequence[str]) -> Iterator[_Episode]:
    """All that is stored of the episodes, in their order."""
    for at in range(0, len(keys), _CHUNK):
        some = keys[at : at + _CHUNK]
        found = {key: _Episode(key, [], [], None) for key in some}
        decisions, rewards, outcomes = tables.decisions, tables.rewards, tables.outcomes
        query = sa.select(decisions).where(decisions.c.policy == policy, decisions.c.episode.in_(some))
        for row in connection.execute(query.order_by(decisions.c.step, decisions.c.id)):
            found[row.episode].decisions.append(row)
        query = sa.select(rewards).where(rewards.c.episode.in_(some)).order_by(rewards.c.step)
        for row in connection.execute(query):
            found[row.episode].rewards.append(row)
        for row in connection.execute(sa.select(outcomes).where(outcomes.c.episode.in_(some))):
            found[row.episode].outcome = row
        yield from found.values()


def _rule(episode: _Episode, wanted: Wanted, foreign: frozenset[str]) -> str | None:
    """The first rule that leaves the episode out, or None. Cuts its rewards at the step that ended it."""
    outcome = episode.outcome
    if outcome is not None and outcome.kind == "abandoned":
        return "abandoned"
    end = next((place for place, row in enumerate(episode.rewards) if row.terminated or row.truncated), None)
    if end is None:
        return "unfinished"
    episode.rewards = episode.rewards[: end + 1]
    steps = list(range(len(episode.rewards)))
    if [row.step for row in episode.rewards] != steps or [row.step for row in episode.decisions] != steps:
        return "gap"
    if any(row.observation is None for row in episode.decisions):
        return "no_observation"
    if not _fits(episode, wanted, foreign):
        return "other_space"
    rewards = [row.reward for row in episode.rewards]
    observed = [row.observation for row in episode.decisions]
    observed += [row.next_observation for row in episode.rewards if row.next_observation is not None]
    if not all(map(math.isfinite, rewards)) or not all(
        np.isfinite(np.frombuffer(data, wanted.observation_dtype)).all() for data in observed
    ):
        return "not_finite"
    total = math.fsum(rewards)
    if outcome is not None and (
        outcome.length != len(rewards)
        or abs(outcome.episode_return - total) > _CLOSE * max(1.0, abs(total), math.fsum(map(abs, rewards)))
    ):
        return "mismatch"
    if not _within(total, wanted.return_range) or not all(_within(one, wanted.reward_range) for one in rewards):
        return "out_of_range"
    return None


def _within(value: float, bounds: Range | None) -> bool:
    return bounds is None or bounds[0] <= value <= bounds[1]


def _fits(episode: _Episode, wanted: Wanted, foreign: frozenset[str]) -> bool:
    size = int(np.prod(wanted.observation_shape, dtype=np.int64)) * np.dtype(wanted.observation_dtype).itemsize
    observed = [row.observation for row in episode.decisions]
    observed += [row.next_observation for row in episode.rewards if row.next_observation is not None]
    return (
        all(len(data) == size for data in observed)
        and not any(row.version in foreign for row in episode.decisions)
        and all(_possible(row.action, wanted.action_space) for row in episode.decisions)
    )


def _possible(action: Any, space: Space) -> bool:
    """Whether an executed action is one of the space."""
    try:
        array = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    if array.shape != space.shape:
        return False
    if space.type == "Box":
        low, high = space.bounds()
        return bool(((array >= low - _CLOSE) & (array <= high + _CLOSE)).all())
    return space.type == "Discrete" and bool(space.start <= array < space.start + (space.n or 0))


def _transitions(episodes: Sequence[_Episode], wanted: Wanted) -> Transitions:
    def observation(data: bytes) -> Array:
        return np.frombuffer(data, wanted.observation_dtype).reshape(wanted.observation_shape)

    observed, following, continued = [], [], []
    for episode in episodes:
        own = [observation(row.observation) for row in episode.decisions]
        observed += own
        for place, row in enumerate(episode.rewards):
            if row.next_observation is not None:
                following.append(observation(row.next_observation))
            else:
                following.append(own[min(place + 1, len(own) - 1)])
            continued.append(row.next_observation is not None or place + 1 < len(own))
    decisions = [row for episode in episodes for row in episode.decisions]
    rewards = [row for episode in episodes for row in episode.rewards]
    lengths = [len(episode.decisions) for episode in episodes]
    actions = np.array([row.action for row in decisions], wanted.action_space.dtype)
    drawn = [
        row.log_prob if row.log_prob is not None and row.source == POLICY and not row.adjusted else math.nan
        for row in decisions
    ]
    return Transitions(
        episode=np.repeat(np.arange(len(episodes)), lengths),
        step=np.array([row.step for row in decisions]),
        observation=np.array(observed),
        action=actions,
        log_prob=np.where(_on_bound(actions, wanted.action_space), math.nan, np.array(drawn)),
        reward=np.array([row.reward for row in rewards]),
        next_observation=np.array(following),
        terminated=np.array([bool(row.terminated) for row in rewards]),
        truncated=np.array([bool(row.truncated) for row in rewards]),
        continued=np.array(continued),
        key=tuple(episode.key for episode in episodes),
        version=tuple(_version(episode) for episode in episodes),
    )


def _on_bound(actions: Array, space: Space) -> Array:
    """Continuous actions that lie on a bound, bool [n]: what was drawn may have lain beyond, and its density says
    nothing of the action that was executed."""
    if space.type != "Box":
        return np.zeros(len(actions), bool)
    low, high = (bound.astype(space.dtype) for bound in space.bounds())
    on = (actions <= low) | (actions >= high)
    return np.asarray(on.reshape(len(actions), -1).any(axis=1))


def _version(episode: _Episode) -> str:
    found = {row.version or "" for row in episode.decisions}
    return found.pop() if len(found) == 1 else ""
