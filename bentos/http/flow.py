"""Flow control: a connection is read only as fast as its requests are answered and its answers are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Sized

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """uvicorn's, which reads on while requests wait for their turn, and where nobody reads what is written."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        """`waiting` are the requests that were read before others of this connection were answered."""
        super().__init__(transport)
        self._connection = transport
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Read on, unless there is enough to answer, or to be taken, already."""
        if not (self._waiting or self.write_paused or self._connection.is_closing()):
            super().resume_reading()

    def resume_writing(self) -> None:
        """The client took its answers: it may ask again."""
        super().resume_writing()
        self.resume_reading()
