"""A draft compares with the patient's earlier studies: those whose drafts the desk keeps, and those given to `wetread draft --prior`."""
import json
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.inference import LateReporter
from api.prior_studies import check_priors, priors_from_drafts, read_priors, still_said
from api.settings import Settings
from api.store import Store
from api.workflow import Desk
from data.errors import InputError
from data.records import Draft, Finding, Patient, Sentence, Study, as_json
from data.simulator import simulate_head_ct, write_dicom
from tests.api.web import HERE, TextDesk, keep_file, work

ROOT = Path(__file__).parents[2]
BLEED = "intraparenchymal_haemorrhage"


@pytest.fixture(scope="module")
def heads():
    """One head with a small bleed, and with a large one at the same place."""
    return {name: simulate_head_ct(9001, "intraparenchymal", size=size, slice_mm=5.0) for name, size in (("small", 0.45), ("large", 0.9))}


def write(heads, name, folder, day):
    return write_dicom(heads[name], folder, patient_id="SIM-P", accession_number=f"A{day}", when=datetime(2026, 1, day, 8))


# -- with the real models --------------------------------------------------------------------------------------------

def test_the_desk_compares_a_study_with_the_drafts_of_the_same_patients_earlier_ones(heads, sqlite_template, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "wetread.db").write_bytes(sqlite_template.read_bytes())
    desk = Desk(Store.open("", home, upgrade=False), Settings(home=home), None, LateReporter("cpu"))
    said = []
    for day, name in ((8, "small"), (15, "large"), (22, "large"), (1, "large")):
        for file in write(heads, name, tmp_path / str(day), day):
            keep_file(desk, file.read_bytes())
        [new] = [row["id"] for row in desk.studies() if row["state"] == "receiving"]
        desk.complete_study(new)
        work(desk)
        said.append(desk.study(new)["draft"])
    first, second, third, older = said
    for draft in (first, older):        # an earlier study that is drafted later has nothing before it, and changes no other draft
        assert draft["sections"]["comparison"] == "No prior study was read." and "since" not in draft["sections"]["impression"]
    assert second["sections"]["comparison"] == "Study of 2026-01-08 (measured by AI, not signed)."
    [before] = [f["volume_ml"] for f in first["findings"] if f["code"] == BLEED]
    assert f"larger since 2026-01-08 (previously {before:g} mL)." in second["sections"]["impression"]
    assert "unchanged since 2026-01-15 (previously" in third["sections"]["impression"]
    assert not [r for r in desk.check_draft(second["id"], {}) if r["severity"] == "stop" or r["code"].startswith(("number", "comparison"))]
    with TestClient(create_app(desk, desk.settings), base_url=HERE) as http:
        assert f"larger since 2026-01-08 (previously {before:g} mL)." in http.get(f"/v1/drafts/{second['id']}").json()["sections"]["impression"]
        page = http.get(f"/studies/{second['study_id']}").text
        assert f"2026-01-08: {before:.1f} mL" in page and "larger since 2026-01-08" in page
    desk.store.close()


def wetread(*words):
    return subprocess.run([sys.executable, "-m", "api.cli", *map(str, words)], capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_the_command_compares_with_the_json_that_it_wrote_of_an_earlier_study(heads, tmp_path):
    write(heads, "large", tmp_path / "before", 8)
    write(heads, "small", tmp_path / "now", 15)
    done = wetread("draft", tmp_path / "before", "--out", tmp_path / "before.json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    done = wetread("draft", tmp_path / "now", "--prior", tmp_path / "before.json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["sections"]["comparison"] == ("Study of 2026-01-08 (measured by AI, not signed). "
                                             "Stated on 2026-01-08 and neither found nor denied here: mass effect.")
    assert "smaller since 2026-01-08 (previously" in row["sections"]["impression"]
    [bleed] = [f for f in row["findings"] if f["code"] == BLEED]
    assert bleed["prior"]["date"] == "20260108" and bleed["prior"]["volume_ml"] > bleed["volume_ml"]


# -- what a person did to an earlier draft ----------------------------------------------------------------------------

def record(**changes):
    findings = (Finding("f1", "intracranial_haemorrhage", "x", True, 0.9),
                Finding("f2", "subdural_haemorrhage", "x", True, 0.9, "left", volume_ml=8.0),
                Finding("f3", "midline_shift", "x", False, 0.1))
    sentences = (Sentence("Left subdural haematoma, 8 mL.", "findings", ("f2",), 0.9, "model"),
                 Sentence("No midline shift.", "findings", ("f3",), 0.9, "template"),
                 Sentence("Left subdural haematoma, 8 mL.", "impression", ("f2",), 0.9, "template"))
    draft = Draft("1.2", "draft", None, findings, {}, sentences, {}, modality="CT")
    return {**json.loads(json.dumps(as_json(draft))), "patient_id": "P", "date": "20260101", **changes}


def without(text):
    return [s for s in record()["sentences"] if s["text"] != text]


def typed(text):
    return as_json(Sentence(text, "findings", provenance="user"))


@pytest.mark.parametrize(("sentences", "said"), [
    (record()["sentences"], {"subdural_haemorrhage", "midline_shift"}),
    (without("Left subdural haematoma, 8 mL."), {"midline_shift"}),                                 # deleted
    ([typed("Left subdural haematoma, 5 mL."), *without("Left subdural haematoma, 8 mL.")], {"midline_shift"}),     # corrected
    ([*record()["sentences"], typed("Small right subdural haematoma too.")], {"midline_shift"}),    # added to
    ([*record()["sentences"], typed("Shift of 4 mm to the right of the midline structures.")], {"subdural_haemorrhage"}),
    ([typed("Normal.")], set()),
])
def test_only_what_nobody_took_out_or_wrote_about_is_compared_with(sentences, said):
    findings, _ = still_said(record(sentences=sentences))
    assert {f.code for f in findings} == said


def test_what_was_taken_out_of_a_later_report_is_not_looked_up_in_an_earlier_one():
    study = {"id": "1.2", "date": "20260101", "modality": "CT"}
    earlier = {"record": record(), "status": "draft", "study": study}
    corrected = record(sentences=without("Left subdural haematoma, 8 mL."))
    later = {"record": corrected, "status": "final", "study": {**study, "id": "1.3", "date": "20260105"}}
    assert [(p.study, p.signed, {f.code for f in p.findings}) for p in priors_from_drafts([later, earlier], "P")] == [
        ("1.3", True, {"midline_shift"}), ("1.2", False, {"midline_shift"})]
    assert "subdural_haemorrhage" in {f.code for p in priors_from_drafts([earlier], "P") for f in p.findings}


class Noting:
    """Notes the earlier studies that it is given."""

    def __init__(self):
        self.given = []

    def draft(self, study, order, priors=()):
        self.given.append(priors)
        made = record()
        sections = {"findings": "Left subdural haematoma, 8 mL. No midline shift.", "impression": "Left subdural haematoma, 8 mL."}
        return Draft("", "draft", None, tuple(Finding(**{**f, "evidence": ()}) for f in made["findings"]), sections,
                     tuple(Sentence(**{**s, "findings": tuple(s["findings"])}) for s in made["sentences"]), {}, 0.9, "CT"), {}


class DatedDesk(TextDesk):
    @staticmethod
    def _read(paths):
        return Study("1", (), Patient(id="in the images"))


@pytest.fixture
def desk(sqlite_template, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "wetread.db").write_bytes(sqlite_template.read_bytes())
    store = Store.open("", home, upgrade=False)
    yield DatedDesk(store, Settings(home=home), None, Noting())
    store.close()


def come(desk, uid, date, born="19600101", patient="X1", drafted=True, prior=False):
    desk.instance_kept({"StudyInstanceUID": uid, "SOPInstanceUID": f"{uid}.1", "SeriesInstanceUID": f"{uid}.0", "PatientID": patient,
                        "Modality": "CT", "PatientBirthDate": born,
                        "StudyDate": date, "sha256": uid, "path": "none.dcm", "source": "test", "prior": prior})
    if drafted:
        desk.complete_study(uid)
        work(desk)
        return desk.study(uid)["draft"]
    return None


def given(desk, uid="9.9", date="20260301"):
    come(desk, uid, date)
    return [(p.study, p.date, p.modality, p.signed, p.patient_id) for p in desk.reporter.given[-1]]


def test_the_report_that_counts_is_the_signed_one_else_the_newest_draft_and_no_cancelled_one(desk):
    draft = come(desk, "1.1", "20260101")
    assert given(desk) == [("1.1", "20260101", "CT", False, "in the images")]       # of a merged patient the images carry an older number
    desk.sign_draft(draft["id"], "anna", draft["version"])
    assert given(desk, "9.8") == [("1.1", "20260101", "CT", True, "in the images")]
    second = come(desk, "1.2", "20260201")
    desk.cancel_draft(second["id"], "anna", second["version"])
    assert given(desk, "9.7", "20260202") == [("1.1", "20260101", "CT", True, "in the images")]


def test_another_day_of_birth_another_patient_the_same_day_and_a_study_without_a_draft_are_no_priors(desk):
    come(desk, "1.1", "20260101", born="19990101")
    come(desk, "1.2", "20260101", patient="X2")
    come(desk, "1.3", "20260301")
    come(desk, "1.4", "")
    come(desk, "1.5", "20260101", drafted=False, prior=True)         # fetched from the PACS to look at
    assert given(desk) == []
    come(desk, "1.6", "20260101", born="")
    assert [row[0] for row in given(desk, "9.8", "20260302")] == ["1.3", "9.9", "1.6"]


def test_an_earlier_draft_that_cannot_be_read_takes_no_draft_from_the_later_study(desk, caplog):
    draft = come(desk, "1.1", "20260101")
    with desk.store.write() as tx:
        tx.change("drafts", {"id": draft["id"]}, record={"findings": [{"odd": 1}], "sentences": []})
    assert given(desk) == [] and "could not be compared with" in caplog.text


# -- coded errors ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "words"), [
    ("", "is empty"), ("STUDY 1.2 (x), AI DRAFT", "no JSON"), ("[1]", "no JSON object"), ('{"order_text": "fall"}', "has no study"),
    (json.dumps(record(refused={"code": "plane", "reason": "x"})), "refused"), (json.dumps(record(status="cancelled")), "cancelled"),
    (json.dumps(record(patient_id="")), "patient_id"), (json.dumps(record(date="1 May")), "YYYYMMDD"), (json.dumps(record(modality="")), "CT or MR"),
    (json.dumps(record(findings=[{"code": "none"}])), "findings 1"), (json.dumps(record(sentences=[{}])), "sentences 1"),
    (json.dumps(record(findings=[{**record()["findings"][1], "volume_ml": "8"}])), "volume_ml"),
    (json.dumps(record(findings=[{**record()["findings"][1], "volume_ml": float("nan")}])), "volume_ml"),
    (json.dumps(record(findings=[{**record()["findings"][1], "side": "upper"}])), "side"),
])
def test_what_is_no_draft_is_told_with_what_was_expected_and_the_cure(text, words, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError) as error:
        read_priors(tmp_path / "p.json")
    assert words in str(error.value) and str(error.value).startswith(f"[E109] --prior {tmp_path / 'p.json'}") and "; " in str(error.value)


@pytest.mark.parametrize(("changes", "words"), [
    ({"patient_id": "SECRET"}, "patient_id is another"), ({"date": "20260301"}, "expected one before the study's 20260301"),
    ({"modality": "MR"}, "modality is MR, expected CT"), ({"study": "9.9"}, "the one to be drafted"), ({}, "")])
def test_an_earlier_study_that_does_not_fit_is_named_without_an_identifier(changes, words, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(record(**changes)))
    priors = [(tmp_path / "p.json", prior) for prior in read_priors(tmp_path / "p.json")]
    study = Study("9.9", (), Patient(id="P"), date="20260301")
    if not words:
        check_priors(study, "CT", priors)
        return
    with pytest.raises(InputError, match=r"\[E109\] --prior") as error:
        check_priors(study, "CT", priors)
    assert words in str(error.value) and "SECRET" not in str(error.value)
    with pytest.raises(InputError, match="PatientID"):
        check_priors(replace(study, patient=Patient()), "CT", priors)


def test_a_prior_goes_with_one_study_and_a_file_that_is_no_draft_is_told_before_a_model_is_loaded(tmp_path):
    (tmp_path / "p.json").write_text("{}")
    done = wetread("draft", "one", "two", "--prior", tmp_path / "p.json")
    assert done.returncode == 2 and "--prior goes with one study" in done.stderr
    done = wetread("draft", "one", "--prior", tmp_path / "p.json")
    assert done.returncode == 1 and done.stderr.startswith("[E109] --prior") and len(done.stderr.splitlines()) == 1
