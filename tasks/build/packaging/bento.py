"""The Bento of a version: built from the serving room and the package, served once by itself, asked and compared."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import bentos
from bentos.package.hooks import HOOK_FILE, HOOKS
from bentos.package.loader import MANIFEST, Policy, sha256
from tasks.build.export import parity
from tasks.build.packaging.bento_store import POLICY, bento_path, bentoml_home, label
from tasks.build.packaging.scratch_server import Server
from tasks.build.training.evaluation import load_rollout
from tasks.errors import Rejected
from tasks.gateway_requests import ask, numbers, turns
from tasks.inputs import MASK, START, Array, Inputs, observations, size, take
from tasks.tracking.release import Release

log = logging.getLogger(__name__)

REQUIREMENTS = (
    "daqp",
    "httptools",
    "httpx",
    "kantoku",
    "msgspec",
    "numpy",
    "onnxruntime",
    "prometheus-client",
    "psutil",
    "sqlalchemy",
    "uvicorn",
    "uvloop",
)
"""What the serving room needs beside bentoml itself: neither a training nor a registry library."""
ASKED, PLAYERS, NUMBERS = 256, 16, 2_000_000
"""On-policy observations the smoke test asks for; fewer where they hold more numbers than that together. A recurrent
policy is asked for sixteen episodes at a time."""
PAUSES = (0.0, 1.0, 6.0)
"""Seconds before each try to be answered by the policy itself."""


def assemble(release: Release, version: str, package: Policy, context: Path) -> Path:
    """Build the Bento of `package` unless it is there already; returns its directory."""
    path = bento_path(release.policy, version)
    digest = sha256(package.directory / MANIFEST)
    if label(path, "package_sha256") == digest:
        os.utime(path)
        log.info("the Bento %s:%s is there already", release.policy, version)
        return path
    shutil.rmtree(path, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(Path(bentos.__file__).parent, context / "bentos", ignore=ignored)
    shutil.copytree(package.directory, context / "package")
    if hook := package.manifest.serve.override_hook:
        (context / HOOKS).mkdir()
        shutil.copy(package.directory / HOOK_FILE, context / HOOKS / f"{hook.partition(':')[0]}.py")
    bentofile = {
        "service": "bentos.service:Gateway",
        "name": release.policy,
        "description": f"{release.policy} version {version}: {package.manifest.algorithm} "
        f"for {package.manifest.environment['id']}, released by Airlock",
        "labels": {"package_sha256": digest, "mlflow_run_id": release.run_id, **POLICY},
        "include": ["bentos/**", "package/**", f"{HOOKS}/**"],
        "python": {"packages": [f"{name}=={installed(name)}" for name in REQUIREMENTS], "lock_packages": False},
    }
    (context / "bentofile.yaml").write_text(yaml.safe_dump(bentofile))
    command = [sys.executable, "-m", "bentoml", "build", "--version", version, "--output", "tag", "."]
    environment = {**os.environ, "BENTOML_HOME": str(bentoml_home()), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode or label(path, "package_sha256") != digest:
        raise RuntimeError(f"bentoml build of {release.policy}:{version} failed:\n{done.stdout}{done.stderr}")
    return path


def smoke_test(server: Server, package: Policy, rollout: Path) -> dict[str, Any]:
    """Compare the served actions with the package's own and, for fp32, with those the evaluated policy took.

    A quantized variant was held against the evaluated policy when it was chosen. Rows that the envelope or a hook
    changed are left out. A recurrent policy is asked turn by turn, with the `state` tokens it gave out. Returns
    {"observations", "compared"}. Raises Rejected when an action differs.
    """
    given, taken = load_rollout(rollout)
    rows = min(size(given), ASKED, max(PLAYERS, NUMBERS // numbers(given)))
    given, taken = take(given, slice(rows)), taken[:rows]
    exact = package.variant == "fp32"
    if START in given:
        compared = _compare_turns(server, package, given)
        first = given[START].reshape(-1) > 0
        if exact and first.any():
            answer = _answer(server, package, take(given, first))
            _compare(package, "the evaluated policy", answer, taken[first])
        return {"observations": rows, "compared": compared}
    answer = _answer(server, package, given)
    own = package.predict(observations(given), given.get(MASK))
    compared = _compare(package, "the package", answer, own)
    if exact:
        _compare(package, "the evaluated policy", answer, taken)
    return {"observations": rows, "compared": compared}


def _compare_turns(server: Server, package: Policy, given: Inputs) -> int:
    """The served actions over whole stretches of episodes against those of the package, each with its own memory."""
    tokens: list[str | None] = []
    state, compared = None, 0
    for turn in turns(given, PLAYERS):
        sent = [None if fresh else token for token, fresh in zip(tokens, turn.fresh, strict=True)] if tokens else None
        answer = _answer(server, package, turn.given, sent)
        own, state = package.step(observations(turn.given), state, turn.fresh, turn.given.get(MASK))
        compared += _compare(package, "the package", answer, own)
        tokens = answer["states"]
    return compared


def _answer(
    server: Server, package: Policy, given: Inputs, states: Sequence[str | None] | None = None
) -> dict[str, Any]:
    """The answer of the policy itself. Raises Rejected when, after some patience, another answers in its place.

    A machine that is busy with something else may miss a deadline, and the breaker stays open for five seconds then.
    """
    others: list[str] = []
    expected = {"policy", "override"} if package.manifest.serve.override_hook else {"policy"}
    for pause in PAUSES:
        time.sleep(pause)
        answer = ask(server.url, package.manifest.name, given, states, at_once=package.manifest.serve.batch_size)
        others = sorted(set(answer["sources"]) - expected)
        if not others:
            return answer
    raise Rejected(f"the served Bento answered by {', '.join(others)}, not by the policy, on its own observations")


def _compare(package: Policy, name: str, answer: Mapping[str, Any], reference: Array) -> int:
    """How many rows were compared. Raises Rejected when one differs."""
    served = np.asarray(answer["actions"], dtype=reference.dtype)
    told = zip(answer["adjusted"], answer["sources"], strict=True)
    kept = np.array([not changed and source == "policy" for changed, source in told])
    if kept.any():
        difference = parity.compare(package.manifest.action_space, reference[kept], served[kept])
        if difference.agreement < 1.0:
            raise Rejected(
                f"the served Bento and {name} agree on {difference.agreement:.2%} of {difference.rows} observations "
                f"(largest error {difference.max_error:.2e} of the span); they must agree on all"
            )
    return int(kept.sum())
