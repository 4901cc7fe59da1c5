"""Pruning: what ended long ago leaves Airlock's database, a batch at a time, beside living gateways.

A canary goes as a whole, its starts before its outcomes: what is left of one that was being pruned is of no policy's
verdict, and no sweep takes it for open. What young decisions, a verdict or a baseline may still be made from, stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from bentos import settings
from bentos.store import commit_order, tables
from bentos.store.commit_order import START
from tasks.canary.champion_returns import LATEST
from tasks.control.writes import canary_of
from tasks.errors import Misconfigured
from tasks.tracking.registry import Model, Registry

BATCH = 5_000
"""Rows of a transaction: so long may a gateway's write have to wait."""

DAY = 86_400.0


@dataclass
class Pruned:
    """What left the store (or would) of one policy: canaries, and rows by table. `skipped` says why nothing did."""

    policy: str
    canaries: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    skipped: str | None = None

    def add(self, table: sa.Table, count: int) -> None:
        """Count rows."""
        if count:
            self.rows[table.name] = self.rows.get(table.name, 0) + count


@dataclass(frozen=True)
class Keep:
    """What stays of a policy: generations as a whole; of a version all outcomes from a number on (see `LATEST`)."""

    generations: frozenset[str]
    outcomes: dict[str, int]


def prune(
    older_than_days: float, policy: str | None = None, *, dry_run: bool = False, now: float | None = None
) -> list[Pruned]:
    """Delete what is older, of one policy or all; with `dry_run` only count it. Killed, it goes on when called again.

    Raises Misconfigured for a number of days below 1, and RegistryUnavailable while MLflow does not answer: without it
    nobody can say which canary runs.
    """
    if not older_than_days >= 1:
        raise Misconfigured(f"expected at least 1 day, came {older_than_days:g}: younger rows may still be needed")
    engine = tables.connect(settings.database_url())
    before = _before(engine, (time.time() if now is None else now) - DAY * older_than_days)
    with Registry() as registry:
        chosen = [policy] if policy else _names(engine)
        return [_prune(engine, registry, name, before, dry_run) for name in chosen]


def _before(engine: sa.Engine, wanted: float) -> float:
    """When what may go was stored at the latest: not after the first logged decision, whose episode learning needs."""
    table = tables.decisions.c
    with engine.connect() as connection:
        first = connection.execute(sa.select(table.at).order_by(table.id).limit(1)).scalar()
    return wanted if first is None else min(wanted, float(first))


def _names(engine: sa.Engine) -> list[str]:
    names = {name for table in (tables.episodes, tables.outcomes) for name in _distinct(engine, table.c.policy)}
    return sorted(names)


def _prune(engine: sa.Engine, registry: Registry, policy: str, before: float, dry_run: bool) -> Pruned:
    model = registry.model(policy)
    if model is None:
        return Pruned(policy, skipped="the registry does not know it, so nobody can say what of it is needed")
    found = Pruned(policy)
    keep = _keep(engine, registry, policy, model)
    generations = {
        generation
        for table in (tables.episodes, tables.outcomes)
        for generation in _distinct(engine, table.c.generation, table.c.policy == policy)
    }
    for generation in sorted(generations - keep.generations - {""}):
        if _ended(engine, policy, generation, before) and not _needed(engine, policy, generation, keep):
            found.canaries += 1
            for table in (tables.episodes, tables.outcomes, tables.arm_stats):
                ours = (table.c.policy == policy, table.c.generation == generation)
                found.add(table, _delete(engine, table, ours, dry_run))
    _outside(engine, policy, before, keep, dry_run, found)
    reports = tables.monitor_reports
    newest = sa.select(sa.func.max(reports.c.id)).where(reports.c.policy == policy).scalar_subquery()
    old = (reports.c.policy == policy, reports.c.at < before, reports.c.id != newest)
    found.add(reports, _delete(engine, reports, old, dry_run))
    counters = tables.arm_stats
    left = (counters.c.policy == policy, counters.c.generation == "", counters.c.updated_at < before)
    found.add(counters, _delete(engine, counters, (*left, counters.c.version.not_in(keep.outcomes)), dry_run))
    return found


def _keep(engine: sa.Engine, registry: Registry, policy: str, model: Model) -> Keep:
    """The running canary, that which was tried last, and those of aliased versions; and what a baseline is made of."""
    canary = canary_of(policy, model)
    aliased = {version for version in model.aliases.values() if version}
    tried = [found for found in registry.versions(policy) if found.tags.get("generation")]
    wanted = {found.tags["generation"] for found in tried if found.version in aliased or found is tried[-1]}
    if canary is not None:
        wanted.add(canary.generation)
        aliased.add(canary.version)
    table = tables.outcomes.c
    first: dict[str, int] = {}
    with engine.connect() as connection:
        for version in aliased:
            query = (
                sa.select(table.outcome_seq)
                .where(table.policy == policy, table.version == version)
                .order_by(table.outcome_seq.desc())
                .offset(LATEST - 1)
                .limit(1)
            )
            first[version] = int(connection.execute(query).scalar() or 0)
    return Keep(frozenset(wanted), first)


def _distinct(engine: sa.Engine, column: sa.Column[str], *where: sa.ColumnElement[bool]) -> Iterator[str]:
    """The values of an index's next column, each found by a look of its own: not by reading all rows."""
    with engine.connect() as connection:
        found = connection.execute(sa.select(sa.func.min(column)).where(*where)).scalar()
        while found is not None:
            yield str(found)
            found = connection.execute(sa.select(sa.func.min(column)).where(*where, column > found)).scalar()


def _ended(engine: sa.Engine, policy: str, generation: str, before: float) -> bool:
    """Whether the last that is known of a canary is old."""
    ends = ((tables.outcomes, "recorded_at", "outcome_seq"), (tables.episodes, "started_at", "start_seq"))
    with engine.connect() as connection:
        for table, at, sequence in ends:
            query = (
                sa.select(table.c[at])
                .where(table.c.policy == policy, table.c.generation == generation)
                .order_by(table.c.xact.desc(), table.c[sequence].desc())
                .limit(1)
            )
            last = connection.execute(query).scalar()
            if last is not None and last >= before:
                return False
    return True


def _needed(engine: sa.Engine, policy: str, generation: str, keep: Keep) -> bool:
    """Whether outcomes that a baseline is made of are this canary's."""
    table = tables.outcomes.c
    with engine.connect() as connection:
        return any(
            connection.execute(
                sa.select(table.outcome_seq)
                .where(table.policy == policy, table.version == version, table.outcome_seq >= first)
                .where(table.generation == generation)
                .limit(1)
            ).first()
            for version, first in keep.outcomes.items()
        )


def _delete(engine: sa.Engine, table: sa.Table, where: tuple[sa.ColumnElement[bool], ...], dry_run: bool) -> int:
    """Delete rows, `BATCH` a transaction, or count them."""
    if dry_run:
        with engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one())
    keys = list(table.primary_key)
    some = sa.select(*keys).where(*where).limit(BATCH)
    gone = 0
    while True:
        with engine.begin() as connection:
            count = int(connection.execute(table.delete().where(sa.tuple_(*keys).in_(some))).rowcount)
        gone += count
        if count < BATCH:
            return gone


def _outside(engine: sa.Engine, policy: str, before: float, keep: Keep, dry_run: bool, found: Pruned) -> None:
    """Outcomes of the champion's traffic outside any experiment, oldest first, up to the first batch of young ones."""
    table = tables.outcomes
    sequence = table.c.outcome_seq
    place = START
    while True:
        with engine.begin() as connection:
            rows = connection.execute(
                sa.select(table.c.xact, sequence, table.c.version, table.c.recorded_at)
                .where(table.c.policy == policy, table.c.generation == "")
                .where(commit_order.settled(sequence, place, commit_order.horizon(connection)))
                .order_by(*commit_order.order(sequence))
                .limit(BATCH)
            ).all()
            old = [row for row in rows if row.recorded_at < before]
            going = [row.outcome_seq for row in old if not _kept(row, keep)]
            if going and not dry_run:
                connection.execute(table.delete().where(sequence.in_(going)))
        found.add(table, len(going))
        if not old or len(rows) < BATCH:
            return
        place = (rows[-1].xact, rows[-1].outcome_seq)


def _kept(row: Any, keep: Keep) -> bool:
    return row.version in keep.outcomes and row.outcome_seq >= keep.outcomes[row.version]
