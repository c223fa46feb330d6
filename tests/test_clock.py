"""The clock jumps under a worker (libfaketime): work goes on, and happens once."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from api.store import Store

ROOT = Path(__file__).parent.parent
LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
WORKER = """
import select, sys, threading, time
from api.jobs import Worker
from api.store import Store, later, now
from pathlib import Path

clock, store = Path(sys.argv[1]), Store.open("", sys.argv[2], upgrade=False)
began, go = threading.Event(), threading.Event()

def pause(seconds):
    select.select([], [], [], seconds)      # libfaketime gives time.sleep a time in the past

def jump(by):
    clock.write_text(by)

def ask(*keys, not_before=""):
    with store.write() as tx:
        for key in keys:
            tx.enqueue("suggest", key, {"order_id": key, "order_version": 1}, not_before=not_before)

def handler(job):
    if job.key == "long":
        began.set()
        assert go.wait(60)
    with store.effect(job) as tx:
        tx.audit("worker", "did", job.kind, job.key)

def until_done(keys, patience_s=60):
    end = time.monotonic() + patience_s
    while not set(keys) <= {row["object_id"] for row in store.audit_rows(1000)}:
        assert time.monotonic() < end, (keys, now(), store.jobs())
        pause(0.05)

ask("before")
ask("delayed", not_before=later(2))
jump("-1h")                     # what was asked for under the old time must not wait for it to come again
worker = Worker(store, {"suggest": handler}, lease_s=0.6)
worker.start()
until_done(["before", "delayed"])
ask("after")
until_done(["after"])
ask("long")
assert began.wait(60)
jump("+5h")                     # every lease seems to have run out long ago
pause(1)
go.set()
ask("later")
until_done(["long", "later"])
jump("+0")
ask("last")
until_done(["last"])
worker.stop()
done = sorted(row["object_id"] for row in store.audit_rows(1000))
assert done == ["after", "before", "delayed", "last", "later", "long"], done
assert {job["state"] for job in store.jobs()} == {"done"}
store.close()
print("done once each")
"""


def test_work_goes_on_and_happens_once_when_the_clock_jumps(tmp_path):
    if LIBRARY is None:
        pytest.skip("libfaketime is not installed (apt-get install libfaketime): no clock jumps here")
    home = tmp_path / "home"
    Store.open("", home).close()
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {**os.environ, "LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                   "FAKETIME_DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", WORKER, clock, home], env=environment, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert ran.stdout.strip().endswith("done once each"), ran.stdout + ran.stderr[-3000:]
