"""Benchmarks: every batch size, in a process that holds no more than a gateway does, one benchmark at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper, save

from tasks.build.variants import benchmark
from tasks.build.variants.measure import affordable, measure_apart, on_accelerator
from tasks.build.variants.timing import relative_cost
from tasks.inputs import repeat


def _policy(path: Path, width: int) -> Path:
    """An ONNX policy with one hidden layer of `width` units."""
    nodes = [
        helper.make_node("MatMul", ["observation", "first"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=1, keepdims=0),
        helper.make_node("Equal", ["action", "action"], ["finite"]),
    ]
    generator = np.random.default_rng(0)
    first = numpy_helper.from_array(generator.normal(size=(4, width)).astype(np.float32), "first")
    second = numpy_helper.from_array(generator.normal(size=(width, 2)).astype(np.float32), "second")
    inputs = [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 4])]
    outputs = [
        helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("finite", TensorProto.BOOL, ["batch"]),
    ]
    graph = helper.make_graph(nodes, "policy", inputs, outputs, [first, second])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def observations(tmp_path: Path) -> Path:
    np.savez(tmp_path / "inputs.npz", observation=np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    return tmp_path / "inputs.npz"


def test_latency_memory_load_time_and_size_are_measured(tmp_path: Path, observations: Path) -> None:
    small = _policy(tmp_path / "small.onnx", 8)
    found = measure_apart(small, small, observations, (1, 8, 64), 64)
    assert set(found["batch"]) == {"1", "8", "64"}
    for entry in found["batch"].values():
        assert 0 < entry["p50_us"] <= entry["p90_us"] <= entry["p99_us"]
        assert entry["rows_per_second"] > 0
        assert entry["cpu_ms_per_1000"] > 0
    assert set(found["io_binding"]) == {"1", "8", "64"}
    assert found["load_ms"] > 0
    assert 0 < found["runtime_rss_mb"] <= found["rss_mb"] <= found["peak_rss_mb"]
    assert found["size_bytes"] == small.stat().st_size
    assert (found["relative_cost"], found["cost_interval"]) == (1.0, [1.0, 1.0])


def test_a_module_called_tasks_in_the_working_directory_is_in_nobodys_way(
    tmp_path: Path, observations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = _policy(tmp_path / "small.onnx", 8)
    (tmp_path / "tasks.py").write_text("raise SystemExit('it was imported')\n")
    monkeypatch.chdir(tmp_path)
    found = measure_apart(Path("small.onnx"), Path("small.onnx"), Path("inputs.npz"), (1,), 1)
    assert found["size_bytes"] == small.stat().st_size


def test_a_wider_network_costs_more_beside_the_reference(tmp_path: Path, observations: Path) -> None:
    small, wide = _policy(tmp_path / "small.onnx", 8), _policy(tmp_path / "wide.onnx", 8192)
    found = measure_apart(wide, small, observations, (1,), 64)
    assert found["cost_interval"][0] > 2
    assert found["relative_cost"] >= found["cost_interval"][0]


def test_memory_is_that_of_the_fresh_process_not_of_this_one(tmp_path: Path, observations: Path) -> None:
    ballast = np.ones(60_000_000)  # 480 MB, resident while the fresh process starts
    small = _policy(tmp_path / "small.onnx", 8)
    assert measure_apart(small, small, observations, (1,), 1)["peak_rss_mb"] < ballast.nbytes / 2**20


def test_waiting_for_other_processes_is_no_cost() -> None:
    def work() -> None:
        sum(range(20_000))

    def work_and_wait() -> None:
        work()
        time.sleep(2e-3)

    cost, (lower, upper) = relative_cost(work_and_wait, work)
    assert lower <= cost <= upper
    assert cost < 2


def test_a_call_that_costs_more_is_told_from_one_that_costs_the_same() -> None:
    (lower, _), (_, upper) = (
        relative_cost(lambda: sum(range(30_000)), lambda: sum(range(10_000)))[1],
        relative_cost(lambda: sum(range(10_000)), lambda: sum(range(30_000)))[1],
    )
    assert upper < 1 < lower


def test_large_observations_are_measured_in_batches_that_fit_into_memory() -> None:
    image = {"observation": np.zeros((2, 3, 160, 210), np.uint8)}
    assert affordable(image, (1, 8, 32, 64, 256, 1024), 64) == [1, 8, 32, 64]
    assert affordable(image, (1, 8), 1024) == [1, 8, 1024]


def test_an_accelerator_is_measured_where_it_is_and_named_as_not_measured_where_it_is_not(tmp_path: Path) -> None:
    small, rows = _policy(tmp_path / "small.onnx", 8), {"observation": np.zeros((4, 4), np.float32)}
    present = on_accelerator(small, rows, (1, 8), "CPUExecutionProvider")
    assert set(present["batch"]) == {"1", "8"}
    assert on_accelerator(small, rows, (1,), "NoSuchExecutionProvider") == {
        "not_measured": "this ONNX Runtime does not have it"
    }


def test_a_batch_larger_than_the_sample_repeats_it() -> None:
    assert repeat({"observation": np.array([[1], [2], [3]])}, 5)["observation"].tolist() == [[1], [2], [3], [1], [2]]


def test_two_benchmarks_on_one_machine_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    order: list[str] = []
    started = threading.Event()

    def second() -> None:
        started.set()
        with benchmark.alone():
            order.append("second")

    with benchmark.alone():
        thread = threading.Thread(target=second)
        thread.start()
        assert started.wait(10)
        time.sleep(0.05)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_every_variant_belongs_to_one_family_and_the_served_batch_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.build.variants.writers import VARIANTS
    from tasks.spec.sections import FAMILIES

    members = [name for family in FAMILIES for name in benchmark.MEMBERS[family]]
    assert sorted(members) == sorted(["fp32", *VARIANTS])
    asked: list[list[int]] = []

    def remember(graph: Path, reference: Path, sample: Path, batches: list[int], served: int) -> dict[str, int]:
        asked.append(batches)
        return {}

    monkeypatch.setattr(benchmark, "measure_apart", remember)
    small, rows = _policy(tmp_path / "small.onnx", 8), {"observation": np.zeros((4, 4), np.float32)}
    benchmark.measure_variants({"fp32": small}, small, rows, 48, tmp_path)
    assert asked == [[1, 8, 32, 48, 64, 256, 1024]]


def test_what_is_measured_is_the_graph_that_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(_policy(tmp_path / "small.onnx", 8))
    model.graph.node.append(helper.make_node("ReduceMax", ["logits"], ["value"]))
    model.graph.output.append(helper.make_tensor_value_info("value", TensorProto.FLOAT, [1, 1]))
    save(model, tmp_path / "whole.onnx")
    save(model, tmp_path / "other.onnx")
    measured: list[tuple[Path, Path]] = []

    def remember(graph: Path, reference: Path, sample: Path, batches: list[int], served: int) -> dict[str, int]:
        measured.append((graph, reference))
        return {}

    monkeypatch.setattr(benchmark, "measure_apart", remember)
    graphs = {"fp32": tmp_path / "whole.onnx", "fp16": tmp_path / "other.onnx"}
    benchmark.measure_variants(graphs, graphs["fp32"], {"observation": np.ones((4, 4), np.float32)}, 48, tmp_path)
    cut = tmp_path / "whole.served.onnx"
    assert measured == [(cut, cut), (tmp_path / "other.served.onnx", cut)]
    assert [output.name for output in load(cut).graph.output] == ["action", "finite"]
