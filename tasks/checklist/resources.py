"""The gateway's processes, sampled while it works."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from urllib.parse import urlsplit

import psutil

from tasks.checklist.live import Usage

PERIOD_SECONDS = 0.25


def gateway_processes(url: str) -> list[psutil.Process]:
    """`bentoml serve` and its workers behind a local URL; empty when nothing on this machine listens there."""
    port = urlsplit(url).port
    listening = {
        connection.pid
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.pid
        and connection.laddr
        and connection.laddr.port == port
    }
    family: dict[int, psutil.Process] = {}
    for pid in listening:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            while (parent := root.parent()) and any("bentoml" in part for part in parent.cmdline()):
                root = parent
            family |= {process.pid: process for process in [root, *root.children(recursive=True)]}
    return list(family.values())


class Sampler:
    """Samples processes every quarter of a second in a thread, until left; a context manager."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self.samples: list[Usage] = []
        self._processes = processes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resource-sampler", daemon=True)

    def wait(self, seconds: float) -> None:
        """Let it sample for so long, where there is anything to sample."""
        if self._processes:
            self._over.wait(seconds)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        while self._processes and not self._over.is_set():
            with contextlib.suppress(psutil.Error):
                self.samples.append(_measure(self._processes))
            self._over.wait(PERIOD_SECONDS)


def _measure(processes: list[psutil.Process]) -> Usage:
    rss, cpu, files = 0.0, 0.0, 0
    for process in processes:
        with process.oneshot():
            rss += process.memory_info().rss / 1e6
            times = process.cpu_times()
            cpu += times.user + times.system
            files += process.num_fds()
    return Usage(rss, cpu, files)
