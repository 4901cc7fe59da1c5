"""The stage `export`: write all formats of the release's model and prove them equal to it."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import numpy as np

from tasks.build.export import parity
from tasks.build.export.formats import ONNX, TORCHSCRIPT, export_policy
from tasks.build.export.graph import decider
from tasks.errors import Rejected
from tasks.stages.artifacts import EXPORT
from tasks.tracking.release import Release

log = logging.getLogger(__name__)


def export(release: Release) -> dict[str, Any]:
    """The stage: export the release's model. The files and the proof are kept before an unequal one raises Rejected."""
    import torch

    from tasks.build.export.paired_returns import EPISODES, acts_alike, paired_returns
    from tasks.build.training.environments import make
    from tasks.build.training.evaluation import load_rollout
    from tasks.build.training.rollout import EVALUATION_SEED
    from tasks.build.variants.benchmark import alone, compare_with_originals
    from tasks.stages.artifacts import EVALUATION, ORIGINALS, ROLLOUT, fetch_agent

    torch.set_num_threads(1)
    with release.scratch() as scratch:
        given, _ = load_rollout(release.fetch(ROLLOUT, scratch))
        agent = fetch_agent(release, scratch)
        environment = make(release.spec.environment)
        directory = scratch / "export"
        directory.mkdir()
        exported = export_policy(agent, directory, environment.observation_space, given)
        environment.close()
        earned = np.array(release.need_json(EVALUATION)["returns"][:EPISODES])
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + len(earned))
        returns = paired_returns(
            release.spec.environment, agent.decide, decider(directory / ONNX), exported.inputs, seeds, earned
        )
        exported = msgspec.structs.replace(exported, parity={**exported.parity, "returns": returns})
        release.put_directory(directory, "export")
        with alone():
            release.put_json(ORIGINALS, compare_with_originals(agent, directory / TORCHSCRIPT, exported.inputs, given))
    release.put_json(EXPORT, msgspec.to_builtins(exported))
    release.tag(stage="exported")
    if not exported.parity["equal"]:
        raise Rejected(f"the exported policy does not act as the original: {parity.worst(exported.parity)}")
    if not acts_alike(returns):
        raise Rejected(
            f"on {returns['episodes']} paired episodes the exported policy earns {returns['exported']:.2f}, "
            f"the original {returns['original']:.2f}"
        )
    log.info("ONNX, TorchScript and pt2 equal the original on %d observations", exported.parity["observations"])
    return {
        "outputs": [output.name for output in exported.outputs],
        "opset": exported.opset,
        "observations": exported.parity["observations"],
        "equal": True,
    }
