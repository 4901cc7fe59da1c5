"""Finding and ending what a component left behind, by a mark in its environment.

A scheduler that is killed leaves its executor's workers and their tasks running, in process groups of their own; no
process manager sees them. Every process of the stack therefore carries `AIRLOCK_COMPONENT=<home>#<name>`.

Run as a program (`python -m tasks.stack.processes NAME COMMAND...`) it ends what an earlier run of the component
left, then becomes the command.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import psutil

MARK = "AIRLOCK_COMPONENT"


def mark(home: Path, component: str) -> str:
    """The value of `AIRLOCK_COMPONENT` for a component of the stack in `home`."""
    return f"{home}#{component}"


def marked(home: Path, component: str | None = None) -> list[psutil.Process]:
    """Processes of one component (or of all) of the stack in `home`, with their children.

    This process and its ancestors are left out.
    """
    prefix = mark(home, component or "")
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            value = process.environ().get(MARK, "")
            if value == prefix or (component is None and value.startswith(prefix)):
                found[process.pid] = process
                # A child may have been given a clean environment.
                found.update((child.pid, child) for child in process.children(recursive=True))
    return [process for pid, process in found.items() if pid not in own]


def end(processes: list[psutil.Process], patience: float = 3.0) -> None:
    """End processes: SIGTERM, and after `patience` seconds SIGKILL. Returns when they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def main(arguments: list[str]) -> None:
    """End the leftovers of the component `arguments[0]`, then become the command that follows."""
    component, *command = arguments
    home = Path(os.environ["AIRLOCK_HOME"])
    os.environ[MARK] = mark(home, component)
    # A killed component's tasks get no patience: their scheduler is gone, and the next one starts them anew.
    end(marked(home, component), patience=0)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
