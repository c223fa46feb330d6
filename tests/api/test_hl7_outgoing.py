"""What we send reads back as what was meant; nothing unsigned leaves as final; no text injects a segment."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.hl7.outgoing import order_update, report_message
from api.hl7.reader import escape_text, read_message
from data.errors import StateError

ORDER = {"order": {"placer_number": "P1", "filler_number": "F1", "accession_number": "A1",
                   "ordered_exam_code": "CTH", "ordered_exam": "CT head",
                   "patient": {"id": "7", "name": "Müller^Erika", "birth_date": "19600101", "sex": "F"}}}
SUGGESTION = {"ranked": [{"protocol": "CT_HEAD_WO", "probability": 0.91}], "contrast": "none", "urgent": True,
              "disposition": "review", "question": "",
              "flags": [{"code": "pregnancy", "severity": "stop", "message": "Patient is pregnant", "source": "ACR"}]}
NOW = "2026-11-24T08:00:00.000Z"


def report(status, letter, impression="No acute haemorrhage."):
    draft = {"status": status, "sections": {"findings": "One.\nTwo.", "impression": impression}}
    return read_message(report_message(draft, {"id": "1.2.3"}, ORDER, letter, "WC1", NOW))


def test_a_final_report_carries_status_sections_and_study():
    message = report("final", "F")
    results = [s for s in message.segments if s.name == "OBX"]
    assert message.kind == "ORU^R01" and message.get("OBR-25") == "F" and message.get("OBR-18") == "A1"
    assert [message.get("OBX-11", s) for s in results] == ["F", "F", "O"]
    assert message.get("OBX-5", results[0]) == "One.\nTwo." and message.get("OBX-5", results[2]) == "1.2.3"
    assert message.get("PID-5.1") == "Müller" and message.get("PID-3.1") == "7"


@pytest.mark.parametrize("status, letter", [("draft", "F"), ("preliminary", "F"), ("draft", "P"), ("final", "P"), ("cancelled", "F"), ("final", "C")])
def test_a_status_that_does_not_allow_it_never_leaves(status, letter):
    with pytest.raises(StateError):
        report(status, letter)


def test_a_signed_report_says_by_whom_and_a_preliminary_one_nobody():
    draft = {"status": "final", "sections": {"impression": "x"}, "signed_by": "anna"}
    assert read_message(report_message(draft, {"id": "1.2.3"}, ORDER, "F", "WC1", NOW)).get("OBR-32.1.2") == "anna"
    assert read_message(report_message({**draft, "status": "preliminary"}, {"id": "1"}, ORDER, "P", "WC1", NOW)).get("OBR-32") == ""


def test_a_preliminary_report_says_that_software_wrote_it():
    message = report("preliminary", "P")
    assert any("Drafted by software" in message.get("NTE-3", s) for s in message.segments if s.name == "NTE")


HOSTILE = st.text(alphabet=st.sampled_from("aX.|^~\\&\r\n\t\x00\x0b\x1c\x1e\x7f\x85\u2028ü日"), max_size=30)


@settings(max_examples=500, deadline=None)
@given(HOSTILE)
def test_any_text_decodes_back_to_itself_in_its_own_field(words):
    escaped = escape_text(words)
    assert not set(escaped) & set("|^~&\r\n\x0b\x1c\x85\u2028")
    message = read_message(f"MSH|^~\\&|A|B|C|D|1||ORU^R01|1|P|2.5||||||UNICODE UTF-8\rOBX|1|TX|x||{escaped}|end\r".encode())
    assert message.get("OBX-5.1") == words and message.get("OBX-6") == "end" and len(message.segments) == 2


@settings(max_examples=30, deadline=None)
@given(HOSTILE, HOSTILE)
def test_no_text_of_an_order_breaks_out_of_its_field(name, words):
    order = {"order": {"placer_number": words, "filler_number": words, "accession_number": words, "ordered_exam": words, "ordered_exam_code": words,
                       "patient": {"id": words, "name": name, "birth_date": "", "sex": "F"}}}
    decision = {"action": "change", "protocol": "MR_STROKE", "reason": words}
    message = read_message(order_update(order, {**SUGGESTION, "question": words}, decision, "WC1", NOW))
    assert [s.name for s in message.segments][:4] == ["MSH", "PID", "ORC", "OBR"] and {s.name for s in message.segments[4:]} == {"NTE"}
    assert [message.get(path) for path in ("PID-3.1", "ORC-2.1", "ORC-3.1", "OBR-4.1", "OBR-4.2", "OBR-18.1")] == [words] * 6
    assert message.get("PID-8") == "F" and message.get("OBR-44.1") == "MR_STROKE"


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=st.sampled_from("a|^~\\&\r\n\x0b\x1cü日"), max_size=30))
def test_text_cannot_break_out_of_its_field(words):
    message = report("final", "F", "x" + words)
    results = [s for s in message.segments if s.name == "OBX"]
    assert len(results) == 3 and b"\x0b" not in message.raw and b"\x1c" not in message.raw
    assert message.get("OBX-5", results[1]) == "x" + words.replace("\r\n", "\n").replace("\r", "\n")


def test_an_order_update_carries_the_protocol_and_every_flag():
    message = read_message(order_update(ORDER, SUGGESTION, None, "WC2", NOW))
    notes = [message.get("NTE-3", s) for s in message.segments if s.name == "NTE"]
    assert (message.kind, message.get("ORC-1"), message.get("ORC-2"), message.get("OBR-44.1")) == ("ORM^O01", "XO", "P1", "CT_HEAD_WO")
    assert message.get("OBR-18") == "A1" and message.get("ORC-16.2") == "protocol suggested"
    assert any(note.startswith("STOP pregnancy") for note in notes)


def test_a_decision_goes_before_the_suggestion():
    decision = {"action": "change", "protocol": "MR_STROKE", "reason": "asked by stroke team"}
    message = read_message(order_update(ORDER, SUGGESTION, decision, "WC3", NOW))
    assert message.get("OBR-44.1") == "MR_STROKE" and message.get("ORC-16.2") == "protocol changed"
