"""What drafts say against what is true: read back from their text, finding by finding; and how sure the graph is of it."""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data.records import Draft, Finding
from nlp.assertions import Assertion, read_report
from nlp.report_checks import kin
from vision.calibration import binned, error_of

NEAR_MM, NEAR_SHARE = 2.0, 0.1          # a size is right within 2 mm, a volume within a tenth
SIDES = ("left", "right")
COVERAGES = (1.0, 0.9, 0.8, 0.6, 0.4)
ALERTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
HAEMORRHAGE = "haemorrhage"
CONSTANT = "No intracranial haemorrhage, midline shift, mass effect or skull fracture."      # the report that is the same for everybody


def score(texts: Sequence[str], truths: Sequence[Sequence[Finding]], codes: Sequence[str]) -> dict[str, Any]:
    """Positive findings of each text against its truth: what is stated or called possible counts as said; the last mention counts.

    Side and size only where both have one; a size is near within 2 mm, a volume within a tenth.
    """
    hit = {code: np.zeros(3, int) for code in codes}        # right, said wrongly, not said
    by_side = {side: np.zeros(3, int) for side in SIDES}
    right_sides, errors_ml, shares, errors_mm, near = [], [], [], [], []
    for text, truth in zip(texts, truths, strict=True):
        said, there = positives(text), {finding.code: finding for finding in truth if finding.present}
        for code in codes:
            hit[code] += (code in said and code in there, code in said and code not in there, code not in said and code in there)
            for side in SIDES:
                a, b = code in said and said[code].side == side, code in there and there[code].side == side
                by_side[side] += (a and b, a and not b, b and not a)
            if code in said and code in there:
                mention, wanted = said[code], there[code]
                if wanted.side in SIDES:
                    right_sides.append(mention.side == wanted.side)
                if mention.volume_ml is not None and wanted.volume_ml is not None:
                    errors_ml.append(abs(mention.volume_ml - wanted.volume_ml))
                    shares.append(errors_ml[-1] / max(wanted.volume_ml, 0.1))       # texts have one decimal
                    near.append(shares[-1] <= NEAR_SHARE)
                if mention.size_mm is not None and wanted.size_mm is not None:
                    errors_mm.append(abs(mention.size_mm - wanted.size_mm))
                    near.append(errors_mm[-1] <= NEAR_MM)
    return {**prf(sum(hit.values(), np.zeros(3, int))), "by finding": {code: prf(row) for code, row in hit.items()},
            "by side": {side: prf(row) for side, row in by_side.items()},
            "side right": ratio(sum(right_sides), len(right_sides)), "sides": len(right_sides),
            "median error mL": middle(errors_ml), "median error, share of volume": middle(shares), "median error mm": middle(errors_mm),
            "sizes": len(near), "size right": ratio(sum(near), len(near))}


def positives(text: str) -> dict[str, Assertion]:
    """What a text says is, or may be, there now."""
    return {a.code: a for a in read_report(text) if a.polarity != "absent" and a.context == "now"}


def prf(row: Any) -> dict[str, Any]:
    """Of (right, said wrongly, not said)."""
    return {"precision": ratio(row[0], row[0] + row[1]), "recall": ratio(row[0], row[0] + row[2]),
            "F1": ratio(2 * row[0], 2 * row[0] + row[1] + row[2]),
            "there": int(row[0] + row[2]), "said": int(row[0] + row[1])}


def unsupported(text: str, present: Iterable[str]) -> list[str]:
    """Findings that a text says are there, or may be, and that the graph does not have: neither itself nor a kind of it."""
    supported = {code for finding in present for code in kin(finding)}
    return sorted(code for code in positives(text) if code not in supported)


def haemorrhage_table(texts: Sequence[str], truths: Sequence[Sequence[Finding]]) -> dict[str, dict[str, int]]:
    """Studies with and without any haemorrhage: stated, possible, excluded, or nothing said of it."""
    table = {row: dict.fromkeys(("stated", "possible", "excluded", "nothing said"), 0) for row in ("with", "without")}
    for text, truth in zip(texts, truths, strict=True):
        said = [a.polarity for a in read_report(text) if a.code.endswith(HAEMORRHAGE) and a.context == "now"]
        words = "stated" if "present" in said else "possible" if "possible" in said else "excluded" if said else "nothing said"
        table["with" if any(f.present and f.code.endswith(HAEMORRHAGE) for f in truth) else "without"][words] += 1
    return table


def shuffled(texts: Sequence[str], seed: int) -> list[str]:
    """Every text at another study's place."""
    order = np.random.default_rng(seed).permutation(len(texts))
    places = np.empty(len(texts), int)
    places[order] = np.roll(order, 1)
    return [texts[place] for place in places]


# ---------------------------------------------------------------- how sure

def sureness(drafts: Sequence[Draft], truths: Sequence[Sequence[Finding]]) -> dict[str, Any]:
    """Calibration of the probabilities, the error among the surest answers (risk-coverage), and of what is stated, hedged and left out."""
    rows = []
    for draft, truth in zip(drafts, truths, strict=True):
        wanted = {finding.code: finding.present for finding in truth}
        rows += [(f.probability, wanted[f.code], f.band, f.present) for f in draft.findings if f.code in wanted]
    if not rows:
        return {}
    chance, true = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], bool)
    total = binned(chance, true)
    wrong = ((chance >= 0.5) != true)[np.argsort(-np.abs(chance - 0.5), kind="stable")]
    risk = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    bands = {band: [present == truth for _, truth, own, present in rows if own == band] for band in ("state", "hedge", "omit")}
    return {"answers": len(rows), "ECE": round(error_of(total), 4), "Brier": round(float(np.mean((chance - true) ** 2)), 4),
            "bins": [[round(p / n, 4), round(t / n, 4), int(n)] for n, p, t in total.tolist() if n],
            "risk at coverage": {f"{share:.0%}": round(float(risk[max(1, round(share * len(risk))) - 1]), 4) for share in COVERAGES},
            "area under risk-coverage": round(float(risk.mean()), 4), "curve": [round(float(v), 4) for v in risk[:: max(1, len(risk) // 100)]],
            "bands": {band: {"answers": len(right), "right": ratio(sum(right), len(right))} for band, right in bands.items()}}


def alert_table(drafts: Sequence[Draft], truths: Sequence[Sequence[Finding]], critical: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By threshold: studies with a critical finding that raise an alert for one of their own, and studies without any that raise one."""
    table: dict[str, dict[str, Any]] = {}
    for limit in ALERTS:
        found, alarms, with_any, without = 0, 0, 0, 0
        for draft, truth in zip(drafts, truths, strict=True):
            there = {f.code for f in truth if f.present and f.code in critical}
            raised = {f.code for f in draft.findings if f.code in critical and f.probability >= limit}
            with_any += bool(there)
            without += not there
            found += bool({near for code in there for near in kin(code)} & raised)
            alarms += not there and bool(raised)
        table[str(limit)] = {"recall": ratio(found, with_any), "studies with": with_any,
                             "false alarms": ratio(alarms, without), "studies without": without}
    return table


def ratio(part: float, whole: float) -> float | None:
    return round(float(part) / float(whole), 4) if whole else None


def middle(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 2) if values else None
