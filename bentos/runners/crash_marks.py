"""Quarantine: what a worker was doing survives its death, so that a version that kills workers is known by its deed.

A challenger whose graph crashes the process, or eats all memory, takes its worker with it: nothing is left there to
count the fault. So each worker keeps a file of marks, one byte for each version on probation, set while a call of that
version (or its loading) is under way. The file is mapped: setting a byte costs nothing, and it outlives any death of
the process. The file is also locked for as long as its worker lives, so whoever can lock it knows that the worker died.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

from bentos import logs
from bentos.files import replace

DEATHS = 2
"""So many deaths of workers quarantine a package."""

_SLOTS, _SLOT_BYTES = 64, 1024
_BUSY = b"\1"
_SUFFIX, _KEPT = ".marks", ".death"


class Suspect(msgspec.Struct, frozen=True):
    """A version that was at work when its worker died."""

    policy: str
    version: str
    package_sha256: str


class Death(NamedTuple):
    """What killed `workers`, which died at the same time as far as anybody can tell: one death, however many."""

    suspect: Suspect
    workers: tuple[str, ...]


class Mark:
    """`with mark:` around whatever a version might kill its worker by. Threads may hold it together.

    `at` is where its byte stands in the worker's file.
    """

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory = memory
        self.at = at
        self._held = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._held += 1
            self._memory[self.at] = 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._held -= 1
            if not self._held:
                self._memory[self.at] = 0


class Marks:
    """One worker's marks, in a file of its own in `directory`."""

    def __init__(self, directory: Path, worker: str) -> None:
        """Raises OSError where the file cannot be made."""
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"{worker}{_SUFFIX}"
        draft = directory / f".{worker}"
        self._file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        # a page that the full disk has no room for would be a fault at the moment of writing to it
        os.posix_fallocate(self._file, 0, _SLOTS * _SLOT_BYTES)
        self._memory = mmap.mmap(self._file, _SLOTS * _SLOT_BYTES)
        self._marks: dict[Suspect, Mark] = {}
        self._free = list(range((_SLOTS - 1) * _SLOT_BYTES, -1, -_SLOT_BYTES))
        draft.rename(self._path)

    def of(self, suspect: Suspect) -> Mark | None:
        """The mark of a version; None when there is no room for another, which is logged."""
        found = self._marks.get(suspect)
        if found is not None:
            return found
        name = msgspec.json.encode(suspect)
        if not self._free or len(name) >= _SLOT_BYTES:
            logs.warning("version not marked", policy=suspect.policy, version=suspect.version)
            return None
        at = self._free.pop()
        self._memory[at : at + _SLOT_BYTES] = b"\0" + name.ljust(_SLOT_BYTES - 1, b"\0")
        mark = self._marks[suspect] = Mark(self._memory, at)
        return mark

    def release(self, suspect: Suspect) -> None:
        """Give up the mark of a version that is on probation no more, and makes no calls under its mark."""
        mark = self._marks.pop(suspect, None)
        if mark is not None:
            self._free.append(mark.at)

    def close(self) -> None:
        """Leave no marks behind: this worker ends in good order. Calls still under way may finish."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def living(directory: Path) -> set[str]:
    """The workers of this machine that keep marks in `directory` and live."""
    found = set()
    for path in directory.glob(f"*{_SUFFIX}"):
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found.add(path.stem)
        finally:
            os.close(file)
    return found


@contextlib.contextmanager
def dead(directory: Path) -> Iterator[list[Death]]:
    """The deaths that nobody dealt with yet. If the block raises they are kept, as the deaths that they are.

    Nobody else is given the same deaths meanwhile.
    """
    files: list[tuple[Path, int]] = []
    kept: list[Death] = []
    suspects: dict[Suspect, list[str]] = {}
    try:
        for path in sorted(directory.glob("*")):
            file = _claim(path) if path.suffix in (_SUFFIX, _KEPT) else None
            if file is None:
                continue
            files.append((path, file))
            if path.suffix == _KEPT:
                kept.append(msgspec.json.decode(os.pread(file, _SLOT_BYTES * _SLOTS, 0), type=Death))
                continue
            for suspect in _read(file):
                suspects.setdefault(suspect, []).append(path.stem)
        found = [Death(suspect, tuple(workers)) for suspect, workers in suspects.items()]
        try:
            yield [*kept, *found]
        except BaseException:
            for number, death in enumerate(found):
                replace(directory / f"{death.workers[0]}-{number}{_KEPT}", msgspec.json.encode(death))
            files = _removed(files, _SUFFIX)
            raise
        files = _removed(_removed(files, _SUFFIX), _KEPT)
    finally:
        for _, file in files:
            os.close(file)


def _removed(files: list[tuple[Path, int]], suffix: str) -> list[tuple[Path, int]]:
    """The files that stay when those of a suffix are removed, and given up."""
    for path, file in files:
        if path.suffix == suffix:
            path.unlink(missing_ok=True)
            os.close(file)
    return [(path, file) for path, file in files if path.suffix != suffix]


def _claim(path: Path) -> int | None:
    """The open, locked file of a dead worker; None: its worker lives, or somebody else deals with it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:
            return file
    except OSError:
        pass
    os.close(file)
    return None


def _read(file: int) -> list[Suspect]:
    data = os.pread(file, _SLOTS * _SLOT_BYTES, 0)
    slots = (data[at : at + _SLOT_BYTES] for at in range(0, len(data), _SLOT_BYTES))
    return [msgspec.json.decode(slot[1:].rstrip(b"\0"), type=Suspect) for slot in slots if slot[:1] == _BUSY]
