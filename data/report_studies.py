"""Studies with their reports from elsewhere, as one record: the tables of ADAPTERS know each published layout; splits are by patient.

Texts come as written: never lower-cased, truncated or stripped of numbers.
"""
import csv
import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val", "test": "test", "": ""}
TENTHS = ("test", "val")        # of ten parts of the patients; the other eight are for training
LINE_MAX = 4 << 20              # characters of one line of JSONL
MIMIC = "mimic-cxr-2.0.0"


@dataclass(frozen=True)
class StudyRecord:
    """One study: where its images lie and what was reported."""

    id: str
    patient: str                # whose studies are never split
    text: str                   # the whole report, headings as they came
    images: tuple[Path, ...]    # files of one study, or one folder of them
    split: str = ""             # train, val or test; "" when the set publishes none
    source: str = ""            # name of its adapter


@dataclass(frozen=True)
class Adapter:
    what: str
    file: str                               # by whose presence a folder is known to be of this layout
    read: Callable[[Path], Iterator[StudyRecord]]


def read_studies(folder: Path) -> list[StudyRecord]:
    """Every study of a folder in one of the layouts of ADAPTERS, patients split; raises InputError when it is none of them, or malformed."""
    for name, adapter in ADAPTERS.items():
        if (folder / adapter.file).is_file():
            try:
                found = [replace(row, source=name) for row in adapter.read(folder)]
            except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, csv.Error) as error:
                raise InputError(f"{folder / adapter.file} does not have the layout of {adapter.what} ({type(error).__name__}: "
                                 f"{str(error)[:80]}); see docs/reports.md") from None
            if not found:
                raise InputError(f"{folder / adapter.file} names no study with a report; docs/reports.md shows the layouts")
            return found
    raise InputError(f"{folder} has none of {', '.join(adapter.file for adapter in ADAPTERS.values())}; give a folder in a layout of docs/reports.md")


# ---------------------------------------------------------------- splits

def split_by_patient(records: Sequence[StudyRecord]) -> tuple[list[StudyRecord], dict[str, int]]:
    """The records with a split each, and how many were left out so that nothing of a test study stands in training.

    A set without splits is split by the patient's name (a tenth test, a tenth val). What leaks leaves the part it would help: a patient of
    the test split leaves val and train, one of val leaves train, and so does a report that is word for word one of them.
    """
    rows = [row if row.split else replace(row, split=drawn_split(row.patient)) for row in records]
    left_out = Counter({"patient of another split": 0, "text of another split": 0})
    kept: list[StudyRecord] = []
    patients: set[str] = set()
    texts: set[str] = set()
    for split in ("test", "val", "train"):
        mine = [row for row in rows if row.split == split]
        for row in mine:
            if row.patient in patients:
                left_out["patient of another split"] += 1
            elif same(row.text) in texts:
                left_out["text of another split"] += 1
            else:
                kept.append(row)
        patients |= {row.patient for row in mine}
        texts |= {same(row.text) for row in mine}
    return kept, dict(left_out)


def drawn_split(patient: str) -> str:
    part = hashlib.sha256(patient.encode()).digest()[0] * 10 // 256
    return TENTHS[part] if part < len(TENTHS) else "train"


def same(text: str) -> str:
    """What makes two reports one: every word, digit and capital; only the spaces do not count."""
    return " ".join(text.split())


def as_dataset(records: Iterable[StudyRecord]) -> "Dataset":
    """The records as a Hugging Face Dataset (id, patient, split, source, text, images), for whoever trains on them."""
    from datasets import Dataset

    return Dataset.from_list([{"id": r.id, "patient": r.patient, "split": r.split, "source": r.source, "text": r.text,
                               "images": [str(path) for path in r.images]} for r in records])


# ---------------------------------------------------------------- adapters

def own_store(folder: Path) -> Iterator[StudyRecord]:
    """HOME: signed reports that the shell wrote to learning/reports.jsonl; images are the files kept in HOME."""
    yield from jsonl_records(folder, folder / "learning" / "reports.jsonl")


def folder_with_jsonl(folder: Path) -> Iterator[StudyRecord]:
    """reports.jsonl: id, patient, images (paths below the folder), text or findings and impression, split (may be left out)."""
    yield from jsonl_records(folder, folder / "reports.jsonl")


def r2gen(folder: Path) -> Iterator[StudyRecord]:
    """annotation.json of R2Gen (IU X-ray, MIMIC-CXR): splits of {id, report, image_path}; images below images/."""
    for split, rows in json.loads((folder / "annotation.json").read_text(encoding="utf-8")).items():
        for row in rows:
            paths = row["image_path"] if isinstance(row["image_path"], list) else [row["image_path"]]
            yield StudyRecord(str(row["id"]), str(row.get("subject_id") or str(row["id"]).split("_")[0]), said(row["report"]),
                              tuple(below(folder / "images", path) for path in paths), SPLITS[split])


def mimic_cxr_jpg(folder: Path) -> Iterator[StudyRecord]:
    """MIMIC-CXR-JPG: its split table, files/p10/p10000032/s50414267/*.jpg, and the reports of MIMIC-CXR as s50414267.txt beside the folders."""
    studies: dict[tuple[str, str], tuple[str, list[Path]]] = {}
    for row in table(folder / f"{MIMIC}-split.csv.gz"):
        patient, study = digits(row["subject_id"]), digits(row["study_id"])
        place = folder / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}"
        studies.setdefault((patient, study), (SPLITS[row["split"]], []))[1].append(below(place, row["dicom_id"] + ".jpg"))
    for (patient, study), (split, images) in studies.items():
        report = folder / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}.txt"
        if report.is_file():
            yield StudyRecord(f"s{study}", f"p{patient}", said(report.read_text(encoding="utf-8")), tuple(images), split)


def ct_rate(folder: Path) -> Iterator[StudyRecord]:
    """CT-RATE: radiology_text_reports/*_reports.csv; dataset/train/train_1/train_1_a/train_1_a_1.nii.gz. Its validation part is the test one."""
    place = folder / "dataset"
    for split, name in (("train", "train"), ("test", "validation")):
        path = place / "radiology_text_reports" / f"{name}_reports.csv"
        for row in table(path) if path.is_file() else ():
            volume = row["VolumeName"]
            part, number, scan = volume.removesuffix(".nii.gz").split("_")[:3]
            sections = (("CLINICAL INFORMATION", "ClinicalInformation_EN"), ("TECHNIQUE", "Technique_EN"), ("FINDINGS", "Findings_EN"),
                        ("IMPRESSION", "Impressions_EN"))
            text = "\n\n".join(f"{head}: {row[column]}" for head, column in sections if row.get(column))
            yield StudyRecord(volume, f"{part}_{number}", said(text),
                              (below(place, part, f"{part}_{number}", f"{part}_{number}_{scan}", volume),), split)


def medpix(folder: Path) -> Iterator[StudyRecord]:
    """cases.jsonl, one picture a line with its case's history and findings; pictures of a case are one patient's, its text is said once a picture."""
    for row in lines(folder / "cases.jsonl"):
        parts = (("HISTORY", row["history"]), ("FINDINGS", " ".join(filter(None, (row["caption"], row["findings"])))))
        yield StudyRecord(row["id"], row["case"], said("\n\n".join(f"{head}: {words}" for head, words in parts if words)),
                          (below(folder, row["image"]),), SPLITS[row["split"]])


def medpix_2(folder: Path) -> Iterator[StudyRecord]:
    """MedPix 2.0 as published: Descriptions.json (a picture each) and Case_topic.json (a case each), pictures below images/; no splits."""
    cases = {row["U_id"]: row["Case"] for row in json.loads((folder / "Case_topic.json").read_text(encoding="utf-8"))}
    for row in json.loads((folder / "Descriptions.json").read_text(encoding="utf-8")):
        case, about = cases.get(row["U_id"], {}), row["Description"]
        parts = (("HISTORY", case.get("History")), ("FINDINGS", " ".join(filter(None, (about.get("Caption"), case.get("Findings"))))))
        picture = row["image"] if Path(row["image"]).suffix else f"{row['image']}.png"
        yield StudyRecord(Path(picture).stem, row["U_id"], said("\n\n".join(f"{head}: {words}" for head, words in parts if words)),
                          (below(folder / "images", picture),))


# name -> its layout; the first whose file lies in the folder is taken
ADAPTERS = {
    "own-store": Adapter("a Wetread HOME with signed reports", "learning/reports.jsonl", own_store),
    "jsonl": Adapter("a folder with reports.jsonl", "reports.jsonl", folder_with_jsonl),
    "r2gen": Adapter("R2Gen's annotation.json", "annotation.json", r2gen),
    "mimic-cxr-jpg": Adapter("MIMIC-CXR-JPG", f"{MIMIC}-split.csv.gz", mimic_cxr_jpg),
    "ct-rate": Adapter("CT-RATE", "dataset/radiology_text_reports/validation_reports.csv", ct_rate),
    "medpix": Adapter("MedPix neuro cases", "cases.jsonl", medpix),
    "medpix-2.0": Adapter("MedPix 2.0", "Descriptions.json", medpix_2),
}


# ---------------------------------------------------------------- parts of them

def jsonl_records(folder: Path, path: Path) -> Iterator[StudyRecord]:
    for row in lines(path):
        text = row["text"] if "text" in row else "\n\n".join(f"{name.upper()}: {row[name]}" for name in ("findings", "impression") if row.get(name))
        paths = row["images"] if isinstance(row["images"], list) else [row["images"]]
        yield StudyRecord(str(row["id"]), str(row["patient"]), said(text), tuple(below(folder, one) for one in paths), SPLITS[row.get("split", "")])


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of JSONL; a line break inside a text is \\n there, so that only real lines are lines."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if len(line) > LINE_MAX:
                raise ValueError(f"line {number} is longer than {LINE_MAX} characters")
            if line.strip():
                yield json.loads(line)


def table(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file, also a compressed one; every cell stays the text it is."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as body:
        yield from csv.DictReader(io.TextIOWrapper(body, encoding="utf-8-sig", newline=""))     # type: ignore[arg-type]  # a zip's or gzip's stream reads as bytes


def said(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError("a report has no text")
    return text


def digits(text: str) -> str:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"'{text[:20]}' is no number of a patient or study")
    return text


def below(folder: Path, *parts: str) -> Path:
    """A path of the set; one that leads out of its folder is none."""
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{parts[-1][:60]} lies outside {folder.name}")
    return path
