"""The quick look at a plain order never says other than the full reading."""
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.hl7.acknowledge import glance, read

ORDER = ("MSH|^~\\&|RIS|H|W|R|20261124||ORM^O01^ORM_O01|C1|P|2.5.1\rPID|1||7^^^H^MR||N^N||19500101|F\r"
         "ORC|NW|P1\rOBR|1|P1||X^MRI^L|||||||||headache||||||||||||||||||seizure\rZDS|1.2.3\r")
NOW = "20261125120000"


def test_a_plain_order_is_answered_at_a_glance_and_alike():
    found = glance(ORDER.encode(), NOW)
    assert found is not None and found == read(ORDER.encode(), NOW)


SPOILED = {
    "no patient": ORDER.replace("7^^^H^MR", ""), "a deleting patient": ORDER.replace("7^^^H^MR", '""'), "no PID": ORDER.replace("PID|", "PIZ|"),
    "no question": ORDER.replace("headache", "").replace("seizure", ""),
    "a deleting question": ORDER.replace("seizure", '""').replace("headache", '""'),
    "an unknown control": ORDER.replace("ORC|NW", "ORC|ZZ"), "a cancel": ORDER.replace("ORC|NW", "ORC|CA"), "no OBR": ORDER.replace("OBR|", "OBZ|"),
    "no control id": ORDER.replace("|C1|", "||"), "enhanced mode": ORDER.replace("|P|2.5.1", "|P|2.5.1|||NE|AL"),
    "another charset": ORDER.replace("|P|2.5.1", "|P|2.5.1||||||8859/1"), "an unknown charset": ORDER.replace("|P|2.5.1", "|P|2.5.1||||||KLINGON"),
    "an escape in the header": ORDER.replace("RIS", "R\\T\\S"), "line feeds": ORDER.replace("\r", "\n"), "both": ORDER.replace("\r", "\r\n"),
    "two orders": ORDER + "ORC|NW|P2\rOBR|2|P2||Y\r",
    "an OBR without ORC": ORDER + "OBR|2|P2||Y\r", "another type": ORDER.replace("ORM^O01", "ORU^R01"),
    "an umlaut": ORDER.replace("seizure", "Müller"), "no MSH": ORDER[4:], "short": "MSH|^~\\&|", "other delimiters": ORDER.replace("^~\\&", "$~\\&"),
}


@pytest.mark.parametrize("name", sorted(SPOILED))
def test_what_is_not_plain_is_left_to_the_full_reading_or_answered_alike(name):
    raw = SPOILED[name].encode()
    found = glance(raw, NOW)
    assert found is None or found == read(raw, NOW)


PIECES = ["", "|", "^", "~", "\\", "&", "\r", "\n", "ORC|", "OBR|", "NW", "x y", '""']


@given(st.lists(st.sampled_from(PIECES), max_size=3), st.integers(0, len(ORDER)))
def test_anything_put_anywhere_is_answered_alike(pieces, at):
    raw = (ORDER[:at] + "".join(pieces) + ORDER[at:]).encode()
    found = glance(raw, NOW)
    assert found is None or found == read(raw, NOW)


def test_every_byte_left_out_is_answered_alike():
    for at, width in itertools.product(range(len(ORDER)), (1, 4)):
        raw = (ORDER[:at] + ORDER[at + width:]).encode()
        found = glance(raw, NOW)
        assert found is None or found == read(raw, NOW), raw
