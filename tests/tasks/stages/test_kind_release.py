"""A maskable and a recurrent policy released from a zip: evaluated, exported, packaged, built, served and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.build.packaging.bento import ASKED
from tasks.spec.params import Params
from tasks.spec.sections import PRE_DEPLOYMENT
from tasks.stages.bento import build
from tasks.stages.checklist import pre_deployment
from tasks.stages.evaluate import evaluate
from tasks.stages.export import export
from tasks.stages.register import register
from tasks.stages.select import select
from tasks.tracking.release import Release
from tests.tasks import fabricated
from tests.tasks.kinds import ENVIRONMENT, KINDS


@pytest.mark.parametrize("kind", ["masked_dict", "recurrent"])
def test_a_policy_of_another_kind_passes_every_gate_before_deployment(
    kind: str, mlflow_server: str, make_policy: Callable[..., str], tmp_path: Path
) -> None:
    chosen = KINDS[kind]
    policy = make_policy(
        environment={"id": ENVIRONMENT, "kwargs": {"kind": kind}},
        train={"algorithm": chosen.algorithm},
        evaluate={"episodes": 20, "minimum_mean_return": -100},
        serve={"fallback": {"constant": chosen.fallback}},
        canary={"return_range": [-500, 500], "abandoned_return": -500, "margin": 50},
    )
    release = Release.open(policy, "manual__1", Params())
    original = chosen.agent()
    original.model.save(tmp_path / "model.zip")
    release.put_file(tmp_path / "model.zip", "model")
    if original.normalizer is not None:
        original.normalizer.save(str(tmp_path / "vecnormalize.pkl"))
        release.put_file(tmp_path / "vecnormalize.pkl", "model")
    release.put_json(
        "model/training.json",
        {"algorithm": chosen.algorithm, "timesteps": 0, "seconds": 0.0, "seed": 1, "source": "zip", "curve": []},
    )
    evaluate(release)
    assert export(release)["equal"]
    release.put_json("quantize/quantization.json", {})
    for family, rows in {"fp32": {"fp32": fabricated.benchmark_row(8.0)}, "fp16": {}, "int8": {}}.items():
        release.put_json(f"benchmark/{family}.json", rows)
    select(release)
    register(release)

    built = build(release)
    assert built["compared"] == built["observations"] == ASKED
    assert pre_deployment(release) == {"verdict": "pass", "reasons": []}
    checks = {check["id"]: check for check in release.get_json("checklist/pre_deployment.json")["checks"]}
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(PRE_DEPLOYMENT, "pass")
