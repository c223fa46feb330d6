"""The records that travel through Wetread; the same names in database, JSON and page."""
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Sex = Literal["M", "F", "O", "U"]
Contrast = Literal["none", "with", "without_and_with"]
Severity = Literal["stop", "warn", "inform"]
Disposition = Literal["auto", "review", "needs-information"]
Side = Literal["left", "right", "bilateral", "midline"]
Band = Literal["state", "hedge", "omit"]
Control = Literal["new", "change", "cancel", "hold", "release", "status"]
DraftStatus = Literal["draft", "preliminary", "final", "amended", "cancelled"]


@dataclass(frozen=True)
class Patient:
    id: str = ""
    name: str = ""              # HL7 XPN / DICOM PN as sent
    birth_date: str = ""        # YYYYMMDD or ""
    sex: Sex = "U"


@dataclass(frozen=True)
class Facts:
    """Safety facts that came as data; what stands only in the text is found by nlp.safety."""

    egfr: float | None = None           # mL/min/1.73 m2
    egfr_date: str = ""                 # YYYYMMDD or ""
    allergies: tuple[str, ...] = ()
    implants: tuple[str, ...] = ()
    pregnant: bool | None = None
    weight_kg: float | None = None
    medication: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """One imaging order. `text` is all free text: reason for study, clinical information, notes."""

    id: str = ""
    text: str = ""
    control: Control = "new"
    placer_number: str = ""
    filler_number: str = ""
    accession_number: str = ""
    study_instance_uid: str = ""
    requested_procedure_id: str = ""
    patient: Patient = Patient()
    ordered_exam: str = ""              # as clicked, in words
    ordered_exam_code: str = ""
    priority: Literal["STAT", "URGENT", "ROUTINE"] = "ROUTINE"
    requested_date: str = ""            # YYYYMMDD[HHMM[SS]]
    referrer: str = ""
    setting: str = ""                   # ED, inpatient, clinic name ...
    age_years: float | None = None
    facts: Facts = Facts()
    priors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """A span of the order's text, offsets into `Order.text`; or a metadata field when `field` is set."""

    text: str
    start: int = -1
    end: int = -1
    field: str = ""


@dataclass(frozen=True)
class Flag:
    code: str
    severity: Severity
    rule: str                   # rule id
    source: str                 # citation of the rule
    message: str
    action: str = ""
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Ranked:
    protocol: str
    probability: float


@dataclass(frozen=True)
class Suggestion:
    ranked: tuple[Ranked, ...]          # best first; empty when nothing can be said
    set: tuple[str, ...]                # smallest set that holds the right one with 95 % (conformal)
    contrast: Contrast
    flags: tuple[Flag, ...]
    urgent: bool
    urgent_probability: float
    disposition: Disposition
    question: str = ""                  # to ask the referrer, when information is needed
    evidence: tuple[Evidence, ...] = ()
    indications: tuple[str, ...] = ()   # indications of the book that matched
    nearest: tuple[str, ...] = ()       # ids of the labelled orders most like this one
    model: str = ""                     # version of the model, "" when none was used
    book: str = ""                      # version of the protocol book


@dataclass(frozen=True)
class Volume:
    """One series as an array in physical units.

    pixels: float32 (slices, rows, columns), HU for CT, else the units named; affine maps (column, row, slice)
    to DICOM patient millimetres (LPS). With `spacing_mm` None nothing can be measured (a picture).
    """

    pixels: NDArray[np.float32]
    spacing_mm: tuple[float, float, float] | None       # slice, row, column
    affine: NDArray[np.float64] | None                  # (4, 4), LPS mm
    modality: str = ""                                  # DICOM Modality: CT, MR, ...
    sequence: str = ""                                  # series description, plain
    units: str = ""                                     # "HU", "1" for pictures scaled 0..1
    orientation: str = "axial"                          # axial, coronal, sagittal, oblique, unknown
    series_uid: str = ""
    instance_uids: tuple[str, ...] = ()                 # one a slice
    notes: tuple[str, ...] = ()                         # what the reader did: dropped duplicates, tilt corrected ...
    tags: dict[str, str] = field(default_factory=dict)  # BodyPartExamined, KVP, ConvolutionKernel, ContrastBolusAgent ...


@dataclass(frozen=True)
class Study:
    """A study to read; `volumes` in acquisition order."""

    id: str                                             # StudyInstanceUID, or the file's name
    volumes: tuple[Volume, ...]
    patient: Patient = Patient()
    accession_number: str = ""
    date: str = ""
    description: str = ""
    skipped: tuple[str, ...] = ()                       # what was left out, and why


@dataclass(frozen=True)
class ImageEvidence:
    """Where a finding is seen. Indices are into the Volume as read; box is (row0, column0, row1, column1)."""

    series_uid: str = ""
    slice: int = 0
    instance_uid: str = ""
    box: tuple[int, int, int, int] | None = None
    mask: str = ""                                      # name of the stored mask file, "" when none
    slices: tuple[int, int] | None = None               # first and last slice of the finding


@dataclass(frozen=True)
class Prior:
    """The same finding as it was measured in an earlier study of the same patient."""

    study: str                          # StudyInstanceUID
    date: str = ""                      # YYYYMMDD
    present: bool = True
    size_mm: float | None = None
    volume_ml: float | None = None
    count: int | None = None


@dataclass(frozen=True)
class Finding:
    id: str                             # unique in the draft: "f1"
    code: str                           # key in data/findings.toml
    label: str
    present: bool
    probability: float
    side: Side | None = None
    region: str = ""
    size_mm: float | None = None
    volume_ml: float | None = None
    count: int | None = None
    acuity: str = ""
    band: Band = "state"
    critical: bool = False
    evidence: tuple[ImageEvidence, ...] = ()
    grade: str = ""                     # on the scale that data/findings.toml names
    prior: Prior | None = None          # None: no earlier study, or not measured in it


@dataclass(frozen=True)
class PriorStudy:
    """An earlier study of a patient with what was found in it; `findings` as its own draft or signed report has them."""

    study: str                          # StudyInstanceUID
    patient_id: str
    date: str = ""                      # YYYYMMDD
    modality: str = ""                  # CT, MR
    findings: tuple[Finding, ...] = ()
    signed: bool = False                # a person signed the report; the measurements are the program's all the same


@dataclass(frozen=True)
class Sentence:
    text: str
    section: str                        # exam, indication, technique, comparison, findings, impression
    findings: tuple[str, ...] = ()      # finding ids
    confidence: float = 1.0
    provenance: Literal["model", "template", "user"] = "template"


@dataclass(frozen=True)
class Refusal:
    code: str
    reason: str


@dataclass(frozen=True)
class Draft:
    study: str
    status: DraftStatus
    refused: Refusal | None
    findings: tuple[Finding, ...]
    sections: dict[str, str]
    sentences: tuple[Sentence, ...]
    model: dict[str, Any]               # versions, device, counts (sentences replaced by their template ...)
    priority: float = 0.0               # worklist order, 1 = most urgent
    modality: str = ""                  # CT or MR, as which the study was read


@dataclass(frozen=True)
class OrderEvent(Order):
    """What one message says of an order; the order's state is that of its events by their own time."""

    status: str = ""            # ORC-5, HL7 table 0038
    event_time: str = ""        # ORC-9 as sent, "" when it names no minute
    asks: bool = True           # it holds the clinical question itself, not notes alone
    says_priority: bool = True  # ROUTINE was written, not only taken for granted


@dataclass(frozen=True)
class PatientUpdate:
    """New demographics (ADT^A08); `event_time` decides over what came later but happened earlier."""

    patient: Patient
    event_time: str             # HL7 DTM as sent
    deleted: tuple[str, ...] = ()       # what is no longer known: name, birth_date, sex


@dataclass(frozen=True)
class PatientMerge:
    """`prior_id` becomes part of `surviving` (ADT^A40)."""

    prior_id: str
    surviving: Patient
    event_time: str


def as_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON types; arrays are never records' JSON."""
    return asdict(record)
