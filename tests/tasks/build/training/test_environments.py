"""Environments made from a spec."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks.build.training import environments
from tasks.errors import Misconfigured
from tasks.spec.sections import Environment

OWN = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

gymnasium.register("Own-v0", entry_point=CartPoleEnv, max_episode_steps=7)
"""


def test_a_module_that_is_named_registers_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_world.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_world", raising=False)
    made = environments.make(Environment(id="own_world:Own-v0"))
    assert made.spec is not None
    assert made.spec.max_episode_steps == 7


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(Misconfigured, match=r"'no_such_world:Own-v0' cannot be made.*no_such_world"):
        environments.make(Environment(id="no_such_world:Own-v0"))
