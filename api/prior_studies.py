"""Earlier studies to compare a draft with: from the drafts that are kept here, or from what `wetread draft` wrote of them.

Measurements are the program's. What a person took out of a report or wrote anew is not compared with, as nobody measured it.
"""
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from api.draft_steps import SIGNED
from api.report_steps import finding_from
from api.store import Tx
from data.errors import InputError
from data.findings import FINDINGS
from data.records import Finding, PriorStudy, Study

MODALITIES = ("CT", "MR")
DATE = re.compile(r"\d{8}")         # YYYYMMDD
PRIORS_MAX = 10                     # newest earlier studies that are looked into
COUNTS = ("draft", "preliminary", *SIGNED)      # a cancelled draft was thrown away, or another took its place
DRAFT_AGAIN = "draft the earlier study again and give what `wetread draft STUDY --out FILE` writes"


def kept_drafts(tx: Tx, study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The draft that counts of each earlier study of the same patient, newest first, each with its study's row; `study` is a row of the store."""
    if not study["patient_id"] or not DATE.fullmatch(study["date"]):
        return []
    rows = tx.find("studies", patient_id=study["patient_id"], order=["-date", "id"], columns=("id", "date", "modality", "patient"))
    earlier = [row for row in rows if row["id"] != study["id"] and DATE.fullmatch(row["date"]) and row["date"] < study["date"]
               and not born_apart(row, study)]
    drafts = [(row, draft_that_counts(tx.find("drafts", study_id=row["id"], status=list(COUNTS)))) for row in earlier[:PRIORS_MAX]]
    return [{**draft, "study": row} for row, draft in drafts if draft is not None]


def priors_from_drafts(drafts: Iterable[Mapping[str, Any]], patient_id: str) -> tuple[PriorStudy, ...]:
    """What each of `kept_drafts` still says. What a person took out of a later one is not looked up in an earlier one."""
    found, doubted = [], set[str]()
    for draft in drafts:
        study, record = draft["study"], draft["record"]
        findings, changed = still_said(record)
        findings = tuple(f for f in findings if f.code not in doubted)
        doubted |= changed
        modality = record.get("modality") or study["modality"]      # drafts of older versions do not name theirs
        if modality in MODALITIES and findings:
            found.append(PriorStudy(study["id"], patient_id, study["date"], modality, findings, draft["status"] in SIGNED))
    return tuple(found)


def born_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Two people under one number, by their birth dates."""
    dates = {row["patient"].get("birth_date", "") for row in (one, other)} - {""}
    return len(dates) > 1


def draft_that_counts(drafts: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The report that was signed last, else the newest draft."""
    return max(drafts, key=lambda row: (row["status"] in SIGNED, row["signed"], row["revision"]), default=None)


def still_said(record: Mapping[str, Any]) -> tuple[tuple[Finding, ...], set[str]]:
    """The findings whose machine-written sentence stands unchanged in a draft, and the codes of what a person took out or wrote about."""
    from nlp.assertions import read_report  # reads with spaCy, which takes a second to import
    from nlp.report_checks import kin
    from nlp.sentences import group_findings

    findings = [replace(finding_from(row), prior=None) for row in record["findings"]]
    kept = {id for s in record["sentences"] if s["section"] == "findings" and s["provenance"] != "user" for id in s["findings"]}
    own = " ".join(s["text"] for s in record["sentences"] if s["provenance"] == "user" and s["section"] in ("findings", "impression"))
    touched = {f.code for group in group_findings(findings) for f in group if f.id not in kept}
    touched |= {named.code for named in read_report(own)} if own else set()
    changed = {code for one in touched for code in kin(one)}
    return tuple(f for f in findings if f.id in kept and f.code not in changed), changed


# ---------------------------------------------------------------- `wetread draft STUDY --prior FILE`

def read_priors(path: Path) -> list[PriorStudy]:
    """Each line of a file of drafts as an earlier study; raises InputError."""
    try:
        lines = [(n, line) for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.strip()]
    except OSError as error:
        raise InputError(f"--prior {path} cannot be read ({error.strerror}); {DRAFT_AGAIN}") from None
    except UnicodeDecodeError:
        raise InputError(f"--prior {path} is no text, expected JSON; {DRAFT_AGAIN}") from None
    if not lines:
        raise InputError(f"--prior {path} is empty, expected a draft as JSON; {DRAFT_AGAIN}")
    return [prior_from_line(line, f"--prior {path} line {n}") for n, line in lines]


def prior_from_line(line: str, where: str) -> PriorStudy:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{where} is no JSON, expected a draft on one line; {DRAFT_AGAIN}") from None
    wanted = {"study": str, "status": str, "patient_id": str, "date": str, "modality": str, "findings": list, "sentences": list}
    if not isinstance(row, dict) or (wrong := [name for name, kind in wanted.items() if not isinstance(row.get(name), kind)]):
        lacking = f"has no {wrong[0]}" if isinstance(row, dict) else "is no JSON object"
        raise InputError(f"{where} {lacking}, expected a draft with {', '.join(wanted)}; {DRAFT_AGAIN}")
    if row.get("refused") is not None:
        raise InputError(f"{where} is of a study that was refused, expected one with findings; leave this --prior away")
    if row["status"] not in COUNTS:
        raise InputError(f"{where} has the status '{row['status'][:20]}', expected {', '.join(COUNTS)}; leave this --prior away")
    if not row["patient_id"] or not DATE.fullmatch(row["date"]) or row["modality"] not in MODALITIES:
        raise InputError(f"{where} needs patient_id, date as YYYYMMDD and modality CT or MR; only DICOM tells them: {DRAFT_AGAIN}")
    if problem := malformed(row):
        raise InputError(f"{where}: {problem}; {DRAFT_AGAIN}")
    return PriorStudy(row["study"], row["patient_id"], row["date"], row["modality"], still_said(row)[0], row["status"] in SIGNED)


def malformed(row: Mapping[str, Any]) -> str:
    """What is wrong with the findings or sentences of a draft's JSON, or ""."""
    for n, one in enumerate(row["findings"], 1):
        if not isinstance(one, dict) or one.get("code") not in FINDINGS or not isinstance(one.get("present"), bool) or any(
                not isinstance(one.get(name), str) for name in ("id", "label", "band")):
            return f"findings {n} is no finding of data/findings.toml with id, code, label, band and present"
        for name in ("probability", "size_mm", "volume_ml", "count"):
            value = one.get(name)
            if not (value is None and name != "probability") and not (
                    isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0):
                return f"findings {n} has a {name} that is no number from 0 up"
        if one.get("side") not in (None, "left", "right", "bilateral", "midline"):
            return f"findings {n} has a side that is none of left, right, bilateral, midline"
    for n, one in enumerate(row["sentences"], 1):
        if not isinstance(one, dict) or any(not isinstance(one.get(name), str) for name in ("text", "section", "provenance")) or not (
                isinstance(one.get("findings"), list) and all(isinstance(id, str) for id in one["findings"])):
            return f"sentences {n} has no text, section, provenance or findings"
    return ""


def check_priors(study: Study, modality: str, priors: Sequence[tuple[Path, PriorStudy]]) -> None:
    """Raises InputError for an earlier study that this one cannot be compared with; no identifier stands in the message."""
    if priors and not (study.patient.id and DATE.fullmatch(study.date)):
        raise InputError("the study has no PatientID (0010,0020) or no StudyDate (0008,0020) as YYYYMMDD, which --prior needs; give it as DICOM "
                         "that has both, or leave --prior away")
    for path, prior in priors:
        if prior.patient_id != study.patient.id:
            raise InputError(f"--prior {path}: patient_id is another than the PatientID (0010,0020) of the images; give a study of the same patient")
        if prior.study == study.id:
            raise InputError(f"--prior {path}: study is the one to be drafted, expected an earlier one; give that")
        if prior.date >= study.date:
            raise InputError(f"--prior {path}: date is {prior.date}, expected one before the study's {study.date}; give an earlier study")
        if prior.modality != modality:
            raise InputError(f"--prior {path}: modality is {prior.modality}, expected {modality} as of the study; give a study that was read alike")
