"""What is kept, as a query sees it: studies, series and instances as data sets; for C-FIND and QIDO-RS. Source: PS3.4 C.6, PS3.18 10.6."""
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset

from api.dicom.matching import holds, matches, text, values
from api.store import Store, Tx
from data.errors import InputError

LEVELS = ("STUDY", "SERIES", "IMAGE")
SEARCHED_MAX = 20_000       # newest studies looked through
NUMBERS = ("Rows", "Columns", "NumberOfFrames", "SeriesNumber", "InstanceNumber")
OF_SERIES = ("Modality", "SeriesDescription", "SeriesNumber")
OF_INSTANCE = ("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "NumberOfFrames")


def find(store: Store, level: str, query: Dataset) -> Iterator[Dataset]:
    """Every study, series or instance that matches, newest study first, with all attributes of its level and those above.

    Raises: InputError for an unknown level.
    """
    if level not in LEVELS:
        raise InputError(f"QueryRetrieveLevel is '{str(level)[:20]}', expected one of {', '.join(LEVELS)}")
    above = keys(query, "StudyInstanceUID", "PatientID", "AccessionNumber", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate",
                 "StudyTime", "StudyDescription")
    with store.read() as tx:
        for study in studies(tx, query):
            if not matches(above, study_item(study, [])):
                continue
            instances = tx.find("instances", study_id=study["id"], superseded=False, order=["id"])
            for item in items(level, study, instances):
                if matches(query, item):
                    yield item


def studies(tx: Tx, query: Dataset) -> list[dict[str, Any]]:
    """Candidates: what equality alone can narrow is narrowed by the store."""
    narrow: dict[str, Any] = {}
    for keyword, column in (("StudyInstanceUID", "id"), ("PatientID", "patient_id"), ("AccessionNumber", "accession_number")):
        asked = [str(value) for value in values(query[keyword])] if keyword in query and holds(query[keyword]) else []
        if asked and not any(letter in value for value in asked for letter in "*?"):
            narrow[column] = asked
    return tx.find("studies", order=["-arrived", "id"], limit=SEARCHED_MAX, **narrow)


def items(level: str, study: dict[str, Any], instances: list[dict[str, Any]]) -> Iterator[Dataset]:
    if not instances:
        return
    whole = study_item(study, instances)
    if level == "STUDY":
        yield whole
        return
    series: dict[str, list[dict[str, Any]]] = {}
    for row in instances:
        series.setdefault(row["series_uid"], []).append(row)
    for uid, rows in series.items():
        item = whole.copy()
        item.SeriesInstanceUID = uid
        fill(item, rows[0]["header"], OF_SERIES)
        item.NumberOfSeriesRelatedInstances = len(rows)
        if level == "SERIES":
            yield item
            continue
        for row in rows:
            one = item.copy()
            fill(one, row["header"], OF_INSTANCE)
            yield one


def study_item(study: dict[str, Any], instances: list[dict[str, Any]]) -> Dataset:
    item, patient = Dataset(), study["patient"]
    item.StudyInstanceUID, item.AccessionNumber, item.StudyDescription = study["id"], study["accession_number"], study["description"]
    item.StudyDate, item.StudyTime = study["date"], instances[0]["header"].get("StudyTime", "") if instances else ""
    item.PatientID, item.PatientName = study["patient_id"], patient.get("name", "")
    item.PatientBirthDate, item.PatientSex = patient.get("birth_date", ""), patient.get("sex", "")
    item.StudyID, item.ReferringPhysicianName = "", ""
    item.InstanceAvailability = "ONLINE"
    if instances:
        item.ModalitiesInStudy = sorted({row["header"].get("Modality", "") for row in instances} - {""})
        item.NumberOfStudyRelatedSeries = len({row["series_uid"] for row in instances})
        item.NumberOfStudyRelatedInstances = len(instances)
    return item


def fill(item: Dataset, header: dict[str, str], names: tuple[str, ...]) -> None:
    """Attributes of a kept header; a number that is none is left empty."""
    for name in names:
        value: Any = header.get(name, "")
        if name in NUMBERS:
            value = int(value) if value.lstrip("-").isdigit() else None
        if value is not None or name in ("SeriesNumber", "InstanceNumber"):
            setattr(item, name, value)


def keys(query: Dataset, *names: str) -> Dataset:
    found = Dataset()
    for name in names:
        if name in query:
            found.add(query[name])
    return found


def kept(store: Store, study_uid: str | list[str], series_uid: str | list[str] = "", sop_uid: str | list[str] = "") -> list[dict[str, Any]]:
    """The instances named, as rows in the order they came; UIDs may be lists."""
    narrow = {name: value for name, value in (("study_id", study_uid), ("series_uid", series_uid), ("sop_uid", sop_uid)) if value}
    if not narrow:
        return []
    with store.read() as tx:
        return tx.find("instances", superseded=False, order=["id"], **narrow)


def named(query: Dataset) -> tuple[list[str], list[str], list[str]]:
    """The UIDs a C-MOVE or C-GET names, by level."""
    study, series, instance = ([str(value) for value in values(query[name])] if name in query and text(query, name) else []
                               for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
    return study, series, instance
