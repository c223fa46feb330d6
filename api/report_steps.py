"""The check before signature: a radiologist's text against its order, patient, draft and itself. It remarks, it never locks."""
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import date
from typing import Any

from api.draft_steps import check_sections, known
from api.order_steps import order_from_record
from api.store import Store, Tx
from data.errors import InputError
from data.records import Finding, Order, Prior


class ReportSteps:
    store: Store

    def check_draft(self, id: str, sections: Mapping[str, str]) -> list[dict[str, Any]]:
        """Remarks on a draft's text, with the sections given instead of those kept; raises NotFound, InputError."""
        check_sections(dict(sections))
        with self.store.read() as tx:
            row = known(tx.one("drafts", id=id))
            first = tx.find("draft_versions", draft_id=id, order=["version"], limit=1)
            study = tx.one("studies", id=row["study_id"])
            assert study is not None
            order = tx.one("orders", id=study["order_id"]) if study["order_id"] else None
            earlier = has_prior(tx, study)
        written = dict(first[0]["record"]["sections"] if first else row["record"]["sections"])
        asked = order_from_record(order["record"]) if order else None
        return remarks({**row["record"]["sections"], **sections}, asked, study["patient"], study["date"],
                       [finding_from(finding) for finding in row["record"]["findings"]], written, earlier or bool(asked and asked.priors))

    def check_text(self, sections: Mapping[str, str], order: Order | None) -> list[dict[str, Any]]:
        """Remarks on a text of no draft here, against the order given with it; raises InputError."""
        check_sections(dict(sections))
        return remarks(sections, order, {}, "", [], None, bool(order.priors) if order else None)


def remarks(sections: Mapping[str, str], order: Order | None, patient: Mapping[str, str], study_date: str, findings: list[Finding],
            draft: Mapping[str, str] | None, prior: bool | None) -> list[dict[str, Any]]:
    from nlp.report_checks import Asked, check_report  # reads with spaCy, which takes a second to import

    sex = patient.get("sex") or (order.patient.sex if order else "U")
    born = patient.get("birth_date") or (order.patient.birth_date if order else "")
    age = age_years(born, study_date) if born else order.age_years if order else None
    found = check_report(sections, Asked(order, sex if sex in ("M", "F") else "U", age, findings, draft, prior))     # type: ignore[arg-type]  # sex is one of the three
    return [{**asdict(row), "text": sections.get(row.section, "")[row.start:row.end]} for row in found]


def has_prior(tx: Tx, study: Mapping[str, Any]) -> bool:
    """Whether an earlier study of the same patient is kept here."""
    if not study["patient_id"]:
        return False
    rows = tx.find("studies", patient_id=study["patient_id"], columns=("id", "date", "arrived"))
    mine = study["date"], study["arrived"]
    return any(row["id"] != study["id"] and (not row["date"] or not study["date"] or (row["date"], row["arrived"]) < mine) for row in rows)


def finding_from(record: Mapping[str, Any]) -> Finding:
    """as_json turned back, without the evidence; keys a newer version wrote are left out."""
    names = {f.name for f in fields(Finding)} - {"evidence", "prior"}
    before = record.get("prior")
    prior = Prior(**{f.name: before[f.name] for f in fields(Prior) if f.name in before}) if isinstance(before, Mapping) else None
    return Finding(**{name: value for name, value in record.items() if name in names}, prior=prior)


def age_years(birth_date: str, on: str) -> float | None:
    """Both YYYYMMDD; today when the study has no date."""
    try:
        born = date.fromisoformat(birth_date[:8])
        day = date.fromisoformat(on[:8]) if on else date.today()
    except ValueError:
        return None
    return max(0.0, (day - born).days / 365.25)


def mark_of(rows: list[dict[str, Any]]) -> str:
    """Names the remarks that ask to be looked at; "" when there are none. It changes when they do."""
    stops = [(row["code"], row["section"], row["message"]) for row in rows if row["severity"] == "stop"]
    return hashlib.sha256(repr(stops).encode()).hexdigest()[:16] if stops else ""


def sections_of(text: str) -> dict[str, str]:
    """A whole report by its headings; what stands under none of them, or under others, is findings."""
    from nlp.assertions import section_heading, sections

    pattern, _ = section_heading()
    found: dict[str, str] = {}
    for name, start, end in sections(text):
        head = pattern.match(text, start)
        words = text[head.end() if head and head.end() <= end else start:end].lstrip(":").strip()
        name = name if name in ("exam", "indication", "technique", "comparison", "impression") else "findings"
        found[name] = f"{found[name]}\n{words}" if name in found else words
    if not any(words.strip() for words in found.values()):
        raise InputError("text is empty; send the report as it will be signed")
    return found
