"""Select the variant to ship by what was measured, and assemble the policy package around it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bentos import package
from tasks import benchmark, runs
from tasks.errors import Misconfigured, Rejected
from tasks.export import EXPORT, ONNX, PT2, TORCHSCRIPT, Exported
from tasks.graph import decider
from tasks.inputs import Array, Inputs, flat, in_batches, spread
from tasks.packaging import Packaging
from tasks.parity import CONTINUOUS_TOLERANCE, compare

SELECTION = "selection.json"
PACKAGE = "package"
BASELINE_ROWS = 2_048
ACTION_BINS = 20
TIE = 0.9
"""A variant replaces fp32 only when it costs at most this share of fp32's time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One variant as it stood when the choice was made. Latencies at the served batch size, microseconds."""

    variant: str
    accepted: bool
    p50_us: float | None
    p99_us: float | None
    relative_cost: float | None
    size_bytes: int | None
    reason: str


@dataclass(frozen=True)
class Selection:
    """The variant that ships, why in words, and the table it was chosen from."""

    variant: str
    reason: str
    batch_size: int
    table: list[Row]


def choose(
    measured: Mapping[str, Mapping[str, Any]],
    judged: Mapping[str, Mapping[str, Any]],
    batch_size: int,
    slo_ms: float,
) -> Selection:
    """The fastest accepted variant within the latency objective; within 10 % of fp32, fp32.

    `measured` is the benchmark by variant, `judged` the quantization gate's findings; fp32 is always accepted.
    """
    rows = [
        _row("fp32", True, "the exported policy itself", measured.get("fp32"), batch_size),
        *(
            _row(name, entry["accepted_actions"], entry["reason"], measured.get(name), batch_size)
            for name, entry in sorted(judged.items())
        ),
    ]
    within = [row for row in rows if row.accepted and row.p99_us is not None and row.p99_us <= slo_ms * 1000]
    candidates = within or [row for row in rows if row.variant == "fp32"]
    fastest = min(candidates, key=lambda row: (row.relative_cost or 1.0, row.variant))
    fp32 = next((row for row in candidates if row.variant == "fp32"), None)
    chosen = fp32 if fp32 and (fastest.relative_cost or 1.0) > TIE else fastest
    return Selection(chosen.variant, _explain(chosen, rows, bool(within), batch_size, slo_ms), batch_size, rows)


def _row(name: str, accepted: bool, reason: str, entry: Mapping[str, Any] | None, batch_size: int) -> Row:
    if entry is None:
        return Row(name, False, None, None, None, None, reason if not accepted else "it was not benchmarked")
    at = entry["batch"][str(batch_size)]
    return Row(name, accepted, at["p50_us"], at["p99_us"], entry["relative_cost"], entry["size_bytes"], reason)


def _explain(chosen: Row, rows: list[Row], within: bool, batch_size: int, slo_ms: float) -> str:
    head = f"{chosen.variant} ships"
    if chosen.p50_us is not None:
        head += f": p50 {chosen.p50_us:.1f} µs, p99 {chosen.p99_us:.1f} µs at batch {batch_size}"
    if not within:
        head += f", although no variant keeps its p99 within {slo_ms:g} ms"
    others = []
    for row in rows:
        if row.variant == chosen.variant:
            continue
        if not row.accepted:
            others.append(f"{row.variant} was rejected: {row.reason}")
        elif row.p99_us is not None and row.p99_us > slo_ms * 1000:
            others.append(f"{row.variant} misses the latency objective of {slo_ms:g} ms (p99 {row.p99_us:.0f} µs)")
        else:
            others.append(
                f"{row.variant} takes {row.relative_cost:.2f} times fp32's time"
                + ("; a gain of less than 10 % goes to fp32" if TIE < (row.relative_cost or 1.0) < 1 else "")
            )
    return ". ".join([head, *others]) + "."


def baselines(space: package.Space, given: Inputs, actions: Array, returns: Array) -> dict[str, Any]:
    """What serving is later compared with: statistics of on-policy observations, actions and returns, as JSON.

    Continuous actions are binned per dimension, 20 bins over the span of the space (of the actions, if unbounded);
    those of MultiDiscrete and MultiBinary spaces one bin a value. Without returns the rows were drawn, not
    met: they are no baseline of anything, and none is given.
    """
    if not len(returns):
        return {"observations": {"source": "drawn"}, "actions": {}, "returns": {"count": 0}}
    observed = flat(given)
    return {
        "observations": {
            "mean": observed.mean(axis=0).tolist(),
            "std": observed.std(axis=0).tolist(),
            "min": observed.min(axis=0).tolist(),
            "max": observed.max(axis=0).tolist(),
            "count": len(observed),
            "source": "on-policy",
        },
        "actions": _action_baseline(space, actions),
        "returns": {"mean": float(returns.mean()), "std": float(returns.std(ddof=1)), "count": len(returns)},
    }


def _action_baseline(space: package.Space, actions: Array) -> dict[str, Any]:
    if space.type == "Discrete":
        return {"kind": "discrete", "counts": np.bincount(actions.reshape(-1), minlength=space.n or 0).tolist()}
    values = actions.reshape(len(actions), -1).astype(np.float64)
    if space.type == "Box":
        low, high = (bound.reshape(-1) for bound in space.bounds())
        low = np.where(np.isfinite(low), low, values.min(axis=0))
        high = np.where(np.isfinite(high), high, values.max(axis=0))
        high = np.where(high > low, high, low + 1.0)
        edges = [np.linspace(*ends, ACTION_BINS + 1) for ends in zip(low, high, strict=True)]
    else:
        # one bin a whole number, so that bin k is the action k
        edges = [np.arange(n + 1) - 0.5 for n in space.nvec or (2,) * values.shape[1]]
    counts = [
        np.histogram(np.clip(column, *ends[[0, -1]]), ends)[0] for column, ends in zip(values.T, edges, strict=True)
    ]
    return {"kind": "continuous", "edges": [e.tolist() for e in edges], "counts": [c.tolist() for c in counts]}


def git_sha() -> str:
    """The commit this code runs from: `$AIRLOCK_GIT_SHA`, else of the repository around it, else "unknown"."""
    if configured := os.environ.get("AIRLOCK_GIT_SHA"):
        return configured
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
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
) -> str:
    """Complete a package: `directory` holds its graphs already; adds the baseline and the manifest.

    The same evidence gives the same bytes. Returns the package's SHA-256 (that of `policy.json`).
    """
    returns = np.array(evidence.returns, dtype=np.float64)
    kept: dict[str, Any] = spread({**given, "actions": actions}, BASELINE_ROWS)
    np.savez_compressed(directory / package.BASELINE, returns=returns, **kept)
    exported = evidence.exported
    variants = {"fp32": ONNX} | {
        name: entry["file"] for name, entry in sorted(evidence.judged.items()) if entry["accepted_actions"]
    }
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
        serve=packaging.serve,
        safety=packaging.safety,
        outcomes=packaging.outcomes,
        parity=dict(exported.parity),
        benchmark=dict(evidence.measured),
        quantization=dict(evidence.judged),
        selection=asdict(evidence.selection),
        baselines=baselines(exported.action_space, given, actions, returns),
        training=dict(evidence.training),
        git_sha=git_commit,
    )
    return package.write_manifest(directory, manifest)


def verify(directory: Path, sha256: str, given: Inputs, actions: Array) -> None:
    """Load the finished package and ask it what the original policy was asked. Raises Rejected when it differs.

    A quantized variant is held to the tolerance of the quantization gate.
    """
    from tasks.quantize import MAXIMUM_P99_ERROR, MINIMUM_AGREEMENT

    policy = package.load(directory, sha256)
    space, exact = policy.manifest.action_space, policy.variant == "fp32"
    decided = in_batches(decider(directory / policy.manifest.variants[policy.variant]), given, 256)["action"]
    difference = compare(space, actions, decided, CONTINUOUS_TOLERANCE if exact else MAXIMUM_P99_ERROR)
    asked = 1.0 if exact else MINIMUM_AGREEMENT if space.type != "Box" else 0.99
    if difference.agreement < asked:
        raise Rejected(
            f"the assembled package agrees with the original on {difference.agreement:.2%} of {difference.rows} "
            f"actions; {asked:.1%} is asked of {policy.variant}"
        )


def _commit(release: runs.Release) -> str:
    """The commit of the release's first selection, so that doing it again under newer code gives the same package."""
    recorded = release.tracked().tags.get("airlock.git_sha")
    if recorded is None:
        recorded = git_sha()
        release.tag(git_sha=recorded)
    return str(recorded)


def _needed(release: runs.Release, path: str) -> dict[str, Any]:
    document = release.get_json(path)
    if document is None:
        raise Misconfigured(f"the run {release.run_id} has no {path}: run the stage that writes it first")
    return dict(document)


def select(release: runs.Release) -> dict[str, Any]:
    """The stage: choose, assemble the package, load it again, and keep it in the run."""
    from tasks.evaluate import EVALUATION, ROLLOUT, load_rollout
    from tasks.quantize import QUANTIZATION
    from tasks.train import TRAINING

    measured: dict[str, Any] = {}
    for family in benchmark.FAMILIES:
        measured |= _needed(release, benchmark.artifact(family))
    judged = _needed(release, QUANTIZATION)
    training = _needed(release, TRAINING)
    selection = choose(measured, judged, release.spec.serve.batch_size, release.spec.serve.latency_slo_ms)
    evidence = Evidence(
        msgspec.convert(_needed(release, EXPORT), Exported),
        _needed(release, EVALUATION)["returns"],
        {
            "dag_run_id": release.dag_run_id,
            "run_id": release.run_id,
            **{key: training[key] for key in ("algorithm", "timesteps", "seconds", "seed", "source")},
        },
        measured,
        judged,
        selection,
    )
    with release.scratch() as scratch:
        given, actions = load_rollout(release.fetch(ROLLOUT, scratch))
        directory = scratch / PACKAGE
        directory.mkdir()
        exported = release.fetch("export", scratch)
        for name in (ONNX, TORCHSCRIPT, PT2):
            shutil.copy(exported / name, directory / name)
        for entry in judged.values():
            if entry["accepted_actions"]:
                shutil.copy(release.fetch(f"quantize/{entry['file']}", scratch), directory / entry["file"])
        sha256 = assemble(directory, Packaging.of(release.spec), evidence, given, actions, _commit(release))
        verify(directory, sha256, given, actions)
        release.put_directory(directory, PACKAGE)
    release.put_json(SELECTION, asdict(selection))
    release.tag(stage="packaged", package_sha256=sha256)
    log.info(selection.reason)
    return {"variant": selection.variant, "package_sha256": sha256}
