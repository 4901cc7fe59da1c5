"""Known: what was made of texts that clients send again and again, looked up by them, whole."""

from __future__ import annotations

from typing import Generic, TypeVar

MOST = 1000
"""Texts that are remembered; a client that sends its body's length sends heads by the dozen."""
LONGEST = 2**11
"""Length of the longest of them."""

_K = TypeVar("_K", str, bytes)
_V = TypeVar("_V")


class Known(dict[_K, _V], Generic[_K, _V]):
    """What was made of each text."""

    def learn(self, text: _K, made: _V) -> None:
        """Remember a text, unless it is too long. When there are too many, all others are forgotten first: whoever
        sends ever new ones does not keep out what others send again."""
        if len(text) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[text] = made
