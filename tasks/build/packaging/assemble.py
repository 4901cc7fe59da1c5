"""Assemble the policy package around the selected variant, and the stage that selects it."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bentos import package
from bentos.package.hooks import HOOK_FILE
from tasks.build.export.formats import ONNX, Exported
from tasks.build.export.graph import decider
from tasks.build.export.parity import SCORES, compare
from tasks.build.packaging.baselines import baselines, explored
from tasks.build.variants.gate import unlike
from tasks.build.variants.quantize import compare_actions
from tasks.build.variants.selection import Selection
from tasks.build.variants.served_graph import write_served
from tasks.errors import Rejected
from tasks.inputs import Array, Inputs, in_batches, size, spread
from tasks.spec.packaging import Packaging

BASELINE_ROWS, BASELINE_BYTES = 2_048, 8 * 2**20
"""Most rows that a package keeps of what the policy was asked, and their size: of images fewer, but at least 64."""

log = logging.getLogger(__name__)


def git_sha() -> str:
    """The commit this code runs from: `$AIRLOCK_GIT_SHA`, else of the repository around it, else "unknown"."""
    if configured := os.environ.get("AIRLOCK_GIT_SHA"):
        return configured
    command = ["git", "-C", str(Path(__file__).parents[2]), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@dataclass(frozen=True)
class Evidence:
    """All that earlier stages found and the manifest repeats; no `returns` where the environment could not run."""

    exported: Exported
    returns: Sequence[float]
    training: Mapping[str, Any]
    measured: Mapping[str, Any]
    judged: Mapping[str, Any]
    selection: Selection


def assemble(
    directory: Path,
    packaging: Packaging,
    evidence: Evidence,
    given: Inputs,
    actions: Array,
    git_commit: str,
    episodes: Array | None = None,
) -> str:
    """Complete a package: `directory` holds its graphs already; adds the graphs that are served, the baseline and the
    manifest.

    `episodes` [n] says which episode each row is of, where they are of any. The same evidence gives the same bytes.
    Returns the package's SHA-256 (that of `policy.json`).
    """
    returns = np.array(evidence.returns, dtype=np.float64)
    rows = max(64, min(BASELINE_ROWS, BASELINE_BYTES * size(given) // sum(a.nbytes for a in given.values())))
    kept: dict[str, Any] = spread({**given, "actions": actions}, rows)
    np.savez_compressed(directory / package.BASELINE, returns=returns, **kept)
    if packaging.hook is not None:
        (directory / HOOK_FILE).write_bytes(packaging.hook)
    exported = evidence.exported
    acted = explored(directory / ONNX, exported, given) if packaging.serve.explore else actions
    variants = {"fp32": ONNX} | {
        name: evidence.judged[name]["file"] for name in evidence.selection.accepted if name != "fp32"
    }
    served = _served(directory, variants, kept, packaging.serve.explore)
    manifest = package.Manifest(
        schema_version=package.SCHEMA_VERSION,
        name=packaging.name,
        algorithm=evidence.training["algorithm"],
        environment=dict(packaging.environment),
        observation_space=exported.observation_space,
        action_space=exported.action_space,
        inputs=exported.inputs,
        outputs=exported.outputs,
        opset=exported.opset,
        files=package.digest_files(directory),
        variants=variants,
        shipped_variant=evidence.selection.variant,
        serve=msgspec.structs.replace(packaging.serve, batch_size=evidence.selection.batch_size),
        safety=packaging.safety,
        outcomes=packaging.outcomes,
        parity=dict(exported.parity),
        benchmark=dict(evidence.measured),
        quantization=dict(evidence.judged),
        selection=asdict(evidence.selection),
        baselines=baselines(exported.action_space, given, acted, returns, episodes),
        training=dict(evidence.training),
        git_sha=git_commit,
        served=served,
        distribution=exported.distribution,
    )
    return package.write_manifest(directory, manifest)


def _served(directory: Path, variants: Mapping[str, str], given: Inputs, explore: bool) -> dict[str, str]:
    """Write the graphs that are served into a package; their files by variant, but for those that are served whole."""
    files = {name: write_served(directory / file, given, directory, explore).name for name, file in variants.items()}
    return {name: file for name, file in files.items() if file != variants[name]}


def verify(directory: Path, sha256: str, given: Inputs, actions: Array) -> None:
    """Load the finished package and ask it what the original policy was asked. Raises Rejected when it differs.

    A quantized variant is held to what the quantization gate asks.
    """
    policy = package.load(directory, sha256)
    space = policy.manifest.action_space
    exact = in_batches(decider(directory / policy.manifest.variants["fp32"]), given, 256)
    scores = next((exact[name] for name in SCORES if name in exact), None)
    difference = compare(space, actions, exact["action"], scores=scores)
    if difference.agreement < 1.0:
        raise Rejected(
            f"the assembled package agrees with the original on {difference.agreement:.2%} of {difference.rows} actions"
        )
    if policy.variant != "fp32":
        shipped = in_batches(decider(directory / policy.manifest.variants[policy.variant]), given, 256)["action"]
        if reasons := unlike(compare_actions(space, exact, shipped)):
            raise Rejected(f"the assembled package ships {policy.variant}: {'; '.join(reasons)}")
