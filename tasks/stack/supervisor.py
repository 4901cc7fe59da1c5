"""supervisord as the stack's process manager: its configuration, and a client over its Unix socket."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bentos import settings
from tasks.stack.components import Component, StackError
from tasks.stack.environment import REPOSITORY
from tasks.stack.processes import MARK, mark

_LONGEST_SOCKET_PATH = 100
"""Unix socket paths longer than 108 bytes (104 on macOS) cannot be bound."""


def directory() -> Path:
    """Where the configuration, the socket and the pid file stand."""
    path = settings.home() / "stack"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def logs() -> Path:
    """One log file a component."""
    path = settings.home() / "logs"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def tail(component: str, lines: int = 15) -> str:
    """The last lines of a component's log."""
    path = logs() / f"{component}.log"
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def socket_path() -> Path:
    """supervisord's socket: in the home, or, where that path is too long, in a private temporary directory."""
    path = directory() / "supervisor.sock"
    if len(str(path)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"airlock-{os.getuid()}-{digest}"
    private.mkdir(mode=0o700, exist_ok=True)
    if private.stat().st_uid != os.getuid():
        raise StackError(f"{private} belongs to another user; set AIRLOCK_HOME to a shorter path")
    return private / "supervisor.sock"


def _quote(value: str) -> str:
    """Keep supervisord from expanding `%`. It expands the name of a program's log file twice."""
    return value.replace("%", "%%")


def _program(component: Component) -> str:
    environment = {**component.environment, MARK: mark(settings.home(), component.name)}
    pairs = ",".join(f'{name}="{_quote(value)}"' for name, value in environment.items())
    command = shlex.join([sys.executable, "-m", "tasks.stack.processes", component.name, *component.command])
    return f"""
[program:{component.name}]
command={_quote(command)}
directory={_quote(str(REPOSITORY))}
environment={pairs}
autostart={"false" if component.waits_for_database else "true"}
autorestart=true
startsecs=3
startretries=5
stopsignal={component.stop_signal}
stopwaitsecs=10
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={_quote(_quote(str(logs() / f"{component.name}.log")))}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=2
"""


def configuration(components: Iterable[Component]) -> str:
    """supervisord.conf for the components. It holds no secret: those are in the environment."""
    socket, state = socket_path(), directory()
    return f"""[unix_http_server]
file={_quote(str(socket))}
chmod=0600

[supervisord]
logfile={_quote(str(logs() / "supervisord.log"))}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={_quote(str(state / "supervisord.pid"))}
childlogdir={_quote(str(logs()))}
minfds=1024
minprocs=64
umask=077

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{_quote(str(socket))}
""" + "".join(_program(component) for component in components)


class Supervisor:
    """A client of the running supervisord. Every method raises StackError when it cannot be reached."""

    def _call(self, method: str, *arguments: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, serverurl=f"unix://{socket_path()}")
        server = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault:
            raise
        except (OSError, xmlrpc.client.Error) as error:
            raise StackError(f"supervisord does not answer at {socket_path()}: {error}") from error
        finally:
            transport.close()

    def pid(self) -> int | None:
        """supervisord's process id, or None when it does not run (a stale socket file counts as not running)."""
        try:
            return int(self._call("getPID"))
        except StackError:
            return None

    def states(self) -> dict[str, dict[str, Any]]:
        """By component: {"state": "RUNNING"|"STARTING"|"BACKOFF"|"FATAL"|…, "pid", "started_at", "reason"}."""
        return {
            str(info["name"]): {
                "state": str(info["statename"]),
                "pid": int(info["pid"]),
                "started_at": float(info["start"]),
                "reason": str(info["spawnerr"]),
            }
            for info in self._call("getAllProcessInfo")
        }

    def start(self, component: str) -> None:
        """Start a component that does not run; returns at once."""
        try:
            self._call("startProcess", component, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise StackError(f"{component} cannot be started: {fault.faultString}") from fault

    def stop(self, component: str) -> None:
        """Stop a component and wait until it is gone; nothing to do when it does not run."""
        try:
            self._call("stopProcess", component, True)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString and "BAD_NAME" not in fault.faultString:
                raise StackError(f"{component} cannot be stopped: {fault.faultString}") from fault

    def shutdown(self) -> None:
        """Stop every component, all at once, then supervisord itself (which alone would stop one after another)."""
        self._call("stopAllProcesses", True)
        self._call("shutdown")


def launch(components: Iterable[Component], environment: dict[str, str]) -> None:
    """Write the configuration and start supervisord in the background. Raises StackError with its reason."""
    file = directory() / "supervisord.conf"
    file.write_text(configuration(components))
    file.chmod(0o600)
    socket_path().unlink(missing_ok=True)
    (directory() / "supervisord.pid").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(file)],
        env=environment,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise StackError(f"supervisord did not start: {(done.stderr or done.stdout).strip()}")
    deadline = time.monotonic() + 10
    while Supervisor().pid() is None:
        if time.monotonic() > deadline:
            raise StackError(f"supervisord started but does not answer; see {logs() / 'supervisord.log'}")
        time.sleep(0.05)
