"""Measure the text half alone: many random findings graphs written out, and every positive statement held against its graph, twice over.

Once by the re-reader, which the drafts themselves were checked with; and once by a search for the findings' names that shares nothing with it.
"""
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np

from data.records import Finding, Sentence
from data.simulator import LABELS
from nlp.report_checks import kin
from nlp.sentences import NOUNS, group_findings
from vision.report_scores import ratio, unsupported
from vision.reporter import Reporter, impression
from vision.train_report import random_group

DENIED = re.compile(r"\b(?:no|not|without|absent|negative|excluded|free of|neither|nor)\b", re.I)
FULL_STOP = re.compile(r"(?<=[.!?])\s+")
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
    return [*found, *impression(groups, found)], replaced


def random_graph(chance: Random) -> list[Finding]:
    """One to five present findings, each in any of its forms, and some absent ones; no code twice."""
    graph: dict[str, Finding] = {}
    for _ in range(chance.randint(2, 7)):
        for finding in random_group(chance):
            if finding.code not in graph:
                graph[finding.code] = replace(finding, id=f"f{len(graph) + 1}", label=LABELS[finding.code])
    return list(graph.values())


def unsupported_names(text: str, present: Sequence[str]) -> list[str]:
    """Findings named in a sentence that denies nothing, by no more than their names; the longest name at a place counts."""
    supported = {code for finding in present for code in kin(finding)}
    pattern, code_of = names()
    return sorted({code_of[match[0].lower()] for sentence in FULL_STOP.split(text) if not DENIED.search(sentence)
                   for match in pattern.finditer(sentence)} - supported)


@cache
def names() -> tuple[re.Pattern[str], dict[str, str]]:
    code_of = {noun.lower(): code for code, nouns in NOUNS.items() for noun in (*nouns, LABELS[code])}
    return re.compile(rf"\b(?:{'|'.join(re.escape(noun) for noun in sorted(code_of, key=len, reverse=True))})\b", re.I), code_of
