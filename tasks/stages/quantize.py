"""The stage `quantize`: write the reduced-precision variants and measure how each acts beside fp32."""

from __future__ import annotations

import logging
from typing import Any

from tasks.build.variants.quantize import quantize_policy
from tasks.stages.artifacts import QUANTIZATION
from tasks.tracking.release import Release

log = logging.getLogger(__name__)


def quantize(release: Release) -> dict[str, Any]:
    """The stage: write and judge the variants. No verdict here ends a release; fp32 can always ship."""
    import msgspec

    from tasks.build.export.formats import ONNX, Exported
    from tasks.build.training.evaluation import load_rollout
    from tasks.stages.artifacts import EXPORT, ROLLOUT

    exported = msgspec.convert(release.get_json(EXPORT), Exported)
    with release.scratch() as scratch:
        given, _ = load_rollout(release.fetch(ROLLOUT, scratch))
        reference = release.fetch(f"export/{ONNX}", scratch)
        directory = scratch / "quantize"
        directory.mkdir()
        found = quantize_policy(
            reference,
            given,
            exported.action_space,
            exported.inputs,
            release.spec.environment,
            release.spec.canary.margin,
            directory,
        )
        release.put_directory(directory, "quantize")
    release.put_json(QUANTIZATION, found)
    release.tag(stage="quantized")
    for name, entry in found.items():
        log.info("%s: %s: %s", name, "acts like fp32" if entry["accepted_actions"] else "rejected", entry["reason"])
    return {name: entry["accepted_actions"] for name, entry in found.items()}
