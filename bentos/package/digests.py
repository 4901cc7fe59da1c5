"""The files of a package: the manifest read and written, and every file checked by its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bentos import files
from bentos.package.manifest import (
    File,
    Manifest,
    PackageError,
    decode_manifest,
    encode_manifest,
)

MANIFEST = "policy.json"
BASELINE = "baseline.npz"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(directory: Path) -> dict[str, File]:
    """Digests of every file of a package directory but the manifest itself, by name, sorted."""
    return {
        path.name: File(sha256(path), path.stat().st_size)
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != MANIFEST
    }


def write_manifest(directory: Path, manifest: Manifest) -> str:
    """Write `policy.json` and return its SHA-256: the digest of the whole package, since it holds all others."""
    data = encode_manifest(manifest)
    files.replace(directory / MANIFEST, data)
    return hashlib.sha256(data).hexdigest()


def read_manifest(directory: Path, package_sha256: str | None = None) -> Manifest:
    """Read `policy.json`; with `package_sha256`, refuse any other content (PackageError)."""
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error.strerror}; is this a policy package?") from error
    came = hashlib.sha256(data).hexdigest()
    if package_sha256 is not None and came != package_sha256:
        raise PackageError(f"{path}: digest mismatch: expected sha256 {package_sha256}, came {came}")
    return decode_manifest(data, str(path))


def verify_file(directory: Path, manifest: Manifest, name: str) -> Path:
    """The path of one file of the package after its digest was checked. Raises PackageError."""
    entry = manifest.files.get(name)
    if entry is None or Path(name).name != name:
        raise PackageError(f"{directory}: the manifest has no file {name!r}")
    path = directory / name
    if not path.is_file():
        raise PackageError(f"{path}: missing; the manifest lists it")
    came = sha256(path)
    if came != entry.sha256:
        raise PackageError(f"{path}: digest mismatch: expected sha256 {entry.sha256}, came {came}")
    return path
