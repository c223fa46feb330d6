"""The HL7 reader keeps every segment, and what is escaped decodes back to itself."""
import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.hl7.messages import CHECKS, HANDLERS
from api.hl7.reader import escape_text, read_message
from data.errors import MessageError, MessageRefused, OrderRejected
from data.records import PatientMerge

ORDER = ("MSH|^~\\&|RIS|HOSP|WETREAD|RAD|20261124080000||ORM^O01|C1|P|2.5.1\r"
         "PID|1||A1^^^X^PI~77^^^HOSP^MR||Test^Erika||19920512|F\rPV1|1|E|ED^1\rAL1|1|DA|^iodinated contrast||hives\r"
         "ORC|NW|P1|||SC||^^^^^S\rOBR|1|P1||MRB^MRI BRAIN^L||||||||||||||ACC1|||||||||||||^first seizure\\T\\fall\rNTE|1||No trauma\\.br\\afebrile\r"
         "OBX|1|NM|33914-3^GFR^LN||28|mL/min|||||F|||20261120\rZDS|1.2.840.5^^Application^DICOM\r"
         "ORC|NW|P2\rOBR|2|P2||CTH^CT HEAD^L|||||||||||||||||||||||||||^headache\r")


def test_an_order_message_becomes_its_orders():
    one, two = HANDLERS["ORM^O01"](read_message(ORDER.encode()))
    assert (one.placer_number, one.accession_number, one.ordered_exam, one.priority) == ("P1", "ACC1", "MRI BRAIN", "STAT")
    assert one.patient.id == "77" and one.patient.sex == "F" and one.age_years == 34
    assert one.text == "first seizure&fall\nNo trauma\nafebrile"
    assert one.facts.egfr == 28 and one.facts.egfr_date == "20261120" and one.facts.allergies == ("iodinated contrast: hives",)
    assert one.study_instance_uid == "1.2.840.5"
    assert two.placer_number == "P2" and two.text == "headache" and two.study_instance_uid == ""


@pytest.mark.parametrize("ending", ["\r", "\n", "\r\n"])
def test_line_ends_and_z_segments_are_kept_in_order(ending):
    message = read_message(ORDER.replace("\r", ending).encode())
    assert [s.name for s in message.segments] == ["MSH", "PID", "PV1", "AL1", "ORC", "OBR", "NTE", "OBX", "ZDS", "ORC", "OBR"]


@pytest.mark.parametrize("charset, codec", [("UNICODE UTF-8", "utf-8"),
                                            ("8859/1", "latin-1"), ("", "utf-8"), ("", "latin-1"), ("ISO IR87", "iso2022_jp")])
def test_names_are_read_in_the_named_character_set(charset, codec):
    name = "山田" if codec == "iso2022_jp" else "Müller"
    raw = f"MSH|^~\\&|A|B|C|D|20260101||ORM^O01|1|P|2.5||||||{charset}\rPID|||7||{name}^X".encode(codec)
    assert read_message(raw).get("PID-5.1") == name


@given(st.text(max_size=80).filter(lambda t: ("\r" not in t and t.isprintable()) or ("\n" in t and "\r" not in t)))
def test_escaped_text_decodes_to_itself_in_one_field(text):
    text = "".join(c for c in text if c == "\n" or (c.isprintable() and not c.isspace()) or c == " ")
    message = read_message(f"MSH|^~\\&|A|B|C|D|1||ORU^R01|1|P|2.5||||||UNICODE UTF-8\rOBX|1|TX|x||{escape_text(text)}|end".encode())
    assert message.get("OBX-5.1") == text and message.get("OBX-6") == "end"


@pytest.mark.parametrize("raw", [b"", b"\x00\xff\xfe", b"PID|1", b"MSH", b"MSHAAAAA|"])
def test_bytes_that_are_no_message_are_a_coded_error(raw):
    with pytest.raises(MessageError, match="E103"):
        read_message(raw)


def test_odd_and_doubled_delimiters_are_read():
    assert read_message(b"MSH#!@%*#A#B#C#D#1##ADT!A08#9#P#2.3\rPID###77").get("PID-3") == "77"
    assert read_message(b"MSH|^~\\\\&|A|B|C|D|1||ADT^A08|9|P|2.3").kind == "ADT^A08"


def test_an_order_without_a_question_names_the_field():
    raw = ORDER.split("\rNTE")[0].replace("^first seizure\\T\\fall", "")
    with pytest.raises(OrderRejected, match=r"\[E101\] OBR-31 \(Reason for Study\) is empty"):
        CHECKS["ORM^O01"](read_message(raw.encode()))
    assert [order.text for order in HANDLERS["ORM^O01"](read_message(raw.encode()))] == [""]


def test_a_cancel_needs_no_question_and_an_unknown_control_is_refused():
    cancel = ORDER.split("\rOBR|1")[0].replace("ORC|NW", "ORC|CA")
    assert HANDLERS["ORM^O01"](read_message(cancel.encode()))[0].control == "cancel"
    with pytest.raises(MessageRefused, match="ORC-1"):
        HANDLERS["ORM^O01"](read_message(ORDER.replace("ORC|NW|P1", "ORC|QQ|P1").encode()))


def test_a_merge_names_both_and_never_itself():
    merge = "MSH|^~\\&|A|B|C|D|20260101||ADT^A40|1|P|2.5\rEVN||20260102\rPID|||new^^^H^MR||N^N\rMRG|old^^^H^MR"
    assert HANDLERS["ADT^A40"](read_message(merge.encode())) == (
        PatientMerge("old", read_patient(merge), "20260102"),)
    with pytest.raises(MessageRefused, match="itself"):
        HANDLERS["ADT^A40"](read_message(merge.replace("MRG|old", "MRG|new").encode()))


def read_patient(text):
    from api.hl7.messages import patient_of

    return patient_of(read_message(text.encode()))


def test_published_messages_lose_no_segment():
    path = Path(__file__).parents[3] / "shared/hl7/messages.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    failed = 0
    for line in path.read_text().splitlines():
        row = json.loads(line)
        raw = base64.b64decode(row["message_base64"])
        try:
            message = read_message(raw)
        except MessageError:
            failed += 1
            assert row["malformed"], row["path"]
            continue
        assert b"MSH" in message.raw and len(message.segments) >= 1
        for name in ("OBX", "OBR", "ORC", "ZDS"):
            lines = raw.replace(b"\n", b"\r").split(b"\r")
            sent = sum(part.startswith(name.encode() + message.separators[0].encode()) for part in lines)
            assert sent == sum(s.name == name for s in message.segments), (row["path"], name)
    assert failed == 0


def test_a_new_order_without_an_OBR_is_refused():
    with pytest.raises(MessageRefused, match="OBR is missing"):
        CHECKS["ORM^O01"](read_message(b"MSH|^~\\&|R|H|W|R|20261124||ORM^O01|1|P|2.5.1\rPID|1||7\rORC|NW|P1\r"))
