"""Online learning from a weak champion's log: how much better it gets, and what a poisoned log does.

`python -m benchmarks.learning [--seeds N] [--episodes N]` trains a weak SAC champion of `pendulum` for each seed, lets
the gateway's core play its exploring package, and learns from what was logged, without any environment. Gains are of
deterministic policies, over paired seeds, with 95 % bootstrap intervals; canaries are simulated with the returns of the
policies as they are served. One seed takes some minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.in_process_gateway import Production, Report, exploring_package
from bentos.store import tables
from tasks.build.training.agent import Agent
from tasks.build.training.rollout import bootstrap_interval, play
from tasks.build.training.train import train_model
from tasks.canary.simulation import Rules
from tasks.canary.simulation import play as canary
from tasks.learning import dataset, log
from tasks.learning.candidate import acting, alike
from tasks.learning.evaluation import Verdict, judge, worth
from tasks.learning.log import Found, Wanted
from tasks.learning.trainable import Champion, trainable
from tasks.spec.files import load
from tasks.spec.params import Params, effective
from tasks.spec.sections import Learn, PolicySpec
from tasks.stages.learn import fine_tuned

WEAK_STEPS = 2_500
PAIRED = 200
EVALUATION = 3_000_000
TRAFFIC = 4_000_000
CANARIES = 20

Floats = npt.NDArray[np.float64]


def honest(reward: float) -> float:
    """A client that says what it saw."""
    return reward


def inverted(reward: float) -> float:
    """A forger who turns good into bad."""
    return -reward


def mirrored(reward: float) -> float:
    """A forger who turns good into bad and stays within the range of rewards and, mostly, of returns."""
    return -9.0 - reward


@dataclass(frozen=True)
class Weak:
    """A weak champion, its log, and what it earns, as it is evaluated and as it is served."""

    champion: Champion
    spec: PolicySpec
    package: Path
    evaluated: Floats
    served: Floats


def returns(spec: PolicySpec, agent: Agent, deterministic: bool) -> Floats:
    """Returns over the paired seeds."""
    seeds = range(EVALUATION, EVALUATION + PAIRED)
    act = acting(agent, not deterministic, 0).act
    return play(spec.environment, lambda given: {"action": act(given["observation"])}, seeds).returns


def prepare(seed: int, directory: Path) -> Weak:
    """Train a weak champion and package it."""
    spec = effective(load("pendulum"), Params(seed=seed, timesteps=WEAK_STEPS))
    spec = spec.model_copy(update={"learn": Learn(seed=seed)})
    train_model(spec, directory)
    champion = Champion(directory, spec.train.algorithm)
    exploring_package(champion.zip, directory / "package", spec)
    agent = champion.agent()
    return Weak(champion, spec, directory / "package", returns(spec, agent, True), returns(spec, agent, False))


def logged(weak: Weak, database: Path, episodes: int, seed: int, say: Report) -> Found:
    """Let the champion serve, and read its log."""
    url = f"sqlite:///{database}"
    production = Production(weak.package, url)
    first = TRAFFIC + 10_000 * seed
    production.play(weak.spec, range(first, first + episodes), say)
    production.close()
    agent = weak.champion.agent()
    from tasks.build.training.environments import describe

    wanted = Wanted(
        weak.spec.name,
        "float32",
        agent.model.observation_space.shape,
        describe(agent.model.action_space),
        weak.spec.canary.bounds,
        None,
        200 * episodes,
    )
    with tables.connect(url).connect() as connection:
        return log.collect(connection, wanted)


@dataclass(frozen=True)
class Learned:
    """A candidate, what the log says of it, and what is true of it."""

    verdict: Verdict
    gains: Floats
    canaries: dict[str, int]
    seconds: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean gain."""
        return bootstrap_interval(self.gains)


def learn(weak: Weak, found: Found, directory: Path) -> Learned:
    """A dataset, a candidate, its evaluation from the log; then, and only then, the truth."""
    settings = weak.spec.learn or Learn()
    assert found.transitions is not None
    dataset.write(found.transitions, directory / "transitions.parquet", {})
    data, _ = dataset.read(directory / "transitions.parquet")
    held = data.held_out(settings.holdout)
    training = data.only(~held)
    started = time.monotonic()
    agent = trainable(weak.spec, weak.champion, settings.seed)
    from tasks.build.training.environments import describe

    space = describe(agent.model.action_space)
    fine_tuned(agent, training, settings, lambda given: worth(training, space, acting(given, True, settings.seed).act))
    seconds = time.monotonic() - started
    served = weak.champion.agent()
    champion = acting(served, True, settings.seed).act
    verdict = judge(
        training,
        data.only(held),
        space,
        acting(agent, True, settings.seed),
        champion,
        settings.alpha,
        settings.seed,
        settings.require,
        alike(agent, served, data.observation),
    )
    gains = returns(weak.spec, agent, True) - weak.evaluated
    return Learned(verdict, gains, canaries(weak, returns(weak.spec, agent, False)), seconds)


def canaries(weak: Weak, challenger: Floats) -> dict[str, int]:
    """Verdicts of simulated superiority canaries by the spec's own rules."""
    rules = weak.spec.canary
    bounds = rules.bounds
    assert bounds is not None
    most = rules.max_units_per_arm
    plan = Rules("superiority", rules.margin, rules.alpha, bounds, most, 2 * most)
    ended = [
        canary(plan, weak.served.clip(*bounds), challenger.clip(*bounds), np.random.default_rng(number)).verdict
        for number in range(CANARIES)
    ]
    return {verdict: ended.count(verdict) for verdict in ("promote", "roll_back", "inconclusive")}  # type: ignore[arg-type]


def main() -> None:
    """Run it and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed; its logs are poisoned, too, if it is 0")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for seed in range(options.first, options.first + options.seeds):
            directory = Path(name) / str(seed)
            directory.mkdir()
            weak = prepare(seed, directory)
            for title, say in (("honest", honest), ("inverted", inverted), ("mirrored", mirrored)):
                if title != "honest" and seed > 0:
                    continue
                found = logged(weak, directory / f"{title}.db", options.episodes, seed, say)
                row = {"seed": seed, "log": title, "champion": float(weak.evaluated.mean())}
                row |= {"left_out": found.left_out, "suspect": found.suspect}
                settings = weak.spec.learn or Learn()
                if found.transitions is None or found.suspect > settings.max_suspect:
                    rows.append(row | {"refused": True})
                else:
                    learned = learn(weak, found, directory)
                    low, high = learned.interval
                    rows.append(
                        row
                        | {
                            "refused": False,
                            "transitions": len(found.transitions),
                            "gain": float(learned.gains.mean()),
                            "lower": low,
                            "upper": high,
                            "ope": learned.verdict.document(),
                            "canaries": learned.canaries,
                            "seconds": learned.seconds,
                        }
                    )
                sys.stderr.write(json.dumps(rows[-1]) + "\n")
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=2) + "\n")
    Console(width=150).print(table(rows))


def table(rows: list[dict[str, Any]]) -> Table:
    """What was found, a row a log."""
    shown = Table("seed", "log", "champion", "gain (95 %)", "evaluation from the log", "canaries", "seconds")
    for row in rows:
        start = (str(row["seed"]), row["log"], f"{row['champion']:.0f}")
        if row["refused"]:
            shown.add_row(*start, "", f"refused: {row['suspect']:.0%} suspect {row['left_out']}", "", "")
            continue
        ended = ", ".join(f"{count} {verdict}" for verdict, count in row["canaries"].items() if count)
        said = f"{'passes' if row['ope']['passed'] else 'no'}: {row['ope']['reason']}"
        gain = f"{row['gain']:.0f} [{row['lower']:.0f}, {row['upper']:.0f}]"
        shown.add_row(*start, gain, said, ended, f"{row['seconds']:.0f}")
    return shown


if __name__ == "__main__":
    main()
