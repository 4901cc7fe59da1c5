"""Overriding: a human's actions are set and cleared, committed before the answer."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from bentos import logs
from bentos.errors import Problem
from bentos.gateway.engine import Core
from bentos.gateway.schemas import ClearRequest, OverrideRequest
from bentos.gateway.validate import check_episode, check_user
from bentos.package.manifest import PackageError
from bentos.routing.route import no_version
from bentos.routing.version import as_action
from bentos.store import overrides
from bentos.store.writer import StoreDown


class Overriding:
    """Overrides, as one worker sets and clears them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def set(self, policy: str, request: OverrideRequest) -> dict[str, Any]:
        """Commit an override and follow it at once; other workers do within a second. Raises Problem."""
        route = self._core.known(policy)
        if route.manifest is None:
            raise no_version(policy)
        try:
            as_action(request.action, route.manifest.action_space)
        except PackageError as error:
            raise Problem(422, "action", f"the action does not fit the policy's action space: {error}") from error
        user, episode = self._target(policy, request.user_id, request.episode_id)
        now = time.time()
        values = {
            "policy": policy,
            "user_id": user,
            "episode": episode,
            "action": request.action,
            "force": request.force,
            "who": request.who,
            "reason": request.reason,
            "set_at": now,
            "until": now + request.ttl_seconds,
        }

        def change(connection: sa.Connection) -> list[overrides.Active]:
            overrides.put(connection, values)
            return overrides.read(connection, now)

        self._core.overrides.replace(await self._admin(change))
        logs.info("override set", **{**values, "action": str(request.action)})
        return {"policy": policy, "until": values["until"]}

    async def clear(self, policy: str, request: ClearRequest) -> dict[str, Any]:
        """Clear an override and stop following it at once. Raises Problem."""
        self._core.known(policy)
        user, episode = self._target(policy, request.user_id, request.episode_id)
        now = time.time()

        def change(connection: sa.Connection) -> tuple[int, list[overrides.Active]]:
            cleared = overrides.clear(connection, policy, user, episode, request.who, now)
            return cleared, overrides.read(connection, now)

        cleared, active = await self._admin(change)
        self._core.overrides.replace(active)
        logs.info("override cleared", policy=policy, user_id=user, episode=episode, who=request.who, cleared=cleared)
        return {"policy": policy, "cleared": cleared}

    async def log(self, policy: str, limit: int) -> dict[str, Any]:
        """The last `limit` overrides of a policy, newest first. Raises Problem."""
        self._core.known(policy)
        now = time.time()
        found = await self._admin(lambda connection: overrides.log(connection, policy, now, limit))
        return {"policy": policy, "log": found}

    async def _admin(self, change: Any) -> Any:
        try:
            return await self._core.writer.call(change)
        except StoreDown as error:
            raise Problem(503, "store_down", "the overrides' store does not answer", retry_after=1) from error

    def _target(self, policy: str, user_id: str | None, episode_id: str | None) -> tuple[str | None, str | None]:
        check_user(user_id)
        if user_id is not None and episode_id is not None:
            raise Problem(422, "override", "give `user_id` or `episode_id`, not both")
        return user_id, check_episode(self._core.signer, episode_id, policy).nonce if episode_id else None
