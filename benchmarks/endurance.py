"""What users see while versions come and go and workers are killed: `python -m benchmarks.endurance`.

A gateway of two workers follows a real MLflow. Threads play episodes on it, many environments each, while versions are
tried in a canary, promoted and rolled back, and workers are killed (SIGKILL) at random moments:

1. `RemotePolicy`, with kills: no failure, no episode that changes its version (there is no safety rollback here, the
   only thing that may change one).
2. Outcomes, with kills: each one that was acknowledged is stored, once, as it was sent.
3. Requests that are sent once, without kills: no failure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.processes import EPISODE_KEY, GatewayProcess, MlflowProcess, wait_until
from benchmarks.serving import policy as served
from bentos.client import GatewayClient, GatewayError, RemotePolicy
from bentos.package.digests import write_manifest
from bentos.package.loader import load
from bentos.package.manifest import Outcomes
from bentos.tokens import Signer

WORKERS = 2
THREADS = 4
ENVIRONMENTS = 64
PATIENCE_SECONDS = 60.0
TTL_SECONDS = 60.0
"""Longer than any episode here lasts, and short enough that versions are unloaded while it runs."""

FRESH_STEPS = 20
"""How often connections are made anew: kept ones would all end at the worker that has lived longest."""

EXAMPLES = 5
PROGRESS_CYCLES = 10
RUNS = ("remote", "outcomes", "raw")
"""The three runs, in the order in which they are described above."""


class Stroll(gymnasium.Env[Any, Any]):
    """Random observations for 5 to 50 steps, each worth 1."""

    def __init__(self, observation_space: Any, action_space: Any, seed: int) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._random = np.random.default_rng(seed)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._left = int(self._random.integers(5, 51))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Whatever the action."""
        self._left -= 1
        return self._observe(), 1.0, self._left == 0, False, {}

    def _observe(self) -> Any:
        return self._random.standard_normal(self.observation_space.shape, dtype=np.float32)


class Releases:
    """One policy in the registry: a package of which each release gets a copy with a digest of its own."""

    def __init__(self, mlflow: MlflowProcess, gateway: GatewayProcess, package: Path, scratch: Path) -> None:
        self._mlflow, self._gateway, self._scratch = mlflow, gateway, scratch
        self._package = load(package)
        self.name = self._package.manifest.name
        self.champion = self._publish("promoted")
        mlflow.alias(self.name, "champion", self.champion)
        wait_until(  # a worker that has not heard of a champion yet lets the fallback answer
            lambda: gateway.everywhere(self.name, lambda route: route["champion"] == self.champion),
            f"all workers route champion {self.champion}",
            120.0,
        )

    def _publish(self, status: str) -> str:
        directory = Path(tempfile.mkdtemp(dir=self._scratch))
        for name in self._package.manifest.files:
            (directory / name).write_bytes((self._package.directory / name).read_bytes())
        manifest = msgspec.structs.replace(
            self._package.manifest,
            training={"copy": directory.name},
            outcomes=Outcomes(episode_ttl_seconds=TTL_SECONDS),
        )
        return self._mlflow.publish(self.name, directory, write_manifest(directory, manifest), status)

    def cycle(self, after_write: Callable[[], None]) -> None:
        """Try a version in a canary, promote it and roll back. `after_write` is called when the registry changed."""
        old, new = self.champion, self._publish("approved")
        canary = {"generation": f"g{new}", "champion": old, "version": new, "weight": 0.5, "salt": "0a0b"}
        self._mlflow.tag(self.name, "canary", json.dumps({**canary, "started_at": time.time()}))
        after_write()
        self.shows("canary", new)
        self._mlflow.alias(self.name, "previous", old)
        self._mlflow.alias(self.name, "champion", new)
        self._mlflow.untag(self.name, "canary")
        self._mlflow.tag_version(self.name, new, "validation_status", "promoted")
        after_write()
        self.shows("champion", new)
        self._mlflow.alias(self.name, "champion", old)
        self._mlflow.tag_version(self.name, new, "validation_status", "rolled_back")
        after_write()
        self.shows("champion", old)

    def shows(self, key: str, version: str) -> None:
        """Wait until a worker shows it."""

        def there() -> bool:
            try:
                shown = self._gateway.client.policy(self.name)[key]
            except GatewayError:
                return False
            return bool((shown or {}).get("version") == version if key == "canary" else shown == version)

        wait_until(there, f"the gateway shows {key} {version}", 120.0)


class Killer:
    """Kills a random worker of a gateway at a random moment, after no more than `within` seconds."""

    def __init__(self, gateway: GatewayProcess, chance: random.Random, within: float = 0.3) -> None:
        self._gateway, self._chance, self._within = gateway, chance, within
        self.kills = 0

    def __call__(self) -> None:
        """Kill one, if one is left."""
        time.sleep(self._chance.uniform(0.0, self._within))
        workers = self._gateway.workers()
        if workers:
            try:
                self._chance.choice(workers).kill()
            except psutil.NoSuchProcess:
                return
            self.kills += 1


@dataclass
class Seen:
    """What the players of a run saw."""

    actions: int = 0
    episodes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    changes: list[str] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cycles: int = 0
    kills: int = 0


class Players:
    """Threads that play until they are told to stop; `play` is one thread's game, called again after a failure."""

    def __init__(self, play: Callable[[int, Seen, threading.Event], None]) -> None:
        self._play = play
        self._stopping = threading.Event()
        self._seen = [Seen() for _ in range(THREADS)]
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]
        self._began = time.monotonic()

    def __enter__(self) -> Players:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._stopping.is_set():
            try:
                self._play(number, self._seen[number], self._stopping)
            except Exception as error:  # noqa: BLE001 - whatever a user sees is what is counted
                self._seen[number].failures[f"{type(error).__name__}: {error}"[:200]] += 1

    @property
    def seen(self) -> Seen:
        """What all of them saw so far."""
        whole = Seen(seconds=time.monotonic() - self._began)
        for one in self._seen:
            whole.actions += one.actions
            whole.episodes += one.episodes
            whole.failures += one.failures
            whole.changes += one.changes
            whole.sources += one.sources
        return whole


def remote_play(gateway: GatewayProcess, policy: str) -> Callable[[int, Seen, threading.Event], None]:
    """Play with one RemotePolicy that all threads share; each watches environments of its own."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    remote = RemotePolicy(gateway.url, policy, patience=PATIENCE_SECONDS)
    space, choice = _spaces(gateway, policy)

    def play(number: int, seen: Seen, stopping: threading.Event) -> None:
        seeds = range(number * ENVIRONMENTS, (number + 1) * ENVIRONMENTS)
        env = remote.watch(DummyVecEnv([lambda seed=seed: Stroll(space, choice, seed) for seed in seeds]))
        observations, state, starts = env.reset(), None, np.ones(ENVIRONMENTS, dtype=bool)
        for turn in itertools.count():
            if stopping.is_set():
                return
            if turn % FRESH_STEPS == 0:
                remote.close()
            actions, state = remote.predict(observations, state, starts)
            said = remote.said
            assert said is not None
            seen.actions += len(actions)
            seen.sources.update(said.sources)
            for place, version, source in zip(state[0], said.versions, said.sources, strict=True):
                if place.episode.version != version:
                    seen.changes.append(f"{place.episode.version} to {version} ({source}, {place.episode.arm})")
            observations, _, starts, _ = env.step(actions)
            seen.episodes += int(starts.sum())

    return play


def raw_play(gateway: GatewayProcess, policy: str) -> Callable[[int, Seen, threading.Event], None]:
    """Play with requests that are sent once, whatever becomes of them."""
    client = GatewayClient(gateway.url, patience=0.0)
    space, _ = _spaces(gateway, policy)

    def play(number: int, seen: Seen, stopping: threading.Event) -> None:
        chance = np.random.default_rng(number)
        while not stopping.is_set():
            started = client.start_episodes(policy, [None] * ENVIRONMENTS)
            ids = [one["episode_id"] for one in started]
            client.close()
            length = int(chance.integers(5, 51))
            for _ in range(length):
                observations = chance.standard_normal((ENVIRONMENTS, *space.shape), dtype=np.float32)
                answer = client.act(policy, observations, ids)
                seen.actions += len(ids)
                seen.sources.update(answer["sources"])
                for one, version in zip(started, answer["versions"], strict=True):
                    if one["version"] != version:
                        seen.changes.append(f"{one['version']} to {version} (arm {one['arm']})")
            client.outcomes(policy, [{"episode_id": one, "return": float(length), "length": length} for one in ids])
            seen.episodes += len(ids)

    return play


def _spaces(gateway: GatewayProcess, policy: str) -> tuple[Any, Any]:
    document = gateway.client.policy(policy)
    shape = tuple(document["observation_space"]["shape"])
    return gymnasium.spaces.Box(-np.inf, np.inf, shape), gymnasium.spaces.Discrete(document["action_space"]["n"])


def run_cycles(
    releases: Releases,
    players: Players,
    cycles: int,
    actions: int,
    killer: Killer | None,
    chance: random.Random,
    progress: Callable[[Seen], None] = lambda seen: None,
) -> Seen:
    """Cycles of canary, promotion and rollback, a kill in each at one of its three writes, until there were enough.

    `progress` hears after each cycle what was seen so far.
    """
    done = 0
    with players:
        while done < cycles or players.seen.actions < actions:
            moment = chance.randrange(3)
            writes = iter(range(3))

            def written(moment: int = moment, writes: Any = writes) -> None:
                if next(writes) == moment and killer is not None:
                    killer()

            releases.cycle(written)
            done += 1
            progress(_told(players, done, killer))
    return _told(players, done, killer)


def _told(players: Players, cycles: int, killer: Killer | None) -> Seen:
    seen = players.seen
    seen.cycles, seen.kills = cycles, killer.kills if killer else 0
    return seen


@dataclass(frozen=True)
class Kept:
    """What became of acknowledged outcomes: `missing` and `changed` are those stored not at all or not as sent."""

    acknowledged: int
    failed: int
    stored: int
    missing: int
    changed: int
    kills: int
    seconds: float


def run_outcomes(gateway: GatewayProcess, policy: str, killer: Killer, kills: int) -> Kept:
    """Post outcomes from several threads while workers are killed, then read the database."""
    stopping = threading.Event()
    acknowledged: list[dict[str, float]] = [{} for _ in range(THREADS)]
    failed = [0] * THREADS
    signer = Signer(EPISODE_KEY)
    began = time.monotonic()

    def post(number: int) -> None:
        with GatewayClient(gateway.url, patience=PATIENCE_SECONDS) as client:
            value = float(number)
            while not stopping.is_set():
                ids = [one["episode_id"] for one in client.start_episodes(policy, [None] * ENVIRONMENTS)]
                for at in range(0, len(ids), 4):
                    outcomes = []
                    for one in ids[at : at + 4]:
                        value += THREADS
                        outcomes.append({"episode_id": one, "return": value, "length": 1})
                    try:
                        client.outcomes(policy, outcomes)
                    except GatewayError:
                        failed[number] += 1
                        continue
                    for one in outcomes:
                        acknowledged[number][signer.episode(one["episode_id"]).nonce] = one["return"]

    threads = [threading.Thread(target=post, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    while killer.kills < kills:
        wait_until(gateway.client.ready, "a worker is there to be killed", 120.0)
        killer()
    stopping.set()
    for thread in threads:
        thread.join()
    told = {nonce: value for one in acknowledged for nonce, value in one.items()}
    with sqlite3.connect(gateway.home / "airlock.db") as database:
        rows = database.execute("SELECT episode, episode_return FROM outcomes WHERE kind = 'reported'").fetchall()
    stored: dict[str, list[float]] = {}
    for episode, value in rows:
        stored.setdefault(episode, []).append(value)
    return Kept(
        acknowledged=len(told),
        failed=sum(failed),
        stored=len(rows),
        missing=sum(nonce not in stored for nonce in told),
        changed=sum(nonce in stored and stored[nonce] != [value] for nonce, value in told.items()),
        kills=killer.kills,
        seconds=time.monotonic() - began,
    )


def report_progress(console: Console, seen: Seen) -> None:
    """Print how far a run has come, every ten cycles."""
    if seen.cycles % PROGRESS_CYCLES == 0:
        console.print(
            f"{seen.seconds:.0f} s: {seen.cycles} cycles, {seen.kills} kills, {seen.actions:,} actions, "
            f"{seen.failures.total()} failures, {len(seen.changes)} changes of version"
        )


def report_cycles(console: Console, title: str, seen: Seen) -> bool:
    """Print what was seen; whether all is as it should be."""
    table = Table("", title)
    table.add_row("cycles", f"{seen.cycles}")
    table.add_row("workers killed", f"{seen.kills}")
    table.add_row("actions", f"{seen.actions:,}")
    table.add_row("episodes", f"{seen.episodes:,}")
    table.add_row("seconds", f"{seen.seconds:.0f}")
    table.add_row("answered by", ", ".join(f"{name} {count:,}" for name, count in seen.sources.items()))
    table.add_row("failures", f"{seen.failures.total()}")
    table.add_row("changes of version within an episode", f"{len(seen.changes)}")
    console.print(table)
    for what, count in seen.failures.most_common(EXAMPLES):
        console.print(f"failure, {count} times: {what}")
    for what, count in Counter(seen.changes).most_common(EXAMPLES):
        console.print(f"change of version, {count} times: {what}")
    return not seen.failures and not seen.changes


def report_outcomes(console: Console, kept: Kept) -> bool:
    """Print what became of outcomes; whether all is as it should be."""
    table = Table("", "outcomes, workers killed")
    table.add_row("workers killed", f"{kept.kills}")
    table.add_row("acknowledged", f"{kept.acknowledged:,}")
    table.add_row("seconds", f"{kept.seconds:.0f}")
    table.add_row("acknowledged, but not stored", f"{kept.missing}")
    table.add_row("stored twice, or not as sent", f"{kept.changed}")
    table.add_row("requests that failed", f"{kept.failed}")
    console.print(table)
    return not any([kept.missing, kept.changed, kept.failed])


def main() -> int:
    """Exit 1 when anything failed, changed or got lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__)
    parser.add_argument(
        "--cycles", type=int, default=100, help="of canary, promotion and rollback, in each of two runs"
    )
    parser.add_argument("--actions", type=int, default=1_000_000, help="at least so many in each of two runs")
    parser.add_argument("--kills", type=int, default=50, help="while outcomes are posted")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS, help="which of the three runs (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--package", type=Path, help="a policy package with Box observations and Discrete actions")
    parser.add_argument("--keep", type=Path, help="an empty directory for logs and databases, to look at afterwards")
    given = parser.parse_args()
    console = Console()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        home = given.keep or Path(scratch)
        package = given.package or served.make(home / "policy").package
        mlflow = MlflowProcess(home / "mlflow")
        try:
            gateway = GatewayProcess(home / "gateway", MLFLOW_TRACKING_URI=mlflow.url, AIRLOCK_WORKERS=str(WORKERS))
            try:
                releases = Releases(mlflow, gateway, package, home)
                name = releases.name
                killer = Killer(gateway, chance)
                progress = partial(report_progress, console)
                fine = True
                if "remote" in given.runs:
                    players = Players(remote_play(gateway, name))
                    remote = run_cycles(releases, players, given.cycles, given.actions, killer, chance, progress)
                    fine &= report_cycles(console, "RemotePolicy, workers killed", remote)
                if "outcomes" in given.runs:
                    kept = run_outcomes(gateway, name, Killer(gateway, chance), given.kills)
                    fine &= report_outcomes(console, kept)
                wait_until(lambda: len(gateway.workers()) == WORKERS, "all workers are back", 120.0)
                if "raw" in given.runs:
                    players = Players(raw_play(gateway, name))
                    raw = run_cycles(releases, players, given.cycles, given.actions, None, chance, progress)
                    fine &= report_cycles(console, "requests sent once, no worker killed", raw)
            finally:
                gateway.stop()
        finally:
            mlflow.stop()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
