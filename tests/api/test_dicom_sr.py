import shutil
import subprocess
from dataclasses import replace

import pytest
from pydicom import dcmread

from api.dicom.sr import write_report
from data.dicom import read_study
from data.errors import WetreadError
from data.records import Draft, Refusal
from data.simulator import simulate_head_ct, write_dicom


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    write_dicom(simulate_head_ct(3, kind="none", rows=64, slice_mm=10.0), folder, patient_id="P7", accession_number="A7")
    return folder, Draft(read_study(folder).id, "draft", None, (),
                         {"findings": "Left subdural haematoma, 12 mL. <é & µ>", "impression": "Bleed."}, (), {})


def test_a_report_carries_patient_study_sections_and_every_instance_read(study, tmp_path):
    folder, draft = study
    write_report(draft, folder, tmp_path / "sr.dcm")
    report, image = dcmread(tmp_path / "sr.dcm"), dcmread(next(folder.rglob("*.dcm")))
    assert (report.PatientID, report.AccessionNumber, report.StudyInstanceUID) == ("P7", "A7", image.StudyInstanceUID)
    sections = [section for section in report.ContentSequence if section.ValueType == "CONTAINER"]
    assert [section.ContentSequence[0].TextValue for section in sections] == list(draft.sections.values())
    [evidence] = report.CurrentRequestedProcedureEvidenceSequence
    assert sum(len(s.ReferencedSOPSequence) for s in evidence.ReferencedSeriesSequence) == len(list(folder.rglob("*.dcm")))


def test_a_draft_is_preliminary_and_unverified_and_only_a_signed_one_final(study, tmp_path):
    folder, draft = study
    write_report(draft, folder, tmp_path / "draft.dcm")
    write_report(replace(draft, status="final"), folder, tmp_path / "final.dcm")
    first, final = dcmread(tmp_path / "draft.dcm"), dcmread(tmp_path / "final.dcm")
    assert (first.CompletionFlag, first.PreliminaryFlag, first.VerificationFlag) == ("PARTIAL", "PRELIMINARY", "UNVERIFIED")
    assert (final.CompletionFlag, final.PreliminaryFlag) == ("COMPLETE", "FINAL")


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dcmtk is not installed: apt-get install dcmtk")
def test_dcmtk_reads_the_report_as_a_valid_basic_text_sr(study, tmp_path):
    folder, draft = study
    write_report(draft, folder, tmp_path / "sr.dcm")
    done = subprocess.run(["dsrdump", "+U8", "+Pl", tmp_path / "sr.dcm"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Left subdural haematoma, 12 mL." in done.stdout, done.stderr
    assert not [line for line in done.stderr.splitlines() if "VR checker" not in line]      # dcmtk checks no UTF-8


def test_a_refused_draft_and_a_study_of_another_patient_make_no_report(study, tmp_path):
    folder, draft = study
    for wrong in (replace(draft, refused=Refusal("plane", "oblique")), replace(draft, study="1.2.3")):
        with pytest.raises(WetreadError):
            write_report(wrong, folder, tmp_path / "sr.dcm")
    assert not (tmp_path / "sr.dcm").exists()
