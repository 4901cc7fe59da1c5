"""Deliver a package made of a foreign zip: written aside, looked over again, and put in place in one rename."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from bentos import package
from tasks import sandbox
from tasks.build.packaging.atomic_directory import put, refuse_occupied, written_aside
from tasks.build.training.zip_file import read_data
from tasks.build.training.zoo import Layout, find_layout
from tasks.errors import Misconfigured

LIMITS = sandbox.Limits(seconds=300.0, memory_mb=4000.0)


@dataclass(frozen=True)
class Order:
    """What a person asked for. `environment` and `statistics` override what lies beside the zip."""

    zip: Path
    out: Path
    algorithm: str | None = None
    environment: str | None = None
    statistics: Path | None = None
    name: str | None = None
    variants: str = "fp32"
    force: bool = False
    limits: sandbox.Limits = field(default=LIMITS)


def deliver(order: Order, say: sandbox.Say) -> dict[str, Any]:
    """Make the package and put it at `order.out`; what was found, as JSON. `say` hears progress.

    A package of the same source that is there already is left as it is (`"identical": true`). Raises Misconfigured or
    Rejected, with nothing written, when the zip is refused, the package is not equal, or `out` holds something else.
    """
    started = time.monotonic()
    out = order.out.expanduser().resolve()
    read_data(order.zip, order.limits.memory_mb)
    layout = _layout(order)
    for note in layout.notes:
        say(f"note: {note}")
    name = order.name or policy_name(layout, order.zip)
    source = _source(order, layout, name)
    if (found := _identical(out, source)) is not None:
        return _document(out, found, {}, True, started)
    if not order.force:
        refuse_occupied(out)
    _refuse_dangerous(out, order)
    with written_aside(out) as scratch:
        directory = scratch / "package"
        directory.mkdir()
        request = {
            "zip": str(order.zip.absolute()),
            "directory": str(directory),
            "name": name,
            "variants": order.variants,
            "source": source,
            "algorithm": order.algorithm,
            "statistics": str(layout.statistics.absolute()) if layout.statistics else None,
            "environment": layout.environment,
            "kwargs": layout.kwargs,
            "prepared": layout.prepared,
            "packages": layout.packages,
        }
        made = sandbox.run("tasks.build.packaging.from_zip", request, str(order.zip), order.limits, scratch, say)
        say("looking the package over")
        look_over(directory, made["package_sha256"])
        put(directory, out, order.force)
    return _document(out, made["package_sha256"], made["seconds"], False, started)


def _layout(order: Order) -> Layout:
    found = find_layout(order.zip)
    if order.statistics is not None:
        found = replace(found, statistics=order.statistics)
    if order.environment == "none":
        found = replace(found, environment=None, kwargs={}, prepared=())
    elif order.environment is not None and order.environment != found.environment:
        found = replace(found, environment=order.environment, kwargs={}, prepared=())
    found.require_statistics(order.zip)
    return found


def policy_name(layout: Layout, zip_path: Path) -> str:
    """A policy's name from its environment, else from its zip: lower case letters, digits and underscores."""
    base = re.sub(r"-v\d+$", "", layout.environment or zip_path.stem).rpartition("/")[2]
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", base).lower()).strip("_")
    return (words if words[:1].isalpha() else f"policy_{words}".rstrip("_"))[:63]


def _source(order: Order, layout: Layout, name: str) -> dict[str, Any]:
    """What decides what a package becomes: two exports of the same source are the same package."""
    return {
        "file": order.zip.name,
        "sha256": package.sha256(order.zip),
        "vecnormalize_sha256": package.sha256(layout.statistics) if layout.statistics else None,
        "name": name,
        "algorithm": order.algorithm,
        "environment": layout.environment,
        "kwargs": layout.kwargs,
        "prepared": list(layout.prepared),
        "variants": order.variants,
        "airlock": _version(),
    }


def _version() -> str:
    try:
        return version("airlock-rl")
    except PackageNotFoundError:
        return "unknown"


def _identical(out: Path, source: dict[str, Any]) -> str | None:
    """The digest of the package at `out`, where it was made of the same source and is whole."""
    if not (out / package.MANIFEST).is_file():
        return None
    try:
        manifest = package.read_manifest(out)
        if manifest.training.get("zip") != msgspec.json.decode(msgspec.json.encode(source)):
            return None
        look_over(out)
    except (package.PackageError, OSError):
        return None
    return package.sha256(out / package.MANIFEST)


def look_over(directory: Path, sha256: str | None = None) -> None:
    """Check a finished package from outside: digests, no file beside them, every variant loads. PackageError."""
    manifest = package.read_manifest(directory, sha256)
    for name in manifest.files:
        package.verify_file(directory, manifest, name)
    there = {path.name for path in directory.iterdir()}
    if strange := there - {*manifest.files, package.MANIFEST}:
        raise package.PackageError(f"{directory}: holds {sorted(strange)}, which the manifest does not list")
    for variant in manifest.variants:
        package.load(directory, sha256, variant).whole()


def _refuse_dangerous(out: Path, order: Order) -> None:
    """Replacing a directory must not take along the zip, the working directory or the home."""
    if out.exists() and not out.is_dir():
        raise Misconfigured(f"{out}: is a file, not a directory; choose another --out, or move it")
    held = [order.zip, *([order.statistics] if order.statistics else []), Path.cwd(), Path.home()]
    for path in held:
        if path.resolve().is_relative_to(out):
            raise Misconfigured(f"{out}: holds {path}; choose another --out")


def _document(out: Path, sha256: str, seconds: dict[str, float], identical: bool, started: float) -> dict[str, Any]:
    manifest = package.read_manifest(out, sha256)
    parity = {name: manifest.parity.get(name) for name in ("observations", "source", "tolerance", "equal", "returns")}
    return {
        "package": str(out),
        "package_sha256": sha256,
        "identical": identical,
        "name": manifest.name,
        "algorithm": manifest.algorithm,
        "environment": manifest.environment,
        "parity": parity,
        "variant": manifest.shipped_variant,
        "variants": sorted(manifest.variants),
        "reason": manifest.selection["reason"],
        "seconds": {**seconds, "total": round(time.monotonic() - started, 2)},
    }
