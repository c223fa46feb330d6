"""Measure drafts through the whole image path, beside a constant report, shuffled images and true labels."""
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data.records import Draft, Finding
from data.simulator import simulate_head_ct
from nlp.assertions import Assertion, read_report
from nlp.evaluate_reading import table
from nlp.sentences import fill, group_findings
from vision.reporter import Reporter

# what a simulated head CT can have, beside the haemorrhage of no known kind
CODES = ("epidural_haemorrhage", "subdural_haemorrhage", "subarachnoid_haemorrhage", "intraparenchymal_haemorrhage", "intraventricular_haemorrhage",
         "midline_shift", "mass_effect", "skull_fracture")
CONSTANT = "No intracranial haemorrhage, midline shift, mass effect or skull fracture."


def main(data: Path | None = None, out: Path | None = None, studies: int = 60, seed: int = 5000, device: str = "cpu",
         report: Callable[..., None] = lambda *a, **k: None, pictures: Path | None = None) -> dict[str, Any]:
    """Draft simulated head CTs whose truth is known, read the drafts back and compare; prints nothing, returns the figures.

    Args:
        data: a folder of models (findings, report), default the shipped ones.
        pictures: measured by evaluate_findings, since a real picture here has no report to compare with.
    """
    reporter = Reporter.load(data, device)
    drafts, truths = [], []
    for i in range(studies):
        simulated = simulate_head_ct(seed + i)
        drafts.append(reporter.draft(simulated.study)[0])
        truths.append(simulated.findings)
        report(i + 1, studies)
    texts = [draft.sections["findings"] for draft in drafts]
    order = np.random.default_rng(seed).permutation(studies)
    shuffled = [texts[order[i] if order[i] != i else (i + 1) % studies] for i in range(studies)]
    figures = {
        "studies": studies, "seed": seed,
        "drafts": score(texts, truths), "constant report": score([CONSTANT] * studies, truths), "shuffled images": score(shuffled, truths),
        "true labels": score([from_truth(reporter, truth) for truth in truths], truths),
        "distinct drafts": len(set(texts)),
        "sentences": sum(int(draft.model["sentences"]) for draft in drafts),
        "replaced by template": sum(int(draft.model["replaced_by_template"]) for draft in drafts),
        "worded by the model": share_by_model(drafts),
        "errors noticed by the re-reader": table([f"FINDINGS: {text}\n\nIMPRESSION: {draft.sections['impression']}\n"
                                                  for text, draft in zip(texts, drafts, strict=True)], seed)["kinds"],
    }
    if out is not None:
        write_card(Path(out), figures, studies, seed)
    return figures


def score(texts: Sequence[str], truths: Sequence[Sequence[Finding]]) -> dict[str, Any]:
    """Finding by finding from the text: stated or possible counts as said; side and size only where both have one."""
    hit = {code: np.zeros(3, int) for code in CODES}        # right, said wrongly, not said
    sides, errors_ml, errors_mm = [], [], []
    for text, truth in zip(texts, truths, strict=True):
        said: dict[str, Assertion] = {a.code: a for a in read_report(text) if a.polarity != "absent" and a.context == "now"}
        there = {finding.code: finding for finding in truth if finding.present}
        for code in CODES:
            hit[code] += (code in said and code in there, code in said and code not in there, code not in said and code in there)
            if code in said and code in there:
                a, b = said[code], there[code]
                if b.side in ("left", "right"):
                    sides.append(a.side == b.side)
                if a.volume_ml is not None and b.volume_ml is not None:
                    errors_ml.append(abs(a.volume_ml - b.volume_ml))
                if a.size_mm is not None and b.size_mm is not None:
                    errors_mm.append(abs(a.size_mm - b.size_mm))
    total = sum(hit.values())
    return {"precision": ratio(total[0], total[0] + total[1]), "recall": ratio(total[0], total[0] + total[2]),
            "F1": ratio(2 * total[0], 2 * total[0] + total[1] + total[2]),
            "by finding": {code: {"F1": ratio(2 * h[0], 2 * h[0] + h[1] + h[2]), "there": int(h[0] + h[2]), "said": int(h[0] + h[1])}
                           for code, h in hit.items()},
            "side right": ratio(sum(sides), len(sides)), "sides": len(sides),
            "median error mL": middle(errors_ml), "median error mm": middle(errors_mm)}


def from_truth(reporter: Reporter, truth: Sequence[Finding]) -> str:
    """What the text half writes when the graph is right: the ceiling of the figures."""
    groups = group_findings(truth)
    if reporter.decoder is None:
        return " ".join(sentence.text for sentence in reporter.word(groups, np.zeros((1, 1), np.float32))[0])
    return " ".join(fill(text, group[0]) for (text, _), group in zip(reporter.decoder.write(groups), groups, strict=True))


def share_by_model(drafts: Sequence[Draft]) -> float | None:
    said = [s.provenance == "model" for draft in drafts for s in draft.sentences if s.section == "findings"]
    return ratio(sum(said), len(said))


def ratio(part: float, whole: float) -> float | None:
    return round(float(part) / float(whole), 4) if whole else None


def middle(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 2) if values else None


def write_card(out: Path, figures: dict[str, Any], studies: int, seed: int) -> None:
    """figures.json, drafts.png and card.md; the card stands beside the command that made it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=1))
    rows = ("drafts", "constant report", "shuffled images", "true labels")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for k, row in enumerate(rows):
        axes.bar(np.arange(len(CODES)) + (k - 1.5) * 0.2, [figures[row]["by finding"][code]["F1"] or 0 for code in CODES], 0.2, label=row)
    axes.set_xticks(range(len(CODES)), [code.replace("_haemorrhage", "").replace("_", " ") for code in CODES], rotation=30, ha="right")
    axes.set_ylabel("F1, read from the text")
    axes.set_title(f"{studies} simulated head CTs")
    axes.legend()
    figure.savefig(out / "drafts.png", dpi=100)
    lines = ["# Draft reports of head CT", "", f"`wetread evaluate report --size {studies} --seed {seed}`, simulated studies only.", "",
             "| row | precision | recall | F1 | side right | median mL error | median mm error |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        f = figures[row]
        lines.append(f"| {row} | {f['precision']} | {f['recall']} | {f['F1']} | {f['side right']} ({f['sides']}) | {f['median error mL']} "
                     f"| {f['median error mm']} |")
    lines += ["", f"{figures['distinct drafts']} distinct drafts of {studies}; {figures['replaced by template']} of {figures['sentences']} "
              "sentences did not read back as their findings and were replaced by the template.", "", "![F1 by finding](drafts.png)", ""]
    (out / "card.md").write_text("\n".join(lines))
