"""What peers do to the wire, each case on a real socket: every frame gets its right answer, or rightly none. docs/hl7.md shows the table."""
import re
from pathlib import Path

import pytest

from tests.api.test_hl7_mllp import exchange, msa

ORDER = (b"MSH|^~\\&|RIS|H|W|R|20261124080000||ORM^O01^ORM_O01|C1|P|2.5.1\rPID|1||7^^^H^MR||Muster^Erika||19600101|F\rORC|NW|P1\r"
         b"OBR|1|P1||X^MRI^L|||||||||||||||||||||||||||^seizure\r")
NEXT = ORDER.replace(b"|C1|", b"|C2|")
OK = ("AA", "C1")


def frame(raw):
    return b"\x0b" + raw + b"\x1c\r"


def cut(raw, *at):
    return [raw[i:j] for i, j in zip((0, *at), (*at, len(raw)), strict=True)]


def with_header(**fields):
    """The order with other MSH fields: h9="ADT^A08" is MSH-9."""
    lines = ORDER.split(b"\r")
    parts = lines[0].split(b"|") + [b""] * 10
    for name, value in fields.items():
        parts[int(name[1:]) - 1] = value.encode()
    return b"\r".join([b"|".join(parts).rstrip(b"|"), *lines[1:]])


def other_delimiters(raw, field, component, repetition, escape, subcomponent):
    return raw.replace(b"MSH|^~\\&", b"MSH" + field + component + repetition + escape + subcomponent).replace(b"|", field).replace(b"^", component)


# name -> (pieces as written to the socket, the answers (MSA-1, MSA-2), messages kept)
CASES = {
    "one byte at a time": (cut(frame(ORDER), *range(1, len(ORDER) + 3)), [OK], 1),
    "cut inside the end mark": (cut(frame(ORDER), len(ORDER) + 2), [OK], 1),
    "two frames in one write": ([frame(ORDER) + frame(NEXT)], [OK, ("AA", "C2")], 2),
    "two hundred frames before an answer is read": ([b"".join(frame(ORDER.replace(b"|C1|", b"|C%d|" % n)) for n in range(200))],
                                                    [("AA", f"C{n}") for n in range(200)], 200),
    "FS without CR": ([b"\x0b" + ORDER + b"\x1c", frame(NEXT)], [OK, ("AA", "C2")], 2),
    "CR CR after FS": ([frame(ORDER) + b"\r\r" + frame(NEXT)], [OK, ("AA", "C2")], 2),
    "noise before and between frames": ([b"\r\nhello " + frame(ORDER) + b"\xff\x00 noise" + frame(NEXT)], [OK, ("AA", "C2")], 2),
    "a frame broken off by the next": ([b"\x0b" + ORDER[:80], frame(NEXT)], [("AA", "C2")], 1),
    "an empty frame": ([frame(b"") + frame(NEXT)], [("AR", ""), ("AA", "C2")], 2),
    "line ends LF": ([frame(ORDER.replace(b"\r", b"\n"))], [OK], 1),
    "line ends CR LF": ([frame(ORDER.replace(b"\r", b"\r\n"))], [OK], 1),
    "empty lines between segments": ([frame(ORDER.replace(b"\r", b"\r\r"))], [OK], 1),
    "no CR after the last segment": ([frame(ORDER.rstrip(b"\r"))], [OK], 1),
    "a byte order mark before MSH": ([frame(b"\xef\xbb\xbf" + ORDER)], [OK], 1),
    "a batch of one": ([frame(b"FHS|^~\\&|RIS\rBHS|^~\\&|RIS\r" + ORDER + b"BTS|1\rFTS|1\r")], [OK], 1),
    "ISO 8859-1 bytes, no character set named": ([frame(ORDER.replace(b"Muster", "Müller".encode("latin-1")))], [OK], 1),
    "a character set that does not exist": ([frame(with_header(h18="KLINGON"))], [OK], 1),
    "UTF-8 named, other bytes sent": ([frame(with_header(h18="UNICODE UTF-8").replace(b"Muster", b"M\xfcller"))], [OK], 1),
    "other delimiters": ([frame(other_delimiters(ORDER, b"#", b"!", b"@", b"%", b"*"))], [OK], 1),
    "a doubled backslash in MSH-2": ([frame(ORDER.replace(b"^~\\&", b"^~\\\\&"))], [OK], 1),
    "the truncation character of version 2.7": ([frame(ORDER.replace(b"^~\\&", b"^~\\&#"))], [OK], 1),
    "version 2.9": ([frame(with_header(h12="2.9"))], [OK], 1),
    "version 2.1 and no message structure": ([frame(with_header(h12="2.1", h9="ORM^O01"))], [OK], 1),
    "a type that is not used": ([frame(with_header(h9="SIU^S12"))], [OK], 1),
    "no message type": ([frame(with_header(h9=""))], [OK], 1),
    "no control id": ([frame(with_header(h10=""))], [("AE", "")], 1),
    "a control id of 300 characters": ([frame(with_header(h10="9" * 300))], [("AA", "9" * 300)], 1),
    "the same message twice": ([frame(ORDER) * 2], [OK, OK], 1),
    "the same control id, other content": ([frame(ORDER) + frame(ORDER.replace(b"seizure", b"headache"))], [OK, OK], 2),
    "an OBX of 5 MB": ([frame(ORDER + b"OBX|1|TX|X^report||" + b"A line of text. " * 327_680 + b"\r")], [OK], 1),
    "1,600 OBX": ([frame(ORDER + b"".join(b"OBX|%d|TX|X^t||line\r" % n for n in range(1600)))], [OK], 1),
    "16,000 components": ([frame(ORDER.replace(b"^seizure", b"^seizure" + b"^x" * 16_000))], [OK], 1),
    "NUL bytes in a field": ([frame(ORDER.replace(b"Muster", b"Mus\x00ter"))], [OK], 1),
    "a line break inside a field": ([frame(ORDER.replace(b"seizure", b"seizure\rsince today"))], [OK], 1),
    "an escape that never ends": ([frame(ORDER.replace(b"seizure", b"seizure \\X41"))], [OK], 1),
    "Z segments everywhere": ([frame(ORDER.replace(b"\rORC", b"\rZPI|x^y\rORC") + b"ZDS|1.2.3\r")], [OK], 1),
    "an unknown order control": ([frame(ORDER.replace(b"ORC|NW", b"ORC|QQ"))], [("AE", "C1")], 1),
    "an order without a question": ([frame(ORDER.replace(b"^seizure", b""))], [("AE", "C1")], 1),
    "an order without OBR": ([frame(ORDER.replace(b"OBR|", b"ZBR|"))], [("AE", "C1")], 1),
    "a patient merged into itself": ([frame(with_header(h9="ADT^A40") + b"MRG|7^^^H^MR\r")], [("AE", "C1")], 1),
    "delimiters that are letters": ([frame(b"MSHABCDEFGH")], [("AR", "")], 1),
    "one delimiter twice": ([frame(b"MSH^^~\\&^RIS")], [("AR", "")], 1),
    "only MSH": ([frame(b"MSH")], [("AR", "")], 1),
    "bytes of something else": ([frame(bytes(range(14, 28)) * 40)], [("AR", "")], 1),
    "an HTTP request on the port": ([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + frame(NEXT)], [("AA", "C2")], 1),
    "enhanced mode that asks for no answer": ([frame(with_header(h15="NE")) + frame(NEXT)], [("AA", "C2")], 2),
    "enhanced mode": ([frame(with_header(h15="AL"))], [("CA", "C1")], 1),
    "an acknowledgement sent to us gets none": ([frame(b"MSH|^~\\&|RIS|H|W|R|1||ACK|C9|P|2.5\rMSA|AA|W1\r") + frame(NEXT)], [("AA", "C2")], 2),
}


@pytest.mark.parametrize("name", list(CASES))
def test_every_abuse_of_the_wire_is_answered_sensibly(tmp_path, name):
    pieces, expected, kept = CASES[name]
    answers, rows = exchange(tmp_path, pieces, len(expected))
    assert [tuple(msa(answer)) for answer in answers] == expected and len(rows) == kept


def test_the_conformance_page_names_every_case():
    page = (Path(__file__).parents[2] / "docs/hl7.md").read_text()
    table = page[page.index("## Abuse of the wire"):]
    shown = {match[1]: match[2] for match in re.finditer(r"^\| ([^|]+) \| ([^|]+) \|$", table, re.M) if match[1] not in ("what a peer does", "---")}
    assert shown == {name: ", ".join(dict.fromkeys(code for code, _ in expected)) for name, (_, expected, _) in CASES.items()}
