"""Measure protocol suggestion with an author left out, beside floors that need no thought."""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from data.book import Book, read_book
from data.orders import Labelled, read_authored
from nlp.classifier import Classifier
from nlp.ranking_metrics import acceptable_at, figures_of, interval
from nlp.retrieval import Retrieval
from nlp.suggest import Suggester
from nlp.train_protocol import calibrate, fit, read_labelled


def main(out: Path | None = None, data: list[Path] | None = None, device: str = "cpu", report: Callable[..., None] = lambda *a, **k: None,
         epochs: int = 6, seed: int = 0, authors: str | None = None, base: str | None = None) -> dict[str, Any]:
    """Train without each author in turn and measure on that author's orders; checkpoints in `out` make it resumable."""
    rows, book = read_labelled(data) if data else read_authored(), read_book()
    folder = out or Path("evaluation-protocol")
    measured, floors = {}, {}
    for author in authors or "".join(sorted({row.author for row in rows})):
        learn, test = [r for r in rows if r.author != author], [r for r in rows if r.author == author]
        classifier = fit(learn, book=book, folder=folder / f"without_{author}", base=base, epochs=epochs, seed=seed, device=device, resume=True,
                         report=lambda step, of, author=author, **figures: report(step, of, without=author, **figures))
        measured[author] = measure(classifier, test, book, folder)
        floors[author] = floors_of(learn, test, book)
    keys = ("acceptable@1", "acceptable@3", "acceptable@5", "contrast")
    figures = {"left_out": measured, "floors": floors,
               "mean": {key: round(float(np.mean([m[key][0] for m in measured.values()])), 4) for key in keys},
               "command": f"wetread evaluate protocol --out {folder.name}"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def measure(classifier: Classifier, test: list[Labelled], book: Book, folder: Path) -> dict[str, Any]:
    """Figures on orders of an unseen author; thresholds for each half come from the other half."""
    halves = [test[0::2], test[1::2]]
    rows, found = [], []
    raw = classifier.temperature
    for own, other in (halves, halves[::-1]):
        classifier.temperature = 1.0
        calibration = calibrate(classifier, other, book)
        classifier.temperature = calibration["temperature"]
        suggester = Suggester(book, classifier, calibration["path"])
        rows += own
        found += suggester.suggest_many([row.order for row in own])
    classifier.temperature = raw
    plots(rows, found, folder)
    return figures_of(rows, found)


def floors_of(learn: list[Labelled], test: list[Labelled], book: Book) -> dict[str, Any]:
    """acceptable@1 (with interval) and @3 of methods that need no thought."""
    retrieval, orders = Retrieval(book), [row.order for row in test]
    names = np.array(retrieval.protocols)

    def by_book(scores: np.ndarray) -> list[list[str]]:
        return [list(names[np.argsort(-row, kind="stable")[:3]]) for row in scores]

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    text = [f"{row.order.ordered_exam} {row.order.text}" for row in learn]
    regression = LogisticRegression(C=20, max_iter=300).fit(words.fit_transform(text), [row.expected for row in learn])
    guess = regression.predict_proba(words.transform([f"{o.ordered_exam} {o.text}" for o in orders]))
    clicks = [type(o)(text=o.ordered_exam) for o in orders]
    ranked = {
        "always CT_HEAD_WO": [["CT_HEAD_WO"]] * len(test),
        "the clicked exam alone (TF-IDF over the book)": by_book(retrieval.scores(clicks)),
        "TF-IDF retrieval over the book": by_book(retrieval.scores(orders)),
        "TF-IDF + logistic regression": [list(regression.classes_[np.argsort(-row)[:3]]) for row in guess],
    }
    return {name: {"acceptable@1": interval(acceptable_at(test, r, 1)), "acceptable@3": round(float(acceptable_at(test, r, 3).mean()), 4)}
            for name, r in ranked.items()}


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
