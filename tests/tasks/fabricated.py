"""A finished candidate without training: the artifacts that the build stages of a release leave behind, made by hand.

The policy is a real ONNX graph that balances CartPole (push towards where the pole falls), so everything downstream
that loads, serves, plays or benchmarks it works on the real thing.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import sqlalchemy as sa
from onnx import TensorProto, helper, numpy_helper

from bentos import package
from bentos.store import tables
from tasks.analysis.judge.plan import CanaryPlan
from tasks.build.packaging.baselines import baselines
from tasks.build.variants.selection import choose
from tasks.spec.params import Params
from tasks.tracking.release import Release

GAINS = np.array([[0.0], [0.1], [1.0], [0.6]], dtype=np.float32)


PARITY = {
    "observations": 1000,
    "tolerance": 0.0,
    "equal": True,
    "formats": {
        name: {
            str(batch): {"rows": 1000, "agreement": 1.0, "max_error": 0.0, "p99_error": 0.0} for batch in (1, 2, 7, 64)
        }
        for name in ("onnx", "torchscript", "pt2")
    },
}


def graph(sign: float = 1.0) -> onnx.ModelProto:
    """`observation` [batch, 4] -> `action` [batch] int64, `finite` [batch] bool, `logits` [batch, 2]."""
    weights = np.concatenate([-GAINS, GAINS], axis=1) * np.float32(sign)
    nodes = [
        helper.make_node("MatMul", ["observation", "weights"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=1, keepdims=0),
        helper.make_node("Abs", ["logits"], ["size"]),
        helper.make_node("ReduceMax", ["size", "axes"], ["largest"], keepdims=0),
        helper.make_node("LessOrEqual", ["largest", "limit"], ["finite"]),
    ]
    initializers = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"),
        numpy_helper.from_array(np.array(3.0e38, dtype=np.float32), "limit"),
    ]
    outputs = [
        helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("finite", TensorProto.BOOL, ["batch"]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2]),
    ]
    observation = helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 4])
    model = helper.make_model(
        helper.make_graph(nodes, "policy", [observation], outputs, initializers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


def benchmark_row(p50: float) -> dict[str, Any]:
    """Benchmark evidence of one variant; latencies in microseconds."""
    batch = {
        str(n): {"p50_us": p50 + n / 4, "p99_us": 2 * p50 + n / 2, "rows_per_second": 1e6 * n / (p50 + n / 4)}
        for n in (1, 32, 64, 1024)
    }
    return {
        "batch": batch,
        "load_ms": 3.0,
        "rss_mb": 58.0,
        "peak_rss_mb": 61.0,
        "size_bytes": 900,
        "relative_cost": p50 / 8,
    }


def _quantized(accepted: bool, agreement: float, difference: float, reason: str) -> dict[str, Any]:
    interval = {"episodes": 32, "mean": difference, "lower": difference - 5, "upper": difference + 5}
    return {
        "accepted_actions": accepted,
        "reason": reason,
        "agreement": agreement,
        "return_difference": interval,
        "batch_invariant": accepted,
    }


def write_package(directory: Path, release: Release, sign: float = 1.0, episodes: int = 5) -> str:
    """A policy package of the fabricated graph in `directory`, played on CartPole for its baselines; its digest."""
    import gymnasium
    import onnxruntime as ort

    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(graph(sign), directory / "policy.onnx")
    for name in ("policy.ts", "policy.pt2"):
        (directory / name).write_bytes(b"stands for the torch formats")
    session = ort.InferenceSession(str(directory / "policy.onnx"))
    environment = gymnasium.make("CartPole-v1")
    observations, actions, returns, played = [], [], [], []
    for seed in range(episodes):
        observation, _ = environment.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action = int(session.run(["action"], {"observation": observation[None]})[0][0])
            observations.append(observation)
            actions.append(action)
            played.append(seed)
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    states, choices = np.array(observations, dtype=np.float32), np.array(actions, dtype=np.int64)
    np.savez(directory / package.BASELINE, observation=states, actions=choices, returns=np.array(returns))
    spec = release.spec
    discrete = package.Space(type="Discrete", dtype="int64", n=2)
    manifest = package.Manifest(
        schema_version=package.SCHEMA_VERSION,
        name=release.policy,
        algorithm="ppo",
        environment={"id": "CartPole-v1", "kwargs": {}},
        observation_space=package.Space(
            type="Box", shape=(4,), low=(-4.8, None, -0.42, None), high=(4.8, None, 0.42, None)
        ),
        action_space=discrete,
        inputs=(package.Tensor("observation", "float32", (4,)),),
        outputs=(
            package.Tensor("action", "int64", ()),
            package.Tensor("finite", "bool", ()),
            package.Tensor("logits", "float32", (2,)),
        ),
        opset=18,
        files=package.digest_files(directory),
        variants={"fp32": "policy.onnx"},
        shipped_variant="fp32",
        serve=package.Serve(
            batch_size=spec.serve.batch_size or 32,
            deadline_ms=spec.serve.deadline_ms,
            latency_slo_ms=spec.serve.latency_slo_ms,
            fallback=dict(spec.serve.fallback),
            max_errors=spec.serve.max_errors,
        ),
        safety=package.Safety(observation_range=spec.safety.observation_range),
        outcomes=package.Outcomes(return_range=(0, 500), abandoned_return=0, episode_ttl_seconds=900),
        parity=PARITY,
        benchmark={"fp32": benchmark_row(8.0)},
        quantization={},
        selection={"variant": "fp32", "reason": "the fastest that keeps actions and return"},
        baselines=baselines(discrete, {"observation": states}, choices, np.array(returns), np.array(played)),
        training={
            "dag_run_id": release.dag_run_id,
            "run_id": release.run_id,
            "algorithm": "ppo",
            "timesteps": 50_000,
            "seconds": 12.5,
            "seed": 7,
            "source": "train",
        },
        git_sha="0" * 40,
    )
    return package.write_manifest(directory, manifest)


def candidate(
    policy: str, dag_run_id: str = "manual__1", params: Params | None = None, sign: float = 1.0, episodes: int = 5
) -> Release:
    """A release of `policy` that has been through every build stage up to `select`."""
    release = Release.open(policy, dag_run_id, params or Params())
    random = np.random.default_rng(5)
    returns = np.minimum(500, random.normal(480, 30, 50)).round().tolist()
    curve = [[step, 500 * (1 - np.exp(-step / 12_000))] for step in range(1_000, 50_001, 1_000)]
    release.put_json(
        "model/training.json",
        {
            "algorithm": "ppo",
            "timesteps": 50_000,
            "seconds": 12.5,
            "seed": 7,
            "source": "train",
            "curve": curve,
            "params_digest": "0" * 64,
        },
    )
    release.put_json(
        "evaluation/evaluation.json",
        {
            "episodes": 50,
            "returns": returns,
            "lengths": [int(value) for value in returns],
            "mean": float(np.mean(returns)),
            "std": float(np.std(returns)),
            "lower": float(np.mean(returns)) - 8,
            "upper": float(np.mean(returns)) + 8,
            "confidence": 0.95,
            "minimum": release.spec.evaluate.minimum_mean_return,
            "passed": True,
        },
    )
    release.put_json(
        "export/export.json",
        {"inputs": ["observation"], "outputs": ["action", "finite", "logits"], "opset": 18, "parity": PARITY},
    )
    quantization = {
        "fp16": _quantized(True, 0.9999, 0.0, "acts like fp32"),
        "int8-dynamic": _quantized(
            False, 0.97, -31.0, "its action depends on which other observations share the batch"
        ),
        "int8-static": _quantized(False, 0.91, -120.0, "agrees with fp32 on 91.00% of actions, 99.5% is asked"),
    }
    release.put_json("quantize/quantization.json", quantization)
    release.put_json("benchmark/fp32.json", {"fp32": benchmark_row(8.0)})
    release.put_json("benchmark/fp16.json", {"fp16": benchmark_row(9.0)})
    int8 = {"int8-dynamic": benchmark_row(12.0), "int8-static": benchmark_row(13.0)}
    release.put_json("benchmark/int8.json", int8)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "package"
        digest = write_package(directory, release, sign, episodes)
        with np.load(directory / package.BASELINE) as baseline:
            observations, actions = baseline["observation"], baseline["actions"]
        rollout = Path(scratch) / "rollout.npz"
        np.savez(rollout, observation=observations, actions=actions, episode_index=np.zeros(len(actions), dtype=int))
        release.put_file(rollout, "evaluation")
        release.put_directory(directory, "package")
    measured = {"fp32": benchmark_row(8.0), "fp16": benchmark_row(9.0), **int8}
    selection = choose(measured, quantization, release.spec.serve.batch_size, release.spec.serve.latency_slo_ms)
    release.put_json("selection.json", asdict(selection) | {"package_sha256": digest})
    return release


def unit(connection: sa.Connection, plan: CanaryPlan, number: int, arm: str, episode_return: float | None) -> None:
    """Store a unit of a canary, finished unless it has no return yet."""
    shared = {
        "episode": f"e{number}",
        "policy": plan.policy,
        "generation": plan.generation,
        "arm": arm,
        "version": "2" if arm == "challenger" else "1",
    }
    connection.execute(sa.insert(tables.episodes).values(unit=f"u{number}", started_at=time.time(), **shared))
    if episode_return is not None:
        ended = {"episode_return": episode_return, "length": 1, "kind": "reported", "recorded_at": time.time()}
        connection.execute(sa.insert(tables.outcomes).values(**ended, **shared))
