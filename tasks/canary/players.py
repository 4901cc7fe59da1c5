"""Players that act in environments as the gateway says: one request a step for all of them, every fault counted."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
import msgspec
import numpy as np

from bentos.http_client import trusted
from tasks.build.training.environments import action_mask
from tasks.gateway_requests import body, rows_a_request
from tasks.inputs import MASK, stack

_FIRST_PATIENCE = 6.0
"""How long a gateway that never answered is tried, s: the address may be wrong."""

_PATIENCE = 300.0
"""How long one that did is waited for, s: it, or the store of its outcomes, is started again."""


class TrafficError(Exception):
    """The gateway refused a request for good, or did not answer; says which request and what came."""


class Gateway:
    """Requests to one policy of a gateway, counted: an answer outside 2xx or a broken connection is a failure."""

    def __init__(self, url: str, policy: str) -> None:
        base = f"{url.rstrip('/')}/v1/policies/{policy}"
        self._http = httpx.Client(base_url=base, timeout=30, verify=trusted(base))
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self._patience = _FIRST_PATIENCE

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer. A fault is counted, then tried again; what cannot help to try again raises.

        All that players send counts once however often it comes.
        """
        content = None if body is None else msgspec.json.encode(body)
        begun = time.monotonic()
        for attempt in count():
            self.requests += 1
            try:
                response = self._http.request(
                    method, path, content=content, headers={"Content-Type": "application/json"}
                )
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                self.failures[type(error).__name__] += 1
            else:
                if response.is_success:
                    self._patience = _PATIENCE
                    return msgspec.json.decode(response.content)
                problem = f"{response.status_code}: {response.text[:300]}"
                self.failures[str(response.status_code)] += 1
                if response.status_code < 500 and response.status_code != 429:
                    break
            if time.monotonic() - begun >= self._patience:
                break
            time.sleep(min(1.5, 0.1 * 2 ** min(attempt, 4)))
        raise TrafficError(f"{method} {self._http.base_url}{path.lstrip('/')} failed: {problem}")


@dataclass
class Player:
    """One environment and the episode it is in; `episode` is empty between episodes.

    `masked`: the environment says which actions it allows, and whoever plays it tells the gateway.
    """

    env: Any
    seed: int | None
    episode: str = ""
    arm: str = ""
    version: str | None = None
    observation: Any = None
    state: str | None = None
    masked: bool = field(init=False)
    total: float = 0.0
    length: int = 0

    def __post_init__(self) -> None:
        self.masked = bool(self.env.has_wrapper_attr("action_masks"))

    def begin(self, opened: Mapping[str, Any]) -> None:
        """Start the episode that the gateway has opened."""
        self.episode, self.arm, self.version = opened["episode_id"], opened["arm"], opened["version"]
        self.observation, _ = self.env.reset(seed=self.seed)
        self.seed, self.state, self.total, self.length = None, None, 0.0, 0

    def step(self, action: Any) -> bool:
        """Take the action; whether the episode ended with it."""
        space = self.env.action_space
        taken = int(action) if space.shape == () else np.asarray(action, dtype=space.dtype).reshape(space.shape)
        self.observation, reward, terminated, truncated, _ = self.env.step(taken)
        self.total += float(reward)
        self.length += 1
        return bool(terminated or truncated)

    def end(self) -> dict[str, Any]:
        """The ended episode's outcome, as the gateway takes it; the player is idle then."""
        outcome = {"episode_id": self.episode, "return": self.total, "length": self.length}
        self.episode = ""
        return outcome


@dataclass
class Tally:
    """What was seen so far, by arm."""

    decisions: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    adjusted: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    returns: dict[str, list[float]] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    accepted: int = 0
    duplicates: int = 0

    @property
    def episodes(self) -> int:
        """Episodes that were played to their end."""
        return sum(len(returns) for returns in self.returns.values())

    def arms(self) -> dict[str, Any]:
        """Count, mean and standard deviation (n-1) of the returns of each arm."""
        return {
            arm: {
                "episodes": len(returns),
                "mean": float(np.mean(returns)),
                "std": float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0,
            }
            for arm, returns in sorted(self.returns.items())
        }

    def latency_ms(self) -> dict[str, float]:
        """Percentiles of the time an act request took, in milliseconds."""
        if not self.latencies:
            return {}
        at = (50, 90, 99, 100)
        values = np.percentile(np.asarray(self.latencies) * 1000, at)
        return {name: float(value) for name, value in zip(("p50", "p90", "p99", "max"), values, strict=True)}


class Game:
    """Players that share one request a step."""

    def __init__(self, gateway: Gateway, players: list[Player], users: int | None) -> None:
        self.gateway, self.players, self.users = gateway, players, users
        self.tally = Tally()
        self.started = 0
        self._ended: list[dict[str, Any]] = []

    def playing(self) -> list[Player]:
        """Those in an episode."""
        return [player for player in self.players if player.episode]

    def open(self, most: int | None) -> None:
        """Begin episodes for idle players, many at once, at most `most`."""
        idle = [player for player in self.players if not player.episode][:most]
        # A commit costs the gateway a disk flush: a few episodes begin together rather than each alone.
        enough = len(self.players) // 16 if most is None else min(most, len(self.players) // 16)
        if not idle or (len(idle) < enough and self.playing()):
            return
        users = [
            None if self.users is None else f"user-{(self.started + number) % self.users}"
            for number in range(len(idle))
        ]
        key = secrets.token_hex(16)  # a request that is sent again starts none twice
        answer = self.gateway.call("POST", "/episodes", {"user_ids": users, "idempotency_key": key})
        for player, opened in zip(idle, answer["episodes"], strict=True):
            player.begin(opened)
            self.tally.versions[str(opened["version"])] += 1
        self.started += len(idle)

    def step(self) -> None:
        """One action for every running episode, in one request unless their observations are too large for it."""
        playing = self.playing()
        if not playing:
            return
        at_once = rows_a_request(stack([playing[0].observation]), len(playing))
        for at in range(0, len(playing), at_once):
            self._step(playing[at : at + at_once])

    def _step(self, playing: list[Player]) -> None:
        given = stack([player.observation for player in playing])
        if playing[0].masked:
            given[MASK] = np.stack([action_mask(player.env) for player in playing])
        states = [player.state for player in playing]
        question = body(given, states if any(state is not None for state in states) else None)
        question["episode_ids"] = [player.episode for player in playing]
        began = time.perf_counter()
        answer = self.gateway.call("POST", "/act", question)
        self.tally.latencies.append(time.perf_counter() - began)
        self.tally.decisions += len(playing)
        self.tally.sources.update(answer["sources"])
        given_back = answer.get("states") or [None] * len(playing)
        for reasons in answer["adjusted"]:
            self.tally.adjusted.update(reasons)
        for player, action, state in zip(playing, answer["actions"], given_back, strict=True):
            player.state = state
            if player.step(action):
                self.tally.returns.setdefault(player.arm, []).append(player.total)
                self._ended.append(player.end())

    def report(self, everything: bool = False) -> None:
        """Report the outcomes of ended episodes, many at once."""
        if not self._ended or (len(self._ended) < len(self.players) // 16 and not everything):
            return
        answer = self.gateway.call("POST", "/outcomes", {"outcomes": self._ended})
        self.tally.accepted += answer["accepted"]
        self.tally.duplicates += answer["duplicates"]
        self._ended = []
