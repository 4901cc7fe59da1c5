"""What a canary is judged by, as it comes into the store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from tasks.analysis.judge.verdict import Evidence, Judgement, judge
from tasks.canary.evidence import units
from tests.tasks.analysis.plans import PLAN

UNITS = 700


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))


def looks(seed: int, shift: float, batch: int) -> Iterator[Judgement]:
    """Judgements while episodes start in order and end in another, `batch` of either at a time."""
    generator = np.random.default_rng(seed)
    arms = np.where(generator.random(UNITS) < 0.5, "challenger", "control")
    returns = (generator.normal(300, 60, UNITS) + shift * (arms == "challenger")).clip(0, 500)
    lost = generator.random(UNITS) < 0.02
    ends = np.argsort(np.arange(UNITS) + 3 * returns, kind="stable")
    rows = [
        {
            "episode": f"e{number}",
            "policy": PLAN.policy,
            "generation": PLAN.generation,
            "arm": str(arms[number]),
            "version": "4" if arms[number] == "challenger" else "3",
        }
        for number in range(UNITS)
    ]
    for begin in range(0, UNITS, batch):
        with tables.connect(settings.database_url()).begin() as connection:
            starts = [
                {**rows[n], "unit": f"u{n}", "started_at": time.time()} for n in range(begin, min(begin + batch, UNITS))
            ]
            connection.execute(sa.insert(tables.episodes), starts)
        yield judge(Evidence(units(PLAN)), PLAN)
    for begin in range(0, UNITS, batch):
        with tables.connect(settings.database_url()).begin() as connection:
            for n in ends[begin : begin + batch]:
                outcome = {"episode_return": float(returns[n]), "length": 1, "recorded_at": time.time()}
                kind = "abandoned" if lost[n] else "reported"
                connection.execute(sa.insert(tables.outcomes).values(**rows[n], **outcome, kind=kind))
        yield judge(Evidence(units(PLAN)), PLAN)


@pytest.mark.parametrize(("shift", "verdict"), [(-60.0, "roll_back"), (80.0, "promote"), (0.0, None)])
def test_a_verdict_falls_at_the_same_unit_however_the_store_was_filled(
    shift: float, verdict: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    for batch in (29, 250, UNITS):
        monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / str(batch)))
        said = [one for one in looks(5, shift, batch) if one.verdict != "continue"]
        ended += [(one.verdict, one.units, one.difference, one.abandoned) for one in said]
        assert said or verdict is None
    assert {one[0] for one in ended} == ({verdict} if verdict else set())
    assert all(one == ended[0] for one in ended)
