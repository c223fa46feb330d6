"""QIDO-RS and WADO-RS as a viewer uses them: search, metadata, frames in each transfer syntax, whole instances, pictures."""
import io
import json
from dataclasses import replace
from email.parser import BytesParser

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from api.app import create_app
from api.workflow import Desk
from tests.api.web import HERE, ct_slices, keep_file, refused

VOLUME = np.random.default_rng(1).integers(-1000, 1000, (3, 40, 48)).astype(np.int16)
SERIES = "/dicomweb/studies/1.2.3/series/1.2.3.4"


@pytest.fixture
def desk(sqlite_desk):
    return sqlite_desk(Desk)


@pytest.fixture
def files(desk):
    """The study of three slices as kept, and a second study of another patient."""
    first = list(ct_slices(VOLUME))
    for data in (*first, *changed(ct_slices(VOLUME[:1], "1.2.9", "1.2.9.1"), PatientID="Q2", PatientName="山田^太郎", StudyDate="20250101")):
        keep_file(desk, data)
    return [dcmread(io.BytesIO(data)) for data in first]


@pytest.fixture
def client(desk, files):
    with TestClient(create_app(desk, desk.settings), base_url=HERE, client=("127.0.0.1", 1)) as client:
        yield client


def changed(instances, **values):
    for data in instances:
        image = dcmread(io.BytesIO(data))
        image.SpecificCharacterSet = "ISO_IR 192"
        for name, value in values.items():
            setattr(image, name, value)
        body = io.BytesIO()
        image.save_as(body)
        yield body.getvalue()


def parts(answer):
    """(media type, bytes) of each part of a multipart answer."""
    assert answer.status_code == 200, answer.text
    whole = BytesParser().parsebytes(b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.content)
    assert whole.is_multipart()
    return [(part["Content-Type"], part.get_payload(decode=True)) for part in whole.get_payload()]


def uids(answer, tag="0020000D"):
    assert answer.headers["content-type"] == "application/dicom+json"
    return [row[tag]["Value"][0] for row in answer.json()]


@pytest.mark.parametrize("asked, expected", [
    ("", {"1.2.3", "1.2.9"}), ("?PatientID=SIM1", {"1.2.3"}), ("?00100020=Q2", {"1.2.9"}), ("?PatientName=simul*", {"1.2.3"}),
    ("?PatientName=山田*", {"1.2.9"}), ("?StudyDate=20260101-", {"1.2.3"}), ("?StudyInstanceUID=1.2.3,1.2.9", {"1.2.3", "1.2.9"}),
    ("?ModalitiesInStudy=MR", set()), ("?AccessionNumber=A1&PatientID=SIM1&includefield=all", {"1.2.3"})])
def test_studies_are_searched_by_any_attribute(client, asked, expected):
    assert set(uids(client.get(f"/dicomweb/studies{asked}"))) == expected


def test_a_study_says_how_much_it_holds_and_where(client):
    [row] = client.get("/dicomweb/studies?PatientID=SIM1").json()
    assert row["00201208"]["Value"] == [3] and row["00201206"]["Value"] == [1] and row["00080061"]["Value"] == ["CT"]
    assert row["00081190"]["Value"] == [f"{HERE}/dicomweb/studies/1.2.3"]


def test_series_and_instances_of_a_study_are_listed_and_paged(client, files):
    assert uids(client.get("/dicomweb/studies/1.2.3/series"), "0020000E") == ["1.2.3.4"]
    found = uids(client.get(f"{SERIES}/instances"), "00080018")
    assert found == [str(image.SOPInstanceUID) for image in files]
    assert uids(client.get(f"{SERIES}/instances?limit=1&offset=2"), "00080018") == found[2:]


def test_an_unknown_attribute_is_named(client):
    refused(client.get("/dicomweb/studies?Patient=1"), 422, "E109", "'Patient'")


def test_metadata_holds_all_attributes_and_the_pixels_by_reference(client, files):
    rows = client.get(f"{SERIES}/metadata", headers={"accept": "application/dicom+json"}).json()
    assert [row["00080018"]["Value"][0] for row in rows] == [str(image.SOPInstanceUID) for image in files]
    assert "InlineBinary" not in json.dumps(rows) and rows[0]["00280010"]["Value"] == [40]
    fetched = client.get(rows[1]["7FE00010"]["BulkDataURI"])
    assert parts(fetched)[0][1] == files[1].PixelData


def test_frames_are_the_stored_pixels(client, files):
    uid = files[1].SOPInstanceUID
    [(kind, data)] = parts(client.get(f"{SERIES}/instances/{uid}/frames/1", headers={"accept": "multipart/related; type=application/octet-stream"}))
    assert kind.startswith("application/octet-stream") and data == files[1].PixelData


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_a_compressed_frame_is_decoded_unless_it_is_asked_for_as_stored(desk, client, files, syntax):
    image = files[0]
    image.compress(syntax, generate_instance_uid=False)
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.99"
    body = io.BytesIO()
    image.save_as(body)
    keep_file(desk, body.getvalue())
    address = f"{SERIES}/instances/1.2.3.4.99"
    [(_, raw)] = parts(client.get(f"{address}/frames/1"))
    assert raw == VOLUME[0].tobytes()
    any_syntax = {"accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}
    [(kind, stored)] = parts(client.get(f"{address}/frames/1", headers=any_syntax))
    assert f"transfer-syntax={syntax}" in kind and stored and stored != raw
    [(_, whole)] = parts(client.get(address))
    np.testing.assert_array_equal(dcmread(io.BytesIO(whole)).pixel_array, VOLUME[0])
    assert dcmread(io.BytesIO(whole)).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    [(_, same)] = parts(client.get(address, headers={"accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}))
    assert same == body.getvalue()


def test_a_study_comes_as_the_bytes_that_were_kept(client, desk):
    got = [data for _, data in parts(client.get("/dicomweb/studies/1.2.3", headers={"accept": 'multipart/related; type="application/dicom"'}))]
    with desk.store.read() as tx:
        assert got == [(desk.store.home / row["path"]).read_bytes() for row in tx.find("instances", study_id="1.2.3", order=["id"])]


def test_one_instance_may_come_without_a_multipart(client, files):
    answer = client.get(f"{SERIES}/instances/{files[0].SOPInstanceUID}", headers={"accept": "application/dicom"})
    assert dcmread(io.BytesIO(answer.content)).SOPInstanceUID == files[0].SOPInstanceUID


def test_a_picture_goes_through_the_window_asked_for(client, files):
    answer = client.get(f"{SERIES}/instances/{files[0].SOPInstanceUID}/rendered?window=0,100,linear", headers={"accept": "image/png"})
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert answer.headers["content-type"] == "image/png" and picture.shape == (40, 48)
    assert (picture[VOLUME[0] < -60] == 0).all() and (picture[VOLUME[0] > 60] == 255).all()


@pytest.mark.parametrize("address, status, code", [
    ("/dicomweb/studies/1.2.77", 404, "E110"), (f"{SERIES}/metadata?x=1", 200, ""), ("/dicomweb/studies/1.2.77/metadata", 404, "E110")])
def test_what_is_not_kept_is_not_found(client, address, status, code):
    answer = client.get(address)
    if code:
        refused(answer, status, code)
    else:
        assert answer.status_code == status


def test_frames_beyond_the_last_and_frames_that_are_no_numbers_are_refused(client, files):
    address = f"{SERIES}/instances/{files[0].SOPInstanceUID}/frames"
    refused(client.get(f"{address}/2"), 404, "E110", "1 frames")
    refused(client.get(f"{address}/x"), 400, "E109")
    refused(client.get(f"{SERIES}/metadata", headers={"accept": "text/html"}), 406, "E109")


def test_beyond_loopback_a_viewer_needs_a_key_as_every_program_does(desk, files):

    far = replace(desk.settings, host="0.0.0.0")
    with TestClient(create_app(desk, far), base_url="http://10.0.0.1:8080", client=("10.0.0.9", 1)) as client:
        for address in ("/dicomweb/studies", "/dicomweb/studies/1.2.3", f"{SERIES}/metadata"):
            assert client.get(address).status_code == 401


def test_looks_at_images_are_audited(client, desk):
    client.get("/dicomweb/studies/1.2.3/metadata")
    assert ("look", "images", "1.2.3") in [(row["action"], row["kind"], row["object_id"]) for row in desk.store.audit_rows()]
