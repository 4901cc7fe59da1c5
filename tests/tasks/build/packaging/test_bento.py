"""The Bento of a real, small PPO: built, served by itself under its tag, and deciding as Stable-Baselines3 does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from bentos.package.loader import load
from tasks.build.packaging import bento, bento_store, scratch_server
from tasks.errors import Misconfigured, Rejected
from tasks.gateway_requests import ask
from tasks.inputs import of_observations
from tasks.spec.params import Params
from tasks.stages.bento import build
from tasks.stages.register import register
from tasks.tracking.release import Release, client
from tests.tasks import fabricated

MakePolicy = Callable[..., str]


@pytest.fixture
def trained(mlflow_server: str, make_policy: MakePolicy) -> Release:
    """A release of a briefly trained PPO up to its package; only variants and benchmark are made up."""
    from tasks.stages.evaluate import evaluate
    from tasks.stages.export import export
    from tasks.stages.select import select
    from tasks.stages.train import train

    policy = make_policy(train={"total_timesteps": 2_048}, evaluate={"episodes": 3, "minimum_mean_return": 1})
    release = Release.open(policy, "manual__1", Params())
    train(release)
    evaluate(release)
    export(release)
    release.put_json("quantize/quantization.json", {})
    for family, rows in {"fp32": {"fp32": fabricated.benchmark_row(8.0)}, "fp16": {}, "int8": {}}.items():
        release.put_json(f"benchmark/{family}.json", rows)
    select(release)
    return release


def test_a_built_bento_served_by_its_tag_acts_as_sb3_predicts(trained: Release, tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    register(trained)
    built = build(trained)

    assert built["bento_tag"] == f"{trained.policy}:1"
    assert client().get_model_version(trained.policy, "1").tags["bento_tag"] == built["bento_tag"]
    requirements = (Path(built["bento_path"]) / "env" / "python" / "requirements.txt").read_text()
    assert "onnxruntime" in requirements
    assert not {"torch", "stable-baselines3", "mlflow", "apache-airflow"} & {
        line.split("==")[0] for line in requirements.splitlines()
    }

    model = PPO.load(trained.fetch("model/model.zip", tmp_path), device="cpu")
    observations = np.random.default_rng(0).normal(scale=[1, 1, 0.2, 1.5], size=(1_000, 4)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    home = {"BENTOML_HOME": str(bento_store.bentoml_home())}
    with scratch_server.serving(Path(built["bento_tag"]), tmp_path / "server", home) as running:
        answer = ask(running.url, trained.policy, of_observations(observations))
        family = psutil.Process(running.pid).children(recursive=True)
        assert family
    assert set(answer["sources"]) == {"policy"}
    assert set(answer["versions"]) == {"1"}
    assert answer["actions"] == expected.tolist()
    assert 0 < sum(answer["actions"]) < 1_000
    assert not any(process.is_running() for process in family)


@pytest.fixture
def release(mlflow_server: str, make_policy: MakePolicy) -> Release:
    release = fabricated.candidate(make_policy())
    register(release)
    return release


def test_a_bento_of_the_same_package_is_kept_and_one_of_another_replaced(release: Release, tmp_path: Path) -> None:
    path = bento_store.bento_path(release.policy, "1")
    package = load(release.fetch("package", tmp_path))
    bento.assemble(release, "1", package, tmp_path / "one")
    built_at = (path / "bento.yaml").stat().st_mtime_ns
    assert bento.assemble(release, "1", package, tmp_path / "unused") == path
    assert (path / "bento.yaml").stat().st_mtime_ns == built_at

    document = yaml.safe_load((path / "bento.yaml").read_text())
    document["labels"]["package_sha256"] = "of another package"
    (path / "bento.yaml").write_text(yaml.safe_dump(document))
    shutil.rmtree(path / "src" / "package")

    bento.assemble(release, "1", package, tmp_path / "two")

    assert load(path / "src" / "package").manifest == package.manifest


def test_a_bento_that_acts_otherwise_than_the_evaluated_policy_is_rejected(release: Release, tmp_path: Path) -> None:
    with np.load(release.fetch("evaluation/rollout.npz", tmp_path)) as rollout:
        arrays = dict(rollout)
    arrays["actions"][3] = 1 - arrays["actions"][3]
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "rollout.npz", **arrays)
    release.put_file(tmp_path / "other" / "rollout.npz", "evaluation")
    with pytest.raises(Rejected, match="the evaluated policy agree on 99"):
        build(release)


def test_a_release_without_a_version_cannot_be_packaged(mlflow_server: str, make_policy: MakePolicy) -> None:
    with pytest.raises(Misconfigured, match="registered no version"):
        build(fabricated.candidate(make_policy()))


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    running = scratch_server.start(tmp_path / "no-such-bento", tmp_path / "scratch")
    try:
        with pytest.raises(RuntimeError, match="exited with"):
            running.wait_ready()
    finally:
        running.stop()
    assert not psutil.pid_exists(running.pid)
