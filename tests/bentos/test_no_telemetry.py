"""Nothing is recorded or sent behind a user's back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["bentos.package", "tasks.build.export.graph"])
def test_onnx_runtime_keeps_no_record_of_sessions(module: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", f"import {module}"], check=True, cwd=root, env={**environment, "HOME": str(tmp_path)}
    )
    assert not list(tmp_path.rglob("*onnxruntime*"))
