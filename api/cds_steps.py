"""Steps on CDS Hooks cards: which were shown, and what the clinician did with them."""
from typing import Any

from api.store import Store, now


class CdsSteps:
    store: Store

    def keep_cards(self, cards: list[dict[str, Any]]) -> None:
        """Cards as shown, without anything of the patient."""
        with self.store.write() as tx:
            for card in cards:
                tx.add("cds_cards", id=card["uuid"], service=card["service"], hook_instance=card["hook_instance"], time=now(),
                       record={name: card[name] for name in ("protocol", "summary", "model", "book", "suggestions")})
            for user, hook_instance in {(card["user"], card["hook_instance"]) for card in cards}:
                tx.audit(user, "suggest", "cds", hook_instance)

    def keep_card_feedback(self, service: str, rows: list[dict[str, Any]], user: str) -> None:
        """One row an outcome; the same one again changes nothing. A card we no longer know is kept too: its call may have come from before."""
        with self.store.write() as tx:
            for row in rows:
                tx.add("cds_feedback", service=service, card_id=row["card"], outcome=row["outcome"], outcome_time=row["outcome_time"],
                       record=row, user=user, time=now())
            tx.audit(user, "feedback", "cds", service)

    def card_feedback(self, limit: int = 200) -> list[dict[str, Any]]:
        """Newest first, each with the card it speaks of."""
        with self.store.read() as tx:
            rows = tx.find("cds_feedback", order=["-id"], limit=limit)
            cards = {card["id"]: card["record"] for card in tx.find("cds_cards", id=[row["card_id"] for row in rows])} if rows else {}
        return [{**row["record"], **{name: row[name] for name in ("service", "time", "user")}, "shown": cards.get(row["card_id"])} for row in rows]
