"""Our MLLP listener: frames in, each stored before it is acknowledged. Source: HL7 Transport Specification: MLLP, Release 1."""
import asyncio
import logging
import socket
import time
from collections import Counter, deque
from datetime import datetime
from typing import Any

from api.hl7.acknowledge import Reception, receive, refuse
from api.hl7.tls import HANDSHAKE_S, server_tls
from api.settings import MllpListener, Settings, may_speak
from api.store import Kept, Store, now
from data.errors import StoreError

START, END, RETURN = b"\x0b", b"\x1c", b"\r"
FRAME_MAX = 16 * 2**20      # bytes
LOOK_S = 5.0                # how often a connection looks at its two limits of silence
LARGE = 256 * 2**10         # bytes; a larger frame is read on a thread, so that the others are not held up
CLOSED_KEPT = 20            # connections that ended, and odd things on each, kept to be looked at
WAITING_MAX = 256           # frames of one connection under way; a peer that sends more is not read until they are answered
log = logging.getLogger("wetread.mllp")


class Framer:
    """Bytes in any pieces -> whole frames; noise between frames is dropped and counted, and so is what is not as MLLP has it."""

    def __init__(self, most: int = FRAME_MAX) -> None:
        self.most, self.noise, self._held = most, 0, bytearray()
        self.broken_off, self.without_return = 0, 0     # frames that the next one's start cut off; frames that ended in FS alone
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
                self.broken_off += 1
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
            elif self._held:
                self.without_return += 1
        return frames

    @property
    def pending(self) -> bool:
        return bool(self._held)


class Connection(asyncio.Protocol):
    """One peer: its frames are kept in the order they came, and answered in that order once they are durable."""

    def __init__(self, listener: "Listener") -> None:
        self.listener, self.framer = listener, Framer()
        self.peer, self.last = "", time.monotonic()
        self.since, self.last_frame, self.ended = now(), "", ""
        self.answered: Counter[str] = Counter()
        self.counted = {"frames": 0, "bytes": 0}
        self.certificate, self.why_closed = "", ""
        self.frames: deque[bytes] = deque()
        self.under_way = 0          # handed to the store, not yet answered
        self.reading_large = False
        self.answers_read = True    # the peer takes its answers
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.peer = transport, str(transport.get_extra_info("peername")[0])
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.certificate = common_name(transport.get_extra_info("peercert"))
        if not may_speak(self.peer, self.listener.site.peers):
            log.warning("E112 MLLP peer %s is not on the allow-list; add it to the peers of listener %s", self.peer, self.listener.site.name)
            return self.close("not on the allow-list")
        if len(self.listener.open) >= self.listener.site.connections_max:
            log.warning("MLLP listener %s has %d connections, one more was closed", self.listener.site.name, len(self.listener.open))
            return self.close("too many connections")
        self.listener.open.add(self)
        self.watch()

    def close(self, why: str) -> None:
        self.why_closed = self.why_closed or why
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.listener.open.discard(self)    # what was not acknowledged the peer sends again
        self.ended, self.why_closed = now(), self.why_closed or (type(error).__name__ if error else "by the peer")
        self.listener.closed.append(self.report())

    def watch(self) -> None:
        silence_s, site = time.monotonic() - self.last, self.listener.site
        if not self.under_way and silence_s > (site.half_frame_s if self.framer.pending else site.idle_s):
            self.close("half a frame and then nothing" if self.framer.pending else "nothing came for long")
        if not self.transport.is_closing():
            asyncio.get_running_loop().call_later(min(LOOK_S, site.half_frame_s / 2 + 0.01), self.watch)

    def report(self) -> dict[str, Any]:
        """What the connections page shows; nothing of any message."""
        framer = self.framer
        return {"peer": self.peer, "certificate": self.certificate, "since": self.since, "ended": self.ended, "why_closed": self.why_closed,
                "last_frame": self.last_frame, **self.counted, "answered": dict(sorted(self.answered.items())), "under_way": self.under_way,
                "half_frame": framer.pending, "noise_bytes": framer.noise, "broken_off": framer.broken_off, "without_return": framer.without_return}

    def data_received(self, data: bytes) -> None:
        self.last = time.monotonic()
        self.counted["bytes"] += len(data)
        try:
            frames = self.framer.feed(data)
        except ValueError:
            log.warning("MLLP frame over %d bytes refused, connection closed", FRAME_MAX)
            return self.close("a frame was too large")
        if frames:
            self.frames.extend(frames)
            self.counted["frames"] += len(frames)
            self.last_frame = now()
        self.pump()

    def pump(self) -> None:
        """Hand over what waits; a peer with too much under way is not read until some of it is answered."""
        while self.frames and not self.reading_large and self.under_way < WAITING_MAX:
            frame = self.frames.popleft()
            if len(frame) > LARGE:
                self.reading_large = True
                asyncio.get_running_loop().create_task(self.keep_large(frame))
            else:
                self.keep(frame, receive(frame, stamp(), self.listener.site.charset, self.listener.site.assigning_authority))
        if self.frames or not self.answers_read:
            self.transport.pause_reading()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    async def keep_large(self, frame: bytes) -> None:
        read = await asyncio.to_thread(receive, frame, stamp(), self.listener.site.charset, self.listener.site.assigning_authority)
        self.reading_large = False
        self.keep(frame, read)
        self.pump()

    def keep(self, frame: bytes, read: Reception) -> None:
        def done(kept: Kept | StoreError) -> None:
            # a frame that cannot be kept is answered AR, so that the sender keeps it
            answer = refuse(frame, kept, stamp()) if isinstance(kept, StoreError) else kept.ack if kept.duplicate else read.answer
            self.under_way -= 1
            self.answered[answer.partition(b"\rMSA")[2][1:3].decode("ascii", "replace") if answer else "none"] += 1
            if answer is not None and not self.transport.is_closing():
                self.transport.write(START + answer + END + RETURN)
            if self.frames:
                self.pump()

        self.under_way += 1
        self.listener.store.put_message(frame, read.sender, read.control_id, read.kind, self.peer, read.job, read.answer,
                                        "failed" if read.error and not read.job else "", read.error, self.listener.site.name, done=done)

    def pause_writing(self) -> None:
        self.answers_read = False
        self.transport.pause_reading()      # a peer that reads no answers gets no more read

    def resume_writing(self) -> None:
        self.answers_read = True
        self.pump()


class Listener:
    """Listens on one port until stopped; `site` is the main one unless given."""

    def __init__(self, store: Store, settings: Settings, site: MllpListener | None = None) -> None:
        self.store, self.site = store, site or settings.listeners[0]
        self.host, self.port = self.site.host, self.site.port
        self.tls = server_tls(settings.home, self.site)
        self.open: set[Connection] = set()
        self.closed: deque[dict[str, Any]] = deque(maxlen=CLOSED_KEPT)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        secured: dict[str, Any] = {"ssl": self.tls, "ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": HANDSHAKE_S} if self.tls else {}
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self), self.host, self.port, **secured)
        self.port = self._server.sockets[0].getsockname()[1]

    def report(self) -> dict[str, Any]:
        """The site and its connections, open and ended, for the connections page."""
        tls = "in the clear" if self.tls is None else "mutual TLS" if self.site.tls_authority else "TLS"
        return {"name": self.site.name, "address": f"{self.host}:{self.port}", "tls": tls, "time_zone": self.site.time_zone,
                "charset": self.site.charset, "assigning_authority": self.site.assigning_authority, "connections_max": self.site.connections_max,
                "open": [connection.report() for connection in list(self.open)], "closed": list(self.closed)[::-1]}

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.open):
            connection.close("stopped here")
        while self.open:
            await asyncio.sleep(0.01)


def common_name(certificate: dict[str, Any] | None) -> str:
    """Of the peer's certificate, "" without one."""
    subject = (certificate or {}).get("subject", ())
    return next((str(value) for part in subject for name, value in part if name == "commonName"), "")


def stamp() -> str:
    """Now as YYYYMMDDHHMMSS."""
    return datetime.now().isoformat(timespec="seconds").translate(PUNCTUATION)


PUNCTUATION = {ord(mark): None for mark in "-:T"}
