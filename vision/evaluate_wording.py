"""Measure the text half alone: many random findings graphs written out, and every positive statement held against its graph, twice over.

Once by the re-reader, which the drafts themselves were checked with; and once by a search for the findings' names that shares nothing with it.
Random findings carry whatever data/findings.toml allows them and a graph can hold, those that no head fills today too.
"""
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np

from data.atlas import REGIONS
from data.findings import FINDINGS, FindingRow
from data.records import Finding, Prior, Sentence
from nlp.evaluate_reading import table
from nlp.report_checks import kin
from nlp.report_errors import KINDS, grade_changed
from nlp.sentences import LOBES, ON_THE_BRAIN, group_findings
from vision.report_scores import ratio, unsupported
from vision.reporter import Reporter, impression

DENIED = re.compile(r"\b(?:no|not|without|absent|negative|excluded|free of|neither|nor|ha(?:s|ve) resolved)\b", re.I)
FULL_STOP = re.compile(r"(?<=[.!?])\s+")
ERRORS_IN = 200         # of the drafts, those that errors are put into
# a draft's errors: as in other reports, and of its severity also the grade on a scale and the age, which it has more often than a word like "mild"
ERRORS = {**KINDS, "severity changed": grade_changed}
# what else drafts and people call them, of the findings whose false mention would do most harm
OTHER_NAMES = {
    "intracranial_haemorrhage": ("intracranial bleeding", "intracranial hemorrhage", "haemorrhage", "hemorrhage", "bleeding"),
    "epidural_haemorrhage": ("extradural haematoma", "epidural haemorrhage", "epidural hematoma"),
    "subdural_haemorrhage": ("subdural haemorrhage", "subdural bleeding", "subdural hematoma"),
    "subarachnoid_haemorrhage": ("subarachnoid blood", "subarachnoid bleeding", "subarachnoid hemorrhage"),
    "intraparenchymal_haemorrhage": ("intracerebral haemorrhage", "parenchymal haematoma", "intraparenchymal hemorrhage"),
    "intraventricular_haemorrhage": ("intraventricular blood", "intraventricular hemorrhage"),
    "midline_shift": ("shift of the midline structures",), "skull_fracture": ("calvarial fracture",),
    "acute_infarct": ("acute infarct", "acute infarction"), "glioma": ("glioma",), "metastasis": ("cerebral metastases", "brain metastasis"),
    "meningioma": ("meningioma",), "microbleeds": ("microhaemorrhages",),
}
TOKENS = np.zeros((1, 128), np.float32)         # no image: what is said must follow from the graph
CARRIED = ("side", "region", "size_mm", "volume_ml", "count", "acuity", "grade", "prior")


def wording(reporter: Reporter, graphs: int, seed: int, report: Callable[..., None] = lambda *a, **k: None) -> dict[str, Any]:
    """Unsupported positives, sentences replaced by their template, errors noticed, and distinct texts over distinct graphs."""
    chance = Random(seed)
    sentences = replaced = by_model = 0
    wrong: dict[str, list[str]] = {"re-reader": [], "search for names": []}
    texts, keys = set(), set()
    whole: list[str] = []
    carried = dict.fromkeys(CARRIED, 0)
    for i in range(graphs):
        graph = random_graph(chance)
        written, lost = write(reporter, graph)
        text = " ".join(sentence.text for sentence in written)
        present = [f.code for f in graph if f.present and f.band != "omit"]
        for name, found in (("re-reader", unsupported(text, present)), ("search for names", unsupported_names(text, present))):
            wrong[name] += [f"{code}: {text}" for code in found]
        sentences += len(written)
        replaced += lost
        by_model += sum(sentence.provenance == "model" for sentence in written)
        texts.add(text)
        keys.add(repr([(f.code, f.present, f.band, *(getattr(f, name) for name in CARRIED)) for group in group_findings(graph) for f in group]))
        for name in CARRIED:
            carried[name] += any(f.present and getattr(f, name) for f in graph)
        if len(whole) < ERRORS_IN:
            body, told = (" ".join(s.text for s in written if s.section == name) for name in ("findings", "impression"))
            whole.append(f"FINDINGS: {body}\n\nIMPRESSION: {told}\n")
        if (i + 1) % 100 == 0:
            report(i + 1, graphs, phase="random graphs")
    return {"graphs": graphs, "sentences": sentences, "worded by the model": ratio(by_model, sentences), "replaced by template": replaced,
            "unsupported positives": {name: len(rows) for name, rows in wrong.items()}, "graphs that carry": carried,
            "unsupported positives per 10,000 sentences": {name: round(10_000 * len(rows) / max(sentences, 1), 2) for name, rows in wrong.items()},
            "examples": {name: rows[:3] for name, rows in wrong.items() if rows},
            "distinct texts": len(texts), "distinct graphs": len(keys), "distinct texts over distinct graphs": ratio(len(texts), len(keys)),
            "errors noticed by the re-reader": table(whole, seed, ERRORS)["kinds"]}


def write(reporter: Reporter, graph: Sequence[Finding]) -> tuple[list[Sentence], int]:
    """Findings and impression of one graph, as a draft has them; and how many sentences fell back to their template."""
    groups = group_findings(graph)
    found, replaced = reporter.word(groups, TOKENS)
    return [*found, *impression(graph)], replaced


def random_graph(chance: Random) -> list[Finding]:
    """One to five present findings, each in any of its forms, and some absent ones; no code twice."""
    codes = chance.sample(sorted(FINDINGS), chance.randint(3, 9))
    seen = chance.randint(1, min(5, len(codes)))
    return [random_finding(f"f{i + 1}", FINDINGS[code], chance) if i < seen else
            Finding(f"f{i + 1}", code, FINDINGS[code].label, False, round(chance.uniform(0.01, 0.1), 2),
                    prior=Prior("earlier", "20250102") if chance.random() < 0.05 else None) for i, code in enumerate(codes)]


def random_finding(id: str, row: FindingRow, chance: Random) -> Finding:
    """A present finding with any of the values that its row allows, or without; `kind` alone has no place in a graph."""
    def now_and_then(allowed: object, share: float) -> bool:
        return bool(allowed) and chance.random() < share

    value = round(chance.uniform(0.5, 90), 1) if chance.random() < 0.7 else None
    finding = Finding(id, row.code, row.label, True, round(chance.uniform(0.5, 0.99), 2),
                      chance.choice((None, *row.side)) if row.side else None,       # type: ignore[arg-type]  # the table's sides are those of Side
                      region=random_region(row.code, chance) if now_and_then(row.side and row.code != "midline_shift", 0.4) else "",
                      size_mm=value if row.size else None, volume_ml=value if row.volume else None,
                      count=chance.randint(1, 30) if now_and_then(row.count, 0.7) else None,
                      acuity=chance.choice(row.acuity) if now_and_then(row.acuity, 0.4) else "",
                      grade=chance.choice(row.grade) if now_and_then(row.grade, 0.6) else "", band=chance.choice(("state", "state", "hedge")))
    return replace(finding, prior=random_prior(finding, chance)) if chance.random() < 0.15 else finding


def random_region(code: str, chance: Random) -> str:
    """One region, or two, as vision/regions.py names them."""
    names = (*LOBES, "posterior fossa") if code in ON_THE_BRAIN else REGIONS
    return ", ".join(sorted(chance.sample(names, chance.choice((1, 1, 2))), key=names.index))


def random_prior(finding: Finding, chance: Random) -> Prior:
    """The same finding absent earlier, or measured then to be anything from a third to three times as large."""
    if chance.random() < 0.3:
        return Prior("earlier", "20250102", present=False)
    size, volume = (None if now is None else round(now * chance.uniform(0.3, 3), 1) for now in (finding.size_mm, finding.volume_ml))
    return Prior("earlier", "20250102", True, size, volume, None if finding.count is None else chance.randint(1, 30))


def unsupported_names(text: str, present: Sequence[str]) -> list[str]:
    """Findings named in a sentence that denies nothing, by no more than their names; the longest name at a place counts."""
    supported = {code for finding in present for code in kin(finding)}
    pattern, code_of = names()
    return sorted({code_of[match[0].lower()] for sentence in FULL_STOP.split(text) if not DENIED.search(sentence)
                   for match in pattern.finditer(sentence)} - supported)


@cache
def names() -> tuple[re.Pattern[str], dict[str, str]]:
    code_of = {row.label.lower(): code for code, row in FINDINGS.items()} | {name: code for code, names in OTHER_NAMES.items() for name in names}
    return re.compile(rf"\b(?:{'|'.join(re.escape(name) for name in sorted(code_of, key=len, reverse=True))})\b", re.I), code_of
