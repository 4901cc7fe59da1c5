"""The Bento of a version: built from the serving room and the package, served once by itself, asked and compared."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import yaml

import bentos
from bentos import home
from bentos.package import MANIFEST, Policy, load, sha256
from tasks import parity
from tasks.errors import Misconfigured, Rejected
from tasks.evaluate import ROLLOUT, load_rollout
from tasks.promote import ControlPlane
from tasks.register import version_of
from tasks.runs import Release
from tasks.server import Server, serving

log = logging.getLogger(__name__)

REQUIREMENTS = (
    "httptools",
    "httpx",
    "msgspec",
    "numpy",
    "onnxruntime",
    "prometheus-client",
    "sqlalchemy",
    "uvloop",
)
"""What the serving room needs beside bentoml itself: neither a training nor a registry library."""
ASKED = 256
"""On-policy observations the smoke test asks for."""

Array = npt.NDArray[Any]


def bentoml_home() -> Path:
    """Where Bentos are kept: `$BENTOML_HOME`, by default `bentoml/` under Airlock's home."""
    configured = os.environ.get("BENTOML_HOME")
    return Path(configured) if configured else home.home() / "bentoml"


def bento_path(policy: str, version: str) -> Path:
    """The directory of the built Bento `<policy>:<version>`."""
    return bentoml_home() / "bentos" / policy / version


def build(release: Release) -> dict[str, Any]:
    """Build `<policy>:<version>`, serve it alone, compare its actions: {"bento_tag", "bento_path", ...}.

    A Bento that is there with the same package is kept, another one replaced. Raises Rejected when the served Bento
    does not act as the package and as the evaluated policy did.
    """
    version = version_of(release)
    if version is None:
        raise Misconfigured(f"the release {release.dag_run_id} has registered no version to package")
    tag = f"{release.policy}:{version}"
    with release.scratch() as scratch:
        package = load(release.fetch("package", scratch))
        started = time.monotonic()
        path = assemble(release, version, package, scratch / "context")
        built = time.monotonic()
        rollout = release.fetch(ROLLOUT, scratch)
        with serving(path, scratch / "server") as server:
            smoke = smoke_test(server, package, rollout)
        served = time.monotonic()
    ControlPlane(f"release {release.dag_run_id}").annotate(release.policy, version, {"bento_tag": tag})
    log.info("built %s in %.1f s; served and asked in %.1f s: %s", tag, built - started, served - built, smoke)
    return {"bento_tag": tag, "bento_path": str(path), **smoke}


def assemble(release: Release, version: str, package: Policy, context: Path) -> Path:
    """Build the Bento of `package` unless it is there already; returns its directory."""
    path = bento_path(release.policy, version)
    digest = sha256(package.directory / MANIFEST)
    if _label(path) == digest:
        log.info("the Bento %s:%s is there already", release.policy, version)
        return path
    shutil.rmtree(path, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(Path(bentos.__file__).parent, context / "bentos", ignore=ignored)
    shutil.copytree(package.directory, context / "package")
    bentofile = {
        "service": "bentos.service:Gateway",
        "name": release.policy,
        "description": f"{release.policy} version {version}: {package.manifest.algorithm} "
        f"for {package.manifest.environment['id']}, released by Airlock",
        "labels": {"package_sha256": digest, "mlflow_run_id": release.run_id, "airlock": "policy"},
        "include": ["bentos/**", "package/**"],
        "python": {"packages": [f"{name}=={installed(name)}" for name in REQUIREMENTS], "lock_packages": False},
    }
    (context / "bentofile.yaml").write_text(yaml.safe_dump(bentofile))
    command = [sys.executable, "-m", "bentoml", "build", "--version", version, "--output", "tag", "."]
    environment = {**os.environ, "BENTOML_HOME": str(bentoml_home()), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode or _label(path) != digest:
        raise RuntimeError(f"bentoml build of {release.policy}:{version} failed:\n{done.stdout}{done.stderr}")
    return path


def _label(path: Path) -> str | None:
    """The package digest a built Bento carries, or None when there is no whole Bento at `path`."""
    try:
        document = yaml.safe_load((path / "bento.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return None
    return (document or {}).get("labels", {}).get("package_sha256")


def ask(url: str, policy: str, observations: Array, timeout: float = 30.0) -> dict[str, Any]:
    """Ask a gateway for the actions of many observations [n, ...] in one request; its whole answer."""
    answer = httpx.post(
        f"{url}/v1/policies/{policy}/act", json={"observations": observations.tolist()}, timeout=timeout
    )
    answer.raise_for_status()
    return dict(answer.json())


def smoke_test(server: Server, package: Policy, rollout: Path) -> dict[str, Any]:
    """Compare the served actions with the package's own and, for fp32, with those the evaluated policy took.

    A quantized variant was held against the evaluated policy when it was chosen. Rows that the safety envelope
    changed are left out. Returns {"observations", "compared"}. Raises Rejected when an action differs.
    """
    given, taken = load_rollout(rollout)
    observations, taken = given["observation"][:ASKED], taken[:ASKED]
    answer = ask(server.url, package.manifest.name, observations)
    others = sorted({source for source in answer["sources"] if source != "policy"})
    if others:
        raise Rejected(f"the served Bento answered by {', '.join(others)}, not by the policy, on its own observations")
    served = np.asarray(answer["actions"], dtype=taken.dtype)
    kept = np.array([not changed for changed in answer["adjusted"]])
    references = {"the package": np.asarray(package.predict(observations))}
    if package.variant == "fp32":
        references["the evaluated policy"] = taken
    for name, reference in references.items():
        difference = parity.compare(package.manifest.action_space, reference[kept], served[kept])
        if kept.any() and difference.agreement < 1.0:
            raise Rejected(
                f"the served Bento and {name} agree on {difference.agreement:.2%} of {difference.rows} observations "
                f"(largest error {difference.max_error:.2e} of the span); they must agree on all"
            )
    return {"observations": len(observations), "compared": int(kept.sum())}
