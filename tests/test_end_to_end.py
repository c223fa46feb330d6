"""One path, end to end: real server process, real sockets, real models, a python-hl7 receiver for the results."""
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from hl7.mllp import start_hl7_server

from api.demo import simulated_study

ROOT = Path(__file__).parent.parent
ORDER = ("MSH|^~\\&|RIS|HOSP|WETREAD|RAD|20261124080000||ORM^O01^ORM_O01|E2E1|P|2.5.1\r"
         "PID|1||E2E-7^^^HOSP^MR||Test^Erika||19600101|F\rPV1|1|E|ED\r"
         "ORC|NW|PLE2E||||||||20261124080000\r"
         "OBR|1|PLE2E||CTHEAD^CT HEAD WO CONTRAST^L|||20261124080000|||||||||||ACCE2E||||||CT|||^^^^^S||||"
         "^fall yesterday, on warfarin, vomiting and drowsy ?intracranial bleed\r"
         "ZDS|1.2.3.4.5^^Application^DICOM\r")


@pytest.fixture(scope="module")
def received():
    """A python-hl7 MLLP receiver in its own thread: (port, list of what came)."""
    got, ready, loop = [], threading.Event(), asyncio.new_event_loop()
    port = []

    async def answer(reader, writer):
        try:
            while True:
                message = await reader.readmessage()
                got.append(str(message))
                writer.writemessage(message.create_ack())
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    async def listen():
        server = await start_hl7_server(answer, host="127.0.0.1", port=0, encoding="utf-8")
        port.append(server.sockets[0].getsockname()[1])
        ready.set()
        await server.serve_forever()

    def run():
        with contextlib.suppress(RuntimeError):     # the loop is stopped from outside: the end of the test
            loop.run_until_complete(listen())

    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(10)
    yield port[0], got
    loop.call_soon_threadsafe(loop.stop)


def free_ports(n):
    probes = [socket.socket() for _ in range(n)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def server(tmp_path_factory, received):
    home = tmp_path_factory.mktemp("home")
    http, mllp, dicom = free_ports(3)
    command = [sys.executable, "-m", "api.cli", "serve", "--home", home, "--http", http, "--mllp", mllp, "--dicom", dicom,
               "--device", "cpu", "--outbox", f"ris=127.0.0.1:{received[0]}"]
    with (home / "serve.log").open("w") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
                                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        line = process.stdout.readline()
        assert line.startswith("ready"), (home / "serve.log").read_text()
        yield {"http": f"http://127.0.0.1:{http}", "mllp": f"127.0.0.1:{mllp}", "dicom": f"127.0.0.1:{dicom}", "home": home}
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 0, (home / "serve.log").read_text()[-2000:]


def wetread(*words):
    return subprocess.run([sys.executable, "-m", "api.cli", *map(str, words)], capture_output=True, text=True, cwd=ROOT, timeout=120)


def until(question, patience_s=600):
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        answer = question()
        if answer:
            return answer
        time.sleep(0.2)
    raise AssertionError("waited in vain")


def test_an_order_becomes_a_suggestion_on_rest_page_and_hl7(server, received, tmp_path):
    (tmp_path / "order.hl7").write_bytes(ORDER.encode())
    sent = wetread("send", "--mllp", server["mllp"], tmp_path / "order.hl7")
    assert sent.returncode == 0 and '"AA"' in sent.stdout and "E2E1" in sent.stdout, sent.stdout + sent.stderr
    order = until(lambda: (lambda r: r.status_code == 200 and r.json()["suggestion"] and r.json())(
        httpx.get(f"{server['http']}/v1/orders/PLE2E", timeout=60)))
    first = order["suggestion"]["ranked"][0]["protocol"]
    assert first.startswith("CT_") and order["suggestion"]["urgent"]
    assert first in httpx.get(f"{server['http']}/orders", timeout=60).text
    update = until(lambda: [m for m in received[1] if "PLE2E" in m and first in m])[0]
    assert update.startswith("MSH|")


def test_head_ct_images_sent_over_dicom_become_one_study_after_the_quiet_period(server, tmp_path):
    simulated_study(5, tmp_path / "ct", "intraparenchymal", accession_number="ACCE2E", patient_id="E2E-7")
    sent = wetread("send", "--dicom", server["dicom"], tmp_path / "ct")
    assert sent.returncode == 0, sent.stdout[-500:] + sent.stderr
    url = server["http"]
    study = until(lambda: next((s for s in httpx.get(f"{url}/v1/studies", timeout=60).json()
                                if s["state"] in ("drafted", "refused", "no-draft")), None))
    full = httpx.get(f"{url}/v1/studies/{study['id']}", timeout=60).json()
    assert sum(len(s["instances"]) for s in full["series"]) == len(list((tmp_path / "ct").glob("*.dcm")))
