"""Measure the findings graph of head MR on simulated studies of heads that neither the nets nor the calibration know."""
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.records import Finding
from vision.evaluate_findings import VERDICTS, region_verdict
from vision.mr_findings import FOLDER, SCREENS, MrFindingModel, one_story
from vision.train_mr_findings import anatomy_of, gather, rounded, seen_of

COUNTED = ("right", "wrong", "missed", "denied_rightly", "denied_wrongly", "sides", "sides_right")
CODES = tuple(dict.fromkeys(screen.code for screen in SCREENS))


def main(data: Path | None = None, out: Path | None = None, studies: int = 96, seed: int = 0, device: str = "cpu", resume: bool = False,
         report: Callable[..., None] = lambda *a, **k: None) -> dict[str, Any]:
    """The figures; with `out`, figures.json there. The calibration is the one in `out` where there is one, else the shipped one.

    Args:
        data: a folder that may hold synthseg_labelmaps.
        resume: measure again from the rows kept in `out`.
    """
    own = out is not None and (Path(out) / "calibration.json").is_file()
    model = MrFindingModel.load(Path(out) if own and out else FOLDER, device)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(out or scratch) / "rows-evaluate.json"
        rows = gather(model, "evaluate", studies, anatomy_of(data), seed, place, resume, report)
    found = [graph_of(model, row) for row in rows]
    order = np.random.default_rng(seed).permutation(len(rows))
    heads = " --data ../shared/imaging" if anatomy_of(data) else ""
    figures = {"studies": len(rows), "command": f"wetread evaluate mr_findings --size {len(rows)} --seed {seed}{heads}",
               "refused": sum(bool(row["refused"]) for row in rows),
               "drafts": score(found, rows), "what is stated without a hedge": score(found, rows, ("state",)),
               "shuffled images of one protocol": score([found[k] for k in shuffled(rows, order)], rows),
               "constant report": score([[] for _ in rows], rows), "regions": regions(found, rows)}
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def graph_of(model: MrFindingModel, row: Mapping[str, Any]) -> list[Finding]:
    fits = model.calibration["findings"]
    return one_story([model.finding(seen_of(seen), fits[code]) for code, seen in row["seen"].items() if code in fits])


def shuffled(rows: Sequence[Mapping[str, Any]], order: Any) -> list[int]:
    """For each study another one of its recipe: the same sequences, another patient."""
    by_recipe: dict[str, list[int]] = {}
    for k in order:
        by_recipe.setdefault(rows[k]["recipe"], []).append(int(k))
    after = {k: same[(i + 1) % len(same)] for same in by_recipe.values() for i, k in enumerate(same)}
    return [after[k] for k in range(len(rows))]


def score(found: Sequence[Sequence[Finding]], rows: Sequence[Mapping[str, Any]], bands: tuple[str, ...] = ("state", "hedge")) -> dict[str, Any]:
    """Findings said present against those there, over what each study's truth knows; sides and sizes where both have one."""
    each = {code: one_score(code, found, rows, bands) for code in CODES}
    total = {key: sum(row[key] for row in each.values()) for key in COUNTED}
    return {**ratios(total), "by finding": {code: row for code, row in each.items() if row["known"]}}


def one_score(code: str, found: Sequence[Sequence[Finding]], rows: Sequence[Mapping[str, Any]], bands: tuple[str, ...]) -> dict[str, Any]:
    counts = dict.fromkeys(("known", *COUNTED), 0)
    ml, share, counted, graded = [], [], [], []
    for graph, row in zip(found, rows, strict=True):
        truth = row["truth"].get(code)
        if truth is None:
            continue
        counts["known"] += 1
        finding = next((f for f in graph if f.code == code), None)
        said = finding is not None and finding.present and finding.band in bands
        if said or truth["present"]:
            counts["missed" if not said else "right" if truth["present"] else "wrong"] += 1
        if finding is not None and not finding.present and finding.band == "state":
            counts["denied_wrongly" if truth["present"] else "denied_rightly"] += 1
        if not (said and truth["present"]) or finding is None:
            continue
        if truth["side"] and finding.side:
            counts["sides"] += 1
            counts["sides_right"] += finding.side == truth["side"]
        if finding.volume_ml is not None and truth["volume_ml"]:
            ml.append(abs(finding.volume_ml - truth["volume_ml"]))
            share.append(ml[-1] / truth["volume_ml"])
        if finding.count is not None and truth["count"]:
            counted.append(abs(finding.count - truth["count"]))
        if finding.grade and truth["grade"]:
            graded.append(finding.grade == truth["grade"])
    return {**counts, **ratios(counts), "median error mL": middle(ml), "median error share": middle(share), "median error of count": middle(counted),
            "grade right": rounded(float(np.mean(graded)) if graded else None)}


def regions(found: Sequence[Sequence[Finding]], rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Of what is there and said, by finding: in how many the region is right, wrong, not named."""
    tally: dict[str, dict[str, int]] = {}
    for graph, row in zip(found, rows, strict=True):
        for f in graph:
            place = row.get("regions", {}).get(f.code)
            if place and f.present and f.band != "omit":
                verdict = region_verdict(place["named"], np.array(place["shares"]))
                tally.setdefault(f.code, dict.fromkeys(VERDICTS, 0))[verdict] += 1
    return tally


def ratios(n: Mapping[str, int]) -> dict[str, Any]:
    return {"precision": part(n["right"], n["right"] + n["wrong"]), "recall": part(n["right"], n["right"] + n["missed"]),
            "F1": part(2 * n["right"], 2 * n["right"] + n["wrong"] + n["missed"]), "side right": part(n["sides_right"], n["sides"]),
            "denied": n["denied_rightly"] + n["denied_wrongly"],
            "denied rightly": part(n["denied_rightly"], n["denied_rightly"] + n["denied_wrongly"])}


def part(few: float, many: float) -> float | None:
    return round(few / many, 4) if many else None


def middle(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 3) if values else None
