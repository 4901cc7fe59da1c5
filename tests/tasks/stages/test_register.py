"""Registering against a real MLflow server: one model version a run, with its evidence and its card."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tasks.stages.register import register
from tasks.tracking.release import Release, client, version_of
from tests.tasks import fabricated

MakePolicy = Callable[..., str]


@pytest.fixture
def release(mlflow_server: str, make_policy: MakePolicy) -> Release:
    return fabricated.candidate(make_policy())


def test_a_candidate_becomes_one_tagged_version_of_an_onnx_model(release: Release) -> None:
    import mlflow

    found = register(release)
    again = register(release)

    assert again == found
    (version,) = client().search_model_versions(f"name = '{release.policy}'")
    assert version.version == found["version"] == version_of(release)
    assert version.run_id == release.run_id
    assert version.tags["validation_status"] == "candidate"
    assert version.tags["package_sha256"] == found["package_sha256"]
    assert version.tags["dag_run_id"] == release.dag_run_id
    assert version.tags["git_sha"] == "0" * 40
    assert version.tags["package_uri"].endswith(f"{release.run_id}/artifacts/package")
    assert client().get_registered_model(release.policy).tags["airlock"] == "policy"
    assert client().get_run(release.run_id).info.status == "RUNNING"

    assert version.description.startswith(f"## Candidate, not yet approved: {release.policy} version 1")
    assert "released by Airlock" in client().get_registered_model(release.policy).description
    cards = {item.path for item in client().list_artifacts(release.run_id, "card")}
    assert cards >= {"card/card.md", "card/learning_curve.png", "card/latency.png", "card/return_distribution.png"}

    model = mlflow.pyfunc.load_model(f"models:/{release.policy}/{found['version']}")
    observations = np.array([[0, 0, 0.1, 0], [0, 0, -0.1, 0]], dtype=np.float32)
    assert model.predict({"observation": observations})["action"].tolist() == [1, 0]
    assert model.metadata.signature.inputs.input_names() == ["observation"]

    logged = client().get_logged_model(found["model_id"])
    assert logged.experiment_id == release.experiment_id
    assert {metric.key for metric in logged.metrics or []} >= {"evaluation/mean_return", "latency/p99_us_batch_1"}


def test_each_release_gets_a_version_of_its_own(mlflow_server: str, make_policy: MakePolicy) -> None:
    policy = make_policy()
    versions = [register(fabricated.candidate(policy, f"manual__{n}"))["version"] for n in (1, 2)]
    assert versions == ["1", "2"]


def test_a_release_that_did_not_register_has_no_version(release: Release) -> None:
    assert version_of(release) is None
