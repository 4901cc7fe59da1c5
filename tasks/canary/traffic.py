"""Simulated users: real Gymnasium episodes, played through the gateway as an application would play them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tasks.build.training.environments import make
from tasks.canary.players import Game, Gateway, Player, TrafficError
from tasks.spec.files import load

__all__ = ["TrafficError", "play"]

_POLL_SECONDS, _DOUBT_SECONDS, _AGREED_SECONDS = 1.0, 0.2, 3.0
"""How often is looked while the canary runs, and once an answer said that it does not; and for how long every answer
must say so: one of several gateways behind an address may learn of a canary seconds after another. In seconds."""
_CANARY_PATIENCE = 300.0
"""How long a canary is waited for, s: the candidate must be registered, checked and loaded by the gateway first."""

Progress = Callable[[Mapping[str, Any]], None]


class _CanaryWatch:
    """Looks once a second whether the policy's canary runs."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._next = 0.0
        self._missed: float | None = None
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
        """Whether the canary that was waited for runs no more, as every answer of some seconds says."""
        if self.generation is None:
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        if self.running() == self.generation:
            self._missed, self._next = None, now + _POLL_SECONDS
            return False
        self._missed, self._next = now if self._missed is None else self._missed, now + _DOUBT_SECONDS
        return now - self._missed >= _AGREED_SECONDS


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
    gateway = Gateway(url, policy)
    game = Game(gateway, [Player(env, int(s)) for env, s in zip(environments, seeds, strict=True)], users)
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
