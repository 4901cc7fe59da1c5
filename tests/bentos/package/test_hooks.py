"""An override hook: code of the Bento that may put another action in the place of the policy's, and never harms it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos.package.hooks import Context
from bentos.package.loader import load
from bentos.package.manifest import Manifest, PackageError, Serve
from bentos.package.safety import Safety
from bentos.routing.version import Version
from bentos.rows import Decision, Rows
from bentos.runners import settled
from bentos.runners.hook import Hooked
from bentos.store.overrides import Active, Overrides
from bentos.telemetry.counters import Stats
from tests.bentos.policy_packages import BOX, write_package

ICY = """
def override(observation, context):
    slippery = observation[:, 0] > 1
    return context.actions * 0, slippery
"""
SERVE = Serve(fallback={"constant": 0}, deadline_ms=60_000, override_hook="icy:override")


def observations(*first: float) -> Rows:
    array = np.zeros((len(first), 4), np.float32)
    array[:, 0], array[:, 3] = first, 1.0
    return Rows(feeds={"observation": array}, size=len(first), version="1")


def version(package: Path, overrides: Overrides | None = None) -> Version:
    return Version(
        "1",
        load(package),
        "digest",
        stats=Stats(),
        overrides=overrides or Overrides(),
        champion=lambda: None,
        opened=lambda version, reason: None,
    )


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the operator allows, with the hook in it."""
    directory = tmp_path / "hooks"
    directory.mkdir()
    (directory / "icy.py").write_text(ICY)
    monkeypatch.setenv("AIRLOCK_HOOKS", str(directory))
    return directory


def test_a_hook_overrides_the_rows_it_chooses(tmp_path: Path, hooks: Path) -> None:
    write_package(tmp_path / "package", serve=SERVE, hook=ICY)
    decision = asyncio.run(settled(version(tmp_path / "package").decide(observations(0.0, 2.0, 0.5))))
    assert decision.action.tolist() == [1, 0, 1]
    assert decision.sources == ["policy", "override", "policy"]
    assert decision.faults is None


def test_the_action_of_a_hook_passes_the_envelope(tmp_path: Path, hooks: Path) -> None:
    source = "def override(observation, context):\n    return context.actions * 0 + 9.0\n"
    (hooks / "icy.py").write_text(source)
    serve = Serve(fallback={"constant": [0.0]}, deadline_ms=60_000, override_hook="icy:override")
    write_package(tmp_path / "package", serve=serve, hook=source, action_space=BOX, safety=Safety(safety_margin=0.25))
    decision = asyncio.run(settled(version(tmp_path / "package").decide(observations(0.0))))
    assert (decision.action.tolist(), decision.sources, decision.adjusted) == ([[1.0]], ["override"], [["bounds"]])


def test_a_person_has_the_last_word_before_the_envelope(tmp_path: Path, hooks: Path) -> None:
    write_package(tmp_path / "package", serve=SERVE, hook=ICY)
    overrides = Overrides()
    overrides.replace([Active(1, "cartpole", "", None, "", 1, False, "ada", "r", 0.0, time.time() + 60)])
    decision = asyncio.run(settled(version(tmp_path / "package", overrides).decide(observations(2.0, 0.0))))
    assert decision.action.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("allowed", "serve", "words"),
    [
        (None, SERVE, "serve the built Bento, or name a directory"),
        (ICY + "\n", SERVE, "digest mismatch"),
        (ICY, Serve(fallback={"constant": 0}, override_hook="icy:other"), "expected a function 'other'"),
        (ICY, Serve(fallback={"constant": 0}, override_hook="../icy:override"), "manifest has no hook"),
    ],
)
def test_a_hook_that_is_not_the_packages_or_not_allowed_here_is_refused(
    tmp_path: Path, hooks: Path, allowed: str | None, serve: Serve, words: str
) -> None:
    (hooks / "icy.py").unlink()
    if allowed is not None:
        (hooks / "icy.py").write_text(allowed)
    write_package(tmp_path / "package", serve=serve, hook=ICY)
    with pytest.raises(PackageError, match=words):
        version(tmp_path / "package")


def test_a_hook_that_does_not_load_is_refused(tmp_path: Path, hooks: Path) -> None:
    (hooks / "icy.py").write_text("import nothing_of_that_name")
    write_package(tmp_path / "package", serve=SERVE, hook="import nothing_of_that_name")
    with pytest.raises(PackageError, match="the hook does not load: ModuleNotFoundError"):
        version(tmp_path / "package")


# the runner


class Ones:
    async def decide(self, rows: Rows) -> Decision:
        return Decision(
            np.ones(rows.size, np.int64), np.ones(rows.size, bool), ["policy"] * rows.size, ["1"] * rows.size
        )


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Manifest]:
    def make(**serve: Any) -> Manifest:
        write_package(tmp_path / "plain", serve=Serve(**{"fallback": {"constant": 0}, "deadline_ms": 60_000, **serve}))
        return load(tmp_path / "plain").manifest

    return make


def hooked(manifest: Manifest, hook: Any, size: int = 2) -> Decision:
    runner = Hooked(Ones(), hook, manifest, "1")
    decision = asyncio.run(settled(runner.decide(observations(*[0.0] * size))))
    runner.close()
    return decision


@pytest.mark.parametrize(
    "answer",
    [
        [0],
        [[0, 0]],
        [0.5, 0.5],
        ["left", "right"],
        (np.zeros(2, int), np.ones(3, bool)),
        (np.zeros(2, int), [1, 1]),
        "left",
    ],
)
def test_an_answer_that_is_no_action_is_a_fault_and_the_policys_stands(
    manifest: Callable[..., Manifest], answer: Any
) -> None:
    decision = hooked(manifest(), lambda observation, context: answer)
    assert (decision.action.tolist(), decision.sources) == ([1, 1], ["policy", "policy"])
    assert decision.faults == {"hook": 2}


def test_a_hook_that_raises_is_a_fault_and_none_is_no_opinion(manifest: Callable[..., Manifest]) -> None:
    assert hooked(manifest(), lambda observation, context: 1 / 0).faults == {"hook": 2}
    decision = hooked(manifest(), lambda observation, context: None)
    assert (decision.faults, decision.sources) == (None, ["policy", "policy"])


def test_a_hook_can_change_nothing_but_by_its_answer(manifest: Callable[..., Manifest]) -> None:
    def meddle(observation: Any, context: Context) -> None:
        with pytest.raises(ValueError, match="read-only"):
            observation[0, 0] = 7
        context.actions[0] = 0

    decision = hooked(manifest(), meddle)
    assert (decision.action.tolist(), decision.faults) == ([1, 1], {"hook": 2})


def test_a_hook_that_does_not_come_back_is_a_fault_and_is_then_left_alone(manifest: Callable[..., Manifest]) -> None:
    release, calls = threading.Event(), []

    def stuck(observation: Any, context: Context) -> None:
        calls.append(context.policy)
        release.wait(60)

    async def play() -> list[Decision]:
        runner = Hooked(Ones(), stuck, manifest(deadline_ms=500), "1")
        decisions = [await settled(runner.decide(observations(0.0))) for _ in range(5)]
        assert len(calls) == 2, "both threads are kept: it is not asked again"
        release.set()
        while runner._late:
            await asyncio.sleep(0.001)
        decisions.append(await settled(runner.decide(observations(0.0))))
        runner.close()
        return decisions

    decisions = asyncio.run(play())
    assert [decision.faults for decision in decisions[:5]] == [{"hook": 1}] * 5
    assert all(decision.sources == ["policy"] for decision in decisions)
    assert len(calls) == 3


def test_many_requests_at_once_wait_for_the_hook_in_turn(manifest: Callable[..., Manifest]) -> None:
    async def play() -> list[Decision]:
        runner = Hooked(Ones(), lambda observation, context: context.actions * 0, manifest(), "1")
        return await asyncio.gather(*(settled(runner.decide(observations(0.0))) for _ in range(40)))

    assert all(decision.sources == ["override"] and decision.faults is None for decision in asyncio.run(play()))
