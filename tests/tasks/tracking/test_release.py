"""A release is one MLflow run, found again by the DAG run that drives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import Misconfigured
from tasks.spec.files import SpecError
from tasks.spec.params import Params
from tasks.tracking.release import Release, client


def test_opening_a_release_twice_gives_the_same_run(mlflow_server: str, make_policy: Callable[..., str]) -> None:
    policy = make_policy()
    first = Release.open(policy, "manual__1", Params(seed=11))
    second = Release.open(policy, "manual__1", Params(seed=12))
    assert (first.run_id, first.spec.train.seed) == (second.run_id, 11)
    assert second == first
    assert Release.open(policy, "manual__2", Params()).run_id != first.run_id


def test_the_spec_is_frozen_when_the_release_begins(
    mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path
) -> None:
    policy = make_policy()
    Release.open(policy, "run", Params(minimum_mean_return=123))
    file = tmp_path / "policies" / f"{policy}.yaml"
    file.write_text(file.read_text().replace("n_envs: 8", "n_envs: 2"))
    again = Release.get(policy, "run")
    assert again.spec.train.n_envs == 8
    assert again.spec.evaluate.minimum_mean_return == 123


def test_a_release_that_never_began_is_a_clear_error(mlflow_server: str, make_policy: Callable[..., str]) -> None:
    policy = make_policy()
    assert Release.find(policy, "run") is None
    with pytest.raises(Misconfigured, match=r"no release of .* by the DAG run 'run'"):
        Release.get(policy, "run")


def test_parameters_that_do_not_fit_name_the_field_and_begin_nothing(
    mlflow_server: str, make_policy: Callable[..., str]
) -> None:
    policy = make_policy()
    with pytest.raises(SpecError, match=r"canary\.steps"):
        Release.open(policy, "run", Params(canary_steps=[0.5, 0.1]))
    assert client().get_experiment_by_name(policy) is None


def test_artifacts_come_back_as_they_were_put(
    mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path
) -> None:
    release = Release.open(make_policy(), "run", Params())
    assert release.get_json("evaluation/evaluation.json") is None
    release.put_json("evaluation/evaluation.json", {"mean": 1.5})
    release.put_json("evaluation/evaluation.json", {"mean": 2.5})
    assert release.get_json("evaluation/evaluation.json") == {"mean": 2.5}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.bin").write_bytes(b"\x00\x01")
    release.put_directory(tmp_path / "folder", "export")
    assert release.has("export/a.bin")
    with release.scratch() as scratch:
        assert (release.fetch("export", scratch) / "a.bin").read_bytes() == b"\x00\x01"
    assert not scratch.exists()


def test_a_number_that_json_cannot_hold_is_refused_not_written(
    mlflow_server: str, make_policy: Callable[..., str]
) -> None:
    release = Release.open(make_policy(), "run", Params())
    with pytest.raises(ValueError, match="JSON compliant"):
        release.put_json("x.json", {"mean": float("nan")})
    assert not release.has("x.json")
