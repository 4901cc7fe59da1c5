"""Questions to a gateway: act requests made of rows of inputs, as an application would send them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from bentos.http_client import trusted
from tasks.inputs import MASK, START, Array, Inputs, only_observations, plain, size, take

REQUEST_BYTES = 4 * 2**20
"""About how large a request may grow; gateways take four times that."""
_FLOAT_BYTES, _WHOLE_BYTES = 20, 5


def body(given: Inputs, states: Sequence[str | None] | None = None) -> dict[str, Any]:
    """An act request for all rows: observations, masks where there are any, and the given state tokens.

    A recurrent policy's state is the gateway's affair: it travels as tokens, never as arrays.
    """
    question: dict[str, Any] = {"observations": plain(given)}
    if MASK in given:
        question["action_masks"] = given[MASK].tolist()
    if states is not None:
        question["states"] = list(states)
    return question


def numbers(given: Inputs) -> int:
    """How many numbers one observation has."""
    return sum(int(np.prod(value.shape[1:])) for value in only_observations(given).values())


def rows_a_request(given: Inputs, most: int) -> int:
    """How many rows fit into one request, at least one and at most `most`."""
    row = sum(
        int(np.prod(value.shape[1:])) * (_FLOAT_BYTES if value.dtype.kind == "f" else _WHOLE_BYTES)
        for value in only_observations(given).values()
    )
    return max(1, min(most, REQUEST_BYTES // max(row, 1)))


def ask(
    url: str,
    policy: str,
    given: Inputs,
    states: Sequence[str | None] | None = None,
    at_once: int = 512,
    timeout: float = 30.0,
) -> dict[str, Any]:
    """Ask a gateway for the actions of all rows; its whole answer, put together where it took several requests.

    At most `at_once` rows a request: all of a request's rows must be answered within the policy's deadline.
    """
    at_once = rows_a_request(given, at_once)
    answer: dict[str, Any] = {}
    with httpx.Client(timeout=timeout, verify=trusted(url)) as client:
        for at in range(0, size(given), at_once):
            rows = slice(at, at + at_once)
            question = body(take(given, rows), None if states is None else states[rows])
            response = client.post(f"{url}/v1/policies/{policy}/act", json=question).raise_for_status()
            for name, values in response.json().items():
                answer.setdefault(name, []).extend(values)
    return answer


@dataclass(frozen=True)
class Turn:
    """What several episodes ask at one moment, one row each; `fresh` [n] bool says which of them begin here."""

    given: Inputs
    fresh: Array


def turns(given: Inputs, players: int) -> Iterator[Turn]:
    """Rows in the order of time as turns of at most `players` episodes side by side, each a stretch of the rows.

    An episode begins at the stretch's first row, and where the rows say that one began.
    """
    side_by_side = min(players, size(given))
    length = size(given) // side_by_side
    firsts = np.arange(side_by_side) * length
    for step in range(length):
        rows = take(given, firsts + step)
        began = rows[START].reshape(-1) > 0 if START in rows else np.zeros(side_by_side, dtype=bool)
        yield Turn(rows, began | (step == 0))
