"""Simulated users: real Gymnasium episodes, played through the gateway as an application would play them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import numpy as np

from tasks.environments import make
from tasks.spec import load

_TRIES = 8
"""How often a step is tried before the player gives up; with the pauses between, about six seconds."""
_POLL_SECONDS = 1.0
_CANARY_PATIENCE = 300.0
"""How long a canary is waited for, s: the candidate must be registered, checked and loaded by the gateway first."""

Progress = Callable[[Mapping[str, Any]], None]


class TrafficError(Exception):
    """The gateway refused a request for good, or did not answer; says which request and what came."""


class _Gateway:
    """Requests to one policy of a gateway, counted: an answer outside 2xx or a broken connection is a failure."""

    def __init__(self, url: str, policy: str) -> None:
        self._http = httpx.Client(base_url=f"{url.rstrip('/')}/v1/policies/{policy}", timeout=30)
        self.requests = 0
        self.failures: Counter[str] = Counter()

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer. A fault is counted, then tried again; what cannot help to try again raises."""
        content = None if body is None else msgspec.json.encode(body)
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(min(1.5, 0.05 * 2**attempt))
            self.requests += 1
            try:
                response = self._http.request(
                    method, path, content=content, headers={"Content-Type": "application/json"}
                )
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                self.failures[type(error).__name__] += 1
                continue
            if response.is_success:
                return msgspec.json.decode(response.content)
            problem = f"{response.status_code}: {response.text[:300]}"
            self.failures[str(response.status_code)] += 1
            if response.status_code < 500 and response.status_code != 429:
                break
        raise TrafficError(f"{method} {self._http.base_url}{path.lstrip('/')} failed: {problem}")


@dataclass
class _Player:
    """One environment and the episode it is in; `episode` is empty between episodes."""

    env: Any
    seed: int | None
    episode: str = ""
    arm: str = ""
    version: str | None = None
    observation: Any = None
    state: str | None = None
    total: float = 0.0
    length: int = 0

    def begin(self, opened: Mapping[str, Any]) -> None:
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
        outcome = {"episode_id": self.episode, "return": self.total, "length": self.length}
        self.episode = ""
        return outcome


@dataclass
class _Tally:
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
        return sum(len(returns) for returns in self.returns.values())

    def arms(self) -> dict[str, Any]:
        return {
            arm: {
                "episodes": len(returns),
                "mean": float(np.mean(returns)),
                "std": float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0,
            }
            for arm, returns in sorted(self.returns.items())
        }

    def latency_ms(self) -> dict[str, float]:
        if not self.latencies:
            return {}
        at = (50, 90, 99, 100)
        values = np.percentile(np.asarray(self.latencies) * 1000, at)
        return {name: float(value) for name, value in zip(("p50", "p90", "p99", "max"), values, strict=True)}


def _plain(observation: Any) -> Any:
    """An observation as JSON takes it."""
    if isinstance(observation, dict):
        return {key: _plain(value) for key, value in observation.items()}
    return observation.tolist() if hasattr(observation, "tolist") else observation


class _Play:
    """Players that share one request a step."""

    def __init__(self, gateway: _Gateway, players: list[_Player], users: int | None) -> None:
        self.gateway, self.players, self.users = gateway, players, users
        self.tally = _Tally()
        self.started = 0
        self._ended: list[dict[str, Any]] = []

    def playing(self) -> list[_Player]:
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
        answer = self.gateway.call("POST", "/episodes", {"user_ids": users})
        for player, opened in zip(idle, answer["episodes"], strict=True):
            player.begin(opened)
            self.tally.versions[str(opened["version"])] += 1
        self.started += len(idle)

    def step(self) -> None:
        """One action for every running episode, in one request."""
        playing = self.playing()
        if not playing:
            return
        body: dict[str, Any] = {
            "observations": [_plain(player.observation) for player in playing],
            "episode_ids": [player.episode for player in playing],
        }
        if any(player.state is not None for player in playing):
            body["states"] = [player.state for player in playing]
        began = time.perf_counter()
        answer = self.gateway.call("POST", "/act", body)
        self.tally.latencies.append(time.perf_counter() - began)
        self.tally.decisions += len(playing)
        self.tally.sources.update(answer["sources"])
        states = answer.get("states") or [None] * len(playing)
        for reasons in answer["adjusted"]:
            self.tally.adjusted.update(reasons)
        for player, action, state in zip(playing, answer["actions"], states, strict=True):
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


class _CanaryWatch:
    """Looks once a second whether the policy's canary runs."""

    def __init__(self, gateway: _Gateway) -> None:
        self._gateway = gateway
        self._next = 0.0
        self.generation: str | None = None

    def running(self) -> str | None:
        """The generation of the running canary, or None."""
        canary = self._gateway.call("GET", "").get("canary")
        return str(canary["generation"]) if canary else None

    def await_start(self, stopped: Callable[[], bool]) -> None:
        """Return when a canary runs, or after the patience is spent, or when stopped."""
        deadline = time.monotonic() + _CANARY_PATIENCE
        while self.generation is None and time.monotonic() < deadline and not stopped():
            self.generation = self.running()
            if self.generation is None:
                time.sleep(_POLL_SECONDS)

    def ended(self) -> bool:
        """Whether the canary that was waited for runs no more; asks the gateway at most once a second."""
        if self.generation is None:
            return True
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _POLL_SECONDS
        return self.running() != self.generation


def _make_environments(policy: str, count: int) -> list[Any]:
    environment = load(policy).environment
    return [make(environment) for _ in range(count)]


def play(
    policy: str,
    url: str,
    episodes: int | None = None,
    concurrency: int = 64,
    users: int | None = None,
    until_canary_ends: bool = False,
    seed: int = 0,
    on_progress: Progress = lambda seen: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Play `policy`'s environment through the gateway at `url`, `concurrency` episodes at a time.

    Plays `episodes` episodes; or, with `until_canary_ends`, waits for a canary, plays until it has ended, and then
    `concurrency` episodes more. `users` makes the episodes those of user-0 .. user-<users-1> in turn; None leaves them
    anonymous. Environments are seeded from `seed`. When `stopped()` turns true, running episodes are abandoned and the
    outcomes of ended ones still reported. `on_progress` is called about once a second.

    Returns counts (`requests` over HTTP, `decisions` = actions asked for, `failures` = requests that did not succeed
    at once), returns by arm, sources of decisions and latencies in milliseconds. Raises TrafficError.
    """
    if episodes is None and not until_canary_ends:
        raise ValueError("say how many episodes to play, or until_canary_ends")
    environments = _make_environments(policy, concurrency if episodes is None else min(concurrency, episodes))
    seeds = np.random.SeedSequence(seed).generate_state(len(environments)).tolist()
    gateway = _Gateway(url, policy)
    game = _Play(gateway, [_Player(env, int(s)) for env, s in zip(environments, seeds, strict=True)], users)
    watch = _CanaryWatch(gateway)
    spoken = begun = time.monotonic()

    def summary() -> dict[str, Any]:
        seconds = time.monotonic() - begun
        tally = game.tally
        return {
            "policy": policy,
            "url": url,
            "concurrency": len(environments),
            "users": users,
            "seconds": seconds,
            "requests": gateway.requests,
            "failures": sum(gateway.failures.values()),
            "failed": dict(gateway.failures),
            "decisions": tally.decisions,
            "decisions_per_second": tally.decisions / seconds if seconds else 0.0,
            "episodes": tally.episodes,
            "outcomes": {"accepted": tally.accepted, "duplicates": tally.duplicates},
            "arms": tally.arms(),
            "versions": dict(tally.versions),
            "sources": dict(tally.sources),
            "adjusted": dict(tally.adjusted),
            "latency_ms": tally.latency_ms(),
            "canary": watch.generation,
        }

    def turn(most: int | None) -> None:
        nonlocal spoken
        game.open(most)
        game.step()
        game.report()
        if time.monotonic() - spoken >= 1:
            spoken = time.monotonic()
            on_progress(summary())

    try:
        target = episodes
        if until_canary_ends:
            watch.await_start(stopped)
            begun = time.monotonic()
            while not watch.ended() and not stopped():
                turn(None)
            target = game.started + (len(environments) if watch.generation else 0)
        while target is not None and (game.started < target or game.playing()) and not stopped():
            turn(target - game.started)
        game.report(everything=True)
        return summary()
    finally:
        gateway.close()
        for environment in environments:
            environment.close()
