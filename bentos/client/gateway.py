"""The gateway's own HTTP routes, each as a method."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from .calls import Calls
from .retry import Answered, Request, Try
from .transport import Threaded

_PATIENCE_SECONDS = 10.0


class GatewayClient:
    """Each route as a method; `RemotePolicy` plays episodes over them. Synchronous, safe to share between threads.

    A call is sent again when it is not answered or the gateway says that it cannot answer now, and counts once all the
    same: an outcome or a reward is stored once however often it comes, episodes are started under a key of the
    request's own, and an override set twice is set.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        token: str | None = None,
        timeout: float = 10.0,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        """`url`: one, or several of gateways that follow the same registry and share a database.

        `token` is the client's, or the admin token, which overrides need. `timeout` in seconds, one try; `patience` in
        seconds, all tries of a call.
        """
        self._calls = Calls(url, patience)
        self._http = Threaded(token, timeout)

    def __enter__(self) -> GatewayClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """Whether the first gateway is up and ready; asked once, never raises."""
        answer = self._http.exchange(Try(self._calls.urls[0], Request("GET", "/v2/health/ready")))
        return isinstance(answer, Answered) and answer.status == 200

    def policies(self) -> list[dict[str, Any]]:
        """The documents of all policies. Raises GatewayError, as all calls do."""
        return self._http.run(self._calls.policies())

    def policy(self, policy: str) -> dict[str, Any]:
        """The document of one policy: what is routed where, and statistics."""
        return self._http.run(self._calls.policy(policy))

    def start_episodes(
        self, policy: str, user_ids: Sequence[str | None], observations: Any = None
    ) -> list[dict[str, Any]]:
        """Start one episode a user (None: no user): `episode_id`, `version` and `arm` of each.

        `observations`, what the episodes begin with, help a canary to its verdict where they are known already.
        """
        return self._http.run(self._calls.start_episodes(policy, user_ids, observations))

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
        body: dict[str, Any] = {"observations": observations}
        if episode_ids is not None:
            body["episode_ids"] = list(episode_ids)
        if user_ids is not None:
            body["user_ids"] = list(user_ids)
        if action_masks is not None:
            body["action_masks"] = action_masks
        if states is not None:
            body["states"] = list(states)
        return self._http.run(self._calls.act(policy, body))

    def outcomes(self, policy: str, outcomes: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Report ended episodes, each `{"episode_id", "return", "length"}`: how many were `accepted`, `duplicates`."""
        return self._http.run(self._calls.outcomes(policy, outcomes))

    def rewards(self, policy: str, rewards: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Report steps, each `{"episode_id", "step", "reward", "terminated", "truncated", "next_observation"?}`: how
        many were `accepted`, `duplicates`. The last missing step of an episode that ended closes it."""
        return self._http.run(self._calls.rewards(policy, rewards))

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
            "action": action,
            "ttl_seconds": ttl_seconds,
            "reason": reason,
            "who": who,
            "user_id": user_id,
            "episode_id": episode_id,
            "force": force,
        }
        return self._http.run(self._calls.override("PUT", policy, body))

    def clear_override(
        self, policy: str, *, who: str = "admin", user_id: str | None = None, episode_id: str | None = None
    ) -> dict[str, Any]:
        """Clear the override of exactly this policy, user or episode. Needs the admin token."""
        body = {"user_id": user_id, "episode_id": episode_id, "who": who}
        return self._http.run(self._calls.override("DELETE", policy, body))
