"""A scratch server: a Bento under `bentoml serve` on a free port, with a home of its own, gone without a trace after.

`bentoml serve` empties the metrics directory of its BENTOML_HOME when it starts, so a scratch server must never share
the live gateway's; it shares neither its database nor its secrets.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bentos.http_client import trusted
from tasks.ports import free_port

READY_SECONDS = 60.0
STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Server:
    """A started server: its base URL, its process and its log (standard output and error) as a file."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Process id of `bentoml serve`, the parent of the worker."""
        return self.process.pid

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Return once `/readyz` says so. Raises RuntimeError with the log's end when it exits or stays silent."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the scratch server exited with {self.process.returncode}:\n{self.tail()}")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2.0, verify=trusted(self.url)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the scratch server was not ready after {seconds:.0f} s:\n{self.tail()}")

    def tail(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def rss_mb(self) -> float:
        """Resident memory of the server with its workers, in megabytes."""
        root = psutil.Process(self.pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)]) / 1e6

    def stop(self) -> None:
        """Ask the server to end, then end whatever of it is left. Workers lead process groups of their own."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.pid).children(recursive=True)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
            _, alive = psutil.wait_procs(family, timeout=1.0)
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(STOP_SECONDS)


def start(bento: Path, scratch: Path, environment: Mapping[str, str] | None = None) -> Server:
    """Start serving the built Bento at `bento` and return at once; its state goes under `scratch`.

    A policy that explores answers with its deterministic action here, for what it says is compared with what is known.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    port = free_port()
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("AIRLOCK_", "BENTOML_", "MLFLOW_", "PROMETHEUS_", "AIRFLOW_"))
    }
    kept |= {
        "AIRLOCK_HOME": str(scratch / "home"),
        "BENTOML_HOME": str(scratch / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "AIRLOCK_EXPLORE": "0",
        **(environment or {}),
    }
    command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(port)]
    log = scratch / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    return Server(f"http://127.0.0.1:{port}", process, log)


def _end_with_parent() -> None:
    # a stage that is killed leaves nothing behind: the kernel then ends its server, where there is such a call
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def serving(bento: Path, scratch: Path, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A ready server for the built Bento at `bento`, stopped afterwards whatever happens."""
    server = start(bento, scratch, environment)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()
