"""The last good state: what a gateway keeps on disk to start without the registry."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bentos import files, logs
from bentos.routing.registry import Picture


class Draining(msgspec.Struct, frozen=True):
    """A version that gets no new traffic but answers its running episodes until `until` (Unix seconds)."""

    package_sha256: str
    until: float


class LastGood(msgspec.Struct):
    """What was known and served last."""

    pictures: list[Picture] = []
    draining: dict[str, dict[str, Draining]] = {}
    serving: dict[str, tuple[str, str]] = {}
    """The champion that answers, by policy: version and package digest."""


class Kept:
    """A gateway's last good state in a file, whole at every moment: whoever is killed while writing leaves the old."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._written = b""

    def read(self) -> LastGood:
        """What was kept; nothing where that cannot be read."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=LastGood)
        except FileNotFoundError:
            return LastGood()
        except (OSError, msgspec.MsgspecError) as error:
            logs.warning("last good state not readable", detail=str(error))
            return LastGood()

    def write(self, last_good: LastGood) -> None:
        """Keep it, if it is another than was kept before."""
        state = msgspec.json.encode(last_good)
        if state == self._written:
            return
        try:
            files.replace(self._file, state)
        except OSError as error:
            logs.warning("last good state not written", detail=str(error))
        else:
            self._written = state
