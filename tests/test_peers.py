"""Peers that are slow, stall, vanish without a word, or are cut off: the others are served, nothing is lost or doubled."""
import contextlib
import shutil
import socket
import statistics
import threading
import time

import pytest

from tests.accounts import doubles, losses, opened, settled, unfinished
from tests.chaos import Chaos
from tests.served import Feed, Receiver, Served, order, until


@pytest.fixture
def home(tmp_path, sqlite_template):
    (tmp_path / "home").mkdir()
    shutil.copy(sqlite_template, tmp_path / "home" / "wetread.db")
    return tmp_path / "home"


def test_messages_through_a_bad_network_are_kept_once(starter, home):
    """Split into odd pieces, delayed, cut in the middle of a message or of its answer: the sender repeats, and each order is there once."""
    receiver = Receiver()
    served = Served(starter, home, outbox=receiver.port).start()
    chaos = Chaos(served.mllp, lambda rng: {"pieces": rng.choice([1, 7, 100, 65536]), "delay_s": rng.choice([0, 0, 0.0005]),
                                            "cut_after": rng.choice([50, 400, 700, 1500])})
    feeds = [Feed(chaos.port, [order(f"{line}{i:03}") for i in range(40)], answer_s=5) for line in "12"]
    for feed in feeds:
        feed.start()
    for feed in feeds:
        feed.join(900)
    acknowledged = {id: raw for feed in feeds for id, raw in feed.acknowledged.items()}
    assert len(acknowledged) == 80 and chaos.connections > 10
    store = opened(served)
    until(lambda: settled(store))
    print(f"{sum(feed.sent for feed in feeds)} sent over {chaos.connections} connections, 80 acknowledged, "
          f"{len(losses(store, acknowledged))} lost, {len(doubles(store))} doubled")
    assert losses(store, acknowledged) == [] == doubles(store) and unfinished(store, acknowledged) == []
    store.close()
    served.kill()
    receiver.close()
    chaos.close()


def test_stalled_and_half_open_senders_hold_up_nobody(starter, home):
    """60 peers that send half a frame and stall, on the MLLP and the HTTP port, beside one that behaves."""
    served = Served(starter, home).start()

    def pace(first):
        feed = Feed(served.mllp, [order(first + i) for i in range(40)])
        feed.start()
        feed.join(900)
        assert len(feed.acknowledged) == 40
        return statistics.median(feed.seconds.values())

    alone = pace(0)
    with contextlib.ExitStack() as stack:
        for i in range(60):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", served.mllp if i % 2 else served.http)))
            peer.sendall(b"\x0bMSH|^~\\&|SLOW|" if i % 2 else b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{")
        beside = pace(100)
        assert served.ready()
    print(f"median acknowledgement {1000 * alone:.1f} ms alone, {1000 * beside:.1f} ms beside 60 stalled peers")
    assert len([row for row in served.get("/v1/orders").json()]) <= 80
    served.kill()


def test_a_receiver_that_goes_silent_holds_up_no_order(starter, home):
    """The RIS vanishes without closing: orders still come to the list and are suggested for; later all results are there, once."""
    receiver = Receiver()
    vanished = threading.Event()
    vanished.set()
    chaos = Chaos(receiver.port, lambda rng: {"silent_after": 2000 if vanished.is_set() else None})
    served = Served(starter, home, outbox=chaos.port).start()
    feed = Feed(served.mllp, [order(i) for i in range(30)])
    feed.start()
    feed.join(900)
    began = time.monotonic()
    store = opened(served)

    def suggested():
        with store.read() as tx:
            return tx.count("orders", state="suggested") == 30

    until(suggested)
    print(f"30 orders suggested {time.monotonic() - began:.1f} s after the last acknowledgement, the receiver silent")
    with store.read() as tx:
        assert tx.count("outbox", state="sent") < 30
    vanished.clear()
    until(lambda: settled(store))
    assert doubles(store) == [] and unfinished(store, feed.acknowledged) == []
    assert len({id for id, _ in receiver.came}) == 30
    store.close()
    served.kill()
    receiver.close()
    chaos.close()
