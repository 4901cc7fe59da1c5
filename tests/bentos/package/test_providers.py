"""What a policy runs on: the provider that the spec asks for, or a clear refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from bentos.gateway.engine import Core
from bentos.package.loader import load
from bentos.package.manifest import PackageError, Serve
from bentos.server.single import Package, route
from bentos.store.overrides import Overrides
from bentos.store.writer import Writer
from bentos.tokens import Signer
from tests.bentos.policy_packages import write_package


@pytest.fixture
def planned_for_cuda(tmp_path: Path) -> Path:
    write_package(tmp_path / "package", serve=Serve(provider="cuda", fallback={"constant": 0}))
    return tmp_path / "package"


def test_a_provider_that_is_not_there_is_refused_where_the_policy_is_served(
    planned_for_cuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    core = Core(Signer("key"), Writer(f"sqlite:///{tmp_path}/airlock.db"), Overrides())
    with pytest.raises(
        PackageError, match=r"no CUDAExecutionProvider: install onnxruntime-gpu, or set serve\.provider"
    ):
        route(core, Package(planned_for_cuda, "1"))
    core.writer.close()


def test_a_provider_without_a_device_is_refused_too(planned_for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options, providers: real(path, options, providers[-1:]))
    with pytest.raises(PackageError, match="found no device"):
        load(planned_for_cuda, provider=None)


def test_wherever_it_is_to_be_served_a_package_is_checked_on_the_cpu(planned_for_cuda: Path) -> None:
    policy = load(planned_for_cuda)
    assert policy.session.get_providers() == ["CPUExecutionProvider"]
    assert policy.predict(np.array([0, 0, 1, 0], np.float32)) == 1
