"""A version that kills its workers: marks survive, deaths are counted, the package is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bentos.routing import faults
from bentos.routing.faults import Faults, bury
from bentos.routing.plan import plan
from bentos.runners import crash_marks
from bentos.runners.crash_marks import Death, Marks, Suspect
from bentos.store import tables
from tests.bentos.routing.test_plan import canary, picture

POISON = Suspect("p", "2", "ab" * 32)
WORKER = """
import sys
from pathlib import Path
from bentos.runners.crash_marks import Marks, Suspect

marks = Marks(Path(sys.argv[1]), sys.argv[2])
mark = marks.of(Suspect("p", "2", "ab" * 32))
with mark:
    if sys.argv[3] == "at work":
        print("ready", flush=True)
        sys.stdin.read()
if sys.argv[3] == "idle":
    print("ready", flush=True)
    sys.stdin.read()
marks.close()
"""


@pytest.fixture
def worker(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a process that is `at work` with the poison, or `idle`; it ends when its input does."""

    def start(name: str, doing: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), name, doing]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    return start


def kill(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_at_work_leaves_the_name_of_the_version_once(
    tmp_path: Path, worker: Callable[..., subprocess.Popen[bytes]], number: int
) -> None:
    process = worker("w1", "at work")
    with crash_marks.dead(tmp_path) as deaths:
        assert deaths == [], "it lives"
    kill(process, number)
    with crash_marks.dead(tmp_path) as deaths:
        assert deaths == [Death(POISON, ("w1",))]
    with crash_marks.dead(tmp_path) as deaths:
        assert deaths == []


def test_idle_workers_and_those_that_end_in_good_order_leave_nothing(
    tmp_path: Path, worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    kill(worker("w1", "idle"))
    worker("w2", "at work").communicate()
    with crash_marks.dead(tmp_path) as deaths:
        assert deaths == []
    assert list(tmp_path.iterdir()) == []


def test_workers_found_dead_together_are_one_death(
    tmp_path: Path, worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    for process in [worker("w1", "at work"), worker("w2", "at work")]:
        kill(process)
    with crash_marks.dead(tmp_path) as deaths:
        assert deaths == [Death(POISON, ("w1", "w2"))]


def test_a_death_that_could_not_be_stored_is_told_again(
    tmp_path: Path, worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    kill(worker("w1", "at work"))
    with pytest.raises(RuntimeError), crash_marks.dead(tmp_path):
        raise RuntimeError("the store is down")
    with crash_marks.dead(tmp_path) as deaths:
        assert len(deaths) == 1


def test_there_is_room_for_new_versions_when_old_ones_end_their_probation(tmp_path: Path) -> None:
    marks = Marks(tmp_path, "w1")
    suspects = [Suspect("p", str(number), "") for number in range(65)]
    assert all(marks.of(suspect) for suspect in suspects[:64])
    assert marks.of(suspects[64]) is None
    assert marks.of(suspects[0]) is marks.of(suspects[0])
    marks.release(suspects[0])
    assert marks.of(suspects[64]) is not None
    marks.close()


def read(engine: sa.Engine, known: Faults) -> set[str]:
    with engine.connect() as connection:
        return known.take(known.read(connection))


def test_the_second_death_quarantines_the_package_for_every_gateway(tmp_path: Path) -> None:
    engine = tables.create(f"sqlite:///{tmp_path}/airlock.db")
    peer = Faults(tmp_path / "faults.json")
    for name, quarantined in (("w1", False), ("w1", False), ("w2", True)):
        with engine.begin() as connection:
            bury(connection, Death(POISON, (name,)), "w9")
        read(engine, peer)
        assert peer.quarantined(POISON.package_sha256) is quarantined
    with engine.begin() as connection:
        bury(connection, Death(POISON, ("w3",)), "w9")
        kinds = connection.execute(sa.select(tables.fault_events.c.kind).order_by(tables.fault_events.c.id)).scalars()
        assert list(kinds) == ["killed_worker", "killed_worker", "quarantined", "killed_worker"]
    assert Faults(tmp_path / "faults.json").quarantined(POISON.package_sha256), "without the database, too"


def test_what_the_disk_remembers_holds_until_the_table_was_read(tmp_path: Path) -> None:
    engine = tables.create(f"sqlite:///{tmp_path}/airlock.db")
    for name in ("w1", "w2"):
        with engine.begin() as connection:
            bury(connection, Death(POISON, (name,)), "w9")
    read(engine, Faults(tmp_path / "faults.json"))
    with engine.begin() as connection:
        connection.execute(tables.fault_events.delete())
    pardoned = Faults(tmp_path / "faults.json")
    assert pardoned.quarantined(POISON.package_sha256)
    assert read(engine, pardoned) == {"p"}
    assert not pardoned.quarantined(POISON.package_sha256)


def test_a_quarantined_package_is_refused_and_its_canary_does_not_run_unless_it_was_promoted() -> None:
    def asked(status: str) -> Any:
        seen = picture({"1": "promoted", "2": status}, champion="1", challenger="2", canary=canary())
        seen.versions["2"]["package_sha256"] = POISON.package_sha256
        return plan(seen, lambda digest: digest == POISON.package_sha256)

    found = asked("approved")
    assert (found.wanted, found.refused, found.canary) == (("1",), {"2": faults.QUARANTINE}, None)
    assert found.problem == faults.QUARANTINE
    assert asked("promoted").wanted == ("1", "2")
    assert "candidate" in asked("candidate").refused["2"], "it would not be routed anyway"
