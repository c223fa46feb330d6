"""Orthanc as the PACS: what we send lies there, its earlier studies are fetched, it finds in our archive and sends to our listener."""
import io
import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from pydicom import dcmread

from api.dicom.client import send_dicom
from api.dicom.priors import Priors
from api.dicom.scp import DicomServer
from api.jobs import Worker
from api.settings import Node
from tests.api.dicom_peers import desk_at
from tests.api.test_dicom_retrieve import study

ORTHANC = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
NAME = "Müller^Jürgen=山田^太郎"
pytestmark = pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed: apt-get install orthanc")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def orthanc(folder, ours):
    """Orthanc with an empty archive that knows us as `wetread` at port `ours`; gives (its DICOM port, its REST)."""
    dicom, rest = free_port(), free_port()
    folder.mkdir()
    (folder / "orthanc.json").write_text(json.dumps({
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": rest, "DicomPort": dicom, "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True, "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True, "DicomModalities": {"wetread": ["WETREAD", "127.0.0.1", ours]}, "Plugins": []}))
    process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=(folder / "log").open("wb"))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{rest}", timeout=60, trust_env=False) as client:
            until = time.monotonic() + 60
            while True:
                try:
                    assert client.get("/system").status_code == 200
                    break
                except httpx.TransportError:
                    assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                    time.sleep(0.05)
            yield dicom, client
    finally:
        process.terminate()
        process.wait(30)


def written(folder, files):
    folder.mkdir()
    for n, data in enumerate(files):
        (folder / f"{n}.dcm").write_bytes(data)
    return folder


def test_orthanc_takes_our_objects_gives_our_priors_finds_in_our_archive_and_sends_to_us(tmp_path, sqlite_template):
    ours = free_port()
    with orthanc(tmp_path / "orthanc", ours) as (port, rest), \
            desk_at(tmp_path / "home", sqlite_template, dicom_nodes=(Node("ORTHANC", "127.0.0.1", port, priors="get"),)) as desk:
        earlier = written(tmp_path / "earlier", study("1.3.1", date="20250101", name=NAME))
        assert all(row["ok"] for row in send_dicom("127.0.0.1", port, [earlier]))
        [there] = rest.get("/instances").json()[:1]
        assert dcmread(io.BytesIO(rest.get(f"/instances/{there}/file").content)).PatientName.original_string.rstrip(b" ") == NAME.encode()

        server = DicomServer(desk, replace(desk.settings, dicom=ours))
        server.start()
        try:
            today = written(tmp_path / "today", study("1.2.3", name=NAME))
            assert all(row["ok"] for row in send_dicom("127.0.0.1", ours, [today]))
            assert Worker(desk.store, {"priors": Priors(desk, desk.settings).fetch}).run_once() == 1
            with desk.store.read() as tx:
                assert [(row["id"], row["patient"]["name"]) for row in tx.find("studies", state="prior")] == [("1.3.1", NAME)]

            found = rest.post("/modalities/wetread/query", json={"Level": "Study", "Query": {"PatientID": "SIM1", "StudyDate": "20261124"}}).json()
            answers = rest.get(f"/queries/{found['ID']}/answers?expand").json()
            assert [row["0020,000d"]["Value"] for row in answers] == ["1.2.3"]

            other = written(tmp_path / "other", study("1.4.1", patient="Q2"))
            assert all(row["ok"] for row in send_dicom("127.0.0.1", port, [other]))
            [id] = [row["ID"] for row in rest.get("/studies?expand").json() if row["MainDicomTags"]["StudyInstanceUID"] == "1.4.1"]
            assert rest.post("/modalities/wetread/store", json={"Resources": [id], "Synchronous": True}).status_code == 200
            assert {row["id"] for row in desk.studies()} == {"1.2.3", "1.4.1"}
        finally:
            server.stop()
