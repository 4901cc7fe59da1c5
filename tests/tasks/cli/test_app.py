"""The `airlock` command line: exit codes, one line for an error, one JSON document for machines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tasks.cli import app
from tasks.spec.files import policies_directory
from tests.tasks import airflow_double, gateway_double

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def airlock(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("AIRLOCK_DEBUG", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["airlock", *arguments])
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_help_lists_every_command(airlock: Run) -> None:
    code, out, _ = airlock("--help")
    assert code == 0
    for command in (
        "up",
        "down",
        "status",
        "release",
        "rollback",
        "results",
        "override",
        "traffic",
        "serve",
        "demo",
        "export",
    ):
        assert f" {command} " in out
    assert " analyze " in out
    assert " policies " in out


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = (
        "import sys, tasks.cli;"
        "print([m for m in ('torch', 'mlflow', 'numpy', 'sqlalchemy', 'httpx', 'gymnasium') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_call_that_is_wrong_exits_with_2(airlock: Run) -> None:
    assert airlock("nonsense")[0] == 2
    assert airlock("release")[0] == 2
    assert airlock("traffic", "cartpole", "--episodes", "0")[0] == 2


def test_an_error_is_one_line_and_exit_code_1(airlock: Run) -> None:
    code, out, err = airlock("release", "unheard_of")
    assert code == 1
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "unheard_of.yaml" in line
    assert "cartpole" in line


def test_debug_shows_the_traceback(airlock: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["airlock", "--debug", "release", "unheard_of"])
    with pytest.raises(Exception, match="unheard_of"):
        app.main()


class TestPolicies:
    def test_valid_specs_exit_with_0(self, airlock: Run) -> None:
        code, out, _ = airlock("policies", "validate", "--json")
        assert code == 0
        assert json.loads(out)["valid"] == ["cartpole", "pendulum"]

    def test_every_problem_is_printed_and_exits_with_1(
        self, airlock: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        specs = tmp_path / "policies"
        shutil.copytree(policies_directory(), specs)
        (specs / "other.yaml").write_text("name: other\nunknown: 1\n")
        monkeypatch.setenv("AIRLOCK_POLICIES", str(specs))

        code, out, err = airlock("policies", "validate")

        assert code == 1
        lines = [line for line in out.splitlines() if "other.yaml" in line]
        fields = {line.split(": ")[1] for line in lines}
        assert {"unknown", "environment", "train", "evaluate", "serve", "canary"} <= fields
        assert "policies sync" in err

    def test_the_schema_is_a_json_document(self, airlock: Run) -> None:
        assert "canary" in json.loads(airlock("policies", "schema")[1])["properties"]


class TestRelease:
    @pytest.fixture
    def airflow(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        with airflow_double.serving(airflow_double.AirflowDouble()) as double:
            monkeypatch.setenv("AIRLOCK_AIRFLOW_URL", double.url)
            monkeypatch.setenv("AIRLOCK_AIRFLOW_USER", "admin")
            monkeypatch.setenv("AIRLOCK_AIRFLOW_PASSWORD", "secret")
            yield double

    def test_prints_the_runs_url(self, airlock: Run, airflow: airflow_double.AirflowDouble) -> None:
        code, out, _ = airlock("release", "cartpole")
        assert code == 0
        assert out.strip() == f"{airflow.url}/dags/release_cartpole/runs/manual__1"

    def test_params_are_read_as_yaml(self, airlock: Run, airflow: airflow_double.AirflowDouble) -> None:
        code, out, _ = airlock(
            *("release", "cartpole", "--json", "--param", "seed=3", "--param", "canary_steps=[0.1, 0.5]"),
            *("--param", "approval=false", "--param", "objective=superiority"),
        )
        assert code == 0
        assert json.loads(out)["dag_run_id"] == "manual__1"
        assert airflow.triggered == [
            {"seed": 3, "canary_steps": [0.1, 0.5], "approval": False, "objective": "superiority"}
        ]

    @pytest.mark.parametrize("param", ["sed=3", "seed"])
    def test_a_param_that_a_release_does_not_have_exits_with_2(
        self, airlock: Run, airflow: airflow_double.AirflowDouble, param: str
    ) -> None:
        code, _, err = airlock("release", "cartpole", "--param", param)
        assert code == 2
        assert "seed" in err
        assert airflow.triggered == []

    @pytest.mark.parametrize(
        ("state", "ended", "expected"),
        [
            ("success", "promoted", 0),
            ("success", "rolled_back", 1),
            ("success", "inconclusive", 1),
            ("failed", "rejected", 1),
        ],
    )
    def test_waiting_ends_with_0_only_for_a_promotion(
        self,
        airlock: Run,
        airflow: airflow_double.AirflowDouble,
        monkeypatch: pytest.MonkeyPatch,
        state: str,
        ended: str,
        expected: int,
    ) -> None:
        airflow.moments = [(state, [airflow_double.instance("report", "success")])]
        monkeypatch.setattr(
            "tasks.stack.release_progress.outcome", lambda policy, run: {"outcome": ended, "reason": "so it was"}
        )
        code, out, err = airlock("release", "cartpole", "--wait")
        assert code == expected
        assert out.strip() == f"cartpole: {ended}: so it was"
        assert "report: success" in err


class TestTraffic:
    def test_reports_what_the_users_saw(self, airlock: Run) -> None:
        with gateway_double.serving(gateway_double.GatewayDouble()) as double:
            code, out, _ = airlock("traffic", "cartpole", "--url", double.url, "--episodes", "4", "--json")
        assert code == 0
        assert json.loads(out)["episodes"] == 4

    def test_a_failed_request_exits_with_1(self, airlock: Run) -> None:
        with gateway_double.serving(gateway_double.GatewayDouble(faults=[503])) as double:
            code, out, _ = airlock("traffic", "cartpole", "--url", double.url, "--episodes", "2")
        assert code == 1
        assert "1 failed requests" in out


class TestServe:
    def test_what_is_neither_package_nor_bento_is_an_error(self, airlock: Run, tmp_path: Path) -> None:
        code, _, err = airlock("serve", str(tmp_path))
        assert code == 1
        assert "policy.json" in err

    def test_a_bento_that_was_never_built_is_an_error(self, airlock: Run) -> None:
        code, _, err = airlock("serve", "cartpole:99")
        assert code == 1
        assert "cartpole:99" in err


class TestAnalyze:
    CANARY: ClassVar[dict[str, Any]] = {
        "id": "a",
        "arm": ["control", "challenger"] * 100,
        "return": [0.9, 0.1] * 100,
        "return_range": [0, 1],
        "margin": 0.05,
        "alpha": 0.05,
        "max_units_per_arm": 1000,
    }

    def test_a_line_in_is_a_line_out(self, airlock: Run, tmp_path: Path) -> None:
        file = tmp_path / "canaries.jsonl"
        file.write_text(json.dumps(self.CANARY) + "\n" + json.dumps({**self.CANARY, "id": "b"}) + "\n")
        code, out, _ = airlock("analyze", str(file))
        assert code == 0
        lines = [json.loads(line) for line in out.splitlines()]
        assert [(line["id"], line["verdict"]) for line in lines] == [("a", "roll_back"), ("b", "roll_back")]

    def test_a_return_outside_its_range_exits_with_2_and_names_the_line(self, airlock: Run, tmp_path: Path) -> None:
        file = tmp_path / "canaries.jsonl"
        file.write_text(json.dumps({**self.CANARY, "return": [2.0] * 200}) + "\n")
        code, _, err = airlock("analyze", str(file))
        assert code == 2
        assert "line 1" in err


def test_status_of_a_stack_that_is_down_exits_with_1(airlock: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AIRLOCK_AIRFLOW_PORT", "AIRLOCK_MLFLOW_PORT", "AIRLOCK_GATEWAY_PORT"):
        monkeypatch.setenv(variable, "9")
    code, out, _ = airlock("status", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["ok"] is False
    assert document["components"]["gateway"]["state"] == "not supervised"
    assert "does not say" in document["policies_unknown"]


def test_down_without_a_stack_is_success(airlock: Run) -> None:
    code, out, _ = airlock("down", "--json")
    assert code == 0
    assert json.loads(out) == {"stopped": False}
