"""Selection: the choice follows the measurements, and the package it makes is the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bentos import package
from tasks.build.packaging.assemble import verify
from tasks.build.packaging.baselines import baselines
from tasks.build.training.evaluation import load_episodes, load_rollout
from tasks.build.variants.benchmark import BATCHES
from tasks.errors import Misconfigured, Rejected
from tasks.spec.params import Params
from tasks.spec.sections import FAMILIES
from tasks.stages.artifacts import ROLLOUT, SELECTION
from tasks.stages.benchmark import benchmark
from tasks.stages.evaluate import evaluate
from tasks.stages.export import export
from tasks.stages.quantize import quantize
from tasks.stages.select import select
from tasks.stages.train import train
from tasks.tracking.release import Release


def test_selecting_before_measuring_names_what_is_missing(mlflow_server: str, make_policy: Callable[..., str]) -> None:
    release = Release.open(make_policy(), "run", Params())
    with pytest.raises(Misconfigured, match=r"has no benchmark/fp32\.json"):
        select(release)


@pytest.mark.parametrize(("base", "steps"), [("cartpole", 1_024), ("pendulum", 300)])
def test_a_candidate_becomes_a_package_that_acts_as_it_did(
    base: str, steps: int, mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path
) -> None:
    name = make_policy(
        base,
        train={"total_timesteps": steps},
        evaluate={"episodes": 4, "minimum_mean_return": -1e6},
        serve={"batch_size": None},
    )
    release = Release.open(name, "run", Params())
    for stage in (train, evaluate, export, quantize):
        stage(release)
    for family in FAMILIES:
        benchmark(release, family)
    first = select(release)

    directory = release.fetch("package", tmp_path)
    policy = package.load(directory, first["package_sha256"])
    given, actions = load_rollout(release.fetch(ROLLOUT, tmp_path))
    assert policy.variant == first["variant"]
    assert package.load(directory, variant="fp32").predict(given["observation"]) == pytest.approx(actions, abs=4e-5)
    assert policy.predict(given["observation"][0]).shape == actions[0].shape

    manifest = policy.manifest
    assert manifest.name == name
    chosen = release.get_json(SELECTION)
    assert manifest.serve.batch_size == chosen["batch_size"] in BATCHES
    assert f"Batches of {manifest.serve.batch_size} rows: " in chosen["reason"]
    assert manifest.training["dag_run_id"] == "run"
    assert {"policy.onnx", "policy.ts", "policy.pt2", "baseline.npz"} <= set(manifest.files)
    assert set(manifest.variants) == {row["variant"] for row in manifest.selection["table"] if row["accepted"]}
    assert set(manifest.served) == set(manifest.variants)
    assert not {"value", "log_prob"} & set(policy.served_names)
    assert set(policy.served_names) < set(policy.output_names)
    assert {path.name for path in directory.iterdir()} == {*manifest.files, "policy.json"}
    assert len(policy.baseline().inputs["observation"]) == 2_048
    assert "compared_with" in manifest.benchmark["fp32"]
    assert release.get_json(SELECTION)["variant"] == first["variant"]
    episodes = load_episodes(release.fetch(ROLLOUT, tmp_path))
    expected = baselines(manifest.action_space, given, actions, policy.baseline().returns, episodes)
    assert manifest.baselines["actions"] == expected["actions"], "an episode's steps depend on each other"

    assert select(release) == first

    wrong = np.roll(actions, 1, axis=0) if base == "pendulum" else 1 - actions
    with pytest.raises(Rejected, match="the assembled package agrees with the original on"):
        verify(directory, first["package_sha256"], given, wrong)
