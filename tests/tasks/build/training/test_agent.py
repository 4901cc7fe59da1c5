"""Importing: foreign zips are opened apart, within limits, and a broken one is refused with its cause."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tasks.build.training.agent import load_model, resave_apart
from tasks.build.training.pickles import check_statistics
from tasks.build.training.zip_file import read_data
from tasks.build.training.zoo import find_vecnormalize
from tasks.errors import Misconfigured
from tasks.sandbox import Limits
from tasks.spec.params import Params
from tasks.stages.train import import_zip
from tasks.tracking.release import Release
from tests.tasks.agents import agent

AGENTS = Path(__file__).resolve().parents[5] / "shared" / "agents"


def _rewritten(source: Path, target: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, entries.get(name.replace(".", "_"), old.read(name)))
    return target


def test_a_zip_that_was_opened_apart_acts_as_before(trained: Path, tmp_path: Path) -> None:
    found = resave_apart(trained / "model.zip", tmp_path)
    assert found["algorithm"] == "ppo"
    given = {"observation": np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)}
    before, after = load_model(trained / "model.zip"), load_model(tmp_path / "model.zip")
    assert np.array_equal(before.decide(given)["action"], after.decide(given)["action"])


def test_weights_that_are_not_finite_are_refused(trained: Path, tmp_path: Path) -> None:
    agent = load_model(trained / "model.zip")
    agent.model.policy.action_net.bias.data[0] = float("nan")
    agent.model.save(tmp_path / "broken.zip")
    with pytest.raises(Misconfigured, match=r"weights that are not finite: \['action_net.bias'\]"):
        resave_apart(tmp_path / "broken.zip", tmp_path)


def _statistics(path: Path, environment: Any, change: Callable[[Any], None] = lambda _: None) -> Path:
    """VecNormalize statistics of a fresh environment, changed before they are saved."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    normalizer = VecNormalize(make_vec_env(environment))
    change(normalizer)
    normalizer.save(str(path))
    return path


def test_statistics_of_another_model_are_refused(trained: Path, tmp_path: Path) -> None:
    def infinite(normalizer: Any) -> None:
        normalizer.obs_rms.var[0] = np.inf

    def other_bounds(normalizer: Any) -> None:
        normalizer.observation_space = gymnasium.spaces.Box(-1, 1, (4,))

    (tmp_path / "dict.pkl").write_bytes(pickle.dumps({"mean": 0}))
    (tmp_path / "text.pkl").write_text("hello")
    for path, said in (
        (_statistics(tmp_path / "a.pkl", "Pendulum-v1"), r"of shape \(3,\), but the model observes \(4,\)"),
        (_statistics(tmp_path / "b.pkl", "CartPole-v1", infinite), "statistics that are not finite"),
        (_statistics(tmp_path / "c.pkl", "CartPole-v1", other_bounds), r"of an environment that observes Box\(-1"),
        (tmp_path / "dict.pkl", "expected VecNormalize statistics, came dict"),
        (tmp_path / "text.pkl", "cannot be opened as VecNormalize statistics"),
        (tmp_path / "absent.pkl", "no such file; expected VecNormalize statistics"),
    ):
        with pytest.raises(Misconfigured, match=said):
            load_model(trained / "model.zip", path)
    load_model(trained / "model.zip", _statistics(tmp_path / "fine.pkl", "CartPole-v1"))


@pytest.mark.parametrize(
    ("statistics", "parts", "said"),
    [
        ({"a": 3}, {"a": 3, "b": 2}, None),
        ({"a": 4}, {"a": 3}, r"statistics of 'a' of shape \(4,\), but the model observes \(3,\)"),
        ({"c": 3}, {"a": 3}, r"statistics of \['c'\], but the model observes \['a'\]"),
        ({"a": 3}, 3, "statistics of a Dict of observations, but the model observes an array"),
        (3, {"a": 3}, "statistics of an array of observations, but the model observes a Dict"),
    ],
)
def test_statistics_of_dicts_must_fit_by_their_keys(statistics: Any, parts: Any, said: str | None) -> None:
    from stable_baselines3.common.running_mean_std import RunningMeanStd

    def each(given: Any, of: Callable[[int], Any]) -> Any:
        return {key: of(width) for key, width in given.items()} if isinstance(given, dict) else of(given)

    space = each(parts, lambda width: spaces.Box(-1, 1, (width,)))
    normalizer = SimpleNamespace(norm_obs=True, obs_rms=each(statistics, lambda width: RunningMeanStd(shape=(width,))))
    with pytest.raises(Misconfigured, match=said) if said else nullcontext():
        check_statistics(normalizer, spaces.Dict(space) if isinstance(space, dict) else space, Path("vecnormalize.pkl"))


EXTRACTOR = """
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

class Doubled(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=observation_space.shape[0])

    def forward(self, observations):
        return 2.0 * observations
"""


def test_a_custom_class_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stable_baselines3 import PPO

    module = tmp_path / "airlock_test_extractors.py"
    module.write_text(EXTRACTOR)
    with monkeypatch.context() as importable:
        importable.syspath_prepend(str(tmp_path))
        extractors = importlib.import_module(module.stem)
        model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": extractors.Doubled})
        model.save(tmp_path / "model.zip")
        assert load_model(tmp_path / "model.zip").algorithm == "ppo"
        monkeypatch.delattr(extractors, "Doubled")
        said = r"its policy_kwargs needs airlock_test_extractors\.Doubled, which cannot be imported"
        with pytest.raises(Misconfigured, match=said):
            load_model(tmp_path / "model.zip")
    del sys.modules[module.stem]
    with pytest.raises(Misconfigured, match=r"needs the module 'airlock_test_extractors'.*put .* on PYTHONPATH"):
        load_model(tmp_path / "model.zip")


def test_a_goal_conditioned_model_opens_without_its_replay_buffer(tmp_path: Path) -> None:
    from stable_baselines3 import SAC, HerReplayBuffer
    from stable_baselines3.common.envs import BitFlippingEnv

    environment = BitFlippingEnv(n_bits=3, continuous=True)
    model = SAC(
        "MultiInputPolicy",
        environment,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2},
        buffer_size=1_000,
    )
    model.save(tmp_path / "model.zip")
    agent = load_model(tmp_path / "model.zip")
    assert agent.model.buffer_size == 1
    given = {f"observation.{key}": value[None] for key, value in environment.reset()[0].items()}
    expected, _ = model.predict(environment._get_obs(), deterministic=True)
    assert np.allclose(agent.decide(given)["action"][0], expected)


def test_without_sb3_contrib_its_algorithms_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(Misconfigured, match="trpo needs sb3-contrib, which is not installed"):
        load_model(trained / "model.zip", algorithm="trpo")


def test_a_zip_opened_as_another_algorithm_is_refused(trained: Path) -> None:
    with pytest.raises(Misconfigured, match=r"model\.zip: cannot be opened as sac: "):
        load_model(trained / "model.zip", algorithm="sac")
    with pytest.raises(Misconfigured, match="unknown algorithm 'dreamer'; expected one of"):
        load_model(trained / "model.zip", algorithm="dreamer")


def test_a_zip_without_its_spaces_is_refused(trained: Path, tmp_path: Path) -> None:
    document = read_data(trained / "model.zip")
    del document["observation_space"]
    path = _rewritten(trained / "model.zip", tmp_path / "a.zip", data=json.dumps(document).encode())
    with pytest.raises(Misconfigured, match="its `data` has no observation_space"):
        load_model(path)


def _pickled(value: Any) -> dict[str, str]:
    return {":type:": str(type(value)), ":serialized:": base64.b64encode(pickle.dumps(value)).decode()}


def test_the_device_of_training_need_not_be_here(trained: Path, tmp_path: Path) -> None:
    import torch

    document = read_data(trained / "model.zip") | {"device": _pickled(torch.device("cuda"))}
    path = _rewritten(trained / "model.zip", tmp_path / "a.zip", data=json.dumps(document).encode())
    assert load_model(path).model.device == torch.device("cpu")


def test_a_buffer_that_no_library_makes_any_more_does_not_matter(tmp_path: Path) -> None:
    agent("dqn", spaces.Discrete(3)).model.save(tmp_path / "model.zip")
    document = read_data(tmp_path / "model.zip") | {"optimize_memory_usage": True}
    path = _rewritten(tmp_path / "model.zip", tmp_path / "a.zip", data=json.dumps(document).encode())
    assert load_model(path).algorithm == "dqn"


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([3, 2], dtype=np.int32), spaces.Discrete(3, dtype=np.int32)])
def test_a_space_keeps_its_dtype(space: spaces.Space[Any], tmp_path: Path) -> None:
    agent("ppo", space).model.save(tmp_path / "model.zip")
    assert load_model(tmp_path / "model.zip").model.action_space == space
    assert load_model(tmp_path / "model.zip").model.action_space.dtype == np.int32


def test_weights_that_are_missing_are_named(trained: Path, tmp_path: Path) -> None:
    import torch

    weights = load_model(trained / "model.zip").model.policy.state_dict()
    del weights["action_net.weight"]
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    path = _rewritten(trained / "model.zip", tmp_path / "a.zip", policy_pth=buffer.getvalue())
    with pytest.raises(Misconfigured, match=r"cannot be opened as ppo: .*action_net\.weight"):
        load_model(path)


def test_opening_is_ended_at_its_limits(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"took longer than 0\.05 s"):
        resave_apart(trained / "model.zip", tmp_path, limits=Limits(0.05, 3000))
    with pytest.raises(Misconfigured, match="took more than 30 MB of memory"):
        resave_apart(trained / "model.zip", tmp_path, limits=Limits(60, 30))


class _Spy:
    """Pickles to a call that writes down the environment of the process that opens it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"env > {self.target}",)


def test_what_runs_in_a_foreign_pickle_sees_no_secret(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_ADMIN_TOKEN", "do-not-leak")
    seen = tmp_path / "seen"
    statistics = tmp_path / "vecnormalize.pkl"
    statistics.write_bytes(pickle.dumps(_Spy(seen)))
    with pytest.raises(Misconfigured, match="expected VecNormalize statistics, came int"):
        resave_apart(trained / "model.zip", tmp_path, vecnormalize=statistics)
    assert "PATH=" in seen.read_text()
    assert "do-not-leak" not in seen.read_text()


@pytest.mark.skipif(not AGENTS.exists(), reason="the public agents (../shared/agents) are not on this machine")
@pytest.mark.parametrize("algorithm", ["ppo", "sac", "ars"])
def test_zips_of_the_gym_era_open(algorithm: str) -> None:
    zip_path = next((AGENTS / algorithm).glob("*/*.zip"))
    agent = load_model(zip_path, find_vecnormalize(zip_path), algorithm)
    observations = np.stack([agent.model.observation_space.sample() for _ in range(8)])
    assert np.isfinite(agent.decide({"observation": np.nan_to_num(observations, posinf=1, neginf=-1)})["action"]).all()


def test_the_stage_keeps_an_imported_zip_like_a_trained_model(
    trained: Path, tmp_path: Path, mlflow_server: str, make_policy: Callable[..., str]
) -> None:
    zip_path = tmp_path / "mine.zip"
    shutil.copy(trained / "model.zip", zip_path)
    release = Release.open(make_policy(), "run", Params(source="zip", zip_path=str(zip_path)))
    assert import_zip(release)["kept"] is False
    assert release.get_json("model/training.json")["source"] == "zip"
    assert import_zip(release)["kept"] is True
    assert load_model(release.fetch("model/model.zip", tmp_path)).algorithm == "ppo"


def test_the_stage_asks_for_the_path_of_the_zip(mlflow_server: str, make_policy: Callable[..., str]) -> None:
    release = Release.open(make_policy(), "run", Params(source="zip"))
    with pytest.raises(Misconfigured, match="zip_path is empty"):
        import_zip(release)
