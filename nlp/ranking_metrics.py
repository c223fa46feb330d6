"""Figures of protocol suggestion; every order is scored against its set of acceptable protocols."""
from collections import Counter
from typing import Any

import numpy as np

from data.orders import Labelled
from data.records import Suggestion

NOT_HAZARDS = {"ordered_exam_mismatch", "low_value", "missing_info"}


def acceptable_at(rows: list[Labelled], ranked: list[list[str]], k: int) -> np.ndarray:
    return np.array([bool({row.expected, *row.acceptable} & set(names[:k])) for row, names in zip(rows, ranked, strict=True)])


def interval(hits: np.ndarray, seed: int = 0, draws: int = 1000) -> list[float]:
    """Mean with a 95 % bootstrap interval over orders: [mean, low, high]."""
    rng = np.random.default_rng(seed)
    means = hits[rng.integers(0, len(hits), (draws, len(hits)))].mean(1)
    return [round(float(x), 4) for x in (hits.mean(), *np.quantile(means, [0.025, 0.975]))]


def figures_of(rows: list[Labelled], found: list[Suggestion]) -> dict[str, Any]:
    ranked = [[r.protocol for r in suggestion.ranked] for suggestion in found]
    top = np.array([s.ranked[0].probability for s in found])
    right = acceptable_at(rows, ranked, 1)
    urgent, said = np.array([r.urgent for r in rows]), np.array([s.urgent for s in found])
    return {
        "orders": len(rows),
        **{f"acceptable@{k}": interval(acceptable_at(rows, ranked, k)) for k in (1, 3, 5)},
        "contrast": interval(np.array([s.contrast == r.contrast for r, s in zip(rows, found, strict=True)])),
        "urgent_recall": ratio((urgent & said).sum(), urgent.sum()), "urgent_precision": ratio((urgent & said).sum(), said.sum()),
        "set_coverage": round(float(np.mean([bool({r.expected, *r.acceptable} & set(s.set)) for r, s in zip(rows, found, strict=True)])), 4),
        "set_mean_size": round(float(np.mean([len(s.set) for s in found])), 2),
        "ece": round(calibration_error(top, right), 4),
        "automatic_at_97": round(automatic_share(top, right), 4),
        "automatic": ratio((auto := np.array([s.disposition == "auto" for s in found])).sum(), len(found)),
        "automatic_acceptable": ratio((auto & right).sum(), auto.sum()),
        "macro_f1": round(macro_f1([row.expected for row in rows], [set(row.acceptable) | {row.expected} for row in rows],
                                   [names[0] for names in ranked]), 4),
        "hazards": hazard_figures(rows, found), "flags": flag_figures(rows, found),
    }


def macro_f1(expected: list[str], acceptable: list[set[str]], said: list[str]) -> float:
    """Mean F1 over the expected protocols; an acceptable answer counts as the expected one."""
    heard = [want if name in good else name for want, good, name in zip(expected, acceptable, said, strict=True)]
    return float(np.mean([2 * sum(w == h == name for w, h in zip(expected, heard, strict=True)) / (expected.count(name) + heard.count(name))
                          for name in sorted(set(expected))]))


def calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (Guo 2017)."""
    at = np.minimum((probability * bins).astype(int), bins - 1)
    return float(sum(abs(probability[at == b].mean() - right[at == b].mean()) * (at == b).mean() for b in range(bins) if (at == b).any()))


def automatic_share(probability: np.ndarray, right: np.ndarray, wanted: float = 0.97) -> float:
    """The largest share of orders, most certain first, with at least `wanted` acceptable: an upper bound, chosen on the same orders."""
    by = np.argsort(-probability)
    good = right[by].cumsum() / np.arange(1, len(by) + 1) >= wanted
    return float((good.nonzero()[0].max() + 1) / len(by)) if good.any() else 0.0


def flag_figures(rows: list[Labelled], found: list[Suggestion]) -> dict[str, dict[str, float | int]]:
    counts: dict[str, Counter[str]] = {}
    for row, suggestion in zip(rows, found, strict=True):
        if row.flags is None:
            continue
        said, true = {flag.code for flag in suggestion.flags}, set(row.flags or ())
        for code in said | true:
            counts.setdefault(code, Counter())["hit" if code in said & true else "false" if code in said else "missed"] += 1
    return {code: {"precision": ratio(c["hit"], c["hit"] + c["false"]), "recall": ratio(c["hit"], c["hit"] + c["missed"]),
                   "orders": c["hit"] + c["missed"]} for code, c in sorted(counts.items())}


def hazard_figures(rows: list[Labelled], found: list[Suggestion]) -> dict[str, float]:
    """Recall over all hazard flags, and the share of orders with a false hazard flag."""
    hit = true = alarms = 0
    labelled = [(row, suggestion) for row, suggestion in zip(rows, found, strict=True) if row.flags is not None]
    for row, suggestion in labelled:
        said = {flag.code for flag in suggestion.flags} - NOT_HAZARDS
        wanted = set(row.flags or ()) - NOT_HAZARDS
        hit, true, alarms = hit + len(said & wanted), true + len(wanted), alarms + bool(said - wanted)
    return {"recall": ratio(hit, true), "orders_with_a_false_alarm": ratio(alarms, len(labelled))}


def ratio(part: float, whole: float) -> float:
    return round(float(part) / float(whole), 4) if whole else 0.0
