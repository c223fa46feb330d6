"""A patient's name through every peer, byte for byte: HL7 order, worklist (findscu), images (storescu), SR (dsrdump), ORU (python-hl7)."""
import asyncio
import contextlib
import threading

import numpy as np
import pytest
from hl7.mllp import start_hl7_server
from pydicom import dcmread
from pydicom.tag import Tag

from api.dicom.scp import DicomServer
from api.dicom.worklist import find_worklist
from api.hl7.mllp import Listener
from api.hl7.sender import Sender
from api.jobs import Worker
from api.settings import Destination
from tests.api.dicom_peers import desk_at, needs, run
from tests.api.test_dicom_results import Outliner, draft_of, results
from tests.api.test_dicom_worklist import query
from tests.api.test_hl7_mllp import frame, msa
from tests.api.web import WordSuggester, ct_slices

ORDER = "MSH|^~\\&|RIS|H|W|R|20261124||ORM^O01|C1|P|2.5.1||||||{charset}\rPID|1||SIM1||{name}||19600101|F\r" \
        "ORC|NW|P1\rOBR|1|P1||X^CT HEAD^L|||||||||fall, bleed?|||||A1\r"
NAME = Tag("PatientName")
CASES = {
    "Müller, UTF-8": ("Müller^Jürgen", "UNICODE UTF-8", "utf-8"), "Müller, Latin-1": ("Müller^Jürgen", "8859/1", "latin-1"),
    "Japanese": ("山田^太郎", "UNICODE UTF-8", "utf-8"),
    "Japanese, three groups": ("Yamada^Tarou=山田^太郎=やまだ^たろう", "UNICODE UTF-8", "utf-8"),
    "Arabic, UTF-8": ("قباني^لنزار", "UNICODE UTF-8", "utf-8"), "Arabic, 8859/6": ("قباني^لنزار", "8859/6", "iso8859_6"),
}


@pytest.fixture
def ris():
    """python-hl7's server: (port, the messages it took)."""
    got, loop, ready = [], asyncio.new_event_loop(), threading.Event()
    port = []

    async def take(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            while not writer.is_closing():
                message = await reader.readmessage()
                got.append(message)
                writer.writemessage(message.create_ack())
                await writer.drain()

    async def serve():
        server = await start_hl7_server(take, "127.0.0.1", 0, encoding="utf-8")
        port.append(server.sockets[0].getsockname()[1])
        ready.set()

    def run_loop():
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run_loop, daemon=True)
    thread.start()
    assert ready.wait(30)
    yield port[0], got
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def placed(desk, raw):
    """An HL7 message over the desk's own listener; the code of its acknowledgement."""
    async def go():
        listener = Listener(desk.store, desk.settings)
        await listener.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(frame(raw))
        answer = await asyncio.wait_for(reader.readuntil(b"\x1c\r"), 30)
        writer.close()
        await listener.stop()
        return msa(answer.strip(b"\x0b\x1c\r").decode("latin-1"))[0]

    return asyncio.run(go())


def work(desk):
    handlers = {"message": desk.apply_message, "suggest": desk.suggest_order, "complete": desk.complete_quiet_study, "draft": desk.draft_study,
                "results": desk.make_results, "send": Sender(desk.store, desk.settings).send_queue}
    worker = Worker(desk.store, handlers, backoff_s=(0, 0))
    while worker.run_once():
        pass


@needs("findscu")
@needs("dsrdump")
@pytest.mark.parametrize("name, charset, codec", CASES.values(), ids=CASES)
def test_a_name_comes_through_every_peer_byte_for_byte(tmp_path, sqlite_template, ris, monkeypatch, name, charset, codec):
    monkeypatch.setattr("api.dicom.worklist.SEARCH_S", 100.0)       # a busy machine is not what is tested
    monkeypatch.setattr("api.dicom.scp.IDLE_S", 300)
    port, got = ris
    with desk_at(tmp_path / "home", sqlite_template, WordSuggester(), Outliner(), mllp=0, outbox=(Destination("ris", "127.0.0.1", port),)) as desk:
        assert placed(desk, ORDER.format(charset=charset, name=name).encode(codec)) == "AA"
        work(desk)
        list(find_worklist(desk, query(), "CT1", lambda: False))        # the first one reads the book: findscu need not wait for that
        server = DicomServer(desk, desk.settings)
        server.start()
        try:
            # the scanner asks its worklist ...
            code, said = run("findscu", "-W", "-X", "-od", tmp_path, "-aet", "CT1", "-k", "PatientName", "-k", "PatientID", "-k", "AccessionNumber",
                             "-k", "StudyInstanceUID", "-k", "ScheduledProcedureStepSequence[0].Modality", "127.0.0.1", server.port)
            answers = [dcmread(path, force=True) for path in tmp_path.glob("rsp*.dcm")]
            assert code == 0 and len(answers) == 1, said
            found = answers[0]
            assert found.get_item(NAME).value.rstrip(b" ") == name.encode() and found.SpecificCharacterSet == "ISO_IR 192"
            # ... and sends images that carry what it was told
            volume = np.random.default_rng(1).integers(-50, 80, (4, 64, 64)).astype(np.int16)
            for n, data in enumerate(ct_slices(volume, study=str(found.StudyInstanceUID))):
                path = tmp_path / f"ct{n}.dcm"
                path.write_bytes(data)
                image = dcmread(path)
                image.SpecificCharacterSet, image.PatientName = "ISO_IR 192", str(found.PatientName)
                image.save_as(path)
            code, said = run("storescu", "-aec", "WETREAD", "127.0.0.1", server.port, *sorted(tmp_path.glob("ct*.dcm")))
            assert code == 0, said
        finally:
            server.stop()
        [study] = desk.studies()
        assert study["order_id"] is not None
        desk.complete_study(study["id"])
        work(desk)
        draft = draft_of(desk)
        desk.sign_draft(draft["id"], "dr.x", draft["version"])
        work(desk)
        made = results(desk)
        assert "SR" in made
        for kind, item in made.items():
            item.save_as(tmp_path / f"{kind}.dcm")
            assert dcmread(tmp_path / f"{kind}.dcm").get_item(NAME).value.rstrip(b" ") == name.encode(), kind
        code, said = run("dsrdump", "+U8", "+Pl", tmp_path / "SR.dcm")
        assert code == 0 and name in said, said
    reports = [message for message in got if str(message.segment("MSH")[9]).startswith("ORU")]
    assert reports and {str(message.segment("PID")[5]) for message in reports} == {name}
    assert {str(message.segment("MSH")[18]) for message in reports} == {"UNICODE UTF-8"}
