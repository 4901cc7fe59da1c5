"""How often verdicts err, and how soon they come, by simulation beside what one would use instead.

`python -m benchmarks.error_rates [--canaries N]` prints every table, seeds fixed: a look after every unit, 5 % a side,
a margin of a tenth of a standard deviation, up to 2,000 units an arm; shares with their 95 % binomial intervals. At
2,000 canaries it takes about a quarter of an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import beta

from benchmarks.simulated_canaries import BUDGET, WORLDS, Canaries, Environment, World, first_episodes, simulate
from benchmarks.stopping_rules import ALPHA, NEVER, RULES, Rule, airlock
from tasks.analysis.judge import anchor, guardrails
from tasks.analysis.judge.anchor import Anchor
from tasks.analysis.judge.plan import CanaryPlan
from tasks.analysis.judge.units import Units
from tasks.analysis.judge.verdict import Evidence, judge
from tasks.analysis.sequential import mean_difference, rates, sample_ratio

ENVIRONMENTS: tuple[Environment, ...] = ("still", "flipping", "200 users", "1,000 Zipf users")
LOSSES = {2.0: 300, 1.0: 600, 0.5: 1600, 0.2: 4000}
"""Losses in standard deviations, and enough units in both arms together to find nearly all of them."""

RELEASES, LOSS_A_RELEASE = 20, 0.02


@dataclass(frozen=True)
class Share:
    """`count` of `trials`."""

    count: int
    trials: int

    def __str__(self) -> str:
        low, high = (100 * bound for bound in self.interval)
        return f"{100 * self.count / self.trials:.1f} % ({low:.1f} to {high:.1f})"

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's 95 % interval."""
        low = beta.ppf(0.025, self.count, self.trials - self.count + 1) if self.count else 0.0
        high = beta.ppf(0.975, self.count + 1, self.trials - self.count) if self.count < self.trials else 1.0
        return float(low), float(high)


@dataclass(frozen=True)
class Ended:
    """How canaries ended."""

    promoted: Share
    rolled_back: Share


@cache
def ended(rule: Rule, world: World, environment: Environment, difference: float, canaries: int, seed: int) -> Ended:
    """How a rule ends canaries; promotion and rollback at one look is rollback."""
    promoted = rolled_back = 0
    for part in simulate(world, environment, difference, canaries, seed):
        promote, roll_back = rule(part)
        promoted += int((promote < roll_back).sum())
        rolled_back += int(((roll_back <= promote) & (roll_back < NEVER)).sum())
    return Ended(Share(promoted, canaries), Share(rolled_back, canaries))


def median_units(world: World, loss: float, canaries: int, seed: int, *, wide: bool = False) -> float:
    """Median units an arm until a loss, in standard deviations, is rolled back; `wide`: bounds twice as far apart."""
    found = []
    for part in simulate(world, "still", -loss, canaries, seed, LOSSES[loss]):
        low, high = part.bounds or (0.0, 0.0)
        stated = replace(part, bounds=((3 * low - high) / 2, (3 * high - low) / 2)) if wide else part
        found.append(airlock(stated)[1])
    return float(np.median(np.concatenate(found))) / 2


def chains(world: World, count: int, seed: int, *, anchored: bool) -> Share:
    """Chains of releases, each a little worse than its champion, that end more than a margin below where they began."""
    anchors: list[Anchor] = [Anchor("0", 0.0)] * count
    promotions = np.zeros(count, dtype=int)
    for release in range(RELEASES):
        begin = 0
        for part in simulate(world, "still", -LOSS_A_RELEASE, count, seed + release):
            rows = slice(begin, begin := begin + len(part.returns))
            floors = [
                anchor.floor("non_inferiority", part.margin, since if anchored else None) for since in anchors[rows]
            ]
            promote, roll_back = airlock(part, np.array(floors)[:, None])
            for row in np.flatnonzero(promote < roll_back):
                place = rows.start + int(row)
                promotions[place] += 1
                if not anchored:
                    continue
                lower = max(floors[row], _lower(part, int(row), int(promote[row])))
                anchors[place] = anchor.after(anchors[place], version=str(release), champion="c", lower=lower)
    return Share(int((promotions * LOSS_A_RELEASE > 0.1 + 1e-9).sum()), count)


def _lower(part: Canaries, row: int, units: int) -> float:
    low, high = part.bounds or (0.0, 1.0)
    scaled = (part.returns[row, :units] - low) / (high - low)
    score, bound = mean_difference.scores(part.challenger[row, :units], scaled)
    return mean_difference.confidence(score, bound, ALPHA, part.margin / (high - low))[0] * (high - low)


def sample_ratio_alarms(environment: Environment, share: float, canaries: int, seed: int) -> tuple[Share, float]:
    """Alarms of the sample-ratio test on units at assignment, and the median unit they come at (inf: mostly never)."""
    generator, at = np.random.default_rng(seed), []
    if environment == "still":
        assigned: Iterator[np.ndarray] = (generator.random(2 * BUDGET) < share for _ in range(canaries))
    else:
        units = (first_episodes(part) for part in simulate(WORLDS[2], environment, 0.0, canaries, seed))
        assigned = (row[:valid] for part in units for row, valid in zip(part.challenger, part.valid, strict=True))
    for row in assigned:
        hit = sample_ratio.log_evidence(row) >= math.log(1.0 / sample_ratio.ALPHA)
        at.append(int(hit.argmax()) + 1 if hit.any() else math.inf)
    return Share(sum(math.isfinite(one) for one in at), canaries), float(np.median(at))


def rate_alarms(control: float, challenger: float, canaries: int, seed: int) -> tuple[Share, float]:
    """Alarms of the rate test at 1 %, and the median units an arm they come at."""
    generator, at = np.random.default_rng(seed), []
    for _ in range(canaries):
        arm = generator.random(2 * BUDGET) < 0.5
        happened = generator.random(2 * BUDGET) < np.where(arm, challenger, control)
        hit = rates.Rate().feed(arm, happened) >= math.log(1.0 / guardrails.ALPHA)
        at.append((int(hit.argmax()) + 1) / 2 if hit.any() else math.inf)
    return Share(sum(math.isfinite(one) for one in at), canaries), float(np.median(at))


def whole_judge(world: World, environment: Environment, canaries: int, seed: int) -> dict[str, Share]:
    """How the judge ends canaries of equal arms with every guardrail on, 2 % of units lost and faulted in both."""
    generator = np.random.default_rng(seed + 1)
    found = dict.fromkeys(("promote", "roll_back", "sample ratio", "budget spent"), 0)
    for part in simulate(world, environment, 0.0, canaries, seed):
        for row in range(len(part.returns)):
            units = _units(part, row, generator)
            said = judge(Evidence(units), _plan(part))
            split = any(rail.id == "sample_ratio" and rail.fired for rail in said.guardrails)
            found["sample ratio" if split else said.verdict if said.verdict in found else "budget spent"] += 1
    return {name: Share(count, canaries) for name, count in found.items()}


def _units(part: Canaries, row: int, generator: np.random.Generator) -> Units:
    arm = part.challenger[row]
    befell = {
        kind: generator.random(len(arm)) < rate for kind, rate in zip(guardrails.RATES, (0.02, 0.02, 0.1), strict=True)
    }
    abandoned = generator.random(len(arm)) < 0.02
    returns = np.where(abandoned, part.bounds[0], part.returns[row]) if part.bounds else part.returns[row]
    return Units(arm, arm, returns, abandoned, {"control": int((~arm).sum()), "challenger": int(arm.sum())}, 0, befell)


def _plan(part: Canaries) -> CanaryPlan:
    return CanaryPlan(
        policy="p", version="2", champion="1", generation="g", steps=(0.5,), units_per_step=1,
        objective="non_inferiority", margin=part.margin, alpha=ALPHA, bounds=part.bounds, clipped=False,
        abandoned_return=None, threshold=0.0, max_units_per_arm=BUDGET, max_hours=1e9, latency_slo_ms=50.0,
    )  # fmt: skip


def _speed_of_analysis(console: Console, canaries: int) -> None:
    """Wall time of `airlock analyze` as a whole process, and of a million units in one canary without a verdict."""
    generator, table = np.random.default_rng(20), _table("Analysis", "what", "seconds")
    replays = max(canaries // 2, 1)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "canaries.jsonl"
        with path.open("w") as file:
            for number in range(replays):
                arm = np.where(generator.random(BUDGET) < 0.5, "challenger", "control").tolist()
                rules = {"return_range": [0, 1], "margin": 0.0178, "alpha": ALPHA, "max_units_per_arm": BUDGET}
                returns = generator.beta(4, 2, BUDGET).tolist()
                file.write(json.dumps({"id": number, "arm": arm, "return": returns, **rules}) + "\n")
        command = [sys.executable, "-c", "from tasks.cli import main; main()", "analyze", str(path)]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        table.add_row(f"{replays:,} replays of {BUDGET:,} units", f"{time.perf_counter() - began:.1f}")
    generator = np.random.default_rng(0)
    challenger, returns = generator.random(1_000_000) < 0.5, generator.beta(4, 2, 1_000_000)
    began = time.perf_counter()
    found = mean_difference.decide(
        challenger, returns, bounds=(0, 1), margin=0.01, alpha=ALPHA, objective="superiority"
    )
    table.add_row(f"{found.units:,} units of one canary", f"{time.perf_counter() - began:.1f}")
    console.print(table)


def _errors(console: Console, canaries: int) -> None:
    table = _table("Verdicts by the truth (difference in standard deviations)", "world", "environment")
    for name in ("equal: rolled back", "equal: promoted", "-.1 (the margin): promoted", "-.2: promoted"):
        table.add_column(name)
    for world in WORLDS:
        for environment in ENVIRONMENTS:
            cells = [ended(airlock, world, environment, truth, canaries, 11) for truth in (0.0, -0.1, -0.2)]
            shares = [cells[0].rolled_back, cells[0].promoted, cells[1].promoted, cells[2].promoted]
            table.add_row(world.name, environment, *map(str, shares))
    console.print(table)


def _speed(console: Console, canaries: int) -> None:
    table = _table("Median units an arm until rollback, by the loss in standard deviations", "world")
    for loss in LOSSES:
        table.add_column(f"{loss:g}")
    for world in WORLDS:
        table.add_row(world.name, *(f"{median_units(world, loss, canaries, 12):g}" for loss in LOSSES))
        if world.bounded:
            medians = (median_units(world, loss, canaries, 12, wide=True) for loss in LOSSES)
            table.add_row(f"{world.name}, stated range twice as wide", *(f"{median:g}" for median in medians))
    console.print(table)


def _rivals(console: Console, canaries: int) -> None:
    rows = [(world, environment) for world in WORLDS for environment in ENVIRONMENTS]
    still = [(world, ENVIRONMENTS[0]) for world in WORLDS]
    for truth, what, cells in (
        (0.0, "Equal arms: rolled back", rows),
        (0.0, "Equal arms: promoted", still),
        (-0.2, "Twice the margin worse: promoted", still),
    ):
        table = _table(what, "world", "environment", *RULES)
        for world, environment in cells:
            shares = []
            for name, rule in RULES.items():
                if name == "pairing" and not world.bounded:
                    shares.append("-")
                    continue
                found = ended(rule, world, environment, truth, canaries, 11)
                shares.append(str(found.rolled_back if "rolled" in what else found.promoted))
            table.add_row(world.name, environment, *shares)
        console.print(table)


def _chains(console: Console, canaries: int) -> None:
    table = _table(
        f"{RELEASES} releases, each -{LOSS_A_RELEASE}: end more than a margin below", "world", "anchor", "none"
    )
    shares = (str(chains(WORLDS[2], canaries, 14, anchored=anchored)) for anchored in (True, False))
    table.add_row(WORLDS[2].name, *shares)
    console.print(table)


def _tests(console: Console, canaries: int) -> None:
    table = _table("Guardrail tests at 1 %", "test", "alarms", "median units")
    for environment in ("still", *ENVIRONMENTS[2:]):
        share, _ = sample_ratio_alarms(environment, 0.5, canaries, 15)
        table.add_row(f"sample ratio, fair, {environment}", str(share), "-")
    share, units = sample_ratio_alarms("still", 0.45, canaries, 16)
    table.add_row("sample ratio, 45/55", str(share), f"{units:g}")
    for rate in (0.001, 0.02, 0.1):
        table.add_row(f"rates, {rate:g} in both arms", str(rate_alarms(rate, rate, canaries, 17)[0]), "-")
    share, units = rate_alarms(0.001, 0.02, canaries, 18)
    table.add_row("rates, 0.1 % against 2 %", str(share), f"{units:g} an arm")
    console.print(table)


def _judge(console: Console, canaries: int) -> None:
    allowed = guardrails.budget(ALPHA, first_release=False)
    limits = f"{100 * allowed['roll_back']:g} % and {100 * allowed['inconclusive']:g} %"
    table = _table(f"The whole judge on equal arms (budgets: {limits})", "world", "environment")
    for name in ("rolled back", "broken split", "promoted", "units spent"):
        table.add_column(name)
    for world in WORLDS:
        for environment in ENVIRONMENTS[:2]:
            found = whole_judge(world, environment, canaries, 19)
            order = ("roll_back", "sample ratio", "promote", "budget spent")
            table.add_row(world.name, environment, *(str(found[name]) for name in order))
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    return table


def main() -> None:
    """Simulate, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canaries", type=int, default=2000, help="canaries a cell")
    canaries = parser.parse_args().canaries
    console = Console(width=180)
    for show in (_speed_of_analysis, _errors, _speed, _tests, _chains, _judge, _rivals):
        show(console, canaries)


if __name__ == "__main__":
    main()
