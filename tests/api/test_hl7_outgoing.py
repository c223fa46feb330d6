"""What we send reads back as what was meant; nothing unsigned leaves as final; no text injects a segment."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.hl7.outgoing import order_update, report_message
from api.hl7.reader import read_message
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


def test_a_preliminary_report_says_that_software_wrote_it():
    message = report("preliminary", "P")
    assert any("Drafted by software" in message.get("NTE-3", s) for s in message.segments if s.name == "NTE")


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
