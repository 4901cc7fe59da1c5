"""The package cache: a gateway's packages on disk. When they are too large together, those used longest ago go."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from bentos import logs

MEGABYTES = 4096.0
"""How large the packages may be together, unless `$AIRLOCK_CACHE_MB` says another."""

REST_SECONDS = 3600.0
"""What was used since is left alone: another worker of this machine may be loading it."""

_HIDDEN = "."
"""How the names of downloads that are not whole begin, and of packages that are being removed."""


def configured_bytes() -> float:
    """How large the cache may be. Raises ValueError for what is no number."""
    return 1e6 * float(os.environ.get("AIRLOCK_CACHE_MB", MEGABYTES))


class PackageCache:
    """The directories of packages, named by their digests; a directory's time of change says when it was last used."""

    def __init__(self, directory: Path, most_bytes: float | None = None) -> None:
        """By default as configured."""
        self._most = configured_bytes() if most_bytes is None else most_bytes
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def used(self, package: Path) -> None:
        """Note that a package was used now."""
        try:
            os.utime(package)
        except OSError as error:
            logs.warning("package not marked as used", detail=str(error))

    def evict(self, needed: Collection[str], now: float | None = None) -> list[str]:
        """Remove what is too much at `now` (Unix seconds) and not `needed`, and what killed downloads left; digests.

        Where the needed ones alone are larger than the cache may be, they stay all the same.
        """
        rested = (time.time() if now is None else now) - REST_SECONDS
        packages: list[tuple[float, int, Path]] = []
        for entry in self.directory.iterdir():
            try:
                at, size = entry.stat().st_mtime, sum(file.stat().st_size for file in entry.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                continue  # another worker was first
            if not entry.name.startswith(_HIDDEN):
                packages.append((at, size, entry))
            elif at < rested:
                shutil.rmtree(entry, ignore_errors=True)
        total = sum(size for _, size, _ in packages)
        gone = []
        for at, size, package in sorted(packages):
            if total <= self._most:
                break
            if package.name not in needed and at < rested and self._remove(package):
                total -= size
                gone.append(package.name)
        return gone

    def _remove(self, package: Path) -> bool:
        """Whether it was there to be removed; nobody ever sees a part of it under its name."""
        hidden = package.with_name(f"{_HIDDEN}{package.name[:16]}.gone.{os.getpid()}")
        try:
            package.rename(hidden)
        except OSError:
            return False
        shutil.rmtree(hidden, ignore_errors=True)
        return True
