"""Images by HTTP: sent by upload and STOW-RS, kept before the answer, given back as the viewer needs them."""
from importlib.util import find_spec

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.images import marks
from api.workflow import Desk
from data.records import Draft, Finding, ImageEvidence
from tests.api.web import HERE, audited, ct_slices, keep_file, refused, work

needs_intake = pytest.mark.skipif(find_spec("api.dicom.intake") is None, reason="api/dicom/intake.py is not there yet")
DICOM = {"content-type": "multipart/related; type=\"application/dicom\"; boundary=b"}


class Marker:
    """Marks every voxel over 50 HU as the one finding."""

    def draft(self, images, order, priors=()):
        pixels = images.volumes[0].pixels
        finding = Finding("f1", "haemorrhage", "haemorrhage", True, 0.9, evidence=(ImageEvidence(images.volumes[0].series_uid, 1, mask="blood"),))
        return Draft("", "draft", None, (finding,), {"findings": "Blood."}, (), {}, 0.9), {"blood": (pixels > 50).astype(np.uint8)}


@pytest.fixture
def desk(sqlite_desk):
    return sqlite_desk(Desk, None, Marker())


@pytest.fixture
def client(desk):
    return TestClient(create_app(desk, desk.settings), base_url=HERE)


@pytest.fixture
def volume():
    """Three small slices of water, with a bright voxel at a known place."""
    volume = np.zeros((3, 16, 20), np.int16)
    volume[:] = np.arange(16)[:, None]
    volume[1, 4, 15] = 70
    return volume


def related(parts, end=b"--b--\r\n"):
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + end


@needs_intake
def test_an_upload_is_kept_before_the_answer(client, desk, volume):
    answer = client.post("/v1/studies", files=[("files", (f"{n}.dcm", data)) for n, data in enumerate(ct_slices(volume))])
    assert answer.status_code == 201, answer.text
    assert answer.json()["studies"] == ["1.2.3"] and len(answer.json()["kept"]) == 3 and not answer.json()["failed"]
    kept = [instance["path"] for series in desk.study("1.2.3")["series"] for instance in series["instances"]]
    assert len(kept) == 3 and all((desk.store.home / path).is_file() for path in kept)
    assert ("local", "upload", "study", "1.2.3") in audited(desk)


def test_pixels_and_masks_come_back_voxel_for_voxel_and_each_look_is_audited(client, desk, volume):
    for data in ct_slices(volume):
        keep_file(desk, data)
    client.post("/v1/studies/1.2.3/complete")
    work(desk)
    head = client.get("/v1/studies/1.2.3/series/0").json()
    assert (head["shape"], head["spacing_mm"], head["units"], head["count"]) == ([3, 16, 20], [5, 1, 1], "HU", 1)
    assert head["marks"] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    pixels = np.frombuffer(client.get("/v1/studies/1.2.3/series/0/pixels").content, "<i2").reshape(head["shape"])
    assert (pixels == volume).all()
    draft = desk.study("1.2.3")["draft"]
    mask = client.get(f"/v1/drafts/{draft['id']}/masks/blood")
    assert mask.headers["x-shape"] == "3,16,20"
    assert (np.frombuffer(mask.content, np.uint8).reshape(3, 16, 20) == (volume > 50)).all()
    assert {("local", "look", "images", "1.2.3"), ("local", "look", "draft", draft["id"])} <= set(audited(desk))
    refused(client.get("/v1/studies/1.2.3/series/1"), 404, "E110")


def test_a_late_slice_shows_at_once(client, desk, volume):
    files = list(ct_slices(volume))
    for data in files[:2]:
        keep_file(desk, data)
    desk.complete_study("1.2.3")
    work(desk)
    assert client.get("/v1/studies/1.2.3/series/0").json()["shape"][0] == 2
    keep_file(desk, files[2])
    assert client.get("/v1/studies/1.2.3/series/0").json()["shape"][0] == 3


@needs_intake
def test_an_upload_names_what_was_not_kept_and_keeps_the_rest(client, desk, volume):
    good = next(ct_slices(volume))
    answer = client.post("/v1/studies", files=[("files", ("a.dcm", good)), ("files", ("patient_muster.dcm", b"nothing of the kind"))])
    assert answer.status_code == 201 and len(answer.json()["kept"]) == 1
    (lost,) = answer.json()["failed"]
    assert (lost["name"], lost["code"]) == ("file 2", "E106") and "muster" not in answer.text
    assert client.post("/v1/studies", files=[("files", ("a", b"no"))]).status_code == 422
    refused(client.post("/v1/studies", data={"x": "y"}), 415, "E109")
    refused(client.post("/v1/studies", json={}), 415, "E109")
    refused(client.post("/v1/studies", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"}), 400, "E109")


@needs_intake
def test_stow_answers_each_instance_as_the_standard_says(client, desk, volume):
    answer = client.post("/dicomweb/studies", content=related(ct_slices(volume)), headers=DICOM)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    assert len(answer.json()["00081199"]["Value"]) == 3 and "00081198" not in answer.json()
    assert len(desk.study("1.2.3")["series"][0]["instances"]) == 3
    again = client.post("/dicomweb/studies", content=related([*ct_slices(volume), b"no dicom"]), headers=DICOM)
    assert again.status_code == 202 and len(again.json()["00081198"]["Value"]) == 1
    assert len(desk.study("1.2.3")["series"][0]["instances"]) == 3
    assert client.post("/dicomweb/studies", content=related([b"no dicom"]), headers=DICOM).status_code == 409
    other = client.post("/dicomweb/studies/1.2.9", content=related(ct_slices(volume)), headers=DICOM)
    assert other.status_code == 409
    big = np.zeros((1, 800, 800), np.int16)         # larger than a JSON body may be
    assert client.post("/dicomweb/studies/1.2.9", content=related(ct_slices(big, study="1.2.9")), headers=DICOM).status_code == 200


@pytest.mark.parametrize("body, headers, status", [
    (b"x", {"content-type": "application/dicom"}, 415), (b"x", {"content-type": "multipart/related"}, 415),
    (b"x", {"content-type": "multipart/related; type=\"application/dicom+json\"; boundary=b"}, 415),
    (b"no boundary here", DICOM, 400), (b"--b--\r\n", DICOM, 400), (b"--b\r\nX: " + b"y" * 10_000 + b"\r\n\r\n", DICOM, 400),
])
def test_a_body_that_is_no_stow_is_refused_in_words(client, body, headers, status):
    refused(client.post("/dicomweb/studies", content=body, headers=headers), status, "E109")


@needs_intake
def test_a_stow_that_breaks_off_is_not_called_kept(client, volume):
    refused(client.post("/dicomweb/studies", content=related(ct_slices(volume), end=b""), headers=DICOM), 400, "E109")


def test_sides_come_from_the_geometry_and_none_is_better_than_a_wrong_one():
    assert marks(None) == {}
    turned = np.diag([-1.0, 1, 1, 1])
    assert marks(turned)["left"] == "L"
    coronal = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    assert marks(coronal) == {"left": "R", "right": "L", "top": "H", "bottom": "F"}
