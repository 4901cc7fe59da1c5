"""The serving benchmark: what it makes of its runs, and that it times nobody who answers wrongly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.serving import paired_rounds, start_peer, wrk
from benchmarks.serving.paired_rounds import Target, in_turns
from benchmarks.serving.policy import Policy
from benchmarks.serving.server import Launch, NotServing, Server
from benchmarks.serving.wrk import Load, Posts, write_bodies


class Clock:
    """A server that has spent more CPU time whenever it is asked."""

    def __init__(self, seconds: float) -> None:
        self.spent, self.seconds = 0.0, seconds

    def cpu_seconds(self) -> float:
        self.spent += self.seconds
        return self.spent


def target(url: str, cpu_seconds: float = 1.0) -> Any:
    return Target(Clock(cpu_seconds), Posts(url, Path(), {}))  # type: ignore[arg-type]


def test_each_run_is_held_against_the_ceilings_just_before_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"ceiling": iter([100.0, 300.0, 500.0]), "peer": iter([100.0, 300.0])}
    monkeypatch.setattr(wrk, "run", lambda posts, *_: Load(1000, next(rates[posts.url]), 1.0, 2.0, 1))

    cell, beside = in_turns(target("ceiling"), target("peer"), connections=1, seconds=1, rounds=2)

    assert cell.ratios == [100 / 200, 300 / 400]
    assert (cell.rate, cell.ratio, cell.failed) == (200, 0.625, 2)
    assert [run.load.rate for run in beside] == [100, 300, 500]


def test_cpu_time_is_said_per_answered_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrk, "run", lambda *_: Load(20_000, 1.0, 1.0, 2.0, 0))
    assert paired_rounds.run(target("peer", cpu_seconds=0.5), 1, 1).cpu == pytest.approx(25)


def test_what_wrk_says_last_is_read_and_failures_are_not_counted_as_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = 'Running 2s test\n\n{"requests": 900, "duration": 2000000, "p50": 250, "p99": 1500, "failed": 100}\n'
    monkeypatch.setattr(wrk.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said, stderr="", returncode=0))
    assert wrk.run(Posts("http://x", Path("b"), {}), 1, 2) == Load(800, 400.0, 0.25, 1.5, 100)


def test_what_wrk_says_when_it_could_not_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        wrk.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="", stderr="unable to connect", returncode=1)
    )
    with pytest.raises(RuntimeError, match="unable to connect"):
        wrk.run(Posts("http://x", Path("b"), {}), 1, 2)


def test_a_machine_without_wrk_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(wrk.Missing, match="apt-get install wrk"):
        wrk.check()


def test_bodies_are_written_with_their_lengths(tmp_path: Path) -> None:
    assert write_bodies(tmp_path / "bodies", [b"{}", b"a\nb"]).read_bytes() == b"2\n{}3\na\nb"


def test_a_peer_that_answers_wrongly_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(tmp_path, tmp_path, tmp_path, np.zeros((2, 8), np.float32), np.array([3, 1]))
    site = start_peer.Site("python", 1, policy, tmp_path)

    class Wrong(start_peer.Peer):
        title = "a peer"

    found = start_peer.Serving(Wrong(), site, None, 0.0)  # type: ignore[arg-type]
    answers = iter([{"action": 3}, {"action": 2}, {"action": 3}, {"action": 1}])
    monkeypatch.setattr(start_peer, "post", lambda *_: next(answers))

    with pytest.raises(NotServing, match=r"a peer answers wrongly: expected the actions \[3, 1\], came \[3, 2\]"):
        start_peer.verify(found)
    start_peer.verify(found)


def test_a_server_that_ends_while_it_starts_is_told_with_what_it_said(tmp_path: Path) -> None:
    with (
        Server(Launch(["sh", "-c", "echo no such model; exit 3"]), tmp_path / "log") as server,
        pytest.raises(NotServing, match="ended with 3: no such model"),
    ):
        server.wait(lambda: False, 10)
