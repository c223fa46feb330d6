"""The outbox is sent to receivers on real sockets: in order, once, and to nobody in the wrong state."""
import contextlib
import logging
import socket
import threading
import time

import pytest

from api.hl7.sender import Connection, Sender, Unanswered
from api.jobs import Worker
from api.sending import post
from api.settings import Destination, read_settings
from api.store import Store

FRAME = b"\x0bMSH|^~\\&|A|B|C|D|1||ACK|1|P|2.5\rMSA|%s|%s\r\x1c\r"


def raw(control_id, kind="ORM^O01", status=""):
    obr = f"OBR|1|||X{'|' * 21}{status}\r" if status else ""
    return f"MSH|^~\\&|WETREAD|R|||20261124||{kind}|{control_id}|P|2.5.1\r{obr}".encode()


class Receiver:
    """Answers each message as `answer(control id, how often it came)` says: bytes to send, "close", or None for silence."""

    def __init__(self, answer=lambda control_id, times: FRAME % (b"AA", control_id)):
        self.answer, self.got = answer, []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.server.accept()
                threading.Thread(target=self.talk, args=(peer,), daemon=True).start()

    def talk(self, peer):
        held = b""
        with peer, contextlib.suppress(OSError):
            while piece := peer.recv(65536):
                held += piece
                while b"\x1c\r" in held:
                    frame, _, held = held.partition(b"\x1c\r")
                    control_id = frame.split(b"\r")[0].split(b"|")[9]
                    self.got.append(control_id.decode())
                    said = self.answer(control_id, self.got.count(control_id.decode()))
                    if said == "close":
                        return
                    if said:
                        peer.sendall(said)


@pytest.fixture
def outbox(tmp_path):
    opened = []

    class Outbox:
        def __init__(self, port, answer_s=0.3):
            self.settings = read_settings(tmp_path, outbox=(Destination("ris", "127.0.0.1", port),))
            self.store = Store.open(self.settings.db, self.settings.home)
            self.worker = Worker(self.store, {"send": Sender(self.store, self.settings, answer_s, backoff_s=0.001).send_queue})
            opened.append(self.store)

        def put(self, control_id, patient="", order=None, study="", status="", draft=None):
            kind = "ORU^R01" if status else "order update"
            with self.store.write() as tx:
                post(tx, self.settings, control_id, kind, raw(control_id, status=status), patient_id=patient, order_id=order, draft_id=draft,
                     study_id=study, result_status=status)
                tx.change("outbox", {"key": f"{control_id}:ris"}, control_id=control_id)

        def run(self, seconds=5.0, until=lambda states: "queued" not in states.values()):
            end = time.monotonic() + seconds * 6
            while time.monotonic() < end and not until(self.states()):
                if not self.worker.run_once():
                    time.sleep(0.002)
            return self.states()

        def states(self):
            return {row["control_id"]: row["state"] for row in self.store.outbox_rows()}

        def outages(self):
            with self.store.read() as tx:
                return tx.find("outages", order=["id"])

    yield Outbox
    for store in opened:
        store.close()


def test_messages_are_sent_once_in_order_and_the_job_rests(outbox):
    receiver = Receiver()
    box = outbox(receiver.port)
    for number in range(5):
        box.put(f"W{number}", patient="X1")
    assert set(box.run().values()) == {"sent"} and receiver.got == [f"W{n}" for n in range(5)]
    box.run(0.1, until=lambda states: box.store.jobs("done"))
    assert [job["key"] for job in box.store.jobs("done")] == ["send:ris"]
    box.put("W9")
    box.run()
    assert receiver.got[-1] == "W9" and len(box.store.jobs()) == 1


@pytest.mark.parametrize("code", [b"AE", b"CE", b"XX", b""])
def test_a_refusal_is_a_dead_letter_at_once_and_what_follows_goes_on(outbox, code):
    receiver = Receiver(lambda control_id, times: FRAME % (code if control_id == b"W1" else b"AA", control_id))
    box = outbox(receiver.port)
    box.put("W1", patient="X1")
    box.put("W2", patient="X1")
    assert box.run() == {"W1": "failed", "W2": "sent"} and receiver.got == ["W1", "W2"]
    assert [row["tries"] for row in box.store.outbox_rows()] == [1, 1]


def test_a_rejected_message_is_tried_again_while_others_pass_but_not_its_own_patients(outbox):
    receiver = Receiver(lambda control_id, times: FRAME % (b"AR" if control_id == b"W1" and times < 3 else b"AA", control_id))
    box = outbox(receiver.port)
    for number, patient in enumerate(("X1", "X1", "X2", "X3"), 1):
        box.put(f"W{number}", patient=patient)
    assert set(box.run().values()) == {"sent"}
    firsts = list(dict.fromkeys(receiver.got))
    assert receiver.got.count("W1") == 3 and receiver.got.index("W2") > max(i for i, c in enumerate(receiver.got) if c == "W1")
    assert firsts.index("W3") < receiver.got.index("W2") and receiver.got.count("W2") == 1


def test_what_waits_for_its_turn_costs_no_work_and_a_new_patients_message_goes_at_once(outbox):
    receiver = Receiver(lambda control_id, times: FRAME % (b"AR" if control_id == b"W1" else b"AA", control_id))
    box = outbox(receiver.port)
    box.worker.handlers["send"].__self__.backoff_s = 60.0
    box.put("W1", patient="X1")
    box.put("W2", patient="X1")
    box.worker.run_once()
    assert sum(box.worker.run_once() for _ in range(5)) == 0 and receiver.got == ["W1"]     # due again in half a minute, not before
    box.put("W3", patient="X2")
    box.worker.run_once()
    assert receiver.got == ["W1", "W3"] and box.states() == {"W1": "queued", "W2": "queued", "W3": "sent"}


def test_a_receiver_that_rejects_everything_is_an_outage(outbox, caplog):
    receiver = Receiver(lambda control_id, times: FRAME % (b"AR" if len(receiver.got) < 8 else b"AA", control_id))
    box = outbox(receiver.port)
    for number in range(5):
        box.put(f"W{number}", patient=f"X{number}")
    assert set(box.run().values()) == {"sent"} and "answers AR to everything" in box.outages()[0]["reason"] and box.outages()[0]["ended"]
    assert caplog.text.count("takes no messages") == 1


def test_an_order_and_its_study_are_one_queue_too(outbox):
    receiver = Receiver(lambda control_id, times: FRAME % (b"AR" if control_id == b"W1" and times < 2 else b"AA", control_id))
    box = outbox(receiver.port)
    box.put("W1", order="o1")
    box.put("W2", order="o1", study="1.2")
    box.put("W3", study="1.2")
    box.run()
    assert receiver.got == ["W1", "W1", "W2", "W3"]


@pytest.mark.parametrize("trouble", [None, "close"])
def test_silence_is_one_alert_an_outage_and_the_same_message_again(outbox, trouble, caplog):
    receiver = Receiver(lambda control_id, times: FRAME % (b"AA", control_id) if len(receiver.got) > 4 else trouble)
    box = outbox(receiver.port, answer_s=0.05)
    box.put("W1", patient="X1")
    box.put("W2", patient="X1")
    with caplog.at_level(logging.INFO, "wetread.outbox"):
        assert set(box.run().values()) == {"sent"}
    assert receiver.got == ["W1"] * 5 + ["W2"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    [outage] = box.outages()
    assert outage["ended"] >= outage["began"] and outage["tries"] >= 4


def test_a_receiver_that_is_down_costs_the_messages_nothing_and_the_next_outage_is_another_alert(outbox, caplog):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    box = outbox(port)
    box.put("W1")
    box.run(0.05, until=lambda states: box.outages() and box.outages()[0]["tries"] > 3)
    assert [row["tries"] for row in box.store.outbox_rows()] == [0] and caplog.text.count("takes no messages") == 1
    receiver = Receiver.__new__(Receiver)
    receiver.answer, receiver.got = (lambda control_id, times: FRAME % (b"AA", control_id)), []
    receiver.server = socket.create_server(("127.0.0.1", port))
    threading.Thread(target=receiver.run, daemon=True).start()
    assert box.run() == {"W1": "sent"} and box.outages()[0]["ended"]


def test_a_late_answer_is_never_taken_for_the_next_messages(outbox):
    """The answer to W1 comes when W2 is waited for: W2 is not sent until its own."""
    late = threading.Event()

    def answer(control_id, times):
        if control_id == b"W1" and times == 1:
            return None
        if control_id == b"W2" and not late.is_set():
            late.set()
            return FRAME % (b"AA", b"W1")       # late, and no other
        return FRAME % (b"AA", control_id)

    receiver = Receiver(answer)
    box = outbox(receiver.port, answer_s=0.05)
    box.put("W1", patient="X1")
    box.put("W2", patient="X2")
    assert set(box.run().values()) == {"sent"} and receiver.got.count("W2") == 2 and receiver.got.count("W1") == 2


def test_an_answer_before_ours_is_passed_over():
    receiver = Receiver(lambda control_id, times: FRAME % (b"AE", b"W0") + FRAME % (b"AA", control_id))
    assert Connection(Destination("ris", "127.0.0.1", receiver.port), answer_s=2).exchange(raw("W1"), "W1")[0] == "AA"


def test_answers_in_pieces_are_put_together_and_an_endless_one_is_given_up():
    listening = socket.create_server(("127.0.0.1", 0))

    def talk():
        peer, _ = listening.accept()
        peer.recv(65536)
        for byte in FRAME % (b"AA", b"W1"):
            peer.sendall(bytes([byte]))
        peer.recv(65536)
        with contextlib.suppress(OSError):
            while True:
                peer.sendall(b"x" * 65536)

    threading.Thread(target=talk, daemon=True).start()
    line = Connection(Destination("ris", "127.0.0.1", listening.getsockname()[1]), answer_s=5)
    assert line.exchange(raw("W1"), "W1")[0] == "AA"
    with pytest.raises(Unanswered):
        line.exchange(raw("W2"), "W2")


# -- what must not leave ---------------------------------------------------------------------------------------------


def signed(box, status, id="d1", study="1.2"):
    with box.store.write() as tx:
        tx.add("studies", id=study, accession_number="", patient_id="X1", patient={}, date="", description="", modality="CT", state="signed",
               revision=1, arrived="", last_instance="", updated="")
        tx.add("drafts", id=id, study_id=study, revision=int(id[1:]), status=status, version=1, record={}, created="", updated="")


def test_a_preliminary_report_that_waited_does_not_follow_the_signed_one(outbox):
    receiver = Receiver()
    box = outbox(receiver.port)
    box.put("W1", patient="X1", study="1.2", status="P", draft="d1")
    signed(box, "final")
    box.put("W2", patient="X1", study="1.2", status="F", draft="d1")
    assert box.run() == {"W1": "superseded", "W2": "sent"} and receiver.got == ["W2"]


@pytest.mark.parametrize(("status", "draft", "state"), [
    ("F", "draft", "superseded"), ("F", "preliminary", "superseded"), ("C", "cancelled", "superseded"),
    ("F", "final", "sent"), ("C", "amended", "sent"), ("P", "preliminary", "sent")])
def test_nothing_leaves_as_final_whose_draft_is_not_signed(outbox, status, draft, state):
    receiver = Receiver()
    box = outbox(receiver.port)
    signed(box, draft)
    box.put("W1", study="1.2", status=status, draft="d1")
    assert box.run() == {"W1": state}


def test_an_older_message_sent_again_does_not_follow_a_newer_one(outbox):
    receiver = Receiver(lambda control_id, times: FRAME % (b"AE" if control_id == b"W1" else b"AA", control_id))
    box = outbox(receiver.port)
    box.put("W1", order="o1")
    box.put("W2", order="o1")
    box.run()
    with box.store.write() as tx:
        tx.change("outbox", {"control_id": "W1"}, state="queued")
        tx.rouse("send", "send:ris", {"destination": "ris"})
    assert box.run() == {"W1": "superseded", "W2": "sent"} and receiver.got == ["W1", "W2"]


def test_messages_of_a_destination_that_is_gone_are_dead_letters(outbox):
    box = outbox(1)
    box.put("W1")
    box.worker.handlers["send"] = Sender(box.store, read_settings(box.settings.home)).send_queue
    assert box.run() == {"W1": "failed"}
