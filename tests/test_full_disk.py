"""The disk is full: said on every way in, nothing acknowledged that is not kept, and all well again by itself once there is room."""
import os
import shutil
import subprocess
import time

import httpx
import numpy as np
import pytest

from api.dicom.client import send_dicom
from tests.accounts import doubles, losses, opened, settled, unfinished
from tests.api.web import ct_slices
from tests.served import Feed, Served, order, until

HEALS_S = 5.0


@pytest.fixture
def small(tmp_path):
    """A file system of 24 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "wetread-test", place], capture_output=True).returncode:
        pytest.skip("a full disk is tried on a small tmpfs, and none may be mounted here (it needs root)")
    yield place
    subprocess.run(["umount", "-l", place], capture_output=True)


def test_a_full_disk_is_said_on_every_way_in_and_heals_by_itself(starter, small, tmp_path, sqlite_template):
    home = small / "home"
    home.mkdir()
    shutil.copy(sqlite_template, home / "wetread.db")
    served = Served(starter, home)
    served.log = tmp_path / "serve.log"
    served.start()
    before = Feed(served.mllp, [order(i) for i in range(20)])
    before.start()
    before.join()
    assert served.ready()
    ballast = small / "ballast"
    handle = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space"):
        while True:
            os.write(handle, bytes(4096))
    os.close(handle)
    # MLLP: AR, which a sender repeats (AE would send the message to its dead letters)
    feed = Feed(served.mllp, [order(i) + b"ZZZ|" + b"x" * 150_000 + b"\r" for i in range(100, 140)])    # more than the log has room for
    feed.start()
    until(lambda: feed.refused)
    assert set(feed.refused) == {"AR"}
    answer = served.get("/ready")
    assert answer.status_code == 503 and answer.json()["ready"] is False and "full" in answer.json()["store"]
    # HTTP: 507
    until(lambda: httpx.post(f"{served.url}/v1/orders", json={"order_text": "headache " * 500}, timeout=300).status_code == 507)
    # DICOM: A700
    [data] = ct_slices(np.zeros((1, 256, 256)))
    (tmp_path / "one.dcm").write_bytes(data)
    assert [row["status"] for row in send_dicom("127.0.0.1", served.dicom, [tmp_path / "one.dcm"])] == ["0xA700"]
    assert served.alive
    kept = len(feed.acknowledged)
    ballast.unlink()
    began = time.monotonic()
    until(lambda: served.ready() and len(feed.acknowledged) > kept, HEALS_S)
    print(f"healed {time.monotonic() - began:.1f} s after there was room; {len(feed.refused)} refusals")
    feed.join(900)
    assert [row["status"] for row in send_dicom("127.0.0.1", served.dicom, [tmp_path / "one.dcm"])] == ["0x0000"]
    store = opened(served)
    until(lambda: settled(store))
    acknowledged = before.acknowledged | feed.acknowledged
    assert len(acknowledged) == 60 and losses(store, acknowledged) == [] and doubles(store) == [] and unfinished(store, acknowledged) == []
    assert store.jobs("dead") == []
    store.close()
    served.stop()
