"""C-STORE beyond the plain case: every class and syntax, an association cut in the middle, late slices."""
import contextlib
import io
import socket
import threading

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts
from pynetdicom.sop_class import CTImageStorage as CT

from api.dicom.intake import keep_instance
from api.dicom.scp import DicomServer
from api.jobs import Worker
from data.dicom import read_study
from tests.api.dicom_peers import associated, desk_at, needs, run
from tests.api.web import OneFinding, TextDesk, ct_slices

VOLUME = np.random.default_rng(3).integers(-1000, 2000, (3, 48, 64)).astype(np.int16)
COMPRESSED = (RLELossless, JPEG2000Lossless, JPEGLSLossless)


@pytest.fixture
def desk(tmp_path, sqlite_template):
    with desk_at(tmp_path / "home", sqlite_template) as desk:
        yield desk


@pytest.fixture
def server(desk):
    server = DicomServer(desk, desk.settings)
    server.start()
    yield server
    server.stop()


def images():
    return [dcmread(io.BytesIO(data)) for data in ct_slices(VOLUME)]


def kept(desk):
    return sorted(path for path in (desk.settings.home / "dicom").rglob("*") if path.is_file())


def test_every_storage_class_of_the_standard_is_accepted(server):
    contexts = [context.abstract_syntax for context in AllStoragePresentationContexts]
    for at in range(0, len(contexts), 120):
        with associated(server.port, *contexts[at:at + 120]) as association:
            assert not association.rejected_contexts


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, *COMPRESSED,
                                    JPEGBaseline8Bit, JPEGLossless])
def test_every_transfer_syntax_is_accepted(server, syntax):
    with associated(server.port, (CT, syntax)) as association:
        assert association.accepted_contexts[0].transfer_syntax == [syntax]


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_compressed_images_are_kept_as_sent_and_read_to_the_same_pixels(desk, server, syntax):
    with associated(server.port, (CT, syntax)) as association:
        for image in images():
            image.compress(syntax, generate_instance_uid=False)
            assert association.send_c_store(image).Status == 0
    assert {dcmread(path).file_meta.TransferSyntaxUID for path in kept(desk)} == {syntax}
    np.testing.assert_array_equal(read_study(kept(desk)).volumes[0].pixels, VOLUME.astype(np.float32))


def cutting_proxy(port, limit_bytes):
    """A port whose connections end after `limit_bytes` went towards `port`: what a pulled cable looks like."""
    listener = socket.create_server(("127.0.0.1", 0))

    def forward(come, go, left):
        try:
            while left > 0 and (data := come.recv(min(4096, left))):
                go.sendall(data)
                left -= len(data)
        except OSError:
            pass
        for end in (come, go):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def run():
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            line = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=forward, args=(peer, line, limit_bytes), daemon=True).start()
            threading.Thread(target=forward, args=(line, peer, 1 << 30), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    return listener


@needs("dcmcjpeg")
@pytest.mark.parametrize("option", ["+e1", "+el"])
def test_jpeg_lossless_of_dcmtk_is_read_to_the_same_pixels(desk, tmp_path, option):
    for n, data in enumerate(ct_slices(abs(VOLUME))):
        (tmp_path / f"{n}.dcm").write_bytes(data)
        assert run("dcmcjpeg", option, tmp_path / f"{n}.dcm", tmp_path / f"{n}.jpg.dcm")[0] == 0
        keep_instance(desk, (tmp_path / f"{n}.jpg.dcm").read_bytes(), "test")
    np.testing.assert_array_equal(read_study(kept(desk)).volumes[0].pixels, abs(VOLUME).astype(np.float32))


@pytest.mark.parametrize("limit_bytes", [1000, 4000, 8000])
def test_an_association_cut_in_the_middle_of_an_instance_leaves_no_file_and_the_next_one_is_served(desk, server, limit_bytes):
    """An instance has 6 kB: the cut comes before the first is whole, or before the second is."""
    first, second, third = images()
    proxy = cutting_proxy(server.port, limit_bytes)
    statuses = []

    def send():
        """In a thread of its own: pynetdicom's SCU may wait for ever on a line that is gone."""
        ae = AE("SCANNER1")
        ae.add_requested_context(CT, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", proxy.getsockname()[1])
        for image in (first, second):
            statuses.append(association.send_c_store(image).get("Status"))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(10)
    proxy.close()
    assert statuses.count(0) == (limit_bytes == 8000)
    assert len(kept(desk)) == statuses.count(0) and not (desk.settings.home / "refused").exists()
    with associated(server.port, CT) as association:
        assert association.send_c_store(third).Status == 0
    assert {dcmread(path).SOPInstanceUID for path in kept(desk)} == {third.SOPInstanceUID, *([first.SOPInstanceUID] if 0 in statuses else [])}


def test_late_slices_open_the_study_again_and_a_new_draft_follows(tmp_path, sqlite_template):
    with desk_at(tmp_path / "home", sqlite_template) as plain:
        desk = TextDesk(plain.store, plain.settings, None, OneFinding())
        files = list(ct_slices(VOLUME))
        worker = Worker(desk.store, {"complete": desk.complete_quiet_study, "draft": desk.draft_study}, backoff_s=(0, 0))

        def read():
            desk.complete_study("1.2.3")
            while worker.run_once():
                pass
            return desk.study("1.2.3")

        for data in files[:2]:
            keep_instance(desk, data, "test")
        first = read()
        keep_instance(desk, files[2], "test")
        assert desk.study("1.2.3")["state"] == "receiving"
        second = read()
        assert (first["revision"], second["revision"]) == (1, 2) and first["draft_id"] != second["draft_id"]
        assert [draft["status"] for draft in second["drafts"]] == ["draft", "cancelled"]
