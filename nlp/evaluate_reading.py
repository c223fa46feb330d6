"""Measure the re-reader: errors put into reports on purpose that it notices, rewordings that it wrongly flags, beside ROUGE-L.

Own drafts always; with `data` (a folder with hl7/ and reports/) also report text by other people, the half kept aside from development.
"""
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from data.records import Finding
from data.report_texts import ReportText, read_report_texts
from nlp.assertions import NOT_NOW, read_all
from nlp.report_changes import facts
from nlp.report_errors import KINDS, harmless_paraphrase
from nlp.sentences import NOUNS, fill, paraphrase

BARS = {**dict.fromkeys(KINDS, 0.95), "harmless paraphrase": 0.05}
UNSIDED = {"intracranial_haemorrhage", "pituitary_tumour", "demyelinating_lesions", "white_matter_disease", "microbleeds", "hydrocephalus"}
SIZED = {"midline_shift": "size_mm", **{code: "volume_ml" for code in NOUNS if code.endswith("_haemorrhage") and code != "intracranial_haemorrhage"},
         **dict.fromkeys(("acute_infarct", "glioma", "metastasis", "meningioma", "flair_lesion"), "volume_ml")}
TUMOUR = {"mass", "lesion", "glioma", "enhancement", "other_tumour"}
MEASURED = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?=(?:\s*[x×]\s*\d+(?:\.\d+)?)*\s*(mm|cm|ml|cc)\b)", re.I)


def main(data: Path | None = None, out: Path | None = None, texts: int = 100, seed: int = 0, device: str = "cpu",
         report: Callable[..., None] = lambda *a, **k: None) -> dict[str, Any]:
    """Print nothing, return the figures: one table a source, the bars, and what was read against what is known.

    Args:
        data: a folder with hl7/messages.jsonl and reports/; without it own drafts alone.
        texts: at most so many of each source.
        device: not used; the reader has no weights.
    """
    chance = Random(seed)
    graphs = [random_graph(chance) for _ in range(texts)]
    own = [written(graph, chance) for graph in graphs]
    again = {text: graph for text, graph in zip(own, graphs, strict=True)}
    figures: dict[str, Any] = {"seed": seed, "bars": BARS, "sources": {}}

    def reworded(text: str, chance: Random, others: Sequence[str]) -> str | None:
        return harmless_paraphrase(written(again[text], chance), chance, others) if text in again else None

    sources: dict[str, list[ReportText]] = {}
    for row in read_report_texts(Path(data)) if data else ():
        if row.aside:
            sources.setdefault(row.source, []).append(row)
    figures["sources"]["own drafts"] = table(own, seed, {**KINDS, "harmless paraphrase": reworded})
    report(1, 1 + len(sources))
    for n, (source, rows) in enumerate(sorted(sources.items())):
        chosen = Random(seed).sample(rows, min(texts, len(rows)))
        figures["sources"][source] = {**table([row.text for row in chosen], seed, KINDS), **known(chosen)}
        report(n + 2, 1 + len(sources))
    figures["all"] = together([figures["sources"][name] for name in figures["sources"] if name != "own drafts"]) if sources else {}
    if out is not None:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "figures.json").write_text(json.dumps(figures, indent=1))
        (out / "card.md").write_text(card(figures, texts, seed, data is not None))
    return figures


def table(texts: Sequence[str], seed: int, kinds: dict[str, Callable[[str, Random, Sequence[str]], str | None]] = KINDS) -> dict[str, Any]:
    """Kind -> cases, share noticed by the reader and by ROUGE-L; the paraphrases' share is the one wrongly flagged.

    ROUGE-L has no threshold of its own: it gets the one that flags a twentieth of the paraphrases.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer, chance = RougeScorer(["rougeL"]), Random(seed)
    rows: dict[str, list[tuple[bool, float]]] = {kind: [] for kind in kinds}
    started = time.process_time()
    reading = 0.0
    for text in texts:
        before = facts(text)
        for kind, spoil in kinds.items():
            other = spoil(text, chance, texts)
            if other is not None:
                at = time.process_time()
                differs = facts(other) != before
                reading += time.process_time() - at
                rows[kind].append((differs, scorer.score(text, other)["rougeL"].fmeasure))
    harmless = sorted(score for _, score in rows["harmless paraphrase"])
    limit = harmless[len(harmless) // 20] if harmless else 0.0
    figures: dict[str, Any] = {kind: {"cases": len(found), "noticed": sum(differs for differs, _ in found),
                                      "share": share(sum(differs for differs, _ in found), len(found)),
                                      "ROUGE-L share": share(sum(score < limit for _, score in found), len(found))} for kind, found in rows.items()}
    cases = sum(len(found) for found in rows.values())
    return {"texts": len(texts), "kinds": figures, "ms a report": round(1000 * reading / cases, 1) if cases else None,
            "seconds": round(time.process_time() - started, 1)}


def known(rows: Sequence[ReportText]) -> dict[str, Any]:
    """What can be held against something else than the reader: every measured number, and the side of BTReport's tumour."""
    numbers = read = right = sided = 0
    for row in rows:
        found = read_all(row.text)
        told = [(a, b) for name, a, b in found.sections if name in NOT_NOW]
        values = {round(v, 3) for a in found.assertions for v in (*a.sizes_mm, *([a.volume_ml] if a.volume_ml is not None else []))}
        values |= {round(float(v), 3) for one in found.loose if one.kind == "number" for v in re.findall(r"\d+\.\d+", one.value)}
        for match in MEASURED.finditer(row.text):
            if not any(a <= match.start() < b for a, b in told):
                numbers += 1
                read += round(float(match[1]) * (10 if match[2].lower() == "cm" else 1), 3) in values
        if row.side:
            said = next((a.side for a in found.assertions if a.code in TUMOUR and a.polarity == "present" and a.side in ("left", "right")), None)
            sided += said is not None
            right += said == row.side
    figures: dict[str, Any] = {"numbers with a unit": numbers, "read with their decimals": read}
    return {**figures, "tumour sides": sided, "as the features have it": right} if sided else figures


def together(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All sources as one: cases and noticed added up."""
    found = {}
    for kind in KINDS:
        cases, noticed = (sum(one["kinds"][kind][name] for one in tables) for name in ("cases", "noticed"))
        found[kind] = {"cases": cases, "noticed": noticed, "share": share(noticed, cases)}
    return found


def share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


# ---------------------------------------------------------------- own drafts with a known graph

def random_graph(chance: Random) -> list[list[Finding]]:
    """Two to four findings, one a sentence, and a sentence of absent ones."""
    codes = chance.sample(tuple(NOUNS), chance.randint(5, 8))
    cut = chance.randint(2, 4)
    return [[random_finding(code, chance)] for code in codes[:cut]] + [[Finding(code, code, code, False, 0.02) for code in codes[cut:]]]


def random_finding(code: str, chance: Random) -> Finding:
    side = None if code in UNSIDED else chance.choice(("left", "right") if code == "midline_shift" else ("left", "right", "bilateral"))
    size = {SIZED[code]: round(chance.uniform(1.1, 60), 1)} if code in SIZED else {}
    return Finding(code, code, code, True, 0.9, side=side, band=chance.choice(("state", "state", "hedge")), **size)      # type: ignore[arg-type]  # mypy takes every value for a float


def written(graph: Sequence[Sequence[Finding]], chance: Random) -> str:
    sentences = [fill(paraphrase(group, chance), group[0]) for group in graph]
    return f"FINDINGS: {' '.join(sentences)}\n\nIMPRESSION: {sentences[0]}\n"


def card(figures: dict[str, Any], texts: int, seed: int, data: bool) -> str:
    lines = ["# Re-reader", "", f"`wetread evaluate reading{' --data ../shared' if data else ''} --size {texts} --seed {seed}`", ""]
    names = list(figures["sources"])
    lines += [f"| kind | bar | {' | '.join(names)} | all but own |", "|---" * (len(names) + 3) + "|"]
    for kind in KINDS:
        cells = [cell(figures["sources"][name]["kinds"][kind]) for name in names]
        bar = "<= 0.05" if kind == "harmless paraphrase" else ">= 0.95"
        lines.append(f"| {kind} | {bar} | {' | '.join(cells)} | {cell(figures['all'].get(kind))} |")
    return "\n".join([*lines, ""])


def cell(row: dict[str, Any] | None) -> str:
    if not row or not row["cases"]:
        return "-"
    rouge = f"; ROUGE-L {row['ROUGE-L share']}" if "ROUGE-L share" in row else ""
    return f"{row['share']} ({row['noticed']} of {row['cases']}{rouge})"
