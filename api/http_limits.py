"""Time and size of an HTTP request's head and body: uvicorn sets no limit to either."""
import asyncio
import logging
import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import TooLarge, TooSlow

HEAD_MAX_BYTES = 65536          # request line and headers
HEAD_WAIT_S = 15.0              # from the connection, or from a request's first byte, to the end of its head
REST_WAIT_S = 30.0              # for the rest of a body that was answered before it was whole
BODY_WAIT_S = 30.0              # of silence within a body
BODY_SLOW_S, BODY_MIN_BYTES_PER_S = 60.0, 16384        # after the first minute a body must come as fast as this, on the whole
log = logging.getLogger("wetread.http")


class LimitedHttp(HttpToolsProtocol):
    """One connection; it is closed when a head is too long or too late, or when it drips on after its answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head_bytes: int | None = 0         # of a head that is not whole yet; None while none is expected
        self.deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.wait(HEAD_WAIT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self.wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.head_bytes is not None:
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_MAX_BYTES and not self.transport.is_closing():
                log.warning("E109 an HTTP head of more than %d bytes refused", HEAD_MAX_BYTES)
                self.send_400_response("[E109] the request's head is too long; send fewer or shorter headers")

    def on_message_begin(self) -> None:
        self.head_bytes = 0
        self.wait(HEAD_WAIT_S)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.head_bytes = None
        self.wait(None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self.wait(REST_WAIT_S)

    def on_message_complete(self) -> None:
        if self.cycle is not None and self.cycle.response_complete:
            self.wait(None)
        super().on_message_complete()

    def wait(self, seconds: float | None) -> None:
        """Close the connection after `seconds`, unless told otherwise before."""
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.close)


def http_server(app: ASGIApp, host: str, port: int) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(app, host=host, port=port, http=LimitedHttp, ws="none", log_level="warning", server_header=False,
                                         access_log=False))


def bounded(receive: Receive, limit_bytes: int) -> Receive:
    """`receive` that ends a body which is larger than it may be, whatever its Content-Length said, or comes too slowly."""
    began, taken, whole = time.monotonic(), 0, False

    async def limited() -> Message:
        nonlocal taken, whole
        if whole:               # what comes now is the end of the connection, which may take as long as the answer
            return await receive()
        try:
            async with asyncio.timeout(BODY_WAIT_S):
                message = await receive()
        except TimeoutError:
            raise TooSlow from None
        taken += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if taken > limit_bytes:
            raise TooLarge(limit_bytes)
        if not whole and time.monotonic() - began > BODY_SLOW_S + taken / BODY_MIN_BYTES_PER_S:
            raise TooSlow
        return message

    return limited
