"""Modality Performed Procedure Step as SCP: N-CREATE opens a step, N-SET ends it. Source: PS3.4 annex F.7."""
import json
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from api.dicom.matching import text
from api.workflow import Desk
from data.errors import InputError, NotFound, StateError

SUCCESS, NOT_MODIFIED = 0x0000, 0x0107      # 0x0107: a warning, some attributes were not set
INVALID_VALUE, PROCESSING_FAILURE, DUPLICATE, NO_SUCH_INSTANCE, INVALID_INSTANCE, MISSING, MISSING_VALUE = (
    0x0106, 0x0110, 0x0111, 0x0112, 0x0117, 0x0120, 0x0121)
MAY_NO_LONGER_BE_UPDATED = 0xA710           # Error ID, table F.7.2-2
# type 1 at N-CREATE (table F.7.2-1)
REQUIRED = ("ScheduledStepAttributesSequence", "PerformedProcedureStepID", "PerformedStationAETitle", "PerformedProcedureStepStartDate",
            "PerformedProcedureStepStartTime", "PerformedProcedureStepStatus", "Modality")
# what N-SET must not change: who was examined, for which request, and since when (table F.7.2-1)
FIXED = ("SpecificCharacterSet", "ScheduledStepAttributesSequence", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
         "ReferencedPatientSequence", "IssuerOfPatientID", "PerformedProcedureStepID", "PerformedStationAETitle", "PerformedStationName",
         "PerformedLocation", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "Modality", "StudyID")


def create(desk: Desk, uid: str, step: Dataset, source: str) -> tuple[Dataset, Dataset | None]:
    """(status, attributes) of an N-CREATE; without a SOP Instance UID one is made."""
    if uid and not UID(uid).is_valid:
        return refusal(INVALID_INSTANCE, "[E109] Affected SOP Instance UID is no UID"), None
    missing = [name for name in REQUIRED if name not in step]
    empty = [name for name in REQUIRED if name in step and not step.get(name)]
    if missing or empty:
        return refusal(MISSING if missing else MISSING_VALUE, f"[E109] {(missing + empty)[0]} is missing"), None
    if text(step, "PerformedProcedureStepStatus") != "IN PROGRESS":
        return refusal(INVALID_VALUE, "[E109] PerformedProcedureStepStatus must be IN PROGRESS"), None
    scheduled = [{"step_id": text(one, "ScheduledProcedureStepID"), "accession_number": text(one, "AccessionNumber"),
                  "study_id": text(one, "StudyInstanceUID")} for one in step.ScheduledStepAttributesSequence]
    if not all(one["study_id"] for one in scheduled):
        return refusal(MISSING_VALUE, "[E109] StudyInstanceUID of a scheduled step is missing"), None
    made = Dataset()            # pynetdicom takes a UID of ours out of it
    if not uid:
        uid = made.AffectedSOPInstanceUID = generate_uid()
    try:
        desk.start_step(uid, as_json(step), scheduled, text(step, "PatientID"), source)
    except StateError as error:
        return refusal(DUPLICATE, str(error)), None
    return refusal(SUCCESS), made or None


def change(desk: Desk, uid: str, changes: Dataset, source: str) -> tuple[Dataset, Dataset | None]:
    """(status, attributes) of an N-SET."""
    ignored = [element.keyword for element in changes if element.keyword in FIXED[1:]]
    changes = changes.copy()
    for name in FIXED[1:]:
        changes.pop(name, None)
    try:
        desk.change_step(uid, text(changes, "PerformedProcedureStepStatus") or "IN PROGRESS", as_json(changes), source)
    except NotFound as error:
        return refusal(NO_SUCH_INSTANCE, str(error)), None
    except InputError as error:
        return refusal(INVALID_VALUE, str(error)), None
    except StateError as error:
        ended = refusal(PROCESSING_FAILURE, str(error))
        ended.ErrorID = MAY_NO_LONGER_BE_UPDATED
        return ended, None
    if ignored:
        return refusal(NOT_MODIFIED, f"{ignored[0]} was not changed"), None
    return refusal(SUCCESS), None


def as_json(dataset: Dataset) -> dict[str, Any]:
    """DICOM JSON (PS3.18 annex F) with text as Unicode; private attributes are left out."""
    kept = Dataset()
    for element in dataset:
        if not element.tag.is_private and element.keyword != "SpecificCharacterSet":
            kept.add(element)
    found: dict[str, Any] = json.loads(kept.to_json(suppress_invalid_tags=True))
    return found


def refusal(code: int, words: str = "") -> Dataset:
    answer = Dataset()
    answer.Status = code
    if words:
        answer.ErrorComment = words[:64]
    return answer
