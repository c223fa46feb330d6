"""DICOM in and out over a real socket; dcmtk's programs stand for a scanner."""
import shutil
import subprocess
from dataclasses import replace

import pytest

from api.dicom.client import send_dicom
from api.dicom.intake import keep_instance
from api.dicom.scp import DicomServer
from api.settings import may_speak, read_settings
from api.store import Store
from api.workflow import Desk
from data.errors import ImageError, StoreError
from data.simulator import simulate_head_ct, write_dicom


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    write_dicom(simulate_head_ct(3, kind="none", rows=64, slice_mm=10.0), folder, patient_id="P7")
    return sorted(folder.rglob("*.dcm"))


@pytest.fixture
def desk(tmp_path):
    settings = replace(read_settings(tmp_path / "home"), dicom=0)
    settings.home.mkdir()
    store = Store.open(settings.db, settings.home)
    yield Desk(store, settings)
    store.close()


@pytest.fixture
def server(desk):
    server = DicomServer(desk, desk.settings)
    server.start()
    yield server
    server.stop()


def kept(desk):
    return sorted((desk.settings.home / "dicom").rglob("*.dcm"))


def test_an_instance_is_in_a_file_named_by_its_content_and_a_second_copy_adds_nothing(desk, files):
    first = keep_instance(desk, files[0].read_bytes(), "test")
    second = keep_instance(desk, files[0].read_bytes(), "test")
    assert first.new and not second.new and first.sha256 == second.sha256
    assert [path.read_bytes() for path in kept(desk)] == [files[0].read_bytes()]
    assert len(desk.studies()) == 1


def test_what_is_no_dicom_is_refused_and_its_bytes_are_kept(desk):
    with pytest.raises(ImageError):
        keep_instance(desk, b"not an image", "test")
    assert [path.read_bytes() for path in (desk.settings.home / "refused").iterdir()] == [b"not an image"]
    assert not kept(desk)


def test_a_home_without_room_is_a_coded_error_and_leaves_no_half_file(desk, files):
    (desk.settings.home / "dicom").write_text("a file where the folder should be")
    with pytest.raises(StoreError):
        keep_instance(desk, files[0].read_bytes(), "test")
    assert not desk.studies()


def test_our_client_sends_a_folder_and_names_what_is_no_dicom(desk, server, files, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(files[0].parent, folder)
    (folder / "notes.txt").write_text("hello")
    rows = list(send_dicom("127.0.0.1", server.port, [folder]))
    assert sum(row["ok"] for row in rows) == len(files) == len(kept(desk))
    assert [row["file"] for row in rows if not row["ok"]] == [str(folder / "notes.txt")]


def test_nobody_listening_is_a_coded_error(files):
    with pytest.raises(StoreError, match="no DICOM storage"):
        list(send_dicom("127.0.0.1", 1, files))


@pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed: apt-get install dcmtk")
def test_dcmtk_echoes_and_stores_and_every_instance_is_durable(desk, server, files):
    environment = {"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"}
    echo = subprocess.run(["echoscu", "127.0.0.1", str(server.port)], env=environment, timeout=60)
    assert echo.returncode == 0
    sent = subprocess.run(["storescu", "-aec", "WETREAD", "127.0.0.1", str(server.port), *map(str, files)], env=environment,
                          capture_output=True, text=True, timeout=120)
    assert sent.returncode == 0, sent.stderr
    assert len(kept(desk)) == len(files)
    [study] = desk.studies()
    assert study["state"] == "receiving"


def test_only_loopback_and_listed_peers_may_speak():
    assert may_speak("127.0.0.1", ()) and may_speak("10.1.2.3", ("10.1.0.0/16",))
    assert not may_speak("10.1.2.3", ()) and not may_speak("10.2.2.3", ("10.1.0.0/16",))


def test_a_peer_not_on_the_list_gets_not_authorized_and_nothing_is_kept(desk, server, files, monkeypatch):
    monkeypatch.setattr("api.dicom.scp.may_speak", lambda peer, peers: False)     # every test peer is loopback
    [row] = send_dicom("127.0.0.1", server.port, files[:1])
    assert row["status"] == "0x0124" and not row["ok"] and not kept(desk)
