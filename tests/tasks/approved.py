"""A release whose version is approved, without the stages that lead there."""

from __future__ import annotations

from pathlib import Path

from tasks.control.plane import ControlPlane
from tasks.tracking.release import Release, client


def approve(made: Release, package: Path, digest: str) -> None:
    """Register a package of that digest as the release's version, and approve it."""
    made.put_directory(package, "package")
    mlflow = client()
    uri = f"{mlflow.get_run(made.run_id).info.artifact_uri}/package"
    if not mlflow.search_registered_models(f"name = '{made.policy}'"):
        mlflow.create_registered_model(made.policy)
    version = str(mlflow.create_model_version(made.policy, uri, run_id=made.run_id).version)
    made.tag(version=version)
    control = ControlPlane("test")
    control.registered(made.policy, version)
    control.annotate(made.policy, version, {"package_uri": uri, "package_sha256": digest})
    control.approve(made.policy, version)
