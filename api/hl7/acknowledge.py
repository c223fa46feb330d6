"""Acknowledgements: original mode (2.5.1 section 2.9.2) and enhanced mode (2.9.3), the error told in ERR."""
from dataclasses import dataclass

from api.hl7.messages import HANDLERS
from api.hl7.reader import Message, escape_text, read_message
from data.errors import MessageError, MessageRefused, OrderRejected, WetreadError

ENHANCED = {"A": "C"}           # AA, AE, AR become CA, CE, CR
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


def receive(raw: bytes, now: str) -> Reception:
    """Read a frame and decide its answer; `now` is YYYYMMDDHHMMSS. Never raises on any bytes."""
    try:
        message = read_message(raw)
    except MessageError as error:
        return Reception(answer_to(None, "AR", error, now), "", "", "", False, str(error))
    handler = HANDLERS.get(message.kind)
    error: WetreadError | None = None
    if not message.control_id:
        error = MessageRefused("MSH-10 (Message Control ID) is empty; send a number that is new for each message")
    elif handler is not None:
        try:
            handler(message)
        except (OrderRejected, MessageRefused) as problem:
            error = problem
    code = "AA" if error is None else "AE"
    return Reception(answer_to(message, code, error, now), message.sender, message.control_id, message.kind,
                     handler is not None and error is None, str(error or ""))


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
    header = next(segment for segment in message.segments if segment.name == "MSH")
    names = [*header.fields[3:7], "", "", "", ""][:4]
    text = ack_text(message.separators, [names[2], names[3], names[0], names[1]], code, header.fields[10] if len(header.fields) > 10 else "",
                    message.get("MSH-9.2"), now, error, header.fields[18] if len(header.fields) > 18 else "",
                    message.get("MSH-11") or "P", message.get("MSH-12") or "2.5.1")
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
