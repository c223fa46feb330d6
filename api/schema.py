"""The tables. Times are UTC ISO texts of one width, so that they sort; JSON is text, so that any character survives."""
import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)


class Words(TypeDecorator[str]):
    """Text from outside: PostgreSQL takes neither NUL nor lone surrogates, so they become U+FFFD in both."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else clean(value)


class Json(TypeDecorator[Any]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else json.dumps(value)     # ASCII: NUL and surrogates stay escaped

    def process_result_value(self, value: str | None, dialect: Any) -> Any:
        return None if value is None else json.loads(value)


def clean(text: str) -> str:
    return text if text.isascii() and "\0" not in text else text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


Number = BigInteger().with_variant(Integer, "sqlite")       # SQLite numbers rows itself only for INTEGER PRIMARY KEY
metadata = MetaData()

messages = Table(
    "messages", metadata,
    Column("id", Number, primary_key=True),
    Column("sender", Words, nullable=False),
    Column("control_id", Words, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("kind", Words, nullable=False),
    Column("peer", Words, nullable=False),
    Column("received", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("ack", LargeBinary),
    Column("state", Text, nullable=False),                  # received, applied, unused, failed
    Column("reason", Words, nullable=False, server_default=""),
    Column("conflict", Boolean, nullable=False),            # its control id came before, with other content
    Column("listener", Words, nullable=False, server_default=""),       # by which it came: its site's settings apply
    UniqueConstraint("sender", "control_id", "sha256"),
    Index("messages_state", "state", "id"),
)

jobs = Table(
    "jobs", metadata,
    Column("id", Number, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("payload", Json, nullable=False),
    Column("state", Text, nullable=False),                  # queued, leased, done, dead
    Column("tries", Integer, nullable=False, server_default="0"),       # failures of the handler
    Column("lost", Integer, nullable=False, server_default="0"),        # leases that ran out: a crash, or a hang
    Column("not_before", Text, nullable=False),
    Column("lease_until", Text),
    Column("fence", Integer, nullable=False, server_default="0"),       # raised by every lease
    Column("reason", Words, nullable=False, server_default=""),
    Column("updated", Text, nullable=False),
    Index("jobs_due", "state", "kind", "not_before", "id"),
)

patients = Table(
    "patients", metadata,
    Column("id", Words, primary_key=True),
    Column("record", Json, nullable=False),
    Column("event_time", Text, nullable=False),
    Column("merged_into", Words),
    Column("merge_time", Text, nullable=False, server_default=""),      # of the newest merge among this patient's identifiers
    Column("known", Json),                                  # api/patients.py; record is the same without its stamps
    Index("patients_merged", "merged_into"),
)

orders = Table(
    "orders", metadata,
    Column("id", Text, primary_key=True),
    Column("key", Words, nullable=False, unique=True),      # sender and the order's number there
    Column("sender", Words, nullable=False),
    Column("placer_number", Words, nullable=False),
    Column("filler_number", Words, nullable=False),
    Column("accession_number", Words, nullable=False),
    Column("study_instance_uid", Words, nullable=False),
    Column("patient_id", Words, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Words, nullable=False, server_default=""),         # why there is no suggestion
    Column("urgency", Integer, nullable=False),             # 2 STAT or found urgent, 1 URGENT, 0 routine
    Column("version", Integer, nullable=False),             # raised by every change of content or state
    Column("event_time", Text, nullable=False),             # of the newest event applied
    Column("event_rank", Integer, nullable=False),
    Column("event_number", BigInteger, nullable=False),
    Column("record", Json, nullable=False),
    Column("suggestion", Json),
    Column("decision", Json),
    Column("performed", Text, nullable=False, server_default=""),       # "", or how far it is by its procedure steps (MPPS) or its sender (ORC-5)
    Column("known", Json),                                  # api/order_life.py; record is the same without its stamps
    Column("held", Boolean, nullable=False, server_default=false()),    # on hold by its sender
    Column("created", Text, nullable=False),
    Column("updated", Text, nullable=False),
    Index("orders_placer", "placer_number"),
    Index("orders_filler", "filler_number"),
    Index("orders_accession", "accession_number"),
    Index("orders_study", "study_instance_uid"),
    Index("orders_patient", "patient_id"),
    Index("orders_list", "state", "urgency", "created"),
    Index("orders_created", "created"),
)

order_events = Table(
    "order_events", metadata,
    Column("id", Number, primary_key=True),
    Column("key", Words, nullable=False, unique=True),
    Column("order_id", Text, ForeignKey("orders.id"), nullable=False),
    Column("message_id", BigInteger),
    Column("time", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("user", Words, nullable=False, server_default=""),
    Column("detail", Json),
    Index("order_events_order", "order_id", "id"),
)

studies = Table(
    "studies", metadata,
    Column("id", Words, primary_key=True),                  # StudyInstanceUID
    Column("accession_number", Words, nullable=False),
    Column("patient_id", Words, nullable=False),
    Column("patient", Json, nullable=False),
    Column("date", Words, nullable=False),
    Column("description", Words, nullable=False),
    Column("modality", Words, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Words, nullable=False, server_default=""),
    Column("revision", Integer, nullable=False),            # raised when an instance comes after completion
    Column("priority", Float, nullable=False, server_default="0"),      # 1 = most urgent
    Column("order_id", Text, ForeignKey("orders.id")),
    Column("draft_id", Text),                               # the one to show
    Column("arrived", Text, nullable=False),
    Column("last_instance", Text, nullable=False),
    Column("updated", Text, nullable=False),
    Index("studies_accession", "accession_number"),
    Index("studies_order", "order_id"),
    Index("studies_list", "priority", "arrived"),
)

instances = Table(
    "instances", metadata,
    Column("id", Number, primary_key=True),
    Column("sop_uid", Words, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("study_id", Words, ForeignKey("studies.id"), nullable=False),
    Column("series_uid", Words, nullable=False),
    Column("path", Text, nullable=False),                   # below HOME
    Column("header", Json, nullable=False),
    Column("source", Words, nullable=False),
    Column("received", Text, nullable=False),
    Column("superseded", Boolean, nullable=False),          # the same SOP Instance UID came again with other bytes
    UniqueConstraint("sop_uid", "sha256"),
    Index("instances_study", "study_id", "id"),
)

procedure_steps = Table(
    "procedure_steps", metadata,
    Column("id", Words, primary_key=True),                  # SOP Instance UID of the performed procedure step
    Column("status", Text, nullable=False),                 # IN PROGRESS, COMPLETED, DISCONTINUED
    Column("study_id", Words, nullable=False),
    Column("patient_id", Words, nullable=False),
    Column("record", Json, nullable=False),                 # its attributes as DICOM JSON
    Column("source", Words, nullable=False),
    Column("created", Text, nullable=False),
    Column("updated", Text, nullable=False),
    Index("procedure_steps_study", "study_id"),
)

procedure_step_orders = Table(
    "procedure_step_orders", metadata,
    Column("step_id", Words, ForeignKey("procedure_steps.id"), primary_key=True),
    Column("order_id", Text, ForeignKey("orders.id"), primary_key=True),
    Index("procedure_step_orders_order", "order_id"),
)

drafts = Table(
    "drafts", metadata,
    Column("id", Text, primary_key=True),
    Column("study_id", Words, ForeignKey("studies.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("record", Json, nullable=False),
    Column("signed_by", Words, nullable=False, server_default=""),
    Column("signed", Text, nullable=False, server_default=""),
    Column("created", Text, nullable=False),
    Column("updated", Text, nullable=False),
    UniqueConstraint("study_id", "revision"),
)

draft_versions = Table(
    "draft_versions", metadata,
    Column("id", Number, primary_key=True),
    Column("draft_id", Text, ForeignKey("drafts.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("record", Json, nullable=False),
    Column("user", Words, nullable=False),
    Column("time", Text, nullable=False),
    UniqueConstraint("draft_id", "version"),
)

alerts = Table(
    "alerts", metadata,
    Column("id", Number, primary_key=True),
    Column("study_id", Words, ForeignKey("studies.id"), nullable=False),
    Column("draft_id", Text, nullable=False),               # the first that raised it
    Column("code", Text, nullable=False),
    Column("record", Json, nullable=False),                 # the finding as the draft had it, and the threshold
    Column("state", Text, nullable=False),                  # open, escalated, acknowledged
    Column("raised", Text, nullable=False),
    Column("due", Text, nullable=False),                    # escalated when nobody acknowledged it by then
    Column("escalated", Text, nullable=False, server_default=""),
    Column("acknowledged", Text, nullable=False, server_default=""),
    Column("acknowledged_by", Words, nullable=False, server_default=""),
    Column("note", Words, nullable=False, server_default=""),           # of who acknowledged: whom they told
    UniqueConstraint("study_id", "code"),
    Index("alerts_state", "state", "due"),
)

sentence_outcomes = Table(
    "sentence_outcomes", metadata,
    Column("id", Number, primary_key=True),
    Column("draft_id", Text, ForeignKey("drafts.id"), nullable=False),
    Column("version", Integer, nullable=False),             # the signed one
    Column("number", Integer, nullable=False),              # place in the draft as the machine wrote it
    Column("section", Text, nullable=False),
    Column("codes", Json, nullable=False),                  # of the findings it was written for
    Column("provenance", Text, nullable=False),             # model or template
    Column("outcome", Text, nullable=False),                # keep, edit, delete
    Column("distance", Float, nullable=False),              # words changed over the longer text's words, 0 to 1
    Column("written", Words, nullable=False),
    Column("signed", Words, nullable=False),                # "" when deleted
    Column("model", Words, nullable=False),
    Column("user", Words, nullable=False),
    Column("time", Text, nullable=False),
    UniqueConstraint("draft_id", "number"),
    Index("sentence_outcomes_time", "time"),
)

outbox = Table(
    "outbox", metadata,
    Column("id", Number, primary_key=True),
    Column("key", Words, nullable=False, unique=True),
    Column("destination", Words, nullable=False),
    Column("kind", Text, nullable=False),                   # ORU^R01, or the order update's type
    Column("order_id", Text),
    Column("draft_id", Text),
    Column("control_id", Text, nullable=False),
    Column("raw", LargeBinary),
    Column("state", Text, nullable=False),                  # queued, sent, failed, superseded
    Column("reason", Words, nullable=False, server_default=""),
    Column("ack", LargeBinary),
    Column("created", Text, nullable=False),
    Column("updated", Text, nullable=False),
    Column("patient_id", Words, nullable=False, server_default=""),
    Column("study_id", Words, nullable=False, server_default=""),
    Column("result_status", Text, nullable=False, server_default=""),   # OBR-25 of a report: P, F, C
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("not_before", Text, nullable=False, server_default=""),      # when it may be tried again
    Index("outbox_state", "state", "id"),
    Index("outbox_queue", "destination", "state", "id"),
)

outages = Table(
    "outages", metadata,
    Column("id", Number, primary_key=True),
    Column("destination", Words, nullable=False),
    Column("began", Text, nullable=False),
    Column("ended", Text, nullable=False, server_default=""),           # "" while it lasts: at most one a destination
    Column("reason", Words, nullable=False),
    Column("tries", Integer, nullable=False),
    UniqueConstraint("destination", "ended"),
)

users = Table(
    "users", metadata,
    Column("name", Words, primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created", Text, nullable=False),
)

sessions = Table(
    "sessions", metadata,
    Column("id", Text, primary_key=True),                   # a hash of the cookie's token, never the token
    Column("user", Words, ForeignKey("users.name"), nullable=False),
    Column("csrf", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("expires", Text, nullable=False),
)

api_keys = Table(
    "api_keys", metadata,
    Column("name", Words, primary_key=True),
    Column("key_hash", Text, nullable=False, unique=True),
    Column("created", Text, nullable=False),
)

audit = Table(
    "audit", metadata,
    Column("id", Number, primary_key=True),
    Column("time", Text, nullable=False),
    Column("user", Words, nullable=False),
    Column("action", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("object_id", Words, nullable=False),
)

switches = Table(
    "switches", metadata,
    Column("name", Text, primary_key=True),                 # automation
    Column("running", Boolean, nullable=False),
    Column("user", Words, nullable=False),
    Column("time", Text, nullable=False),
    Column("reason", Words, nullable=False),
)

model_uses = Table(
    "model_uses", metadata,
    Column("id", Number, primary_key=True),
    Column("role", Text, nullable=False),                   # shown, shadow; the last row of a role counts
    Column("version", Words, nullable=False),               # "" is the shipped model (shown), or none (shadow)
    Column("user", Words, nullable=False),
    Column("time", Text, nullable=False),
    Column("figures", Json),                                # what the person saw who decided
    Index("model_uses_role", "role", "id"),
)

shadow_suggestions = Table(
    "shadow_suggestions", metadata,
    Column("id", Number, primary_key=True),
    Column("order_id", Text, ForeignKey("orders.id"), nullable=False),
    Column("order_version", Integer, nullable=False),
    Column("model", Words, nullable=False),
    Column("time", Text, nullable=False),
    Column("suggestion", Json),
    Column("reason", Words, nullable=False, server_default=""),         # why there is none
    UniqueConstraint("order_id", "order_version", "model"),
    Index("shadow_suggestions_time", "time"),
)

cds_cards = Table(
    "cds_cards", metadata,
    Column("id", Text, primary_key=True),                   # the card's uuid
    Column("service", Text, nullable=False),
    Column("hook_instance", Words, nullable=False),
    Column("record", Json, nullable=False),                 # nothing of the patient
    Column("time", Text, nullable=False),
)

cds_feedback = Table(
    "cds_feedback", metadata,
    Column("id", Number, primary_key=True),
    Column("service", Text, nullable=False),
    Column("card_id", Words, nullable=False),
    Column("outcome", Text, nullable=False),                # accepted, overridden
    Column("outcome_time", Words, nullable=False),
    Column("record", Json, nullable=False),
    Column("user", Words, nullable=False),
    Column("time", Text, nullable=False),
    UniqueConstraint("card_id", "outcome", "outcome_time"),
)

TABLES = metadata.tables
