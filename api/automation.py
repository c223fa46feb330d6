"""The switch of automation: stored, so that it outlives a restart, and read in the transaction that would accept an order without a person."""
from typing import Any

from api.settings import Settings
from api.store import Store, Tx, now


class AutomationSteps:
    store: Store
    settings: Settings

    def automation(self) -> dict[str, Any]:
        """`running` only when the settings allow it and nobody stopped it; by whom, when and why it was last switched."""
        with self.store.read() as tx:
            row = tx.one("switches", name="automation") or {"running": False, "user": "", "time": "", "reason": ""}
        return {"running": self.settings.automation and row["running"], "allowed": self.settings.automation, "stopped": not row["running"],
                "user": row["user"], "time": row["time"], "reason": row["reason"]}

    def switch_automation(self, running: bool, user: str, reason: str = "") -> dict[str, Any]:
        """Stop automation, or let it run again; in force for every order that is not accepted yet when this returns."""
        with self.store.write() as tx:
            tx.change("switches", {"name": "automation"}, running=running, user=user, time=now(), reason=reason.strip())
            tx.audit(user, "start" if running else "stop", "automation", "")
        return self.automation()


def runs(tx: Tx) -> bool:
    """Whether automation may act in this transaction; the row stays locked until its end, so a stop comes either before or after it."""
    row = tx.one("switches", name="automation", lock=True)
    return row is not None and row["running"]
