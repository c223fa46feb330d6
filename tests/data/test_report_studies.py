"""Every adapter reads a tiny folder in its published layout; splits are by patient, and what leaks is removed and counted."""
import csv
import gzip
import json

import pytest

from data.errors import InputError
from data.report_studies import ADAPTERS, StudyRecord, as_dataset, read_studies, split_by_patient

TEXT = "FINDINGS: Left subdural haematoma, 3.5 cm (12 mL).\nIMPRESSION: Bleed."


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def own_store(folder):
    jsonl(folder / "learning" / "reports.jsonl", [{"id": "d1", "patient": "p", "text": TEXT, "images": ["dicom/ab/x.dcm", "dicom/ab/y.dcm"]}])
    return "d1", "p", ("dicom/ab/x.dcm", "dicom/ab/y.dcm"), ""


def folder_with_jsonl(folder):
    jsonl(folder / "reports.jsonl", [{"id": 7, "patient": 1, "images": "a/ct", "findings": "Left subdural haematoma, 3.5 cm (12 mL).",
                                      "impression": "Bleed.", "split": "test"}])
    return "7", "1", ("a/ct",), "test"


def r2gen(folder):
    rows = [{"id": "CXR2384_IM-0942", "report": TEXT, "image_path": ["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png"], "split": "train"}]
    (folder / "annotation.json").write_text(json.dumps({"train": rows, "val": [], "test": []}))
    return "CXR2384_IM-0942", "CXR2384", ("images/CXR2384_IM-0942/0.png", "images/CXR2384_IM-0942/1.png"), "train"


def mimic_cxr_jpg(folder):
    with gzip.open(folder / "mimic-cxr-2.0.0-split.csv.gz", "wt", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("dicom_id", "study_id", "subject_id", "split"))
        rows.writerow(("02aa804e-bde0afdd", "50414267", "10000032", "validate"))
        rows.writerow(("174413ec-4ec4c1f7", "50414267", "10000032", "validate"))
        rows.writerow(("2a2277a9-b0ded155", "53189527", "10000032", "validate"))      # its report was not fetched
    place = folder / "files" / "p10" / "p10000032"
    place.mkdir(parents=True)
    (place / "s50414267.txt").write_text(TEXT)
    images = tuple(f"files/p10/p10000032/s50414267/{name}.jpg" for name in ("02aa804e-bde0afdd", "174413ec-4ec4c1f7"))
    return "s50414267", "p10000032", images, "val"


def ct_rate(folder):
    place = folder / "dataset" / "radiology_text_reports"
    place.mkdir(parents=True)
    with (place / "validation_reports.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN"))
        rows.writerow(("valid_12_a_1.nii.gz", "", "", "Left subdural haematoma, 3.5 cm (12 mL).", "Bleed."))
    return "valid_12_a_1.nii.gz", "valid_12", ("dataset/valid/valid_12/valid_12_a/valid_12_a_1.nii.gz",), "test"


def medpix(folder):
    jsonl(folder / "cases.jsonl", [{"id": "MPX1_a", "case": "MPX1", "split": "dev", "image": "images/MPX1_a.jpg", "history": "fall",
                                    "caption": "Axial CT.", "findings": "Left subdural haematoma, 3.5 cm (12 mL)."}])
    return "MPX1_a", "MPX1", ("images/MPX1_a.jpg",), "val"


def medpix_2(folder):
    (folder / "Case_topic.json").write_text(json.dumps([{"U_id": "MPX1", "TAC": ["MPX1_a"], "MRI": [], "Case": {
        "History": "fall", "Findings": "Left subdural haematoma, 3.5 cm (12 mL)."}}]))
    row = {"Type": "CT", "U_id": "MPX1", "image": "MPX1_a", "Description": {"Caption": "Axial CT."}}
    (folder / "Descriptions.json").write_text(json.dumps([row]))
    return "MPX1_a", "MPX1", ("images/MPX1_a.png",), ""


FOLDERS = {"own-store": own_store, "jsonl": folder_with_jsonl, "r2gen": r2gen, "mimic-cxr-jpg": mimic_cxr_jpg, "ct-rate": ct_rate, "medpix": medpix,
           "medpix-2.0": medpix_2}


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_adapter_reads_its_published_layout_and_leaves_the_text_as_it_is(name, tmp_path):
    id, patient, images, split = FOLDERS[name](tmp_path)
    [row] = read_studies(tmp_path)
    assert (row.id, row.patient, row.split, row.source) == (id, patient, split, name)
    assert row.images == tuple(tmp_path / path for path in images)
    assert "3.5 cm (12 mL)" in row.text and "Left" in row.text


@pytest.mark.parametrize(("file", "body"), [
    ("annotation.json", "{"), ("annotation.json", '{"train": [{"id": "x"}]}'), ("annotation.json", "[]"), ("annotation.json", '{"other": [{}]}'),
    ("reports.jsonl", '{"id": 1, "patient": 2, "images": "../../etc/passwd", "text": "x"}'),
    ("reports.jsonl", '{"id": 1, "patient": 2, "images": []}'),
    ("reports.jsonl", ""), ("cases.jsonl", "\x00"), ("mimic-cxr-2.0.0-split.csv.gz", "no gzip"), ("elsewhere.json", "{}")])
def test_a_malformed_set_is_named_and_no_traceback(file, body, tmp_path):
    (tmp_path / file).write_text(body)
    with pytest.raises(InputError, match="E109"):
        read_studies(tmp_path)


def record(id, patient, text, split=""):
    return StudyRecord(id, patient, text, (), split)


def test_patients_are_never_split_and_what_leaks_is_removed_and_counted():
    rows = [record("1", "a", "No bleed.", "test"), record("2", "a", "Large bleed.", "train"), record("3", "b", "No  bleed.\n", "train"),
            record("4", "c", "no bleed.", "train"), record("5", "d", "Small bleed.", "val"), record("6", "e", "Small bleed.", "train"),
            record("7", "a", "Mass.", "test")]
    kept, left_out = split_by_patient(rows)
    assert {row.id for row in kept} == {"1", "4", "5", "7"}       # a capital more is another text
    assert left_out == {"patient of another split": 1, "text of another split": 2}


def test_a_set_without_splits_is_split_by_patient_and_the_same_way_each_time():
    rows = [record(f"{i}-{k}", f"patient {i}", f"text {i} {k}") for i in range(200) for k in range(3)]
    kept, left_out = split_by_patient(rows)
    splits = {}
    for row in kept:
        splits.setdefault(row.patient, set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values()) and not any(left_out.values())
    assert 8 < sum(found == {"test"} for found in splits.values()) < 40
    assert kept == split_by_patient(rows)[0]


def test_records_become_a_dataset_of_hugging_face():
    rows = as_dataset([record("1", "a", "3.5 cm", "test")])
    assert rows[0] == {"id": "1", "patient": "a", "split": "test", "source": "", "text": "3.5 cm", "images": []}
