"""A store that has grown: what is read of it depends on what is asked, not on what else there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.large_store import Life, fill
from benchmarks.store_growth import Cost, measure
from bentos.store import tables
from tests.servers.postgres import Cluster

pytestmark = pytest.mark.servers

BOUNDED = {"the console's charts", "traffic of the last day, for a plan"}
"""What reads newest rows of all policies, up to a number or a time that neither store has come to."""

CANARY = 100
"""Units of each canary, of each policy."""


@pytest.fixture
def costs(postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Cost], ...]:
    """What reading costs in a young store and in one that is ten times as old."""
    found = []
    for canaries in (10, 100):
        monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
        url = postgres.database()
        monkeypatch.setenv("AIRLOCK_DATABASE_URL", url)
        engine = tables.connect(url)
        life = Life(5 * CANARY * canaries, canaries=canaries)
        fill(engine, life)
        found.append({cost.name: cost for cost in measure(engine, life)})
    return tuple(found)


@pytest.mark.timeout(900)
def test_only_what_is_asked_for_is_read(costs: tuple[dict[str, Cost], ...]) -> None:
    young, old = costs
    naive = {name for name in old if "naive" in name}
    assert naive
    for name in naive:
        assert old[name].rows > 3 * young[name].rows, "the store did grow"
    assert all(cost.plans for cost in (*young.values(), *old.values())), "every statement was seen"
    more = {
        name: (young[name].rows, old[name].rows, young[name].pages, old[name].pages, old[name].plans)
        for name in old.keys() - naive - BOUNDED
        if old[name].rows > 1.2 * young[name].rows + 20 or old[name].pages > old[name].rows + 40
    }
    assert not more
