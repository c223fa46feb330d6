"""kill -9 of a served Wetread, at every step of the way and at random: nothing acknowledged is lost, nothing happens twice."""
import os
import random
import shutil
import time

import numpy as np
import pytest

from api.dicom.client import send_dicom
from tests.accounts import doubles, losses, opened, settled, unfinished
from tests.api.web import ct_slices
from tests.served import Feed, Receiver, Served, order

KILLS = int(os.environ.get("WETREAD_KILLS") or (20 if os.environ.get("CI") else 6))
# where a process dies, and at which call: the listener first, then the worker, step by step
ORDER_STEPS = {
    "a batch is not yet committed": ("before", "api.store:keep_batch", 2),
    "a batch is kept and not yet answered": ("after", "api.store:MessageWriter._commit", 2),
    "a message was answered": ("after", "api.store:tell", 2),
    "a job is leased and not begun": ("before", "api.jobs:Worker._try", 2),
    "an order is written and not committed": ("before", "api.store:Store.mark_message", 2),
    "an order is committed": ("after", "api.order_steps:OrderSteps.apply_message", 2),
    "a suggestion is being computed": ("before", "api.order_steps:OrderSteps._try_to_suggest", 2),
    "a suggestion and its message are written and not committed": ("after", "api.order_steps:post", 2),
    "a suggestion is committed": ("after", "api.order_steps:OrderSteps.suggest_order", 2),
    "a result is sent and not recorded": ("after", "api.hl7.sender:Connection.exchange", 2),
}
IMAGE_STEPS = {
    "an instance is a file and no row": ("after", "api.dicom.intake:write_durably", 2),
    "an instance is written and not committed": ("after", "api.study_steps:record_instance", 2),
    "an instance is kept and not answered": ("after", "api.dicom.scp:keep_instance", 2),
    "a draft is being written": ("before", "api.study_steps:keep_draft", 1),
    "a draft is committed": ("after", "api.study_steps:StudySteps.draft_study", 1),
}


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def served(starter, tmp_path, receiver, sqlite_template):
    (tmp_path / "home").mkdir()
    shutil.copy(sqlite_template, tmp_path / "home" / "wetread.db")
    made = Served(starter, tmp_path / "home", outbox=receiver.port)
    yield made
    made.kill()


def keep_up(served, done, patience_s=900):
    """Start the server again whenever it died, until `done`."""
    end = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < end, served.log.read_text()[-3000:]
        if not served.alive:
            served.start()
        time.sleep(0.05)
    if not served.alive:
        served.start()


def account(served, receiver, acknowledged):
    store = opened(served)
    keep_up(served, lambda: settled(store))
    assert losses(store, acknowledged) == []
    assert doubles(store) == []
    assert unfinished(store, acknowledged) == []
    assert store.jobs("dead") == []
    # a receiver may see a message again under its own control id, and never an event under two
    with store.read() as tx:
        assert {id for id, _ in receiver.came} == {row["control_id"] for row in tx.find("outbox", state="sent")}
    store.close()


@pytest.mark.parametrize("step", ORDER_STEPS)
def test_orders_survive_a_kill_when(step, served, receiver, tmp_path):
    flag = tmp_path / "died"
    served.die_at(*ORDER_STEPS[step], flag)
    served.start()
    feed = Feed(served.mllp, [order(i) for i in range(6)])
    feed.start()
    keep_up(served, lambda: not feed.is_alive())
    store = opened(served)
    keep_up(served, lambda: settled(store))
    store.close()
    assert flag.exists(), "nothing died"
    assert len(feed.acknowledged) == 6
    account(served, receiver, feed.acknowledged)


def study_files(folder):
    """Three small slices of one study; the reader under test refuses it, which is a draft too."""
    folder.mkdir()
    for i, data in enumerate(ct_slices(np.zeros((3, 16, 16)))):
        (folder / f"{i}.dcm").write_bytes(data)
    return folder


@pytest.mark.parametrize("step", IMAGE_STEPS)
def test_images_survive_a_kill_when(step, served, receiver, tmp_path):
    flag = tmp_path / "died"
    served.die_at(*IMAGE_STEPS[step], flag)
    served.environment["WETREAD_QUIET_PERIOD_S"] = "0.5"
    served.start()
    folder = study_files(tmp_path / "study")
    wanted = {path.name: path.read_bytes() for path in folder.iterdir()}
    kept = set()

    def all_sent():
        for name in sorted(set(wanted) - kept):
            try:
                kept.update(name for row in send_dicom("127.0.0.1", served.dicom, [folder / name]) if row["ok"])
            except Exception:
                return False
        return len(kept) == len(wanted)

    keep_up(served, all_sent)
    store = opened(served)
    keep_up(served, lambda: settled(store))
    assert flag.exists(), "nothing died"
    with store.read() as tx:
        [study] = tx.find("studies")
        rows = tx.find("instances")
    assert study["state"] in ("refused", "drafted") and len(rows) == 3 and doubles(store) == [] and store.jobs("dead") == []
    assert all((served.home / row["path"]).stat().st_size for row in rows)
    store.close()


def test_nothing_is_lost_or_doubled_by_kills_at_random(served, receiver):
    rng = random.Random(7)
    served.start()
    feeds = [Feed(served.mllp, [order(f"{line}{i:05}") for i in range(20_000)], pause_s=0.02) for line in "123"]
    for feed in feeds:
        feed.start()
    for kill in range(KILLS):
        time.sleep(rng.uniform(0.1, 1.5))
        served.kill(server=kill % 3 != 2, workers=kill % 3 != 1)     # both, the server alone, the worker alone
        if not served.pid:
            served.start()
    for feed in feeds:
        feed.end()
    acknowledged = {id: raw for feed in feeds for id, raw in feed.acknowledged.items()}
    sent = sum(feed.sent for feed in feeds)
    account(served, receiver, acknowledged)
    print(f"{KILLS} kills: {sent} messages sent, {len(acknowledged)} acknowledged, 0 lost, 0 doubled; results received {len(receiver.came)}, "
          f"of them again {len(receiver.came) - len(set(id for id, _ in receiver.came))}")
    assert len(acknowledged) > KILLS
