"""`python -m tests.cluster.command up | down`: a cluster for a person in `$AIRLOCK_HOME/cluster`, with its keeper."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil

from bentos import settings
from tasks.stack import processes
from tests.cluster.compose import REPOSITORY
from tests.cluster.harness import Cluster

DIRECTORY = settings.home() / "cluster"
KEEPER, READY, LOG = DIRECTORY / "keeper.pid", DIRECTORY / "ready.json", DIRECTORY / "keeper.log"


def keep() -> None:
    """Start the cluster, write how it is reached, and stop it at SIGTERM."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0) if not READY.exists() else over.set())
    with Cluster(DIRECTORY) as cluster:
        draft = READY.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(cluster.client()))
        draft.replace(READY)
        over.wait()


def up() -> int:
    """Start the keeper unless it runs, wait until all is healthy, say how it is reached."""
    DIRECTORY.mkdir(mode=0o700, parents=True, exist_ok=True)
    keeper = _keeper()
    _say("the cluster runs already" if keeper else f"starting the cluster; its state and logs are in {DIRECTORY}")
    keeper = keeper or _start()
    while not READY.exists():
        if not keeper.is_running() or keeper.status() == psutil.STATUS_ZOMBIE:
            _say(LOG.read_text()[-4000:])
            return 1
        time.sleep(0.5)
    _say("all services are healthy. The lines below lead `airlock` to it; `make down-cluster` stops it")
    for name, value in json.loads(READY.read_text()).items():
        print(f"export {name}={value}")  # noqa: T201
    return 0


def _start() -> psutil.Process:
    processes.end(processes.marked(DIRECTORY), patience=0)  # what a keeper that was killed left behind
    READY.unlink(missing_ok=True)
    with LOG.open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.command", "keep"],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    KEEPER.write_text(str(keeper.pid))
    return psutil.Process(keeper.pid)


def down() -> int:
    """Stop the keeper and all that it started."""
    keeper = _keeper()
    if keeper:
        keeper.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            keeper.wait(120)
    processes.end(processes.marked(DIRECTORY), patience=0)
    KEEPER.unlink(missing_ok=True)
    READY.unlink(missing_ok=True)
    _say(f"the cluster is stopped; its state stays in {DIRECTORY}" if keeper else "no cluster runs")
    return 0


def _say(what: str) -> None:
    """Tell a person; the standard output is for the shell."""
    print(what, file=sys.stderr, flush=True)  # noqa: T201


def _keeper() -> psutil.Process | None:
    """The process that keeps the cluster, if it runs."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int(KEEPER.read_text()))
        if "tests.cluster.command" in process.cmdline():
            return process
    return None


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit({"up": up, "down": down, "keep": keep}[sys.argv[1]]())
