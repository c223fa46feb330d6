"""docs/hl7.md says what the tables of the code say."""
import pytest

from api.hl7.conformance import PAGE, written
from api.hl7.messages import CONTROLS, HANDLERS
from api.hl7.reader import read_message
from data.errors import MessageRefused
from data.records import OrderEvent, PatientMerge, PatientUpdate


def test_the_conformance_page_is_that_of_the_handlers():
    page = PAGE.read_text()
    assert written(page) == page, "run python -m api.hl7.conformance"


@pytest.mark.parametrize("kind", sorted(HANDLERS))
def test_every_row_of_the_table_reads_a_message_of_its_type(kind):
    segments = {"A": "EVN||20260101\rPID|||7^^^H^MR||N^N||19600101|F\rMRG|8^^^H^MR\r",
                "O": "PID|||7^^^H^MR\rORC|NW|P1\rOBR|1|P1||X^MRI^L\rNTE|1||q\r"}
    raw = f"MSH|^~\\&|R|H|W|R|20260101||{kind}|C1|P|2.5.1\r" + segments["A" if kind.startswith("ADT") else "O"]
    [record] = HANDLERS[kind](read_message(raw.encode()))
    assert isinstance(record, OrderEvent | PatientUpdate | PatientMerge) and (getattr(record, "patient", None) or record.surviving).id == "7"


def test_every_order_control_does_something_known():
    assert set(CONTROLS.values()) == {"new", "change", "cancel", "hold", "release", "status"}


@pytest.mark.parametrize(("event", "refused"), [("A08", True), ("A31", True), ("A01", False), ("A04", False), ("A28", False)])
def test_a_patient_without_identifier_is_an_error_only_where_something_was_to_be_changed(event, refused):
    message = read_message(f"MSH|^~\\&|R|H|W|R|20260101||ADT^{event}|C1|P|2.5.1\rEVN||20260101\rPID|||||N^N\r".encode())
    if refused:
        with pytest.raises(MessageRefused, match="PID-3"):
            HANDLERS[message.kind](message)
    else:
        assert HANDLERS[message.kind](message) == ()
