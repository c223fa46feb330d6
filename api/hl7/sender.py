"""Sends the outbox: one connection a destination, each message waited for, its MSA-2 checked."""
import socket
import threading

from api.hl7.reader import read_message
from api.jobs import Dead, Later
from api.settings import Settings
from api.store import Job, Store
from data.errors import MessageError

TIMEOUT_S = 20.0
ANSWER_MAX = 2**20
RETRY_S = 15.0
START, END = b"\x0b", b"\x1c\r"


class Connection:
    """One MLLP connection, opened on first use and again after a failure; used by one thread at a time."""

    def __init__(self, host: str, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self.host, self.port, self.timeout_s = host, port, timeout_s
        self.lock = threading.Lock()
        self._socket: socket.socket | None = None

    def exchange(self, raw: bytes) -> bytes:
        """Send one message, return its answer; raises OSError, after which the connection is closed.

        A late answer must never be taken for the next message's, so a connection that timed out is not used again.
        """
        try:
            if self._socket is None:
                self._socket = socket.create_connection((self.host, self.port), self.timeout_s)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(START + raw + END)
            answer = b""
            while not answer.endswith(END):
                piece = self._socket.recv(65536)
                if not piece or len(answer) > ANSWER_MAX:
                    raise ConnectionError("closed before the answer was whole")
                answer += piece
            return answer.strip(START + END)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Sender:
    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self._lines = {row.name: Connection(row.host, row.port) for row in settings.outbox}

    def send_outbox(self, job: Job) -> None:
        """AA or CA: sent. AE, CE or an answer to another message: dead at once. AR, CR, silence: tried again."""
        row = self.store.outbox(job.payload["outbox_id"])
        if row["state"] == "sent":
            return
        line = self._lines.get(row["destination"])
        if line is None:
            raise Dead("destination is not configured")
        try:
            with line.lock:
                answer = line.exchange(row["raw"])
        except OSError as error:
            raise Later(f"no answer from {row['destination']} ({type(error).__name__})", RETRY_S) from None
        code, about = acknowledged(answer)
        if code in ("AA", "CA") and about == row["control_id"]:
            with self.store.effect(job) as tx:
                self.store.mark_outbox(row["id"], "sent", ack=answer, tx=tx)
            return
        if code in ("AR", "CR") and about == row["control_id"]:
            raise Later(f"{row['destination']} answered {code}", RETRY_S)
        line.close()
        raise Dead(f"{row['destination']} answered {code or 'no MSA'}" + ("" if about == row["control_id"] else " to another message"))


def acknowledged(answer: bytes) -> tuple[str, str]:
    """(MSA-1, MSA-2), empty when the answer is no acknowledgement."""
    try:
        message = read_message(answer)
    except MessageError:
        return "", ""
    return message.get("MSA-1").upper(), message.get("MSA-2")
