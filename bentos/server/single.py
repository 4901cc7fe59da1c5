"""Single mode: one policy package beside the code (a built Bento), no registry."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from bentos.gateway.engine import Core
from bentos.package.digests import MANIFEST
from bentos.package.loader import load
from bentos.routing.route import Route


class Package(NamedTuple):
    """The directory of the one package to serve, and the version it is shown as."""

    directory: Path
    version: str


def find(bento_version: str | None) -> Package | None:
    """The package to serve: `$AIRLOCK_PACKAGE`, else `package/` beside `bentos/`; None: this is not single mode.

    Its version is `$AIRLOCK_VERSION`, else the Bento's, else the beginning of the package's digest.
    """
    configured = os.environ.get("AIRLOCK_PACKAGE")
    directory = Path(configured) if configured else Path(__file__).resolve().parents[2] / "package"
    if not configured and not (directory / MANIFEST).is_file():
        return None
    version = os.environ.get("AIRLOCK_VERSION") or bento_version
    if version is None and (directory / MANIFEST).is_file():
        version = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()[:12]
    return Package(directory, version or "1")


def route(core: Core, package: Package) -> Route:
    """Load the package and route all of its policy's traffic to it. Raises PackageError."""
    policy = load(package.directory, provider=None)
    digest = hashlib.sha256((package.directory / MANIFEST).read_bytes()).hexdigest()
    name = policy.manifest.name
    version = core.build(name, package.version, policy, digest)
    return Route(
        name,
        champion=version,
        previous=None,
        canary=None,
        versions={package.version: version},
        withdrawn=frozenset(),
        provider=version,
        shown={
            package.version: {
                "status": "ready",
                "package_sha256": digest,
                **version.remarks,
                "validation_status": "promoted",
            }
        },
    )
