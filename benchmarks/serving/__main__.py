"""`python -m benchmarks.serving`: measure, print, and write what was measured as JSON.

Ratios are what to read: they are of runs in turns, seconds apart. Absolute figures are of this machine at this moment.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.serving import policy, report, results_page, virtualenvs, wrk
from benchmarks.serving.bentoml_apis import own_apis
from benchmarks.serving.binary import binary
from benchmarks.serving.compare import compare
from benchmarks.serving.decision_overhead import decision
from benchmarks.serving.multi_worker import cores
from benchmarks.serving.peers.table import PEERS
from benchmarks.serving.server import NotServing
from benchmarks.serving.slow_policy import slow
from benchmarks.serving.startup import standing

WIDTH = 150
MEASUREMENTS = ("peers", "bentoml", "binary", "decision", "slow", "cores", "standing")


def main() -> int:
    """Exit 2 where the machine has no `wrk`."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives the benchmark
    console = Console(width=WIDTH)
    try:
        wrk.check()
    except wrk.Missing as error:
        console.print(str(error))
        return 2
    peers = [PEERS[name] for name in given.peers]
    if given.install:
        for peer in peers:
            if said := virtualenvs.install(peer):
                console.print(f"{peer.title} could not be installed: {said}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        scratch, seconds, rounds = Path(directory), given.seconds, given.rounds
        made = policy.make(scratch / "policy")
        ways: dict[str, Callable[[], Any]] = {
            "peers": lambda: compare(
                peers, made, scratch, seconds, rounds, lambda line: report.progress(console, line)
            ),
            "bentoml": lambda: own_apis(made, scratch, seconds, rounds),
            "binary": lambda: binary(made, scratch, seconds, rounds),
            "decision": lambda: decision(made, scratch),
            "slow": lambda: slow(made, scratch, seconds, peers),
            "cores": lambda: cores(made, scratch, seconds, rounds),
            "standing": lambda: standing(made, scratch),
        }
        for name in given.measure:
            try:
                found[name] = ways[name]()
            except NotServing as error:
                found[name] = None
                console.print(f"{name}: not measured: {error}")
                continue
            report.show(console, name, found[name])
    if given.docs:
        given.docs.write_text(
            results_page.replaced(given.docs.read_text(), results_page.section(found, given.seconds, given.rounds))
        )
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--peers", type=_some_of(tuple(PEERS)), default=list(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument(
        "--measure", type=_some_of(MEASUREMENTS), default=list(MEASUREMENTS), help=f"of {', '.join(MEASUREMENTS)}"
    )
    parser.add_argument("--seconds", type=int, default=2, help="of one run (default 2)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each peer between runs of the ceiling (2)")
    parser.add_argument("--install", action="store_true", help="first install the peers that need an environment")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--docs", type=Path, help="the page whose section of measurements is replaced by this run's")
    return parser.parse_args()


def _some_of(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, came {', '.join(unknown)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
