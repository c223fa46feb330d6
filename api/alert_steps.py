"""Critical findings: an alert when a draft is stored, a person's acknowledgement, escalation when nobody came in time. Nothing waits for it."""
from dataclasses import replace
from typing import Any

from api.order_steps import present
from api.sending import build, post
from api.settings import Settings
from api.store import Job, Store, Tx, later, now, number
from data.critical import ALERT_PROBABILITY, critical_findings
from data.errors import InputError, NotFound, StateError
from data.records import Draft

OPEN = ("open", "escalated")
STATES = (*OPEN, "acknowledged")
NOTE_MAX = 2000
SHOWN = ("label", "probability", "side", "region", "size_mm", "volume_ml", "band")
KIND = "ORU^R01 alert"      # of its own, so that no report waits for it or is taken for an older one


class AlertSteps:
    store: Store
    settings: Settings

    def alerts(self, states: tuple[str, ...] = OPEN, study_id: str = "", limit: int = 200) -> list[dict[str, Any]]:
        """Alerts with their patient, those longest due first; raises InputError for an unknown state."""
        if wrong := [state for state in states if state not in STATES]:
            raise InputError(f"state is '{wrong[0][:20]}', expected one of {', '.join(STATES)}")
        with self.store.read() as tx:
            rows = tx.find("alerts", state=states, order=["due", "id"], limit=limit, **({"study_id": study_id} if study_id else {}))
            studies = {row["id"]: row for row in tx.find("studies", id=sorted({row["study_id"] for row in rows}),
                                                         columns=("id", "patient", "description", "accession_number"))}
        return [shown(row, studies[row["study_id"]]) for row in rows]

    def acknowledge_alert(self, id: str, user: str, note: str = "") -> dict[str, Any]:
        """A person has taken note, and says whom they told; raises NotFound, InputError, or StateError when somebody did before."""
        if not user:
            raise InputError("user is empty; an alert is acknowledged by a person")
        if len(note) > NOTE_MAX:
            raise InputError(f"note has {len(note)} characters, at most {NOTE_MAX} are kept; shorten it")
        with self.store.write() as tx:
            row = tx.one("alerts", id=number(id, "alert"), lock=True)
            if row is None:
                raise NotFound("there is no alert of that id; GET /v1/alerts lists them")
            if row["state"] == "acknowledged":
                raise StateError(f"the alert was acknowledged by {row['acknowledged_by']} at {row['acknowledged']}; it needs no second one")
            if not note.strip():
                raise InputError("note is empty; say whom you told, and how (or why nobody needs to be told)")
            tx.change("alerts", {"id": row["id"]}, state="acknowledged", acknowledged=now(), acknowledged_by=user, note=note.strip())
            tx.audit(user, "acknowledge", "alert", str(row["id"]))
            row, study = tx.one("alerts", id=row["id"]), tx.one("studies", id=row["study_id"])
            assert row is not None and study is not None
        return shown(row, study)

    def escalate_alert(self, job: Job) -> None:
        """Job "alert", due when its time is up: once, and only while nobody acknowledged it."""
        id, key = job.payload["alert_id"], f"alert:{job.payload['alert_id']}"
        with self.store.read() as tx:
            row = tx.one("alerts", id=id)
            assert row is not None
            study = tx.one("studies", id=row["study_id"])
            order = tx.one("orders", id=study["order_id"]) if study and study["order_id"] else None
        receivers = tuple(one for one in self.settings.outbox if one.name == self.settings.alert_destination)
        raw = None
        if receivers and row["state"] == "open":
            raw = build(self.settings, key, alert_message, row, study, present(order) if order else None)
        with self.store.effect(job) as tx:
            if not tx.change("alerts", {"id": id, "state": "open"}, state="escalated", escalated=now()):
                return
            tx.audit("wetread", "escalate", "alert", str(id))
            if receivers:
                # no patient, order or study beside it: an alert waits for no other message
                post(tx, replace(self.settings, outbox=receivers), key, KIND, raw, patient_id="", draft_id=row["draft_id"])


def raise_alerts(tx: Tx, study_id: str, draft_id: str, draft: Draft) -> None:
    """In the transaction that stores a draft: one alert a study and finding, whatever number of drafts see it, with its job."""
    critical = critical_findings()
    seen = {f.code: f for f in draft.findings if f.code in critical and f.probability >= ALERT_PROBABILITY}
    for code, finding in seen.items():
        if any(critical[kind].parent == code for kind in seen):     # its kind is named already
            continue
        row = critical[code]
        assert row.communicate_minutes is not None              # data/findings.py: critical ones have it
        record = {**{name: getattr(finding, name) for name in SHOWN}, "threshold": ALERT_PROBABILITY, "minutes": row.communicate_minutes}
        due = later(60.0 * row.communicate_minutes)
        if tx.add("alerts", study_id=study_id, draft_id=draft_id, code=code, record=record, state="open", raised=now(), due=due):
            kept = tx.one("alerts", study_id=study_id, code=code)
            assert kept is not None
            tx.enqueue("alert", f"alert:{kept['id']}", {"alert_id": kept["id"]}, not_before=due)
            tx.audit("wetread", "raise", "alert", str(kept["id"]))


def shown(row: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
    return {**row["record"], **{name: row[name] for name in ("code", "study_id", "draft_id", "state", "raised", "due", "escalated", "acknowledged",
                                                             "acknowledged_by", "note")},
            "id": str(row["id"]), "overdue": row["state"] != "acknowledged" and row["due"] < now(),
            "patient": study["patient"], "description": study["description"], "accession_number": study["accession_number"]}


def alert_message(*parts: Any) -> bytes:
    from api.hl7.alerts import alert_message as make

    return make(*parts)
