"""The stage `benchmark`, once a family of variants: measure latency, memory and size."""

from __future__ import annotations

import logging
from typing import Any

from tasks.build.variants.benchmark import MEMBERS, alone, measure_variants
from tasks.build.variants.selection import COMPARED_BATCH
from tasks.errors import Misconfigured
from tasks.spec.sections import FAMILIES
from tasks.stages.artifacts import ORIGINALS, artifact
from tasks.tracking.release import Release

log = logging.getLogger(__name__)


def benchmark(release: Release, family: str) -> dict[str, Any]:
    """The stage, once a family: measure its variants; beside fp32 stands what the export measured of the originals."""
    from tasks.build.export.formats import ONNX
    from tasks.build.training.evaluation import load_rollout
    from tasks.stages.artifacts import QUANTIZATION, ROLLOUT

    if family not in FAMILIES:
        raise Misconfigured(f"unknown family {family!r}; expected one of {FAMILIES}")
    serve = release.spec.serve
    compared = serve.batch_size or COMPARED_BATCH
    written = release.get_json(QUANTIZATION) or {}
    with release.scratch() as scratch:
        given, _ = load_rollout(release.fetch(ROLLOUT, scratch))
        reference = release.fetch(f"export/{ONNX}", scratch)
        graphs = {
            name: reference if name == "fp32" else release.fetch(f"quantize/{written[name]['file']}", scratch)
            for name in MEMBERS[family]
            if name == "fp32" or written[name]["file"]
        }
        with alone():
            found = measure_variants(graphs, reference, given, compared, scratch, serve.explore)
    if family == "fp32":
        found["fp32"]["compared_with"] = release.get_json(ORIGINALS)
    release.put_json(artifact(family), found)
    served = str(compared)
    release.log_metrics(
        {f"benchmark/{name}/p50_us": entry["batch"][served]["p50_us"] for name, entry in found.items()}
        | {f"benchmark/{name}/p99_us": entry["batch"][served]["p99_us"] for name, entry in found.items()}
        | {f"benchmark/{name}/peak_rss_mb": entry["peak_rss_mb"] for name, entry in found.items()}
    ) if found else None
    release.tag(stage="benchmarked")
    for name, entry in found.items():
        log.info("%s: p50 %.1f us, p99 %.1f us at batch %s", name, *list(entry["batch"][served].values())[:2], served)
    return {name: entry["batch"][served] for name, entry in found.items()}
