"""A small desk for the tests of the HTTP service: deterministic suggester and reporter, and the store's own jobs."""
import hashlib
import io
import itertools

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from api.jobs import Worker
from api.workflow import Desk
from data.dicom import instance_header
from data.errors import ModelError
from data.records import Draft, Evidence, Finding, Flag, Ranked, Sentence, Suggestion

HERE = "http://127.0.0.1:8080"
UIDS = itertools.count(1)


class WordSuggester:
    """Suggests by one word of the text, and says where it stands."""

    def suggest(self, order):
        if "broken" in order.text:
            raise ModelError("the model is broken")
        at = order.text.find("bleed")
        protocol = "CT_HEAD_WO" if at >= 0 else "MR_BRAIN_WO"
        evidence = (Evidence("bleed", at, at + 5),) if at >= 0 else ()
        flags = (Flag("pregnancy", "stop", "r1", "ACR manual 2024", "She is pregnant.", evidence=evidence),) if order.facts.pregnant else ()
        return Suggestion(ranked=(Ranked(protocol, 0.9), Ranked("CT_HEAD_W", 0.1)), set=(protocol,), contrast="none", flags=flags,
                          urgent=at >= 0, urgent_probability=float(at >= 0), disposition="auto", evidence=evidence,
                          indications=("acute head injury",), nearest=("a1", "elsewhere7"), model="m1", book="b1")


class OneFinding:
    """Reads nothing out of an image: enough for the steps on a draft."""

    def draft(self, images, order, priors=()):
        finding = Finding("f1", "haemorrhage", "haemorrhage", True, 0.9, critical=True)
        return Draft(study="", status="draft", refused=None, findings=(finding,), sections={"findings": "A clot.", "impression": "Bleed."},
                     sentences=(Sentence("A clot.", "findings", ("f1",), 0.8, "model"), Sentence("Bleed.", "impression", ("f1",), 0.8, "template")),
                     model={}, priority=0.9), {}


class TextDesk(Desk):
    @staticmethod
    def _read(paths):
        return list(paths)


def work(desk):
    """Do every job that is due, and those that its end makes due."""
    worker = Worker(desk.store, {"suggest": desk.suggest_order, "complete": desk.complete_quiet_study, "draft": desk.draft_study},
                    backoff_s=(0, 0))
    while worker.run_once():
        pass


def add_draft(desk):
    """A study with a draft, made by the desk's own jobs; gives the draft."""
    uid = f"1.2.{next(UIDS)}"
    desk.instance_kept({"StudyInstanceUID": uid, "SOPInstanceUID": f"{uid}.1", "SeriesInstanceUID": f"{uid}.0", "PatientName": "Muster^Erika",
                        "PatientID": "X1", "Modality": "CT", "sha256": uid, "path": "none.dcm", "source": "test"})
    desk.complete_study(uid)
    work(desk)
    return desk.study(uid)["draft"]


def audited(desk):
    return [(row["user"], row["action"], row["kind"], row["object_id"]) for row in desk.store.audit_rows()]


def refused(answer, status, code, *words):
    """A problem with its code, never a traceback."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] == code and body["detail"].startswith(f"[{code}]") and body["status"] == status
    assert "Traceback" not in answer.text
    for word in words:
        assert word in body["detail"]


def ct_slices(volume, study="1.2.3", series="1.2.3.4", spacing=(5.0, 1.0, 1.0), description="head CT"):
    """A volume of HU (slices, rows, columns) as DICOM files' bytes, axial, as a scanner sends it."""
    for n, image in enumerate(volume):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[series, str(n)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        row = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        row.SOPClassUID, row.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        row.StudyInstanceUID, row.SeriesInstanceUID, row.Modality, row.SeriesNumber = study, series, "CT", 1
        row.PatientID, row.PatientName, row.PatientSex, row.PatientBirthDate = "SIM1", "Simulated^Head", "F", "19600101"
        row.StudyDescription, row.SeriesDescription, row.StudyDate, row.AccessionNumber = description, description, "20261124", "A1"
        row.ImageType, row.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], n + 1
        row.ImagePositionPatient, row.ImageOrientationPatient = [-100, -100, n * spacing[0]], [1, 0, 0, 0, 1, 0]
        row.PixelSpacing, row.SliceThickness, (row.Rows, row.Columns) = list(spacing[1:]), spacing[0], image.shape
        row.SamplesPerPixel, row.PhotometricInterpretation, row.PixelRepresentation = 1, "MONOCHROME2", 1
        row.BitsAllocated = row.BitsStored = 16
        row.HighBit, row.RescaleSlope, row.RescaleIntercept = 15, 1, 0
        row.PixelData = np.ascontiguousarray(image, "<i2").tobytes()
        body = io.BytesIO()
        pydicom.dcmwrite(body, row, enforce_file_format=True)
        yield body.getvalue()


def keep_file(desk, data):
    """One instance into the desk's home and the desk, without a way in from outside."""
    digest = hashlib.sha256(data).hexdigest()
    (desk.store.home / f"{digest}.dcm").write_bytes(data)
    desk.instance_kept({**instance_header(data), "sha256": digest, "path": f"{digest}.dcm", "source": "test"})
