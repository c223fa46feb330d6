"""Drift: words, protocols, overrides and calibration of the desk's orders week by week, each beside what chance alone would give."""
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.learning import AUTOMATION
from api.shadow import agreement
from api.store import Store
from data.book import read_book
from data.errors import InputError
from data.orders import read_authored
from nlp.normalise import read_terms
from nlp.ranking_metrics import calibration_error

WEEKS = 26
REFERENCE_WEEKS = 4
JUDGED_MIN = 20         # orders or decisions of a week below which it is not judged
CHANCE = 0.99           # a week is named when it lies beyond what chance gives in 99 of 100
DRAWS = 400
Z = 2.576               # of CHANCE, two-sided
SAID_BY = 5             # patients that must share a new word before it is shown: fewer could be a name
WORD = re.compile(r"[a-z][a-z'-]{2,}")
BINS = 10

# figure -> (what it is called, what to do when it drifts)
FIGURES = {
    "unknown_words": ("share of unknown words",
                      "Orders use words that the model has not seen. Add local shorthand to data/terms.toml, and let it learn from your decisions: "
                      "wetread train protocol --from-store."),
    "mix": ("change of the protocol mix",
            "Other protocols are wanted than in the reference weeks. Ask what changed: a new clinic, a new scanner, the season. If it stays, train a "
            "candidate on your decisions and compare."),
    "override": ("share of suggestions changed or rejected",
                 "People disagree more often. Read their reasons under Orders, Decided; stop automation (wetread automation stop) until it is "
                 "understood."),
    "ece": ("calibration error",
            "The stated probabilities no longer fit what people take; automation and the 95 % set rest on them. Stop automation, train a candidate "
            "on your decisions and compare."),
}


@dataclass
class Week:
    """What one week's orders and decisions add up to."""

    unknown: list[float] = field(default_factory=list)              # share of unknown words, an order each
    mix: Counter[str] = field(default_factory=Counter)              # protocol taken, else suggested
    automatic: int = 0
    decided: int = 0                                                # by people, on a suggestion
    overridden: int = 0
    stated: list[float] = field(default_factory=list)               # probability of the first suggestion
    right: list[bool] = field(default_factory=list)                 # whether that was taken


def monitor(store: Store, weeks: int = WEEKS, reference: str = "") -> dict[str, Any]:
    """Figures of the last `weeks` weeks beside the REFERENCE_WEEKS that begin with `reference` (2026-W31; default: the first there are).

    Raises: InputError when the reference week holds no order.
    """
    start = datetime.now(UTC) - timedelta(weeks=weeks)
    since = start.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    table, words, decided = collected(store, since)
    labels = sorted(table)
    if reference and reference not in labels:
        raise InputError(f"the reference week is '{reference[:10]}', expected one of {labels[0]} to {labels[-1]} with orders" if labels
                         else "there are no orders to take a reference week from; ask without one")
    at = labels.index(reference) if reference else 0
    chosen = labels[at:at + REFERENCE_WEEKS]
    rows = [figures_of(label, table[label], joined(table[name] for name in chosen)) for label in labels]
    alarms = [{"week": row["week"], "figure": name, "value": row[name], "limit": row[f"{name}_limit"], "words": f"{title}: {cure}"}
              for row in rows if row["week"] not in chosen for name, (title, cure) in FIGURES.items()
              if row[name] is not None and row[f"{name}_limit"] is not None and row[name] > row[f"{name}_limit"]]
    return {"weeks": rows, "reference": chosen, "alarms": alarms, "new_words": words, "shadow": agreement(store, since, decided)}


def collected(store: Store, start: str) -> tuple[dict[str, Week], list[str], dict[str, tuple[str, str]]]:
    """(weeks by label, unknown words that the orders of at least SAID_BY patients share, order -> (taken by a person, shown first))."""
    takes: dict[str, tuple[str, str]] = {}
    table: dict[str, Week] = {}
    known = known_words()
    said: dict[str, set[str]] = {}
    with store.read() as tx:
        for row in tx.since("orders", "created", start, ("id", "created", "record", "suggestion", "decision")):
            week = table.setdefault(week_of(row["created"]), Week())
            words = WORD.findall(row["record"]["text"].lower())
            strange = [word for word in words if word not in known]
            if words:
                week.unknown.append(len(strange) / len(words))
            for word in strange:
                patients = said.setdefault(word, set())
                if len(patients) < SAID_BY:
                    patients.add(row["record"]["patient"]["id"] or row["id"])
            decision, first, probability = row["decision"] or {}, *first_of(row)
            if taken := decision.get("protocol") or first:
                week.mix[taken] += 1
            if not decision:
                continue
            decided_in = table.setdefault(week_of(decision["time"]), Week())
            if decision["user"] == AUTOMATION:
                decided_in.automatic += 1
            elif first:
                decided_in.decided += 1
                decided_in.overridden += decision["protocol"] != first
                decided_in.stated.append(probability)
                decided_in.right.append(decision["protocol"] == first)
                if decision["protocol"]:
                    takes[row["id"]] = decision["protocol"], first
    return table, sorted(word for word, patients in said.items() if len(patients) >= SAID_BY), takes


def first_of(row: dict[str, Any]) -> tuple[str, float]:
    """The first suggestion as the decision saw it, else as it stands."""
    decision, ranked = row["decision"] or {}, (row["suggestion"] or {}).get("ranked") or []
    if decision.get("suggested"):
        return decision["suggested"], decision["probability"]
    return (ranked[0]["protocol"], ranked[0]["probability"]) if ranked else ("", 0.0)


def figures_of(label: str, week: Week, reference: Week) -> dict[str, Any]:
    """One row: each figure with the limit that chance gives, both None where there is too little to judge."""
    orders = sum(week.mix.values())
    row: dict[str, Any] = {"week": label, "orders": len(week.unknown), "decided": week.decided, "automatic": week.automatic}
    for name in FIGURES:
        row |= {name: None, f"{name}_limit": None}
    if week.unknown:
        row["unknown_words"] = mean(week.unknown)
        if len(week.unknown) >= JUDGED_MIN and len(reference.unknown) >= JUDGED_MIN:
            error = np.std(reference.unknown) * np.sqrt(1 / len(week.unknown) + 1 / len(reference.unknown))
            row["unknown_words_limit"] = round(float(mean(reference.unknown) + Z * error), 4)
    if orders and reference.mix:
        names = sorted({*week.mix, *reference.mix})
        one, other = (np.array([some[name] for name in names], float) for some in (week.mix, reference.mix))
        row["mix"] = round(float(divergence(one[None], other[None])[0]), 4)
        if orders >= JUDGED_MIN and other.sum() >= JUDGED_MIN:
            row["mix_limit"] = round(mix_limit(one, other), 4)
    if week.decided:
        row["override"] = round(week.overridden / week.decided, 4)
        row["ece"] = round(calibration_error(np.array(week.stated), np.array(week.right)), 4)
        if week.decided >= JUDGED_MIN:
            row["ece_limit"] = round(calibration_limit(np.array(week.stated)), 4)
            if reference.decided >= JUDGED_MIN:
                both = (week.overridden + reference.overridden) / (week.decided + reference.decided)
                error = np.sqrt(both * (1 - both) * (1 / week.decided + 1 / reference.decided))
                row["override_limit"] = round(float(reference.overridden / reference.decided + Z * error), 4)
    return row


def divergence(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence in bits, 0 (the same mix) to 1 (nothing in common), of counts (rows, protocols)."""
    p, q = (counts / np.maximum(counts.sum(1, keepdims=True), 1) for counts in (one, other))
    middle = (p + q) / 2

    def part(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(x > 0, x * np.log2(np.where(x > 0, x / np.where(middle > 0, middle, 1), 1)), 0).sum(1)

    return (part(p) + part(q)) / 2


def mix_limit(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The divergence that chance gives two draws of these sizes from the one mix of both: few orders differ by chance alone."""
    rng, both = np.random.default_rng(0), (one + other) / (one.sum() + other.sum())
    drawn = divergence(*(rng.multinomial(int(counts.sum()), both, DRAWS).astype(float) for counts in (one, other)))
    return float(np.quantile(drawn, CHANCE))


def calibration_limit(stated: NDArray[np.float64]) -> float:
    """The calibration error that chance gives when every stated probability is right."""
    rng = np.random.default_rng(0)
    inside = np.eye(BINS)[np.minimum((stated * BINS).astype(int), BINS - 1)]                            # (orders, BINS)
    right = rng.random((DRAWS, len(stated))) < stated
    return float(np.quantile(np.abs(stated @ inside - right @ inside).sum(1) / len(stated), CHANCE))


def joined(weeks: Iterable[Week]) -> Week:
    whole = Week()
    for week in weeks:
        whole.unknown += week.unknown
        whole.mix += week.mix
        whole.decided += week.decided
        whole.overridden += week.overridden
    return whole


@cache
def known_words() -> frozenset[str]:
    """Words of the labelled orders that ship, of the book, and the shorthand that is read."""
    texts = [f"{row.order.text} {row.order.ordered_exam}" for row in read_authored()]
    texts += [" ".join((protocol.name, protocol.region, *protocol.indications)) for protocol in read_book().protocols.values()]
    texts += [f"{short} {long}" for short, long in read_terms()[0].items()]
    return frozenset(word for text in texts for word in WORD.findall(text.lower()))


def week_of(time: str) -> str:
    year, week, _ = datetime.fromisoformat(time).isocalendar()
    return f"{year}-W{week:02d}"


def mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)


# -- shown -----------------------------------------------------------------------------------------------------------


def plot(figures: dict[str, Any]) -> bytes:
    """The four figures by week with their limits, the reference weeks shaded; PNG."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = figures["weeks"]
    sheet = Figure(figsize=(11, 6.2), layout="constrained")
    FigureCanvasAgg(sheet)
    places = range(len(rows))
    for axis, (name, (title, _)) in zip(sheet.subplots(2, 2).flat, FIGURES.items(), strict=True):
        values, limits = ([float("nan") if row[key] is None else row[key] for row in rows] for key in (name, f"{name}_limit"))
        axis.plot(places, values, "o-", color="#17518f", label="this week")
        axis.plot(places, limits, "--", color="#b3201c", label="chance alone, 99 of 100")
        inside = [i for i, row in enumerate(rows) if row["week"] in figures["reference"]]
        if inside:
            axis.axvspan(inside[0] - 0.4, inside[-1] + 0.4, color="0.92", label="reference")
        beyond = [i for i in places if i not in inside and values[i] > limits[i]]
        axis.plot(beyond, [values[i] for i in beyond], "o", color="#b3201c")
        some = [i for i in places if i % max(1, len(rows) // 8) == 0]
        axis.set(title=title[0].upper() + title[1:], xticks=some, ylim=(0, None))
        axis.set_xticklabels([rows[i]["week"][2:] for i in some], fontsize=8)
        axis.grid(alpha=0.3)
    if rows:
        sheet.axes[0].legend(fontsize=8)
    body = io.BytesIO()
    sheet.savefig(body, format="png", dpi=100)
    return body.getvalue()


def in_words(figures: dict[str, Any]) -> str:
    """The figures as a table, and what to do about what drifts."""
    if not figures["weeks"]:
        return "No orders yet: there is nothing to watch."
    lines = [f"{'week':9} {'orders':>6} {'decided':>7} " + " ".join(f"{name:>14}" for name in FIGURES)]
    for row in figures["weeks"]:
        lines.append(f"{row['week']:9} {row['orders']:6} {row['decided']:7} " + " ".join(f"{cell(row, name):>14}" for name in FIGURES))
    lines += ["", f"In brackets what chance alone would not exceed, beside the reference {', '.join(figures['reference'])}; "
              f"none below {JUDGED_MIN} orders or decisions."]
    lines += [f"{alarm['week']}: {alarm['words']}" for alarm in figures["alarms"]] or ["Nothing drifts beyond chance."]
    if figures["new_words"]:
        lines.append(f"New words that at least {SAID_BY} patients' orders share: {', '.join(figures['new_words'][:40])}")
    for row in figures["shadow"]:
        gain = "" if row["difference"] is None else " (difference {:+.3f}, 95 % {:+.3f} to {:+.3f})".format(*row["difference"])
        lines.append(f"In shadow, {row['model']}: {row['orders']} orders, {row['failed']} without a suggestion. Of {row['decided']} that people "
                     f"decided, it had the protocol taken first in {row['shadow_agrees']}, the shown model in {row['shown_agrees']}{gain}.")
    return "\n".join(lines)


def cell(row: dict[str, Any], name: str) -> str:
    value, limit = row[name], row[f"{name}_limit"]
    return "-" if value is None else f"{value:.3f}" + ("" if limit is None else f" ({limit:.3f})")
