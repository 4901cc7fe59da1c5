"""Infer: the policy's graph in ONNX Runtime."""

from __future__ import annotations

import numpy as np

from bentos.package.interface import NEXT
from bentos.package.session import Policy
from bentos.rows import POLICY, Array, Decision, Rows
from bentos.runners.crash_marks import Mark

_SCORES = ("logits", "q_values")


class Infer:
    """Runs the graph on a batch. Thread-safe: `run` may be called from several threads at once."""

    def __init__(self, policy: Policy, version: str) -> None:
        names = policy.served_names
        self.version = version
        self._session = policy.session
        self._scores = next((name for name in _SCORES if name in names), None)
        recurrent = [name for name in names if name.startswith(NEXT)]
        self.recurrent = [name.removeprefix(NEXT) for name in recurrent]
        self.mark: Mark | None = None
        """Set while the version is on probation: its calls are marked, should one kill the worker."""
        self._plain = ["action", "finite", *recurrent]
        self._ranked = [*self._plain, self._scores] if self._scores else self._plain
        self._one = None if recurrent else policy.run_one

    def decide(self, rows: Rows) -> Decision:
        """The graph's own actions, here and now."""
        return self.run(rows)

    def run(self, rows: Rows) -> Decision:
        """The graph's own actions. Raises whatever ONNX Runtime raises."""
        mark = self.mark
        if mark is None:
            return self._run(rows)
        with mark:
            return self._run(rows)

    def _run(self, rows: Rows) -> Decision:
        """What `run` answers, whether its calls are marked or not."""
        ranked = rows.masks is not None and self._scores is not None
        if rows.size == 1 and self._one is not None and not ranked:
            action, finite = self._one(rows.feeds)
            return Decision(action, finite, [POLICY], [self.version])
        values = self._session.run(self._ranked if ranked else self._plain, rows.feeds)
        recurrent: dict[str, Array] | None = None
        if self.recurrent:
            recurrent = dict(zip(self.recurrent, values[2:], strict=False))
        return Decision(
            action=values[0],
            finite=np.reshape(values[1], -1),
            sources=[POLICY] * rows.size,
            versions=[self.version] * rows.size,
            scores=values[-1] if ranked else None,
            recurrent=recurrent,
        )
