"""Whether the stack's ports are free, and who holds those that are not."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from tasks.stack.components import Component

# Below the ports an operating system hands out by itself (32768 and up on Linux), so that no outgoing connection can
# take a port between the moment it was found free and the moment a server listens on it.
_OWN_PORTS = range(20000, 32768)


@dataclass(frozen=True)
class TakenPort:
    """A port that a component needs and another process holds (`holder` is empty when it cannot be seen)."""

    port: int
    component: str
    variable: str
    holder: str

    def __str__(self) -> str:
        who = f"by {self.holder}" if self.holder else "by another process"
        return (
            f"port {self.port}, which {self.component} needs, is taken {who}: "
            f"stop that, or set {self.variable} to a free port"
        )


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def free_port(host: str = "127.0.0.1") -> int:
    """A port a server may listen on, drawn at random, so that two processes that ask at once get different ones.

    Raises:
        OSError: every port tried was taken.
    """
    for port in random.SystemRandom().sample(_OWN_PORTS, 100):
        if is_free(port, host):
            return port
    raise OSError(
        errno.EADDRINUSE,
        f"a hundred ports of {host}, drawn between {_OWN_PORTS[0]} and {_OWN_PORTS[-1]}, are all taken",
    )


def holder(port: int) -> str:
    """The process that listens on the port, as "pid 12 (python -m http.server)"; empty when it cannot be seen."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port
            if listens and connection.pid:
                command = " ".join(psutil.Process(connection.pid).cmdline())
                return f"pid {connection.pid} ({command[:120]})"
    return ""


def taken(components: Iterable[Component]) -> list[TakenPort]:
    """Every port the components need and cannot have, and two components that were given the same one."""
    found = []
    wanted: dict[int, str] = {}
    for component in components:
        if component.port is None:
            continue
        if component.port in wanted or not is_free(component.port):
            who = wanted.get(component.port) or holder(component.port)
            found.append(TakenPort(component.port, component.name, component.port_variable, who))
        wanted[component.port] = component.name
    return found
