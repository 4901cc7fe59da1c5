"""Remote policies: SB3's predictor protocol over a gateway, so that what plays a model plays what is served."""

from __future__ import annotations

import asyncio
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from bentos.calls import Calls
from bentos.exchange import Concurrent, Threaded
from bentos.manifest import Array, Space
from bentos.questions import Question, actions, masks, question
from bentos.retries import GatewayError, Steps
from bentos.watching import End, Watch, watched

PATIENCE_SECONDS = 30.0
_MOST_ROWS = 4096
_MOST_NUMBERS = 500_000
"""What one request asks at most; more is asked in several. A number takes up to 25 bytes of JSON, a body 16 MiB."""

Told = tuple[npt.NDArray[np.object_]] | None
Observation = Array | dict[str, Array]


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
        outcomes = [self.unsent.popleft() for _ in range(len(self.unsent))]
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


class RemotePolicy:
    """A policy at a gateway, as an SB3 predictor: `evaluate_policy(remote, env)` gives the score of what is served.

        with RemotePolicy("http://localhost:3000", "cartpole") as remote:
            evaluate_policy(remote, remote.watch(env), n_eval_episodes=50)

    It opens an episode at the gateway wherever `episode_start` is true, so that a canary can put it into an arm, and
    keeps to it until the next start. SB3's protocol tells a predictor actions to give but never a reward: **returns are
    reported for environments that are played through `watch`**, at each end, or when `report` is called. A plain
    `evaluate_policy(remote, env)` scores the same, but its episodes stay unreported, and those of a canary count as
    abandoned once their time to live is over (a warning says so). So do episodes that are cut off before their end.

    Safe to share between threads. `state` carries everything of an episode from one call to the next, as SB3's does;
    what `watch`, `report` and `said` speak of is what the calling thread asked last, so a thread plays one watched
    environment (or VecEnv) at a time.

    Requests that are not answered, by a worker that died or a gateway that is full or starting, are sent again for
    `patience` seconds, to the next of several gateways first. None counts twice.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        policy: str,
        *,
        user_ids: str | Sequence[str | None] | None = None,
        token: str | None = None,
        timeout: float = 10.0,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """`url`: one, or several of gateways that follow the same registry and share a database.

        `user_ids`: who plays, one an environment (None: nobody known); a user keeps the arm of a canary. `token` is the
        client token, where the gateway asks for one. `timeout` and `patience` in seconds, for one try and for all.
        """
        self._player = Player(Calls(url, patience), policy, user_ids)
        self._http = Threaded(token, timeout)
        self._mine = threading.local()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._http.close()

    def close(self) -> None:
        """Send what could not be sent before, and close the connections. Raises GatewayError."""
        try:
            self._http.run(self._player.report([]))
        finally:
            self._http.close()

    @property
    def said(self) -> Said | None:
        """What the gateway said beside the actions that this thread got last."""
        return self._held.said

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Array, Any]:
        """Actions for one observation of the policy's space, or for a batch [n, ...] (a Dict space: in each part).

        Returns actions as `env.step` takes them ([n, ...], the action space's dtype; without n for one observation),
        and `state` to give back with the next step's observations, None where there is nothing to keep. Where
        `episode_start` [n] is true an episode is opened and nothing is remembered from before. Without `state` and
        `episode_start` the champion is asked outside of any episode. With `episode_start` but no `state`, this thread's
        last episodes go on (sb3-contrib's maskable `evaluate_policy` never gives `state` back).

        `action_masks` (bool [n, actions]): what a maskable policy may choose from. `deterministic` must be true unless
        the policy's spec explores, which its answers then do in either case. Raises ValueError for what does not fit
        the policy's spaces, GatewayError when the gateway refuses or stays silent.
        """
        steps = self._player.predict(self._held, observation, state, episode_start, deterministic, action_masks)
        return self._http.run(steps)

    def watch(self, env: Any) -> Any:
        """`env` wrapped, so that each episode's return and length are reported when it ends.

        For a Gymnasium environment or an SB3 VecEnv (watch the VecEnv itself, not what is in it). Where SB3's Monitor
        is below, its returns and its ends are reported, as `evaluate_policy` counts them: a life lost in an Atari game
        is no end. Stepping then raises GatewayError when an outcome is refused, or could not be sent for `patience`
        seconds; in the latter case it is sent with the next one, or by `close`.
        """
        return watched(env, self._began, self._ended)

    def report(self, episode_return: float, length: int | None = None, *, row: int = 0) -> None:
        """Say how an episode of this thread's last question ended, for loops of your own without `watch`.

        `episode_return` is the sum of its rewards, `length` its steps (by default, how many actions were asked for);
        `row` which of the environments it was. The next question for it opens a new episode. Raises ValueError when it
        has none, GatewayError when the gateway refuses or stays silent.
        """
        self._http.run(self._player.report([_outcome(self._held, episode_return, length, row)]))

    @property
    def _held(self) -> Held:
        held: Held | None = getattr(self._mine, "held", None)
        if held is None:
            held = self._mine.held = Held()
        return held

    def _began(self, watch: Watch) -> None:
        self._held.watch = watch

    def _ended(self, watch: Watch, ends: list[End]) -> None:
        held = self._held
        held.watch = watch
        if not ends:
            return
        if len(held.places) not in (0, watch.size):
            raise ValueError(
                f"{len(held.places)} observations were asked about, but the watched environment has {watch.size}: "
                "watch the VecEnv itself, and play one watched environment a thread"
            )
        played = [(held.places[end.row].episode, end) for end in ends if held.places]
        self._http.run(
            self._player.report([(one, end.episode_return, end.length) for one, end in played if one is not None])
        )


class AsyncRemotePolicy:
    """`RemotePolicy` for asyncio: the same arguments, the same answers, awaited, in one event loop.

    `report` and `said` speak of what the calling task asked last. There is no `watch`, since environments are stepped
    synchronously: call `report` at each end.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        policy: str,
        *,
        user_ids: str | Sequence[str | None] | None = None,
        token: str | None = None,
        timeout: float = 10.0,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """See `RemotePolicy`."""
        self._player = Player(Calls(url, patience), policy, user_ids)
        self._http = Concurrent(token, timeout)
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], Held] = weakref.WeakKeyDictionary()

    async def __aenter__(self) -> AsyncRemotePolicy:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self._http.close()

    async def close(self) -> None:
        """Send what could not be sent before, and close the connections. Raises GatewayError."""
        try:
            await self._http.run(self._player.report([]))
        finally:
            await self._http.close()

    @property
    def said(self) -> Said | None:
        """What the gateway said beside the actions that this task got last."""
        return self._held.said

    async def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Array, Any]:
        """See `RemotePolicy.predict`."""
        steps = self._player.predict(self._held, observation, state, episode_start, deterministic, action_masks)
        return await self._http.run(steps)

    async def report(self, episode_return: float, length: int | None = None, *, row: int = 0) -> None:
        """See `RemotePolicy.report`."""
        await self._http.run(self._player.report([_outcome(self._held, episode_return, length, row)]))

    @property
    def _held(self) -> Held:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        return self._tasks.setdefault(task, Held())


def _outcome(held: Held, episode_return: float, length: int | None, row: int) -> tuple[Episode, float, int]:
    place = held.places[row] if 0 <= row < len(held.places) else Place()
    if place.episode is None:
        raise ValueError(
            f"there is no episode of row {row}: predict was not called with `episode_start`, or not for it"
        )
    return place.episode, float(episode_return), place.steps if length is None else length
