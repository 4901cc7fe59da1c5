"""MLflow runs over REST: what is missing, elsewhere, or not answering is told apart."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tasks.errors import Misconfigured
from tasks.tracking.client import RegistryRefused, RegistryUnavailable
from tasks.tracking.registry import Registry
from tasks.tracking.runs import TrackedRun, Tracking
from tests.bentos.scripted_server import says, scripted


@pytest.fixture
def run(mlflow_server: str) -> TrackedRun:
    with Tracking() as tracking:
        return tracking.begin(tracking.ensure_experiment(f"e-{secrets.token_hex(4)}"), "name", {"colour": "red"})


def test_an_experiment_is_created_once(mlflow_server: str) -> None:
    name = f"e-{secrets.token_hex(4)}"
    with Tracking() as tracking:
        assert tracking.experiment(name) is None
        assert tracking.ensure_experiment(name) == tracking.ensure_experiment(name) == tracking.experiment(name)


def test_tags_and_metrics_are_kept_and_runs_found_by_them(run: TrackedRun) -> None:
    with Tracking() as tracking:
        tracking.tag(run.run_id, {"shape": "round"})
        tracking.log(run.run_id, [("loss", 0.5, 1_000, step) for step in range(1_500)])
        assert tracking.get(run.run_id).tags["shape"] == "round"
        history = tracking.ask("GET", "metrics/get-history", {"run_id": run.run_id, "metric_key": "loss"})
    assert history is not None
    assert len(history["metrics"]) == 1_500


def test_folders_come_back_whole_and_missing_artifacts_are_missing(run: TrackedRun, tmp_path: Path) -> None:
    with Tracking() as tracking:
        assert tracking.files(run.root) == []
        assert tracking.read(run.root, "a/b.json") is None
        tracking.write(run.root, "a/b.json", b"{}")
        tracking.write(run.root, "a/deep/c.bin", bytes(range(256)) * 1000)
        assert sorted(tracking.files(run.root, "a")) == [("a/b.json", False), ("a/deep", True)]
        folder = tracking.fetch(run.root, "a", tmp_path)
        assert (folder / "deep" / "c.bin").read_bytes() == bytes(range(256)) * 1000
        with pytest.raises(RegistryRefused, match="no artifact nothing"):
            tracking.fetch(run.root, "nothing", tmp_path)


def test_artifacts_that_the_server_does_not_store_are_a_clear_error() -> None:
    elsewhere = TrackedRun("r", "s3://bucket/1/r/artifacts", {}, 0.0)
    with pytest.raises(Misconfigured, match="--serve-artifacts"):
        _ = elsewhere.root


def test_a_server_that_is_down_is_worth_another_try() -> None:
    with Tracking("http://127.0.0.1:9") as tracking, pytest.raises(RegistryUnavailable, match="did not answer"):
        tracking.experiment("e")


def test_an_address_that_is_no_server_is_a_clear_error() -> None:
    with pytest.raises(Misconfigured, match="URL of an MLflow server"):
        Tracking("sqlite:///mlflow.db")


LISTED = b'{"files": [{"path": "there.json", "is_dir": false}]}'
BROKEN = says(500, b'{"error_code": "INTERNAL_ERROR"}')


def test_what_an_s3_store_says_of_a_missing_file_is_told_from_a_store_that_is_away() -> None:
    script = (BROKEN, says(200, LISTED), BROKEN, says(200, LISTED), BROKEN, BROKEN)
    with scripted(*script) as server, Tracking(server.url) as tracking:
        assert tracking.read("1/r/artifacts", "a/missing.json") is None
        with pytest.raises(RegistryUnavailable):
            tracking.read("1/r/artifacts", "a/there.json")
        with pytest.raises(RegistryUnavailable):
            tracking.read("1/r/artifacts", "a/missing.json")
    assert "artifacts?path=1%2Fr%2Fartifacts%2Fa " in server.requests[1]


def test_so_is_it_for_the_artifacts_of_a_version() -> None:
    listed = says(200, LISTED.replace(b"there.json", b"a/there.json"))
    with scripted(BROKEN, listed, BROKEN, listed, BROKEN, BROKEN) as server, Registry(server.url) as registry:
        assert registry.artifact("r", "a/missing.json") is None
        with pytest.raises(RegistryUnavailable):
            registry.artifact("r", "a/there.json")
        with pytest.raises(RegistryUnavailable):
            registry.artifact("r", "a/missing.json")
