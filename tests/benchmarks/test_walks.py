"""The walks: what runs for a request is counted, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.walks import ROOT


def test_a_decision_walks_from_the_protocol_to_the_graph_and_leaves_the_tasks_alone() -> None:
    command = [sys.executable, "-m", "benchmarks.walks", "act", "--json"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    walk = json.loads(said)["act"]
    assert walk["count"] == len(set(walk["files"]))
    assert walk["files"][0] == "bentos/http/protocol.py"
    assert "bentos/runners/infer.py" in walk["files"]
    assert not [file for file in walk["files"] if file.startswith("tasks/")]
