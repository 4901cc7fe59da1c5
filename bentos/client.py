"""A client of the gateway's own HTTP routes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx
import numpy as np

_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2


class GatewayError(Exception):
    """The gateway refused a request, or did not answer. `status` is the HTTP status, None when there was no answer.

    `reason` is the problem's short code ("connection" when there was no answer).
    """

    def __init__(self, message: str, status: int | None, reason: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class GatewayClient:
    """Synchronous; one connection pool, safe to share between threads.

    Calls that change nothing twice are tried again when the connection fails or the gateway says 503 or 429: reads,
    `act`, `outcomes` and `rewards` (each counts once however often it is sent) and overrides. `start_episodes` is
    tried again only when no connection was made.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 10.0) -> None:
        """`token` is the admin token, needed for overrides only; `timeout` in seconds, a request."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout)

    def __enter__(self) -> GatewayClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """Whether the gateway is up and ready; never raises."""
        try:
            return self._http.get("/v2/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def policies(self) -> list[dict[str, Any]]:
        """The documents of all policies. Raises GatewayError, as all calls do."""
        found: list[dict[str, Any]] = self._call("GET", "/v1/policies")["policies"]
        return found

    def policy(self, policy: str) -> dict[str, Any]:
        """The document of one policy: what is routed where, and statistics."""
        return self._call("GET", f"/v1/policies/{policy}")

    def start_episodes(self, policy: str, user_ids: Sequence[str | None]) -> list[dict[str, Any]]:
        """Start one episode a user (None: no user): `episode_id`, `version` and `arm` of each."""
        body = {"user_ids": list(user_ids)}
        started: list[dict[str, Any]] = self._call("POST", f"/v1/policies/{policy}/episodes", body, again=False)[
            "episodes"
        ]
        return started

    def act(
        self,
        policy: str,
        observations: Any,
        episode_ids: Sequence[str | None] | None = None,
        *,
        user_ids: Sequence[str | None] | None = None,
        action_masks: Any = None,
        states: Sequence[str | None] | None = None,
    ) -> dict[str, Any]:
        """Ask for many actions at once: `actions`, `versions`, `arms`, `sources`, `adjusted`, `decision_ids`."""
        body: dict[str, Any] = {"observations": _plain(observations)}
        if episode_ids is not None:
            body["episode_ids"] = list(episode_ids)
        if user_ids is not None:
            body["user_ids"] = list(user_ids)
        if action_masks is not None:
            body["action_masks"] = _plain(action_masks)
        if states is not None:
            body["states"] = list(states)
        return self._call("POST", f"/v1/policies/{policy}/act", body)

    def outcomes(self, policy: str, outcomes: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Report ended episodes, each `{"episode_id", "return", "length"}`: how many were `accepted`, `duplicates`."""
        return self._call("POST", f"/v1/policies/{policy}/outcomes", {"outcomes": list(outcomes)})

    def rewards(self, policy: str, rewards: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Report steps, each `{"episode_id", "step", "reward", "terminated", "truncated", "next_observation"?}`: how
        many were `accepted`, `duplicates`. The last missing step of an episode that ended closes it."""
        return self._call("POST", f"/v1/policies/{policy}/rewards", {"rewards": _plain(list(rewards))})

    def set_override(
        self,
        policy: str,
        action: Any,
        *,
        ttl_seconds: float,
        reason: str,
        who: str = "admin",
        user_id: str | None = None,
        episode_id: str | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        """Replace a policy's actions by a human's, for all traffic, one user or one episode. Needs the admin token."""
        body = {
            "action": _plain(action),
            "ttl_seconds": ttl_seconds,
            "reason": reason,
            "who": who,
            "user_id": user_id,
            "episode_id": episode_id,
            "force": force,
        }
        return self._call("PUT", f"/v1/policies/{policy}/override", body)

    def clear_override(
        self, policy: str, *, who: str = "admin", user_id: str | None = None, episode_id: str | None = None
    ) -> dict[str, Any]:
        """Clear the override of exactly this policy, user or episode. Needs the admin token."""
        body = {"user_id": user_id, "episode_id": episode_id, "who": who}
        return self._call("DELETE", f"/v1/policies/{policy}/override", body)

    def _call(self, method: str, path: str, body: Any = None, again: bool = True) -> dict[str, Any]:
        for attempt in range(_ATTEMPTS):
            try:
                response = self._http.request(method, path, json=body)
            except httpx.HTTPError as error:
                failure = GatewayError(
                    f"{method} {path}: no answer from {self._http.base_url}: {type(error).__name__}: {error}",
                    None,
                    "connection",
                )
                retry = again or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            else:
                if response.is_success:
                    document: dict[str, Any] = response.json()
                    return document
                failure = _failure(method, path, response)
                retry = failure.status in (429, 503)
            if not retry or attempt == _ATTEMPTS - 1:
                raise failure
            time.sleep(max(failure.retry_after or 0.0, _PAUSE_SECONDS * 2**attempt))
        raise AssertionError("unreachable")


def _failure(method: str, path: str, response: httpx.Response) -> GatewayError:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    detail = problem.get("detail") or response.text[:200]
    for name in ("expected", "came"):
        if name in problem:
            detail += f"; {name} {problem[name]}"
    after = response.headers.get("retry-after")
    return GatewayError(
        f"{method} {path}: {response.status_code}: {detail}",
        response.status_code,
        problem.get("reason", "http"),
        float(after) if after else None,
    )


def _plain(value: Any) -> Any:
    """NumPy arrays (also inside lists and dicts) as JSON values."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
