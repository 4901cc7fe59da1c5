"""A killed worker is replaced at once, by the real arbiter, which ends when it is told to."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from _bentoml_impl.server.serving import server_on_deployment
from bentoml._internal.utils import circus as supervision

from bentos.server import forking
from bentos.server.supervisor import AttentiveArbiter
from bentos.service import Gateway
from tests.bentos.gateway_process import START_SECONDS, wait_until

KEEPER = """
import sys
from bentoml._internal.utils.circus import create_standalone_arbiter
from bentoml.serving import create_watcher
from bentos.server import supervisor as respawn

respawn.at_once()
worker = create_watcher("worker", ["-c", sys.argv[1]], numprocesses=2, warmup_delay=float(sys.argv[2]))
create_standalone_arbiter([worker], check_delay=3600).start()
"""


SLEEPS, ENDS = "import time; time.sleep(600)", "raise SystemExit(3)"
SLOWLY = 3.0
"""How long (s) an arbiter that starts its workers slowly waits after each."""


@pytest.fixture
def keeper(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[psutil.Process]:
    """An arbiter that would look for dead workers in an hour, with two workers that run the given program."""
    program, variables, pause = request.param
    command = [sys.executable, "-c", KEEPER, program, str(pause)]
    with (
        (tmp_path / "keeper.log").open("wb") as log,
        subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log) as process,
    ):
        yield psutil.Process(process.pid)
        process.terminate()
        process.wait(START_SECONDS)


def alive(keeper: psutil.Process) -> set[int]:
    found = set()
    for child in keeper.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that is reaped at this moment
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


def two(keeper: psutil.Process, besides: set[int]) -> set[int]:
    """The two workers that live, none of which is one of `besides`; else nothing."""
    found = alive(keeper)
    return found if len(found) == 2 and not found & besides else set()


@pytest.mark.parametrize("keeper", [(SLEEPS, {}, 0), (SLEEPS, {"BENTOML_CONTAINERIZED": "1"}, 0)], indirect=True)
def test_killed_workers_are_replaced_without_waiting_for_the_next_look(keeper: psutil.Process) -> None:
    first = wait_until(lambda: two(keeper, set()), "two workers")
    killed = min(first)
    psutil.Process(killed).kill()
    second = wait_until(lambda: two(keeper, {killed}), "another took its place")
    for pid in second:
        psutil.Process(pid).kill()
    wait_until(lambda: two(keeper, first | second), "both were replaced")


@pytest.mark.parametrize("keeper", [(ENDS, {}, 0)], indirect=True)
def test_workers_that_cannot_start_are_left_to_the_next_look(keeper: psutil.Process) -> None:
    ended = wait_until(lambda: len(keeper.children()) == 2 and not alive(keeper) and keeper.children(), "both ended")
    assert {child.status() for child in ended} == {psutil.STATUS_ZOMBIE}
    assert keeper.children() == ended


@pytest.mark.parametrize("keeper", [(SLEEPS, {}, SLOWLY)], indirect=True)
def test_one_signal_ends_it_while_it_replaces_a_worker(keeper: psutil.Process) -> None:
    first = wait_until(lambda: two(keeper, set()), "two workers")
    psutil.Process(min(first)).kill()
    wait_until(lambda: two(keeper, {min(first)}), "another took its place; the arbiter waits now")
    workers = keeper.children()
    keeper.terminate()
    assert keeper.wait(START_SECONDS) == 0
    assert not any(worker.is_running() for worker in workers)


def test_bentoml_starts_an_attentive_arbiter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "Arbiter", supervision.Arbiter)
    monkeypatch.setattr(forking, "possible", lambda: False)
    server_on_deployment(Gateway)
    assert isinstance(supervision.create_standalone_arbiter([]), AttentiveArbiter)
