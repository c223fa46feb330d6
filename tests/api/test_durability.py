"""A process killed while it keeps messages: nothing it acknowledged is lost, nothing is there twice."""
import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from api.jobs import Worker
from api.store import Store

ROOT = Path(__file__).parent.parent.parent

# acknowledges on standard output, as the listener does on its socket: only after keep_message returned
SENDER = """
import asyncio, os, sys
from api.store import Store

store = Store.open(sys.argv[1], sys.argv[2], upgrade=False)

async def connection(c):
    for i in range(10_000):
        kept = await store.keep_message(f"{c}-{i}".encode(), "S", f"{c}-{i}", "ORM^O01", "peer", True, ack=b"AA")
        os.write(1, f"{c}-{i} {kept.id}\\n".encode())

async def main():
    await asyncio.gather(*(connection(f"{sys.argv[3]}{c}") for c in range(4)))

asyncio.run(main())
"""


def acknowledged_until_killed(url, home, run, after):
    child = subprocess.Popen([sys.executable, "-c", SENDER, url, str(home), str(run)], stdout=subprocess.PIPE, cwd=ROOT,
                             env={**os.environ, "PYTHONPATH": str(ROOT)})
    lines = [child.stdout.readline() for _ in range(after)]
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.read().splitlines(keepends=True)      # said before it died
    child.wait()
    return dict(line.decode().split() for line in lines if line.endswith(b"\n"))


def test_a_kill_loses_no_acknowledged_message_and_doubles_none(store_address):
    url, home = store_address
    acknowledged = {}
    for run, after in enumerate((5, 40, 90)):
        acknowledged |= acknowledged_until_killed(url, home, run, after)
    assert len(acknowledged) >= 135
    store = Store.open(url, home, upgrade=False)
    rows = store.messages(limit=100_000)
    kept = {row["control_id"]: row["id"] for row in rows}
    assert len(kept) == len(rows)
    assert {control_id: kept.get(control_id) for control_id in acknowledged} == acknowledged
    assert sorted(job["payload"]["message_id"] for job in store.jobs(limit=100_000)) == sorted(kept.values())

    async def again():
        return [await store.keep_message(c.encode(), "S", c, "ORM^O01", "peer", True) for c in list(acknowledged)[:20]]

    assert all(k.duplicate for k in asyncio.run(again()))       # the sender that saw no answer sends it again
    store.close()


WORKER = """
import sys, time
from api.jobs import Worker
from api.store import Store

store = Store.open(sys.argv[1], sys.argv[2], upgrade=False)

def handler(job):
    with store.effect(job) as tx:
        tx.audit("worker", "did", job.kind, job.key)
    print(job.key, flush=True)

worker = Worker(store, {"suggest": handler}, lease_s=0.3)
worker.start()
time.sleep(60)
"""


def test_a_killed_worker_loses_no_job_and_does_none_twice(store_address):
    url, home = store_address
    store = Store.open(url, home, upgrade=False)
    keys = [f"k{i:03}" for i in range(120)]
    with store.write() as tx:
        for key in keys:
            tx.enqueue("suggest", key, {"order_id": key, "order_version": 1})
    for after in (3, 20):
        child = subprocess.Popen([sys.executable, "-c", WORKER, url, str(home)], stdout=subprocess.PIPE, cwd=ROOT,
                                 env={**os.environ, "PYTHONPATH": str(ROOT)})
        for _ in range(after):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.stdout.read()
        child.wait()

    def handler(job):
        with store.effect(job) as tx:
            tx.audit("worker", "did", job.kind, job.key)

    last = Worker(store, {"suggest": handler}, lease_s=0.2)
    last.start()
    try:
        for _ in range(500):
            if not store.jobs("queued") and not store.jobs("leased"):
                break
            time.sleep(0.02)
    finally:
        last.stop()
    assert sorted(row["object_id"] for row in store.audit_rows(1000)) == keys
    assert {job["state"] for job in store.jobs(limit=1000)} == {"done"}
    store.close()
