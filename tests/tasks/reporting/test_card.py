"""The model card's words: what a reviewer reads first, and that it always fits MLflow's description."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tasks.checklist.run import run_all
from tasks.checklist.types import PHASES, Checklist, Finding, Phase
from tasks.reporting.card_text import LIMIT, Evidence, description, full, overview
from tasks.reporting.comparison import Difference
from tasks.spec.files import load
from tasks.tracking.registry import Version

RUN = "0123456789abcdef0123456789abcdef"
VARIANTS = ("fp32", "fp16", "int8-dynamic", "int8-static")
PICTURES = ("action_distribution", "canary", "latency", "learning_curve", "return_distribution")


def _checklist(phase: Phase, reason: str = "seen", **broken: Finding) -> Checklist:
    def check(name: str) -> Finding:
        return broken.get(name) or Finding("pass", reason, observed=0.25, threshold=1.0, unit="ms", sample_size=9)

    checks = {name: (lambda name=name: check(name)) for name in PHASES[phase]}
    return run_all("cartpole", "3", phase, checks, lambda name: "enforce", "a test")[0]


def _evidence(**changes: Any) -> Evidence:
    row = {"batch": {"1": {"p50_us": 5.0, "p99_us": 9.0}, "64": {"p50_us": 12.0, "p99_us": 30.0}}, "size_bytes": 9_000}
    found = Evidence(
        "cartpole",
        "3",
        "manual__1",
        RUN,
        load("cartpole"),
        tags={
            "validation_status": "promoted",
            "git_sha": "a" * 40,
            "package_sha256": "b" * 64,
            "reason": "it is better",
        },
        training={"algorithm": "ppo", "timesteps": 50_000, "seed": 7, "source": "train", "seconds": 12.0},
        evaluation={
            "episodes": 50,
            "returns": [400.0, 500.0],
            "mean": 481.5,
            "std": 30.0,
            "lower": 470.0,
            "upper": 490.0,
            "confidence": 0.95,
            "minimum": 400.0,
        },
        parity={"formats": {"onnx": {"1": {"rows": 512, "agreement": 1.0, "max_error": 0.0}}}},
        benchmark={name: {**row, "peak_rss_mb": 61.0} for name in VARIANTS},
        quantization={"fp16": {"agreement": 0.9991, "return_difference": {"mean": -1.5}, "reason": "acts like fp32"}},
        selection={
            "variant": "fp32",
            "batch_size": 64,
            "batch_reason": "900 rows/s measured",
            "reason": "fp32 ships: p50 12.0 µs. fp16 takes 1.10 times fp32's time.",
            "table": [
                {"variant": "fp32", "accepted": True, "relative_cost": 1.0, "reason": "itself"},
                {"variant": "fp16", "accepted": True, "relative_cost": 1.1, "reason": "acts like fp32"},
                {"variant": "int8-static", "accepted": False, "reason": "agrees with fp32 on 91.00% of actions"},
            ],
        },
        checklists=(_checklist("pre_deployment"), _checklist("post_deployment")),
        pictures=PICTURES,
    )
    return replace(found, **changes)


def test_the_first_line_says_how_it_ended() -> None:
    assert description(_evidence()).startswith("## Promoted to champion: cartpole version 3\n")
    rolled_back = _evidence(tags={"validation_status": "rolled_back", "reason": "worse by 20"})
    assert description(rolled_back).startswith("## Rolled back: cartpole version 3\n\n**worse by 20**")


def test_the_numbers_a_reviewer_needs_are_there() -> None:
    text = description(_evidence())
    for words in (
        "481.5",
        "470.0 to 490.0",
        "required 400",
        "fp32 ships: p50 12.0 µs.",
        "Batches of 64 rows: 900 rows/s measured.",
        "99.91%",
        "-1.5",
        "1.10 times fp32's time",
        "rejected: agrees with fp32 on 91.00% of actions",
        "50,000 steps",
        "seed 7",
        "git `aaaaaaaaaaaa`",
        "DAG run `manual__1`",
        "10 of 10 passed",
        "8 of 8 passed",
    ):
        assert words in text, words


def test_every_check_is_listed_with_observed_and_threshold() -> None:
    lines = description(_evidence()).splitlines()
    for phase in PHASES.values():
        for name in phase:
            (line,) = [line for line in lines if line.startswith(f"| {name} ") or line.startswith(f"| {name}&")]
            assert "0.25 ms" in line
            assert "1 ms" in line


def test_pictures_are_of_the_run_and_only_those_drawn() -> None:
    text = description(_evidence(pictures=("latency",)))
    assert f"get-artifact?path=card/latency.png&run_uuid={RUN}" in text
    assert "canary.png" not in text


def test_the_canarys_wide_picture_stands_above_and_the_others_in_pairs() -> None:
    lines = description(_evidence(pictures=PICTURES)).splitlines()
    drawn = [re.findall(r"card/(\w+)\.png", line) for line in lines if "card/" in line and ".png" in line]
    assert drawn == [["canary"], ["return_distribution", "learning_curve"], ["latency", "action_distribution"]]
    odd = description(_evidence(pictures=("canary", "latency"))).splitlines()
    assert next(line for line in odd if "latency.png" in line).startswith("| ![latency]")


def test_a_failed_check_is_named_at_the_top_with_its_reason_below() -> None:
    broken = _checklist("pre_deployment", input_validation=Finding("fail", "NaN: answered 200"))
    text = description(_evidence(checklists=(broken,)))
    assert "9 of 10 passed; not passed: input_validation" in text
    assert "NaN: answered 200" in text


@pytest.mark.parametrize("length", [10, 300, 3_000])
def test_it_fits_mlflow_however_long_the_reasons(length: int) -> None:
    reason = "why " * (length // 4)
    pre = _checklist("pre_deployment", reason, exported=Finding("fail", reason))
    text = description(_evidence(checklists=(pre, _checklist("post_deployment", reason))))
    assert len(text) <= LIMIT
    assert "To reproduce" in text


def test_a_card_of_a_release_that_just_began_says_what_there_is() -> None:
    bare = Evidence("cartpole", "1", "manual__1", RUN, load("cartpole"))
    text = description(bare)
    assert "Candidate" in text
    assert "seed 7" in text
    assert "Canary" not in text


def test_the_full_card_keeps_whole_reasons() -> None:
    reason = "because " * 30
    assert reason.strip() in full(_evidence(checklists=(_checklist("pre_deployment", reason),)))


def test_the_full_card_shows_every_way_to_run_the_policy_and_what_was_not_measured() -> None:
    row = {"p50_us": 117.0, "p90_us": 150.0, "p99_us": 1244.0}
    missing = {"CUDAExecutionProvider": {"not_measured": "this ONNX Runtime does not have it"}}
    fp32 = {
        "batch": {"1": row},
        "io_binding": {"1": row},
        "providers": missing,
        "compared_with": {"sb3_predict": {"batch": {"1": row}}},
    }
    text = full(_evidence(benchmark={"fp32": fp32}))
    assert "| SB3 predict | 117 / 150 / 1,244 |" in text
    assert "| ONNX Runtime, fp32, io-binding | 117 / 150 / 1,244 |" in text
    assert "CUDAExecutionProvider: not measured, this ONNX Runtime does not have it" in text
    assert "CUDAExecutionProvider" not in description(_evidence(benchmark={"fp32": fp32}))


def test_the_card_says_what_the_proof_covers() -> None:
    parity = {
        "observations": 4096,
        "source": "on-policy",
        "formats": {"onnx": {"1": {"rows": 512, "agreement": 1.0, "max_error": 0.0}}},
        "edges": {"onnx": {"zeros": {}, "large": {}}},
        "refused": {"onnx": {"NaN in observation": 1.0}},
        "parameters": {"onnx": {"logits": 2e-7}},
        "returns": {"skipped": "the environment is not installed"},
    }
    assert (
        "Proved on 4,096 observations: on-policy; equal at the edges (large, zeros); flagged as not finite: NaN in "
        "observation; distribution parameters within 2e-07; returns not compared: the environment is not installed."
    ) in description(_evidence(parity=parity))


def test_continuous_variants_tell_their_error() -> None:
    kept = {"discrete": False, "p99_error": 0.0031, "agreement": 0.0, "return_difference": None}
    assert "p99 error 3.1e-03" in description(_evidence(quantization={"fp16": kept}))


def test_the_models_page_lists_how_each_version_ended_the_newest_first() -> None:
    ends = {"1": ("promoted", "good enough"), "2": ("promoted", "better"), "10": ("rolled_back", "worse | by 20")}
    versions = [
        Version(name, RUN, {"validation_status": status, "reason": reason}) for name, (status, reason) in ends.items()
    ]
    rows = overview(load("cartpole"), versions).splitlines()[-3:]
    assert [row.split("|")[1].strip().removesuffix("&emsp;") for row in rows] == ["10", "2", "1"]
    assert "rolled_back" in rows[0]
    assert "worse \\| by 20" in rows[0]
    assert "better" in rows[1]


def test_the_models_page_fits_however_many_versions_there_are() -> None:
    versions = [Version(str(n), RUN, {"validation_status": "promoted", "reason": "because " * 50}) for n in range(300)]
    assert len(overview(load("cartpole"), versions)) <= LIMIT


def test_the_card_shows_what_sets_the_candidate_apart_where_there_is_room() -> None:
    differences = (Difference("offline return", "470.0", "481.5"), Difference("action space", "2", "2"))
    evidence = _evidence(champion="2", differences=differences)
    assert "| offline return | 470.0 | **481.5** |" in full(evidence)
    assert "Against the champion" in description(evidence)
    long = tuple(Difference(f"spec: field {n}", "1", "2") for n in range(200))
    assert "Against the champion" not in description(replace(evidence, differences=long))
    assert "spec: field 199" in full(replace(evidence, differences=long))


def test_a_link_leads_from_the_card_to_everything_else() -> None:
    tags = {"bento_tag": "cartpole:3", "approved_by": "ada", "approval_reason": "it balances"}
    text = description(_evidence(tags=tags, bundle="evidence/cartpole-3.zip", experiment_id="7"))
    for link in (
        "/dags/release_cartpole/runs/manual__1)",
        "/airlock/policies/cartpole)",
        f"(#/experiments/7/runs/{RUN})",
        f"(get-artifact?path=evidence/cartpole-3.zip&run_uuid={RUN})",
        "Bento `cartpole:3`",
        "Approved by ada**, reason: it balances.",
    ):
        assert link in text
    assert "Evidence bundle" not in description(_evidence())
