"""HL7 made to hurt: many, long, deep, wrongly labelled; over the real listener each frame gets one answer and is kept."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.hl7.acknowledge import receive
from api.hl7.messages import imaging_orders
from api.hl7.mllp import Framer
from api.hl7.reader import FIELDS_MAX, LINES_MAX, read_message
from data.errors import MessageError
from tests.api.test_hl7_mllp import ORDER, exchange, frame, msa

PLAIN = ORDER % (b"C1", b"1", b"1")
HEAD = b"MSH|^~\\&|RIS|H|W|R|20261124||ORM^O01|C1|P|2.5.1\r"


def labelled(codec):
    return PLAIN.replace(b"|2.5.1\r", b"|2.5.1||||||" + codec + b"\r", 1)


HOSTILE = {
    "1600 OBX": (PLAIN + b"".join(b"OBX|%d|TX|X^note||line %d\r" % (n, n) for n in range(1600)), "AA"),
    "16000 components": (PLAIN.replace(b"|7|", b"|" + b"^".join(b"c%d" % n for n in range(16_000)) + b"|"), "AA"),
    "separators alone": (PLAIN.replace(b"|7|", b"|" + b"~&^" * 100_000 + b"7|"), "AE"),       # and so no identifier
    "5 MB": (PLAIN + b"OBX|1|TX|X||" + b"x" * 5_000_000 + b"\r", "AA"),
    "escapes that do not end": (PLAIN + b"NTE|1||\\" * 20_000 + b"\r", "AA"),
    "broken lines": (PLAIN + b"ZZZ" + b"|" * 100_000 + b"\r" + b"broken\r" * (LINES_MAX - 100), "AA"),
    "UTF-16 that is none": (labelled(b"UNICODE UTF-16"), "AA"),
    "UTF-32 that is none": (labelled(b"UNICODE UTF-32"), "AA"),
    "no character set": (labelled(b"~~~"), "AA"),
    "JIS": (labelled(b"ISO IR87"), "AA"),
    "too many lines": (PLAIN + b"OBX|1|TX\r" * LINES_MAX, "AR"),
    "too many fields": (PLAIN + b"ZZZ" + b"|" * FIELDS_MAX + b"\r", "AR"),
    "letters as delimiters": (b"MSH^\\&|RS", "AR"),
    "a short MSH": (b"MSH|RS", "AR"),
    "a separator of two bytes": (b"MSH\xc3\xa9^~\\&\xc3\xa9RIS\xc3\xa9\r", "AR"),
    "a Latin-1 separator": (b"MSH|^~\\\xe9|RIS\r", "AR"),
    "zeros after MSH": (b"MSH\x00\x00\x00\x00\x00", "AR"),
    "line ends": (b"\r" * 100_000, "AR"),
    "zeros": (b"\x00" * 100_000, "AR"),
    "MSH without end": (b"MSH|" * 50_000, "AR"),
    "MSH alone": (b"MSH\r", "AR"),
    "MSH and a broken line": (b"MSH\r\0\0\0\1", "AR"),
    "nothing": (b"", "AR"),
}


@pytest.mark.parametrize("raw, code", HOSTILE.values(), ids=HOSTILE)
def test_a_message_that_is_meant_to_hurt_gets_one_answer_and_is_kept(tmp_path, raw, code):
    answers, rows = exchange(tmp_path, [frame(raw), frame(ORDER % (b"C2", b"2", b"2"))], 2)
    assert msa(answers[0])[0] == code and msa(answers[1]) == ["AA", "C2"]
    assert len(rows) == 2 and {row["state"] for row in rows} <= {"received", "failed"}
    if code == "AR":
        assert "E103" in answers[0]
    if code == "AA":
        assert imaging_orders(read_message(raw))[0].text.startswith("headache")


def test_a_line_broken_many_times_is_one_field_as_it_was():
    message = read_message(PLAIN + b"NTE|1||first\nsecond\n\nthird|4\r")
    assert message.get("NTE-3") == "first\nsecond\nthird" and message.get("NTE-4") == "4"
    assert message.notes == ("a line break inside a field was kept as text",)


def test_what_is_named_utf_16_and_is_ascii_is_read_as_it_came():
    message = read_message(labelled(b"UNICODE UTF-16"))
    assert message.control_id == "C1" and message.notes


@pytest.mark.parametrize("count, what", [(LINES_MAX + 1, b"OBX\r"), (FIELDS_MAX + 1, b"|")])
def test_too_many_lines_or_fields_are_refused_with_the_number_that_may_be(count, what):
    with pytest.raises(MessageError, match=f"{LINES_MAX} lines or {FIELDS_MAX} fields"):
        read_message(HEAD + what * count)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([b"\x0b", b"\x1c", b"\r", b"\n", b"a", b"MSH|", b"\x0bone\x1c\r", b"\x0btwo\x1c"]), max_size=30), st.data())
def test_however_a_stream_is_cut_the_frames_are_the_same(pieces, data):
    raw = b"".join(pieces)
    whole, cut = Framer(), Framer()
    expected, found, at = whole.feed(raw), [], 0
    while at < len(raw):
        step = data.draw(st.integers(1, 7))
        found += cut.feed(raw[at:at + step])
        at += step
    assert found == expected and cut.pending == whole.pending


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(PLAIN)))
def test_no_bytes_make_the_listener_fall_silent_or_raise(noise, at):
    for raw in (noise, PLAIN[:at] + noise + PLAIN[at:], b"MSH" + noise, b"MSH|^~\\&|" + noise):
        assert receive(raw, "20261126000000").answer is None or receive(raw, "20261126000000").answer.startswith(b"MSH")
