"""Acknowledgements: original mode (2.5.1 section 2.9.2) and enhanced mode (2.9.3), the error told in ERR."""
import re
from dataclasses import dataclass

from api.hl7.messages import CHECKS, HANDLERS
from api.hl7.reader import CHARSETS, SEGMENT_NAME, Message, escape_text, read_message, too_much
from data.errors import MessageError, MessageRefused, OrderRejected, WetreadError

ENHANCED = {"A": "C"}           # AA, AE, AR become CA, CE, CR
ANSWERS = ("ACK", "MCF")        # messages that are answers; they get none
CONDITIONS = {"OrderRejected": "101", "MessageRefused": "103", "MessageError": "100"}     # ERR-3, table 0357


@dataclass(frozen=True)
class Reception:
    """What is known of a frame before it is stored: how to answer it, and whether there is work in it."""

    answer: bytes | None        # None when the sender asked for no acknowledgement (MSH-15 = NE)
    sender: str
    control_id: str
    kind: str
    job: bool                   # a handler will use it
    error: str                  # "" when accepted


def receive(raw: bytes, now: str, charset: str = "", authority: str = "") -> Reception:
    """Read a frame and decide its answer; `now` is YYYYMMDDHHMMSS. Never raises on any bytes."""
    return (None if authority else glance(raw, now)) or read(raw, now, charset, authority)


def glance(raw: bytes, now: str) -> Reception | None:
    """What `read` says of a plain new order, at a fifth of its cost; None for all that is not certain without a full reading."""
    if not raw.startswith(b"MSH|^~\\&|") or b"\n" in raw or not raw.isascii() or too_much(raw):
        return None
    lines = raw.decode("ascii").split("\r")
    if len(lines) < 2 or not SEGMENT_NAME.match(lines[1].partition("|")[0]):     # else it is the rest of an MSH that was broken
        return None
    head = lines[0].split("|")
    if len(head) < 12 or "\\" in lines[0][9:] or "~" in lines[0][9:] or any(head[14:16]) or CHARSETS.get(head[17] if len(head) > 17 else "") is None:
        return None
    kind, control_id = "^".join(head[8].split("^")[:2]), head[9]
    if kind not in CHECKS or not control_id:
        return None
    opened = asked = people = 0
    named = False
    for line in lines[1:]:
        if line.startswith("MSH"):
            return None
        if line.startswith("ORC|"):
            if opened != asked or line[4:7] != "NW|" or not LETTER_OR_DIGIT.match(line[7:]):
                return None
            opened += 1
        elif line.startswith("OBR|"):
            fields = line.split("|", 32)
            if opened != asked + 1 or not any(LETTERS.search(said) for said in fields[13:32:18]):     # OBR-13, OBR-31
                return None
            asked += 1
        elif line.startswith("PID|"):
            people += 1
            named = LETTER_OR_DIGIT.match(line.split("|", 4)[3] if line.count("|") > 2 else "") is not None
    if not named or people != 1 or not asked or opened != asked:
        return None
    event = kind.partition("^")[2]
    ack = ack_text("|^~\\&", [head[4], head[5], head[2], head[3]], "AA", control_id, event, now, None, head[17] if len(head) > 17 else "",
                   head[10] or "P", head[11] or "2.5.1")
    return Reception(ack.encode(), f"{head[2]}|{head[3]}", control_id, kind, True, "")


LETTER_OR_DIGIT = re.compile(r"[A-Za-z0-9]")
LETTERS = re.compile(r"[A-Za-z]{2}")


def read(raw: bytes, now: str, charset: str = "", authority: str = "") -> Reception:
    """The full reading, for any bytes."""
    try:
        message = read_message(raw, charset, authority)
    except MessageError as error:
        return Reception(answer_to(None, "AR", error, now), "", "", "", False, str(error))
    kind, control_id = message.kind, message.control_id
    if message.get("MSH-9.1") in ANSWERS:       # else two systems would acknowledge each other's acknowledgements for ever
        return Reception(None, message.sender, control_id, kind, False, "")
    handler = HANDLERS.get(kind)
    error: WetreadError | None = None
    if not control_id:
        error = MessageRefused("MSH-10 (Message Control ID) is empty; send a number that is new for each message")
    elif handler is not None:
        try:
            CHECKS.get(kind, handler)(message)
        except (OrderRejected, MessageRefused) as problem:
            error = problem
    code = "AA" if error is None else "AE"
    # an order without a question is told to its sender, and reaches a person all the same
    usable = handler is not None and (error is None or isinstance(error, OrderRejected))
    return Reception(answer_to(message, code, error, now), message.sender, control_id, kind, usable, str(error or ""))


def refuse(raw: bytes, error: WetreadError, now: str) -> bytes | None:
    """The answer to a frame that could not be kept: AR, whatever stands in it."""
    try:
        return answer_to(read_message(raw), "AR", error, now)
    except MessageError:
        return answer_to(None, "AR", error, now)


def answer_to(message: Message | None, code: str, error: WetreadError | None, now: str) -> bytes | None:
    """The ACK as bytes in the sender's delimiters and character set; MSA-2 is MSH-10 as sent."""
    if message is None:
        return ack_text("|^~\\&", ["", "", "", ""], code, "", "", now, error, "", "P", "2.5.1").encode()
    accept = message.get("MSH-15").upper()
    if accept:                          # enhanced mode
        code = "C" + code[1]
        if accept == "NE" or (accept == "ER" and code == "CA") or (accept == "SU" and code != "CA"):
            return None
    header = message.firsts["MSH"]
    names = [*header.fields[3:7], "", "", "", ""][:4]
    text = ack_text(message.separators, [names[2], names[3], names[0], names[1]], code, header.fields[10] if len(header.fields) > 10 else "",
                    message.get("MSH-9.2"), now, error, header.fields[18] if len(header.fields) > 18 else "",
                    message.get("MSH-11") or "P", message.get("MSH-12") or "2.5.1")
    if text.isascii():
        return text.encode()
    return text.encode("utf-8", "surrogatepass") if "UTF" in text or not header_is_latin(message) else text.encode("latin-1", "replace")


def header_is_latin(message: Message) -> bool:
    try:
        message.raw.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def ack_text(separators: str, names: list[str], code: str, control_id: str, event: str, now: str, error: WetreadError | None,
             charset: str, processing: str, version: str) -> str:
    bar, caret = separators[0], separators[1]
    kind = f"ACK{caret}{event}" if event else "ACK"
    head = ["MSH", separators[1:], *names, now, "", kind, f"W{control_id}" if control_id else f"W{now}", processing, version]
    if charset:
        head += ["", "", "", "", "", charset]
    lines = [bar.join(head), bar.join(["MSA", code, control_id])]
    if error is not None:
        condition = CONDITIONS.get(type(error).__name__, "207")
        lines.append(bar.join(["ERR", "", "", condition, "E", error.code, "", "", escape_text(str(error), separators)]))
    return "\r".join(lines) + "\r"
