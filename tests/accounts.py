"""The books after a crash: what was acknowledged is there once, and what followed from it happened once."""
from collections import Counter

from api.store import Store


def settled(store):
    """No work is left that is not dead."""
    with store.read() as tx:
        return not tx.count("jobs", state=["queued", "leased"])


def losses(store, acknowledged):
    """Control ids of acknowledged messages that are not kept, or not as they were sent."""
    with store.read() as tx:
        kept = {row["control_id"]: row["raw"] for row in tx.find("messages", columns=("control_id", "raw"))}
    return sorted(id for id, raw in acknowledged.items() if kept.get(id) != raw)


def doubles(store):
    """What happened more than once: messages, orders, events of an order, outbox rows."""
    found = []
    with store.read() as tx:
        found += [("message", id) for id, n in Counter(row["control_id"] for row in tx.find("messages", columns=("control_id",))).items() if n > 1]
        found += [("order", id) for id, n in Counter(row["placer_number"] for row in tx.find("orders", columns=("placer_number",))).items() if n > 1]
        events = Counter((row["order_id"], row["what"]) for row in tx.find("order_events", columns=("order_id", "what")))
        found += [("event", *key) for key, n in events.items() if n > 1]
        sent = Counter((row["order_id"], row["draft_id"], row["kind"]) for row in tx.find("outbox", columns=("order_id", "draft_id", "kind")))
        found += [("outbox", *key) for key, n in sent.items() if n > 1]
        drafts = Counter(row["study_id"] for row in tx.find("drafts", status="draft", columns=("study_id",)))
        found += [("draft", id) for id, n in drafts.items() if n > 1]
        found += [("instance", id) for id, n in Counter(row["sop_uid"] for row in tx.find("instances", columns=("sop_uid",))).items() if n > 1]
    return found


def unfinished(store, control_ids):
    """Acknowledged orders without an order on the list, a suggestion or a reason, or a sent update."""
    found = []
    with store.read() as tx:
        orders = {row["placer_number"]: row for row in tx.find("orders", columns=("id", "placer_number", "state"))}
        sent = {row["order_id"] for row in tx.find("outbox", state="sent", columns=("order_id",))}
        updates = tx.count("outbox")
    for id in control_ids:
        row = orders.get(f"PL{id[1:]}")
        if row is None or row["state"] not in ("suggested", "no-suggestion") or (updates and row["state"] == "suggested" and row["id"] not in sent):
            found.append(id)
    return found


def opened(served):
    return Store.open(served.db, served.home, upgrade=False)
