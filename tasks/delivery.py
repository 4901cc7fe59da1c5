"""Deliver a package made of a foreign zip: written aside, looked over again, and put in place in one rename."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from bentos import package
from tasks import apart
from tasks.errors import Misconfigured
from tasks.zips import read_data
from tasks.zoo import Layout, find_layout

LIMITS = apart.Limits(seconds=300.0, memory_mb=4000.0)
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


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
    limits: apart.Limits = field(default=LIMITS)


def deliver(order: Order, say: apart.Say) -> dict[str, Any]:
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
        _refuse_occupied(out)
    _refuse_dangerous(out, order)
    with _aside(out) as scratch:
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
        made = apart.run("tasks.foreign", request, str(order.zip), order.limits, scratch, say)
        say("looking the package over")
        look_over(directory, made["package_sha256"])
        _put(directory, out, order.force)
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
    """Check a finished package from outside: every digest, no file beside them, every variant loads. PackageError."""
    manifest = package.read_manifest(directory, sha256)
    for name in manifest.files:
        package.verify_file(directory, manifest, name)
    there = {path.name for path in directory.iterdir()}
    if strange := there - {*manifest.files, package.MANIFEST}:
        raise package.PackageError(f"{directory}: holds {sorted(strange)}, which the manifest does not list")
    for variant in manifest.variants:
        package.load(directory, sha256, variant)


def _refuse_occupied(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if out.is_dir():
        what = "another policy package" if (out / package.MANIFEST).is_file() else "something else"
        raise Misconfigured(f"{out}: holds {what}; choose another --out, or replace it with --force")
    raise Misconfigured(f"{out}: is a file, not a directory; choose another --out, or move it")


def _refuse_dangerous(out: Path, order: Order) -> None:
    """Replacing a directory must not take along the zip, the working directory or the home."""
    if out.exists() and not out.is_dir():
        raise Misconfigured(f"{out}: is a file, not a directory; choose another --out, or move it")
    held = [order.zip, *([order.statistics] if order.statistics else []), Path.cwd(), Path.home()]
    for path in held:
        if path.resolve().is_relative_to(out):
            raise Misconfigured(f"{out}: holds {path}; choose another --out")


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A directory beside `out`, gone afterwards whatever happens; what killed exports left there is removed first.

    It is locked as long as this process lives, so that one export never removes what another is writing.
    """
    created = [parent for parent in (out.parent, *out.parent.parents) if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(out)
        scratch = out.with_name(f"{out.name}.partial-{os.getpid()}")
        scratch.mkdir()
    except OSError as error:
        _remove_empty(created)
        raise Misconfigured(f"{out}: cannot be written: {error.strerror}; choose another --out") from error
    lock = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield scratch
    except OSError as error:
        raise Misconfigured(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)
        _remove_empty(created)


def _remove_stale(out: Path) -> None:
    for path in out.parent.iterdir():
        if not re.fullmatch(rf"{re.escape(out.name)}\.partial-\d+", path.name):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between its making and its locking a directory is free, but its maker lives.
            if not _lives(int(path.name.rpartition("-")[2])):
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)


def _lives(pid: int) -> bool:
    """Whether another process has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _remove_empty(directories: list[Path]) -> None:
    for path in directories:
        try:
            path.rmdir()
        except OSError:
            return


def _put(directory: Path, out: Path, force: bool) -> None:
    """Put a finished directory in place, in one step that is never seen half done."""
    try:
        directory.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not force:
            _refuse_occupied(out)
        _exchange(directory, out)


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories atomically (renameat2(2)); what was replaced is left where the new one was written."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE) == 0:
        return
    replaced = one.with_name("replaced")
    other.rename(replaced)
    try:
        one.rename(other)
    except OSError:
        replaced.rename(other)
        raise


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
