"""Importing: foreign zips are opened apart, within limits, and a broken one is refused with its cause."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks import runs
from tasks.apart import Limits
from tasks.errors import Misconfigured
from tasks.importing import import_zip, load_model, resave_apart
from tasks.spec import Params
from tasks.zips import guess_algorithm
from tasks.zoo import find_vecnormalize

AGENTS = Path(__file__).resolve().parents[3] / "shared" / "agents"


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


def test_the_algorithm_is_read_without_unpickling(trained: Path) -> None:
    assert guess_algorithm(trained / "model.zip") == "ppo"


def test_statistics_are_found_in_the_layout_of_the_rl_zoo(tmp_path: Path) -> None:
    zip_path = tmp_path / "ppo" / "Env-v1_1" / "Env-v1.zip"
    statistics = zip_path.with_suffix("") / "vecnormalize.pkl"
    statistics.parent.mkdir(parents=True)
    assert find_vecnormalize(zip_path) is None
    statistics.touch()
    assert find_vecnormalize(zip_path) == statistics


def test_files_that_are_no_zip_of_sb3_are_refused_with_their_cause(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "model.zip").read_bytes()
    text, cut, other = tmp_path / "text.zip", tmp_path / "cut.zip", tmp_path / "other.zip"
    text.write_text("hello")
    cut.write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    for path, said in (
        (tmp_path / "absent.zip", "no such file"),
        (text, "not a zip, or a truncated one"),
        (cut, "or a truncated one"),
        (other, r"it has no \['data', 'policy.pth'\]"),
        (_rewritten(trained / "model.zip", tmp_path / "json.zip", data=b"\x00"), "its `data` is not JSON"),
    ):
        with pytest.raises(Misconfigured, match=said):
            resave_apart(path, tmp_path)


def test_weights_that_are_not_finite_are_refused(trained: Path, tmp_path: Path) -> None:
    agent = load_model(trained / "model.zip")
    agent.model.policy.action_net.bias.data[0] = float("nan")
    agent.model.save(tmp_path / "broken.zip")
    with pytest.raises(Misconfigured, match=r"weights that are not finite: \['action_net.bias'\]"):
        resave_apart(tmp_path / "broken.zip", tmp_path)


def test_statistics_of_another_model_are_refused(trained: Path, tmp_path: Path) -> None:
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    VecNormalize(make_vec_env("Pendulum-v1")).save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.raises(Misconfigured, match=r"statistics of shape \(3,\), but the model observes \(4,\)"):
        load_model(trained / "model.zip", tmp_path / "vecnormalize.pkl")
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps({"mean": 0}))
    with pytest.raises(Misconfigured, match="expected VecNormalize statistics, came dict"):
        load_model(trained / "model.zip", tmp_path / "vecnormalize.pkl")


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
    release = runs.Release.open(make_policy(), "run", Params(source="zip", zip_path=str(zip_path)))
    assert import_zip(release)["kept"] is False
    assert release.get_json("model/training.json")["source"] == "zip"
    assert import_zip(release)["kept"] is True
    assert load_model(release.fetch("model/model.zip", tmp_path)).algorithm == "ppo"


def test_the_stage_asks_for_the_path_of_the_zip(mlflow_server: str, make_policy: Callable[..., str]) -> None:
    release = runs.Release.open(make_policy(), "run", Params(source="zip"))
    with pytest.raises(Misconfigured, match="zip_path is empty"):
        import_zip(release)
