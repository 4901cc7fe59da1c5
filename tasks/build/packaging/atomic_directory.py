"""A directory written aside and put in place in one rename: whole or not there, whatever happens meanwhile."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bentos.package.digests import MANIFEST
from tasks.errors import Misconfigured

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def refuse_occupied(out: Path) -> None:
    """Raise Misconfigured unless a directory can be put at `out` without replacing anything."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if out.is_dir():
        what = "another policy package" if (out / MANIFEST).is_file() else "something else"
        raise Misconfigured(f"{out}: holds {what}; choose another --out, or replace it with --force")
    raise Misconfigured(f"{out}: is a file, not a directory; choose another --out, or move it")


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
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


def put(directory: Path, out: Path, force: bool) -> None:
    """Put a finished directory in place, in one step that is never seen half done."""
    try:
        directory.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not force:
            refuse_occupied(out)
        _exchange(directory, out)


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories atomically (renameat2(2)); what was replaced is left where the new one was written."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2") and not libc.renameat2(
        _AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE
    ):
        return
    replaced = one.with_name("replaced")
    other.rename(replaced)
    try:
        one.rename(other)
    except OSError:
        replaced.rename(other)
        raise
