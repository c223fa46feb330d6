"""Steps on connections: what waits for whom, which destination takes nothing, and what is sent or applied once more."""
from typing import Any

from api.sending import rouse
from api.settings import Settings
from api.store import Store, Tx, now, number
from data.errors import InputError, NotFound, StateError

FAILED_MAX = 200        # rows of one list
OUTAGES_MAX = 20
KINDS = ("outbox", "message", "job")
# what a list shows of a row: nothing of the message itself
OUTBOX_COLUMNS = ("id", "destination", "kind", "control_id", "state", "reason", "tries", "created", "updated", "order_id", "study_id")
MESSAGE_COLUMNS = ("id", "sender", "control_id", "kind", "peer", "listener", "received", "state", "reason")


class ConnectionSteps:
    store: Store
    settings: Settings

    def connections(self) -> dict[str, Any]:
        """Destinations with what waits for them and their outage, the outages of late, dead letters out and in."""
        with self.store.read() as tx:
            destinations = [destination(tx, row.name, f"{row.host}:{row.port}", row.tls) for row in self.settings.outbox]
            outages = tx.find("outages", order=["-id"], limit=OUTAGES_MAX)
            failed = tx.find("outbox", state="failed", order=["-id"], limit=FAILED_MAX, columns=OUTBOX_COLUMNS)
            messages = tx.find("messages", state="failed", order=["-id"], limit=FAILED_MAX, columns=MESSAGE_COLUMNS)
            jobs = tx.find("jobs", state="dead", order=["-id"], limit=FAILED_MAX, columns=("id", "kind", "reason", "updated"))
        return {"destinations": destinations, "outages": outages, "outbox": failed, "messages": messages, "jobs": jobs}

    def replay(self, kind: str, id: str, user: str = "") -> None:
        """Send an outbox message once more, apply a kept message or do a dead job again; raises NotFound, StateError or InputError.

        What leaves is still checked: an older message never follows a newer one of the same order or study that was taken.
        """
        if kind not in KINDS:
            raise InputError(f"kind is '{str(kind)[:20]}', expected one of {', '.join(KINDS)}")
        if kind == "message":
            self.store.replay_message(id)
        elif kind == "job":
            self.store.replay(id)
        else:
            with self.store.write() as tx:
                send_again(tx, number(id, "outbox message"))
        self.store.audit(user, "replay", kind, id)

    def replay_failed(self, name: str = "", user: str = "") -> int:
        """Send all dead letters of one destination, or of all, once more; returns how many."""
        with self.store.write() as tx:
            if name and not tx.count("outbox", destination=name):
                names = ", ".join(row.name for row in self.settings.outbox) or "none"
                raise NotFound(f"no message was ever for a destination of that name; {names} is set up")
            rows = tx.find("outbox", state="failed", order=["id"], columns=("id", "raw"), **({"destination": name} if name else {}))
            rows = [row for row in rows if row["raw"] is not None]
            for row in rows:
                send_again(tx, row["id"])
            tx.audit(user, "replay", "outbox", f"{len(rows)} of {name or 'all destinations'}")
        return len(rows)


def destination(tx: Tx, name: str, address: str, tls: bool) -> dict[str, Any]:
    oldest = tx.find("outbox", destination=name, state="queued", order=["id"], limit=1, columns=("created",))
    newest = tx.find("outbox", destination=name, state="sent", order=["-id"], limit=1, columns=("updated",))
    counts = {state: tx.count("outbox", destination=name, state=state) for state in ("queued", "failed", "superseded")}
    return {"name": name, "address": address, "tls": tls, **counts, "oldest": oldest[0]["created"] if oldest else "",
            "last_sent": newest[0]["updated"] if newest else "", "outage": tx.one("outages", destination=name, ended="")}


def send_again(tx: Tx, id: int) -> None:
    row = tx.one("outbox", id=id, lock=True)
    if row is None:
        raise NotFound(f"there is no outbox message {id}; wetread replay lists the dead letters")
    if row["state"] == "queued":
        raise StateError(f"outbox message {id} is queued already; it is tried until it is taken")
    if row["state"] == "superseded":
        raise StateError(f"outbox message {id} is not sent again: {row['reason']}; the newer one is sent in its place")
    if row["kind"].startswith("DICOM"):
        tx.enqueue("send-dicom", f"send-dicom:{row['key']}", {"outbox_id": str(id)}, rearm=True)
    elif row["raw"] is None:
        raise StateError(f"outbox message {id} could not be built ({row['reason']}), so there is nothing to send; take the step again")
    else:
        rouse(tx, row["destination"])
    tx.change("outbox", {"id": id}, state="queued", reason="", tries=0, not_before="", updated=now())
