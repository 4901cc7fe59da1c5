"""Whether the stack's ports are free, and who holds those that are not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from tasks.ports import is_free
from tasks.stack.components import Component


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
