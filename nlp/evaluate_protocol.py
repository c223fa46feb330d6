"""Measure protocol suggestion: each hand's orders answered by models that never learnt from that hand, beside methods that need no thought."""
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from data.bars import Bar, bars_of
from data.book import Book, read_book
from data.errors import InputError
from data.model_files import MODELS
from data.orders import Labelled, read_authored
from data.records import Order, Suggestion
from nlp.calibrate import fit, urgent_rates
from nlp.classifier import TOKENS_MAX, Classifier, Models, Reader, Said, Told, sentence_of
from nlp.ranking_metrics import acceptable_at, figures_of, hazard_figures, interval
from nlp.retrieval import Retrieval
from nlp.suggest import Suggester, dispose
from nlp.train_protocol import Places, apart, hands_of, held_out, learn_words, protocols_of, read_labelled

SETTINGS_MIN = 40       # orders of a setting below which its row says nothing
NEW = 10                # protocols left out of training
SHOWN = 12              # confusions in the card
TIMED = 200             # orders
WORDS = re.compile(r"\w+")


def main(out: Path | None = None, data: list[Path] | None = None, device: str = "cpu", report: Callable[..., None] = lambda *a, **k: None,
         authors: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Measure the shipped model; a quarter of an hour on two cores.

    Linear model and neighbours are made again without each hand (and without texts near to its own); the encoder as it is shipped never saw any
    hand. Ranker, calibration and thresholds for a hand come from the other hands' orders. `authors`: the hands to measure, default all.
    With `data`, the shipped model as it is, on your own labelled orders.
    """
    book, shipped = read_book(), Classifier.load(MODELS / "protocol", device)
    if data:
        rows = held = read_labelled(data)
        answers = Suggester(book, shipped).suggest_many([row.order for row in held])
        learn: list[Labelled] = []
        extra: dict[str, Any] = {}
    else:
        rows = read_authored()
        hands = hands_of(rows)
        places, protocols, reader = Places(rows), protocols_of(rows), shipped.models.reader
        mine = [i for i, hand in enumerate(hands) if hand]
        said = held_out(rows, hands, places, protocols, reader, report)
        everyone = [rows[i] for i in mine]
        measured = np.array([row.author in (authors or row.author) for row in everyone])
        if not measured.any():
            raise InputError(f"--authors is '{authors}', expected letters of {''.join(sorted({row.author for row in everyone}))}")
        answers = answered(everyone, said, measured, protocols, urgent_rates(rows, protocols), book, shipped.version)
        held = [row for row, one in zip(everyone, measured, strict=True) if one]
        learn = [row for row, hand in zip(rows, hands, strict=True) if not hand]
        extra = {"protocols left out of training": new_protocols(rows, mine, places, reader, book, seed),
                 "near duplicates kept out of training": duplicates(rows, hands, places)}
    ours = acceptable_at(held, [[r.protocol for r in s.ranked] for s in answers], 1).astype(float)
    figures = {"model": shipped.version, "authors": authors_of(held), "figures": figures_of(held, answers) | given_the_protocol(held, answers, book),
               "by author": {name: few(held, answers, [row.author == name for row in held]) for name in authors_of(held)},
               "by click": {name: few(held, answers, [(row.flags is not None and "ordered_exam_mismatch" in row.flags) == wrong for row in held])
                            for name, wrong in (("right", False), ("wrong", True))},
               "by setting": {name: few(held, answers, [row.order.setting == name for row in held])
                              for name in sorted({row.order.setting for row in held})
                              if sum(row.order.setting == name for row in held) >= SETTINGS_MIN},
               "floors": floors_of(learn, held, book, report),
               "gain over TF-IDF retrieval, acceptable@1": paired(ours - acceptable_at(held, retrieved(held, book), 1).astype(float)),
               "confusions": confusions(held, answers), **extra,
               "evidence": faithfulness(Suggester(book, shipped), held[:: max(1, len(held) // TIMED)], seed),
               "speed": speed(Suggester(book, shipped), [row.order for row in held][:: max(1, len(held) // TIMED)]),
               "command": "wetread evaluate protocol" + (f" --authors {authors}" if authors else "")}
    figures["bars"] = [row for row in bars_of(figures, BARS) if row["measured"] is not None]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        plots(held, answers, out)
        (out / "card.md").write_text(card(figures))
    return figures


def authors_of(rows: Sequence[Labelled]) -> str:
    return "".join(sorted({row.author for row in rows}))


def answered(rows: list[Labelled], said: Said, measured: NDArray[np.bool_], protocols: tuple[str, ...], rates: list[float], book: Book,
             version: str) -> list[Suggestion]:
    """Suggestions for the measured rows; ranker, calibration and thresholds of each author from all the others."""
    authors = np.array([row.author for row in rows])
    like = Classifier.load(MODELS / "protocol").models      # its words show the evidence
    found: dict[int, Suggestion] = {}
    for author in sorted(set(authors[measured])):
        inside, outside = np.flatnonzero(authors != author), np.flatnonzero(authors == author)
        if not len(inside):
            inside = outside[::2]
            outside = outside[1::2]
        fitted = fit([rows[i] for i in inside], said.take(inside), protocols, rates, book)
        told = Told(said.take(outside), protocols, like.linear, like.neighbours)
        suggester = Suggester(book, Classifier(told, *fitted, version))
        found |= dict(zip(outside, suggester.suggest_many([rows[i].order for i in outside]), strict=True))
    return [found[i] for i in np.flatnonzero(measured)]


def new_protocols(rows: list[Labelled], mine: list[int], places: Places, reader: Reader, book: Book, seed: int) -> dict[str, Any]:
    """acceptable@k of orders whose protocol no model has heard of.

    Ten protocols, and all orders that expect or accept them, are left out of linear model, neighbours and ranker, which learn from the authors
    that are no hands; the encoder, which saw them, is set aside.
    """
    rng = np.random.default_rng(seed)
    wanted = Counter(rows[i].expected for i in mine)
    new = set(rng.choice(sorted(name for name, count in wanted.items() if count >= 10), NEW, replace=False).tolist())
    mine_set = set(mine)
    old = [i for i in range(len(rows)) if i not in mine_set and not new & {rows[i].expected, *rows[i].acceptable}]
    protocols = protocols_of([rows[i] for i in old])
    linear, neighbours, _ = learn_words(rows, old, places, protocols)
    models = Models(Silent(len(protocols)), linear, neighbours, protocols)     # type: ignore[arg-type]    # as a Reader is called
    fitting = [i for i in mine if not new & {rows[i].expected, *rows[i].acceptable}]
    asking = [i for i in mine if rows[i].expected in new]
    smaller = replace(book, protocols={name: p for name, p in book.protocols.items() if name not in new}, version="without ten")
    fitted = fit([rows[i] for i in fitting], models([rows[i].order for i in fitting], [places.seen[i] for i in fitting]), protocols,
                 urgent_rates([rows[i] for i in old], protocols), smaller)
    found = Suggester(book, Classifier(models, *fitted, "")).suggest_many([rows[i].order for i in asking])
    test, ranked = [rows[i] for i in asking], [[r.protocol for r in s.ranked] for s in found]
    only = [Labelled(row.order, row.author, row.expected, (row.expected,), row.contrast, row.flags, row.urgent) for row in test]
    return {"protocols": sorted(new), "orders": len(test), **{f"acceptable@{k}": interval(acceptable_at(test, ranked, k)) for k in (1, 3)},
            "the new one itself @3": interval(acceptable_at(only, ranked, 3)),
            "TF-IDF retrieval @3": interval(acceptable_at(test, retrieved(test, book), 3))}


class Silent:
    """An encoder that says nothing."""

    def __init__(self, protocols: int) -> None:
        self.width = protocols + 4

    def __call__(self, orders: list[Order]) -> NDArray[np.float32]:
        return np.zeros((len(orders), self.width), np.float32)


def duplicates(rows: list[Labelled], hands: list[str], places: Places) -> int:
    """Orders that a hand's models did not learn from, because their text is nearly one of that hand's."""
    found = 0
    for hand in sorted(set(hands) - {""}):
        some = [i for i, one in enumerate(hands) if one != hand]
        found += len(some) - len(apart(rows, places, some, [i for i, one in enumerate(hands) if one == hand]))
    return found


def given_the_protocol(rows: list[Labelled], found: list[Suggestion], book: Book) -> dict[str, Any]:
    """Hazards when the expected protocol is the one that leads; and the share of orders that rules would let pass were the protocol certain."""
    from nlp.safety import check

    known = [replace(s, flags=check(row.order, book.protocols[row.expected])) for row, s in zip(rows, found, strict=True)]
    return {"hazards, expected protocol given": hazard_figures(rows, known),
            "may go without a person, were the protocol certain": round(float(np.mean(
                [dispose(s.flags, row.order, True)[0] == "auto" for row, s in zip(rows, found, strict=True)])), 4)}


def faithfulness(suggester: Suggester, rows: list[Labelled], seed: int) -> dict[str, float]:
    """How far the leading protocol's log odds fall when the words given as evidence are cut out, and when as many others are (mean over orders)."""
    rng = np.random.default_rng(seed)
    changed: list[tuple[Order, Order, Order]] = []
    names = []
    for row in rows:
        order = row.order
        name = suggester.suggest(order).ranked[0].protocol
        spans = suggester.classifier.words_for(order, name)
        words = [(m.start(), m.end()) for m in WORDS.finditer(order.text)]
        others = [w for w in words if not any(w[0] < end and start < w[1] for start, end in spans)]
        if spans and len(others) >= len(spans):
            some = [others[i] for i in rng.choice(len(others), len(spans), replace=False)]
            changed.append((order, replace(order, text=without(order.text, spans)), replace(order, text=without(order.text, some))))
            names.append(name)
    flat = suggester.classifier.predict([order for three in changed for order in three], suggester.book).probability
    at = [suggester.protocols.index(name) for name in names for _ in range(3)]
    p = flat[np.arange(len(flat)), at].clip(1e-4, 1 - 1e-4)
    odds = np.log(p / (1 - p)).reshape(-1, 3)
    return {"orders": len(odds), "evidence cut out": round(float((odds[:, 0] - odds[:, 1]).mean()), 3),
            "random words cut out": round(float((odds[:, 0] - odds[:, 2]).mean()), 3),
            "evidence changes more": round(float((odds[:, 1] < odds[:, 2]).mean()), 3)}


def without(text: str, spans: list[tuple[int, int]]) -> str:
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    return text


def speed(suggester: Suggester, orders: list[Order]) -> dict[str, float]:
    """Milliseconds of one suggestion with everything, orders a second in bulk beside a transformers pipeline of the encoder's shape, memory."""
    for order in orders[:10]:
        suggester.suggest(order)
    taken = []
    for order in orders:
        start = time.perf_counter()
        suggester.suggest(order)
        taken.append(time.perf_counter() - start)
    many = orders * 3
    start = time.perf_counter()
    suggester.suggest_many(many)
    bulk = len(many) / (time.perf_counter() - start)
    pipe = pipeline_like(suggester.classifier)
    texts = [sentence_of(order) for order in many]
    start = time.perf_counter()
    pipe(texts)
    return {"p50_ms": round(float(np.median(taken)) * 1e3, 1), "p99_ms": round(float(np.quantile(taken, 0.99)) * 1e3, 1),
            "bulk orders a second": round(bulk, 1), "bulk, times a transformers pipeline": round(bulk / len(many) * (time.perf_counter() - start), 2),
            "memory_mb": memory_mb()}


def pipeline_like(classifier: Classifier) -> Any:
    """A transformers text classification pipeline of a BERT with the encoder's shape; what its weights say does not matter to the clock."""
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, pipeline

    shape = json.loads((MODELS / "protocol" / "config.json").read_text())["encoder"]
    model = BertForSequenceClassification(BertConfig(**shape, num_labels=len(classifier.protocols))).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(MODELS / "protocol" / "tokenizer.json"), pad_token="[PAD]", model_max_length=TOKENS_MAX)
    return pipeline("text-classification", model=model, tokenizer=tokenizer, truncation=True, top_k=3, device="cpu")


def memory_mb() -> int:
    """Largest resident memory of a process that does nothing but suggest protocols."""
    code = ("from nlp.suggest import Suggester; from data.records import Order; "
            "Suggester.load().suggest(Order(text='headache, worst of life, since 2 hours')); "
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    return round(int(done.stdout) / 1024)


def confusions(rows: list[Labelled], found: list[Suggestion]) -> list[list[Any]]:
    """[expected, suggested, orders] of the most frequent mistakes."""
    wrong = Counter((row.expected, s.ranked[0].protocol) for row, s in zip(rows, found, strict=True)
                    if s.ranked[0].protocol not in {row.expected, *row.acceptable})
    return [[*pair, count] for pair, count in wrong.most_common(SHOWN)]


def few(rows: list[Labelled], found: list[Suggestion], mask: list[bool]) -> dict[str, Any]:
    some = [i for i, inside in enumerate(mask) if inside]
    if not some:
        return {"orders": 0}
    part, ranked = [rows[i] for i in some], [[r.protocol for r in found[i].ranked] for i in some]
    return {"orders": len(some), **{f"acceptable@{k}": round(float(acceptable_at(part, ranked, k).mean()), 4) for k in (1, 3)},
            "contrast": round(float(np.mean([rows[i].contrast == found[i].contrast for i in some])), 4), **more(part, [found[i] for i in some])}


def more(rows: list[Labelled], found: list[Suggestion]) -> dict[str, Any]:
    """Automation, urgency and hazards of some orders."""
    urgent, said = np.array([row.urgent for row in rows]), np.array([s.urgent for s in found])
    auto, right = np.array([s.disposition == "auto" for s in found]), acceptable_at(rows, [[r.protocol for r in s.ranked] for s in found], 1)
    hazards = hazard_figures(rows, found)
    return {"automatic": round(float(auto.mean()), 4), "of these acceptable": round(float(right[auto].mean()), 4) if auto.any() else None,
            "urgent recall": round(float(said[urgent].mean()), 4) if urgent.any() else None,
            "urgent precision": round(float(urgent[said].mean()), 4) if said.any() else None,
            "hazard recall": hazards["recall"], "orders with a false alarm": hazards["orders_with_a_false_alarm"]}


def paired(difference: NDArray[np.float64]) -> list[float]:
    """Mean difference order by order, and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(2000)]
    return [round(float(x), 4) for x in (difference.mean(), *np.quantile(draws, (0.025, 0.975)))]


def retrieved(test: list[Labelled], book: Book) -> list[list[str]]:
    retrieval = Retrieval(book)
    names = np.array(retrieval.protocols)
    return [list(names[np.argsort(-row, kind="stable")[:3]]) for row in retrieval.scores([row.order for row in test])]


# ---------------------------------------------------------------- what is shown

# name, where it stands in the figures, bar, whether more is better
BARS: tuple[Bar, ...] = (
    ("acceptable@1", ("figures", "acceptable@1"), 0.85, True),
    ("acceptable@3", ("figures", "acceptable@3"), 0.95, True),
    ("contrast right", ("figures", "contrast"), 0.92, True),
    ("assigned automatically", ("figures", "automatic"), 0.60, True),
    ("acceptable among these", ("figures", "automatic_acceptable"), 0.97, True),
    ("urgent recall", ("figures", "urgent_recall"), 0.95, True),
    ("urgent precision", ("figures", "urgent_precision"), 0.75, True),
    ("hazard flags: recall", ("figures", "hazards", "recall"), 0.98, True),
    ("hazard flags: orders with a false alarm", ("figures", "hazards", "orders_with_a_false_alarm"), 0.05, False),
    ("protocols left out of training: acceptable@3", ("protocols left out of training", "acceptable@3"), 0.75, True),
    ("conformal set: coverage", ("figures", "set_coverage"), 0.95, True),
    ("conformal set: mean size", ("figures", "set_mean_size"), 3.0, False),
    ("ECE", ("figures", "ece"), 0.05, False),
    ("one suggestion with everything, p50 ms", ("speed", "p50_ms"), 25, False),
    ("one suggestion with everything, p99 ms", ("speed", "p99_ms"), 80, False),
    ("bulk, orders a second", ("speed", "bulk orders a second"), 150, True),
    ("bulk, times a transformers pipeline", ("speed", "bulk, times a transformers pipeline"), 2, True),
    ("memory of the text path, MB", ("speed", "memory_mb"), 600, False),
)


def card(figures: dict[str, Any]) -> str:
    """The figures as a page, beside the command that made them."""
    f = figures["figures"]
    lines = ["# Protocol suggestion", "",
             f"`{figures['command']}`: {f['orders']} authored orders of author(s) {', '.join(figures['authors'])}, each answered by models that "
             "never learnt from its author. No real patients; no radiologist has checked the labels.", "",
             "| figure | measured | bar | reached? |", "|---|---|---|---|"]
    lines += [f"| {row['figure']} | {shown(row['measured'])} | {row['direction']} {row['bar']} | {'reached' if row['reached'] else 'not reached'} |"
              for row in figures["bars"]]
    lines += ["", "| method | acceptable@1 | acceptable@3 |", "|---|---|---|", f"| Wetread | {shown(f['acceptable@1'])} | {f['acceptable@3'][0]} |"]
    lines += [f"| {name} | {shown(row['acceptable@1'])} | {row['acceptable@3']} |" for name, row in figures["floors"].items()]
    gain = figures["gain over TF-IDF retrieval, acceptable@1"]
    lines += ["", f"Gain over TF-IDF retrieval at @1: {gain[0]}, 95 % interval {gain[1]} to {gain[2]} (paired bootstrap). "
              f"acceptable@5 {f['acceptable@5'][0]}, macro-F1 {f['macro_f1']}, coverage at 97 % acceptable, rules aside, {f['automatic_at_97']}; "
              f"rules would let {f['may go without a person, were the protocol certain']} of the orders pass."]
    given = f["hazards, expected protocol given"]
    lines += [f"Hazard flags with the expected protocol given: recall {given['recall']}, orders with a false alarm "
              f"{given['orders_with_a_false_alarm']}."]
    if "protocols left out of training" in figures:
        new = figures["protocols left out of training"]
        lines += [f"Left out of training: {', '.join(new['protocols'])} ({new['orders']} orders): acceptable@1 {shown(new['acceptable@1'])}, @3 "
                  f"{shown(new['acceptable@3'])}, the new one itself @3 {shown(new['the new one itself @3'])}; TF-IDF retrieval @3 "
                  f"{shown(new['TF-IDF retrieval @3'])}.",
                  f"Near duplicates kept out of training: {figures['near duplicates kept out of training']}."]
    words, pace = figures["evidence"], figures["speed"]
    lines += [f"Evidence: cutting the words shown lowers the log odds by {words['evidence cut out']}, as many random words by "
              f"{words['random words cut out']} ({words['orders']} orders; the words shown weigh more in {words['evidence changes more']}).",
              f"Speed: p50 {pace['p50_ms']} ms, p99 {pace['p99_ms']} ms, {pace['bulk orders a second']} orders a second in bulk.", ""]
    for kind in ("by author", "by click", "by setting"):
        parts = {name: row for name, row in figures[kind].items() if row["orders"]}
        if parts:
            names = list(next(iter(parts.values())))
            lines += [f"| {kind.removeprefix('by ')} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            lines += [f"| {name} | {' | '.join(str(value) for value in row.values())} |" for name, row in parts.items()] + [""]
    lines += ["| flag | orders | precision | recall |", "|---|---|---|---|"]
    lines += [f"| {code} | {row['orders']} | {row['precision']} | {row['recall']} |" for code, row in f["flags"].items()]
    lines += ["", "| expected | suggested | orders |", "|---|---|---|"]
    lines += [f"| {expected} | {suggested} | {count} |" for expected, suggested, count in figures["confusions"]]
    return "\n".join([*lines, "", "![reliability and risk](reliability.png)", ""])


def shown(value: Any) -> str:
    return f"{value[0]} [{value[1]}, {value[2]}]" if isinstance(value, list) else str(value)


# ---------------------------------------------------------------- floors

def floors_of(learn: list[Labelled], test: list[Labelled], book: Book, report: Callable[..., None] = lambda *a, **k: None) -> dict[str, Any]:
    """acceptable@1 (with interval) and @3 of methods that need no thought."""
    clicks = [replace(row, order=Order(text=row.order.ordered_exam)) for row in test]
    ranked = {
        "always CT_HEAD_WO": [["CT_HEAD_WO"]] * len(test),
        "the clicked exam alone (TF-IDF over the book)": retrieved(clicks, book),
        "TF-IDF retrieval over the book": retrieved(test, book),
    }
    if learn:
        ranked["TF-IDF + logistic regression"] = regression(learn, [row.order for row in test])
        ranked["spaCy textcat (bag of words)"] = textcat(learn, [row.order for row in test], report)
    return {name: {"acceptable@1": interval(acceptable_at(test, r, 1)), "acceptable@3": round(float(acceptable_at(test, r, 3).mean()), 4)}
            for name, r in ranked.items()}


def regression(learn: list[Labelled], orders: list[Order]) -> list[list[str]]:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    model = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=20, random_state=0)
    model.fit(words.fit_transform([f"{row.order.ordered_exam} {row.order.text}" for row in learn]), [row.expected for row in learn])
    scores = model.decision_function(words.transform([f"{order.ordered_exam} {order.text}" for order in orders]))
    return [list(model.classes_[np.argsort(-row)[:3]]) for row in scores]


def textcat(learn: list[Labelled], orders: list[Order], report: Callable[..., None], rounds: int = 6) -> list[list[str]]:
    """spaCy's own text classifier."""
    import spacy
    from spacy.training import Example
    from spacy.util import fix_random_seed, minibatch

    fix_random_seed(0)
    pipe = spacy.blank("en")
    judge = pipe.add_pipe("textcat", config={"model": {"@architectures": "spacy.TextCatBOW.v3", "exclusive_classes": True, "ngram_size": 2,
                                                       "no_output_layer": False, "length": 262144}})
    names = sorted({row.expected for row in learn})
    examples = [Example.from_dict(pipe.make_doc(f"{row.order.ordered_exam} {row.order.text}"),
                                  {"cats": {name: float(name == row.expected) for name in names}}) for row in learn]
    pipe.initialize(lambda: examples)
    optimiser = pipe.create_optimizer()
    optimiser.learn_rate = 0.01
    rng = np.random.default_rng(0)
    for one in range(rounds):
        for batch in minibatch([examples[i] for i in rng.permutation(len(examples))], 64):
            pipe.update(batch, sgd=optimiser)
        report(one + 1, rounds, stage="spaCy textcat")
    docs = [pipe.make_doc(f"{order.ordered_exam} {order.text}") for order in orders]
    scores = judge.predict(docs)
    return [[judge.labels[i] for i in np.argsort(-row)[:3]] for row in np.asarray(scores)]


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
