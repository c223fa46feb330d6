"""Storage commitment as SCP: says of each instance whether it is durably kept, after reading it back. Source: PS3.4 annex J."""
import hashlib
import logging
import threading
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import build_role
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]   # made at import time

from api.dicom.matching import text
from api.dicom.nodes import associated, node_of
from api.dicom.performed import refusal
from api.jobs import Dead, Later
from api.settings import Settings
from api.store import Job, Store
from data.errors import InputError, StoreError

log = logging.getLogger("wetread.dicom")

INSTANCE = "1.2.840.10008.1.20.1.1"     # the well-known instance of the push model
REQUEST, ALL_KEPT, SOME_LOST = 1, 1, 2  # Action Type ID; Event Type IDs
PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119       # PS3.3 C.14.1.1
NO_SUCH_ACTION, INVALID_ARGUMENT = 0x0123, 0x0115
REFERENCES_MAX = 50_000
RETRY_S = 30.0
REPORT_S = 5.0                          # for the answer to a report on the caller's own association; a caller that releases waits this long
VERIFIED_AT_ONCE = 500                  # references looked up with one query
SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


def take_request(store: Store, settings: Settings, event: Any) -> Dataset:
    """The status of an N-ACTION. A caller that is one of dicom_nodes is called back, with retries; another hears on this association."""
    if event.action_type != REQUEST:
        return refusal(NO_SUCH_ACTION, "[E109] Action Type ID must be 1")
    if event.request.RequestedSOPInstanceUID != INSTANCE:
        return refusal(NO_SUCH_INSTANCE, "[E110] the push model has one well-known instance")
    asked = event.action_information
    transaction = text(asked, "TransactionUID")
    references = [{"class": text(item, "ReferencedSOPClassUID"), "instance": text(item, "ReferencedSOPInstanceUID")}
                  for item in asked.get("ReferencedSOPSequence") or []]
    if not transaction or not 0 < len(references) <= REFERENCES_MAX:
        return refusal(INVALID_ARGUMENT, "[E109] TransactionUID or ReferencedSOPSequence is missing")
    caller = str(event.assoc.requestor.ae_title).strip()
    if node_of(settings, caller) is not None:
        with store.write() as tx:
            tx.enqueue("commitment", f"commitment:{caller}:{transaction}",
                       {"ae_title": caller, "transaction": transaction, "references": references}, rearm=True)
    else:
        threading.Thread(target=report_here, args=(store, event.assoc, transaction, references), daemon=True).start()
    return refusal(0x0000)


def report_here(store: Store, association: Any, transaction: str, references: list[dict[str, str]]) -> None:
    """Report on the association of the request, once its own answer is out."""
    try:
        number, found = report(store, transaction, references)

        def free() -> None:
            association.join()
            association._is_paused = True       # pynetdicom waits without end for the pause of an association that ended

        threading.Thread(target=free, daemon=True).start()
        association.dimse_timeout = REPORT_S
        answer, _ = association.send_n_event_report(found, number, StorageCommitmentPushModel, INSTANCE)
        if answer.get("Status") != 0:
            log.warning("a storage commitment report was not taken")
    except (RuntimeError, ValueError, StoreError) as error:
        log.warning("a storage commitment report was not sent: %s; put the node into dicom_nodes to be called back", type(error).__name__)


class Commitment:
    """Job "commitment": the report on an association of our own, tried until the node takes it."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings = store, settings

    def send(self, job: Job) -> None:
        payload = job.payload
        node = node_of(self.settings, payload["ae_title"])
        if node is None:
            raise Dead("node is not configured")
        number, found = report(self.store, payload["transaction"], payload["references"])
        try:
            with associated(self.settings, node, [(StorageCommitmentPushModel, SYNTAXES)],
                            [build_role(StorageCommitmentPushModel, scp_role=True)]) as association:
                answer, _ = association.send_n_event_report(found, number, StorageCommitmentPushModel, INSTANCE)
        except (StoreError, InputError) as error:
            raise Later(f"no association with {node.ae_title} ({error.code})", RETRY_S) from None
        except (RuntimeError, ValueError):
            raise Dead(f"{node.ae_title} takes no storage commitment") from None
        if "Status" not in answer:
            raise Later(f"no answer from {node.ae_title}", RETRY_S)
        if answer.Status != 0:
            raise Dead(f"{node.ae_title} answered 0x{answer.Status:04X}")


def report(store: Store, transaction: str, references: list[dict[str, str]]) -> tuple[int, Dataset]:
    """(Event Type ID, Event Information) for the instances asked for."""
    kept, lost = [], []
    for at in range(0, len(references), VERIFIED_AT_ONCE):
        some = references[at:at + VERIFIED_AT_ONCE]
        with store.read() as tx:
            rows = {row["sop_uid"]: row for row in tx.find("instances", sop_uid=[one["instance"] for one in some], superseded=False)}
        for one in some:
            item, reason = Dataset(), why_not(store.home, rows.get(one["instance"]), one["class"])
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one["class"], one["instance"]
            if reason:
                item.FailureReason = reason
            (lost if reason else kept).append(item)
    found = Dataset()
    found.TransactionUID = transaction
    if kept:
        found.ReferencedSOPSequence = Sequence(kept)
    if lost:
        found.FailedSOPSequence = Sequence(lost)
    return (SOME_LOST if lost else ALL_KEPT), found


def why_not(home: Path, row: dict[str, Any] | None, sop_class: str) -> int:
    """A failure reason, 0 when the instance is kept: its bytes are read back and must be those that were acknowledged."""
    if row is None:
        return NO_SUCH_INSTANCE
    if row["header"].get("SOPClassUID") != sop_class:
        return CLASS_CONFLICT
    try:
        with (home / row["path"]).open("rb") as file:
            return 0 if hashlib.file_digest(file, "sha256").hexdigest() == row["sha256"] else PROCESSING_FAILURE
    except OSError:
        return PROCESSING_FAILURE
