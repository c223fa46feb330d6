"""Sends the outbox's DICOM rows: one C-STORE each, tried until the node takes it."""
from pydicom import dcmread
from pynetdicom.status import code_to_category

from api.dicom.nodes import associated, node_of
from api.jobs import Dead, Later
from api.settings import Settings
from api.store import Job, Store
from data.errors import InputError, StoreError

RETRY_S = 15.0
OUT_OF_RESOURCES = range(0xA700, 0xA800)    # PS3.4 table B.2-1: the node may take it later


class ResultSender:
    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings = store, settings

    def send_result(self, job: Job) -> None:
        """Success or a warning: sent. Out of resources, silence, no association: tried again. Anything else: dead."""
        row = self.store.outbox(job.payload["outbox_id"])
        node = node_of(self.settings, row["destination"])
        if row["state"] == "sent":
            return
        if node is None:
            raise Dead("destination is not configured")
        with self.store.read() as tx:
            instance = tx.one("instances", sop_uid=row["control_id"], superseded=False) or tx.one("instances", sop_uid=row["control_id"])
        if instance is None:
            raise Dead("the result is no longer kept")
        path = self.store.home / instance["path"]
        meta = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        try:
            with associated(self.settings, node, [(str(meta.SOPClassUID), [str(meta.file_meta.TransferSyntaxUID)])]) as association:
                answer = association.send_c_store(path)
        except (StoreError, InputError) as error:
            raise Later(f"no association with {node.ae_title} ({error.code})", RETRY_S) from None
        except (ValueError, RuntimeError):
            raise Dead(f"{node.ae_title} takes no {row['kind']}") from None
        code = answer.get("Status")
        if code is None or code in OUT_OF_RESOURCES:
            raise Later(f"{node.ae_title} answered {'nothing' if code is None else f'0x{code:04X}'}", RETRY_S)
        if code_to_category(code) not in ("Success", "Warning"):
            raise Dead(f"{node.ae_title} answered 0x{code:04X}")
        with self.store.effect(job) as tx:
            self.store.mark_outbox(row["id"], "sent", ack=f"0x{code:04X}".encode(), tx=tx)
