"""Shadow mode: a second model answers beside the shown one. Its suggestion is stored for the monitor, shown to nobody, and accepts nothing."""
import logging
from typing import Any

from api.model_versions import in_use
from api.store import Job, Store, Tx, now
from data.errors import WetreadError
from data.records import as_json

log = logging.getLogger("wetread.shadow")


class ShadowSteps:
    store: Store
    shadow: Any         # .suggest(order), or None

    def shadow_order(self, job: Job) -> None:
        """Job "shadow": the suggestion of the model in shadow, or why there is none; a failure ends here and is tried once."""
        from api.order_steps import order_from_record

        id, version, model = (job.payload[name] for name in ("order_id", "order_version", "model"))
        with self.store.read() as tx:
            row = tx.one("orders", id=id)
            stale = row is None or not last_suggested(tx, row, version) or in_use(tx, "shadow") != model
        if stale or row is None or self.shadow is None:
            return                      # the order says something else by now, or another model is in shadow
        suggestion, reason = None, ""
        try:
            suggestion = as_json(self.shadow.suggest(order_from_record(row["record"])))
        except Exception as error:
            reason = error.code if isinstance(error, WetreadError) else type(error).__name__
            log.error("no shadow suggestion for an order: %s", reason)
        with self.store.effect(job) as tx:
            tx.add("shadow_suggestions", order_id=id, order_version=version, model=model, time=now(), suggestion=suggestion, reason=reason)


def ask_shadow(tx: Tx, order_id: str, version: int) -> None:
    """In the transaction of the shown suggestion: a job of its own, done when nothing else is due."""
    if model := in_use(tx, "shadow"):
        tx.enqueue("shadow", f"shadow:{order_id}:{version}:{model}", {"order_id": order_id, "order_version": version, "model": model})


def last_suggested(tx: Tx, row: dict[str, Any], version: int) -> bool:
    """Whether the order still says what it said at `version`: a decision raises the version too, but changes no word."""
    if row["state"] in ("new", "cancelled"):
        return False
    keys = [event["key"] for event in tx.find("order_events", order_id=row["id"], order=["-id"], columns=("key",))]
    return next((key for key in keys if key.startswith("suggestion:")), "") == f"suggestion:{row['id']}:{version}"


def agreement(store: Store, start: str, decided: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """For each model that was in shadow since `start`: how often it and the shown one suggested first what people took.

    `decided`: order -> (protocol taken, protocol shown first). `difference` is shadow less shown, with its 95 % interval.
    """
    said: dict[str, dict[str, dict[str, Any]]] = {}
    failed: dict[str, int] = {}
    with store.read() as tx:
        for row in tx.since("shadow_suggestions", "time", start, ("order_id", "order_version", "model", "suggestion", "time")):
            of_model = said.setdefault(row["model"], {})
            ranked = (row["suggestion"] or {}).get("ranked")
            failed[row["model"]] = failed.get(row["model"], 0) + (not ranked)
            if ranked:          # the one for the order's last words stands
                of_model[row["order_id"]] = {"first": ranked[0]["protocol"]}
    found = []
    for model, orders in said.items():
        pairs = [(decided[id][1] == decided[id][0], entry["first"] == decided[id][0]) for id, entry in orders.items() if id in decided]
        n, better, worse = len(pairs), sum(not a and b for a, b in pairs), sum(a and not b for a, b in pairs)
        gain = (better - worse) / n if n else 0.0
        spread = 1.96 * (max((better + worse) / n - gain**2, 0.0) / n) ** 0.5 if n else 0.0
        found.append({"model": model, "orders": len(orders), "failed": failed[model], "decided": n,
                      "shown_agrees": sum(a for a, _ in pairs), "shadow_agrees": sum(b for _, b in pairs), "only_shadow": better, "only_shown": worse,
                      "difference": [round(x, 4) for x in (gain, gain - spread, gain + spread)] if n else None})
    return found
