"""A bounded cache of parse results by the bytes they were made of, and of the heads of requests.

Clients send the same head again and again; what httptools makes of the same bytes is the same each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

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


class Head(NamedTuple):
    """A request without its body, as it was parsed; header names are lower case. `length` is that of the body.

    `decides`: it asks for decisions, which can be made together with those of others.
    """

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    length: int
    decides: bool = False


Heads = Known[bytes, Head]
"""Heads by their bytes, the empty line that ends them included."""
