"""A package serves a graph without the outputs that serving never asks for, and has the whole one for those who ask."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from bentos.package.digests import digest_files, read_manifest, write_manifest
from bentos.package.loader import load
from bentos.package.manifest import PackageError, Serve
from bentos.routing.registry import needed_files, verify
from bentos.runners.infer import Infer
from tests.bentos.policy_packages import valued_graph, write_package

LEANING = np.array([[0, 0, 0.1, 0], [0, 0, -0.1, 0]], np.float32)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    whole, served = valued_graph()
    write_package(tmp_path / "package", graph=whole, served=served)
    return tmp_path / "package"


def test_what_decides_is_the_served_graph_alone(package: Path) -> None:
    (package / "policy.onnx").unlink()
    policy = load(package)
    assert policy.served_names == ["action", "logits", "finite"]
    assert policy.predict(LEANING).tolist() == [1, 0]
    assert policy.run({"observation": LEANING}, ["logits"])["logits"].shape == (2, 2)
    assert Infer(policy, "1")._session is policy.session
    with pytest.raises(PackageError, match=r"policy\.onnx: missing"):
        policy.run({"observation": LEANING}, ["value"])


def test_an_output_that_is_not_served_comes_from_the_whole_graph(package: Path) -> None:
    policy = load(package)
    found = policy.run({"observation": LEANING}, ["action", "value"])
    assert found["value"] == pytest.approx([-0.1, 0.1])
    assert found["action"].tolist() == [1, 0]
    assert set(policy.run({"observation": LEANING})) == {"action", "finite", "logits", "value"}


def test_many_threads_open_the_whole_graph_once(package: Path) -> None:
    policy = load(package)
    with ThreadPoolExecutor(8) as pool:
        sessions = list(pool.map(lambda _: policy.whole(), range(32)))
    assert len(set(map(id, sessions))) == 1


def test_a_package_without_a_served_graph_serves_the_whole_one(tmp_path: Path) -> None:
    write_package(tmp_path, graph=valued_graph()[0])
    document = msgspec.json.decode((tmp_path / "policy.json").read_bytes())
    del document["served"]
    (tmp_path / "policy.json").write_bytes(msgspec.json.encode(document))
    policy = load(tmp_path)
    assert policy.whole() is policy.session
    assert policy.predict(LEANING).tolist() == [1, 0]
    assert needed_files(policy.manifest) == ["policy.onnx", "baseline.npz"]


def test_a_gateway_needs_the_served_graph_and_checks_its_digest(package: Path) -> None:
    assert needed_files(read_manifest(package)) == ["policy.served.onnx", "baseline.npz"]
    digest = write_manifest(package, read_manifest(package))
    (package / "policy.onnx").unlink()
    verify(package, digest)
    graph = package / "policy.served.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(PackageError, match=r"policy\.served\.onnx: digest mismatch"):
        verify(package, digest)
    with pytest.raises(PackageError, match=r"policy\.served\.onnx: digest mismatch"):
        load(package)


def test_a_served_graph_without_the_scores_is_refused(package: Path) -> None:
    served = valued_graph()[1]
    del served.graph.output[1]
    _serve(package, served)
    with pytest.raises(PackageError, match=r"served\.onnx: the graph has missing outputs \['logits'\]"):
        load(package)


def test_a_served_graph_with_what_serving_never_asks_for_is_refused(package: Path) -> None:
    _serve(package, valued_graph()[0])
    with pytest.raises(PackageError, match=r"served\.onnx: the graph has unknown outputs \['value'\]"):
        load(package)


@pytest.mark.parametrize("served", [{"fp64": "policy.served.onnx"}, {"fp32": "other.onnx"}, {"fp32": "../policy.onnx"}])
def test_a_served_file_that_is_none_of_the_packages_is_refused(package: Path, served: dict[str, str]) -> None:
    write_manifest(package, msgspec.structs.replace(read_manifest(package), served=served))
    with pytest.raises(PackageError, match="is served for"):
        load(package)


def test_exploring_needs_the_deviation_and_nothing_else_does(package: Path) -> None:
    whole = valued_graph()[0]
    whole.graph.node[-1].output[0] = whole.graph.output[-1].name = "log_std"
    onnx.save(whole, package / "policy.onnx")
    manifest = read_manifest(package)
    outputs = (*manifest.outputs[:-1], msgspec.structs.replace(manifest.outputs[-1], name="log_std"))
    manifest = msgspec.structs.replace(manifest, outputs=outputs, files=digest_files(package))
    write_manifest(package, manifest)
    assert load(package).predict(LEANING).tolist() == [1, 0]
    write_manifest(package, msgspec.structs.replace(manifest, serve=Serve(explore=True)))
    with pytest.raises(PackageError, match=r"missing outputs \['log_std'\]"):
        load(package)
    _serve(package, whole)
    assert load(package).served_names[-1] == "log_std"


def _serve(package: Path, graph: onnx.ModelProto) -> None:
    onnx.save(graph, package / "policy.served.onnx")
    write_manifest(package, msgspec.structs.replace(read_manifest(package), files=digest_files(package)))
