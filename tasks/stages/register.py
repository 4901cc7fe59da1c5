"""Registering: the candidate as an ONNX model logged in MLflow, and as one model version, with its evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bentos import settings
from bentos.package.digests import MANIFEST, read_manifest, sha256
from bentos.package.manifest import Manifest, Tensor
from tasks.control.plane import ControlPlane
from tasks.tracking.release import Release, client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

MODEL_NAME = "policy"
REQUIREMENTS = ("onnxruntime", "numpy")


def register(release: Release) -> dict[str, Any]:
    """Create this release's model version, once: {"version", "package_sha256", "model_id"}.

    The fp32 graph becomes a logged ONNX model of the run with its signature and the key metrics; the version points
    at it and is tagged with the package it stands for. Run again, everything found is kept and completed.
    """
    from tasks.reporting import card

    mlflow = client()
    with release.scratch() as scratch:
        package = release.fetch("package", scratch)
        manifest = read_manifest(package)
        package_sha256 = sha256(package / MANIFEST)
        model_id = _logged_model(mlflow, release, package / manifest.variants["fp32"], manifest)
    _registered_model(mlflow, release)
    version = _version(mlflow, release, model_id, package_sha256, manifest.git_sha)
    release.tag(version=version, model_id=model_id)
    _link_metrics(release, manifest)
    ControlPlane(f"release {release.dag_run_id}").registered(release.policy, version)
    card.update(release, version)
    return {"version": version, "package_sha256": package_sha256, "model_id": model_id}


def signature(manifest: Manifest) -> ModelSignature:
    """The graph's named inputs and outputs as an MLflow signature; the batch dimension is free."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: tuple[Tensor, ...]) -> Schema:
        return Schema([TensorSpec(np.dtype(t.dtype), (-1, *t.shape), t.name) for t in tensors])

    return ModelSignature(inputs=schema(manifest.inputs), outputs=schema(manifest.outputs))


def _logged_model(mlflow: MlflowClient, release: Release, graph: Path, manifest: Manifest) -> str:
    from mlflow.entities import LoggedModelStatus

    for found in mlflow.search_logged_models([release.experiment_id], f"source_run_id = '{release.run_id}'"):
        if found.name == MODEL_NAME and found.status == LoggedModelStatus.READY:
            return str(found.model_id)
    import mlflow as fluent
    import mlflow.onnx as flavor
    import onnx
    from mlflow.models import Model

    fluent.set_tracking_uri(settings.mlflow_url())
    fluent.set_experiment(experiment_id=release.experiment_id)
    logged = Model.log(
        artifact_path=None,
        name=MODEL_NAME,
        flavor=flavor,
        run_id=release.run_id,
        onnx_model=onnx.load(graph),
        signature=signature(manifest),
        pip_requirements=list(REQUIREMENTS),
        save_as_external_data=False,
        model_type="policy",
        params={"algorithm": manifest.algorithm, "environment": str(manifest.environment["id"])},
    )
    return str(logged.model_id)


def _registered_model(mlflow: MlflowClient, release: Release) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.create_registered_model(release.policy, tags={"airlock": "policy"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        mlflow.set_registered_model_tag(release.policy, "airlock", "policy")


def _version(mlflow: MlflowClient, release: Release, model_id: str, package_sha256: str, git_sha: str) -> str:
    found = mlflow.search_model_versions(f"name = '{release.policy}' and run_id = '{release.run_id}'")
    if found:
        return str(min(found, key=lambda version: int(version.version)).version)
    run = mlflow.get_run(release.run_id)
    created = mlflow.create_model_version(
        release.policy,
        source=f"models:/{model_id}",
        run_id=release.run_id,
        tags={
            "package_sha256": package_sha256,
            "package_uri": f"{run.info.artifact_uri}/package",
            "git_sha": git_sha,
            "dag_run_id": release.dag_run_id,
        },
        model_id=model_id,
        await_creation_for=None,
    )
    return str(created.version)


def _link_metrics(release: Release, manifest: Manifest) -> None:
    evaluation = release.get_json("evaluation/evaluation.json") or {}
    batches = manifest.benchmark.get(manifest.shipped_variant, {}).get("batch", {})
    values = {
        "evaluation/mean_return": evaluation.get("mean"),
        "evaluation/lower": evaluation.get("lower"),
        "evaluation/upper": evaluation.get("upper"),
        **{f"latency/p99_us_batch_{batch}": row.get("p99_us") for batch, row in batches.items()},
    }
    release.log_model_metrics({name: value for name, value in values.items() if value is not None})
