"""Reports: what clients tell of episodes, their starts and their outcomes, and what is committed of it."""

from __future__ import annotations

import math
import time

from bentos import logs
from bentos.core import Core
from bentos.episodes import Episode, new_nonce, user_hash
from bentos.problems import Problem
from bentos.rows import MAX_ROWS
from bentos.runners.validate import check_episode, check_user
from bentos.wire import EpisodesRequest, Outcome, Started
from bentos.writer import Row, StoreDown


class Reports:
    """One worker's desk for starts and outcomes of episodes."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def start_episodes(self, policy: str, request: EpisodesRequest) -> list[Started]:
        """Start episodes. Those of the experiment are committed first; with the store down they stay outside of it."""
        users = [request.user_id] if request.user_ids is None else request.user_ids
        if len(users) > MAX_ROWS:
            raise Problem(413, "rows", f"at most {MAX_ROWS} episodes a request", expected=MAX_ROWS, came=len(users))
        for user in users:
            check_user(user)
        route = self._core.known(policy)
        now = time.time()
        nonces = [new_nonce() for _ in users]
        seats = [route.seat_of_unit(nonce if user is None else user) for user, nonce in zip(users, nonces, strict=True)]
        rows = [
            {
                "episode": nonce,
                "policy": policy,
                "generation": seat.generation,
                "unit": user or nonce,
                "arm": seat.arm,
                "version": seat.version,
                "started_at": now,
            }
            for user, nonce, seat in zip(users, nonces, seats, strict=True)
            if seat.generation
        ]
        if rows:
            try:
                await self._core.writer.start_episodes(rows)
            except StoreDown as error:
                logs.warning("episodes outside the experiment", policy=policy, count=len(rows), detail=str(error))
                seats = [route.outside if seat.generation else seat for seat in seats]
        started = []
        for user, nonce, seat in zip(users, nonces, seats, strict=True):
            hashed = user_hash(user) if user else ""
            episode = Episode(policy, seat.version, seat.arm, seat.generation, nonce, hashed, now)
            started.append(Started(self._core.signer.episode_id(episode), seat.version or None, seat.arm))
        return started

    async def outcomes(self, policy: str, given: list[Outcome]) -> dict[str, int]:
        """Store outcomes, once per episode however often they are sent. Raises Problem: 422, 403, 503."""
        route = self._core.known(policy)
        now = time.time()
        rows: list[Row] = []
        for place, outcome in enumerate(given):
            episode = check_episode(self._core.signer, outcome.episode_id, policy)
            value = outcome.episode_return
            served = route.versions.get(episode.version)
            manifest = served.manifest if served else route.manifest
            allowed = manifest.outcomes.return_range if manifest else None
            if not math.isfinite(value):
                raise Problem(422, "return", f"outcome {place}: the return must be finite", came=str(value))
            if allowed is not None and not allowed[0] <= value <= allowed[1]:
                raise Problem(
                    422,
                    "return_range",
                    f"outcome {place}: the return lies outside the range",
                    expected=allowed,
                    came=value,
                )
            rows.append(
                {
                    "episode": episode.nonce,
                    "policy": policy,
                    "generation": episode.generation,
                    "arm": episode.arm,
                    "version": episode.version,
                    "episode_return": value,
                    "length": outcome.length,
                    "kind": "reported",
                    "recorded_at": now,
                }
            )
        if not rows:
            return {"accepted": 0, "duplicates": 0}
        try:
            accepted = await self._core.writer.outcomes(rows)
        except StoreDown as error:
            raise Problem(
                503, "store_down", "the outcomes could not be stored; send them again", retry_after=1
            ) from error
        for row, fresh in zip(rows, accepted, strict=True):
            if fresh:
                arm = self._core.stats.arm(policy, row["generation"], row["version"], row["arm"])
                arm.ended(row["episode_return"], row["length"])
        return {"accepted": sum(accepted), "duplicates": len(accepted) - sum(accepted)}
