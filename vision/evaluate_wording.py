"""Measure the text half alone: many random findings graphs written out, and every positive statement held against its graph, twice over.

Once by the re-reader, which the drafts themselves were checked with; and once by a search for the findings' names that shares nothing with it.
"""
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from data.records import Finding, Sentence
from data.simulator import LABELS
from nlp.report_checks import kin
from nlp.sentences import group_findings
from vision.report_scores import ratio, unsupported
from vision.reporter import Reporter, impression

DENIED = re.compile(r"\b(?:no|not|without|absent|negative|excluded|free of|neither|nor)\b", re.I)
FULL_STOP = re.compile(r"(?<=[.!?])\s+")
DATA = Path(__file__).parent.parent / "data"
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


def wording(reporter: Reporter, graphs: int, seed: int, report: Callable[..., None] = lambda *a, **k: None) -> dict[str, Any]:
    """Unsupported positives per 10,000 sentences, sentences replaced by their template, and distinct texts over distinct graphs."""
    chance = Random(seed)
    sentences = replaced = by_model = 0
    wrong: dict[str, list[str]] = {"re-reader": [], "search for names": []}
    texts, keys = set(), set()
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
        keys.add(repr([(f.code, f.present, f.band, f.side, f.size_mm, f.volume_ml, f.count) for group in group_findings(graph) for f in group]))
        if (i + 1) % 100 == 0:
            report(i + 1, graphs, phase="random graphs")
    return {"graphs": graphs, "sentences": sentences, "worded by the model": ratio(by_model, sentences), "replaced by template": replaced,
            "unsupported positives per 10,000 sentences": {name: round(10_000 * len(rows) / max(sentences, 1), 2) for name, rows in wrong.items()},
            "examples": {name: rows[:3] for name, rows in wrong.items() if rows},
            "distinct texts": len(texts), "distinct graphs": len(keys), "distinct texts over distinct graphs": ratio(len(texts), len(keys))}


def write(reporter: Reporter, graph: Sequence[Finding]) -> tuple[list[Sentence], int]:
    """Findings and impression of one graph, as a draft has them; and how many sentences fell back to their template."""
    groups = group_findings(graph)
    found, replaced = reporter.word(groups, TOKENS)
    return [*found, *impression(graph)], replaced


def random_graph(chance: Random) -> list[Finding]:
    """One to five present findings, each in any of its forms, and some absent ones; no code twice."""
    rows = table()
    codes = chance.sample(sorted(rows), chance.randint(3, 9))
    seen = chance.randint(1, min(5, len(codes)))
    return [random_finding(f"f{i + 1}", code, rows[code], chance) if i < seen else
            Finding(f"f{i + 1}", code, LABELS[code], False, round(chance.uniform(0.01, 0.1), 2)) for i, code in enumerate(codes)]


def random_finding(id: str, code: str, row: dict[str, Any], chance: Random) -> Finding:
    """A present finding with the side and the measurement that its row of data/findings.toml allows, or without."""
    sides = ("left", "right") if code == "midline_shift" else ("left", "right", "bilateral")
    value = round(chance.uniform(0.5, 90), 1) if chance.random() < 0.7 else None
    return Finding(id, code, LABELS[code], True, round(chance.uniform(0.5, 0.99), 2), chance.choice((None, *sides)) if row.get("side") else None,
                   size_mm=value if row.get("size") else None, volume_ml=value if row.get("volume") else None,
                   band=chance.choice(("state", "state", "hedge")))


@cache
def table() -> dict[str, dict[str, Any]]:
    return tomllib.loads((DATA / "findings.toml").read_text())


def unsupported_names(text: str, present: Sequence[str]) -> list[str]:
    """Findings named in a sentence that denies nothing, by no more than their names; the longest name at a place counts."""
    supported = {code for finding in present for code in kin(finding)}
    pattern, code_of = names()
    return sorted({code_of[match[0].lower()] for sentence in FULL_STOP.split(text) if not DENIED.search(sentence)
                   for match in pattern.finditer(sentence)} - supported)


@cache
def names() -> tuple[re.Pattern[str], dict[str, str]]:
    code_of = {label.lower(): code for code, label in LABELS.items()} | {name: code for code, names in OTHER_NAMES.items() for name in names}
    return re.compile(rf"\b(?:{'|'.join(re.escape(name) for name in sorted(code_of, key=len, reverse=True))})\b", re.I), code_of
