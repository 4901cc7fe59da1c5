"""Starting and stopping the embedded stack."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bentos import settings
from tasks.spec.files import sync
from tasks.stack import ports, processes, supervisor
from tasks.stack.airflow_database import Preparation
from tasks.stack.components import SCHEDULER, Component, StackError, components
from tasks.stack.environment import ADMIN, airflow_environment, passwords, passwords_file
from tasks.stack.health import Health, check

Progress = Callable[[dict[str, Health]], None]
"""Called about twice a second while the stack starts, with the health of each component so far."""


@dataclass(frozen=True)
class Running:
    """A stack that is up: where it answers and how to log in. `seconds` is how long the start took."""

    airflow: str
    mlflow: str
    gateway: str
    user: str
    password: str
    passwords_file: Path
    logs: Path
    seconds: float
    already: bool


def _quiet(_health: dict[str, Health]) -> None:
    pass


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """One `up` or `down` of a home at a time; the others wait."""
    with (supervisor.directory() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _environment() -> dict[str, str]:
    # setproctitle would otherwise write over the environment that the marks stand in.
    return {**os.environ, **airflow_environment(), "SPT_NOENV": "1"}


def _log_end(component: str) -> str:
    return f"the end of {supervisor.logs() / component}.log:\n{supervisor.tail(component)}"


def _await_health(wanted: list[Component], timeout: float, progress: Progress) -> None:
    control = supervisor.Supervisor()
    deadline = time.monotonic() + timeout
    while True:
        states = control.states()
        dead = [name for name, info in states.items() if info["state"] == "FATAL"]
        if dead:
            raise StackError(f"{dead[0]} does not stay up; {_log_end(dead[0])}")
        started = {c.name: float(states[c.name]["started_at"]) for c in wanted if c.name in states}
        health = check(started)
        running = {name: h for name, h in health.items() if states[name]["state"] in ("RUNNING", "STARTING")}
        progress({c.name: running.get(c.name, Health(False, "starting")) for c in wanted})
        if len(running) == len(wanted) and all(h.ok for h in running.values()):
            return
        if time.monotonic() > deadline:
            late = next((name for name, h in health.items() if not h.ok), wanted[0].name)
            detail = health[late].detail if late in health else "not started"
            raise StackError(f"{late} is not healthy after {timeout:.0f} s ({detail}); {_log_end(late)}")
        time.sleep(0.5)


def _start(wanted: list[Component], timeout: float) -> None:
    """Start supervisord with MLflow and the gateway, and Airflow as soon as its tables are there."""
    control = supervisor.Supervisor()
    running = control.pid() is not None
    if not running:
        _sweep(settings.home())
        taken = ports.taken(wanted)
        if taken:
            raise StackError("\n".join(str(port) for port in taken))
    passwords()
    sync()
    environment = _environment()
    database = Preparation(environment)
    try:
        if not running:
            supervisor.launch(wanted, environment)
        database.wait(timeout)
    finally:
        database.stop()
    states = control.states()
    for component in wanted:
        if states.get(component.name, {}).get("state") in ("STOPPED", "EXITED", "FATAL"):
            control.start(component.name)


def up(timeout: float = 300, progress: Progress = _quiet) -> Running:
    """Start what does not run and return when every component is healthy. A stack that is up already is success.

    Raises StackError: a taken port, a component that does not stay up or is not healthy within `timeout` seconds.
    """
    begun = time.monotonic()
    wanted = components()
    with _lock():
        already = supervisor.Supervisor().pid() is not None
        _start(wanted, timeout)
        _await_health(wanted, timeout, progress)
        _finish_transitions()
    return Running(
        airflow=settings.airflow_url(),
        mlflow=settings.mlflow_url(),
        gateway=settings.gateway_url(),
        user=ADMIN,
        password=passwords()[ADMIN],
        passwords_file=passwords_file(),
        logs=supervisor.logs(),
        seconds=time.monotonic() - begun,
        already=already,
    )


def _finish_transitions() -> None:
    """Finish what killed tasks left half-written in the registry; what is held or unreachable now is left to them."""
    from tasks.control.lease import LeaseHeld
    from tasks.control.plane import reconcile_all
    from tasks.tracking.client import RegistryUnavailable

    with contextlib.suppress(LeaseHeld, RegistryUnavailable):
        reconcile_all("airlock up")


def _sweep(state: Path) -> int:
    """End every process of this home's stack that no supervisord looks after; returns how many there were."""
    left = processes.marked(state)
    processes.end(left, patience=0)
    return len(left)


def down(timeout: float = 60) -> bool:
    """Stop the stack and everything it started; returns whether there was anything to stop.

    Tasks that run are ended without a word to Airflow, so that the next start takes them up again.
    Raises StackError when something is still alive after `timeout` seconds.
    """
    with _lock():
        pid = supervisor.Supervisor().pid()
        if pid is not None:
            daemon, control = psutil.Process(pid), supervisor.Supervisor()
            # Tasks go first, while MLflow still answers: none fails, and none uses up a retry.
            control.stop(SCHEDULER)
            processes.end(processes.marked(settings.home(), SCHEDULER), patience=0)
            control.shutdown()
            with contextlib.suppress(psutil.NoSuchProcess):
                try:
                    daemon.wait(timeout=timeout)
                except psutil.TimeoutExpired:
                    daemon.kill()
        swept = _sweep(settings.home())
        if processes.marked(settings.home()):
            raise StackError("some processes of the stack do not end; see `airlock status`")
        supervisor.socket_path().unlink(missing_ok=True)
        (supervisor.directory() / "supervisord.pid").unlink(missing_ok=True)
        return pid is not None or swept > 0
