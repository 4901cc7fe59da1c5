"""Forking: a worker begins as a copy of the process that keeps it, which has imported by then what a worker needs.

Circus starts each worker as a Python of its own, which spends its first seconds on imports that all workers share. A
copy has them, and shares their memory. It is made as gunicorn makes its preloaded workers: nothing of the gateway has
run before, so there is no thread, session or database connection that a copy could not use.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import psutil

from bentos.server import patches

_NEEDED = (
    *patches.WORKER_IMPORTS,
    "opentelemetry.instrumentation.asgi",
    "opentelemetry.sdk.trace",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.websockets.auto",
    "uvloop",
    "bentos.server.factory",
    "prometheus_client.multiprocess",
)


def possible() -> bool:
    """Whether workers can be copies here: on other systems than Linux, what a fork leaves of a process may not run."""
    return sys.platform == "linux"


def prepare() -> None:
    """Import what workers need. Call it before the process that keeps them starts the first."""
    # prometheus_client decides at its import whether several processes count together
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", patches.metrics_directory())
    gc.disable()
    for module in _NEEDED:
        importlib.import_module(module)
    gc.freeze()  # modules are no garbage, and what no collection touches stays shared
    gc.enable()


class Copy(psutil.Process):
    """A worker, as Circus wants a `Popen` of it."""

    returncode: int | None = None
    stdout = stderr = None

    def poll(self) -> int | None:
        """How it ended: the exit code, or minus the signal's number; 0 if another has asked before. None: it runs."""
        if self.returncode is None:
            try:
                self.returncode = self.wait(0) or 0
            except psutil.TimeoutExpired:
                return None
        return self.returncode


class ForkedProcess(patches.Process):
    """What Circus keeps of a worker: started as a copy where it is one of BentoML's, else as Circus does it."""

    def spawn(self) -> None:
        """Start it."""
        command = self.format_args(sockets_fds=self._get_sockets_fds())
        if command[:3] != [sys.executable, "-m", patches.WORKER]:
            super().spawn()
            return
        self.started = time.time()
        gc.collect()  # else a copy might, and close files that are not its own
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = os.fork()
        if not pid:
            self._live(command, masked)
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        self._worker = Copy(pid)

    def _live(self, command: list[str], masked: set[Any]) -> None:
        """The copy's whole life, as `python -m` would lead it."""
        code: Any = 1
        try:
            _let_go()
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            os.setsid()
            if self.close_child_stdin:
                self._null_streams([sys.stdin])
            os.chdir(self.working_dir)
            os.environ.clear()
            os.environ.update(self.env)
            patches.set_process_title(" ".join(command))
            sys.argv = command[2:]
            runpy.run_module(patches.WORKER, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        except BaseException:  # noqa: BLE001 - whatever it is, what follows is the life of the process that was copied
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else bool(code))


def _let_go() -> None:
    """Leave to the copied process what is its own: its signals, its event loop, and what a started program would not
    get of its files. Their numbers stay taken, for objects that hold them may still close them."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    asyncio.set_event_loop(None)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(file.name) for file in Path("/proc/self/fd").iterdir()]:
        try:
            if not os.get_inheritable(descriptor):
                os.dup2(nothing, descriptor, inheritable=False)
        except OSError:  # the listing's own
            continue
