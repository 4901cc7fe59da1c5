"""Peers: the workers of one gateway tell each other which versions they are done loading.

Episodes of a version are given out only when every worker can answer them: one that cannot would let the champion
answer. A worker that is starting accepts no connections before it has loaded what the registry routes, so it need not
wait for others that are starting; those that run wait for it. Each worker keeps a file, as long as it lives. Gateways
elsewhere are given two polls of time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bentos import files, logs

PATIENCE_SECONDS = 10.0
"""How long a worker is waited for that neither loads a version nor refuses it."""


class Told(msgspec.Struct):
    """What a worker tells: whether it accepts connections, and since when (Unix seconds) it is done with versions, each
    loaded or refused."""

    started: bool = False
    done: dict[str, float] = {}


class Peers:
    """One worker's view of the others."""

    def __init__(self, directory: Path, worker: str, living: Callable[[], set[str]], grace: float) -> None:
        """`living` names the workers that live, this one among them; `grace` (seconds) is what other gateways get."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._file = directory / f"{worker}.json"
        self._living = living
        self._grace = grace
        self._own = Told()
        self._sure: set[str] = set()
        self._asked: dict[str, float] = {}
        self._tell()

    def started(self) -> None:
        """This worker accepts connections from now on."""
        self._own.started = True
        self._tell()

    def done(self, version: str) -> None:
        """This worker has loaded a version, or refuses it."""
        if version not in self._own.done:
            self._own.done[version] = time.time()
            self._tell()

    def forget(self, version: str) -> None:
        """This worker has unloaded a version."""
        self._sure.discard(version)
        self._asked.pop(version, None)
        if self._own.done.pop(version, None) is not None:
            self._tell()

    def close(self) -> None:
        """Leave: nobody need wait for this worker."""
        self._file.unlink(missing_ok=True)

    def everywhere(self, version: str, elsewhere: bool) -> bool:
        """Whether all workers are done with a version that this one has loaded: once so, for as long as it is loaded.

        `elsewhere`: the other gateways' time must be over, too. A worker that takes too long is not waited for.
        """
        if version in self._sure:
            return True
        running, since = self._own.started, self._own.done.get(version, time.time())
        for other in self._others():
            if version in other.done:
                since = min(since, other.done[version])
            elif running or other.started:
                if time.monotonic() - self._asked.setdefault(version, time.monotonic()) < PATIENCE_SECONDS:
                    return False
                logs.warning("worker not waited for", version=version, seconds=PATIENCE_SECONDS)
        if running and elsewhere and time.time() - since < self._grace:
            return False
        self._sure.add(version)
        return True

    def _others(self) -> Iterator[Told]:
        """What the other workers tell that live; what dead ones told is removed."""
        told = [path for path in self._directory.glob("*.json") if path != self._file]
        living = self._living() if told else set()  # looked at after the files: a worker lives before it tells
        for path in told:
            if path.stem not in living:
                path.unlink(missing_ok=True)
                continue
            try:
                yield msgspec.json.decode(path.read_bytes(), type=Told)
            except FileNotFoundError:
                continue

    def _tell(self) -> None:
        try:
            files.replace(self._file, msgspec.json.encode(self._own))
        except OSError as error:
            logs.warning("not told to the other workers", detail=str(error))
