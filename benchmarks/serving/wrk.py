"""Load: `wrk` posts the same bodies over a number of connections that stay open, as fast as they are answered."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

SCRIPT = Path(__file__).with_name("post.lua")


class Missing(Exception):
    """The machine has no `wrk`."""


@dataclass(frozen=True)
class Load:
    """What one run saw: requests answered and a second, latencies in ms, and how many were not answered with 2xx."""

    answered: int
    rate: float
    p50: float
    p99: float
    failed: int


@dataclass(frozen=True)
class Posts:
    """What to post where: bodies, in turns, and their headers."""

    url: str
    bodies: Path
    headers: Mapping[str, str]


class _Summary(msgspec.Struct):
    requests: int
    duration: int
    p50: int
    p99: int
    failed: int


def check() -> None:
    """Raises Missing when `wrk` is not on the path."""
    if shutil.which("wrk") is None:
        raise Missing("wrk makes the load, and is not on the path: apt-get install wrk")


def write_bodies(path: Path, bodies: Sequence[bytes]) -> Path:
    """Write bodies as `post.lua` reads them."""
    path.write_bytes(b"".join(b"%d\n%s" % (len(body), body) for body in bodies))
    return path


def run(posts: Posts, connections: int, seconds: float) -> Load:
    """Load a server for some seconds. Raises RuntimeError with what `wrk` said when it could not."""
    headers = [part for header in posts.headers.items() for part in header]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(SCRIPT), posts.url]
    done = subprocess.run([*command, "--", str(posts.bodies), *headers], capture_output=True, text=True, check=False)
    last = done.stdout.strip().rpartition("\n")[2]
    try:
        found = msgspec.json.decode(last, type=_Summary)
    except msgspec.DecodeError as error:
        said = f"{done.stdout}\n{done.stderr}".strip()
        raise RuntimeError(f"wrk at {posts.url} ended with {done.returncode}: {said}") from error
    answered = found.requests - found.failed
    return Load(answered, answered / found.duration * 1e6, found.p50 / 1e3, found.p99 / 1e3, found.failed)
