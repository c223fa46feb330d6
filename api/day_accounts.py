"""The books of a played day: what became of every message, order, study and result, read from the store; anything unaccounted for is named."""
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from api.day_plan import Plan
from api.settings import Settings
from api.store import Store, Tx

if TYPE_CHECKING:
    from api.bench_day import Day, Ris

NAMED_MAX = 20      # of each kind of what is unaccounted for
STUDY_ENDS = ("drafted", "refused", "no-draft", "signed")


def accounts(settings: Settings, plan: Plan, day: "Day", ris: "Ris", patience_s: float) -> dict[str, Any]:
    """Wait until no work is left, then close the books."""
    store = Store.open(settings.db, settings.home, upgrade=False)
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        with store.read() as tx:
            # an alert's escalation waits for its own time, an hour on: it is counted, not waited for
            left, alerts = (tx.count("jobs", state=["queued", "leased"], **kind) for kind in ({}, {"kind": "alert"}))
        tried = day.accept()
        if left == alerts and not tried:
            break
        time.sleep(0.5)
    with store.read() as tx:
        books: dict[str, Any] = {}
        missing: dict[str, list[str]] = {"work not finished": [f"{left - alerts} jobs"] if left > alerts else []}
        books["alerts_waiting"] = alerts
        message_books(tx, ris, books, missing)
        order_books(tx, plan, day, books, missing)
        study_books(tx, plan, day, books, missing)
        result_books(tx, ris, books, missing)
        dead = tx.find("jobs", state="dead", columns=("key", "reason"))
        books["dead_letters"] = len(dead)
        missing["dead letters"] = [f"{row['key']}: {row['reason']}" for row in dead]
    store.close()
    return {**books, "unaccounted": {name: rows[:NAMED_MAX] for name, rows in missing.items() if rows}}


def message_books(tx: Tx, ris: "Ris", books: dict[str, Any], missing: dict[str, list[str]]) -> None:
    rows = tx.find("messages", columns=("control_id", "raw", "state"))
    kept = Counter(row["raw"] for row in rows)
    missing["messages acknowledged and lost"] = [control_id(raw) for raw in ris.acknowledged if not kept[raw]]
    missing["messages kept twice"] = [control_id(raw) for raw, n in kept.items() if n > 1]
    missing["messages not applied"] = [row["control_id"] for row in rows if row["state"] != "applied"]
    books["messages"] = {"sent": ris.sent, "acknowledged": len(ris.acknowledged), "refused": ris.refused, "kept": len(rows),
                         "lost": len(missing["messages acknowledged and lost"]), "doubled": len(missing["messages kept twice"])}


def order_books(tx: Tx, plan: Plan, day: "Day", books: dict[str, Any], missing: dict[str, list[str]]) -> None:
    rows = tx.find("orders", columns=("id", "placer_number", "state", "patient_id", "record"))
    found = Counter(row["placer_number"] for row in rows)
    by_number = {row["placer_number"]: row for row in rows}
    for name in ("orders not there", "orders twice", "orders left open", "cancels not in force", "changes not in force",
                 "merged patients' orders elsewhere", "decisions lost"):
        missing[name] = []
    for i, number in enumerate(plan.placer_numbers):
        row = by_number.get(number)
        if row is None:
            missing["orders not there"].append(number)
            continue
        if found[number] > 1:
            missing["orders twice"].append(number)
        if (row["state"] == "cancelled") != (i in plan.cancelled):
            missing["cancels not in force"].append(number)
        elif row["state"] == "new":
            missing["orders left open"].append(number)
        if i in plan.changed and plan.changed[i] not in row["record"]["text"]:
            missing["changes not in force"].append(number)
        if row["patient_id"] != plan.patients[i]:
            missing["merged patients' orders elsewhere"].append(number)
        if i in day.accepted and i not in plan.cancelled and row["state"] != "accepted":
            missing["decisions lost"].append(number)
    events = Counter((row["order_id"], row["what"]) for row in tx.find("order_events", columns=("order_id", "what")))
    missing["events doubled"] = [f"{order} {what}" for (order, what), n in events.items() if n > 1 and what in ("new", "accept", "cancel")]
    books["orders_by_state"] = dict(Counter(row["state"] for row in rows))
    books["cancelled"], books["changed"], books["merged"], books["accepted"] = (
        len(plan.cancelled), len(plan.changed), len(plan.merged), len(day.accepted))


def study_books(tx: Tx, plan: Plan, day: "Day", books: dict[str, Any], missing: dict[str, list[str]]) -> None:
    orders = {row["id"]: row["accession_number"] for row in tx.find("orders", columns=("id", "accession_number"))}
    rows = {row["accession_number"]: row for row in tx.find("studies", columns=("id", "accession_number", "state", "order_id"))}
    instances = Counter(row["study_id"] for row in tx.find("instances", columns=("study_id",)))
    drafts = Counter(row["study_id"] for row in tx.find("drafts", status="draft", columns=("study_id",)))
    for name in ("studies not there", "studies not whole", "studies without their order", "studies left open", "drafts doubled"):
        missing[name] = []
    for number in plan.studies:
        accession = plan.accessions[number]
        row = rows.get(accession)
        if row is None:
            missing["studies not there"].append(accession)
            continue
        checks = {"studies not whole": instances[row["id"]] != day.stored[number], "studies left open": row["state"] not in STUDY_ENDS,
                  "studies without their order": orders.get(row["order_id"]) != accession, "drafts doubled": drafts[row["id"]] > 1}
        for name, wrong in checks.items():
            if wrong:
                missing[name].append(accession)
    books["studies_by_state"] = dict(Counter(row["state"] for row in rows.values()))
    books["instances"] = sum(instances.values())


def result_books(tx: Tx, ris: "Ris", books: dict[str, Any], missing: dict[str, list[str]]) -> None:
    rows = tx.find("outbox", columns=("key", "control_id", "state"))
    due = {row["control_id"] for row in rows}
    missing["results not sent"] = [row["key"] for row in rows if row["state"] != "sent"]
    sent = {row["control_id"] for row in rows if row["state"] == "sent"}
    missing["results sent and not received"] = sorted(sent - set(ris.results))
    missing["results nobody asked for"] = sorted(set(ris.results) - due)
    # after a crash a message may go again under its own control id, as HL7 wants it; the receiver knows it by that
    books["results"] = {"due": len(rows), "received": len(ris.results), "received_again": sum(n - 1 for n in ris.results.values())}


def control_id(raw: bytes) -> str:
    return raw.split(b"\r")[0].split(b"|")[9].decode("ascii", "replace")


def show(console: Console, figures: dict[str, Any]) -> None:
    table = Table("", "", title="A day (simulated)")
    for name, value in figures.items():
        if name == "unaccounted":
            continue
        words = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in value.items()) if isinstance(value, dict) else \
            ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(name.replace("_", " "), words)
    for name, rows in figures["unaccounted"].items():
        table.add_row(f"[bold]{name}[/bold]", ", ".join(rows))
    table.add_row("unaccounted for", "nothing" if not figures["unaccounted"] else "see the rows above")
    console.print(table)
