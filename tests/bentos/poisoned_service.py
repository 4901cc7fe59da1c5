"""The gateway, with a poison: the graph of version 2 kills its process when an observation begins with `POISON`."""

from __future__ import annotations

import signal

from bentos.rows import Decision, Rows
from bentos.runners.infer import Infer
from bentos.service import Gateway

__all__ = ["Gateway"]

POISON = 8.5

_run = Infer._run


def _poisoned(self: Infer, rows: Rows) -> Decision:
    if self.version == "2" and (rows.feeds["observation"][:, 0] == POISON).any():
        # to this thread, as a real fault is: one to the process leaves it time to end its call
        signal.raise_signal(signal.SIGSEGV)
    return _run(self, rows)


Infer._run = _poisoned  # type: ignore[method-assign]
