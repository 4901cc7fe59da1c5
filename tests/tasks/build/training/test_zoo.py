"""The layout of the rl-zoo: what lies beside a zip is found, read without building objects, and bad files are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.build.training.zoo import Layout, environment_in_path, find_layout, find_vecnormalize, literal, read_yaml
from tasks.errors import Misconfigured

ARGUMENTS = """!!python/object/apply:collections.OrderedDict
- - - algo
    - ppo
  - - env
    - PandaReach-v1
  - - env_kwargs
    - render: false
  - - gym_packages
    - - panda_gym
"""
CONFIG = """!!python/object/apply:collections.OrderedDict
- - - env_wrapper
    - - sb3_contrib.common.wrappers.TimeFeatureWrapper
      - some.Other: {width: 3}
  - - frame_stack
    - 4
  - - normalize
    - dict(norm_obs=True, norm_reward=False)
  - - policy_kwargs
    - dict(activation_fn=nn.ReLU)
  - - schedule
    - !!python/name:builtins.print ''
  - - train_freq
    - !!python/tuple [1, episode]
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's directory `ALGO/ENV_1`, with its folder `ENV/`."""
    (tmp_path / "ppo" / "PandaReach-v1_1" / "PandaReach-v1").mkdir(parents=True)
    return tmp_path / "ppo" / "PandaReach-v1_1"


def test_arguments_and_configuration_are_read(run: Path) -> None:
    folder = run / "PandaReach-v1"
    (folder / "args.yml").write_text(ARGUMENTS)
    (folder / "config.yml").write_text(CONFIG)
    (folder / "vecnormalize.pkl").touch()
    assert find_layout(run / "PandaReach-v1.zip") == Layout(
        environment="PandaReach-v1",
        kwargs={"render": False},
        statistics=folder / "vecnormalize.pkl",
        prepared=(
            "4 frames stacked",
            "wrapped in sb3_contrib.common.wrappers.TimeFeatureWrapper",
            "wrapped in some.Other",
        ),
        normalized=True,
        packages=("panda_gym",),
    )


def test_python_objects_in_yaml_are_never_built(run: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    path = run / "args.yml"
    path.write_text(f"a: !!python/object/apply:os.system ['touch {seen}']\nb: !!python/object/new:set [[1]]\n")
    assert read_yaml(path)["a"] == [f"touch {seen}"]
    assert not seen.exists()


def test_a_run_without_its_files_is_told_by_its_path(run: Path) -> None:
    assert find_layout(run / "best_model.zip") == Layout(environment="PandaReach-v1")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("ppo/CartPole-v1_1/CartPole-v1.zip", "CartPole-v1"),
        ("dqn/ALE-Pong-v5_12/best_model.zip", "ALE-Pong-v5"),
        ("downloads/ppo-LunarLander-v3.zip", "LunarLander-v3"),
        ("downloads/ppo_lstm-CartPole-v1.zip", "CartPole-v1"),
        ("downloads/model.zip", None),
        ("downloads/my_model_1/final.zip", None),
    ],
)
def test_the_environment_is_told_by_names(path: str, found: str | None) -> None:
    assert environment_in_path(Path(path)) == found


def test_a_checkpoint_has_statistics_of_its_own(run: Path) -> None:
    end = run / "PandaReach-v1" / "vecnormalize.pkl"
    end.touch()
    own = run / "rl_model_vecnormalize_5000_steps.pkl"
    own.touch()
    assert find_vecnormalize(run / "rl_model_5000_steps.zip") == own
    assert find_layout(run / "rl_model_5000_steps.zip").notes == ()
    assert find_vecnormalize(run / "rl_model_9000_steps.zip") == end
    (note,) = find_layout(run / "rl_model_9000_steps.zip").notes
    assert "statistics of the training's end, not of this checkpoint" in note
    assert find_vecnormalize(run / "PandaReach-v1.zip") == end
    assert find_layout(run / "PandaReach-v1.zip").notes == ()


def test_a_model_of_normalized_observations_is_refused_without_its_statistics(run: Path) -> None:
    for given, asked in (("true", True), ("\"{'norm_obs': False, 'norm_reward': True}\"", False), ("false", False)):
        (run / "PandaReach-v1" / "config.yml").write_text(f"normalize: {given}\n")
        layout = find_layout(run / "PandaReach-v1.zip")
        assert layout.normalized is asked
        if asked:
            with pytest.raises(Misconfigured, match="give it with --vecnormalize"):
                layout.require_statistics(run / "PandaReach-v1.zip")
        else:
            layout.require_statistics(run / "PandaReach-v1.zip")


def test_a_file_that_is_no_yaml_is_ignored_and_said_so(run: Path) -> None:
    (run / "PandaReach-v1" / "args.yml").write_text("a: [1,\n")
    layout = find_layout(run / "PandaReach-v1.zip")
    assert layout.environment == "PandaReach-v1"
    assert "args.yml: cannot be read as YAML" in layout.notes[0]
    with pytest.raises(Misconfigured, match="cannot be read as YAML"):
        read_yaml(run / "PandaReach-v1" / "args.yml")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"a": 1}, {"a": 1}),
        ("dict(a=1, b='x')", {"a": 1, "b": "x"}),
        ("{'a': [1, 2]}", {"a": [1, 2]}),
        ("dict(a=__import__('os'))", {}),
        ("not python (", {}),
        (None, {}),
    ],
)
def test_dicts_written_as_text_are_read_as_literals(given: Any, read: dict[str, Any]) -> None:
    assert literal(given) == read
