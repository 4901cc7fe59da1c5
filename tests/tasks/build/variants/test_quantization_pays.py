"""Large policies: int8 keeps their actions and returns, and is accepted for what it measurably gains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos.package.manifest import Space
from tasks.build.export.graph import decider
from tasks.build.training.rollout import EVALUATION_SEED, play, thin
from tasks.build.variants.measure import measure_apart
from tasks.build.variants.quantize import quantize_policy
from tasks.build.variants.selection import choose
from tasks.spec.sections import Environment
from tests.tasks.large_policies import BRIGHT_SIDE, convolutional, wide

DISCRETE = Space("Discrete", "int64", n=2)


@pytest.mark.parametrize(
    ("make", "environment", "most", "variant", "batch"),
    [
        (wide, Environment(id="CartPole-v1"), 500.0, "int8-static-inner", 32),
        (convolutional, Environment(id=BRIGHT_SIDE), 10.0, "int8-static", 1),
    ],
)
def test_int8_of_a_large_policy_is_accepted_with_its_measured_gain(
    make: Callable[[Path], Path], environment: Environment, most: float, variant: str, batch: int, tmp_path: Path
) -> None:
    reference = make(tmp_path / "policy.onnx")
    played = play(environment, decider(reference), range(EVALUATION_SEED, EVALUATION_SEED + 24))
    assert played.returns.mean() >= 0.99 * most
    given = thin(played, 512).inputs
    judged = quantize_policy(reference, given, DISCRETE, (), environment, 0.02 * most, tmp_path, episodes=16)
    arrays: dict[str, Any] = {**given}
    np.savez(tmp_path / "inputs.npz", **arrays)
    graphs = {"fp32": reference, variant: tmp_path / judged[variant]["file"]}
    measured = {
        name: measure_apart(graph, reference, tmp_path / "inputs.npz", (batch,), batch)
        for name, graph in graphs.items()
    }
    selection = choose(measured, {variant: judged[variant]}, batch, slo_ms=10_000)
    (row,) = [row for row in selection.table if row.variant == variant]
    assert row.accepted, row.reason
    assert "the same at every batch size" in row.reason
    assert f"times fp32's time at batch {batch}" in row.reason
    assert selection.accepted == ["fp32", variant]
    assert judged["int8-dynamic"]["batch_invariant"] or not judged["int8-dynamic"]["accepted_actions"]
