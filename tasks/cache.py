"""A value that many ask for and few may compute: kept for a few seconds, and made by one thread at a time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar, cast

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")

KEPT = 64
"""Most keys whose values are remembered; the one not asked for the longest goes first."""


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.until = -1.0
        self.value: object = None
        self.error: Exception | None = None


class Fresh(Generic[_K, _V]):
    """`make(key)`, remembered for `seconds`. An exception is remembered as long and raised again.

    Many threads that ask for the same key at once wait for one of them; other keys do not wait.
    """

    def __init__(
        self, make: Callable[[_K], _V], seconds: float, clock: Callable[[], float] = time.monotonic, kept: int = KEPT
    ) -> None:
        self._make, self._seconds, self._clock, self._kept = make, seconds, clock, kept
        self._slots: OrderedDict[_K, _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: _K) -> _V:
        """The value of `key`, at most `seconds` old when it was asked for."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > self._kept:
                self._slots.popitem(last=False)
        with slot.lock:
            if self._clock() >= slot.until:
                slot.value, slot.error = None, None
                try:
                    slot.value = self._make(key)
                except Exception as error:  # noqa: BLE001  # raised below, and to those who ask soon after
                    slot.error = error
                slot.until = self._clock() + self._seconds
            if slot.error is not None:
                raise slot.error
            return cast(_V, slot.value)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._slots.clear()
