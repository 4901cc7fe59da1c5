"""`airlock plan`: a table for people, one JSON document for machines, one line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.cli import app

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def airlock(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("AIRLOCK_DEBUG", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["airlock", "plan", *arguments])
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def returns(tmp_path: Path) -> str:
    file = tmp_path / "returns.json"
    file.write_text(json.dumps([500.0] * 70 + list(range(100, 400, 10))))
    return str(file)


def test_a_file_of_returns_needs_no_stack(airlock: Run, returns: str) -> None:
    asked = ("cartpole", "--returns", returns, "--units-per-hour", "600", "--canaries", "20", "--promote", "0.6")
    code, out, _ = airlock(*asked, "--margin", "30", "--max-units-per-arm", "400", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["margin"], document["max_units_per_arm"], document["units_per_hour"]) == (30.0, 400, 600.0)
    rows = {row["name"]: row for row in document["differences"]}
    assert rows["-2 SD"]["roll_back"] == 1.0
    assert rows["-2 SD"]["mean_hours"] > 0
    assert document["suggestion"]["probability"] == 0.6
    assert document["suggestion"]["margin"] > 0

    code, table, err = airlock(*asked, "--margin", "30", "--max-units-per-arm", "400")
    assert code == 0
    assert "the margin lost" in table
    assert f"A margin of {document['suggestion']['margin']:.4g} promotes an equal challenger with 60 %" in table
    assert "traffic: 600 units an hour, --units-per-hour" in table
    assert "Traceback" not in err


def test_superiority_suggests_a_gain(airlock: Run, returns: str) -> None:
    asked = ("--returns", returns, "--objective", "superiority", "--canaries", "20", "--max-units-per-arm", "400")
    code, out, _ = airlock("cartpole", *asked)
    assert code == 0
    assert "A challenger truly better by" in out
    assert "traffic: not known" in out


@pytest.mark.parametrize(
    ("content", "said"),
    [("[1, 2, 3]", "at least 20 returns"), ("[" + "600," * 30 + "600]", "lies outside the spec's return_range")],
)
def test_returns_that_do_not_do_are_one_line(airlock: Run, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "few.json"
    file.write_text(content)
    code, out, err = airlock("cartpole", "--returns", str(file))
    assert (code, out) == (1, "")
    assert said in err
    assert str(file) in err
    assert len(err.strip().splitlines()) == 1


def test_a_wrong_call_exits_with_2_and_a_stack_that_is_down_with_1(airlock: Run, returns: str) -> None:
    assert airlock("cartpole", "--returns", "no-such-file")[0] == 2
    assert airlock("cartpole", "--returns", returns, "--promote", "1.5")[0] == 2
    assert airlock("cartpole", "--returns", returns, "--objective", "best")[0] == 2
    assert airlock("unheard_of", "--returns", returns)[0] == 1
    code, _, err = airlock("cartpole")
    assert code == 1
    (line,) = err.strip().splitlines()
    assert "did not answer" in line
    assert "give --returns FILE" in line
