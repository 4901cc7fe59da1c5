"""Probe load on a live gateway: requests from a thread of their own, each answer kept with its time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from bentos.http_client import trusted
from tasks.gateway_requests import body, rows_a_request, turns
from tasks.inputs import START, Inputs

TURNS = 64
"""How many different requests there are, asked again and again."""


@dataclass(frozen=True)
class Answer:
    """One request's fate. `at` is monotonic seconds when it ended; `error` is empty when it was answered with 200."""

    at: float
    version: str | None = None
    source: str = ""
    decisions: int = 0
    error: str = ""


class Load:
    """Asks for actions on the rows of `given`, `rows` a request, until left; a context manager.

    The requests belong to no episode, so they are answered by the champion and no canary counts them. Masks go along,
    and a recurrent policy gets its state back, as an application would send it: without, it would act otherwise.
    """

    def __init__(
        self,
        url: str,
        policy: str,
        given: Inputs,
        rows: int = 1,
        pause_seconds: float = 0.002,
        *,
        kept_connections: int = 1,
    ) -> None:
        """Without kept connections each request makes one: a load balancer may send each to another gateway."""
        self.answers: list[Answer] = []
        self._path = f"{url}/v1/policies/{policy}/act"
        self._remembers = START in given
        asked = itertools.islice(turns(given, rows_a_request(given, rows)), TURNS)
        self._questions = [(body(turn.given), turn.fresh.tolist()) for turn in asked]
        self._states: list[str | None] | None = None
        self._pause = pause_seconds
        self._limits = httpx.Limits(max_keepalive_connections=kept_connections)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe-load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(30.0)

    @property
    def failures(self) -> list[Answer]:
        """Requests that were not answered with 200."""
        return [answer for answer in self.answers if answer.error]

    @property
    def decisions(self) -> int:
        """Actions received."""
        return sum(answer.decisions for answer in self.answers)

    def wait_for(
        self, wanted: Callable[[Answer], bool], after: float, seconds: float, *, answers: int = 1, lasting: float = 0.0
    ) -> float | None:
        """Seconds from `after` (monotonic) to the first of a row of answers since then that are all `wanted`.

        The row has as many `answers` (or as come in `seconds`) and is `lasting` seconds long. None where none begins
        within `seconds` from now.
        """
        deadline = time.monotonic() + seconds
        seen = row = 0
        began = 0.0
        while True:
            found = self.answers[seen:]
            seen += len(found)
            for answer in found:
                if answer.at < after or answer.error:
                    continue
                row = row + 1 if wanted(answer) else 0
                if row == 1:
                    began = answer.at
                lasted = answer.at - began
                if row and lasted >= lasting and (row >= answers or lasted >= seconds):
                    return began - after
            late = time.monotonic() - deadline
            if late >= 0 and (not row or began > deadline or late > 2 * seconds):
                return None
            time.sleep(0.01)

    def _run(self) -> None:
        with httpx.Client(timeout=10.0, verify=trusted(self._path), limits=self._limits) as client:
            turn = 0
            while not self._over.is_set():
                question, fresh = self._questions[turn % len(self._questions)]
                self.answers.append(self._ask(client, {**question, **self._remembered(fresh)}))
                turn += 1
                self._over.wait(self._pause)

    def _remembered(self, fresh: list[bool]) -> dict[str, Any]:
        if not self._remembers or self._states is None:
            return {}
        return {"states": [None if new else state for new, state in zip(fresh, self._states, strict=True)]}

    def _ask(self, client: httpx.Client, body: dict[str, Any]) -> Answer:
        try:
            answer = client.post(self._path, json=body)
        except httpx.HTTPError as error:
            return Answer(time.monotonic(), error=f"{type(error).__name__}: {error}")
        if answer.status_code != 200:
            return Answer(time.monotonic(), error=f"HTTP {answer.status_code}: {answer.text[:200]}")
        document = answer.json()
        self._states = document.get("states")
        return Answer(
            time.monotonic(), document["versions"][0], document["sources"][0], decisions=len(document["actions"])
        )
