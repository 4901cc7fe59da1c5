"""The archive of a bundle: the same files give the same bytes, and a hostile one is refused before it costs anything.

Nothing is ever unpacked to disk.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

MEMBERS, MEMBER_BYTES, TOTAL_BYTES = 1_000, 64_000_000, 256_000_000
"""Most files a bundle may hold, most bytes of one and of all, unpacked. Those of a release are some forty and 1 MB."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold: the time of packing must not change the bytes."""


class BundleError(Exception):
    """The archive cannot be read as a bundle; the message says what is wrong with it."""


def write(files: Mapping[str, bytes]) -> bytes:
    """A zip of the files, by their paths, sorted; the same files give the same bytes (with the same zlib)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, files[name], compresslevel=9)
    return buffer.getvalue()


def read(path: Path) -> dict[str, bytes]:
    """The files of a bundle by their paths. Raises BundleError, also for one made to fill the memory or to trick."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _refuse(members)
            return {info.filename: _member(archive, info) for info in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError, ValueError) as error:
        raise BundleError(f"{path}: not a whole zip archive: {error}") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error


def _refuse(members: list[zipfile.ZipInfo]) -> None:
    """Raise BundleError for what no bundle has, from the table of contents alone."""
    if len(members) > MEMBERS:
        raise BundleError(f"{len(members)} files, at most {MEMBERS} are read: this is no bundle")
    names = [info.filename for info in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BundleError(f"the archive holds {twice[0]!r} more than once")
    for info in members:
        path = PurePosixPath(info.filename)
        plain = info.filename == path.as_posix() and "\\" not in info.filename and info.filename.isprintable()
        if not plain or path.is_absolute() or ".." in path.parts or not path.parts:
            raise BundleError(f"the archive holds the path {info.filename!r}, which leads out of it")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise BundleError(f"{info.filename}: a link; a bundle holds only files")
        if info.flag_bits & 0x1:
            raise BundleError(f"{info.filename}: encrypted; a bundle is not")
        if info.file_size > MEMBER_BYTES:
            raise BundleError(f"{info.filename}: {info.file_size:,} bytes, at most {MEMBER_BYTES:,} are read")
    total = sum(info.file_size for info in members)
    if total > TOTAL_BYTES:
        raise BundleError(f"{total:,} bytes unpacked, at most {TOTAL_BYTES:,} are read: this is no bundle")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a file: `zipfile` reads no more of it than the table of contents says."""
    content = archive.read(info)
    if len(content) != info.file_size:
        raise BundleError(f"{info.filename}: {len(content):,} bytes, the table of contents says {info.file_size:,}")
    return content
