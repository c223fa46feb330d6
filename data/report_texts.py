"""Radiology report text by other people, for measuring the re-reader: neuro ORU messages, MedPix teaching cases, BTReport findings.

Read where it lies (docs/models.md says where), never kept in this repository.
"""
import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError

NEURO = re.compile(r"brain|\bhead\b|omhead|skull|cranial|neuro|cerebr|orbit|pituitary|sinus|carotid", re.I)
LENGTH_MIN = 60         # characters


@dataclass(frozen=True)
class ReportText:
    id: str
    source: str         # oru, medpix, btreport
    text: str
    side: str = ""      # of the tumour, where the text was written from features that have it

    @property
    def aside(self) -> bool:
        """Kept aside for the figures: the half that the reader was not developed on, drawn by the case's name."""
        return hashlib.sha256(self.id.encode()).digest()[0] % 2 == 0


def read_report_texts(folder: Path) -> list[ReportText]:
    """Every neuro report below `folder` (hl7/messages.jsonl, reports/medpix_neuro, reports/btreport_text), each text once.

    Raises: InputError when there is none.
    """
    found: dict[str, ReportText] = {}
    for name, read in (("hl7/messages.jsonl", oru_texts), ("reports/medpix_neuro/cases.jsonl", medpix_texts),
                       ("reports/btreport_text/pairs.jsonl", btreport_texts)):
        path = folder / name
        if path.is_file():
            with path.open(encoding="utf-8") as lines:
                try:
                    for report in read(json.loads(line) for line in lines):
                        found.setdefault(report.text, report)
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(f"{path} is no file of reports ({type(error).__name__}); give the folder with hl7/ and reports/") from None
    if not found:
        raise InputError(f"--data {folder} holds no report text; give the folder with hl7/messages.jsonl and reports/")
    return list(found.values())


def oru_texts(rows: Iterator[dict[str, str]]) -> Iterator[ReportText]:
    """The text of OBX segments; a line of the message, or a repetition, is a line of the report."""
    for row in rows:
        if row["type"] != "ORU":
            continue
        body = base64.b64decode(row["message_base64"]).decode("latin-1")
        segments = [line.split("|") for line in re.split(r"[\r\n]+", body) if line]
        exam = " ".join(field for segment in segments if segment[0] == "OBR" for field in segment[4:5])
        written = [segment for segment in segments if segment[0] == "OBX" and len(segment) > 5 and segment[2] in ("ST", "TX", "FT")]
        lines = [segment[5].replace("~", "\n") for segment in written]
        text = unescaped("\n".join(lines)).strip()
        if len(text) >= LENGTH_MIN and NEURO.search(f"{exam} {text[:400]}") and not re.search(r"cardiac|heart", f"{exam} {text[:400]}", re.I):
            yield ReportText(text, "oru", text)


def unescaped(text: str) -> str:
    for code, sign in (("\\.br\\", "\n"), ("\\T\\", "&"), ("\\S\\", "^"), ("\\F\\", "|"), ("\\R\\", "~"), ("\\E\\", "\\")):
        text = text.replace(code, sign)
    return text


def medpix_texts(rows: Iterator[dict[str, str]]) -> Iterator[ReportText]:
    """One a case: its findings, else its caption, under the headings of a report; the history stays a history."""
    seen = set()
    for row in rows:
        said = row["findings"] if len(row["findings"]) >= LENGTH_MIN else row["caption"]
        if row["case"] in seen or len(said) < LENGTH_MIN:
            continue
        seen.add(row["case"])
        yield ReportText(row["case"], "medpix", f"HISTORY: {row['history']}\n\nFINDINGS: {said}\n")


def btreport_texts(rows: Iterator[dict[str, Any]]) -> Iterator[ReportText]:
    for row in rows:
        for name in ("findings_gptoss", "findings_llama3"):
            if len(row[name]) >= LENGTH_MIN:
                side = str(row["features"].get("vasari_f2_side_of_tumour_epicenter", "")).lower()
                yield ReportText(row["id"], "btreport", row[name].strip(), side if side in ("left", "right") else "")
