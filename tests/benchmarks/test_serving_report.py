"""What the serving benchmark says of what it found."""

from __future__ import annotations

import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from benchmarks.serving import binary, policy, report, results_page, virtualenvs
from benchmarks.serving.apps import slow_session
from benchmarks.serving.bentoml_apis import Times
from benchmarks.serving.compare import Line
from benchmarks.serving.decision_overhead import Added
from benchmarks.serving.paired_rounds import Cell
from benchmarks.serving.peers.mosec import Mosec
from benchmarks.serving.peers.table import PEERS
from benchmarks.serving.policy import Policy
from benchmarks.serving.slow_policy import Slow
from benchmarks.serving.startup import Standing, Start
from bentos.package.digests import read_manifest
from tests.bentos.policy_packages import write_package


def cell(ratio: float, failed: int = 0) -> Cell:
    return Cell(rate=10_000 * ratio, p50=0.1, p99=0.2, cpu=50, ratio=ratio, failed=failed, ratios=[ratio])


def lines() -> dict[str, Line]:
    return {
        "ceiling": Line("the ceiling", {1: cell(1.0)}),
        "gateway": Line("the gateway", {1: cell(0.75)}, cell(0.6)),
        "bentoml": Line("BentoML", {1: cell(0.05)}),
        "bentoml-batchable": Line("batchable", {1: cell(0.1)}),
        "fastapi-onnx": Line("FastAPI", {1: cell(0.4, failed=3)}),
        "mosec": Line("mosec", problem="not installed: run with --install"),
    }


def test_of_bentomls_apis_the_better_one_counts() -> None:
    times = {"bentoml": {1: 6.5, 16: 40.0, 64: 70.0}, "bentoml-batchable": {1: 9.1, 16: 30.0, 64: 71.0}}
    said = list(report.sentences("bentoml", [Times("the gateway", times)]))
    assert said[1:] == [
        "  1 connection: 6.5 times (5 asked; bentoml 6.5, bentoml-batchable 9.1)",
        "  16 connections: 30.0 times (7 asked; bentoml 40.0, bentoml-batchable 30.0)",
        "  64 connections: 70.0 times (12 asked; bentoml 70.0, bentoml-batchable 71.0)",
    ]


def shown(name: str, found: Any) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    report.show(console, name, found)
    return console.export_text()


def test_the_gateway_is_held_against_the_ceiling_and_the_fastest_peer() -> None:
    said = list(report.sentences("peers", lines()))
    assert said[1] == (
        "  1 connection: 0.75 of the ceiling (0.65 asked); the fastest peer is FastAPI, 0.40 of the ceiling"
    )
    assert said[2] == "  64 observations a request: 0.60 of the ceiling's rows/s (0.5 asked)"


def test_the_table_names_who_is_not_installed_and_who_failed() -> None:
    text = shown("peers", lines())
    assert "not installed: run with --install" in text
    assert "4,000/s  ×0.400  3 failed" in text
    assert "384,000 rows/s  ×0.600" in text


def test_a_peer_without_its_environment_or_with_another_version_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    folder = tmp_path / "benchmarks" / "mosec"
    folder.mkdir(parents=True)
    assert virtualenvs.python(Mosec()) is None
    (folder / virtualenvs.MARK).write_text("mosec==0.0.1")
    assert virtualenvs.python(Mosec()) is None
    (folder / virtualenvs.MARK).write_text("\n".join(Mosec.packages))
    assert virtualenvs.python(Mosec()) == str(folder / "bin" / "python")
    assert virtualenvs.python(PEERS["gateway"]) == sys.executable


def test_what_pip_says_is_told_when_a_peer_cannot_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    monkeypatch.setattr(
        virtualenvs.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout="no such package\n")
    )
    assert virtualenvs.install(Mosec()) == "no such package"
    assert virtualenvs.python(Mosec()) is None


def test_a_peer_that_loads_libpython_gets_the_systems_interpreter_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: True)
    assert virtualenvs._interpreter(PEERS["triton"]).startswith("/usr/bin/python3")
    assert virtualenvs._interpreter(Mosec()) == sys.executable
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert virtualenvs._interpreter(PEERS["triton"]) == sys.executable


def test_of_a_peer_that_did_not_start_the_line_is_shown_that_names_the_error() -> None:
    said = "ended with 1: Traceback\nAttributeError: no such thing\nAt:\n;"
    _, rows = report.table({"triton": Line("Triton", problem=said), "mosec": Line("mosec", problem="not installed")})
    assert [row[1] for row in rows] == [["AttributeError: no such thing"], ["not installed"]]


def test_the_decision_path_is_told_in_runs_of_the_graph_too() -> None:
    (said,) = report.sentences("decision", Added(30.0, 90.0, 75.0, 160.0, 45.0, 40.0))
    assert "it adds 45.0 µs p50 (12 asked where session.run takes 5.8), 40.0 p10" in said
    assert said.endswith("in runs of the graph 1.5 (2.1 asked)")


def test_the_slow_policy_is_held_against_its_unbatched_self_and_mosec() -> None:
    found = Slow(80, 2000, 25, 2.5, 10.5, 10.6, 0, {}, mosec=None)
    said = list(report.sentences("slow", found))
    assert "25.0 times (35 asked); p99 2.5 batch times (3 asked)" in said[0]
    assert len(said) == 1
    beside = list(report.sentences("slow", msgspec.structs.replace(found, mosec=1500)))
    assert beside[1] == "  mosec, batches of up to 64, 5 ms: 1,500/s, 18.8 times"


def test_each_start_is_told_with_its_readiness_its_first_answers_and_its_memory() -> None:
    found = Standing(Start(1.04, 1.06, 99.6), Start(2, 2.5, 180), Start(1.5, 1.6, 170))
    assert next(iter(report.sentences("standing", found))) == (
        "A gateway with one package: ready 1.0 s after its process starts (3 asked), answers for all of them after "
        "1.1 s; a worker's RSS is 100 MB (250 asked)"
    )


def test_a_run_replaces_the_section_of_the_page_and_nothing_else() -> None:
    before = f"above\n{results_page.BEGIN}\nold\n{results_page.END}\nbelow\n"
    after = results_page.replaced(before, results_page.section({"peers": lines(), "binary": None}, 1, 2))
    assert after.startswith("above\n")
    assert after.endswith(f"{results_page.END}\nbelow\n")
    assert "old" not in after
    assert "| FastAPI | 4,000/s  ×0.400  3 failed<br>0.10 / 0.20 ms, 50 µs |  |  |  |" in after
    with pytest.raises(ValueError, match="no place for measurements"):
        results_page.replaced("a page", "a section")


def test_the_shipped_page_has_a_place_for_measurements() -> None:
    shipped = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert "a section" in results_page.replaced(shipped, "a section")


def test_a_binary_request_carries_its_rows_as_bytes_after_its_json() -> None:
    rows = np.arange(binary.ROWS * 8, dtype=np.float32).reshape(-1, 8)
    size, body = binary.request(Policy(Path(), Path(), Path(), rows, np.zeros(binary.ROWS, np.int64)))
    head = msgspec.json.decode(body[:size])
    assert head["inputs"][0]["shape"] == [256, 8]
    assert head["inputs"][0]["parameters"]["binary_data_size"] == len(body) - size
    np.testing.assert_array_equal(np.frombuffer(body[size:], np.float32).reshape(-1, 8), rows)


def test_a_copied_package_has_another_name_and_the_serve_settings_it_is_given(tmp_path: Path) -> None:
    write_package(tmp_path / "one")
    digest = policy.copy(tmp_path / "one", tmp_path / "other", "slow", batch_size=1)
    manifest = read_manifest(tmp_path / "other", digest)
    assert (manifest.name, manifest.serve.batch_size) == ("slow", 1)
    assert manifest.serve.deadline_ms == read_manifest(tmp_path / "one").serve.deadline_ms


def test_the_slow_graph_answers_one_call_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path / "one")
    session = slow_session.SlowSession(str(tmp_path / "one" / "policy.onnx"), providers=["CPUExecutionProvider"])
    inside, most = 0, 0

    def sleep(seconds: float) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        gate.wait(0.02)
        inside -= 1

    gate = threading.Event()
    monkeypatch.setattr(slow_session.time, "sleep", sleep)
    with ThreadPoolExecutor(4) as executor:
        feeds = {"observation": np.ones((2, 4), np.float32)}
        answers = list(executor.map(lambda _: session.run(["action"], feeds)[0].tolist(), range(4)))
    assert most == 1
    assert answers == [[1, 1]] * 4
