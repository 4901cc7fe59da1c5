"""Where a plan gets its numbers from: returns of the champion and the policy's traffic, stored or in a file."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from bentos.store.outcomes import WITHDRAWN
from tasks.errors import Misconfigured
from tasks.tracking.registry import Registry

EVALUATION = "evaluation/evaluation.json"
LATEST = 10_000
ENOUGH = 50
"""With so many episodes in production they are used, before the evaluation's."""

TRAFFIC_HOURS = 24.0


@dataclass(frozen=True)
class Returns:
    """Returns of episodes, and where they are from, in words."""

    values: list[float]
    source: str


@dataclass(frozen=True)
class Traffic:
    """Units an hour of all the policy's traffic (null: not known), and how that is known, in words."""

    units_per_hour: float | None
    source: str


def of_champion(policy: str) -> Returns:
    """Returns of the champion: its episodes in production, or its evaluation's while there are few.

    Raises Misconfigured where there is no champion, RegistryUnavailable while MLflow does not answer.
    """
    with Registry() as registry:
        model = registry.model(policy)
        champion = model.aliases.get("champion") if model else None
        if champion is None:
            raise Misconfigured(
                f"{policy} has no champion whose returns could be drawn from: release it first, or give --returns FILE"
            )
        played = stored(policy, champion)
        if len(played) >= ENOUGH:
            return Returns(played, f"the last {len(played)} episodes of champion version {champion} in production")
        version = registry.version(policy, champion)
        document = registry.artifact(version.run_id, EVALUATION) if version else None
    if not document or not document.get("returns"):
        raise Misconfigured(
            f"champion version {champion} of {policy} has {len(played)} stored episodes ({ENOUGH} are needed) and its "
            f"MLflow run no {EVALUATION}: give --returns FILE"
        )
    evaluated = [float(value) for value in document["returns"]]
    return Returns(evaluated, f"the {len(evaluated)} evaluation episodes of champion version {champion}")


def stored(policy: str, version: str) -> list[float]:
    """Returns of a version's latest episodes, abandoned ones as they were scored, oldest first."""
    table = tables.outcomes.c
    query = (
        sa.select(table.episode_return)
        .where(table.policy == policy, table.version == version, table.kind != WITHDRAWN)
        .order_by(table.outcome_seq.desc())
        .limit(LATEST)
    )
    with tables.connect(settings.database_url()).connect() as connection:
        return [float(row.episode_return) for row in connection.execute(query)][::-1]


def traffic(policy: str, now: float | None = None) -> Traffic:
    """Episodes an hour of all versions, over the last 24 hours (or since the first of them)."""
    moment = time.time() if now is None else now
    table = tables.outcomes.c
    query = sa.select(sa.func.count(), sa.func.min(table.recorded_at)).where(
        table.policy == policy,
        table.kind != WITHDRAWN,
        table.recorded_at >= moment - 3600 * TRAFFIC_HOURS,
        table.recorded_at <= moment,
    )
    with tables.connect(settings.database_url()).connect() as connection:
        count, first = connection.execute(query).one()
    hours = (moment - first) / 3600 if count else 0.0
    if count < 2 or hours <= 0:
        return Traffic(None, "none in the last 24 hours; give --units-per-hour for hours")
    said = f"{count} episodes in the last {hours:.3g} hours, each taken for a unit of its own"
    return Traffic(count / hours, f"{said}; with user ids give --units-per-hour, new users an hour")


def from_file(path: Path) -> Returns:
    """Returns from a file: a JSON array, or numbers separated by white space, commas or semicolons.

    Raises Misconfigured that names the place of what is not a number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} cannot be read as text: {error}") from error
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except json.JSONDecodeError as error:
            raise Misconfigured(f"{path} begins as a JSON array but is none: {error}") from error
        wrong = [item for item in items if isinstance(item, bool) or not isinstance(item, int | float)]
        if wrong:
            raise Misconfigured(f"{path}: expected a JSON array of numbers, came {wrong[0]!r} in it")
        return Returns([float(item) for item in items], f"{path}")
    values: list[float] = []
    for number, line in enumerate(text.splitlines(), start=1):
        for item in re.split(r"[\s,;]+", line.strip()):
            if not item:
                continue
            try:
                values.append(float(item))
            except ValueError:
                raise Misconfigured(f"{path}, line {number}: expected numbers, came {item!r}") from None
    return Returns(values, f"{path}")
