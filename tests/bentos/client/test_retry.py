"""Retries: what is sent again, to whom, after how long, and when it is given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bentos.client.retry import Answered, GatewayError, Lost, Pause, Request, Servers, Try, persist

A, B = "http://a", "http://b"
OURS = Request("POST", "/v1/policies/p/act", b"{}")
DEAD = Lost("ConnectionResetError")
FINE = Answered(200, b"fine")


def refused(status: int, retry_after: str | None = None) -> Answered:
    return Answered(status, b'{"detail": "no", "reason": "because", "expected": [4], "came": [3]}', retry_after)


class World:
    """A clock that only pauses move, and what was sent meanwhile: (time, address)."""

    def __init__(self, *came: Answered | Lost, urls: list[str] | None = None, chance: float = 0.0) -> None:
        self.servers = Servers(urls or [A])
        self.now = 0.0
        self.sent: list[tuple[float, str]] = []
        self.pauses: list[float] = []
        self._came = list(came)
        self._chance = chance

    def run(self, patience: float = 30.0, stands: Callable[[str], Answered | Lost] | None = None) -> bytes:
        steps = persist(OURS, self.servers, patience, clock=lambda: self.now, chance=lambda: self._chance)
        answer: Answered | Lost | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return bytes(end.value)
            if isinstance(step, Pause):
                self.pauses.append(step.seconds)
                self.now += step.seconds
                answer = None
            else:
                assert isinstance(step, Try)
                assert step.request == OURS
                self.sent.append((self.now, step.url))
                answer = stands(step.url) if stands else self._came.pop(0)


def test_an_answer_is_taken_at_once() -> None:
    world = World(FINE)
    assert world.run() == b"fine"
    assert world.pauses == []


@pytest.mark.parametrize("failing", [DEAD, refused(429), refused(502), refused(503), refused(504)])
def test_what_may_pass_is_tried_again(failing: Answered | Lost) -> None:
    world = World(failing, failing, FINE)
    assert world.run() == b"fine"
    assert len(world.sent) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500])
def test_what_will_not_pass_is_raised_at_once_with_what_was_expected_and_what_came(status: int) -> None:
    world = World(refused(status))
    with pytest.raises(GatewayError, match=rf"act: {status}: no; expected \[4\]; came \[3\]") as caught:
        world.run()
    assert (caught.value.status, caught.value.reason) == (status, "because")
    assert world.pauses == []


def test_pauses_double_from_50_ms_to_2_s() -> None:
    world = World(*[DEAD] * 8, FINE)
    world.run()
    assert world.pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


def test_chance_cuts_a_pause_by_at_most_a_half() -> None:
    world = World(DEAD, DEAD, FINE, chance=1.0)
    world.run()
    assert world.pauses == pytest.approx([0.025, 0.05])


def test_retry_after_is_never_cut_short() -> None:
    for chance in (0.0, 1.0):
        world = World(refused(503, "3"), FINE, chance=chance)
        world.run()
        assert 3.0 <= world.pauses[0] < 3.31


@pytest.mark.parametrize("header", ["soon", "", "-5", "nan", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_is_left_out_of_account(header: str) -> None:
    world = World(refused(503, header), FINE)
    world.run()
    assert world.pauses == pytest.approx([0.05])


def test_it_gives_up_after_its_patience_with_the_last_failure() -> None:
    world = World(*[DEAD] * 100)
    with pytest.raises(GatewayError, match="no answer from http://a: ConnectionResetError") as caught:
        world.run(patience=5.0)
    assert caught.value.status is None
    assert caught.value.reason == "connection"
    assert 3.0 <= world.now <= 5.0


def test_without_patience_it_tries_once() -> None:
    world = World(DEAD, FINE)
    with pytest.raises(GatewayError):
        world.run(patience=0.0)
    assert len(world.sent) == 1


def test_the_next_server_is_asked_at_once_and_stays_the_one_that_is_asked() -> None:
    world = World(urls=[A, B])
    stands = {A: DEAD, B: FINE}
    world.run(stands=lambda url: stands[url])
    world.run(stands=lambda url: stands[url])
    assert world.sent == [(0.0, A), (0.0, B), (0.0, B)]


def test_with_all_servers_failing_a_pause_comes_after_each_round_of_them() -> None:
    world = World(DEAD, refused(503, "1"), DEAD, FINE, urls=[A, B])
    world.run()
    assert [url for _, url in world.sent] == [A, B, A, B]
    assert [when for when, _ in world.sent] == pytest.approx([0, 0, 1, 1])


def test_two_who_saw_the_same_server_fail_do_not_skip_the_next() -> None:
    servers = Servers([A, B])
    servers.leave(A)
    servers.leave(A)
    assert servers.asked == B


@pytest.mark.parametrize("urls", [[], "localhost:3000", ["http://a", "ftp://b"]])
def test_an_address_that_is_none_is_refused(urls: str | list[str]) -> None:
    with pytest.raises(ValueError, match="expected one or more addresses"):
        Servers(urls)
