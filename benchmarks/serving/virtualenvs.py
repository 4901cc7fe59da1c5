"""Environments of the peers that are not part of the project: one each, so that none decides another's versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.serving.peers.peer import PROJECT_PYTHON, Peer
from bentos import settings

MARK = "installed"


def cache() -> Path:
    """Where environments are kept: `$AIRLOCK_HOME/benchmarks`."""
    return settings.home() / "benchmarks"


def python(peer: Peer) -> str | None:
    """The Python that runs a peer; None where its environment is not there, or was made for other versions."""
    if not peer.packages:
        return PROJECT_PYTHON
    folder = cache() / peer.environment
    mark = folder / MARK
    if not mark.is_file() or mark.read_text() != _wanted(peer):
        return None
    return str(folder / "bin" / "python")


def install(peer: Peer) -> str | None:
    """Make a peer's environment unless it is there. What pip said, where it could not."""
    if python(peer) is not None:
        return None
    folder = cache() / peer.environment
    make = [_interpreter(peer), "-m", "venv", "--clear", "--without-pip", str(folder)]
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    for command in (make, [*pip, "install", "--quiet", *peer.packages]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            return done.stdout.strip()
    (folder / MARK).write_text(_wanted(peer))
    return None


def _interpreter(peer: Peer) -> str:
    """What an environment is made from: where a peer loads libpython, the one whose it will find."""
    system = Path("/usr/bin") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(system) if peer.embeds_python and system.exists() else sys.executable


def _wanted(peer: Peer) -> str:
    return "\n".join(peer.packages)
