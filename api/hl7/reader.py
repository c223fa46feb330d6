"""A linear, tolerant HL7 v2 reader: bytes in, segments in order, nothing dropped. Source: HL7 v2.5.1 chapter 2."""
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from data.errors import MessageError

# MSH-18 (table 0211) -> Python codec; what is not here is tried as UTF-8, then read as Latin-1, which never fails
CHARSETS = {
    "": "", "ASCII": "", "UNICODE": "utf-8", "UNICODE UTF-8": "utf-8", "UTF-8": "utf-8", "UNICODE UTF-16": "utf-16", "UNICODE UTF-32": "utf-32",
    **{f"8859/{n}": f"iso8859_{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "ISO IR6": "ascii", "ISO IR14": "shift_jis", "ISO IR87": "iso2022_jp", "ISO IR159": "iso2022_jp_1", "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr", "CNS 11643-1992": "big5", "BIG-5": "big5",
}
LINES_MAX, FIELDS_MAX = 50_000, 1_000_000       # of a message; a study's ORU has hundreds of segments
SEGMENT_NAME = re.compile(r"[A-Z][A-Z0-9]{2}$")


class Segment(NamedTuple):
    name: str
    fields: tuple[str, ...]     # as sent, escapes kept; fields[0] is the name, fields[n] is NAME-n (MSH-1 is the separator)


@dataclass(frozen=True)
class Message:
    raw: bytes
    separators: str             # field, component, repetition, escape, subcomponent
    segments: tuple[Segment, ...]
    notes: tuple[str, ...] = ()
    firsts: dict[str, Segment] = field(default_factory=dict)    # the first segment of each name
    authority: str = ""         # assigning authority of our patients; "" knows none

    @property
    def kind(self) -> str:
        """MSH-9 as TYPE^EVENT."""
        return "^".join(part for part in (self.get("MSH-9.1"), self.get("MSH-9.2")) if part)

    @property
    def control_id(self) -> str:
        return self.get("MSH-10")

    @property
    def sender(self) -> str:
        return f"{self.get('MSH-3')}|{self.get('MSH-4')}"

    def get(self, path: str, segment: Segment | None = None) -> str:
        """"PID-5.1" of the first PID (or of `segment`), first repetition, unescaped; "" when absent."""
        name, numbers = address(path)
        segment = segment or self.firsts.get(name)
        if segment is None or numbers[0] >= len(segment.fields):
            return ""
        value = segment.fields[numbers[0]]
        if not value or (name == "MSH" and numbers[0] <= 2):
            return value
        return self.part(value.partition(self.separators[2])[0], numbers)

    def repetitions(self, path: str, segment: Segment | None = None) -> list[str]:
        """Every repetition of a field, component or subcomponent ("PID-3", "PID-3.1", "PID-3.4.2")."""
        name, numbers = address(path)
        segment = segment or self.firsts.get(name)
        if segment is None or numbers[0] >= len(segment.fields):
            return []
        if name == "MSH" and numbers[0] <= 2:
            return [segment.fields[numbers[0]]]
        return [self.part(value, numbers) for value in segment.fields[numbers[0]].split(self.separators[2])]

    def part(self, value: str, numbers: tuple[int, ...]) -> str:
        """The component, or subcomponent, that `numbers` name after the field, unescaped; of one to delete nothing."""
        for number, separator in zip(numbers[1:], (self.separators[1], self.separators[4]), strict=False):
            parts = value.split(separator, number)
            value = parts[number - 1] if number <= len(parts) else ""
        return "" if value == DELETE else unescape(value, self.separators)

    def deletes(self, path: str, segment: Segment | None = None) -> bool:
        """Whether the field says that what is known of it is to go (2.5.1 section 2.5.3)."""
        name, numbers = address(path)
        segment = segment or self.firsts.get(name)
        return segment is not None and numbers[0] < len(segment.fields) and segment.fields[numbers[0]].strip() == DELETE

    def text(self, path: str, segment: Segment | None = None) -> str:
        """A whole field as words: repetitions by ;, components by blanks; `""` (delete) is empty. Unescaped last."""
        name, numbers = address(path)
        segment = segment or self.firsts.get(name)
        if segment is None or numbers[0] >= len(segment.fields) or not segment.fields[numbers[0]]:
            return ""
        _, component, repetition, _, subcomponent = self.separators
        said = []
        for value in segment.fields[numbers[0]].split(repetition):
            parts = value.split(component)
            if len(numbers) > 1:
                parts = parts[numbers[1] - 1:numbers[1]]
            words = [unescape(p, self.separators).strip() for part in parts for p in part.split(subcomponent)]
            said.append(" ".join(w for w in words if w and w != DELETE))
        return "; ".join(s for s in said if s)


@lru_cache(maxsize=1024)
def address(path: str) -> tuple[str, tuple[int, ...]]:
    """"PID-3.4.2" as ("PID", (3, 4, 2))."""
    name, _, rest = path.partition("-")
    return name, tuple(int(number) for number in rest.split("."))


def read_message(raw: bytes, charset: str = "", authority: str = "") -> Message:
    """Read one message, of `charset` (table 0211) when its MSH-18 is empty, for patients of `authority`.

    Raises: MessageError when it has no MSH or no usable delimiters, or more than one MSH.
    """
    body = raw.strip(b"\x0b\x1c\r\n\t \x00").removeprefix(b"\xef\xbb\xbf")
    at = body.find(b"MSH")
    if at > 0 and body[:3] in (b"FHS", b"BHS"):
        body = body[at:]            # a batch of one: its envelope carries nothing we use
    if not body.startswith(b"MSH") or len(body) < 8:
        raise MessageError("MSH is missing at the start; send one HL7 v2 message a frame, beginning with MSH")
    if too_much(body):
        raise MessageError(f"the message has more than {LINES_MAX} lines or {FIELDS_MAX} fields; send it in several messages")
    first = body[:4096].replace(b"\n", b"\r").partition(b"\r")[0].decode("latin-1")
    if len(first) < 4:
        raise MessageError("MSH ends after its name; send |^~\\& and the fields after it")
    separators = delimiters(first)
    text, notes = decode(body, first, separators, charset)
    lines: list[list[str]] = []
    for words in text.replace("\r\n", "\r").replace("\n", "\r").split("\r"):
        if not words or words.isspace():
            continue
        if lines and SEGMENT_NAME.match(words.partition(separators[0])[0]) is None:
            # a bare line break inside a field: some senders do it; the words belong to the field before
            lines[-1].append(words)
            notes.append("a line break inside a field was kept as text")
        else:
            lines.append([words])
    segments = []
    for broken in lines:
        parts = "\n".join(broken).split(separators[0])
        if parts[0] == "MSH":
            parts = ["MSH", separators[0], *parts[1:]]
        segments.append(Segment(parts[0], tuple(parts)))
    if sum(segment.name == "MSH" for segment in segments) > 1:
        raise MessageError("the frame holds more than one MSH; send one message a frame, and of a batch each message by itself")
    firsts = {segment.name: segment for segment in reversed(segments)}
    return Message(raw, separators, tuple(segments), tuple(dict.fromkeys(notes)), firsts, authority)


def too_much(raw: bytes) -> bool:
    """Whether a message has more lines or fields than are read; told by its bytes, at the cost of looking through them."""
    return raw.count(b"\r") + raw.count(b"\n") > LINES_MAX or raw.count(raw[3:4]) > FIELDS_MAX


def delimiters(first: str) -> str:
    """MSH-1 and MSH-2; missing ones take the recommended value (2.5.1 section 2.5.4)."""
    field_separator = first[3]
    if field_separator.isalnum() or field_separator.isspace() or not field_separator.isascii():
        raise MessageError("MSH-1 (Field Separator) is a letter, digit, blank or no ASCII; send |")
    # some senders double the backslash (|^~\\\\&|): each character counts once
    encoding = "".join(dict.fromkeys(first[4:].split(field_separator, 1)[0]))[:4]
    separators = field_separator + encoding + "^~\\&"[len(encoding):]
    if len(set(separators)) != 5 or not separators.isascii() or any(mark.isalnum() for mark in separators):
        raise MessageError("MSH-1 and MSH-2 use one character twice, a letter, a digit or no ASCII; send |^~\\&")
    return separators


def decode(body: bytes, first: str, separators: str, charset: str) -> tuple[str, list[str]]:
    fields = first.split(separators[0])
    named = fields[17].split(separators[2])[0].strip().upper() if len(fields) > 17 else ""
    codec = CHARSETS.get(named or charset)
    if codec:
        try:
            text = body.decode(codec)
            if text.startswith(first[:4]):      # what is named may not be what came: ASCII is also something as UTF-16
                return text, []
        except UnicodeError:
            pass
    notes = [] if codec is not None and not codec else ["MSH-18 (Character Set) is unknown or wrong"]
    try:
        return body.decode("utf-8"), notes
    except UnicodeDecodeError:
        return body.decode("latin-1"), [*notes, "bytes that are no UTF-8 were read as ISO 8859-1"]


def unescape(value: str, separators: str) -> str:
    """Undo the escape sequences of 2.5.1 section 2.7; unknown ones are left as sent."""
    mark = separators[3]
    if mark not in value:
        return value
    plain = {"F": separators[0], "S": separators[1], "R": separators[2], "E": separators[3], "T": separators[4]}

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code in plain:
            return plain[code]
        if code in ("H", "N"):
            return ""               # highlighting
        if code.startswith("."):
            return {".br": "\n", ".sp": "\n", ".ce": "\n", ".fi": "", ".nf": ""}.get(code[:3].lower(), "")
        if code[0] == "X" and len(code) % 2:
            try:
                data = bytes.fromhex(code[1:])
            except ValueError:
                return match[0]
            try:
                return data.decode("utf-8")
            except UnicodeDecodeError:
                return data.decode("latin-1")
        if code[0] in "CM":
            return ""               # a switch of character set; MSH-18 alone decides here
        return match[0]

    escape = re.escape(mark)
    return re.sub(f"{escape}([^{escape}]{{1,80}}){escape}", one, value)


def escape_text(text: str, separators: str = "|^~\\&") -> str:
    """Text that decodes back to itself inside a field: delimiters, line breaks, control characters and Unicode's own line ends."""
    field_, component, repetition, mark, subcomponent = separators
    names = {mark: "E", field_: "F", component: "S", repetition: "R", subcomponent: "T"}
    said = []
    for letter in text:
        if letter in names:
            said.append(f"{mark}{names[letter]}{mark}")
        elif letter == "\n":
            said.append(f"{mark}.br{mark}")
        elif ord(letter) < 32 or letter in LINE_ENDS:
            said.append(f"{mark}X{letter.encode().hex().upper()}{mark}")
        else:
            said.append(letter)
    return "".join(said)


DELETE = '""'
LINE_ENDS = "\x7f\x85\u2028\u2029"
