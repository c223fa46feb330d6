"""Learning from the desk: its decisions as labelled orders, and a candidate model trained on them. What patients' orders say stays below HOME."""
import json
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from api.model_versions import SHIPPED, config_version, in_use, models_folder, read_figures
from api.sheet import TAKEN
from api.store import Store, now
from data.book import Book
from data.errors import InputError, WetreadError
from data.model_files import MODELS
from data.orders import labelled_from

ORDERS_MIN = 50         # fewer decisions say nothing when a part of them is held out
AUTOMATION = "automation"


def labelled_rows(store: Store, book: Book) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The protocols that people took as rows of labelled orders, oldest decision first, and what was left out and why.

    One row an order; orders with the same words and clicked exam become one, its label the newest decision, acceptable every protocol that was taken.
    """
    with store.read() as tx:
        found = tx.find("orders", state=TAKEN, columns=("id", "record", "decision"), order=["id"])
    left_out = {"accepted by automation": 0, "protocol not in the book": 0, "unusable as an order": 0, "said the same as another": 0}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for order in sorted(found, key=lambda row: row["decision"]["time"]):
        decision = order["decision"]
        if decision["user"] == AUTOMATION:          # its own suggestion: nothing to learn from
            left_out["accepted by automation"] += 1
        elif decision["protocol"] not in book.protocols:
            left_out["protocol not in the book"] += 1
        elif (row := row_of(order["id"], order["record"], decision, book)) is None:
            left_out["unusable as an order"] += 1
        else:
            key = (" ".join(row["order_text"].lower().split()), row["ordered_exam"].lower())
            if before := rows.pop(key, None):       # put in anew, so that the newest decision stands last
                left_out["said the same as another"] += 1
                row["acceptable_protocols"] = sorted({*row["acceptable_protocols"], *before["acceptable_protocols"]})
            rows[key] = row
    return list(rows.values()), left_out


def row_of(id: str, record: dict[str, Any], decision: dict[str, Any], book: Book) -> dict[str, Any] | None:
    """A decided order in the form of the authored ones, without the patient's name and numbers; None when it cannot be read back."""
    facts = record["facts"]
    row = {"id": id, "order_text": record["text"], "ordered_exam": record["ordered_exam"], "setting": record["setting"], "age": record["age_years"],
           "sex": record["patient"]["sex"], "priority": record["priority"], "priors": record["priors"],
           **{name: facts[name] for name in ("egfr", "allergies", "implants", "pregnant")},
           "expected_protocol": decision["protocol"], "acceptable_protocols": [decision["protocol"]],
           "expected_contrast": book.protocols[decision["protocol"]].contrast, "expected_flags": None,
           "urgent": record["priority"] == "STAT",      # a decision says nothing of urgency; what the referrer said stands in
           "decided_by": decision["user"], "decided": decision["time"], "action": decision["action"],
           "model": decision.get("model", ""), "book": decision.get("book", "")}
    if not record["text"].strip():
        return None
    try:
        labelled_from(row, "")
    except WetreadError:
        return None
    return row


def export(store: Store, book: Book) -> tuple[Path, dict[str, Any]]:
    """Write HOME/learning/decisions.jsonl, readable by its owner alone; (the file, how many rows and what was left out)."""
    rows, left_out = labelled_rows(store, book)
    folder = store.home / "learning"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "decisions.jsonl"
    partial = path.with_name("decisions.jsonl.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    os.replace(partial, path)
    return path, {"orders": len(rows), "left out": {why: count for why, count in left_out.items() if count}}


def train_from_store(store: Store, book: Book, user: str, report: Callable[..., None]) -> dict[str, Any]:
    """Export the decisions, train a candidate on them besides the shipped orders, keep it as a version of its own; its figures.

    Raises: InputError when there are too few decisions.
    """
    path, exported = export(store, book)
    if exported["orders"] < ORDERS_MIN:
        raise InputError(f"the store has {exported['orders']} decisions to learn from, at least {ORDERS_MIN} are needed; "
                         "accept or change more suggestions first")
    orders = import_module("nlp.train_protocol").read_labelled([path])
    folder = models_folder(store.home)
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f".training-{os.getpid()}"
    try:
        figures = import_module("nlp.local_training").train_local(orders, MODELS / "protocol", made, report)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)     # half a model is nobody's
        raise
    version = config_version(made)
    with store.read() as tx:
        shown_now = in_use(tx, "shown")
    figures = {"version": version, "compared_with": config_version(MODELS / "protocol"), "in_use": shown_now or SHIPPED, "trained": now(),
               "by": user, "exported": exported, **figures}
    (made / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    target = folder / version
    if target.exists():         # the same decisions make the same weights: keep what may be in use
        shutil.rmtree(made)
        return read_figures(target) | {"unchanged": True}
    os.replace(made, target)
    return figures


def comparison(figures: dict[str, Any]) -> str:
    """The candidate beside the model it is compared with, as a table."""
    old, new = figures["current"], figures["candidate"]
    head = ("figure", figures["compared_with"], figures["version"])
    rows = [head, *((name, shown(old[name]), shown(new[name])) for name in old if name in new)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A number, or [mean, low, high]."""
    if isinstance(value, list):
        return f"{shown(value[0])} [{', '.join(shown(part) for part in value[1:])}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
