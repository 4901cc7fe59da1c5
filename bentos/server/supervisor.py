"""Respawn: a worker that was killed is replaced at once, and the gateway ends when it is told to.

The process that `bentoml serve` is (Circus's arbiter) looks for dead workers every ten seconds, and BentoML has no
setting for it: a gateway of one worker would be away for up to ten seconds and a start. So the arbiter is made to
listen to what the system tells it anyway, SIGCHLD. And Circus refuses to end while it replaces a worker; this arbiter
ends as soon as it can.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from circus.exc import ConflictError

from bentos.server import forking, patches

_BUSY_SECONDS = 0.1
_KILLED = (os.CLD_KILLED, os.CLD_DUMPED)


class AttentiveArbiter(patches.Arbiter):
    """Replaces workers that a signal killed when they die. One that ended by itself, as one that cannot start does,
    is left to the look every ten seconds: it would most likely end again."""

    def start(self, cb: Callable[[Any], Any] | None = None) -> None:
        """Start the workers and keep them, until it is stopped. Call it in the main thread."""
        self.loop.asyncio_loop.add_signal_handler(signal.SIGCHLD, self._look)
        super().start(cb)

    def stop(self) -> Any:
        """End the workers, then the arbiter. While a worker is being replaced, that comes first.

        The arbiter holds the listening sockets, too. It lets go of them before it waits: else the system would take
        connections that no worker accepts any more, and their clients would wait in place of asking another gateway.
        """
        self.sockets.close_all()
        try:
            return super().stop()
        except ConflictError:
            if not self._stopping:
                self.loop.call_later(_BUSY_SECONDS, self.stop)
            return None

    def _look(self) -> None:
        bereft = [one for one in self.watchers if any(map(_was_killed, list(one.processes)))]
        if self._stopping or not bereft:
            return
        for one in bereft:
            # in its containers BentoML replaces no worker and waits for the last to die, to be started anew as a whole
            one.respawn = True
        try:
            replaced = self.manage_watchers()
        except ConflictError:
            self.loop.call_later(_BUSY_SECONDS, self._look)
        else:
            self.loop.add_future(replaced, lambda done: done.result())


def at_once() -> None:
    """Make the arbiter that BentoML is about to start an attentive one, whose workers start quickly."""
    forked = forking.possible()
    patches.keep_workers_with(AttentiveArbiter, forking.ForkedProcess if forked else None)
    if forked:
        forking.prepare()


def _was_killed(pid: int) -> bool:
    """Whether a child was ended by a signal. Looking does not reap it: that is the arbiter's to do."""
    try:
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return end is not None and end.si_code in _KILLED
