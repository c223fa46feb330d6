"""What the JSON API takes; what it answers are the records of data/records.py as JSON."""
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from data.orders import order_from_json
from data.records import Order

Line = Annotated[str, Field(max_length=500)]
Lines = Annotated[list[Line], Field(max_length=200)]
Text = Annotated[str, Field(max_length=20_000)]


class Given(BaseModel):
    """A misspelt field is said, not silently dropped: it could be the allergy."""

    model_config = ConfigDict(extra="forbid")


class OrderQuestion(Given):
    """One order as in a JSONL file; all but the text may be left out, null is unknown."""

    order_text: Annotated[str, Field(max_length=200_000, description="The clinical question, history and notes.")]
    id: Annotated[str, Field(max_length=200)] | None = None
    ordered_exam: Line | None = Field(None, description="The exam as clicked, in words.")
    age: float | None = Field(None, ge=0, le=130, description="years")
    sex: Literal["M", "F", "O", "U"] | None = None
    egfr: float | None = Field(None, ge=0, le=300, description="mL/min/1.73 m2")
    allergies: Lines | None = None
    implants: Lines | None = None
    pregnant: bool | None = None
    priors: Lines | None = None
    priority: Literal["STAT", "URGENT", "ROUTINE"] | None = None
    setting: Line | None = None

    def order(self) -> Order:
        return order_from_json(self.model_dump(), self.id or "")


class NewOrder(OrderQuestion):
    """An order to keep: the question, and the numbers and the patient it is found by."""

    placer_number: Line = ""
    filler_number: Line = ""
    accession_number: Line = ""
    study_instance_uid: Line = ""
    patient_id: Line = ""
    patient_name: Line = ""
    birth_date: Annotated[str, Field(pattern=r"^(\d{8})?$", description="YYYYMMDD")] = ""
    referrer: Line = ""
    requested_date: Annotated[str, Field(pattern=r"^(\d{8}(\d{4}(\d\d)?)?)?$", description="YYYYMMDD[HHMM[SS]]")] = ""

    def order(self) -> Order:
        order = super().order()
        patient = replace(order.patient, id=self.patient_id, name=self.patient_name, birth_date=self.birth_date)
        return replace(order, patient=patient, placer_number=self.placer_number, filler_number=self.filler_number,
                       accession_number=self.accession_number, study_instance_uid=self.study_instance_uid,
                       referrer=self.referrer, requested_date=self.requested_date)


class Decision(Given):
    action: Literal["accept", "change", "reject"]
    protocol: Annotated[str, Field(max_length=200)] | None = Field(None, description="Needed to change; to accept, the one that was seen.")
    reason: Annotated[str, Field(max_length=2000)] = Field("", description="Needed to reject, and to decide anew.")


class Switch(Given):
    running: bool = Field(description="false stops automation at once; true needs an administrator.")
    reason: Annotated[str, Field(max_length=2000)] = ""


class Sections(Given):
    """Only the sections to replace."""

    exam: Text | None = None
    indication: Text | None = None
    technique: Text | None = None
    comparison: Text | None = None
    findings: Text | None = None
    impression: Text | None = None

    def given(self) -> dict[str, str]:
        return self.model_dump(exclude_none=True)


class ReportQuestion(Given):
    """A report to check before it is signed: a draft with the sections edited, or a text with the order it answers."""

    draft_id: Annotated[str, Field(max_length=200)] | None = None
    sections: Sections | None = None
    text: Annotated[str, Field(max_length=100_000, description="A whole report with its headings, instead of sections.")] | None = None
    order: OrderQuestion | None = Field(None, description="Only without draft_id.")


class Step(Given):
    version: Annotated[int, Field(ge=1, le=2**31, description="The version that was seen; another one is answered 409.")]


class Acknowledgement(Given):
    note: Annotated[str, Field(max_length=2000, description="Whom you told, and how.")] = ""


class Edit(Step):
    sections: Sections


class Amendment(Edit):
    sign: Literal[True] = Field(description="true: an amendment changes a final report, and whoever sends it signs it.")
