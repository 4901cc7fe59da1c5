"""Work apart: its answer comes back; whatever foreign code does instead ends in one clear line and no process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks import sandbox
from tasks.errors import Misconfigured, Rejected

LIMITS = sandbox.Limits(seconds=60, memory_mb=500)


def _run(deed: str, limits: sandbox.Limits = LIMITS, **request: Any) -> dict[str, Any]:
    return sandbox.run("tests.tasks.misbehaving", {"deed": deed, **request}, "a.zip", limits)


def test_the_answer_comes_back_whatever_was_printed_and_steps_are_heard() -> None:
    heard: list[str] = []
    answer = sandbox.run("tests.tasks.misbehaving", {"deed": "answer"}, "a.zip", LIMITS, say=heard.append)
    assert "forged" not in answer
    assert heard == ["doing a deed"]


def test_it_finds_no_secret_and_has_a_home_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRLOCK_ADMIN_TOKEN", "do-not-leak")
    environment = sandbox.run("tests.tasks.misbehaving", {"deed": "answer"}, "a.zip", LIMITS, tmp_path)["environment"]
    assert "AIRLOCK_ADMIN_TOKEN" not in environment
    assert Path(environment["HOME"]).is_relative_to(tmp_path)
    assert environment["TMPDIR"] == environment["HOME"]
    assert list(tmp_path.iterdir()) == []


def test_a_custom_class_is_found_where_it_was_called_but_hides_nothing_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise SystemExit('the wrong tasks')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    answer = _run("answer")
    assert answer["cwd"] == str(tmp_path)
    assert answer["path"][-1] == str(tmp_path)
    assert "/somewhere/else" in answer["path"]


@pytest.mark.parametrize(
    ("deed", "limits", "said"),
    [
        ("sleep", sandbox.Limits(4, 500), r"a\.zip: doing a deed took longer than 4 s"),
        ("eat", LIMITS, r"a\.zip: doing a deed took more than 500 MB of memory"),
        ("feed", LIMITS, r"a\.zip: doing a deed took more than 500 MB of memory"),
        ("print", LIMITS, r"a\.zip: doing a deed printed more than 64 MB"),
        ("exit", LIMITS, r"ended with code 0 before it was done; goodbye"),
        ("leave", LIMITS, r"ended with code 1 before it was done; I leave"),
        ("crash", LIMITS, r"ended with code -6 before it was done"),
        ("refuse", LIMITS, r"^this is why$"),
        ("raise", LIMITS, r"^RuntimeError: first line$"),
    ],
)
def test_what_foreign_code_does_instead_is_one_clear_line(deed: str, limits: sandbox.Limits, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        _run(deed, limits)


def test_memory_that_two_processes_share_counts_once() -> None:
    assert _run("fork") == {}


def test_a_rejection_stays_one() -> None:
    with pytest.raises(Rejected, match="not equal"):
        _run("reject")


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="took longer"):
        _run("spawn", sandbox.Limits(4, 500), into=str(tmp_path / "pid"))
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_ends_when_the_one_who_waits_is_killed(tmp_path: Path) -> None:
    waiting = os.fork()
    if waiting == 0:
        try:
            _run("spawn", into=str(tmp_path / "pid"))
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (working,) = psutil.Process(waiting).children()
    os.kill(waiting, 9)
    os.waitpid(waiting, 0)
    working.wait(30)
    psutil.Process(int((tmp_path / "pid").read_text())).kill()
