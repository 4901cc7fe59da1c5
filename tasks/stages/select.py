"""The stage `select`: choose the variant to ship and assemble the package around it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from typing import Any

import msgspec

from tasks.build.export.formats import ONNX, PT2, TORCHSCRIPT, Exported
from tasks.build.packaging.assemble import Evidence, assemble, git_sha, verify
from tasks.build.training.evaluation import load_episodes, load_rollout
from tasks.build.variants import table as benchmark_table
from tasks.build.variants.selection import choose
from tasks.spec.packaging import Packaging
from tasks.spec.sections import FAMILIES
from tasks.stages.artifacts import (
    EVALUATION,
    EXPORT,
    PACKAGE,
    QUANTIZATION,
    ROLLOUT,
    SELECTION,
    TABLE,
    TRAINING,
    artifact,
)
from tasks.tracking.release import Release

log = logging.getLogger(__name__)


def _commit(release: Release) -> str:
    """The commit of the release's first selection, so that doing it again under newer code gives the same package."""
    recorded = release.tracked().tags.get("airlock.git_sha")
    if recorded is None:
        recorded = git_sha()
        release.tag(git_sha=recorded)
    return str(recorded)


def select(release: Release) -> dict[str, Any]:
    """The stage: choose, assemble the package, load it again, and keep it in the run."""
    measured: dict[str, Any] = {}
    for family in FAMILIES:
        measured |= release.need_json(artifact(family))
    judged = release.need_json(QUANTIZATION)
    training = release.need_json(TRAINING)
    serve = release.spec.serve
    selection = choose(measured, judged, serve.batch_size, serve.latency_slo_ms, serve.deadline_ms)
    evidence = Evidence(
        msgspec.convert(release.need_json(EXPORT), Exported),
        release.need_json(EVALUATION)["returns"],
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
        rollout = release.fetch(ROLLOUT, scratch)
        given, actions = load_rollout(rollout)
        directory = scratch / PACKAGE
        directory.mkdir()
        exported = release.fetch("export", scratch)
        for name in (ONNX, TORCHSCRIPT, PT2):
            shutil.copy(exported / name, directory / name)
        for name in selection.accepted:
            if name != "fp32":
                file = judged[name]["file"]
                shutil.copy(release.fetch(f"quantize/{file}", scratch), directory / file)
        packaging, episodes = Packaging.of(release.spec), load_episodes(rollout)
        sha256 = assemble(directory, packaging, evidence, given, actions, _commit(release), episodes)
        verify(directory, sha256, given, actions)
        release.put_directory(directory, PACKAGE)
        table = scratch / TABLE
        table.write_text(benchmark_table.text(measured, selection.batch_size), encoding="utf-8")
        release.put_file(table, "benchmark")
    release.put_json(SELECTION, asdict(selection))
    release.tag(stage="packaged", package_sha256=sha256)
    log.info("%s\n%s", selection.reason, benchmark_table.text(measured, selection.batch_size))
    return {"variant": selection.variant, "package_sha256": sha256}
