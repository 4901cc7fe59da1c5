"""What a zip says of itself: its algorithm, without unpickling; and what is no SB3 zip is refused with its cause."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tasks.build.training.agent import load_model
from tasks.build.training.algorithms import CLASSES, algorithm_class
from tasks.build.training.zip_file import guess_algorithm, read_data
from tasks.errors import Misconfigured

AGENTS = Path(__file__).resolve().parents[5] / "shared" / "agents"
OFF_POLICY = ("dqn", "qrdqn", "sac", "td3", "ddpg", "tqc", "crossq")
DISCRETE = ("dqn", "qrdqn", "ppo_mask")


def _model(algorithm: str) -> Any:
    environment: Any = "CartPole-v1" if algorithm in DISCRETE else "Pendulum-v1"
    arguments: dict[str, Any] = {"buffer_size": 10} if algorithm in OFF_POLICY else {}
    if algorithm == "ppo_mask":
        from sb3_contrib.common.envs import InvalidActionEnvDiscrete

        environment = InvalidActionEnvDiscrete()
    policy = "MlpLstmPolicy" if algorithm == "ppo_lstm" else "LinearPolicy" if algorithm == "ars" else "MlpPolicy"
    return algorithm_class(algorithm)(policy, environment, device="cpu", **arguments)


@pytest.mark.parametrize("algorithm", sorted(CLASSES))
def test_a_freshly_saved_zip_tells_its_algorithm_and_opens_as_it(algorithm: str, tmp_path: Path) -> None:
    _model(algorithm).save(tmp_path / "model.zip")
    assert guess_algorithm(tmp_path / "model.zip") == algorithm
    assert load_model(tmp_path / "model.zip").algorithm == algorithm


@pytest.mark.skipif(not AGENTS.exists(), reason="the public agents (../shared/agents) are not on this machine")
def test_the_public_agents_tell_their_algorithm() -> None:
    found = {path: guess_algorithm(path) for path in AGENTS.glob("*/*/*.zip")}
    assert len(found) == 14
    assert {path: path.parts[-3] for path in found} == found


def test_a_policy_class_of_ones_own_does_not_hide_the_algorithm(tmp_path: Path) -> None:
    for algorithm in ("ppo", "sac", "dqn", "ppo_mask", "ppo_lstm"):
        _model(algorithm).save(tmp_path / f"{algorithm}.zip")
        document = read_data(tmp_path / f"{algorithm}.zip")
        document["policy_class"]["__module__"] = "my.policies"
        with zipfile.ZipFile(tmp_path / f"{algorithm}.zip") as archive:
            weights = archive.read("policy.pth")
        mine = _zip(tmp_path / "mine.zip", data=json.dumps(document).encode(), policy=weights)
        assert guess_algorithm(mine) == algorithm


def test_no_algorithm_is_guessed_from_nothing(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", data=json.dumps({"policy_class": {"__module__": "mine"}}).encode(), policy=b"")
    with pytest.raises(Misconfigured, match=r"cannot tell its algorithm .*'mine'.*; name it with --algorithm"):
        guess_algorithm(path)


def _zip(path: Path, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr({"policy": "policy.pth"}.get(name, name), content)
    return path


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"readme": b""}, r"it has no \['data', 'policy.pth'\]; it holds \['readme'\]"),
        ({"data": b"{}"}, r"it has no \['policy.pth'\]"),
        ({"data": b"\x00", "policy": b""}, "its `data` is not JSON"),
        ({"data": b"[1]", "policy": b""}, "its `data` is no JSON object"),
        ({"data": b"[" * 100_000, "policy": b""}, "its `data` is not JSON"),
    ],
)
def test_a_zip_of_another_kind_is_refused(entries: dict[str, bytes], said: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=said):
        read_data(_zip(tmp_path / "a.zip", **entries))


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    whole = _zip(tmp_path / "whole.zip", data=b"{}", policy=b"x" * 10_000).read_bytes()
    flipped = bytearray(whole)
    flipped[5_000] ^= 1
    for content, said in (
        (b"", "not a zip, or a truncated one"),
        (b"hello", "not a zip, or a truncated one"),
        (whole[: len(whole) // 2], "not a zip, or a truncated one"),
        (bytes(flipped), "damaged: policy.pth fails its checksum"),
    ):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(Misconfigured, match=said):
            read_data(tmp_path / "a.zip")
    with pytest.raises(Misconfigured, match="no such file"):
        read_data(tmp_path / "absent.zip")
    with pytest.raises(Misconfigured, match="no such file"):
        read_data(tmp_path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = _zip(tmp_path / "a.zip", zipfile.ZIP_DEFLATED, data=b"{}", policy=bytes(300 * 2**20))
    assert bomb.stat().st_size < 2**20
    with pytest.raises(Misconfigured, match="unpacks to 300 MB, 100 MB are allowed; raise --memory-limit"):
        read_data(bomb, 100)
