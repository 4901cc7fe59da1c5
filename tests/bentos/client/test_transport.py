"""The exchange: requests over kept connections, in threads and under asyncio, whatever becomes of a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from bentos.client.http1 import address
from bentos.client.retry import Answered, Lost, Request, Try
from bentos.client.transport import Concurrent, Threaded
from tests.bentos.scripted_server import hangs_up, says, scripted, sends

Exchange = Callable[..., list[Answered | Lost]]


def _threaded(url: str, *requests: Request, token: str | None = None, timeout: float = 5.0) -> list[Answered | Lost]:
    http = Threaded(token, timeout)
    try:
        return [http.exchange(Try(url, request)) for request in requests]
    finally:
        http.close()


def _concurrent(url: str, *requests: Request, token: str | None = None, timeout: float = 5.0) -> list[Answered | Lost]:
    async def all_of_them() -> list[Answered | Lost]:
        http = Concurrent(token, timeout)
        try:
            return [await http.exchange(Try(url, request)) for request in requests]
        finally:
            await http.close()

    return asyncio.run(all_of_them())


@pytest.fixture(params=[_threaded, _concurrent], ids=["threads", "asyncio"])
def exchange(request: pytest.FixtureRequest) -> Exchange:
    chosen: Exchange = request.param
    return chosen


GET = Request("GET", "/x")
POST = Request("POST", "/x", b'{"a": 1}')


def test_requests_follow_each_other_on_one_connection(exchange: Exchange) -> None:
    with scripted(says(200, b"one"), says(201, b"two"), says(404, b"")) as server:
        answers = exchange(server.url, GET, POST, GET)
    assert answers == [Answered(200, b"one"), Answered(201, b"two"), Answered(404, b"")]
    assert server.connections == 1
    assert server.requests[0].startswith("GET /x HTTP/1.1\r\nhost: 127.0.0.1:")
    assert server.requests[1].endswith('\r\n\r\n{"a": 1}')


def test_the_token_and_the_addresss_own_path_are_sent(exchange: Exchange) -> None:
    with scripted(says(200)) as server:
        exchange(f"{server.url}/airlock", GET, token="secret")
    assert server.requests[0].startswith("GET /airlock/x HTTP/1.1")
    assert "authorization: Bearer secret\r\n" in server.requests[0]


def test_without_a_token_none_is_sent(exchange: Exchange) -> None:
    with scripted(says(200)) as server:
        exchange(server.url, GET)
    assert "authorization" not in server.requests[0]


def test_retry_after_is_told(exchange: Exchange) -> None:
    with scripted(says(503, b"{}", "Retry-After: 7")) as server:
        assert exchange(server.url, GET) == [Answered(503, b"{}", "7")]


@pytest.mark.parametrize(
    "cut", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", b"\x16\x03"]
)
def test_an_answer_that_breaks_off_or_is_no_http_is_lost_and_the_next_request_gets_its_own(
    exchange: Exchange, cut: bytes
) -> None:
    with scripted(sends(cut), says(200, b"mine")) as server:
        lost, answered = exchange(server.url, POST, POST)
    assert isinstance(lost, Lost)
    assert answered == Answered(200, b"mine")


def test_pieces_are_put_together(exchange: Exchange) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n4\r\nhalf\r\n0\r\n\r\n"
    with scripted(sends(chunked, stay=True), says(200, b"next")) as server:
        assert exchange(server.url, GET, GET) == [Answered(200, b"halfhalf"), Answered(200, b"next")]
    assert server.connections == 1


def test_a_body_without_a_length_ends_with_the_connection(exchange: Exchange) -> None:
    with scripted(sends(b"HTTP/1.1 200 OK\r\n\r\nall of it"), says(200)) as server:
        answers = exchange(server.url, GET, GET)
    assert answers[0] == Answered(200, b"all of it")
    assert server.connections == 2


def test_a_connection_that_the_server_will_close_is_not_used_again(exchange: Exchange) -> None:
    with scripted(says(200, b"a", "connection: close"), says(200, b"b")) as server:
        assert exchange(server.url, GET, GET) == [Answered(200, b"a"), Answered(200, b"b")]
    assert server.connections == 2


def test_nobody_listening_is_lost(exchange: Exchange) -> None:
    with scripted() as server:
        pass
    (lost,) = exchange(server.url, GET)
    assert isinstance(lost, Lost)
    assert "ConnectionRefusedError" in lost.why


def test_silence_is_lost_after_the_timeout(exchange: Exchange) -> None:
    with scripted(sends(b"", stay=True)) as server:
        (lost,) = exchange(server.url, GET, timeout=0.1)
    assert isinstance(lost, Lost)
    assert "Timeout" in lost.why


def test_a_connection_closed_while_it_was_idle_is_not_used_again() -> None:
    http = Threaded(None, 5.0)
    with scripted(says(200, b"a"), says(200, b"b")) as server:
        http.exchange(Try(server.url, POST))
        server.drop()
        time.sleep(0.05)
        assert http.exchange(Try(server.url, POST)) == Answered(200, b"b")
    http.close()


def test_a_lost_connection_takes_the_idle_ones_to_the_same_server_with_it() -> None:
    http = Threaded(None, 5.0)
    with scripted(says(200), hangs_up, says(200)) as server:
        step = Try(server.url, POST)
        http.exchange(step)
        _, kept = http._to(server.url)
        kept.insert(0, http._connect(address(server.url)))  # as another thread leaves one
        assert len(kept) == 2
        assert isinstance(http.exchange(step), Lost)
        assert kept == []
        assert isinstance(http.exchange(step), Answered)
    http.close()


@pytest.mark.parametrize("url", ["http://", "http:///path", "http://host:port"])
def test_an_address_without_a_host_or_with_a_port_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        address(url)


def test_https_is_checked_against_the_machines_certificates() -> None:
    place = address("https://example.org/airlock/")
    assert (place.host, place.port, place.prefix) == ("example.org", 443, "/airlock")
    assert place.secure is not None
    assert place.secure.check_hostname
