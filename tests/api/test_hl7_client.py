import asyncio
import base64
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from api.hl7.client import messages_in, send_files
from api.hl7.mllp import Listener
from api.settings import read_settings
from api.store import Store
from data.errors import InputError, MessageError, StoreError

ORDER = ("MSH|^~\\&|RIS|H|WETREAD|RAD|20261124080000||ORM^O01^ORM_O01|{id}|P|2.5.1\r"
         "PID|1||7^^^H^MR||Test^Erika||19600101|F\rORC|NW|P{id}\rOBR|1|P{id}||CTH^CT HEAD^L" + "|" * 27 + "^fall ?bleed\r")


@pytest.fixture
def port(tmp_path):
    """A real listener in its own loop and thread."""
    settings = replace(read_settings(tmp_path), mllp=0)
    store, loop, started = Store.open(settings.db, settings.home), asyncio.new_event_loop(), threading.Event()
    listener = Listener(store, settings)

    async def start():
        await listener.start()
        started.set()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop)
    assert started.wait(10)
    yield listener.port
    asyncio.run_coroutine_threadsafe(listener.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    store.close()


def test_every_message_of_every_kind_of_file_is_acknowledged_with_its_own_id(port, tmp_path):
    (tmp_path / "two.hl7").write_text(ORDER.format(id="A1") + "\r\n" + ORDER.format(id="A2"), newline="")
    (tmp_path / "framed.hl7").write_bytes(b"\x0b" + ORDER.format(id="A3").encode() + b"\x1c\r")
    (tmp_path / "crlf.hl7").write_text(ORDER.format(id="A4").replace("\r", "\r\n"), newline="")
    rows = [{"message": ORDER.format(id="A5")}, {"message_base64": base64.b64encode(ORDER.format(id="A6").encode()).decode()}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answers = list(send_files("127.0.0.1", port, [tmp_path / name for name in ("two.hl7", "framed.hl7", "crlf.hl7", "rows.jsonl")]))
    assert [(a["control_id"], a["ack"], a["ok"]) for a in answers] == [(f"A{i}", "AA", True) for i in range(1, 7)]


def test_a_refused_order_is_not_ok_and_says_why(port, tmp_path):
    (tmp_path / "empty.hl7").write_text(ORDER.format(id="B1").replace("^fall ?bleed", ""), newline="")
    [answer] = send_files("127.0.0.1", port, [tmp_path / "empty.hl7"])
    assert answer["ack"] == "AE" and not answer["ok"] and "E101" in answer["text"]


def test_one_bad_file_is_named_and_the_others_are_sent(port, tmp_path):
    (tmp_path / "note.hl7").write_text("hello")
    (tmp_path / "good.hl7").write_text(ORDER.format(id="C1"), newline="")
    answers = list(send_files("127.0.0.1", port, [tmp_path / name for name in ("note.hl7", "none.hl7", "good.hl7")]))
    assert [(Path(a["file"]).name, a["ok"]) for a in answers] == [("note.hl7", False), ("none.hl7", False), ("good.hl7", True)]
    assert "[E103]" in answers[0]["text"] and "[E109]" in answers[1]["text"]


def test_bad_files_and_a_silent_port_are_coded_errors(tmp_path):
    (tmp_path / "x.hl7").write_text("hello")
    (tmp_path / "x.jsonl").write_text('{"id": 1}')
    with pytest.raises(MessageError):
        messages_in(tmp_path / "x.hl7")
    with pytest.raises(InputError, match="line 1"):
        messages_in(tmp_path / "x.jsonl")
    with pytest.raises(StoreError, match="no MLLP listener"):
        list(send_files("127.0.0.1", 1, []))
