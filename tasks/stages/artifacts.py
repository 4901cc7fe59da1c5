"""Where each stage keeps its artifacts in the MLflow run of a release, and the model that is kept there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.build.training.agent import Agent
    from tasks.tracking.release import Release

TRAINING = "model/training.json"
EVALUATION = "evaluation/evaluation.json"
ROLLOUT = "evaluation/rollout.npz"
EXPORT = "export/export.json"
QUANTIZATION = "quantize/quantization.json"
ORIGINALS = "benchmark/originals.json"
"""Latency of SB3, torch, TorchScript and `.pt2`, measured where torch is loaded anyway: by the export."""
TABLE = "table.txt"
SELECTION = "selection.json"
PACKAGE = "package"


def artifact(family: str) -> str:
    """Where a family's measurements are kept in the run."""
    return f"benchmark/{family}.json"


def fetch_agent(release: Release, scratch: Path) -> Agent:
    """The release's model, downloaded from its run and opened."""
    from tasks.build.training.agent import load_model
    from tasks.build.training.train import MODEL, VECNORMALIZE

    directory = release.fetch("model", scratch)
    statistics = directory / Path(VECNORMALIZE).name
    return load_model(
        directory / Path(MODEL).name, statistics if statistics.exists() else None, release.spec.train.algorithm
    )
