"""Measure protocol suggestion with an author left out, beside floors that need no thought."""
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from data.book import Book, read_book
from data.orders import Labelled, read_authored
from nlp.ranking_metrics import acceptable_at, figures_of, interval
from nlp.retrieval import Retrieval
from nlp.suggest import Suggester
from nlp.train_protocol import STEPS, base_encoder, fit, read_labelled, table_of


def main(out: Path | None = None, data: list[Path] | None = None, device: str = "cpu", report: Callable[..., None] = lambda *a, **k: None,
         epochs: int = STEPS, seed: int = 0, authors: str | None = None, base: str | None = None) -> dict[str, Any]:
    """Train without each author in turn and measure on that author's orders; nothing of the author left out is used to fit or calibrate."""
    rows, book = read_labelled(data) if data else read_authored(), read_book()
    torch.manual_seed(seed)
    table = table_of(rows, book, encoder := base_encoder(base, device))
    names = authors or "".join(sorted({row.author for row in rows}))
    measured, floors, tests, found, by_book = {}, {}, [], [], []
    for step, author in enumerate(names, 1):
        inside = np.flatnonzero(np.array([row.author != author for row in rows]))
        learn, test = [rows[i] for i in inside], [row for row in rows if row.author == author]
        suggested = Suggester(book, fit(table, inside, encoder, epochs)).suggest_many([row.order for row in test])
        measured[author], floors[author] = figures_of(test, suggested), floors_of(learn, test, book)
        tests += test
        found += suggested
        by_book += retrieved(test, book)
        report(step, len(names), without=author, **{"acceptable@1": measured[author]["acceptable@1"][0]})
    keys = ("acceptable@1", "acceptable@3", "acceptable@5", "contrast")
    ours = acceptable_at(tests, [[r.protocol for r in s.ranked] for s in found], 1).astype(float)
    figures = {"left_out": measured, "floors": floors,
               "mean": {key: round(float(np.mean([m[key][0] for m in measured.values()])), 4) for key in keys},
               "gain over TF-IDF retrieval, acceptable@1": paired(ours - acceptable_at(tests, by_book, 1).astype(float)),
               "command": f"wetread evaluate protocol --authors {names}"}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        plots(tests, found, out)
        (out / "card.md").write_text(card(figures, measured, floors))
    return figures


def paired(difference: NDArray[np.float64]) -> list[float]:
    """Mean difference order by order, and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(2000)]
    return [round(float(x), 4) for x in (difference.mean(), *np.quantile(draws, (0.025, 0.975)))]


def retrieved(test: list[Labelled], book: Book) -> list[list[str]]:
    retrieval = Retrieval(book)
    names = np.array(retrieval.protocols)
    return [list(names[np.argsort(-row, kind="stable")[:3]]) for row in retrieval.scores([row.order for row in test])]


def card(figures: dict[str, Any], measured: dict[str, Any], floors: dict[str, Any]) -> str:
    """The figures as a page, beside the command that made them."""
    lines = ["# Protocol suggestion", "", f"`{figures['command']}`: each author's orders measured by a model that saw none of them.", "",
             "Authored orders, no real patients; no radiologist has checked the labels.", "",
             "| author left out | method | acceptable@1 | @3 |", "|---|---|---|---|"]
    for author, row in measured.items():
        lines.append(f"| {author} | Wetread | {row['acceptable@1']} | {row['acceptable@3'][0]} |")
        lines += [f"| {author} | {name} | {f['acceptable@1']} | {f['acceptable@3']} |" for name, f in floors[author].items()]
    gain = figures["gain over TF-IDF retrieval, acceptable@1"]
    lines += ["", f"Mean acceptable@1 {figures['mean']['acceptable@1']}, @3 {figures['mean']['acceptable@3']}; "
              f"gain over TF-IDF retrieval at @1 {gain[0]}, 95 % interval {gain[1]} to {gain[2]} (paired bootstrap).", "",
              "![reliability and risk](reliability.png)", ""]
    return "\n".join(lines)


def floors_of(learn: list[Labelled], test: list[Labelled], book: Book) -> dict[str, Any]:
    """acceptable@1 (with interval) and @3 of methods that need no thought."""
    orders = [row.order for row in test]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    text = [f"{row.order.ordered_exam} {row.order.text}" for row in learn]
    regression = LogisticRegression(C=20, max_iter=300).fit(words.fit_transform(text), [row.expected for row in learn])
    guess = regression.predict_proba(words.transform([f"{o.ordered_exam} {o.text}" for o in orders]))
    clicks = [replace(row, order=type(row.order)(text=row.order.ordered_exam)) for row in test]
    ranked = {
        "always CT_HEAD_WO": [["CT_HEAD_WO"]] * len(test),
        "the clicked exam alone (TF-IDF over the book)": retrieved(clicks, book),
        "TF-IDF retrieval over the book": retrieved(test, book),
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
