"""The swift protocol under a real uvicorn, spoken to through sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from unittest import mock

import httpx
import pytest
import uvicorn

from bentos.errors import Problem
from bentos.gateway.gateway import Gateway
from bentos.http import cache, protocol
from bentos.http.app import App
from bentos.http.auth import Guard
from bentos.http.messages import MAX_BODY, Request, Response
from bentos.http.protocol import MAX_HEAD, SwiftProtocol
from bentos.http.router import Router
from tasks.ports import free_port

KEEP_ALIVE_SECONDS = 2
"""What uvicorn is told."""


class Echo(Router):
    """Says what it was asked; a body `wait` is answered once `go` is set."""

    def __init__(self) -> None:
        super().__init__(Guard("t"))
        self.asked: list[Request] = []
        self.refusals: list[int] = []
        self.go = threading.Event()
        self.cancelled = threading.Event()

    async def answer(self, request: Request) -> Response:
        self.asked.append(request)
        if request.body == b"wait":
            try:
                while not self.go.is_set():
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if request.body == b"fail":
            return Response(422, b"{}", b"application/problem+json", [(b"retry-after", b"1")])
        return Response(
            200, b"%b %b %b" % (request.method.encode(), request.path.encode(), request.body), b"text/plain"
        )

    def refuse(self, problem: Problem, method: str, path: str) -> Response:
        self.refusals.append(problem.status)
        return super().refuse(problem, method, path)


async def _behind(scope: Any, receive: Any, send: Any) -> None:
    """What stands behind the router: BentoML's place."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b"behind" * (5000 if scope["path"] == "/large" else 1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def _serving() -> Any:
    return nullcontext(mock.create_autospec(Gateway, core=mock.Mock()))


@pytest.fixture
def router() -> Echo:
    return Echo()


@pytest.fixture
def server(router: Echo) -> Iterator[uvicorn.Server]:
    config = uvicorn.Config(
        App(_behind, router, _serving),
        port=free_port(),
        http=SwiftProtocol.to(router),
        log_level="critical",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        _eventually(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    return server.config.port


def _eventually(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def _request(body: bytes, path: str = "/v1/policies/p/act", method: str = "POST", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _talk(port: int, *pieces: bytes, answers: int = 1, pause: float = 0.0) -> list[tuple[int, bytes]]:
    """Send the pieces on one connection, and read that many answers: status and body."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        file = connection.makefile("rb")
        found = []
        for _ in range(answers):
            status = int(file.readline().split()[1])
            length = 0
            while (line := file.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            found.append((status, file.read(length)))
        return found


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


def _is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def test_requests_for_the_door_and_for_what_is_behind_it_share_a_connection(port: int, router: Echo) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for number in range(3):
            answer = client.post(f"/v1/policies/p{number}/act?q=1", content=b"x", headers={"X-Some": "Thing"})
            assert answer.text == f"POST /v1/policies/p{number}/act x"
            assert answer.headers["content-type"] == "text/plain"
            assert "date" in answer.headers
            assert client.post("/elsewhere", content=b"x" * 1_000_000).text == "behind"
        refused = client.post("/v1/policies/p/act", content=b"fail")
    assert (refused.status_code, refused.headers["retry-after"]) == (422, "1")
    assert router.asked[0].query == b"q=1"
    assert (b"x-some", b"Thing") in router.asked[0].headers


def test_a_request_in_single_bytes_and_one_in_chunks_are_read_whole(port: int) -> None:
    whole = _request(b"slowly")
    assert _talk(port, *(whole[at : at + 1] for at in range(len(whole)))) == [(200, b"POST /v1/policies/p/act slowly")]
    head = b"POST /v1/policies/p/act HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert _talk(port, head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n") == [(200, b"POST /v1/policies/p/act abcde")]


def test_pipelined_requests_are_answered_in_their_order(port: int, router: Echo) -> None:
    bodies = [b"a", b"wait", b"b", b"c"]
    threading.Timer(0.3, router.go.set).start()
    answers = _talk(port, b"".join(_request(body) for body in bodies), answers=4)
    assert [body.split()[-1] for _, body in answers] == bodies


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_methods_without_a_body_of_their_own_go_uvicorns_way(port: int, method: str) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.request(method, "/v1/policies/p").status_code == 200
        assert client.post("/v1/policies/p/act", content=b"after").text.endswith("after")


def test_who_expects_to_be_told_to_go_on_is_told(port: int) -> None:
    request = _request(b"now", "/v1/policies/p/act", "POST", "Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request[:-3])
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(request[-3:])
        assert b"200 OK" in connection.recv(1000)


@pytest.mark.parametrize("asked", [b" HTTP/1.0\r\n", b" HTTP/1.1\r\nConnection: close\r\n"])
def test_a_connection_that_is_not_kept_is_closed_after_the_answer(port: int, asked: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"POST /v1/policies/p/act" + asked + b"Content-Length: 1\r\n\r\nx")
        answer = connection.recv(1000)
        assert b"connection: close" in answer
        assert _is_closed(connection)


def test_an_endless_head_and_an_endless_body_are_refused_and_cut_off(port: int, router: Echo) -> None:
    for start, more, status in (
        (b"POST /v1/policies/p/act HTTP/1.1\r\n", b"X-Y: " + b"z" * 1000 + b"\r\n", 431),
        (
            b"POST /v1/policies/p/act HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"10000\r\n%b\r\n" % (b"z" * 65536),
            413,
        ),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            sent = 0
            try:
                connection.sendall(start)
                while sent < 4 * max(MAX_BODY, MAX_HEAD):
                    connection.sendall(more)
                    sent += len(more)
            except OSError:
                pass
            assert sent < 2 * MAX_BODY, "the server read on and on"
        _eventually(lambda status=status: status in router.refusals)
    assert router.asked == []


def test_a_head_that_is_too_large_and_comes_at_once_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"POST /v1/policies/p/act HTTP/1.1\r\nX-Y: " + b"z" * (MAX_HEAD + 1))
        assert connection.recv(1000).startswith(b"HTTP/1.1 431")


def test_pipelined_requests_are_no_large_head(port: int) -> None:
    requests = _request(b"x" * 100) * 2000
    middle = len(requests) - 150  # within a head
    answers = _talk(port, requests[:middle], requests[middle:], answers=2000, pause=0.5)
    assert {status for status, _ in answers} == {200}


def _send_until_nobody_reads(connection: socket.socket, request: bytes) -> int:
    """Send the request again and again, until for a second nothing is taken, or far more than buffers hold; bytes."""
    sent, many = 0, request * 1000
    connection.settimeout(1)
    while sent < 64 * 2**20:
        try:
            sent += connection.send(many[sent % len(request) :])
        except TimeoutError:
            break
    return sent


@pytest.mark.parametrize(("path", "size"), [("/v1/policies/p/act", 5000), ("/large", 1000)])
def test_who_does_not_read_is_not_read_and_gets_all_answers_once_it_reads(port: int, path: str, size: int) -> None:
    request = _request(b"x" * size, path)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        sent = _send_until_nobody_reads(connection, request)
        assert sent < 64 * 2**20, "the server read on and on"
        connection.settimeout(20)
        answers, last = 0, b""
        while answers < sent // len(request):
            came = connection.recv(2**20)
            assert came
            answers += (last + came).count(b"HTTP/1.1 200") - last.count(b"HTTP/1.1 200")
            last = (last + came)[-11:]
        connection.sendall(request[sent % len(request) :])
        assert b"HTTP/1.1 200" in connection.recv(2**20)


@pytest.mark.parametrize(("path", "size"), [("/v1/policies/p/act", 5000), ("/large", 1000)])
def test_who_never_takes_its_answers_is_cut_off(
    server: uvicorn.Server,
    port: int,
    path: str,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(protocol, "PATIENCE_SECONDS", 2)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        _send_until_nobody_reads(connection, _request(b"x" * size, path))
        _eventually(lambda: not server.server_state.connections)
        _eventually(lambda: not server.server_state.tasks)
    assert not [record for record in caplog.records if record.exc_info]


def test_slow_clients_and_idle_ones_are_not_waited_for(
    port: int, router: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "KEEP_ALIVE_SECONDS", 1)
    silent = socket.create_connection(("127.0.0.1", port), timeout=20)
    halfway = socket.create_connection(("127.0.0.1", port), timeout=20)
    halfway.sendall(_request(b"never whole")[:-3])
    kept = socket.create_connection(("127.0.0.1", port), timeout=20)
    kept.sendall(_request(b"x"))
    assert kept.recv(1000).startswith(b"HTTP/1.1 200")
    assert halfway.recv(1000).startswith(b"HTTP/1.1 408")
    assert _is_closed(halfway)
    assert _is_closed(silent)
    assert _is_closed(kept)


def test_a_connection_is_kept_longer_than_those_before_the_gateway_keep_theirs(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as kept:
        kept.sendall(_request(b"x"))
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")
        time.sleep(KEEP_ALIVE_SECONDS + 0.5)
        kept.sendall(_request(b"x"))
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/v1/policies/p/act", "/elsewhere"])
def test_who_asks_on_a_kept_connection_while_the_server_ends_is_answered_for_the_last_time(
    server: uvicorn.Server, port: int, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(protocol, "DRAIN_SECONDS", 5.0)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as kept:
        for _ in range(2):  # so that the head is known the next time
            kept.sendall(_request(b"x", path))
            assert b"connection: close" not in kept.recv(1000)
        server.should_exit = True
        _eventually(lambda: not _listens(port))
        kept.sendall(_request(b"x", path))
        answer = kept.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert _is_closed(kept)


def test_an_answer_that_waits_is_given_up_when_its_client_goes(port: int, router: Echo) -> None:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(_request(b"wait"))
    _eventually(lambda: router.asked)
    connection.close()
    _eventually(router.cancelled.is_set)


def test_nonsense_is_refused_and_hurts_nobody_else(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert _talk(port, _request(b"fine"))[0][0] == 200


def test_a_head_that_comes_again_is_not_parsed_again_and_means_the_same(
    port: int, router: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin = SwiftProtocol.on_message_begin
    monkeypatch.setattr(SwiftProtocol, "on_message_begin", lambda self: (begun.append(1), begin(self)))
    token = "Authorization: Bearer t"
    asked = [_request(body, "/v1/policies/p/act?q=1", "POST", token) for body in (b"a", b"b", b"c")]
    asked += [_request(b"d", "/v1/policies/p/act?q=1"), asked[0]]
    answers = [_talk(port, one)[0] for one in asked]
    assert [body for _, body in answers] == [
        b"POST /v1/policies/p/act " + last for last in (b"a", b"b", b"c", b"d", b"a")
    ]
    assert len(begun) == 2, "the first with the token, and the one without"
    carried = [(b"authorization", b"Bearer t") in request.headers for request in router.asked]
    assert carried == [True, True, True, False, True]
    assert [request.query for request in router.asked] == [b"q=1"] * 5


def test_a_head_that_is_known_may_come_in_any_company(port: int, router: Echo) -> None:
    whole = _request(b"xyz")
    assert _talk(port, whole)[0][0] == 200
    echoed = (200, b"POST /v1/policies/p/act xyz")
    assert _talk(port, whole[:-2], whole[-2:], whole, answers=2, pause=0.1) == [echoed] * 2
    assert _talk(port, whole[:20], whole[20:], whole, answers=2, pause=0.1) == [echoed] * 2
    assert _talk(port, whole + whole + whole[:30], whole[30:], answers=3, pause=0.1) == [echoed] * 3
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.post("/elsewhere", content=whole).text == "behind"
    waits = _request(b"wait")
    assert router.go.set() is None
    assert _talk(port, waits)[0][0] == 200
    router.go.clear()
    threading.Timer(0.3, router.go.set).start()
    bodies = [body for _, body in _talk(port, waits, whole, waits, answers=3, pause=0.1)]
    assert [body.split()[-1] for body in bodies] == [b"wait", b"xyz", b"wait"]


def test_a_chunked_body_is_parsed_each_time(port: int) -> None:
    head = b"POST /v1/policies/p/act HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    asked = [head + b"3\r\nabc\r\n0\r\n\r\n", head + b"0\r\n\r\n", head + b"2\r\nde\r\n0\r\n\r\n"]
    bodies = [body for _, body in _talk(port, *asked, answers=3, pause=0.1)]
    assert bodies == [b"POST /v1/policies/p/act " + body for body in (b"abc", b"", b"de")]


def test_no_more_heads_are_kept_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 3)
    learned, sizes = cache.Heads(), []
    for number in range(7):
        learned.learn(b"%d" % number, cache.Head("POST", f"/{number}", b"", (), 0))
        sizes.append(len(learned))
    assert sizes == [1, 2, 3, 1, 2, 3, 1]
    learned.learn(b"y" * (cache.LONGEST + 1), cache.Head("POST", "/", b"", (), 0))
    assert list(learned) == [b"6"]
