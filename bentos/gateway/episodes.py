"""Reports: what clients tell of episodes: their starts, their rewards, their outcomes, and what is committed of it."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from bentos import logs
from bentos.canary import Canary
from bentos.errors import Problem
from bentos.gateway.engine import Core
from bentos.gateway.schemas import EpisodesRequest, Outcome, Reward, Started
from bentos.gateway.validate import check_episode, check_size, check_user
from bentos.routing.route import Route
from bentos.rows import observed, packed
from bentos.store.decision_log import norm
from bentos.store.rewards import Reported
from bentos.store.writer import Row, RowsRefused, StoreDown
from bentos.tokens import Episode, new_nonce, user_hash

_T = TypeVar("_T")


class Reports:
    """Starts, rewards and outcomes of episodes, as one worker stores them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def start_episodes(self, policy: str, request: EpisodesRequest) -> list[Started]:
        """Start episodes. Those of the experiment are committed first; with the store down they stay outside of it."""
        users = [request.user_id] if request.user_ids is None else request.user_ids
        check_size(len(users), "episodes")
        for user in users:
            check_user(user)
        route = self._core.known(policy)
        now = time.time()
        covariates = self._covariates(policy, request, len(users))
        nonces = self._nonces(policy, request.idempotency_key, route.experiment, len(users))
        seats = [route.seat_of_unit(nonce if user is None else user) for user, nonce in zip(users, nonces, strict=True)]
        rows: list[Row] = [
            {
                "episode": nonce,
                "policy": policy,
                "generation": seat.generation,
                "unit": user or nonce,
                "arm": seat.arm,
                "version": seat.version,
                "started_at": now,
                "covariate": covariate,
            }
            for user, nonce, seat, covariate in zip(users, nonces, seats, covariates, strict=True)
            if seat.generation
        ]
        if rows:
            try:
                untold = await self._core.writer.start_episodes(rows)
            except StoreDown as error:
                logs.warning("episodes outside the experiment", policy=policy, count=len(rows), detail=str(error))
                untold = {row["episode"] for row in rows}
            if untold:
                # with other nonces: what failed may be stored all the same
                seats = [route.outside if nonce in untold else seat for nonce, seat in zip(nonces, seats, strict=True)]
                nonces = [new_nonce() if nonce in untold else nonce for nonce in nonces]
        started = []
        for user, nonce, seat in zip(users, nonces, seats, strict=True):
            hashed = user_hash(user) if user else ""
            episode = Episode(policy, seat.version, seat.arm, seat.generation, nonce, hashed, now)
            started.append(Started(self._core.signer.episode_id(episode), seat.version or None, seat.arm))
        return started

    def _nonces(self, policy: str, key: str | None, experiment: Canary | None, size: int) -> list[str]:
        """The episodes' nonces: with a key the same for the same canary, so that the rows a lost try left are its own.

        Another canary makes others of them: its episodes must not meet rows of the last.
        """
        if key is None:
            return [new_nonce() for _ in range(size)]
        generation = experiment.generation if experiment else ""
        return [self._core.signer.nonce(policy, generation, key, place) for place in range(size)]

    async def outcomes(self, policy: str, given: list[Outcome]) -> dict[str, int]:
        """Store outcomes, once per episode however often they are sent. Raises Problem: 422, 403, 503."""
        check_size(len(given), "outcomes")
        route = self._core.known(policy)
        now = time.time()
        rows: list[Row] = []
        for place, outcome in enumerate(given):
            episode = check_episode(self._core.signer, outcome.episode_id, policy)
            value = outcome.episode_return
            if not math.isfinite(value):
                raise Problem(422, "return", f"outcome {place}: the return must be finite", came=str(value))
            allowed = _allowed(route, episode)
            if allowed is not None and not allowed[0] <= value <= allowed[1]:
                raise Problem(
                    422,
                    "return_range",
                    f"outcome {place}: the return lies outside the range",
                    expected=allowed,
                    came=value,
                )
            rows.append({**_outcome(episode, now), "episode_return": value, "length": outcome.length})
        if not rows:
            return _tally([])
        accepted = await _stored(self._core.writer.outcomes(rows), "outcomes")
        self._count(row for row, fresh in zip(rows, accepted, strict=True) if fresh)
        return _tally(accepted)

    async def rewards(self, policy: str, given: list[Reward]) -> dict[str, int]:
        """Store rewards, once a step however often they are sent, and with an episode's last missing one its outcome.

        Raises Problem: 422, 403, 413, 503. Where the rewards of an episode add up to a return outside the range, none
        of that episode in this request is stored; those of other episodes are.
        """
        check_size(len(given), "rewards")
        route = self._core.known(policy)
        now = time.time()
        observations = self._next_observations(policy, given)
        rows = []
        for place, reward in enumerate(given):
            episode = check_episode(self._core.signer, reward.episode_id, policy)
            if not math.isfinite(reward.reward):
                raise Problem(422, "reward", f"reward {place} must be finite", came=str(reward.reward))
            row: Row = {
                "policy": policy,
                "episode": episode.nonce,
                "step": reward.step,
                "reward": reward.reward,
                "terminated": reward.terminated,
                "truncated": reward.truncated,
                "next_observation": observations.get(place),
                "recorded_at": now,
            }
            rows.append(Reported(row, _outcome(episode, now), _allowed(route, episode)))
        if not rows:
            return _tally([])
        taken = await _stored(self._core.writer.rewards(rows), "rewards")
        self._count(taken.ended)
        if taken.outside:
            at = next(place for place, one in enumerate(rows) if one.row["episode"] in taken.outside)
            raise Problem(
                422,
                "return_range",
                f"reward {at}: the episode's rewards add up to a return outside the range; none of them was stored now",
                expected=rows[at].allowed,
                came=taken.outside[rows[at].row["episode"]],
            )
        return _tally(taken.accepted)

    def _covariates(self, policy: str, request: EpisodesRequest, size: int) -> list[float | None]:
        """The norm of each episode's first observation, where they were given. Raises Problem (422)."""
        given = request.observations if request.user_ids is not None else [request.observation]
        unused = request.observation if request.user_ids is not None else request.observations
        if unused is not None or (given is not None and len(given) != size):
            raise Problem(
                422, "observation", "give `observation` with `user_id`, or as many `observations` as `user_ids`"
            )
        if given is None or given == [None]:
            return [None] * size
        parts = observed(self._core.observe(policy, given).feeds)
        return [norm([part[row] for part in parts]) for row in range(size)]

    def _next_observations(self, policy: str, given: list[Reward]) -> dict[int, bytes]:
        """The observations that steps led to, as they are stored, by place. Raises Problem (422)."""
        places = [place for place, reward in enumerate(given) if reward.next_observation is not None]
        if not places:
            return {}
        read = self._core.observe(policy, [given[place].next_observation for place in places])
        return {place: packed(read.feeds, row) for row, place in enumerate(places)}

    def _count(self, ended: Iterable[Row]) -> None:
        for row in ended:
            arm = self._core.stats.arm(row["policy"], row["generation"], row["version"], row["arm"])
            arm.ended(row["episode_return"], row["length"])


async def _stored(writing: Awaitable[_T], what: str) -> _T:
    """What the writer answers. Raises Problem: 503 while the store is down, 422 where it refuses the rows for good."""
    try:
        return await writing
    except RowsRefused as error:
        raise Problem(422, "store", f"the {what} cannot be stored: {error}") from error
    except StoreDown as error:
        raise Problem(503, "store_down", f"the {what} could not be stored; send them again", retry_after=1) from error


def _tally(accepted: list[bool]) -> dict[str, int]:
    return {"accepted": sum(accepted), "duplicates": len(accepted) - sum(accepted)}


def _outcome(episode: Episode, now: float) -> Row:
    """A reported outcome's row, but for return and length."""
    return {
        "episode": episode.nonce,
        "policy": episode.policy,
        "generation": episode.generation,
        "arm": episode.arm,
        "version": episode.version,
        "kind": "reported",
        "recorded_at": now,
    }


def _allowed(route: Route, episode: Episode) -> tuple[float, float] | None:
    """The range that the return of an episode must lie in, as the version that served it says."""
    served = route.versions.get(episode.version)
    manifest = served.manifest if served else route.manifest
    return manifest.outcomes.return_range if manifest else None
