"""Our MLLP listener: frames in, each stored before it is acknowledged. Source: HL7 Transport Specification: MLLP, Release 1."""
import asyncio
import logging
import socket
from datetime import datetime

from api.hl7.acknowledge import receive, refuse
from api.settings import Settings, may_speak
from api.store import Store
from data.errors import StoreError

START, END, RETURN = b"\x0b", b"\x1c", b"\r"
FRAME_MAX = 16 * 2**20      # bytes
IDLE_S = 3600.0             # a feed may be silent at night; a half frame may not
HALF_FRAME_S = 60.0
log = logging.getLogger("wetread.mllp")


class Framer:
    """Bytes in any pieces -> whole frames; noise between frames is dropped and counted."""

    def __init__(self, most: int = FRAME_MAX) -> None:
        self.most, self.noise, self._held = most, 0, bytearray()

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
            end = self._held.find(END)
            again = self._held.find(START, 1, end if end >= 0 else len(self._held))
            if again > 0:               # the frame before was broken off
                self.noise += again
                del self._held[:again]
                continue
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


class Listener:
    """Listens until stopped; frames of a connection are answered in the order they came."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.host, self.port, self.peers = store, settings.host, settings.mllp, settings.mllp_peers
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.close()      # its reader ends; what was not acknowledged comes again
        while self._open:
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername")[0])
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        framer = Framer()
        self._open.add(writer)
        try:
            if not may_speak(peer, self.peers):
                log.warning("E112 MLLP peer %s is not on the allow-list; add it to mllp_peers", peer)
                return
            while True:
                async with asyncio.timeout(HALF_FRAME_S if framer.pending else IDLE_S):
                    data = await reader.read(65536)
                if not data:
                    return
                frames = framer.feed(data)
                # frames that came together are stored together: one commit for all
                answers = await asyncio.gather(*(self._take(frame, peer) for frame in frames))
                for answer in answers:
                    if answer is not None:
                        writer.write(START + answer + END + RETURN)
                await writer.drain()
        except (ConnectionError, TimeoutError):
            pass        # the peer is gone or silent; what was not acknowledged it sends again
        except ValueError:
            log.warning("MLLP frame over %d bytes refused, connection closed", FRAME_MAX)
        finally:
            writer.close()
            self._open.discard(writer)

    async def _take(self, frame: bytes, peer: str) -> bytes | None:
        """The answer, once the frame is durable; a frame that cannot be kept is answered AR, so that the sender keeps it."""
        now = datetime.now().strftime("%Y%m%d%H%M%S")
        read = receive(frame, now)
        try:
            kept = await self.store.keep_message(frame, read.sender, read.control_id, read.kind, peer, read.job, read.answer,
                                                 "failed" if read.error else "", read.error)
        except StoreError as error:
            return refuse(frame, error, now)
        return kept.ack if kept.duplicate else read.answer
