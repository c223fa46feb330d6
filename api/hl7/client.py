"""A small MLLP client for `wetread send` and the demo: one connection, one message at a time, its acknowledgement checked."""
import base64
import json
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data.errors import InputError, MessageError, StoreError, WetreadError

ANSWER_S = 30
QUIET_S = 2
START, END = b"\x0b", b"\x1c\r"
NEXT = re.compile(rb"(?:\A|(?<=[\r\n]))(?=MSH[^A-Za-z0-9\s])")


def send_files(host: str, port: int, paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Send every message of HL7 files (one or several, framed or not) and of JSONL rows with message or message_base64.

    A file that holds none is a row that is not ok, and the others are sent.
    """
    named: list[tuple[str, bytes]] = []
    bad = 0
    for path in paths:
        try:
            named += [(str(path), raw) for raw in messages_in(path)]
        except WetreadError as error:
            bad += 1
            yield {"file": str(path), "control_id": "", "ack": "", "ok": False, "text": str(error)}
    if bad and not named:
        return
    for (name, _), answer in zip(named, send_messages(host, port, (raw for _, raw in named)), strict=True):
        yield {"file": name, **answer}


def messages_in(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a file with HL7 v2 messages") from None
    if path.suffix == ".jsonl":
        found = []
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                found.append(message_of(line, f"{path} line {number}"))
        return found
    found = []
    for part in data.split(b"\x1c") if START in data else [data]:
        found += [piece.strip(b"\x0b\r\n") for piece in NEXT.split(part) if piece.strip(b"\x0b\r\n")]
    if not found or not found[0].startswith(b"MSH"):
        raise MessageError(f"{path} has no MSH at the start; give HL7 v2 messages, each beginning with MSH")
    return found


def message_of(line: bytes, where: str) -> bytes:
    try:
        row = json.loads(line)
        if "message_base64" in row:
            return base64.b64decode(row["message_base64"], validate=True)
        return str(row["message"]).encode()
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{where} has no message; give a JSON object with message or message_base64") from None


def send_messages(host: str, port: int, messages: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """One row {control_id, ack, ok, text} a message; `ok` is AA or CA with the right MSA-2. Raises StoreError when nobody answers there."""
    try:
        connection = socket.create_connection((host, port), ANSWER_S)
    except OSError as error:
        raise StoreError(f"no MLLP listener at {host}:{port} ({error.strerror or 'no answer'}); start wetread serve, or check the port") from None
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pending = b""
        for raw in messages:
            sent_id = field(raw, b"MSH", 10)
            quiet = field(raw, b"MSH", 15) in ("NE", "ER", "SU")      # never, on error only, on success only (HL7 table 0155)
            connection.settimeout(QUIET_S if quiet else ANSWER_S)
            connection.sendall(START + raw + END)
            try:
                while END not in pending:
                    data = connection.recv(65536)
                    if not data:
                        raise StoreError(f"{host}:{port} closed the connection before an acknowledgement; see its log, and send again")
                    pending += data
            except TimeoutError:
                if quiet:
                    connection.settimeout(ANSWER_S)
                    yield {"control_id": sent_id, "ack": "", "ok": True, "text": f"no acknowledgement asked for (MSH-15 {field(raw, b'MSH', 15)})"}
                    continue
                raise StoreError(f"{host}:{port} sent no acknowledgement in {ANSWER_S} s; see its log, and send again") from None
            frame, _, pending = pending.partition(END)
            code, answered = field(frame, b"MSA", 1), field(frame, b"MSA", 2)
            yield {"control_id": sent_id, "ack": code, "ok": code in ("AA", "CA") and answered == sent_id,
                   "text": field(frame, b"MSA", 3) or field(frame, b"ERR", 8)}


def field(raw: bytes, segment: bytes, number: int) -> str:
    """A field by its place among the separators; MSH-1 is the separator itself."""
    for line in re.split(rb"[\r\n]+", raw.lstrip(START)):
        if line[:3] == segment:
            separator = raw.lstrip(START)[3:4] or b"|"
            parts = line.split(separator)
            place = number - 1 if segment == b"MSH" else number
            return parts[place].decode("utf-8", "replace") if place < len(parts) else ""
    return ""
