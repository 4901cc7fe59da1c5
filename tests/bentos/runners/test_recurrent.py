"""A version's memory: carried in tokens, read by the version that wrote it and by no other."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest

from bentos.package.digests import read_manifest
from bentos.package.manifest import Manifest, Tensor
from bentos.rows import Decision, Rows
from bentos.runners import settled
from bentos.runners.breaker import Breaker
from bentos.runners.fallback import Constant, Fallback
from bentos.runners.recurrent import Remember
from bentos.tokens import Memory, State
from tests.bentos.policy_packages import write_package


class Counts:
    """A stand-in for a recurrent graph: its state counts the steps, its action is the state; NaN below zero."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.feeds: list[dict[str, Any]] = []

    async def decide(self, rows: Rows) -> Decision:
        self.feeds.append(rows.feeds)
        state = rows.feeds["state_h"] + 1
        good = rows.feeds["observation"][:, 0] >= 0
        return Decision(
            np.where(good, state[:, 0, 0], np.nan).astype(np.float32),
            good,
            ["policy"] * rows.size,
            [self.version] * rows.size,
            recurrent={"state_h": state},
        )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    directory = tmp_path_factory.mktemp("package") / "package"
    write_package(directory)
    found = read_manifest(directory)
    extra = (Tensor("state_h", "float32", (1, 2)), Tensor("episode_start", "float32", ()))
    return msgspec.structs.replace(found, inputs=(*found.inputs, *extra))


def _ask(runner: Any, values: list[float], memories: list[Memory | None] | None = None) -> Decision:
    observation = np.zeros((len(values), 4), np.float32)
    observation[:, 0] = values
    states = None if memories is None else [State("p", "", 1, None, memory) for memory in memories]
    rows = Rows({"observation": observation}, len(values), states=states, version="1")
    decision: Decision = asyncio.run(settled(runner.decide(rows)))
    return decision


def test_a_memory_comes_back_with_the_next_step_and_starts_at_zero(manifest: Manifest) -> None:
    inner = Counts("1")
    remember = Remember(inner, manifest, "1")
    first = _ask(remember, [0, 0])
    assert first.action.tolist() == [1, 1]
    assert inner.feeds[0]["episode_start"].tolist() == [1, 1]
    assert first.memories is not None
    second = _ask(remember, [0, 0], [first.memories[0], None])
    assert second.action.tolist() == [2, 1]
    assert inner.feeds[1]["episode_start"].tolist() == [0, 1]


def test_a_version_never_reads_the_memory_of_another(manifest: Manifest) -> None:
    others = _ask(Remember(Counts("2"), manifest, "2"), [0]).memories
    assert others is not None
    assert _ask(Remember(Counts("1"), manifest, "1"), [0], others).action.tolist() == [1]


def test_a_row_that_another_answered_keeps_what_it_remembered(manifest: Manifest) -> None:
    remember = Remember(Counts("1"), manifest, "1")
    last = Constant(np.array(-1.0, np.float32))
    breaker = Breaker(9, lambda reason: None)
    guard = Fallback(remember, policy="p", version="1", breaker=breaker, champion=lambda: None, last=last)
    decision = _ask(guard, [0, -1])
    assert decision.action.tolist() == [1, -1]
    assert decision.memories is not None
    assert decision.memories[0] is not None
    assert decision.memories[1] is None, "what a broken step would have remembered is not kept"


def test_the_champion_answers_a_recurrent_version_with_a_memory_of_its_own(manifest: Manifest) -> None:
    """Shapes differ from version to version; nothing of one may reach the other."""
    wide = msgspec.structs.replace(
        manifest, inputs=(manifest.inputs[0], Tensor("state_h", "float32", (1, 7)), manifest.inputs[2])
    )
    breaker = Breaker(9, lambda reason: None)
    champion = Fallback(
        Remember(Counts("0"), wide, "0"), policy="p", version="0", breaker=breaker, champion=lambda: None, last=None
    )
    remember = Remember(Counts("1"), manifest, "1")
    guard = Fallback(remember, policy="p", version="1", breaker=breaker, champion=lambda: champion, last=None)

    class Broken(Counts):
        async def decide(self, rows: Rows) -> Decision:
            raise RuntimeError("broken")

    remember.following = Broken("1")
    first = _ask(guard, [0, 0])
    assert first.versions == ["0", "0"]
    assert first.memories is not None
    second = _ask(guard, [0, 0], first.memories)
    assert second.action.tolist() == [2, 2]
