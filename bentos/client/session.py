"""The player: what a remote policy asks and reports, as steps, apart from the connections and who runs them."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from .calls import Calls
from .encoding import Array, Question, Space, actions, masks, question
from .environments import Watch
from .retry import GatewayError, Steps

_MOST_ROWS = 4096
_MOST_NUMBERS = 500_000
"""What one request asks at most; more is asked in several. A number takes up to 25 bytes of JSON, a body 16 MiB."""

Told = tuple[npt.NDArray[np.object_]] | None


class Episode:
    """An episode at the gateway."""

    def __init__(self, episode_id: str, version: str | None, arm: str) -> None:
        self.episode_id = episode_id
        self.version = version
        self.arm = arm
        self.reported = False


class Place(NamedTuple):
    """Where one environment stands: its episode, the gateway's `state` token, and decisions since its last start."""

    episode: Episode | None = None
    token: str | None = None
    steps: int = 0


class Said(NamedTuple):
    """What the gateway said beside the actions, an entry an observation (see `POST …/act`)."""

    versions: list[str | None]
    arms: list[str]
    sources: list[str]
    adjusted: list[list[str]]
    decision_ids: list[str]
    episode_ids: list[str | None]


class Held:
    """What one thread, or one task, asked last. `watch` is of the environments that it stepped since, if watched."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.watch: Watch | None = None
        self.said: Said | None = None


class Player:
    """The logic of both remote policies, as steps."""

    def __init__(self, calls: Calls, policy: str, user_ids: str | Sequence[str | None] | None) -> None:
        self._calls = calls
        self.policy = policy
        self._users = [user_ids] if isinstance(user_ids, str) else None if user_ids is None else list(user_ids)
        self._spaces: tuple[Space, Space] | None = None
        self._explores = False
        self.unsent: deque[dict[str, Any]] = deque()

    def predict(
        self, held: Held, observation: Any, state: Told, episode_start: Any, deterministic: bool, action_masks: Any
    ) -> Steps[tuple[Array, Told]]:
        """See `RemotePolicy.predict`."""
        asked = yield from self._understand(observation, deterministic)
        allowed = None if action_masks is None else masks(action_masks, asked.size)
        if self._users is not None and len(self._users) != asked.size:
            raise ValueError(f"expected {len(self._users)} observations, one a user id, came {asked.size}")
        starts = None if episode_start is None else np.asarray(episode_start, dtype=bool).reshape(-1)
        if starts is not None and len(starts) != asked.size:
            raise ValueError(f"expected {asked.size} episode starts, one an observation, came {len(starts)}")
        watch = held.watch if held.watch is not None and held.watch.size == asked.size else None
        places = _places(held, state, starts if watch is None or starts is not None else watch.beginning, asked.size)
        places = yield from self._open(watch, places, starts)
        answer = yield from self._ask(asked, places, allowed)
        tokens = answer.get("states") or [None] * asked.size
        held.watch = None
        if watch is not None:
            watch.beginning[:] = False
        held.places = [
            Place(place.episode, token, place.steps + 1) for place, token in zip(places, tokens, strict=True)
        ]
        held.said = Said(
            answer["versions"],
            answer["arms"],
            answer["sources"],
            answer["adjusted"],
            answer["decision_ids"],
            [place.episode.episode_id if place.episode else None for place in places],
        )
        assert self._spaces is not None
        taken = actions(answer["actions"], self._spaces[1], asked.single)
        if all(place.episode is None and place.token is None for place in held.places):
            return taken, None
        column = np.empty(asked.size, dtype=object)
        for row, place in enumerate(held.places):
            column[row] = place
        return taken, (column,)

    def report(self, given: Sequence[tuple[Episode, float, int]]) -> Steps[None]:
        """Send outcomes, and those that could not be sent before. A refused one is dropped, and raises GatewayError."""
        for episode, episode_return, length in given:
            episode.reported = True
            self.unsent.append({"episode_id": episode.episode_id, "return": episode_return, "length": length})
        outcomes = []
        with contextlib.suppress(IndexError):  # another thread may send some of them meanwhile
            for _ in range(len(self.unsent)):
                outcomes.append(self.unsent.popleft())
        parts = [outcomes[at : at + _MOST_ROWS] for at in range(0, len(outcomes), _MOST_ROWS)]
        refused: GatewayError | None = None
        while parts:
            try:
                yield from self._calls.outcomes(self.policy, parts[0])
            except GatewayError as error:
                if error.status is None or error.status >= 429:
                    self.unsent.extend(outcome for part in parts for outcome in part)
                    raise
                if len(parts[0]) == 1:
                    refused = error
                else:  # the gateway takes all or none: one that it refuses must not cost the others
                    parts[1:1] = [[one] for one in parts[0]]
            parts.pop(0)
        if refused is not None:
            raise refused

    def _understand(self, observation: Any, deterministic: bool) -> Steps[Question]:
        if self._spaces is None:
            document = yield from self._calls.policy(self.policy)
            spaces = document.get("observation_space"), document.get("action_space")
            if None in spaces:
                detail = f"no version of policy {self.policy!r} is routed yet, so its spaces are not known"
                raise GatewayError(detail, None, "no_version")
            self._explores = bool(document.get("explore", False))
            self._spaces = (msgspec.convert(spaces[0], Space), msgspec.convert(spaces[1], Space))
        if not deterministic and not self._explores:
            raise ValueError(
                f"policy {self.policy!r} serves deterministic actions only: call predict(…, deterministic=True), or "
                "set `serve.explore: true` in its policy spec and release it again"
            )
        return question(observation, self._spaces[0])

    def _open(self, watch: Watch | None, places: list[Place], starts: Array | None) -> Steps[list[Place]]:
        """The places with a new episode where one begins."""
        fresh, forgotten = [], set()
        for row, place in enumerate(places):
            start = bool(starts[row]) if starts is not None else False
            if watch is not None:
                new = bool(watch.beginning[row]) or place.episode is None
            elif place.episode is not None and place.episode.reported:
                new = True
            else:
                # evaluate_policy calls every step of an environment that has played its share a start: such an episode
                # of one unreported step is used again, or each would leave one behind
                new = start and (place.episode is None or place.steps != 1)
            if new:
                fresh.append(row)
            if new or start:
                forgotten.add(row)
        if watch is None:
            _warn_of_silence([places[row] for row in fresh])
        begun: list[Episode] = []
        for at in range(0, len(fresh), _MOST_ROWS):
            users = [None if self._users is None else self._users[row] for row in fresh[at : at + _MOST_ROWS]]
            started = yield from self._calls.start_episodes(self.policy, users)
            begun += [Episode(one["episode_id"], one["version"], one["arm"]) for one in started]
        opened = dict(zip(fresh, begun, strict=True))
        return [
            Place(opened.get(row, place.episode)) if row in forgotten else place for row, place in enumerate(places)
        ]

    def _ask(self, asked: Question, places: list[Place], allowed: Array | None) -> Steps[dict[str, Any]]:
        at_once = max(1, min(_MOST_ROWS, _MOST_NUMBERS // max(1, asked.numbers)))
        whole: dict[str, Any] = {}
        for first in range(0, asked.size, at_once):
            end = min(first + at_once, asked.size)
            here = places[first:end]
            body: dict[str, Any] = {"observations": asked.rows(first, end)}
            if any(place.episode for place in here):
                body["episode_ids"] = [place.episode.episode_id if place.episode else None for place in here]
            elif self._users is not None:
                body["user_ids"] = self._users[first:end]
            if any(place.token for place in here):
                body["states"] = [place.token for place in here]
            if allowed is not None:
                body["action_masks"] = allowed[first:end]
            answer = yield from self._calls.act(self.policy, body)
            if end - first == asked.size:
                return answer
            for name, column in answer.items():
                whole.setdefault(name, []).extend(column)
        return whole


def _places(held: Held, state: Told, starts: Array | None, size: int) -> list[Place]:
    """Where each row stands: as `state` says; without one as this thread's last question left it, while it goes on."""
    if state is not None:
        column = state[0] if isinstance(state, tuple) and len(state) == 1 else state
        places = list(column) if isinstance(column, np.ndarray) else []
        if len(places) != size or not all(isinstance(place, Place) for place in places):
            raise ValueError(f"expected `state` as the last predict of {size} observations returned it, or None")
        return places
    if starts is not None and not starts.all() and len(held.places) == size:
        return held.places
    return [Place()] * size


def _warn_of_silence(ended: list[Place]) -> None:
    silent = sum(
        place.episode is not None and not place.episode.reported and place.episode.arm != "champion" for place in ended
    )
    if silent:
        warnings.warn(
            f"{silent} episode(s) of a running canary ended and their returns were not reported, so they will count as "
            "abandoned: play watch(env) in place of env, or call report(…) at each end",
            stacklevel=2,
        )


def outcome(held: Held, episode_return: float, length: int | None, row: int) -> tuple[Episode, float, int]:
    """How the episode of a row of the last question ended, as `Player.report` takes it. Raises ValueError for none."""
    place = held.places[row] if 0 <= row < len(held.places) else Place()
    if place.episode is None:
        raise ValueError(
            f"there is no episode of row {row}: predict was not called with `episode_start`, or not for it"
        )
    return place.episode, float(episode_return), place.steps if length is None else length
