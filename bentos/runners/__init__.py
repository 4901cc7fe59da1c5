"""The steps of a decision, each holding the next and having one async method on rows:

validate -> assign -> record(constrain(override(fallback(remember(batch(infer))))))
"""

from __future__ import annotations

from typing import Protocol

from bentos.rows import Decision, Rows


class Runner(Protocol):
    """One step inside a version's chain."""

    async def decide(self, rows: Rows) -> Decision:
        """An action for every row."""
        ...
