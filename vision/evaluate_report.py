"""Measure drafts through the whole image path, beside a constant report, shuffled images and true labels.

Simulated studies whose truth is known, those of heads that no training saw beside those of the embedded one; or somebody's studies with
their reports (data/report_studies.py).
"""
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from data.critical import critical_findings
from data.errors import InputError
from data.model_files import MODELS
from data.records import Draft, Finding
from data.simulate.anatomy import list_heads
from data.simulator import simulate_head_ct
from nlp.evaluate_reading import BARS as READING_BARS
from nlp.evaluate_reading import share, table
from nlp.sentences import fill, group_findings, paraphrase
from nlp.text_metrics import text_metrics
from vision.bench_decoder import bench_decoder, peak_memory
from vision.evaluate_findings import on_real_pictures
from vision.evaluate_wording import ERRORS, wording, write
from vision.findings import FindingModel
from vision.report_card import all_bars, parts_of, write_card
from vision.report_scores import CONSTANT, alert_table, haemorrhage_table, ratio, score, shuffled, sureness, unsupported
from vision.reporter import Reporter

# what a simulated head CT can have, beside the haemorrhage of no known kind
CODES = ("epidural_haemorrhage", "subdural_haemorrhage", "subarachnoid_haemorrhage", "intraparenchymal_haemorrhage", "intraventricular_haemorrhage",
         "midline_shift", "mass_effect", "skull_fracture")
GRAPHS = 1600           # some 10,000 sentences; the bar asks for 10,000 drafts, which take minutes (--graphs 10000)
SLICES_MM = 4.0         # of the 40-slice study that is timed
HEADS = "synthseg_labelmaps"        # a folder that holds this one has heads for the simulator, and is no set of reports


def main(data: Path | None = None, out: Path | None = None, studies: int = 60, seed: int = 5000, device: str = "cpu",
         report: Callable[..., None] = lambda *a, **k: None, pictures: Path | None = None, base: Path | None = None, graphs: int = GRAPHS,
         stored_s: Callable[[str], float] | None = None) -> dict[str, Any]:
    """Print nothing, return the figures; with `out` also figures.json, card.md and plots.

    Args:
        data: a folder with synthseg_labelmaps, to simulate also the heads of it that no training saw; or one of studies with reports in a layout
            of data/report_studies.py, which are measured instead. Without it the embedded head alone, which training knows.
        studies: at most so many, of the embedded head and of the unseen ones each.
        pictures: a folder of real head CT pictures with labels; without it their row is that of the finding model's card.
        base: a folder of models (findings/, report/) instead of the shipped ones.
        graphs: random graphs for the text half; the bar asks for 10,000.
        stored_s: seconds from a complete study to its stored draft, measured by the shell.
    Raises: InputError when `graphs` is less than 1, or `data` has nothing to measure on.
    """
    if graphs < 1:
        raise InputError(f"--graphs is {graphs}, expected 1 or more random graphs")
    folder = Path(base) if base else None
    reporter = Reporter.load(folder, device)
    heads = Path(data) / HEADS if data is not None and (Path(data) / HEADS).is_dir() else None
    if data is not None and heads is None:
        from vision.evaluate_records import on_records

        figures = on_records(reporter, Path(data), studies, seed, report)
    else:
        figures = on_simulated(reporter, studies, seed, report)
        if heads is not None:
            figures["unseen heads"] = on_simulated(reporter, studies, seed, report, list_heads(heads, held_out=True))
        figures["text half"] = wording(reporter, graphs, seed, report)
        figures["real head CT"] = on_real(folder, pictures, device, report)
        figures["speed"] = speed(reporter, folder, device, seed, stored_s)
        figures["errors"] = errors_together(figures)
        figures["errors, bars"] = READING_BARS
        figures["bars"] = all_bars(figures)
    figures["command"] = command_of(studies, seed, data, pictures, base, None if graphs == GRAPHS else graphs)
    if out is not None:
        write_card(Path(out), figures)
    return figures


def on_simulated(reporter: Reporter, studies: int, seed: int, report: Callable[..., None], heads: Sequence[str] = ("",)) -> dict[str, Any]:
    """Drafts of simulated studies against their truth; `heads` are label maps, in turn, "" the embedded one. A seed draws alike in every head."""
    drafts, truths = [], []
    for i in range(studies):
        simulated = simulate_head_ct(seed + i, anatomy=heads[i % len(heads)] or None)
        drafts.append(reporter.draft(simulated.study)[0])
        truths.append(simulated.findings)
        report(i + 1, studies, phase="simulated studies" if heads == ("",) else "simulated studies of unseen heads")
    texts = [draft.sections["findings"] for draft in drafts]
    whole = [f"FINDINGS: {text}\n\nIMPRESSION: {draft.sections['impression']}\n" for text, draft in zip(texts, drafts, strict=True)]
    perfect = [" ".join(s.text for s in write(reporter, truth)[0] if s.section == "findings") for truth in truths]
    rows = {"drafts": texts, "constant report": [CONSTANT] * studies, "shuffled images": shuffled(texts, seed), "true labels": perfect}
    loose = [(code, text) for draft, text in zip(drafts, whole, strict=True)
             for code in unsupported(text, [f.code for f in draft.findings if f.present and f.band != "omit"])]
    sentences = sum(s.section in ("findings", "impression") for draft in drafts for s in draft.sentences)
    references = [reference(truth, Random(seed + i)) for i, truth in enumerate(truths)]
    return {
        "studies": studies, "seed": seed, "codes": list(CODES), "heads": [Path(head).stem or "embedded" for head in heads],
        **{name: score(said, truths, CODES) for name, said in rows.items()},
        "haemorrhage": {name: haemorrhage_table(said, truths) for name, said in rows.items()},
        "distinct drafts": len(set(texts)), "distinct graphs": len({key_of(draft) for draft in drafts}),
        "sentences": sentences, "unsupported positives": len(loose),
        "replaced by template": sum(int(draft.model["replaced_by_template"]) for draft in drafts),
        "worded by the model": share_by_model(drafts),
        "sureness": sureness(drafts, truths), "alerts": alert_table(drafts, truths, critical_findings()),
        "errors noticed by the re-reader": table(whole, seed, ERRORS)["kinds"],
        "text metrics": {name: text_metrics(said, references) for name, said in rows.items()},
    }


def on_real(models: Path | None, pictures: Path | None, device: str, report: Callable[..., None]) -> dict[str, Any]:
    """Real head CT pictures (vision/evaluate_findings.py): the picture net alone in five folds by group, and with `pictures` the drafts of one fold.

    Without `pictures` the net's folds are those of the finding model's card, and no drafts are counted.
    """
    folder = (models or MODELS) / "findings"
    if pictures is not None:
        answers = on_real_pictures(FindingModel.load(folder, device), Path(pictures), device, report)
        source = f"--pictures {pictures}"
    else:
        answers = {"picture net, five folds": json.loads((folder / "card.json").read_text())["figures"].get("picture net, five folds", {})}
        source = "the finding model's card (wetread evaluate findings)"
    rows = {name: row for name, row in answers.get("picture net, five folds", {}).items()
            if isinstance(row, dict) and row.get("decided") is not None}
    return {"from": source,
            "picture net": {name: {"pictures": row["pictures"], "abstained": round(1 - row["decided"], 4),
                                   "right of those decided": row["accuracy_decided"],
                                   "always the commoner answer": row["floor_accuracy_constant"]} for name, row in rows.items()},
            "drafts": drafts_of_pictures(answers.get("drafts of groups held out", {}))}


def drafts_of_pictures(tally: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
    """Haemorrhage in single pictures of a set: stated or excluded rightly, of those decided; possible and refused are abstentions, counted apart."""
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted({key.split(", ")[0] for key in tally if key.endswith(" haemorrhage")}):
        bleeds, clear = (tally.get(f"{name}, {word} haemorrhage", {}) for word in ("with", "without"))
        count = sum(bleeds.values()) + sum(clear.values())
        right = bleeds.get("stated", 0) + clear.get("excluded", 0)
        decided = right + bleeds.get("excluded", 0) + clear.get("stated", 0)
        rows[name] = {"pictures": count, "abstained": ratio(count - decided, count), "right of those decided": ratio(right, decided),
                      "with haemorrhage": dict(bleeds), "without": dict(clear)}
    return rows


def errors_together(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Kind -> cases, noticed and share, in each source of drafts and in all of them."""
    sources = {name: part["errors noticed by the re-reader"]
               for name, part in {**parts_of(figures), "random graphs": figures["text half"]}.items()}
    rows: dict[str, dict[str, Any]] = {}
    for kind in ERRORS:
        cases, noticed = (sum(found[kind][name] for found in sources.values()) for name in ("cases", "noticed"))
        rows[kind] = {**{name: found[kind] for name, found in sources.items()},
                      "all": {"cases": cases, "noticed": noticed, "share": share(noticed, cases)}}
    return rows


def reference(truth: Sequence[Finding], chance: Random) -> str:
    """The truth as another hand would word it: what BLEU and its like compare with."""
    return " ".join(fill(paraphrase(group, chance), group[0]) for group in group_findings(truth))


def key_of(draft: Draft) -> str:
    return repr([(f.code, f.present, f.band, f.side, f.size_mm, f.volume_ml, f.count) for f in draft.findings if f.present and f.band != "omit"]
                + [f.code for f in draft.findings if not f.present and f.band == "state"])


def share_by_model(drafts: Sequence[Draft]) -> float | None:
    said = [s.provenance == "model" for draft in drafts for s in draft.sentences if s.section == "findings"]
    return ratio(sum(said), len(said))


# ---------------------------------------------------------------- speed and memory

def speed(reporter: Reporter, models: Path | None, device: str, seed: int, stored_s: Callable[[str], float] | None) -> dict[str, Any]:
    """Seconds a draft of a 40-slice CT, memory of a process that does nothing else; of the command alone, the stored draft and the decoder."""
    study = simulate_head_ct(seed, slice_mm=SLICES_MM).study
    start = time.perf_counter()
    reporter.draft(study)
    figures: dict[str, Any] = {"slices": len(study.volumes[0].pixels), "seconds a draft": round(time.perf_counter() - start, 2),
                               "memory of the image path, MB": memory_mb(models)}
    if stored_s is not None:
        figures["seconds from complete study to stored draft"] = round(stored_s(device), 2)
        figures["decoder"] = {**bench_decoder(), "memory": peak_memory()}
    return figures


def memory_mb(models: Path | None) -> int:
    """Largest resident memory of a process that only drafts one 40-slice CT."""
    code = ("import sys; from pathlib import Path; from vision.reporter import Reporter; from data.simulator import simulate_head_ct; "
            f"study = simulate_head_ct(1, slice_mm={SLICES_MM}).study; open('/proc/self/clear_refs', 'w').write('5'); "
            "Reporter.load(Path(sys.argv[1]) if sys.argv[1] else None).draft(study); "
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))")
    done = subprocess.run([sys.executable, "-c", code, str(models.absolute() if models else "")], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parent.parent)
    return round(int(done.stdout) / 1024)


def command_of(studies: int, seed: int, data: Path | None, pictures: Path | None, base: Path | None, graphs: int | None) -> str:
    options = (("data", data), ("size", studies), ("seed", seed), ("pictures", pictures), ("base", base), ("graphs", graphs))
    return "wetread evaluate report" + "".join(f" --{name} {value}" for name, value in options if value is not None)
