"""Environments of the peers that are not part of the project: one each, so that none decides another's versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.serving.peers.peer import PROJECT_PYTHON, Peer
from bentos import home

MARK = "installed"


def cache() -> Path:
    """Where environments are kept: `$AIRLOCK_HOME/benchmarks`."""
    return home.home() / "benchmarks"


def python(peer: Peer) -> str | None:
    """The Python that runs a peer; None where its environment is not there, or was made for other versions."""
    if not peer.packages:
        return PROJECT_PYTHON
    folder = cache() / peer.environment
    mark = folder / MARK
    if not mark.is_file() or mark.read_text() != _wanted(peer):
        return None
    return str(folder / "bin" / "python")


def install(peer: Peer) -> None:
    """Make a peer's environment unless it is there. Raises subprocess.CalledProcessError, having shown why."""
    if python(peer) is not None:
        return
    folder = cache() / peer.environment
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *peer.packages], check=True)
    (folder / MARK).write_text(_wanted(peer))


def _wanted(peer: Peer) -> str:
    return "\n".join(peer.packages)
