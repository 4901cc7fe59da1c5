"""What reading costs in a store that has grown.

`python -m benchmarks.store_growth` has 10,000,000 outcomes and needs PostgreSQL.

Each piece of work is timed in a warm cache, and its statements are run again under EXPLAIN (ANALYZE, BUFFERS): rows and
pages do not depend on the machine. Beside a look stands the naive way, which finds the canary's rows without an index.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from benchmarks.large_store import BEGAN, BETWEEN, TABLES, Life, fill
from benchmarks.query_plans import Plan, explained, statements
from bentos.package.manifest import Outcomes
from bentos.store import tables
from bentos.store.abandonment import sweep
from bentos.store.retention import Retention
from plugins.console import charts
from tasks.alerts import readings
from tasks.analysis.judge.plan import CanaryPlan
from tasks.canary import champion_returns, lifecycle, results, units
from tasks.checklist.post_deployment import reported_returns
from tasks.tracking.registry import Model, Version

ROUNDS = 3
PLACE = 2
"""The policy that is looked at."""


@dataclass(frozen=True)
class Cost:
    """The best of `ROUNDS` turns in seconds, and what the database did for it."""

    name: str
    seconds: float
    plans: tuple[Plan, ...]

    @property
    def rows(self) -> int:
        """Rows read, also those thrown away."""
        return sum(plan.rows for plan in self.plans)

    @property
    def pages(self) -> int:
        """Pages touched, of 8 KiB."""
        return sum(plan.pages for plan in self.plans)


class RunningCanary:
    """The registry, as it says that a canary runs."""

    def __init__(self, plan: CanaryPlan) -> None:
        document = {"generation": plan.generation, "champion": plan.champion, "version": plan.version}
        tag = {**document, "weight": 0.5, "salt": "s", "step": 2, "started_at": time.time() - 60}
        self._model = Model({"champion": str(plan.champion)}, {"canary": json.dumps(tag)})

    def __enter__(self) -> RunningCanary:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def model(self, _policy: str) -> Model:
        """The registered model."""
        return self._model


def plan_of(life: Life) -> CanaryPlan:
    """The plan of the last canary of the policy that is looked at: long, undecided."""
    return CanaryPlan(
        policy=life.policy(PLACE),
        version=str(life.canaries + 1),
        champion=str(life.canaries),
        generation=life.last,
        steps=(0.05, 0.25, 0.5),
        units_per_step=100,
        objective="superiority",
        margin=0.0,
        alpha=0.05,
        bounds=(0.0, 500.0),
        clipped=False,
        abandoned_return=0.0,
        threshold=100.0,
        max_units_per_arm=10_000_000,
        max_hours=1000.0,
        latency_slo_ms=50.0,
    )


def measured(engine: sa.Engine, name: str, work: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> Cost:
    """What `work` costs; `before` each turn, unmeasured."""
    best = float("inf")
    for _ in range(ROUNDS):
        before()
        with statements(engine) as sent:
            began = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - began)
    return Cost(name, best, tuple(explained(engine, sent)))


def measure(engine: sa.Engine, life: Life) -> list[Cost]:
    """All there is to measure, the looks first."""
    plan, policy = plan_of(life), life.policy(PLACE)
    tried = Version(plan.version, "run", {"generation": plan.generation, "validation_status": "approved"})

    def look() -> dict[str, Any]:
        with patch("tasks.canary.evidence.Registry", lambda: RunningCanary(plan)):
            return lifecycle.look(policy, plan.generation, plan.to_json())

    def in_transaction(work: Callable[[sa.Connection], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with engine.begin() as connection:
                return work(connection)

        return run

    forget = units.kept.cache_clear
    settings = Outcomes(return_range=(0.0, 500.0), episode_ttl_seconds=900.0)
    one_sweep = in_transaction(lambda one: sweep(one, policy, settings))
    grow = Growth(engine, life)
    return [
        measured(engine, "a look of a new process, the whole canary", look, forget),
        measured(engine, "the next look, nothing new", look),
        measured(engine, f"the next look, {Growth.OURS} new units", look, grow),
        measured(engine, "the canary's rows the naive way, no index", lambda: naive(engine, plan)),
        measured(engine, "airlock results", lambda: results.summary(plan, tried), forget),
        measured(engine, "the console's charts", lambda: charts.charts(policy)),
        measured(engine, "a version's counters", lambda: readings.counters(engine, policy, str(plan.champion))),
        measured(
            engine,
            "the champion's returns, for a plan",
            lambda: champion_returns.stored(policy, str(life.canaries // 2)),
        ),
        measured(engine, "the monitor's returns", lambda: reported_returns(engine, policy, str(life.canaries // 2))),
        measured(
            engine,
            "traffic of the last day, for a plan",
            lambda: champion_returns.traffic(policy, BEGAN + BETWEEN * life.rows),
        ),
        measured(engine, "a sweep", one_sweep, lambda: caught_up(engine, policy, one_sweep)),
        measured(engine, "retention, a turn", in_transaction(lambda one: Retention().run(one))),
    ]


def caught_up(engine: sa.Engine, policy: str, one_sweep: Callable[[], Any]) -> None:
    """Sweep until the sweeps have come to the end, as those of a living gateway have."""
    place = sa.select(tables.swept.c.start_seq).where(tables.swept.c.policy == policy)
    before, now = None, -1
    while before != now:
        one_sweep()
        with engine.connect() as connection:
            before, now = now, connection.execute(place).scalar()


class Growth:
    """What comes between two looks: a few units of the canary among many of others."""

    OURS, OTHERS = 100, 2000

    def __init__(self, engine: sa.Engine, life: Life) -> None:
        self._engine = engine
        self._life = life
        self._turn = 0

    def __call__(self) -> None:
        """Store them."""
        self._turn += 1
        rows = [
            {
                "episode": f"new-{self._turn}-{number}",
                "policy": self._life.policy(PLACE if number < self.OURS else 0),
                "generation": self._life.last,
                "arm": "challenger" if number % 2 else "control",
                "version": str(self._life.canaries + number % 2),
            }
            for number in range(self.OURS + self.OTHERS)
        ]
        at = time.time()
        started = [{**row, "unit": row["episode"], "started_at": at} for row in rows]
        ended = [{**row, "episode_return": 350.0, "length": 1, "kind": "reported", "recorded_at": at} for row in rows]
        with self._engine.begin() as connection:
            connection.execute(tables.episodes.insert(), started)
            connection.execute(tables.outcomes.insert(), ended)


def naive(engine: sa.Engine, plan: CanaryPlan) -> None:
    """The canary's returns by reading starts from end to end: an expression keeps the index out of it."""
    starts, ends = tables.episodes.c, tables.outcomes.c
    query = (
        sa.select(starts.arm, ends.episode_return)
        .join_from(tables.episodes, tables.outcomes, starts.episode == ends.episode)
        .where(sa.func.coalesce(starts.policy, "") == plan.policy)
        .where(sa.func.coalesce(starts.generation, "") == plan.generation)
        .order_by(starts.start_seq)
    )
    with engine.connect() as connection:
        connection.execute(query).all()


def sizes(engine: sa.Engine) -> dict[str, tuple[int, int]]:
    """Bytes of each table and of its indexes."""
    with engine.connect() as connection:
        return {
            table: tuple(
                connection.exec_driver_sql(f"SELECT pg_table_size('{table}'), pg_indexes_size('{table}')").one()
            )
            for table in TABLES
        }


def show(costs: list[Cost], space: dict[str, tuple[int, int]], life: Life, out: Console) -> None:
    """The figures, each beside the naive way."""
    table = Table(title=f"{life.rows:,} outcomes, {life.policies} policies, {life.canaries} canaries each")
    for name in ("", "ms", "rows read", "pages of 8 KiB", "naive / this"):
        table.add_column(name, justify="left" if not name else "right")
    slow = next(cost for cost in costs if "naive" in cost.name)
    for cost in costs:
        ratio = f"{slow.seconds / cost.seconds:,.0f}"
        table.add_row(cost.name, f"{1000 * cost.seconds:,.1f}", f"{cost.rows:,}", f"{cost.pages:,}", ratio)
    out.print(table)
    for name, (rows, indexes) in space.items():
        each = (rows + indexes) / life.rows
        out.print(f"{name}: {rows / 2**30:.2f} GiB and {indexes / 2**30:.2f} GiB of indexes, {each:.0f} bytes a row")


def main() -> None:
    """Fill a database and measure; or measure one that is filled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="outcomes, each with its episode")
    parser.add_argument("--database", help="a PostgreSQL URL; what it holds is replaced unless --filled")
    parser.add_argument("--filled", action="store_true", help="measure what an earlier run left in --database")
    given = parser.parse_args()
    life = Life(given.rows)
    with (
        nullcontext(given.database) if given.database else own_database() as url,
        tempfile.TemporaryDirectory() as home,
        patch.dict("os.environ", {"AIRLOCK_HOME": home, "AIRLOCK_DATABASE_URL": url}),
    ):
        engine = tables.connect(url)
        if not given.filled:
            began = time.perf_counter()
            fill(engine, life)
            sys.stderr.write(f"filled in {time.perf_counter() - began:.0f} s\n")
        costs, space = measure(engine, life), sizes(engine)
    show(costs, space, life, Console())


@contextmanager
def own_database() -> Iterator[str]:
    """The URL of a database in a cluster of its own."""
    from tests.servers.postgres import Cluster

    cluster = Cluster()
    try:
        yield cluster.database()
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
