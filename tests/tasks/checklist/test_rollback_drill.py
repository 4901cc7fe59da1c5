"""The rollback drill behind a load balancer: a move counts once the slowest gateway has made it."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tasks.checklist import rollback_drill as drill
from tasks.checklist.types import Finding
from tests.tasks.gateway_double import GatewayDouble, serving


class Fleet(GatewayDouble):
    """Gateways behind one address, each asked in turn; each follows a move after its own `lags` seconds."""

    def __init__(self, *lags: float) -> None:
        super().__init__()
        self._turns = itertools.cycle(lags)
        self._versions = ("2", "2")
        self._moved_at = 0.0

    def move(self, version: str) -> None:
        """Point the champion at a version."""
        self._versions, self._moved_at = (self._versions[1], version), time.monotonic()

    def _act(self, body: dict[str, Any]) -> tuple[int, Any]:
        status, document = super()._act(body)
        follows = time.monotonic() - self._moved_at >= next(self._turns)
        return status, {**document, "versions": [self._versions[follows]] * len(document["versions"])}


class Control:
    """Moves the fleet's champion for the drill, as the control plane does."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    @contextlib.contextmanager
    def drill(self, policy: str) -> Iterator[dict[str, str | None]]:
        """To version 1 and back."""
        self._fleet.move("1")
        yield {"champion": "2", "previous": "1"}
        self._fleet.move("2")


def drilled(monkeypatch: pytest.MonkeyPatch, *lags: float) -> Finding:
    monkeypatch.setattr(drill, "MAX_SECONDS", 4.0)
    with serving(Fleet(*lags)) as fleet:
        given = {"observation": np.zeros((4, 4), np.float32)}
        control: Any = Control(fleet)
        return drill.rollback_tested(control, fleet.url, "cartpole", "2", given)


def test_the_time_is_that_of_the_slowest_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    found = drilled(monkeypatch, 0.0, 0.0, 1.2)
    assert found.status == "pass", found.reason
    assert found.evidence["seconds_there"] > 1.0
    assert found.evidence["seconds_back"] > 1.0


def test_a_gateway_that_does_not_follow_fails_the_drill(monkeypatch: pytest.MonkeyPatch) -> None:
    found = drilled(monkeypatch, 0.0, 0.0, 60.0)
    assert found.status == "fail"
    assert "version 1 did not answer alone within 4 s" in found.reason
