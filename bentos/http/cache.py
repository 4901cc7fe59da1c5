"""Heads of requests that were parsed before: clients send the same one again and again.

What httptools makes of the same bytes is the same each time, so it is looked up by them, whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bentos.http.known import Known


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
