"""A server under measurement: a process of its own, with all it starts, from its start to its end."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
_LOOK_SECONDS = 0.02
_TAIL = 3_000
_PLAIN = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
"""One thread a graph, and compiled modules are kept, as where a server is installed: else each start compiles them."""


class NotServing(Exception):
    """A server did not start, or does not answer as it must; says what it printed last."""


@dataclass(frozen=True)
class Launch:
    """How to start a server: its command line and what its environment has beside this process's."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Server:
    """A started server; a context manager that ends it, with everything it started."""

    def __init__(self, launch: Launch, log: Path) -> None:
        self.log = log
        self.started = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                launch.command,
                cwd=REPOSITORY,
                env={**os.environ, **_PLAIN, "PATH": _path(launch), **launch.environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, ready: Callable[[], bool], seconds: float = START_SECONDS) -> float:
        """Seconds from the process's start until `ready` first says yes. Raises NotServing."""
        while time.monotonic() - self.started < seconds:
            if ready():
                return time.monotonic() - self.started
            if self._process.poll() is not None:
                raise NotServing(f"ended with {self._process.returncode}: {self.said()}")
            time.sleep(_LOOK_SECONDS)
        raise NotServing(f"not ready within {seconds:.0f} s: {self.said()}")

    def said(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-_TAIL:].strip()

    def family(self) -> list[psutil.Process]:
        """The process and all that it started and that still run."""
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """CPU time that it and all it started have spent so far."""
        spent = 0.0
        for member in self.family():
            try:
                times = member.cpu_times()
            except psutil.NoSuchProcess:
                continue
            spent += times.user + times.system
        return spent

    def stop(self) -> None:
        """Kill it with all it started."""
        family = self.family()
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=10)
        self._process.wait(10)


def _path(launch: Launch) -> str:
    """The programs of the command's own environment come first: some servers start them by name."""
    return os.pathsep.join((str(Path(launch.command[0]).parent), os.environ["PATH"]))
