"""What the whole decision path adds to the graph alone, in process, at batch 1."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.serving.peers.gateway import environment
from benchmarks.serving.peers.peer import PROJECT_PYTHON, Site
from benchmarks.serving.policy import Policy
from benchmarks.serving.server import REPOSITORY, NotServing

CALLS = 20_000


class Added(msgspec.Struct, frozen=True):
    """Quantiles in µs, and the differences of the medians and of the 10th percentiles.

    The latter is what a machine that others use shows of the same: its medians hold their work, too.
    """

    graph_p50: float
    graph_p99: float
    path_p50: float
    path_p99: float
    added_p50: float
    added_p10: float


def decision(policy: Policy, scratch: Path) -> Added:
    """Time both in turns, in a process of their own. Raises NotServing with what it said."""
    directory = scratch / "decision"
    directory.mkdir()
    site = Site(PROJECT_PYTHON, 0, policy, directory)
    done = subprocess.run(
        site.app("decision_path", policy.package, CALLS),
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment(site)},
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotServing(done.stderr.decode(errors="replace")[-2000:])
    taken = msgspec.json.decode(done.stdout, type=dict[str, list[float]])
    graph, path = (np.quantile(taken[name], (0.1, 0.5, 0.99)).tolist() for name in ("session.run", "Core.act"))
    return Added(graph[1], graph[2], path[1], path[2], path[1] - graph[1], path[0] - graph[0])
