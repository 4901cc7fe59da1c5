"""Conversion to ONNX beside this process: the same file, the same refusals, and no process that stays."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from gymnasium import spaces

from tasks.build.export.families import exporter_for
from tasks.build.export.formats import ONNX, conversion, write_torch_formats
from tasks.build.export.onnx import Converter, Unconverted, convert
from tests.tasks.agents import agent


@pytest.fixture
def order(tmp_path: Path) -> tuple[Path, Path, list[str], list[str]]:
    """What is to be converted: a policy's torch formats are in `tmp_path`."""
    exporter = exporter_for(agent("ppo", spaces.Discrete(3), normalize={}), None)
    write_torch_formats(exporter, tmp_path)
    return conversion(exporter, tmp_path)


def _beside() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_a_converter_writes_what_a_call_here_writes_and_is_gone_afterwards(
    order: tuple[Path, Path, list[str], list[str]], tmp_path: Path
) -> None:
    before = _beside()
    with Converter() as converter:
        (process,) = _beside() - before
        converter.start(*order)
        converter.finish()
    assert not psutil.pid_exists(process)
    beside = (tmp_path / ONNX).read_bytes()
    convert(*order)
    assert (tmp_path / ONNX).read_bytes() == beside


def test_a_converter_that_is_not_needed_is_gone_at_once() -> None:
    before = _beside()
    with Converter():
        (process,) = _beside() - before
    assert not psutil.pid_exists(process)


def test_what_cannot_be_converted_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"no archive")
    with Converter() as converter:
        converter.start(tmp_path / "broken.pt2", tmp_path / ONNX, ["observation"], ["action"])
        with pytest.raises(Unconverted, match=r"^\w+: [^\n]+$"):
            converter.finish()


def test_a_converter_that_is_killed_is_told_with_its_code(order: tuple[Path, Path, list[str], list[str]]) -> None:
    before = _beside()
    with Converter() as converter:
        (process,) = _beside() - before
        os.kill(process, signal.SIGKILL)
        converter.start(*order)
        with pytest.raises(Unconverted, match="ended with code -9 before it was done"):
            converter.finish()
