"""Power cuts: the file system under a served Wetread stops without writing what it still held, as when the machine loses power.

An ext4 in a loop file, EXT4_IOC_SHUTDOWN without flushing the log; mounted again, it recovers as after a cut.
WETREAD_POWER_CUTS sets how many.
"""
import fcntl
import hashlib
import os
import random
import shutil
import struct
import subprocess
import threading
import time

import numpy as np
import pytest

from api.dicom.client import send_dicom
from tests.accounts import doubles, losses, opened, settled, unfinished
from tests.api.web import ct_slices
from tests.served import Feed, Receiver, Served, order, until

CUTS = int(os.environ.get("WETREAD_POWER_CUTS") or (20 if os.environ.get("CI") else 4))
EXT4_IOC_SHUTDOWN = 0x8004587D      # _IOR('X', 125, __u32)
WITHOUT_FLUSH = struct.pack("I", 2)


class Disk:
    """An ext4 file system that can lose its power."""

    def __init__(self, folder, mib=512):
        self.image, self.place = folder / "disk.img", folder / "disk"
        self.place.mkdir()
        with self.image.open("wb") as file:
            file.truncate(mib * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True, capture_output=True)
        self.mount()

    def mount(self):
        subprocess.run(["mount", "-o", "loop", self.image, self.place], check=True, capture_output=True)

    def cut(self):
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, WITHOUT_FLUSH)
        finally:
            os.close(handle)

    def unmount(self):
        until(lambda: subprocess.run(["umount", self.place], capture_output=True).returncode == 0, 30)


@pytest.fixture
def disk(tmp_path):
    if os.getuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("power cuts need root and mkfs.ext4 (apt-get install e2fsprogs): not run here")
    try:
        made = Disk(tmp_path)
        made.cut()
        made.unmount()
        made.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 may be mounted and shut down here: {getattr(error, 'stderr', b'') or error}")
    yield made
    subprocess.run(["umount", "-l", made.place], capture_output=True)


class Scanner(threading.Thread):
    """Sends instances one after another, each of another study, until it is told to end; what was answered 0x0000 is noted."""

    def __init__(self, port, folder, first):
        super().__init__(daemon=True)
        self.port, self.folder, self.next, self.stored, self.ending = port, folder, first, {}, threading.Event()

    def run(self):
        while not self.ending.is_set():
            self.next += 1
            [data] = ct_slices(np.full((1, 64, 64), self.next % 1000), study=f"1.2.3.{self.next}", series=f"1.2.3.{self.next}.1")
            path = self.folder / f"{self.next}.dcm"
            path.write_bytes(data)
            try:
                if [row["ok"] for row in send_dicom("127.0.0.1", self.port, [path])] == [True]:
                    self.stored[f"1.2.3.{self.next}"] = data
            except Exception:       # the other end is gone
                self.ending.wait(0.1)


def test_what_was_acknowledged_before_the_power_went_is_there_afterwards(starter, disk, tmp_path, sqlite_template):
    rng, receiver = random.Random(11), Receiver()
    home = disk.place / "home"
    home.mkdir()
    shutil.copy(sqlite_template, home / "wetread.db")
    os.sync()
    served = Served(starter, home, outbox=receiver.port, WETREAD_QUIET_PERIOD_S="0.5")
    served.log = tmp_path / "serve.log"
    (tmp_path / "sent").mkdir()
    feeds = [Feed(served.mllp, [order(f"{line}{i:05}") for i in range(50_000)], pause_s=0.05) for line in "123"]
    for feed in feeds:
        feed.start()
    stored, lost = {}, []
    for cut in range(CUTS):
        served.start()
        scanner = Scanner(served.dicom, tmp_path / "sent", 1000 * cut)
        scanner.start()
        until(lambda: scanner.stored)       # noqa: B023 - called in this turn
        time.sleep(rng.uniform(0, 1))
        served.freeze()             # with the power all stops in one instant: what was being written is never answered
        disk.cut()
        served.kill()
        scanner.ending.set()
        scanner.join()
        stored |= scanner.stored
        disk.unmount()
        disk.mount()
        store = opened(served)
        acknowledged = {id: raw for feed in feeds for id, raw in list(feed.acknowledged.items())}
        lost += losses(store, acknowledged) + lost_images(store, home, stored)
        store.close()
    served.start()
    for feed in feeds:
        feed.end()
    print(f"{CUTS} power cuts: {sum(len(feed.acknowledged) for feed in feeds)} messages and {len(stored)} instances acknowledged, {len(lost)} lost")
    store = opened(served)
    until(lambda: settled(store), 900 + sum(len(feed.acknowledged) for feed in feeds))      # a busy machine does one order a second
    acknowledged = {id: raw for feed in feeds for id, raw in feed.acknowledged.items()}
    print(f"{CUTS} power cuts: {len(acknowledged)} messages and {len(stored)} instances acknowledged, "
          f"{len(lost)} lost, {len(doubles(store))} doubled")
    assert lost == [] == losses(store, acknowledged) and lost_images(store, home, stored) == []
    assert doubles(store) == [] and unfinished(store, acknowledged) == []
    assert store.jobs("dead") == [] and len(acknowledged) > CUTS and len(stored) > 0
    store.close()
    served.kill()
    receiver.close()


def lost_images(store, home, stored):
    """Studies whose instance is not there as it was sent."""
    with store.read() as tx:
        rows = {row["study_id"]: row for row in tx.find("instances")}
    found = []
    for study, data in stored.items():
        row = rows.get(study)
        if row is None or hashlib.sha256((home / row["path"]).read_bytes()).hexdigest() != row["sha256"] or len(data) < 64 * 64:
            found.append(study)
    return found
