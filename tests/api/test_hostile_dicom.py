"""DICOM made to hurt: bombs, depth, counts, sizes that lie, stalled and endless peers; each is refused with its code and the next peer is served."""
import io
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from pynetdicom.sop_class import CTImageStorage as CT
from pynetdicom.sop_class import ModalityWorklistInformationFind, Verification

from api.app import create_app
from api.dicom import listener
from api.dicom.intake import keep_instance
from api.dicom.matching import pattern
from api.dicom.scp import DicomServer
from data.dicom import read_study
from data.dicom_limits import MAX_DEPTH, MAX_ELEMENTS, MAX_INFLATED_BYTES, check_structure
from data.errors import ImageError, SeriesError
from tests.api.dicom_peers import associated, desk_at
from tests.api.web import HERE, ct_slices, refused

INSTANCE = "/dicomweb/studies/1.2.3/series/1.2.3.4/instances/{}"


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


@pytest.fixture
def client(desk):
    with TestClient(create_app(desk, desk.settings), base_url=HERE, client=("127.0.0.1", 1)) as client:
        yield client


def image(**values):
    found = dcmread(io.BytesIO(next(ct_slices(np.zeros((1, 8, 8), np.int16)))))
    for name, value in values.items():
        setattr(found, name, value)
    return found


def encoded(syntax, *streams, **values):
    """An image whose frames are the given streams, whatever its header says."""
    found = image(**values)
    found.file_meta.TransferSyntaxUID = syntax
    found.PixelData = encapsulate(list(streams))
    found["PixelData"].VR = "OB"
    return found


def as_bytes(dataset):
    body = io.BytesIO()
    dataset.save_as(body)
    return body.getvalue()


def element(tag, value, vr=b"OB"):
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, len(value)) + value


def with_elements(extra):
    """A file of a small image with `extra`, encoded elements of group 0077, before its pixels."""
    plain = as_bytes(image())
    at = plain.index(b"\xe0\x7f\x10\x00OW")
    head, rest = plain[:at], plain[at:]
    return head + extra + rest


def deflated_bomb(inflated_bytes):
    plain = as_bytes(image())
    meta_end = 132 + 12 + struct.unpack_from("<L", plain, 140)[0]
    found = image()
    found.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = as_bytes(found)
    head = head[:132 + 12 + struct.unpack_from("<L", head, 140)[0]]
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = stream.compress(plain[meta_end:]) + stream.compress(struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, inflated_bytes))
    for _ in range(inflated_bytes >> 20):
        body += stream.compress(bytes(1 << 20))
    return head + body + stream.flush()


def send(port, data, syntax):
    """C-STORE of the bytes as they are: no reader of ours or pydicom's touches them on the way."""
    from pynetdicom.dimse_primitives import C_STORE

    with associated(port, (CT, syntax)) as association:
        association.dimse_timeout = 300         # a busy machine is not what is tested
        request = C_STORE()
        request.MessageID, request.AffectedSOPClassUID, request.AffectedSOPInstanceUID, request.Priority = 1, CT, "1.2.3.4.5", 2
        request.DataSet = io.BytesIO(data[132 + 12 + struct.unpack_from("<L", data, 140)[0]:])
        association._reactor_checkpoint.clear()     # as send_c_store does: this thread takes the answer
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
    return answer


def test_a_deflated_bomb_is_refused_before_it_is_inflated_whole(desk, server):
    bomb = deflated_bomb(MAX_INFLATED_BYTES + (1 << 20))
    assert len(bomb) < 1 << 20
    answer = send(server.port, bomb, DeflatedExplicitVRLittleEndian)
    assert answer.Status == 0xC000 and str(answer.ErrorComment).startswith("[E106]")
    with associated(server.port, Verification) as association:
        assert association.send_c_echo().Status == 0


def test_the_same_bomb_is_refused_by_http(client):
    answer = client.post("/v1/studies", files=[("files", ("1.dcm", deflated_bomb(MAX_INFLATED_BYTES + (1 << 20))))])
    assert answer.status_code == 422 and answer.json()["failed"][0]["code"] == "E106" and "inflated" in answer.json()["failed"][0]["error"]


def test_a_modest_deflated_instance_is_kept(desk, server):
    assert send(server.port, deflated_bomb(1 << 20), DeflatedExplicitVRLittleEndian).Status == 0


def sequences(depth, delimited):
    """Sequences within sequences, of undefined length or each of its own."""
    inner = b""
    for _ in range(depth):
        if delimited:
            inner = struct.pack("<HH2sHL", 0x0077, 0x1001, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner \
                + struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        else:
            inner = element(0x00771001, struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner, b"SQ")
    return inner


@pytest.mark.parametrize("delimited", [True, False])
def test_deep_sequences_are_refused_and_those_at_the_limit_can_be_looked_at(desk, server, client, delimited):
    answer = send(server.port, with_elements(sequences(20_000 if delimited else 2_000, delimited)), ExplicitVRLittleEndian)
    assert answer.Status == 0xC000 and str(answer.ErrorComment).startswith("[E106]")
    data = with_elements(sequences(MAX_DEPTH, delimited))
    keep_instance(desk, data, "test")
    assert client.get(INSTANCE.format(dcmread(io.BytesIO(data)).SOPInstanceUID) + "/metadata").status_code == 200


@pytest.mark.parametrize("inner", [
    struct.pack("<HH2sHL", 0x0077, 0x1001, b"OB", 0, 0xFFFFFF), struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFF),
    struct.pack("<HHL", 0x0008, 0x0005, 0)])
def test_lengths_that_lead_out_of_a_sequence_of_undefined_length_are_refused(inner):
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner if inner[2:4] == b"\x01\x10" else inner
    with pytest.raises(ImageError):
        check_structure(with_elements(struct.pack("<HH2sHL", 0x0077, 0x1001, b"SQ", 0, 0xFFFFFFFF) + item + b"\0" * 64))


def test_half_a_million_empty_attributes_are_refused_by_their_count():
    with pytest.raises(ImageError, match=str(MAX_ELEMENTS)):
        check_structure(with_elements(struct.pack("<HH2sH", 0x0077, 0x1001, b"LO", 0) * (MAX_ELEMENTS + 1)))


@pytest.mark.parametrize("frames", [1, 100])
def test_a_header_of_65535_rows_and_columns_costs_nothing(desk, client, frames):
    data = as_bytes(encoded(RLELossless, *[struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\0"] * frames, Rows=65535, Columns=65535,
                            NumberOfFrames=frames, BitsAllocated=8, BitsStored=8, HighBit=7))
    keep_instance(desk, data, "test")
    address = INSTANCE.format(dcmread(io.BytesIO(data)).SOPInstanceUID)
    for way in ("/rendered", "/thumbnail", "/frames/1", f"/frames/{frames}/rendered"):
        refused(client.get(address + way), 422, "E106", "65535x65535", "in parts")
    assert client.get(address, headers={"accept": "application/dicom; transfer-syntax=*"}).content == data
    with pytest.raises((ImageError, SeriesError), match=r"65535x65535|100 but 0"):
        read_study([desk.store.home / "dicom"])


def siz(rows, columns):
    return b"\xff\x4f\xff\x51" + struct.pack(">HH8LH", 41, 0, columns, rows, 0, 0, columns, rows, 0, 0, 1) + b"\x07\x01\x01\xff\xd9"


def sof(rows, columns, marker=0xC0):
    return b"\xff\xd8" + struct.pack(">BBHBHHB", 0xFF, marker, 11, 8, rows, columns, 1) + b"\x01\x11\x00\xff\xd9"


@pytest.mark.parametrize("syntax, stream, words", [
    (JPEG2000Lossless, siz(65000, 65000), "65000x65000"), (JPEGBaseline8Bit, sof(65000, 65000), "65000x65000"),
    (JPEG2000Lossless, b"\0\0\0\x0cjP  \r\n\x87\n" + siz(8, 8) + siz(65000, 65000), "twice"), (JPEGBaseline8Bit, sof(8, 8, 0xC2), "progressively"),
    (JPEGBaseline8Bit, b"\xff\xd8\xff\xd9\0\0", "its size")])
def test_a_compressed_stream_that_is_larger_than_the_header_says_is_not_decoded(desk, client, syntax, stream, words):
    data = as_bytes(encoded(syntax, stream, BitsAllocated=8, BitsStored=8, HighBit=7))
    keep_instance(desk, data, "test")
    refused(client.get(INSTANCE.format(dcmread(io.BytesIO(data)).SOPInstanceUID) + "/rendered"), 422, "E106", words)
    with pytest.raises(ImageError, match=words):
        read_study([desk.store.home / "dicom"])


def test_series_beyond_what_a_study_may_hold_are_left_out_and_named(tmp_path, monkeypatch):
    for n, data in enumerate(ct_slices(np.zeros((2, 8, 8), np.int16))):
        (tmp_path / f"a{n}.dcm").write_bytes(data)
    for n, data in enumerate(ct_slices(np.zeros((2, 8, 8), np.int16), series="1.2.3.5")):
        (tmp_path / f"b{n}.dcm").write_bytes(data)
    monkeypatch.setattr("data.dicom.MAX_STUDY_PIXELS", 200)
    study = read_study(tmp_path)
    assert len(study.volumes) == 1 and any("[E107]" in words and "200 pixels" in words for words in study.skipped)


@pytest.mark.parametrize("uid", ["../../../../tmp/wetread_escape", "/etc/cron.d/x", "1.2\0.3", "CON", "a" * 64])
def test_no_uid_becomes_a_path(desk, uid, tmp_path):
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    kept = keep_instance(desk, as_bytes(image(StudyInstanceUID=uid, SeriesInstanceUID=uid, SOPInstanceUID=uid)), "test")
    [new] = {path for path in tmp_path.rglob("*") if path.is_file() and "wetread.db" not in path.name} - before
    assert new == desk.store.home / "dicom" / kept.sha256[:2] / f"{kept.sha256}.dcm"


@pytest.mark.parametrize("name, value, vr", [
    ("Rows", "a", "LO"), ("NumberOfFrames", "inf", "LO"), ("BitsAllocated", "16", "LO"), ("SharedFunctionalGroupsSequence", "x", "LO"),
    ("PerFrameFunctionalGroupsSequence", "xy", "LO"), ("RescaleSlope", "nan", "LO"), ("PhotometricInterpretation", ["MONOCHROME1", "X"], "CS"),
    ("WindowWidth", "x", "LO"), ("SOPClassUID", "not a uid", "LO"), ("SeriesNumber", "1e999", "LO"), ("PixelRepresentation", "x", "LO"),
    ("PatientWeight", float("nan"), "FD"), ("Rows", 0, "US"), ("BitsAllocated", 12, "US"), ("SamplesPerPixel", 5, "US")])
def test_an_attribute_of_another_kind_than_it_should_be_is_a_coded_error_or_left_out(desk, client, name, value, vr):
    odd = image()
    odd.pop(name, None)
    odd.add_new(name, vr, value)
    data = as_bytes(odd)
    keep_instance(desk, data, "test")
    address = INSTANCE.format(odd.SOPInstanceUID)
    assert client.get(address + "/metadata").status_code == 200
    for way in ("/rendered", "/frames/1", ""):
        assert client.get(address + way).status_code in (200, 404, 422), way
    try:
        read_study([desk.store.home / "dicom"])
    except Exception as error:
        assert str(error).startswith(("[E106]", "[E107]"))


# -- the line --------------------------------------------------------------------------------------------------------


def still_serves(port):
    with associated(port, Verification) as association:
        assert association.send_c_echo().Status == 0


def ended(line, within_s=60):
    """Whether the peer ends the connection: an A-ABORT (type 7) or its end."""
    line.settimeout(within_s)
    try:
        return line.recv(1) in (b"", b"\x07")
    except ConnectionError:
        return True


def test_a_pdu_that_announces_gigabytes_ends_its_association_at_once(server):
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFF0))
        assert ended(line)
    still_serves(server.port)


def test_a_pdu_that_drips_in_ends_its_association(server, monkeypatch):
    monkeypatch.setattr(listener, "PDU_WAIT_S", 0.2)
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(struct.pack(">BBL", 1, 0, 200))
        until = time.monotonic() + 10
        with pytest.raises(OSError):
            while time.monotonic() < until:
                line.sendall(b"\0")
                line.settimeout(0.1)
                try:
                    if line.recv(1) in (b"", b"\x07"):
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        assert time.monotonic() < until
    still_serves(server.port)


def test_a_pdu_that_stops_ends_its_association(server, monkeypatch):
    monkeypatch.setattr(listener, "PDU_WAIT_S", 0.5)
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(struct.pack(">BBL", 1, 0, 200) + b"\0" * 100)
        assert ended(line)
    still_serves(server.port)


def test_a_message_larger_than_its_service_takes_ends_its_association(server, monkeypatch):
    monkeypatch.setattr(listener, "IDENTIFIER_MAX_BYTES", 200_000)
    query = Dataset()
    query.PatientName, query.PatientComments = "", "x" * 400_000
    with associated(server.port, ModalityWorklistInformationFind) as association:
        answers = [status.get("Status") for status, _ in association.send_c_find(query, ModalityWorklistInformationFind)]
        assert answers == [None]        # no answer: the association was aborted
    still_serves(server.port)


@pytest.mark.parametrize("seed", range(3))
def test_noise_on_the_line_ends_its_association_and_no_other(server, seed):
    noise = np.random.default_rng(seed)
    with associated(server.port, Verification) as other:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", server.port)) as line:
                body = noise.bytes(int(noise.integers(0, 200)))
                line.sendall(struct.pack(">BBL", int(noise.integers(0, 10)), 0, len(body)) + body)
        assert other.send_c_echo().Status == 0
    still_serves(server.port)


def test_strangers_cannot_take_every_association(server, monkeypatch):
    monkeypatch.setattr("api.dicom.scp.may_speak", lambda peer, peers: False)       # every test peer is loopback
    lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(listener.STRANGERS_MAX)]
    until = time.monotonic() + 10
    while sum(1 for _ in server.server.active_associations) < listener.STRANGERS_MAX and time.monotonic() < until:
        time.sleep(0.01)
    with socket.create_connection(("127.0.0.1", server.port)) as one_more:
        assert ended(one_more)
    monkeypatch.undo()
    still_serves(server.port)
    for line in lines:
        line.close()


def test_a_key_of_wild_cards_takes_no_time():
    assert not pattern("*a" * 30 + "*b").fullmatch("a" * 64)
    assert pattern("*a*b?c*").fullmatch("xxaxxbbbdcx") and pattern("a**").fullmatch("a") and not pattern("*ab").fullmatch("abc")
