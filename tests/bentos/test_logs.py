"""A flood does not fill the log, and nothing of it is untold."""

from __future__ import annotations

import logging

import pytest

from bentos import logs
from bentos.http.auth import Guard
from bentos.http.messages import Request, Response
from bentos.http.router import Router
from bentos.logs import Quota


def test_so_many_lines_a_second_of_each_kind_and_the_next_tells_of_the_rest() -> None:
    now = [0.0]
    quota = Quota(2, clock=lambda: now[0])
    assert [quota.told("a") for _ in range(5)] == [1, 1, 0, 0, 0]
    assert quota.told("b", 3) == 3
    now[0] = 1.0
    assert [quota.told("a") for _ in range(3)] == [4, 1, 0]


def test_refusals_by_the_thousand_are_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(logs.LOGGER)
    logger.addHandler(caplog.handler)
    try:
        router = Router(Guard("admin"))
        for number in range(1000):
            response = router.answer(Request("GET", f"/nowhere/{number}", b"", (), b""))
            assert isinstance(response, Response)
            assert response.status == 404
    finally:
        logger.removeHandler(caplog.handler)
    told = [record.fields["times"] for record in caplog.records]  # type: ignore[attr-defined]
    assert 20 <= len(told) < 200
    assert sum(told) <= 1000
