"""Remember: adds what a graph takes beside the observation, a mask and its own recurrent state, and keeps the next."""

from __future__ import annotations

import numpy as np

from bentos.package.interface import MASK, START, STATES
from bentos.package.manifest import Array, Manifest
from bentos.rows import Decision, Rows
from bentos.runners import Deciding, Runner, later
from bentos.tokens import Memory


class Remember:
    """For one version whose graph takes more than observations; others do without this runner.

    A version reads only the memory that it wrote itself: a row that another version answered before begins anew, with
    a state of zeros, as at an episode's start.
    """

    def __init__(self, following: Runner, manifest: Manifest, version: str) -> None:
        self.following = following
        self._version = version
        tensors = {tensor.name: tensor for tensor in manifest.inputs}
        self._observed = [name for name in tensors if name.partition(".")[0] == "observation"]
        self._mask = tensors.get(MASK)
        self._states = [tensors[name] for name in STATES if name in tensors]
        self._starting = START in tensors

    @staticmethod
    def needed(manifest: Manifest) -> bool:
        """Whether the graph takes more than observations."""
        return any(tensor.name.partition(".")[0] != "observation" for tensor in manifest.inputs)

    def decide(self, rows: Rows) -> Deciding:
        """The inner decision for these rows, with the memory of each row that the next step is given back."""
        decision = self.following.decide(self._complete(rows))
        return (
            self._remembered(rows, decision)
            if isinstance(decision, Decision)
            else later(decision, rows, self._remembered)
        )

    def _remembered(self, rows: Rows, decision: Decision) -> Decision:
        if decision.recurrent is not None:
            names = list(decision.recurrent)
            columns = [decision.recurrent[name] for name in names]
            decision.memories = [
                Memory(
                    self._version, {name: column[row].tobytes() for name, column in zip(names, columns, strict=True)}
                )
                for row in range(rows.size)
            ]
            decision.recurrent = None
        return decision

    def _complete(self, rows: Rows) -> Rows:
        """The rows as this version's graph takes them; those given are left as they are, for a fallback to take."""
        feeds = {name: rows.feeds[name] for name in self._observed}
        if self._mask is not None:
            feeds[MASK] = np.ones((rows.size, *self._mask.shape), bool) if rows.masks is None else rows.masks
        if self._states:
            feeds |= self._recalled(rows)
        return Rows(feeds=feeds, size=rows.size, masks=rows.masks)

    def _recalled(self, rows: Rows) -> dict[str, Array]:
        states = rows.states or [None] * rows.size
        memories = [state.memory if state is not None else None for state in states]
        own = [memory is not None and memory.version == self._version for memory in memories]
        feeds: dict[str, Array] = {}
        for tensor in self._states:
            array = np.zeros((rows.size, *tensor.shape), dtype=tensor.dtype)
            for row, memory in enumerate(memories):
                data = memory.tensors.get(tensor.name, b"") if memory is not None and own[row] else b""
                if len(data) == array[row].nbytes:
                    array[row] = np.frombuffer(data, dtype=tensor.dtype).reshape(tensor.shape)
            feeds[tensor.name] = array
        if self._starting:
            feeds[START] = np.array([not known for known in own], dtype=np.float32)
        return feeds
