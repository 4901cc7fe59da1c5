"""Exchange: requests over HTTP/1.1 connections that are kept and used again, for threads and for asyncio.

A general HTTP client costs 0.3 to 0.9 ms a request, several times what the gateway takes to answer. This one knows only
what the gateway's routes need: a whole request, a whole response, no redirects, no proxies, no cookies.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from typing import Generic, TypeVar

from .http1 import Address, Response, address, written
from .retry import Answered, Lost, Pause, Steps, T, Try

_CHUNK = 1 << 18
_MOST_IDLE = 128
_C = TypeVar("_C")


class _Connections(Generic[_C]):
    """Where requests go, and the connections that are kept for the next ones."""

    def __init__(self, token: str | None, timeout: float) -> None:
        self._token = token
        self._timeout = timeout
        self._places: dict[str, Address] = {}
        self._kept: dict[str, list[_C]] = {}

    def _to(self, url: str) -> tuple[Address, list[_C]]:
        """The address of a gateway, and the connections to it that nobody uses."""
        place = self._places.get(url) or self._places.setdefault(url, address(url))
        return place, self._kept.setdefault(url, [])


class Threaded(_Connections[socket.socket]):
    """Runs steps in the calling thread; shared by any number of threads, a connection belongs to one at a time.

    `timeout` in seconds: to connect, and between two pieces of an answer.
    """

    def run(self, steps: Steps[T]) -> T:
        """What the steps return, or raise."""
        came: Answered | Lost | None = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                came = None
            else:
                came = self.exchange(step)

    def exchange(self, step: Try) -> Answered | Lost:
        """Send one request, once."""
        place, idle = self._to(step.url)
        connection: socket.socket | None = None
        try:
            connection = self._waiting(idle) or self._connect(place)
            connection.sendall(written(step, place, self._token))
            response = Response()
            while not response.whole:
                response.take(connection.recv(_CHUNK))
        except OSError as error:
            if connection is not None:
                connection.close()
            _close(idle)  # they most likely lead to the same dead process
            return Lost(f"{type(error).__name__}: {error}")
        except BaseException:
            if connection is not None:  # half an answer is still to come on it
                connection.close()
            raise
        answer, keep = response.answer()
        if keep and len(idle) < _MOST_IDLE:
            idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for idle in self._kept.values():
            _close(idle)

    def _waiting(self, idle: list[socket.socket]) -> socket.socket | None:
        """A kept connection that the server left open: one with something to read was closed, or is astray."""
        while idle:
            try:
                connection = idle.pop()
            except IndexError:
                return None
            if connection.fileno() >= 0 and not _readable(connection):
                return connection
            connection.close()
        return None

    def _connect(self, place: Address) -> socket.socket:
        connection = socket.create_connection((place.host, place.port), self._timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if place.secure is None:
            return connection
        return place.secure.wrap_socket(connection, server_hostname=place.host)


def _readable(connection: socket.socket) -> bool:
    waiting = select.poll()  # unlike select.select it takes descriptors beyond 1,023
    waiting.register(connection, select.POLLIN)
    return bool(waiting.poll(0))


def _close(idle: list[socket.socket]) -> None:
    while idle:
        try:
            connection = idle.pop()
        except IndexError:
            return
        connection.close()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Concurrent(_Connections[Streams]):
    """Runs steps in tasks of one event loop. `timeout` in seconds: for connecting, and for the whole answer."""

    async def run(self, steps: Steps[T]) -> T:
        """What the steps return, or raise."""
        came: Answered | Lost | None = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                came = None
            else:
                came = await self.exchange(step)

    async def exchange(self, step: Try) -> Answered | Lost:
        """Send one request, once."""
        place, idle = self._to(step.url)
        streams: Streams | None = None
        try:
            async with asyncio.timeout(self._timeout):
                streams = self._waiting(idle) or await asyncio.open_connection(
                    place.host, place.port, ssl=place.secure, limit=_CHUNK
                )
                reader, writer = streams
                writer.write(written(step, place, self._token))
                await writer.drain()
                response = Response()
                while not response.whole:
                    response.take(await reader.read(_CHUNK))
        except OSError as error:  # TimeoutError is one
            if streams is not None:
                streams[1].close()
            while idle:
                idle.pop()[1].close()
            return Lost(f"{type(error).__name__}: {error}")
        except BaseException:
            if streams is not None:
                streams[1].close()
            raise
        answer, keep = response.answer()
        if keep and len(idle) < _MOST_IDLE:
            idle.append(streams)
        else:
            writer.close()
        return answer

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        for idle in self._kept.values():
            while idle:
                idle.pop()[1].close()

    def _waiting(self, idle: list[Streams]) -> Streams | None:
        while idle:
            reader, writer = idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        return None
