"""Our MLLP listener: frames in, each stored before it is acknowledged. Source: HL7 Transport Specification: MLLP, Release 1."""
import asyncio
import logging
import socket
import time
from collections import deque
from datetime import datetime

from api.hl7.acknowledge import Reception, receive, refuse
from api.settings import Settings, may_speak
from api.store import Kept, Store
from data.errors import StoreError

START, END, RETURN = b"\x0b", b"\x1c", b"\r"
FRAME_MAX = 16 * 2**20      # bytes
IDLE_S = 3600.0             # a feed may be silent at night; a half frame may not
HALF_FRAME_S = 60.0
LOOK_S = 5.0                # how often a connection looks at its two limits of silence
LARGE = 256 * 2**10         # bytes; a larger frame is read on a thread, so that the others are not held up
WAITING_MAX = 256           # frames of one connection under way; a peer that sends more is not read until they are answered
log = logging.getLogger("wetread.mllp")


class Framer:
    """Bytes in any pieces -> whole frames; noise between frames is dropped and counted."""

    def __init__(self, most: int = FRAME_MAX) -> None:
        self.most, self.noise, self._held = most, 0, bytearray()
        self._looked = 1            # up to where the open frame was looked through; a frame in many pieces is not looked through anew

    def feed(self, data: bytes) -> list[bytes]:
        """Frames completed by `data`; raises ValueError when a frame grows beyond the limit."""
        self._held += data
        frames = []
        while True:
            start = self._held.find(START)
            if start < 0:
                self.noise += len(self._held.strip(b"\r\n"))
                self._held.clear()
                break
            if start:
                self.noise += len(bytes(self._held[:start]).strip(b"\r\n"))
                del self._held[:start]
            # FS without CR ends a frame too: some senders leave it out
            end = self._held.find(END, self._looked)
            again = self._held.rfind(START, self._looked, end if end >= 0 else len(self._held))
            if again > 0:               # the frame before was broken off
                self.noise += again
                del self._held[:again]
                end -= again if end >= 0 else 0
            self._looked = len(self._held) if end < 0 else 1
            if end < 0:
                if len(self._held) > self.most:
                    raise ValueError("frame too large")
                break
            frames.append(bytes(self._held[1:end]))
            del self._held[:end + 1]
            if self._held[:1] == RETURN:
                del self._held[:1]
        return frames

    @property
    def pending(self) -> bool:
        return bool(self._held)


class Connection(asyncio.Protocol):
    """One peer: its frames are kept in the order they came, and answered in that order once they are durable."""

    def __init__(self, listener: "Listener") -> None:
        self.listener, self.framer = listener, Framer()
        self.peer, self.last = "", time.monotonic()
        self.frames: deque[bytes] = deque()
        self.under_way = 0          # handed to the store, not yet answered
        self.reading_large = False
        self.answers_read = True    # the peer takes its answers
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.peer = transport, str(transport.get_extra_info("peername")[0])
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not may_speak(self.peer, self.listener.peers):
            log.warning("E112 MLLP peer %s is not on the allow-list; add it to mllp_peers", self.peer)
            transport.close()
            return
        self.listener.open.add(self)
        self.watch()

    def connection_lost(self, error: Exception | None) -> None:
        self.listener.open.discard(self)    # what was not acknowledged the peer sends again

    def watch(self) -> None:
        silence_s = time.monotonic() - self.last
        if silence_s > (HALF_FRAME_S if self.framer.pending else IDLE_S) and not self.under_way:
            self.transport.close()
        if not self.transport.is_closing():
            asyncio.get_running_loop().call_later(LOOK_S, self.watch)

    def data_received(self, data: bytes) -> None:
        self.last = time.monotonic()
        try:
            self.frames.extend(self.framer.feed(data))
        except ValueError:
            log.warning("MLLP frame over %d bytes refused, connection closed", FRAME_MAX)
            self.transport.close()
        self.pump()

    def pump(self) -> None:
        """Hand over what waits; a peer with too much under way is not read until some of it is answered."""
        while self.frames and not self.reading_large and self.under_way < WAITING_MAX:
            frame = self.frames.popleft()
            if len(frame) > LARGE:
                self.reading_large = True
                asyncio.get_running_loop().create_task(self.keep_large(frame))
            else:
                self.keep(frame, receive(frame, stamp()))
        if self.frames or not self.answers_read:
            self.transport.pause_reading()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    async def keep_large(self, frame: bytes) -> None:
        read = await asyncio.to_thread(receive, frame, stamp())
        self.reading_large = False
        self.keep(frame, read)
        self.pump()

    def keep(self, frame: bytes, read: Reception) -> None:
        def done(kept: Kept | StoreError) -> None:
            # a frame that cannot be kept is answered AR, so that the sender keeps it
            answer = refuse(frame, kept, stamp()) if isinstance(kept, StoreError) else kept.ack if kept.duplicate else read.answer
            self.under_way -= 1
            if answer is not None and not self.transport.is_closing():
                self.transport.write(START + answer + END + RETURN)
            if self.frames:
                self.pump()

        self.under_way += 1
        self.listener.store.put_message(frame, read.sender, read.control_id, read.kind, self.peer, read.job, read.answer,
                                        "failed" if read.error and not read.job else "", read.error, done=done)

    def pause_writing(self) -> None:
        self.answers_read = False
        self.transport.pause_reading()      # a peer that reads no answers gets no more read

    def resume_writing(self) -> None:
        self.answers_read = True
        self.pump()


class Listener:
    """Listens until stopped."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.host, self.port, self.peers = store, settings.host, settings.mllp, settings.mllp_peers
        self.open: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self), self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.open):
            connection.transport.close()
        while self.open:
            await asyncio.sleep(0.01)


def stamp() -> str:
    """Now as YYYYMMDDHHMMSS."""
    return datetime.now().isoformat(timespec="seconds").translate(PUNCTUATION)


PUNCTUATION = {ord(mark): None for mark in "-:T"}
