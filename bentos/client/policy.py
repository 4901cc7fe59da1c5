"""Remote policies: SB3's predictor protocol over a gateway, so that what plays a model plays what is served."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .calls import Calls
from .encoding import Array
from .environments import End, Watch, watched
from .session import Held, Player, Said, outcome
from .transport import Concurrent, Threaded

PATIENCE_SECONDS = 30.0

Observation = Array | dict[str, Array]


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
        self._http.run(self._player.report([outcome(self._held, episode_return, length, row)]))

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
        await self._http.run(self._player.report([outcome(self._held, episode_return, length, row)]))

    @property
    def _held(self) -> Held:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        return self._tasks.setdefault(task, Held())
