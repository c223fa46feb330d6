"""Steps on orders and patients: applied by event time, suggested for, decided by a person."""
import logging
import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from api.automation import runs
from api.order_life import COMPLETED, IN_PROGRESS, RANKS, Known, join, known_from, known_of_row, order_from_known, said
from api.patients import identifiers_of, know_patient, merge, patient_now, surviving_id
from api.sending import build, post
from api.settings import Settings
from api.shadow import ask_shadow
from api.sheet import authored, sheet_of
from api.store import Job, Store, Tx, moment, new_id, now
from data.errors import InputError, ModelError, NotFound, StateError, WetreadError
from data.records import Facts, Order, Patient, PatientMerge, PatientUpdate, Suggestion, as_json

log = logging.getLogger("wetread.orders")

OPEN = ("new", "suggested", "no-suggestion")
DECIDED = {"accept": "accepted", "change": "changed", "reject": "rejected"}
STATES = (*OPEN, *DECIDED.values(), "cancelled")
STATUS_WORDS = {"SC": "scheduled", "IP": "started", "A": "started", "CM": "completed", "HD": "hold", "CA": "cancel", "DC": "cancel"}
CLOCK_AHEAD = timedelta(days=1)     # of a sender's clock; a time beyond it is taken for the time of receipt
TIME = re.compile(r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:\.(\d{1,6}))?([+-]\d{4})?$")


class OrderSteps:
    store: Store
    settings: Settings
    suggester: Any
    _book: Any

    # -- in ----------------------------------------------------------------------------------------------------------

    def apply_message(self, job: Job) -> None:
        """Job "message": read a kept message and apply what it says; what cannot be applied is marked with its reason."""
        from api.hl7.messages import HANDLERS
        from api.hl7.reader import read_message

        row = self.store.message(job.payload["message_id"])
        site = self.settings.site(row["listener"])
        try:
            message = read_message(row["raw"], site.charset, site.assigning_authority)
            handler = HANDLERS.get(message.kind)
            records = handler(message) if handler else ()
        except WetreadError as error:       # another try reads the same bytes
            with self.store.effect(job) as tx:
                self.store.mark_message(row["id"], "failed", str(error), tx)
            return
        latest = (moment(row["received"]) + CLOCK_AHEAD).isoformat(timespec="milliseconds")[:-6] + "Z"

        def happened(text: str, default: str) -> str:
            """A sender whose clock is years ahead would otherwise win over every later message."""
            when = event_time(text, default, site.time_zone)
            return when if when <= latest else row["received"]

        sent = happened(message.get("MSH-7"), row["received"])
        with self.store.effect(job) as tx:
            seen: dict[str, int] = {}
            for n, record in enumerate(records):
                if isinstance(record, Order):
                    base = order_key(record, message.sender) or f"{message.sender}|message:{row['id']}"
                    seen[base] = seen.get(base, 0) + 1
                    # two exams under one number in one message are two orders
                    key = base if seen[base] == 1 else f"{base}#{seen[base]}"
                    when = happened(getattr(record, "event_time", ""), sent)
                    self._place(tx, record, key, message.sender, when, sent, int(row["id"]), f"{row['id']}:{n}")
                elif isinstance(record, PatientUpdate):
                    if know_patient(tx, record.patient, happened(record.event_time, sent), int(row["id"]), record.deleted):
                        refresh(tx, surviving_id(tx, record.patient.id))
                elif isinstance(record, PatientMerge):
                    refresh(tx, merge(tx, record, happened(record.event_time, sent), int(row["id"])))
            self.store.mark_message(row["id"], "applied" if records else "unused", row["reason"], tx)

    def add_order(self, order: Order, user: str = "") -> str:
        """Take an order that came other than by HL7; the same number (or id) again is a change. Returns the desk's id."""
        key = order_key(order, "") or (f"|id:{order.id}" if order.id else f"|{new_id('k')}")
        with self.store.write() as tx:
            return self._place(tx, order, key, "", now(), now(), 0, new_id("e"), user)

    def _place(self, tx: Tx, order: Order, key: str, sender: str, when: str, sent: str, message: int, event: str, user: str = "") -> str:
        """One event onto the order it belongs to; `when` it happened decides, not when it came."""
        known = known_from(order, when, sent, message)
        if order.patient.id and know_patient(tx, order.patient, when, message):
            refresh(tx, surviving_id(tx, order.patient.id))
        row = find_order(tx, order, key, sender)
        if row is None:
            id = new_id("o")
            placed = order_from_known(known, patient_of_order(tx, known), id)
            state = "cancelled" if said(known, "cancelled", False) else "new"
            new = tx.add("orders", id=id, key=key, state=state, version=1, sender=sender, event_time=when, event_rank=RANKS[order.control],
                         event_number=message, urgency=urgency(placed), created=now(), updated=now(), known=known,
                         held=state == "new" and said(known, "held", False), performed=said(known, "progress", ""), **searchable(placed))
            if new:
                if state == "new":
                    tx.enqueue("suggest", f"suggest:{id}:1", {"order_id": id, "order_version": 1})
                link_studies(tx, id, placed)
            else:
                row = tx.one("orders", key=key, lock=True)      # another worker was first
                assert row is not None
        if row is not None:
            id = row["id"]
            tx.change("orders", {"id": id}, event_time=max(when, row["event_time"]), event_number=max(message, row["event_number"]))
            settle(tx, row, join(known_of_row(row), known), own=True)
        what = order.control if order.control != "status" else STATUS_WORDS.get(getattr(order, "status", ""), "status")
        tx.add("order_events", key=event, order_id=id, message_id=message or None, time=now(), what=what, user=user,
               detail={"event_time": when, "status": getattr(order, "status", "")})
        return id

    # -- suggestion --------------------------------------------------------------------------------------------------

    def suggest(self, order: Order) -> Suggestion:
        """Suggest for an order that is not kept; raises ModelError when no suggester runs."""
        if self.suggester is None:
            raise ModelError("no protocol model is loaded; see wetread doctor")
        return self.suggester.suggest(order)

    def suggest_order(self, job: Job) -> None:
        """Job "suggest": the suggestion, or the reason why there is none, onto the order of that version."""
        id, version = job.payload["order_id"], job.payload["order_version"]
        with self.store.read() as tx:
            row = tx.one("orders", id=id)
        if row is None or row["version"] != version or row["state"] not in OPEN:
            return                                          # changed, cancelled or decided meanwhile
        suggestion, reason = self._try_to_suggest(order_from_record(row["record"]))
        values: dict[str, Any] = {"suggestion": None, "state": "no-suggestion", "reason": reason}
        raw, automatic, raw_automatic = None, {}, None
        key = f"suggestion:{id}:{version}"
        if suggestion is not None:
            values = {"suggestion": as_json(suggestion), "state": "suggested", "reason": "",
                      "urgency": max(row["urgency"], 2 * suggestion.urgent)}
            automatic = self._automatic(suggestion)
            raw = build(self.settings, key, order_update, present(row), values["suggestion"], None)
            if automatic:
                raw_automatic = build(self.settings, key, order_update, present(row), values["suggestion"], automatic["decision"])
        with self.store.effect(job) as tx:
            if automatic and runs(tx):      # not before: automation may have been stopped while the suggestion was computed
                values, raw = {**values, **automatic}, raw_automatic
            kept = tx.change("orders", {"id": id, "version": version, "state": OPEN}, updated=now(), **values)
            if kept:
                tx.add("order_events", key=key, order_id=id, time=now(), what=values["state"], user="",
                       detail={"suggestion": values["suggestion"], "reason": reason})
                ask_shadow(tx, id, version)
                if values["state"] == "accepted":
                    tx.audit("automation", "accept", "order", id)
                best = f"{suggestion.ranked[0].protocol} {suggestion.disposition}" if suggestion and suggestion.ranked else reason
                log.info("order %s version %d: %s %s", id, version, values["state"], best)
                if suggestion is not None:
                    post(tx, self.settings, key, "order update", raw, patient_id=row["patient_id"], order_id=id)

    def _try_to_suggest(self, order: Order) -> tuple[Suggestion | None, str]:
        """A failing model never stops an order: it goes on to a person, with a code for the reason."""
        if self.suggester is None:
            return None, "no-model"
        try:
            return self.suggester.suggest(order), ""
        except Exception as error:
            reason = error.code if isinstance(error, WetreadError) else type(error).__name__
            log.error("no suggestion for an order: %s", reason)
            return None, reason

    def _automatic(self, suggestion: Suggestion) -> dict[str, Any]:
        """Acceptance without a person: only when switched on, only for `auto`, never under a stop flag."""
        stopped = any(flag.severity == "stop" for flag in suggestion.flags)
        if not self.settings.automation or suggestion.disposition != "auto" or stopped or not suggestion.ranked:
            return {}
        return {"state": "accepted", "decision": decision_of("accept", suggestion.ranked[0].protocol, "", "automation", as_json(suggestion))}

    # -- decision ----------------------------------------------------------------------------------------------------

    def decide(self, order_id: str, action: str, protocol: str | None = None, reason: str = "", user: str = "") -> dict[str, Any]:
        """accept the suggestion, change to another protocol of the book, or reject with a reason; returns the order.

        Raises: InputError for an unknown action, StateError when the step is not allowed now.
        """
        if action not in DECIDED:
            raise InputError(f"action is '{str(action)[:20]}', expected accept, change or reject")
        for _ in range(5):
            with self.store.read() as tx:
                row = find_by_any(tx, order_id)
            decision = self._decision(row, action, protocol, reason, user)
            version = row["version"] + 1
            key = f"decision:{row['id']}:{version}"
            after = present({**row, "state": DECIDED[action], "decision": decision, "version": version})
            raw = build(self.settings, key, order_update, after, self._as_taken(after), decision)
            with self.store.write() as tx:
                if not tx.change("orders", {"id": row["id"], "version": row["version"], "state": row["state"]}, state=DECIDED[action],
                                 decision=decision, version=version, updated=now()):
                    continue            # something else happened to the order while the message was built
                tx.add("order_events", key=key, order_id=row["id"], time=now(), what=action, user=user, detail=decision)
                tx.audit(user, action, "order", row["id"])
                post(tx, self.settings, key, "order update", raw, patient_id=row["patient_id"], order_id=row["id"])
            return self.order(row["id"])
        raise StateError("the order is changing just now; look at it again")

    def _as_taken(self, after: dict[str, Any]) -> dict[str, Any] | None:
        """The suggestion as it goes out with a decision: contrast and warnings are those of the protocol that was taken, as on its sheet."""
        suggestion, sheet = after["suggestion"], sheet_of(after, order_from_record(after["order"]), self.book)
        if not suggestion or not sheet or not sheet["in_book"]:
            return suggestion
        return {**suggestion, "contrast": sheet["contrast"], "flags": sheet["warnings"]}

    def _decision(self, row: dict[str, Any], action: str, protocol: str | None, reason: str, user: str) -> dict[str, Any]:
        suggestion = row["suggestion"] or {}
        ranked = [entry["protocol"] for entry in suggestion.get("ranked", ())]
        if row["state"] == "cancelled":
            raise StateError("the order is cancelled; nothing is decided on it")
        if row["state"] not in OPEN and action == "accept":
            raise StateError(f"the order is {row['state']} already; change or reject it with a reason instead")
        if row["state"] not in OPEN and not reason.strip():
            raise StateError(f"the order is {row['state']} already; a new decision needs a reason")
        if action == "accept":
            if not ranked:
                raise StateError("the order has no suggestion to accept; choose a protocol with change")
            protocol = protocol or ranked[0]
            if protocol != ranked[0]:
                raise StateError("only the first suggestion is accepted; choose another protocol with change")
        elif action == "change":
            if not protocol or protocol not in self.book.protocols:
                raise StateError("protocol is not in the book; choose one of its protocols")
        else:
            protocol = ""
            if not reason.strip():
                raise StateError("reason is empty; a rejection needs one")
        return decision_of(action, protocol, reason, user, suggestion or {"book": self.book.version})

    @property
    def book(self) -> Any:
        """The protocol book, read once."""
        if self._book is None:
            from data.book import read_book

            self._book = read_book()
        return self._book

    # -- looking -----------------------------------------------------------------------------------------------------

    def orders(self, state: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        """Orders without their history, most urgent first, then as they came."""
        if state is not None and state not in STATES:
            raise InputError(f"state is '{str(state)[:20]}', expected one of {', '.join(STATES)}")
        with self.store.read() as tx:
            rows = tx.find("orders", order=["-urgency", "created", "id"], limit=limit, **({"state": state} if state else {}))
        return [present(row) for row in rows]

    def order(self, id: str) -> dict[str, Any]:
        """One order with sheet, nearest labelled orders, history and messages, by its id or any of its numbers; raises NotFound."""
        with self.store.read() as tx:
            row = find_by_any(tx, id)
            history = tx.find("order_events", order=["id"], order_id=row["id"])
            numbers = sorted({event["message_id"] for event in history if event["message_id"]})
            columns = ("id", "control_id", "kind", "received", "state", "reason")
            messages = tx.find("messages", id=numbers, order=["id"], columns=columns) if numbers else []
            nearest = [labelled_order(tx, near) for near in (row["suggestion"] or {}).get("nearest", ())]
        return {**present(row), "sheet": sheet_of(row, order_from_record(row["record"]), self.book), "nearest": nearest,
                "history": [{name: event[name] for name in ("time", "what", "user", "detail")} for event in history],
                "messages": [{**message, "id": str(message["id"])} for message in messages]}


def decision_of(action: str, protocol: str, reason: str, user: str, suggestion: dict[str, Any]) -> dict[str, Any]:
    """A decision as it is kept, with what the person saw: the flags, the first suggestion and its probability, the versions of model and book."""
    first = (suggestion.get("ranked") or [{"protocol": "", "probability": None}])[0]
    return {"action": action, "protocol": protocol, "reason": reason.strip(), "user": user, "time": now(),
            "flags": [flag["code"] for flag in suggestion.get("flags", ())], "suggested": first["protocol"], "probability": first["probability"],
            "model": suggestion.get("model", ""), "book": suggestion.get("book", "")}


def labelled_order(tx: Tx, id: str) -> dict[str, Any]:
    """What an order of the model's memory was protocolled as: a shipped one with its text, one of this desk without (another patient's)."""
    if id in authored():
        return {"id": id, **authored()[id]}
    row = tx.one("orders", id=id)
    protocol = ((row or {}).get("decision") or {}).get("protocol", "")
    return {"id": id, "source": "desk" if row else "unknown", "order_text": "", "ordered_exam": "", "protocol": protocol}


def order_update(*parts: Any) -> bytes:
    from api.hl7.outgoing import order_update as make

    return make(*parts)


def present(row: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "state", "reason", "version", "urgency", "suggestion", "decision", "performed", "held", "created", "updated")
    return {**{name: row[name] for name in names}, "order": row["record"]}


def searchable(order: Order) -> dict[str, Any]:
    return {"record": as_json(order), "patient_id": order.patient.id, "placer_number": order.placer_number,
            "filler_number": order.filler_number, "accession_number": order.accession_number,
            "study_instance_uid": order.study_instance_uid}


def urgency(order: Order) -> int:
    return {"STAT": 2, "URGENT": 1, "ROUTINE": 0}[order.priority]


def order_key(order: Order, sender: str) -> str:
    """Who sent it and its first number there; "" for an order without numbers."""
    for name, number in (("placer", order.placer_number), ("filler", order.filler_number), ("accession", order.accession_number)):
        if number:
            return f"{sender}|{name}:{number}"
    return ""


def find_order(tx: Tx, order: Order, key: str, sender: str) -> dict[str, Any] | None:
    """By key; else by any number of it that was told before. Two rows that this event shows to be one order become one."""
    row = tx.one("orders", key=key, lock=True)
    if "#" in key:
        return row
    rows = [row] if row else []
    for column in ("placer_number", "filler_number"):
        if number := getattr(order, column):
            rows += tx.find("orders", sender=sender, **{column: number}, lock=True, order=["id"], limit=20)
    if not rows and order.accession_number and not order.placer_number and not order.filler_number:
        rows = tx.find("orders", sender=sender, accession_number=order.accession_number, lock=True, order=["id"], limit=2)
        return rows[0] if len(rows) == 1 else None
    mine = {row["id"]: row for row in rows if "#" not in row["key"] and all(
        not row[column] or not getattr(order, column) or row[column] == getattr(order, column) for column in ("placer_number", "filler_number"))}
    found = sorted(mine.values(), key=lambda row: (row["created"], row["id"]))
    for other in found[1:]:
        found[0] = one_order(tx, found[0], other)
    return found[0] if found else None


def one_order(tx: Tx, row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Put `other`, the same order under its other number, into `row`."""
    where, here = {"order_id": other["id"]}, {"order_id": row["id"]}
    for table in ("order_events", "studies", "outbox"):
        tx.change(table, where, **here)
    for link in tx.find("procedure_step_orders", **where):
        tx.add("procedure_step_orders", step_id=link["step_id"], **here)
    for table in ("procedure_step_orders", "shadow_suggestions"):
        tx.remove(table, **where)
    tx.remove("orders", id=other["id"])
    settle(tx, row, join(known_of_row(row), known_of_row(other)), own=True)
    again = tx.one("orders", id=row["id"], lock=True)
    assert again is not None
    return again


def find_by_any(tx: Tx, id: str) -> dict[str, Any]:
    for column in ("id", "placer_number", "filler_number", "accession_number"):
        rows = tx.find("orders", order=["-created", "-id"], limit=1, **{column: id}) if id else []
        if rows:
            return rows[0]
    raise NotFound("there is no order of that id, placer, filler or accession number; GET /v1/orders lists them")


def order_from_record(record: dict[str, Any]) -> Order:
    """as_json turned back; keys a newer version wrote are left out."""
    known = {f.name for f in fields(Order)}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items() if name in known}
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in record["facts"].items()}
    return Order(**{**values, "patient": Patient(**record["patient"]), "facts": Facts(**facts)})


def event_time(text: str, default: str, time_zone: str = "UTC") -> str:
    """An HL7 DTM as a UTC text that sorts; without an offset it is the sender's clock, in `time_zone` (UTC unless the site says otherwise)."""
    found = TIME.match(text.strip())
    if not found:
        return text if re.match(r"\d{4}-\d\d-\d\dT", text) else default
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    try:
        zone: tzinfo = UTC if time_zone == "UTC" else ZoneInfo(time_zone)
        if offset:
            zone = timezone((-1 if offset[0] == "-" else 1) * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:])))
        at = datetime(int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0),
                      int((fraction or "").ljust(6, "0")), zone)
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    except (ValueError, OverflowError):
        return default


# -- what is known, written down --------------------------------------------------------------------------------------


def settle(tx: Tx, row: dict[str, Any], known: Known, own: bool = False) -> None:
    """Write an order as its events and its patient are known now; another content asks for a new suggestion.

    `own`: by an event of the order itself. New demographics alone take no decision back, and nothing does once the order is performed.
    """
    before = order_from_record(row["record"])
    after = order_from_known(known, patient_of_order(tx, known), row["id"])
    # the scanner was told this one: an order that brings none keeps it
    after = replace(after, study_instance_uid=after.study_instance_uid or before.study_instance_uid)
    cancelled = said(known, "cancelled", False)
    performed = how_far(steps_of(tx, row["id"]), said(known, "progress", ""))
    other_patient = (before.patient.birth_date, before.patient.sex, surviving_id(tx, before.patient.id)) != (
        after.patient.birth_date, after.patient.sex, after.patient.id)
    asked_again = question(after) != question(before) or other_patient
    if row["state"] in DECIDED.values() and (performed == COMPLETED or not own):
        asked_again = False
    state = "cancelled" if cancelled else "new" if row["state"] == "cancelled" or asked_again else row["state"]
    values: dict[str, Any] = {}
    if asked_again or state != row["state"]:
        values = {"version": row["version"] + 1, "state": state, "urgency": urgency(after)}
        if state == "new":      # what was suggested or decided was for another question; it stays in the history
            values |= {"suggestion": None, "decision": None, "reason": ""}
            tx.enqueue("suggest", f"suggest:{row['id']}:{row['version'] + 1}", {"order_id": row["id"], "order_version": row["version"] + 1})
    tx.change("orders", {"id": row["id"]}, updated=now(), known=known, held=state != "cancelled" and said(known, "held", False),
              performed=performed, **values, **searchable(after))
    link_studies(tx, row["id"], after)


def question(order: Order) -> Order:
    """What a suggestion depends on of the order itself: no numbers, no marks of the event, and of the patient nothing."""
    return replace(order, id="", control="new", patient=Patient(), age_years=None if order.patient.birth_date else order.age_years,
                   placer_number="", filler_number="", accession_number="", study_instance_uid="", requested_procedure_id="")


def patient_of_order(tx: Tx, known: Known) -> Patient:
    """As known now under the identifier in use; without one, as the order's own messages said."""
    if id := said(known, "patient_id", ""):
        return patient_now(tx, id)
    return Patient(**said(known, "patient", {}))


def refresh(tx: Tx, root: str) -> None:
    """Bring the orders and studies of all identifiers of one patient to what is known of it now."""
    for id in identifiers_of(tx, root):
        for row in tx.find("orders", patient_id=id, lock=True, order=["id"]):
            settle(tx, row, known_of_row(row))
        if id != root:
            for study in tx.find("studies", patient_id=id):
                tx.change("studies", {"id": study["id"]}, patient_id=root, patient={**study["patient"], "id": root})
            tx.change("outbox", {"patient_id": id, "state": "queued"}, patient_id=root)     # it stays in order with what follows


def steps_of(tx: Tx, order_id: str) -> set[str]:
    """The states of an order's performed procedure steps."""
    uids = [link["step_id"] for link in tx.find("procedure_step_orders", order_id=order_id)]
    return {row["status"] for row in tx.find("procedure_steps", id=uids, columns=("status",))} if uids else set()


def how_far(steps: set[str], said: str) -> str:
    """As far as its furthest step (a discontinued one beside a completed one is completed); completed too when its sender says so."""
    done = next((status for status in (IN_PROGRESS, COMPLETED, "DISCONTINUED") if status in steps), "")
    return said if not done or said == COMPLETED else done


WORKED_ON = ["draft", "preliminary", "final", "amended"]      # drafts that were not withdrawn
# -- orders and studies ----------------------------------------------------------------------------------------------


def link_studies(tx: Tx, order_id: str, order: Order) -> None:
    """Studies that came before their order; one that was drafted without its question is drafted again, unless somebody took the draft up."""
    for column, value in (("accession_number", order.accession_number), ("id", order.study_instance_uid)):
        for study in tx.find("studies", order_id=None, lock=True, **{column: value}) if value else ():
            if not same_patient(tx, study["patient_id"], order.patient.id):
                continue
            values: dict[str, Any] = {"order_id": order_id, "priority": max(study["priority"], order_priority(tx, order_id))}
            untouched = all(draft["version"] == 1 for draft in tx.find("drafts", study_id=study["id"], status=WORKED_ON, columns=("version",)))
            if study["state"] in ("complete", "drafted", "refused") and untouched:
                values |= {"revision": study["revision"] + 1, "state": "complete", "updated": now()}
                tx.enqueue("draft", f"draft:{study['id']}:{values['revision']}", {"study_id": study["id"], "revision": values["revision"]})
            tx.change("studies", {"id": study["id"]}, **values)


def order_priority(tx: Tx, order_id: str) -> float:
    """Before the images were read, a study is as urgent as its order: 0.5 for STAT, so that a critical finding still goes first."""
    order = tx.one("orders", id=order_id)
    return order["urgency"] / 4 if order else 0.0


def order_of_study(tx: Tx, accession_number: str, study_uid: str, patient_id: str) -> str | None:
    """The order a study belongs to, by accession number, StudyInstanceUID, then MPPS; never another patient's."""
    for column, value in (("accession_number", accession_number), ("study_instance_uid", study_uid)):
        rows = tx.find("orders", order=["-created", "-id"], **{column: value}) if value else []
        rows = [row for row in rows if same_patient(tx, patient_id, row["patient_id"])]
        rows.sort(key=lambda row: row["state"] == "cancelled")
        if rows:
            return rows[0]["id"]
    for step in tx.find("procedure_steps", order=["-created"], study_id=study_uid) if study_uid else ():     # what the scanner said it performed
        link = tx.one("procedure_step_orders", step_id=step["id"])
        if link and same_patient(tx, patient_id, step["patient_id"]):
            return link["order_id"]
    return None


def same_patient(tx: Tx, one: str, other: str) -> bool:
    """An accession number alone must not join two patients, nor somebody with nobody."""
    return one == other or (bool(one) and bool(other) and surviving_id(tx, one) == surviving_id(tx, other))
