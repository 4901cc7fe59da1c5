"""Foreign zips become packages: the public agents, which nobody here trained, and those that cannot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from gymnasium import spaces

from bentos import package
from tasks.build.packaging.delivery import Order, _layout
from tasks.build.packaging.from_zip import Request, make_package
from tasks.build.training.algorithms import CLASSES
from tasks.build.training.zoo import find_layout
from tasks.errors import Misconfigured, Rejected

AGENTS = Path(__file__).resolve().parents[5] / "shared" / "agents"
ZIPS = sorted(AGENTS.glob("*/*/*.zip"))
absent = pytest.mark.skipif(not ZIPS, reason="the public agents (../shared/agents) are not on this machine")


def _make(zip_path: Path, directory: Path, environment: str | None = None) -> package.Manifest:
    """The manifest of the package that `airlock export` would make of a zip, made in this process."""
    layout = _layout(Order(zip_path, directory, environment=environment))
    request = Request(
        zip=str(zip_path),
        directory=str(directory),
        name="foreign",
        variants="fp32",
        source={},
        statistics=str(layout.statistics) if layout.statistics else None,
        environment=layout.environment,
        kwargs=layout.kwargs,
    )
    made = make_package(msgspec.convert(msgspec.to_builtins(request), Request), lambda _step: None)
    return package.read_manifest(directory, made["package_sha256"])


def _assert_equal(manifest: package.Manifest) -> None:
    parity = manifest.parity
    assert parity["equal"] is True
    assert parity["observations"] >= 4_096
    assert set(parity["formats"]) == {"onnx", "torchscript", "pt2"}
    for batches in parity["formats"].values():
        assert set(batches) == {"1", "2", "7", "64"}
        assert batches["64"]["rows"] == parity["observations"]
        for difference in batches.values():
            assert difference["agreement"] == 1.0
            assert difference["max_error"] <= 1e-5


@absent
@pytest.mark.parametrize("zip_path", ZIPS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_a_public_agent_acts_and_earns_as_it_did(zip_path: Path, tmp_path: Path) -> None:
    manifest = _make(zip_path, tmp_path)
    assert manifest.algorithm == zip_path.parts[-3] in CLASSES
    _assert_equal(manifest)
    returns = manifest.parity["returns"]
    if "skipped" in returns:
        assert "LunarLander" in zip_path.stem, returns
        assert "box2d" in returns["skipped"].lower()
        return
    assert returns["episodes"] >= 16
    if manifest.action_space.type == "Discrete":
        assert returns["largest_difference"] == 0.0
    assert math.isclose(returns["exported"], returns["original"], rel_tol=0.01)
    assert returns["equal"] is True


@absent
@pytest.mark.parametrize(
    ("agent", "source"),
    [("a2c/Pendulum-v1", "VecNormalize statistics"), ("dqn/CartPole-v1", "observation space")],
)
def test_a_public_agent_needs_no_environment(agent: str, source: str, tmp_path: Path) -> None:
    algorithm, name = agent.split("/")
    manifest = _make(AGENTS / algorithm / f"{name}_1" / f"{name}.zip", tmp_path, environment="none")
    _assert_equal(manifest)
    assert manifest.parity["source"] == source
    assert manifest.parity["returns"] == {"skipped": manifest.environment["note"].removeprefix("not played: ")}
    assert manifest.environment["id"] is None
    assert manifest.baselines == {"observations": {"source": "drawn"}, "actions": {}, "returns": {"count": 0}}


@absent
def test_every_public_agent_is_found_by_its_layout() -> None:
    assert len(ZIPS) == 14
    for path in ZIPS:
        layout = find_layout(path)
        assert layout.environment == path.stem
        assert bool(layout.normalized) == (layout.statistics is not None)


class Undecided(torch.nn.Module):
    """An activation that decides by the values of a tensor, which no graph can."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value if bool(value.sum() > 0) else -value


class Shifting(torch.nn.Module):
    """An activation that answers otherwise each time it is asked."""

    asked = 0

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        Shifting.asked += 1
        return value + 10.0 * math.sin(Shifting.asked)


@pytest.mark.parametrize(
    ("activation", "error", "said"),
    [
        (Undecided, Misconfigured, r"model\.zip: cannot be exported: .*; is there a custom class in it"),
        (Shifting, Rejected, r"model\.zip: the exported policy does not act as the original: "),
    ],
)
def test_what_cannot_be_exported_or_is_not_equal_is_refused(
    activation: type[Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"activation_fn": activation}, seed=0)
    assert isinstance(model.action_space, spaces.Discrete)
    model.save(tmp_path / "model.zip")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(error, match=said):
        _make(tmp_path / "model.zip", out, environment="none")
    assert not (out / package.MANIFEST).exists()
