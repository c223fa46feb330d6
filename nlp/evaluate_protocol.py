"""Measure protocol suggestion on authors that the models never saw, beside floors that need no thought."""
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from data.book import Book, read_book
from data.model_files import MODELS
from data.orders import Labelled, read_authored
from data.records import Order, Suggestion
from nlp.classifier import Classifier
from nlp.ranking_metrics import acceptable_at, figures_of, interval
from nlp.retrieval import Retrieval
from nlp.suggest import Suggester
from nlp.train_protocol import EPOCHS, HELD_OUT, authors_of, fit, learn_models, read_labelled, split, urgent_rates

SETTINGS_MIN = 20       # orders of a setting below which its row says nothing


def main(out: Path | None = None, data: list[Path] | None = None, device: str = "cpu", report: Callable[..., None] = lambda *a, **k: None,
         epochs: int = EPOCHS, seed: int = 0, authors: str | None = None, base: str | None = None) -> dict[str, Any]:
    """Measure the shipped model on the authors it never saw; with `authors`, train another without these first (an hour on two cores).

    Ranker, calibration and thresholds come, for each held-out author, from the other held-out ones alone (for a single one,
    for each half of the orders from the other half), so that no order is measured by what was fitted on it.
    """
    rows, book = read_labelled(data) if data else read_authored(), read_book()
    if authors:
        learn, held = split(rows, authors)
        models, version = learn_models(learn, base, epochs, seed, device, Path(out or "."), False, report)[0], "trained for this"
    else:
        shipped = Classifier.load(MODELS / "protocol", device)
        models, version = shipped.models, shipped.version
        learn, held = ([], rows) if data else split(rows, HELD_OUT)
    rates = urgent_rates(learn, models.protocols) if learn else shipped.calibration["urgent_rates"]
    said, folds = models([row.order for row in held]), folds_of(held)
    found: list[Suggestion | None] = [None] * len(held)
    for fold in sorted(set(folds)):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        classifier = Classifier(models, *fit([held[i] for i in inside], said.take(inside), models.protocols, rates, book), version)
        for i, suggestion in zip(outside, Suggester(book, classifier).suggest_many([held[i].order for i in outside]), strict=True):
            found[i] = suggestion
    answers = [suggestion for suggestion in found if suggestion is not None]
    by_book = retrieved(held, book)
    ours = acceptable_at(held, [[r.protocol for r in s.ranked] for s in answers], 1).astype(float)
    figures = {"model": version, "authors held out": authors_of(held), "figures": figures_of(held, answers),
               "by author": {name: few(held, answers, [row.author == name for row in held]) for name in authors_of(held)},
               "by click": {name: few(held, answers, [(row.flags is not None and "ordered_exam_mismatch" in row.flags) == wrong for row in held])
                            for name, wrong in (("right", False), ("wrong", True))},
               "by setting": {name: few(held, answers, [row.order.setting == name for row in held])
                              for name in sorted({row.order.setting for row in held})
                              if sum(row.order.setting == name for row in held) >= SETTINGS_MIN},
               "floors": floors_of(learn, held, book),
               "gain over TF-IDF retrieval, acceptable@1": paired(ours - acceptable_at(held, by_book, 1).astype(float)),
               "command": "wetread evaluate protocol" + (f" --authors {authors}" if authors else "")}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        plots(held, answers, out)
        (out / "card.md").write_text(card(figures))
    return figures


def folds_of(rows: list[Labelled]) -> NDArray[Any]:
    authors = np.array([row.author for row in rows])
    return authors if len(set(authors)) > 1 else np.arange(len(rows)) % 2


def few(rows: list[Labelled], found: list[Suggestion], mask: list[bool]) -> dict[str, Any]:
    some = [i for i, inside in enumerate(mask) if inside]
    if not some:
        return {"orders": 0}
    part, ranked = [rows[i] for i in some], [[r.protocol for r in found[i].ranked] for i in some]
    return {"orders": len(some), **{f"acceptable@{k}": round(float(acceptable_at(part, ranked, k).mean()), 4) for k in (1, 3)},
            "contrast": round(float(np.mean([rows[i].contrast == found[i].contrast for i in some])), 4)}


def paired(difference: NDArray[np.float64]) -> list[float]:
    """Mean difference order by order, and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(2000)]
    return [round(float(x), 4) for x in (difference.mean(), *np.quantile(draws, (0.025, 0.975)))]


def retrieved(test: list[Labelled], book: Book) -> list[list[str]]:
    retrieval = Retrieval(book)
    names = np.array(retrieval.protocols)
    return [list(names[np.argsort(-row, kind="stable")[:3]]) for row in retrieval.scores([row.order for row in test])]


BARS = {"acceptable@1": 0.85, "acceptable@3": 0.95, "contrast": 0.92, "automatic": 0.60, "automatic_acceptable": 0.97, "urgent_recall": 0.95,
        "urgent_precision": 0.75, "set_coverage": 0.95, "set_mean_size": 3.0, "ece": 0.05}


def card(figures: dict[str, Any]) -> str:
    """The figures as a page, beside the command that made them."""
    f = figures["figures"]
    lines = ["# Protocol suggestion", "",
             f"`{figures['command']}`: {f['orders']} authored orders of author(s) {', '.join(figures['authors held out'])}, whom no learned model "
             "saw; ranker and thresholds for each half from the other. No real patients; no radiologist has checked the labels.", "",
             "| figure | measured | bar |", "|---|---|---|"]
    for name, bar in BARS.items():
        value = f[name]
        shown = f"{value[0]} [{value[1]}, {value[2]}]" if isinstance(value, list) else value
        lines.append(f"| {name.replace('_', ' ')} | {shown} | {bar} |")
    lines += [f"| hazard flags: recall | {f['hazards']['recall']} | 0.98 |",
              f"| hazard flags: orders with a false alarm | {f['hazards']['orders_with_a_false_alarm']} | 0.05 |", "",
              "| method | acceptable@1 | acceptable@3 |", "|---|---|---|",
              f"| Wetread | {f['acceptable@1']} | {f['acceptable@3'][0]} |"]
    lines += [f"| {name} | {row['acceptable@1']} | {row['acceptable@3']} |" for name, row in figures["floors"].items()]
    gain = figures["gain over TF-IDF retrieval, acceptable@1"]
    lines += ["", f"Gain over TF-IDF retrieval at @1: {gain[0]}, 95 % interval {gain[1]} to {gain[2]} (paired bootstrap).", "",
              "| part | orders | acceptable@1 | acceptable@3 | contrast |", "|---|---|---|---|---|"]
    for kind in ("by author", "by click", "by setting"):
        lines += [f"| {kind.removeprefix('by ')} {name} | {' | '.join(str(value) for value in row.values())} |"
                  for name, row in figures[kind].items() if row["orders"]]
    lines += ["", "| flag | orders | precision | recall |", "|---|---|---|---|"]
    lines += [f"| {code} | {row['orders']} | {row['precision']} | {row['recall']} |" for code, row in f["flags"].items()]
    return "\n".join([*lines, "", "![reliability and risk](reliability.png)", ""])


def floors_of(learn: list[Labelled], test: list[Labelled], book: Book) -> dict[str, Any]:
    """acceptable@1 (with interval) and @3 of methods that need no thought."""
    clicks = [replace(row, order=type(row.order)(text=row.order.ordered_exam)) for row in test]
    ranked = {
        "always CT_HEAD_WO": [["CT_HEAD_WO"]] * len(test),
        "the clicked exam alone (TF-IDF over the book)": retrieved(clicks, book),
        "TF-IDF retrieval over the book": retrieved(test, book),
    }
    if learn:
        ranked["TF-IDF + logistic regression"] = regression(learn, [row.order for row in test])
    return {name: {"acceptable@1": interval(acceptable_at(test, r, 1)), "acceptable@3": round(float(acceptable_at(test, r, 3).mean()), 4)}
            for name, r in ranked.items()}


def regression(learn: list[Labelled], orders: list[Order]) -> list[list[str]]:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    model = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=20, random_state=0)
    model.fit(words.fit_transform([f"{row.order.ordered_exam} {row.order.text}" for row in learn]), [row.expected for row in learn])
    scores = model.decision_function(words.transform([f"{order.ordered_exam} {order.text}" for order in orders]))
    return [list(model.classes_[np.argsort(-row)[:3]]) for row in scores]


def plots(rows: list[Labelled], found: list[Any], folder: Path) -> None:
    """Reliability and risk-coverage, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    top = np.array([s.ranked[0].probability for s in found])
    right = acceptable_at(rows, [[r.protocol for r in s.ranked] for s in found], 1)
    folder.mkdir(parents=True, exist_ok=True)
    figure, (left, other) = plt.subplots(1, 2, figsize=(9, 4), constrained_layout=True)
    at = np.minimum((top * 10).astype(int), 9)
    used = [b for b in range(10) if (at == b).any()]
    left.plot([0, 1], [0, 1], color="0.7")
    left.plot([top[at == b].mean() for b in used], [right[at == b].mean() for b in used], "o-")
    left.set(xlabel="stated probability", ylabel="share acceptable", title="Reliability")
    by = np.argsort(-top)
    other.plot(np.arange(1, len(by) + 1) / len(by), 1 - right[by].cumsum() / np.arange(1, len(by) + 1))
    other.set(xlabel="share of orders, most certain first", ylabel="share wrong", title="Risk and coverage")
    figure.savefig(folder / "reliability.png", dpi=110)
    plt.close(figure)
