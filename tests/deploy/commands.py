"""The `airlock` command in a process of its own, that imports Airlock from where a test says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.deploy.dockerfile import REPOSITORY

PACKAGES = ("bentos", "tasks", "plugins", "dags")
LAUNCH = REPOSITORY / "deploy" / "launch"
CHECKOUT = (LAUNCH, REPOSITORY)
"""Directories on PYTHONPATH that make this checkout importable."""
AIRLOCK = (sys.executable, "-P", "-c", "from airlock_launch import main; main()")
"""What the installed script `airlock` does. Python does not look into the working directory for it."""
_LEADING = ("AIRLOCK_", "AIRFLOW_", "BENTOML_", "MLFLOW_", "PYTHON")


def environment(paths: Sequence[Path], **more: str) -> dict[str, str]:
    """This process's variables without those that lead to this checkout or to the tests' state."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEADING)}
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return kept | quiet | {"PYTHONPATH": os.pathsep.join(map(str, paths))} | more


def run(
    command: Sequence[str], paths: Sequence[Path], directory: Path, timeout: float = 240, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory, with `paths` as PYTHONPATH."""
    return subprocess.run(
        list(command),
        cwd=directory,
        env=environment(paths, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
