"""Patients: what their identifiers say, and which identifiers are one patient; by event time, whichever way the messages came.

Each identifier keeps its own newest statements. Identifiers that were ever merged with each other are one patient, and the newest merge names
the identifier in use; there the survivor's own statements count, what stood under the others fills its blanks.
"""
from typing import Any

from api.order_life import Known, join
from api.store import Tx
from data.records import Patient, PatientMerge, as_json


def surviving_id(tx: Tx, id: str) -> str:
    """The identifier in use for this one."""
    row = tx.one("patients", id=id) if id else None
    return row["merged_into"] if row and row["merged_into"] else id


def identifiers_of(tx: Tx, root: str) -> list[str]:
    """All identifiers of the patient that is now called `root`."""
    return [root, *(row["id"] for row in tx.find("patients", merged_into=root, order=["id"], columns=("id",)))]


def patient_now(tx: Tx, id: str) -> Patient:
    """The patient as known now, under the identifier in use."""
    root = surviving_id(tx, id)
    own = tx.one("patients", id=root)
    if own is None:
        return Patient(id=root)
    others: Known = {}
    for row in tx.find("patients", merged_into=root, order=["id"]):
        others = join(others, known_of_row(row))
    known = {**others, **known_of_row(own)}
    return Patient(**{name: statement[1] for name, statement in known.items()}, id=root)


def know_patient(tx: Tx, patient: Patient, when: str, number: int, deleted: tuple[str, ...] = ()) -> bool:
    """Keep what an event says, and says is no longer so, under the identifier it names; True when the patient is known otherwise than before."""
    stamp = f"{when}|{number:012d}"
    said: Known = {name: [stamp, getattr(Patient(), name)] for name in deleted}
    said |= {name: [stamp, value] for name, value in as_json(patient).items() if name != "id" and value and (name, value) != ("sex", "U")}
    if tx.add("patients", id=patient.id, record=as_json(patient), event_time=when, known=said):
        return False
    row = tx.one("patients", id=patient.id, lock=True)
    assert row is not None
    before = known_of_row(row)
    after = join(before, said)
    if after == before:
        return False
    keep(tx, patient.id, after, max(when, row["event_time"]))
    return {name: s[1] for name, s in after.items()} != {name: s[1] for name, s in before.items()}


def merge(tx: Tx, merged: PatientMerge, when: str, number: int) -> str:
    """Join the two identifiers' patients; returns the identifier that is in use now."""
    know_patient(tx, merged.surviving, when, number)
    tx.add("patients", id=merged.prior_id, record=as_json(Patient(id=merged.prior_id)), event_time="", known={})
    roots = sorted({surviving_id(tx, merged.prior_id), surviving_id(tx, merged.surviving.id)})
    rows = [row for root in roots if (row := tx.one("patients", id=root, lock=True))]
    newest = max([(row["merge_time"], row["id"]) for row in rows if row["merge_time"]] + [(when, merged.surviving.id)])
    everyone = sorted({id for root in roots for id in identifiers_of(tx, root)})
    for id in everyone:
        tx.change("patients", {"id": id}, merged_into=None if id == newest[1] else newest[1], merge_time=newest[0])
    return newest[1]


def known_of_row(row: dict[str, Any]) -> Known:
    if row["known"] is not None:
        return row["known"]
    stamp = f"{row['event_time']}|{0:012d}"
    return {name: [stamp, value] for name, value in row["record"].items() if name != "id" and value and (name, value) != ("sex", "U")}


def keep(tx: Tx, id: str, known: Known, when: str) -> None:
    record = Patient(**{name: statement[1] for name, statement in known.items()}, id=id)
    tx.change("patients", {"id": id}, record=as_json(record), event_time=when, known=known)
