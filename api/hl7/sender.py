"""Sends the outbox: one connection a destination, each message waited for, its MSA-2 checked.

What belongs together (one patient, one order, one study) leaves in the order it was made; what waits holds up nothing else.
"""
import logging
import random
import select
import socket
import ssl
import threading
import time
from typing import Any

from api.hl7.reader import read_message
from api.hl7.tls import client_tls
from api.jobs import Later
from api.settings import Destination, Settings
from api.store import Job, Store, later, now
from data.errors import MessageError

log = logging.getLogger("wetread.outbox")

CONNECT_S, ANSWER_S = 10.0, 20.0
ANSWER_MAX = 2**20
BACKOFF_S, BACKOFF_MAX_S = 1.0, 60.0
TURN_S = 5.0                # then other work has its turn
BATCH = 200                 # queued rows looked through at once
REJECTED_MAX = 20           # AR to one message, over a quarter of an hour; then it is a dead letter
ALL_REJECTED = 3            # AR one after the other: the destination takes nothing
SIGNED = ("final", "amended")
START, END = b"\x0b", b"\x1c\r"


class Unreachable(Exception):
    """No connection to the destination."""


class Unanswered(Exception):
    """The message went out, and no answer to it came."""


class Connection:
    """One MLLP connection, opened on first use and again after a failure; used by one thread at a time."""

    def __init__(self, destination: Destination, tls: ssl.SSLContext | None = None, answer_s: float = ANSWER_S) -> None:
        self.host, self.port, self.tls, self.answer_s = destination.host, destination.port, tls, answer_s
        self.lock = threading.Lock()
        self._socket: socket.socket | None = None

    def exchange(self, raw: bytes, control_id: str) -> tuple[str, bytes]:
        """Send one message; (MSA-1, the answer) of the answer to it. Raises Unreachable or Unanswered, the connection then closed.

        Answers to other messages are passed over: a late one must never be taken for this message's.
        """
        try:
            self.open()
        except OSError as error:
            self.close()
            raise Unreachable(type(error).__name__) from None
        assert self._socket is not None
        try:
            self._socket.settimeout(self.answer_s)
            self._socket.sendall(START + raw + END)
            end, held = time.monotonic() + self.answer_s, b""
            while (left_s := end - time.monotonic()) > 0:
                self._socket.settimeout(left_s)
                piece = self._socket.recv(65536)
                if not piece or len(held) > ANSWER_MAX:
                    raise ConnectionError("closed before the answer was whole")
                held += piece
                while b"\x1c" in held:
                    frame, _, held = held.partition(b"\x1c")
                    code, about = acknowledged(frame.strip(b"\x0b\r\n"))
                    if about == control_id:
                        return code, frame.strip(b"\x0b\r\n")
            raise TimeoutError
        except OSError as error:
            self.close()
            raise Unanswered(type(error).__name__) from None

    def open(self) -> None:
        """A connection that can be used: one that the peer closed, or on which something unasked came, is opened anew."""
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            self.close()
        if self._socket is None:
            plain = socket.create_connection((self.host, self.port), CONNECT_S)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self._socket = self.tls.wrap_socket(plain, server_hostname=self.host) if self.tls else plain
            except BaseException:
                plain.close()
                raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Sender:
    def __init__(self, store: Store, settings: Settings, answer_s: float = ANSWER_S, backoff_s: float = BACKOFF_S) -> None:
        self.store, self.backoff_s = store, backoff_s
        self._lines = {row.name: Connection(row, client_tls(settings.home, row), answer_s) for row in settings.outbox}

    def send_queue(self, job: Job) -> None:
        """Job "send": send what is due for one destination, and be due again while anything is queued."""
        name = job.payload["destination"] if "destination" in job.payload else self.store.outbox(job.payload["outbox_id"])["destination"]
        line = self._lines.get(name)
        if line is None:
            with self.store.effect(job) as tx:
                tx.change("outbox", {"destination": name, "state": "queued"}, state="failed", reason="destination is not configured", updated=now())
            log.error("destination %s is not in the settings; its messages are dead letters", name)
            return
        end = time.monotonic() + TURN_S
        with line.lock:
            while moved := self.send_batch(name, line, end):
                if time.monotonic() > end:
                    break
        self.rest(job, name, moved)

    def send_batch(self, name: str, line: Connection, end: float) -> bool:
        """Send what is due of the oldest queued rows; whether any was. Raises Later when the destination does not answer."""
        with self.store.read() as tx:
            rows = tx.find("outbox", destination=name, state="queued", order=["id"], limit=BATCH)
            down = tx.one("outages", destination=name, ended="")
        held_up: set[tuple[str, str]] = set()
        moved, rejected = False, 0
        for row in rows:
            if moved and time.monotonic() > end:
                break
            if row["not_before"] > now() or lanes(row) & held_up:
                held_up |= lanes(row)
                continue
            if reason := self.outdated(row):
                self.mark(row, "superseded", reason)
                moved = True
                continue
            try:
                code, answer = line.exchange(row["raw"], row["control_id"])
            except Unreachable as error:
                raise self.outage(name, f"no connection ({error})") from None
            except Unanswered as error:
                self.wait(row, f"no answer ({error})")
                raise self.outage(name, f"no answer ({error})") from None
            if code in ("AR", "CR"):
                held_up |= lanes(row)
                rejected += 1
                if row["tries"] + 1 >= REJECTED_MAX:
                    self.mark(row, "failed", f"answered {code} {REJECTED_MAX} times {why(answer)}".strip(), answer)
                else:
                    self.wait(row, f"answered {code}")
                if rejected >= ALL_REJECTED:
                    raise self.outage(name, f"answers {code} to everything")
                continue
            moved, rejected = True, 0
            if down:
                self.outage_over(name)
                down = None
            if code in ("AA", "CA"):
                self.mark(row, "sent", "", answer)
            else:
                log.error("message %s to %s is a dead letter: answered %s", row["control_id"], name, code or "without MSA-1")
                self.mark(row, "failed", f"answered {code or 'no MSA-1'} {why(answer)}".strip(), answer)
        return moved

    def rest(self, job: Job, name: str, moved: bool) -> None:
        """End the job when nothing is queued, in the transaction that sees so; else it is due again when the next message is."""
        with self.store.read() as tx:
            queued = tx.count("outbox", destination=name, state="queued")
            # what waits for one that is tried later is due with that one
            waiting = tx.find("outbox", destination=name, state="queued", ranges=[("not_before", ">=", now())], order=["not_before"], limit=1,
                              columns=("not_before",))
        if queued:
            raise Later("more is queued", 0.0 if moved or not waiting else seconds_until(waiting[0]["not_before"]))
        with self.store.effect(job) as tx:
            if tx.count("outbox", destination=name, state="queued"):        # came just now
                tx.change("jobs", {"id": int(job.id)}, state="queued", not_before=now(), lease_until=None)
                tx.enqueued = True

    def outdated(self, row: dict[str, Any]) -> str:
        """Why a message must no longer leave; "" when it may.

        A preliminary report never follows a signed one, an older message of one order or study never a newer one that was taken, and what
        calls itself final or corrected is of a report that a person signed.
        """
        with self.store.read() as tx:
            if row["result_status"] == "P" and row["study_id"] and (
                    tx.count("drafts", study_id=row["study_id"], status=list(SIGNED))
                    or tx.count("outbox", study_id=row["study_id"], result_status=["F", "C"])):
                return "a signed report has taken its place"
            if row["result_status"] in ("F", "C"):
                draft = tx.one("drafts", id=row["draft_id"])
                if draft is None or draft["status"] not in SIGNED or obr_25(row["raw"]) != row["result_status"]:
                    return "its report is not signed"
            whose = {name: row[name] for name in ("study_id", "order_id") if row[name]}
            column = "study_id" if row["kind"] == "ORU^R01" and row["study_id"] else "order_id"
            if column in whose:
                newest = tx.find("outbox", destination=row["destination"], kind=row["kind"], state="sent", order=["-id"], limit=1, columns=("id",),
                                 **{column: whose[column]})
                if newest and newest[0]["id"] > row["id"]:
                    return "a newer message of the same was sent"
        return ""

    def wait(self, row: dict[str, Any], reason: str) -> None:
        with self.store.write() as tx:
            tx.change("outbox", {"id": row["id"], "state": "queued"}, tries=row["tries"] + 1, not_before=later(self.pause_s(row["tries"])),
                      reason=reason, updated=now())

    def mark(self, row: dict[str, Any], state: str, reason: str, answer: bytes | None = None) -> None:
        with self.store.write() as tx:
            tx.change("outbox", {"id": row["id"], "state": "queued"}, state=state, reason=reason, ack=answer, updated=now(),
                      tries=row["tries"] + (state != "superseded"))

    def outage(self, name: str, reason: str) -> Later:
        """Note that the destination does not take messages; one alert an outage, however long it lasts."""
        with self.store.write() as tx:
            if tx.add("outages", destination=name, began=now(), ended="", reason=reason, tries=0):
                log.error("destination %s takes no messages: %s; they wait in the outbox and are tried again", name, reason)
            row = tx.one("outages", destination=name, ended="", lock=True)
            assert row is not None
            tx.change("outages", {"id": row["id"]}, tries=row["tries"] + 1)
        return Later(reason, self.pause_s(row["tries"]))

    def outage_over(self, name: str) -> None:
        with self.store.write() as tx:
            if tx.change("outages", {"destination": name, "ended": ""}, ended=now()):
                log.info("destination %s takes messages again", name)

    def pause_s(self, tries: int) -> float:
        """Twice as long each time, up to a minute; with jitter, so that destinations that fell together are not called together."""
        return random.uniform(0.5, 1.0) * min(BACKOFF_MAX_S, self.backoff_s * 2.0 ** min(tries, 10))


def lanes(row: dict[str, Any]) -> set[tuple[str, str]]:
    """What a message belongs to; messages that share one of them keep their order."""
    return {(name, row[name]) for name in ("patient_id", "order_id", "study_id") if row[name]}


def acknowledged(answer: bytes) -> tuple[str, str]:
    """(MSA-1, MSA-2), empty when the answer is no acknowledgement."""
    try:
        message = read_message(answer)
    except MessageError:
        return "", ""
    return message.get("MSA-1").upper(), message.get("MSA-2")


def why(answer: bytes) -> str:
    """The receiver's own words, kept with the message and never logged."""
    message = read_message(answer)      # it was read before
    return " ".join(word for word in (message.get("ERR-3.1"), message.get("ERR-2"), message.get("MSA-3") or message.get("ERR-8")) if word)[:200]


def obr_25(raw: bytes) -> str:
    try:
        return read_message(raw).get("OBR-25")
    except MessageError:
        return ""


def seconds_until(time_: str) -> float:
    from datetime import UTC, datetime

    return max(0.0, (datetime.fromisoformat(time_) - datetime.now(UTC)).total_seconds()) if time_ else 0.0
