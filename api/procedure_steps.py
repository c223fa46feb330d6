"""Steps at the scanner: what stands on the modality worklist, and what was performed (MPPS)."""
from typing import Any

from api.order_life import COMPLETED, IN_PROGRESS, known_of_row, said
from api.order_steps import OPEN, how_far, order_of_study, same_patient, steps_of
from api.settings import Settings
from api.store import Store, Tx, now
from data.errors import InputError, NotFound, StateError

WORKLIST_MAX = 10_000           # newest orders looked through for one query
DISCONTINUED = "DISCONTINUED"
EVENTS = {IN_PROGRESS: "in progress", COMPLETED: "completed", DISCONTINUED: "discontinued"}


class ProcedureSteps:
    store: Store
    settings: Settings

    def worklist(self, patient_id: str = "", accession_number: str = "") -> list[dict[str, Any]]:
        """Orders still to be performed, newest first, as rows of the table; cancelled, rejected and held ones are not for the scanner."""
        narrow = {name: value for name, value in (("patient_id", patient_id), ("accession_number", accession_number)) if value}
        with self.store.read() as tx:
            return tx.find("orders", state=[*OPEN, "accepted", "changed"], performed=["", IN_PROGRESS, DISCONTINUED], held=False,
                           order=["-created", "-id"], limit=WORKLIST_MAX, **narrow)

    def keep_study_uid(self, order_id: str, uid: str) -> None:
        """The StudyInstanceUID a scanner was told is the order's from then on, unless it has one."""
        with self.store.read() as tx:
            row = tx.one("orders", id=order_id)
        if row is None or row["study_instance_uid"]:
            return
        with self.store.write() as tx:
            row = tx.one("orders", id=order_id, lock=True)
            if row is not None and not row["study_instance_uid"]:
                tx.change("orders", {"id": order_id}, study_instance_uid=uid, record={**row["record"], "study_instance_uid": uid})

    def start_step(self, uid: str, record: dict[str, Any], scheduled: list[dict[str, str]], patient_id: str, source: str) -> list[str]:
        """A performed procedure step began (MPPS N-CREATE); returns the orders it belongs to.

        `record`: the step's attributes as DICOM JSON. `scheduled`: {step_id, accession_number, study_id} for each scheduled step.
        Raises: StateError when a step of that SOP Instance UID is there already.
        """
        with self.store.write() as tx:
            orders = [id for id in dict.fromkeys(order_of_step(tx, one, patient_id) for one in scheduled) if id]
            study_id = next((one["study_id"] for one in scheduled if one["study_id"]), "")
            if not tx.add("procedure_steps", id=uid, status=IN_PROGRESS, study_id=study_id, patient_id=patient_id, record=record, source=source,
                          created=now(), updated=now()):
                raise StateError("a procedure step of that SOP Instance UID is there already; N-SET changes it")
            for id in orders:
                tx.add("procedure_step_orders", step_id=uid, order_id=id)
                link_performed(tx, id, study_id, patient_id)
            self._note(tx, uid, IN_PROGRESS, orders, source)
        return orders

    def step(self, uid: str) -> dict[str, Any]:
        """One performed procedure step; raises NotFound."""
        with self.store.read() as tx:
            row = tx.one("procedure_steps", id=uid)
        if row is None:
            raise NotFound("there is no procedure step of that SOP Instance UID; create it with N-CREATE first")
        return row

    def change_step(self, uid: str, status: str, changes: dict[str, Any], source: str) -> None:
        """MPPS N-SET: new attributes, and an end when `status` says so. Raises StateError for a step that ended (PS3.4 F.7.2.2.4)."""
        if status not in (IN_PROGRESS, COMPLETED, DISCONTINUED):
            raise InputError(f"PerformedProcedureStepStatus is '{str(status)[:16]}', expected IN PROGRESS, COMPLETED or DISCONTINUED")
        with self.store.write() as tx:
            row = tx.one("procedure_steps", id=uid, lock=True)
            if row is None:
                raise NotFound("there is no procedure step of that SOP Instance UID; create it with N-CREATE first")
            if row["status"] != IN_PROGRESS:
                raise StateError(f"the procedure step is {row['status']} and may no longer be updated; create a new step")
            tx.change("procedure_steps", {"id": uid}, status=status, record={**row["record"], **changes}, updated=now())
            if status != IN_PROGRESS:
                self._note(tx, uid, status, [link["order_id"] for link in tx.find("procedure_step_orders", step_id=uid)], source)

    @staticmethod
    def _note(tx: Tx, uid: str, status: str, orders: list[str], source: str) -> None:
        tx.audit(source, f"procedure step {EVENTS[status]}", "procedure step", uid)
        for id in orders:
            tx.change("orders", {"id": id}, performed=performed(tx, id), updated=now())
            tx.add("order_events", key=f"mpps:{uid}:{status}:{id}", order_id=id, time=now(), what=EVENTS[status], user="",
                   detail={"procedure_step": uid, "source": source})


def performed(tx: Tx, order_id: str) -> str:
    row = tx.one("orders", id=order_id)
    return how_far(steps_of(tx, order_id), said(known_of_row(row), "progress", "") if row else "")


def order_of_step(tx: Tx, scheduled: dict[str, str], patient_id: str) -> str | None:
    """By the step's number on our worklist, else as a study finds its order; never another patient's."""
    row = tx.one("orders", id=f"o{scheduled['step_id']}") if scheduled["step_id"] else None
    if row is not None and same_patient(tx, patient_id, row["patient_id"]):
        return row["id"]
    return order_of_study(tx, scheduled["accession_number"], scheduled["study_id"], patient_id)


def link_performed(tx: Tx, order_id: str, study_id: str, patient_id: str) -> None:
    """Join order and study by what the scanner said, also when the study carries neither accession number nor the order's UID."""
    row = tx.one("orders", id=order_id, lock=True)
    assert row is not None
    if not row["study_instance_uid"]:
        tx.change("orders", {"id": order_id}, study_instance_uid=study_id, record={**row["record"], "study_instance_uid": study_id})
    study = tx.one("studies", id=study_id)
    if study is not None and study["order_id"] is None and same_patient(tx, patient_id, study["patient_id"]):
        tx.change("studies", {"id": study_id}, order_id=order_id)
