"""What travels through the runners: rows on the way in, a decision on the way out.

Rows of several requests can be joined for one call, and one request's rows taken out of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from bentos.errors import Problem
from bentos.tokens import CHAMPION, Episode, Memory, State

Array = npt.NDArray[Any]

POLICY = "policy"
FALLBACK = "fallback"
OVERRIDE = "override"
MAX_ROWS = 4096
"""Most observations in one request."""


class Rows(msgspec.Struct, gc=False):
    """Observations that were asked for together and, past `assign`, belong to one version and one arm.

    `feeds` maps graph inputs to arrays [size, ...]. `masks` is bool [size, actions]. `version` is the assigned version
    (empty: none, the fallback answers). `rescue` asks the fallback to answer whatever the version would say.
    `apart`: each row is a request of its own. `out_of_range` (bool [size]) says which observations leave the range of
    their space; None: none does.
    """

    feeds: dict[str, Array]
    size: int
    episodes: Sequence[Episode | None] | None = None
    users: Sequence[str] | None = None
    masks: Array | None = None
    states: Sequence[State | None] | None = None
    out_of_range: Array | None = None
    version: str = ""
    arm: str = CHAMPION
    generation: str = ""
    rescue: bool = False
    apart: bool = False

    def take(self, index: Array) -> Rows:
        """The rows at `index` (int array), with the same assignment."""
        chosen: list[int] = index.tolist()
        return Rows(
            feeds={name: array[index] for name, array in self.feeds.items()},
            size=len(chosen),
            episodes=None if self.episodes is None else [self.episodes[i] for i in chosen],
            users=None if self.users is None else [self.users[i] for i in chosen],
            masks=None if self.masks is None else self.masks[index],
            states=None if self.states is None else [self.states[i] for i in chosen],
            out_of_range=None if self.out_of_range is None else self.out_of_range[index],
            version=self.version,
            arm=self.arm,
            generation=self.generation,
            rescue=self.rescue,
            apart=self.apart,
        )

    def part(self, start: int, stop: int) -> Rows:
        """The rows from `start` to `stop`, as the graph takes them: views of the arrays; all of them are these rows."""
        if start == 0 and stop >= self.size:
            return self
        return Rows(
            feeds={name: array[start:stop] for name, array in self.feeds.items()},
            size=min(stop, self.size) - start,
            masks=None if self.masks is None else self.masks[start:stop],
        )


def observed(feeds: dict[str, Array]) -> list[Array]:
    """The observation inputs among the feeds, in the order of the graph's."""
    return [array for name, array in feeds.items() if name.partition(".")[0] == "observation"]


def packed(feeds: dict[str, Array], row: int) -> bytes:
    """The observation of a row as it is stored: the bytes of the graph's observation inputs one after another."""
    return b"".join(array[row].tobytes() for array in observed(feeds))


class Decision(msgspec.Struct, gc=False):
    """One action a row, and how it came about.

    `action` [size, ...] in the action space's dtype; `finite` bool [size]; `scores` [size, actions] are logits or
    q-values where a mask needs them; `recurrent` is the graph's next state, and `memories` the same row by row, as
    `state` tokens carry it (None: nothing to remember); `versions` says who answered (None: a constant); `adjusted`
    lists reason codes a row, None when nothing was changed; `forced` marks rows that an override exempted from
    `constrain`; `faults` counts faulty rows by kind. `log_prob` float64 [size] is there where actions were drawn: that
    of the action as it was drawn, whatever the envelope made of it later; NaN where nobody drew it.
    """

    action: Array
    finite: Array
    sources: list[str]
    versions: list[str | None]
    scores: Array | None = None
    recurrent: dict[str, Array] | None = None
    memories: list[Memory | None] | None = None
    adjusted: list[list[str]] | None = None
    forced: Array | None = None
    faults: dict[str, int] | None = None
    log_prob: Array | None = None

    def put(self, index: Array, other: Decision) -> None:
        """Replace the rows at `index` with `other`'s."""
        self.action = np.array(self.action)
        self.action[index] = other.action
        self.finite = np.array(self.finite)
        self.finite[index] = other.finite
        if self.log_prob is not None or other.log_prob is not None:
            self.log_prob = np.full(len(self.sources), np.nan) if self.log_prob is None else np.array(self.log_prob)
            self.log_prob[index] = np.nan if other.log_prob is None else other.log_prob
        for place, row in enumerate(index.tolist()):
            self.sources[row] = other.sources[place]
            self.versions[row] = other.versions[place]
        if self.memories is not None or other.memories is not None:
            self.memories = self.memories or [None] * len(self.sources)
            for place, row in enumerate(index.tolist()):
                self.memories[row] = other.memories[place] if other.memories else None

    def adjust(self, index: Array, reason: str) -> None:
        """Note that the rows at `index` were changed for `reason`."""
        if self.adjusted is None:
            self.adjusted = [[] for _ in self.sources]
        for row in index.tolist():
            self.adjusted[row].append(reason)


class Overloaded(Problem):
    """The version's queue is full: the client should come back later."""

    def __init__(self, detail: str) -> None:
        super().__init__(429, "overloaded", detail, retry_after=1)


class DeadlineMissed(Exception):
    """The version did not answer in time. `partly`: calls did, but one request has more rows than they took."""

    def __init__(self, detail: str, partly: bool = False) -> None:
        super().__init__(detail)
        self.partly = partly


class NothingCanAnswer(Problem):
    """Neither the version, nor the champion, nor a fallback of the spec can give an action.

    `late`: the deadline has passed meanwhile.
    """

    def __init__(self, detail: str, late: bool = False) -> None:
        super().__init__(503, "no_answer", detail, retry_after=1)
        self.late = late


def merged(pieces: list[Rows]) -> Rows:
    """Rows of several requests, as one call of the graph takes them."""
    if len(pieces) == 1:
        return pieces[0]
    masks = [piece.masks for piece in pieces if piece.masks is not None]
    return Rows(
        feeds={name: np.concatenate([piece.feeds[name] for piece in pieces]) for name in pieces[0].feeds},
        size=sum(piece.size for piece in pieces),
        masks=np.concatenate(masks) if masks else None,
    )


def part_of(whole: Decision, start: int, stop: int) -> Decision:
    """What was decided of the rows from `start` to `stop`."""
    return Decision(
        action=whole.action[start:stop],
        finite=whole.finite[start:stop],
        sources=whole.sources[start:stop],
        versions=whole.versions[start:stop],
        scores=None if whole.scores is None else whole.scores[start:stop],
        recurrent=None
        if whole.recurrent is None
        else {name: array[start:stop] for name, array in whole.recurrent.items()},
        log_prob=None if whole.log_prob is None else whole.log_prob[start:stop],
    )


def joined(pieces: list[Decision]) -> Decision:
    """What several calls decided of one request's rows, in their order."""
    recurrent = [piece.recurrent for piece in pieces if piece.recurrent is not None]
    scores = [piece.scores for piece in pieces if piece.scores is not None]
    log_prob = [piece.log_prob for piece in pieces if piece.log_prob is not None]
    return Decision(
        action=np.concatenate([piece.action for piece in pieces]),
        finite=np.concatenate([piece.finite for piece in pieces]),
        sources=[source for piece in pieces for source in piece.sources],
        versions=[version for piece in pieces for version in piece.versions],
        scores=np.concatenate(scores) if scores else None,
        recurrent={name: np.concatenate([part[name] for part in recurrent]) for name in recurrent[0]}
        if recurrent
        else None,
        log_prob=np.concatenate(log_prob) if log_prob else None,
    )
