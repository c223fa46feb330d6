"""The listener: a real socket, a real store; what is acknowledged is kept."""
import asyncio
import base64
import json
from pathlib import Path

import pytest

from api.hl7.mllp import Framer, Listener
from api.jobs import Worker
from api.settings import read_settings
from api.store import Store
from api.workflow import Desk
from data.book import read_book
from nlp.suggest import Suggester

ORDER = b"MSH|^~\\&|RIS|H|W|R|20261124||ORM^O01|%s|P|2.5.1\rPID|||7||N^N\rORC|NW|P%s\rOBR|1|P%s||X^MRI^L|||||||||headache\r"


def frame(raw):
    return b"\x0b" + raw + b"\x1c\r"


def exchange(tmp_path, pieces, wanted):
    """Send byte pieces over one connection; the answers, and what the store holds."""
    async def run():
        settings = read_settings(tmp_path, mllp=0)
        store = Store.open(settings.db, settings.home)
        listener = Listener(store, settings)
        await listener.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        answers = [await asyncio.wait_for(reader.readuntil(b"\x1c\r"), 20) for _ in range(wanted)]
        writer.close()
        await listener.stop()
        rows = store.messages(limit=5000)
        store.close()
        return [answer.strip(b"\x0b\x1c\r").decode("latin-1") for answer in answers], rows

    return asyncio.run(run())


def msa(answer):
    return [*next(line for line in answer.split("\r") if line.startswith("MSA")).split(answer[3]), ""][1:3]


def test_an_order_is_kept_with_its_job_and_acknowledged(tmp_path):
    answers, rows = exchange(tmp_path, [frame(ORDER % (b"C1", b"1", b"1"))], 1)
    assert msa(answers[0]) == ["AA", "C1"] and [(r["control_id"], r["state"]) for r in rows] == [("C1", "received")]


def test_split_and_coalesced_frames_are_answered_in_order(tmp_path):
    raw = b"".join(frame(ORDER % (b"C%d" % i, b"1", b"1")) for i in range(20))
    answers, rows = exchange(tmp_path, [raw[i:i + 97] for i in range(0, len(raw), 97)], 20)
    assert [msa(a)[1] for a in answers] == [f"C{i}" for i in range(20)] and len(rows) == 20


def test_the_same_message_again_gets_the_same_answer_and_no_second_row(tmp_path):
    order = frame(ORDER % (b"C1", b"1", b"1"))
    answers, rows = exchange(tmp_path, [order, order], 2)
    assert answers[0] == answers[1] and len(rows) == 1


@pytest.mark.parametrize("without, field", [(b"headache", "OBR-31"), (b"PID|", "PID-3")])
def test_an_order_without_question_or_patient_is_answered_AE_naming_the_field_and_reaches_a_person(tmp_path, without, field):
    answers, rows = exchange(tmp_path, [frame((ORDER % (b"C9", b"1", b"1")).replace(without, b"PIZ|" if without == b"PID|" else b""))], 1)
    assert msa(answers[0]) == ["AE", "C9"] and "E101" in answers[0] and field in answers[0]
    assert rows[0]["state"] == "received" and "E101" in rows[0]["reason"]
    store = Store.open("", tmp_path)
    desk = Desk(store, read_settings(tmp_path), Suggester(read_book()))
    worker = Worker(store, {"message": desk.apply_message, "suggest": desk.suggest_order})
    while worker.run_once():
        pass
    [order] = [desk.order(row["id"]) for row in desk.orders()]
    assert field == "PID-3" or (order["suggestion"]["disposition"] == "needs-information" and order["suggestion"]["question"])
    store.close()


def test_two_messages_in_one_frame_or_of_two_patients_in_one_are_refused_and_file_nothing_under_the_wrong_one(tmp_path):
    one, two = ORDER % (b"C1", b"1", b"1"), (ORDER % (b"C2", b"2", b"2")).replace(b"||7||", b"||8||")
    batch = b"FHS|^~\\&\rBHS|^~\\&\r" + one + two + b"BTS|2\rFTS|1\r"
    both = one + two[two.index(b"PID"):]
    answers, rows = exchange(tmp_path, [frame(one + two), frame(batch), frame(both), frame(ORDER % (b"C3", b"3", b"3"))], 4)
    assert [msa(answer)[0] for answer in answers] == ["AR", "AR", "AE", "AA"] and "more than one MSH" in answers[0] and "PID" in answers[2]
    assert [row["state"] for row in sorted(rows, key=lambda row: int(row["id"]))] == ["failed", "failed", "failed", "received"]


def test_an_order_that_no_later_message_can_mean_is_told_and_a_cancel_that_means_none_is_refused(tmp_path):
    bare = (ORDER % (b"C1", b"1", b"1")).replace(b"ORC|NW|P1", b"ORC|NW|").replace(b"OBR|1|P1", b"OBR|1|")
    answers, rows = exchange(tmp_path, [frame(bare), frame(bare.replace(b"|C1|", b"|C2|").replace(b"ORC|NW", b"ORC|CA"))], 2)
    assert [msa(answer)[0] for answer in answers] == ["AE", "AE"] and all("ORC-2" in answer for answer in answers)
    assert [row["state"] for row in sorted(rows, key=lambda row: int(row["id"]))] == ["received", "failed"]


def test_garbage_is_answered_AR_and_kept(tmp_path):
    answers, rows = exchange(tmp_path, [b"noise" + frame(b"\xff\x00garbage")], 1)
    assert msa(answers[0])[0] == "AR" and len(rows) == 1


@pytest.mark.parametrize("accept, code", [("AL", "CA"), ("SU", "CA")])
def test_enhanced_mode_is_answered_in_enhanced_mode(tmp_path, accept, code):
    raw = (ORDER % (b"C1", b"1", b"1")).replace(b"|P|2.5.1\r", f"|P|2.5.1|||{accept}|NE\r".encode(), 1)
    assert msa(exchange(tmp_path, [frame(raw)], 1)[0][0]) == [code, "C1"]


def test_a_frame_that_never_ends_is_refused_at_the_limit():
    framer = Framer(most=1000)
    with pytest.raises(ValueError):
        for _ in range(20):
            framer.feed(b"\x0b" + b"x" * 100 if not framer.pending else b"x" * 100)


def test_published_messages_get_exactly_one_right_answer_each(tmp_path):
    path = Path(__file__).parents[3] / "shared/hl7/messages.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    from api.hl7.reader import read_message

    raws = [base64.b64decode(json.loads(line)["message_base64"]) for line in path.read_text().splitlines()]
    raws = [raw.strip(b"\x0b\x1c\r\n") for raw in raws]
    asks = [i for i, raw in enumerate(raws) if read_message(raw).get("MSH-15").upper() not in ("NE", "ER", "SU")
            and read_message(raw).get("MSH-9.1") not in ("ACK", "MCF")]
    answers, _ = exchange(tmp_path, [frame(raws[i]) for i in asks], len(asks))
    for i, answer in zip(asks, answers, strict=True):
        header = read_message(raws[i]).segments[0].fields
        assert msa(answer)[1].encode("latin-1", "replace") == (header[10] if len(header) > 10 else "").encode("latin-1", "replace")


def test_a_peer_that_takes_no_answers_is_not_read_on(tmp_path):
    """Its buffer is full (pause_writing): answers that become due must not set the reading going again."""
    async def run():
        settings = read_settings(tmp_path, mllp=0)
        store = Store.open(settings.db, settings.home)
        listener = Listener(store, settings)
        await listener.start()
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        while not listener.open:
            await asyncio.sleep(0.01)
        [connection] = listener.open
        connection.pause_writing()
        connection.data_received(frame(ORDER % (b"C1", b"1", b"1")) * 300)      # more than may be under way at once
        while connection.under_way or connection.frames:
            await asyncio.sleep(0.01)
        stopped = connection.transport.is_reading()
        connection.resume_writing()
        going = connection.transport.is_reading()
        writer.close()
        await listener.stop()
        store.close()
        return stopped, going

    assert asyncio.run(run()) == (False, True)
