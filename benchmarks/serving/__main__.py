"""`python -m benchmarks.serving`: measure, print, and write what was measured as JSON."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.serving import environments, policy, report, wrk
from benchmarks.serving.compare import compare
from benchmarks.serving.peers.table import PEERS

WIDTH = 150


def main() -> int:
    """Exit 2 where the machine has no `wrk`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--peers", type=_peers, default=list(PEERS), help=f"comma-separated, of {', '.join(PEERS)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one run; a whole number, at least 1")
    parser.add_argument("--rounds", type=int, default=3, help="how often each peer is run between runs of the ceiling")
    parser.add_argument("--install", action="store_true", help="first install the peers that need an environment")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    given = parser.parse_args()
    console = Console(width=WIDTH)
    try:
        wrk.check()
    except wrk.Missing as error:
        console.print(str(error))
        return 2
    peers = [PEERS[name] for name in given.peers]
    if given.install:
        for peer in peers:
            environments.install(peer)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        made = policy.make(directory / "policy")
        lines = compare(peers, made, directory, given.seconds, given.rounds)
        report.compared(console, lines)
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode({"peers": lines}), indent=2))
    return 0


def _peers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PEERS)}, came {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
