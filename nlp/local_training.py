"""Train a candidate from the shipped model and a department's own labelled orders: its habits outweigh the authors', its encoder stays."""
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from data.book import read_book
from data.errors import InputError
from data.model_files import load_model
from data.orders import Labelled, read_authored
from data.records import Suggestion
from nlp.calibrate import fit, urgent_rates
from nlp.classifier import Classifier, Models, Reader, Said, Told
from nlp.ranking_metrics import figures_of
from nlp.suggest import Suggester
from nlp.train_protocol import Places, assembled, learn_words, protocols_of, publish

LOCAL = "local"         # their author
WEIGHT = 3              # of a local order against an authored one
CALIBRATE_MIN = 200     # local orders from which the thresholds are fitted on them, too; the ranker's ten weights need more and stay
COMPARED = ("acceptable@1", "acceptable@3", "contrast", "automatic", "automatic_acceptable", "set_coverage", "set_mean_size", "ece")


def train_local(orders: list[Labelled], shipped: Path, out: Path, report: Callable[..., None] = lambda *a, **k: None) -> dict[str, Any]:
    """Write a model folder; {"orders", "held_out", "current": figures, "candidate": figures} over all local orders.

    Each half of the local orders is answered by a model that learnt from the authored ones and the other half, so the comparison is over all of
    them and on none that was learnt; what is kept learns from all. Raises InputError for fewer than ten orders.
    """
    if len(orders) < 10:
        raise InputError(f"{len(orders)} labelled orders are given, at least 10 are needed; decide more orders, or give more rows")
    book, current = read_book(), Classifier.load(shipped)
    local = [replace(row, author=LOCAL) for row in orders]
    texts = {" ".join(row.order.text.lower().split()) for row in local}
    rows = local + [row for row in read_authored() if " ".join(row.order.text.lower().split()) not in texts]
    n, places = len(local), Places(rows)
    protocols = tuple(sorted({*protocols_of(rows), *current.protocols}))
    halves = np.random.default_rng(0).permutation(n) % 2
    others = list(range(n, len(rows)))
    config, stored = load_model(shipped)
    stored |= wider_head(stored, current.protocols, protocols)
    reader = Reader.read(config["encoder"], stored, Tokenizer.from_file(str(shipped / "tokenizer.json")), len(protocols))
    parts = []
    for half in (0, 1):
        test, teach = np.flatnonzero(halves == half), np.flatnonzero(halves != half)
        models = Models(reader, *learn_words(rows, weighted(teach, others), places, protocols)[:2], protocols)
        said = models([rows[i].order for i in test], [places.seen[i] for i in test])
        parts.append((test, Told(said, protocols, models.linear, models.neighbours)))
        report(half + 1, 3, stage="half of the local orders held out")
    rates = urgent_rates(rows, protocols)
    as_shipped = current.ranker, current.calibration | {"urgent_rates": rates}
    answers: dict[int, Suggestion] = {}
    for (test, told), (other, told_other) in (parts, parts[::-1]):
        fitted = fit([rows[i] for i in other], told_other.said, protocols, rates, book, current.ranker) if n >= CALIBRATE_MIN else as_shipped
        candidate = Classifier(told, *fitted, "candidate")
        answers |= zip(test.tolist(), Suggester(book, candidate).suggest_many([rows[i].order for i in test]), strict=True)
    linear, neighbours, tensors = learn_words(rows, weighted(np.arange(n), others), places, protocols)
    report(3, 3, stage="all orders")
    if n >= CALIBRATE_MIN:
        order = np.argsort(np.concatenate([test for test, _ in parts]))
        said = Said.joined([told.said for _, told in parts]).take(order)
        fitted = fit(local, said, protocols, rates, book, current.ranker)
    else:
        fitted = as_shipped
    tensors |= {name: values for name, values in stored.items() if name.startswith("net.")}
    publish(assembled(Models(reader, linear, neighbours, protocols), tensors, *fitted), tensors, config["encoder"], reader.tokenizer, out,
            {"orders": len(rows), "local orders": n, "from": current.version, "command": "wetread train protocol --from-store"})
    return {"orders": n, "held_out": n, "current": few(local, Suggester(book, current).suggest_many([row.order for row in local])),
            "candidate": few(local, [answers[i] for i in range(n)])}


def weighted(local: NDArray[np.int_], others: list[int]) -> list[int]:
    """Indices of the orders to learn from; a local one stands WEIGHT times."""
    return [int(i) for i in np.repeat(local, WEIGHT)] + others


def wider_head(stored: dict[str, NDArray[Any]], old: tuple[str, ...], new: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The encoder's head for more protocols: of one that it never learnt it says what it says of protocols on average."""
    found = {}
    for name in ("net.head.weight", "net.head.bias"):
        values = stored[name]
        mean = values[:len(old)].astype(np.float32).mean(0).astype(values.dtype)
        rows = [values[old.index(protocol)] if protocol in old else mean for protocol in new]
        found[name] = np.stack([*rows, *values[len(old):]])
    return found


def few(rows: list[Labelled], found: list[Suggestion]) -> dict[str, Any]:
    figures = figures_of(rows, found)
    return {name: figures[name] for name in COMPARED}
