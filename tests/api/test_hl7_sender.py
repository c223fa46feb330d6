"""The outbox is sent to a real receiver (python-hl7) and to ones that answer wrongly."""
import socket
import threading

import pytest

from api.hl7.sender import Sender
from api.jobs import Dead, Later
from api.settings import Destination, read_settings
from api.store import Store

RAW = b"MSH|^~\\&|WETREAD|R|||20261124||ORU^R01|W1|P|2.5.1\r"


def receiver(answers):
    """Accepts one connection after another and answers each frame with the next of `answers`; None closes."""
    server = socket.create_server(("127.0.0.1", 0))
    got = []

    def run():
        left = list(answers)
        while left:
            peer, _ = server.accept()
            with peer:
                data = b""
                while left:
                    piece = peer.recv(65536)
                    if not piece:
                        break
                    data += piece
                    if data.endswith(b"\x1c\r"):
                        got.append(data)
                        data, answer = b"", left.pop(0)
                        if answer is None:
                            break
                        peer.sendall(b"\x0bMSH|^~\\&|A|B|C|D|1||ACK|1|P|2.5\rMSA|" + answer + b"\r\x1c\r")
        server.close()

    threading.Thread(target=run, daemon=True).start()
    return server.getsockname()[1], got


@pytest.fixture
def sending(tmp_path):
    """A store with one queued message to a port: (store, job, sender)."""
    opened = []

    def make(port):
        settings = read_settings(tmp_path, outbox=(Destination("ris", "127.0.0.1", port),))
        store = Store.open(settings.db, settings.home)
        opened.append(store)
        with store.write() as tx:
            tx.add("outbox", key="k:ris", destination="ris", kind="report", order_id=None, draft_id=None, control_id="W1", raw=RAW,
                   state="queued", reason="", created="2026-11-24T08:00:00.000000Z", updated="2026-11-24T08:00:00.000000Z")
            tx.enqueue("send", "send:k:ris", {"outbox_id": str(tx.one("outbox", key="k:ris")["id"])})
        return store, store.lease(["send"])[0], Sender(store, settings)

    yield make
    for store in opened:
        store.close()


def test_an_accepted_message_is_sent_once(sending):
    port, got = receiver([b"AA|W1"])
    store, job, sender = sending(port)
    sender.send_outbox(job)
    assert store.outbox_rows()[0]["state"] == "sent" and store.jobs("done") and got == [b"\x0b" + RAW + b"\x1c\r"]


@pytest.mark.parametrize("answer", [b"AE|W1", b"AA|W0", b"XX|W1"])
def test_a_refusal_or_an_answer_to_another_message_is_dead_at_once(sending, answer):
    store, job, sender = sending(receiver([answer])[0])
    with pytest.raises(Dead):
        sender.send_outbox(job)
    assert store.outbox_rows()[0]["state"] == "queued"


@pytest.mark.parametrize("answer", [b"AR|W1", None])
def test_a_busy_or_silent_receiver_is_tried_again(sending, answer):
    _, job, sender = sending(receiver([answer])[0])
    with pytest.raises(Later):
        sender.send_outbox(job)


def test_a_receiver_that_is_down_is_tried_again(sending):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    _, job, sender = sending(port)
    with pytest.raises(Later):
        sender.send_outbox(job)
