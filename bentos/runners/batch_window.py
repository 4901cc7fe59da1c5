"""Look-out: those whom a call answered ask again at once, or they do not; what the next call should wait for."""

from __future__ import annotations

import os
import time

_QUIET_LOOKS, _MOST_LOOKS = 2, 4
"""Where nobody is looked out for, a call begins after so many looks at the network that brought nothing, or so many."""

_SHARE = 1 / 32
_MOST_SECONDS = 0.002
"""For such a share of what the last call took, and at most so long, nobody need ask while some are looked out for."""

_LOOK_SECONDS = 50e-6
"""A look counts as so long at most: what took longer was spent on answers, other policies, or by a client."""

_LONG_SECONDS = 0.002
"""After a look that took longer and brought nothing the core is not offered again: others than clients took it."""

_WHOLE_SHARE = 1 / 4
"""And all in all, such a share of the last call: from then on they have to come fast enough."""

_WORTH = 2.0
"""Looking out pays while requests come so many times as fast as a call that began now would answer them."""

_MOST_SKIPPED = 32


class LookOut:
    """Whether to look at the network once more before a call begins.

    Where clients ask in a closed loop, those whom a call answered ask again while their answers go out: a call that
    began with the first of them would leave the others to the next. They are looked out for while some are missing and
    they come much faster than a call would answer them, until for a thirty-second of the last call nobody asks. Where
    requests come from whomever, at the rate at which they are answered, that would be time lost: a look-out that did
    not bring those that were missing is followed by one, two, four... at most 32 calls without one.
    """

    def __init__(self) -> None:
        self._missing = 0
        self._lasted = 0.0
        self._patience = 0.0
        self._out = False
        self._skip = self._skipped = 0
        self._before = self._seen = 0
        self._looks = self._quiet_looks = 0
        self._quiet = 0.0
        self._offers = True
        self._began = self._last = 0.0

    def answered(self, rows: int, seconds: float) -> None:
        """A call of so many rows took so long; those who asked for them may ask again."""
        self._missing = rows
        self._lasted = seconds
        self._patience = min(_MOST_SECONDS, _SHARE * seconds)

    def asked(self, rows: int) -> None:
        """So many more rows wait."""
        self._missing -= rows
        if self._out and self._missing <= 0:
            self._out, self._skip = False, 0

    def begin(self, queued: int) -> None:
        """The next look is the first; so many rows wait."""
        self._out = self._missing > 0 and self._skipped >= self._skip
        self._before = self._seen = queued
        self._looks = self._quiet_looks = 0
        self._quiet = 0.0
        self._offers = True
        self._began = self._last = time.perf_counter()

    def goes_on(self, queued: int, handing_out: bool) -> bool:
        """Whether another look is to follow the one that was, before a call of so many rows begins.

        `handing_out`: not all answers are given to those who wait for them; the time counts from when they are.
        """
        now = time.perf_counter()
        if handing_out and self._out:
            self._began = self._last = now
            self._seen = queued
            return True
        if queued > self._seen:
            self._quiet_looks, self._quiet = 0, 0.0
        else:
            self._quiet_looks += 1
            self._quiet += min(now - self._last, _LOOK_SECONDS)
            self._offers &= now - self._last < _LONG_SECONDS
        self._seen, self._last = queued, now
        if self._out:
            if self._quiet < self._patience and self._pays(queued, now - self._began):
                if self._offers:
                    os.sched_yield()  # whoever is missing may be waiting for this very core
                return True
            self._out, self._skip, self._skipped = False, min(2 * self._skip or 1, _MOST_SKIPPED), -1
        self._looks += 1
        if self._quiet_looks < _QUIET_LOOKS and self._looks < _MOST_LOOKS:
            return True
        self._skipped += 1
        return False

    def _pays(self, queued: int, looked: float) -> bool:
        """Whether looking out, for `looked` seconds by now, brings more than a call that begins now would answer."""
        came = queued - self._before
        return looked < _WHOLE_SHARE * self._lasted or came * (self._lasted + looked) > _WORTH * queued * looked
