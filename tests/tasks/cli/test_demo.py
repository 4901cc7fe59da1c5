"""What a person sees of the demo: a table that moves, plain lines where it cannot, and a summary."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from tasks.cli import app
from tasks.cli.demo import Board
from tasks.stack.airflow_api import Run, TaskInstance
from tasks.stack.demo import PLANS, Follower
from tasks.stack.health import Health

RUN = Run(
    "release_cartpole",
    "manual__1",
    "running",
    (
        TaskInstance("build.train", -1, "success", 1, 10.0, 22.0),
        TaskInstance("canary.verdict", -1, "deferred", 1, 30.0, None),
        TaskInstance("report", -1, None, 0, None, None),
    ),
)
RELEASE: dict[str, Any] = {
    "policy": "cartpole",
    "version": "1",
    "verdict": "promote",
    "dag_run_id": "manual__1",
    "seconds": {"build.train": 12.0},
    "total_seconds": 60.0,
    "reason": "its lower bound is above 60, the minimum",
    "units": {"challenger": 6, "control": 8},
    "difference": {"estimate": 325.0, "lower": 2.8, "upper": 500.0},
    "checklists": {"pre_deployment": {"pass": 10}, "post_deployment": {"pass": 8}},
    "traffic": {"latency_ms": {"p50": 1.5, "p99": 4.0}},
}


def document(ok: bool) -> dict[str, Any]:
    return {
        "ok": ok,
        "problem": None if ok else "2 requests failed",
        "releases": [RELEASE],
        "requests": {"total": 90_000, "failed": 0 if ok else 2, "http_requests": 1500},
        "seconds": 300.0,
        "home": "/somewhere/demo",
    }


def test_the_board_shows_stages_down_and_releases_across() -> None:
    console = Console(file=io.StringIO(), width=180, force_terminal=True, record=True)
    with Live(console=console, auto_refresh=False) as live:
        board = Board(live).follower()
        board.starting({"mlflow": Health(True, "healthy"), "gateway": Health(False, "starting")})
        board.released(1, RUN)
        board.moved(2, RUN)
        board.ended(1, RELEASE)
        console.print(live.renderable)
    text = console.export_text()
    for plan in PLANS:
        assert plan.title[:12] in text
    lines = text.splitlines()
    (build,) = [line for line in lines if "build" in line][-1:]
    assert build.count("done 12 s") == 2
    assert any("canary" in line and "running" in line and "verdict" in line for line in lines)
    assert any("promote" in line for line in lines)


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(ok: bool, *arguments: str) -> tuple[int, str, str]:
        def fake(follower: Follower) -> dict[str, Any]:
            follower.released(1, RUN)
            follower.moved(1, RUN)
            follower.moved(1, RUN)
            follower.ended(1, RELEASE)
            return document(ok)

        monkeypatch.setattr("tasks.stack.demo.demo", fake)
        monkeypatch.setattr(sys, "argv", ["airlock", "demo", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_without_a_terminal_each_change_is_one_line_on_stderr(run_command: Any) -> None:
    code, _, err = run_command(True)
    assert code == 0
    assert err.count("build: success") == 1
    assert err.count("canary: running (verdict)") == 1
    assert "release 1 ended: promote" in err


def test_the_summary_says_what_came_out_and_where_to_look(run_command: Any) -> None:
    code, out, _ = run_command(True)
    assert code == 0
    for said in ("promote", "+325.0 [+2.8, +500.0]", "18 pass", "90000 actions", "0 requests failed", "1.5 / 4.0 ms"):
        assert said in out
    assert "AIRLOCK_HOME=/somewhere/demo make up" in out


def test_a_demo_that_is_not_as_it_should_be_exits_with_1_and_says_why(run_command: Any) -> None:
    code, out, _ = run_command(False)
    assert code == 1
    assert "2 requests failed" in out


def test_machines_get_the_document(run_command: Any) -> None:
    assert json.loads(run_command(True, "--json")[1]) == document(True)
