"""The figures of drafts as a page: the bars with reached or not reached, the rows beside each other, the plots."""
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data.bars import Bar, bar_row, bars_of

REACHED = {True: "reached", False: "**not reached**", None: "not measured"}
ROWS = ("drafts", "constant report", "shuffled images", "true labels")
# simulated studies -> where they stand in the figures: of the heads that no training saw, and of the one that training knows by other seeds
PARTS: dict[str, tuple[str, ...]] = {"unseen heads": ("unseen heads",), "embedded head": ()}
OF_STUDIES: tuple[Bar, ...] = (
    ("positive-finding F1", ("drafts", "F1"), 0.90, True),
    ("side right", ("drafts", "side right"), 0.98, True),
    ("volume error, median share of the volume", ("drafts", "median error, share of volume"), 0.10, False),
    ("size error, median mm", ("drafts", "median error mm"), 2.0, False),
    ("unsupported positives in the drafts", ("unsupported positives",), 0, False),
)
BARS: tuple[Bar, ...] = (
    *((f"{part}: {name}", (*at, *path), bar, up) for part, at in PARTS.items() for name, path, bar, up in OF_STUDIES),
    ("drafts of random graphs that were read back", ("text half", "graphs"), 10_000, True),
    ("unsupported positives in all of these drafts, re-reader", ("text half", "unsupported positives", "re-reader"), 0, False),
    ("unsupported positives in all of these drafts, search for names", ("text half", "unsupported positives", "search for names"), 0, False),
    ("real head CT, the picture net alone in five folds (of the model's card without --pictures): haemorrhage right, of those decided",
     ("real head CT", "picture net", "head_ct", "right of those decided"), 0.93, True),
    ("real head CT, drafts of the fold held out (--pictures): haemorrhage stated or excluded rightly, of those decided",
     ("real head CT", "drafts", "head_ct", "right of those decided"), 0.93, True),
    ("distinct texts over distinct graphs", ("text half", "distinct texts over distinct graphs"), 0.95, True),
    ("60 tokens, one study, one thread, fp32, CPU-s", ("speed", "decoder", "fp32 CPU s"), 0.4, False),
    ("60 tokens, one study, one thread, int8, CPU-s", ("speed", "decoder", "int8 CPU s"), 0.25, False),
    ("the same beside Hugging Face generate with cache", ("speed", "decoder", "share of Hugging Face"), 0.5, False),
    ("the same beside R2Gen's loop", ("speed", "decoder", "share of R2Gen's loop"), 0.05, False),
    ("batch 8, int8, tokens a CPU-second", ("speed", "decoder", "int8 batch 8 tokens a CPU s"), 800, True),
    ("complete study to stored draft, 40-slice CT, s", ("speed", "seconds from complete study to stored draft"), 20, False),
    ("memory of the image path, MB", ("speed", "memory of the image path, MB"), 1200, False),
)


def all_bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of BARS, and those whose bar or number depends on the run."""
    rows = bars_of(figures, BARS)
    for name, part in parts_of(figures).items():
        gap, prevalence = part["shuffled images"]["F1"], share_there(part)
        if gap is not None:
            rows.append(bar_row(f"{name}: F1 of shuffled images falls to what chance gives", gap, round(prevalence + 0.1, 4), False))
    for kind, row in figures["errors"].items():
        bar, up = figures["errors, bars"][kind], kind != "harmless paraphrase"
        rows.append(bar_row(f"drafts, {kind}: {'noticed' if up else 'wrongly flagged'}", row["all"]["share"], bar, up))
    return rows


def parts_of(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The measured parts of PARTS; studies of others are one part without a name."""
    if "text half" not in figures:
        return {"": figures}
    return {name: figures[at[0]] if at else figures for name, at in PARTS.items() if not at or at[0] in figures}


def share_there(figures: dict[str, Any]) -> float:
    """The F1 that texts of other studies have by chance: of each finding, how often it is said times how often it is there."""
    right = said = there = 0.0
    for row in figures["drafts"]["by finding"].values():
        right += row["said"] * row["there"] / figures["studies"]
        said += row["said"]
        there += row["there"]
    return 2 * right / (said + there) if said + there else 0.0


def card(figures: dict[str, Any]) -> str:
    """Markdown; the command that made it stands on top."""
    what = simulated_of(figures) if "text half" in figures else \
        (f"studies of {figures['source']}, its {figures['split']} part: {counted(figures['outcomes'])}; "
         f"left out so that nothing leaks: {counted(figures['left out so that nothing leaks'])}")
    lines = ["# Draft reports", "", f"`{figures['command']}`: {figures['studies']} {what}.", ""]
    if "bars" in figures:
        lines += ["| figure | measured | bar | reached? |", "|---|---|---|---|"]
        lines += [f"| {row['figure']} | {shown(row['measured'])} | {row['direction']} {row['bar']} | {REACHED[row['reached']]} |"
                  for row in figures["bars"]]
        lines += ["| head MR: F1, sides, sizes | `wetread evaluate mr_findings` | - | docs/reports.md |", ""]
    lines += ["Size right: within 2 mm or a tenth of the volume. The last columns: haemorrhage stated, possible, excluded, nothing said."]
    for name, part in parts_of(figures).items():
        lines += ["", *([f"**{name.capitalize()}**", ""] if name else []), *of_studies(part)]
    if "text half" in figures:
        lines += of_simulation(figures)
    lines += ["", "| | BLEU-4 | ROUGE-L | METEOR-like |", "|---|---|---|---|"]
    lines += [f"| {row}{f', {name}' if name else ''} | {found['BLEU-4']} | {found['ROUGE-L']} | {found['METEOR-like']} |"
              for name, part in parts_of(figures).items() for row, found in part["text metrics"].items()]
    lines += ["", "Text is compared as written: case, decimals and units count. METEOR-like is words and stems without synonyms."]
    return "\n".join([*lines, ""])


def simulated_of(figures: dict[str, Any]) -> str:
    unseen = figures.get("unseen heads")
    return "simulated head CTs of the embedded head, which training knows by other seeds" + (
        f", and {unseen['studies']} of the heads {', '.join(unseen['heads'])}, on which no weights were taught (thresholds were set on other studies "
        "of them)" if unseen else "; of heads that training does not know nothing was measured: give --data FOLDER with synthseg_labelmaps")


def of_studies(part: dict[str, Any]) -> list[str]:
    """The rows beside each other, and each finding, side by side with true labels."""
    lines = ["| row | precision | recall | F1 | side right | size right | median error | studies with haemorrhage | without |",
             "|---|---|---|---|---|---|---|---|---|"]
    for name in ROWS:
        row, blood = part[name], part["haemorrhage"][name]
        lines.append("| " + " | ".join((
            name, shown(row["precision"]), shown(row["recall"]), shown(row["F1"]), f"{shown(row['side right'])} ({row['sides']})",
            f"{shown(row['size right'])} ({row['sizes']})", f"{shown(row['median error mL'])} mL, {shown(row['median error mm'])} mm",
            ", ".join(map(str, blood["with"].values())), ", ".join(map(str, blood["without"].values())))) + " |")
    lines += ["", "| finding | there | said | precision | recall | F1 | F1 with true labels |", "|---|---|---|---|---|---|---|"]
    for table in ("by finding", "by side"):
        lines += [f"| {name.replace('_', ' ')} | {row['there']} | {row['said']} | {shown(row['precision'])} | {shown(row['recall'])} | "
                  f"{shown(row['F1'])} | {shown(part['true labels'][table][name]['F1'])} |" for name, row in part["drafts"][table].items()]
    if "sentences" not in part:
        return lines
    lines += ["", f"{part['distinct drafts']} distinct drafts of {part['studies']} studies, {part['distinct graphs']} distinct graphs; "
              f"{part['replaced by template']} sentences did not read back and were replaced by their template; "
              f"{shown(part['worded by the model'])} of the findings' sentences worded by the model."]
    if sure := part["sureness"]:
        lines += ["", f"Probabilities of {sure['answers']} answers: ECE {sure['ECE']}, Brier {sure['Brier']}; error among the surest "
                  + ", ".join(f"{share} {value}" for share, value in sure["risk at coverage"].items())
                  + "; right when " + ", ".join(f"{word} {shown(sure['bands'][band]['right'])} ({sure['bands'][band]['answers']})"
                                                for band, word in (("state", "stated"), ("hedge", "hedged"), ("omit", "left out"))) + "."]
    lines += ["", "| alert threshold | studies with a critical finding that alert | studies without any that alert |", "|---|---|---|"]
    return lines + [f"| {limit} | {shown(row['recall'])} of {row['studies with']} | {shown(row['false alarms'])} of {row['studies without']} |"
                    for limit, row in part["alerts"].items()]


def of_simulation(figures: dict[str, Any]) -> list[str]:
    half, speed, real = (figures[name] for name in ("text half", "speed", "real head CT"))
    lines = ["", f"Text half alone: {half['graphs']} random graphs, {half['sentences']} sentences, {half['replaced by template']} replaced "
             f"by their template; {half['distinct texts']} distinct texts of {half['distinct graphs']} distinct graphs. So many graphs carry "
             + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in half["graphs that carry"].items())
             + f". Unsupported positives per 10,000 sentences: {json.dumps(half['unsupported positives per 10,000 sentences'])}.", "",
             "Severity is a word (mild), a grade (Fazekas 2) or an age (chronic). Head CT drafts have none of these, those of random graphs "
             "now and then.", ""]
    sources = [name for name in next(iter(figures["errors"].values())) if name != "all"]
    lines += [f"| error put into the drafts | {' | '.join(sources)} | all |", "|---" * (len(sources) + 2) + "|"]
    for kind, row in figures["errors"].items():
        lines.append(f"| {kind} | {' | '.join(noticed(row[name]) for name in (*sources, 'all'))} |")
    lines += ["", f"Real pictures, the picture net alone in five folds, from {real['from']}: " + "; ".join(
        f"{name}: {row['pictures']} pictures, {shown(row['abstained'])} abstained, {shown(row['right of those decided'])} of the others right "
        f"(always the commoner answer {shown(row['always the commoner answer'])})" for name, row in real["picture net"].items()) + "."]
    lines += ["", "Drafts of real pictures that no net has seen: " + ("; ".join(
        f"{name}: {row['pictures']} pictures, {shown(row['abstained'])} abstained, {shown(row['right of those decided'])} of the others right "
        f"(with haemorrhage {counted(row['with haemorrhage'])}; without {counted(row['without'])})" for name, row in real["drafts"].items())
        or "not measured in this run; give --pictures") + "."]
    decoder = speed.get("decoder", {})
    lines += ["", f"{speed['slices']}-slice CT: {speed['seconds a draft']} s a draft, {speed['memory of the image path, MB']} MB."
              + (f" Decoder: {json.dumps({name: value for name, value in decoder.items() if name != 'memory'})}." if decoder else "")]
    if memory := decoder.get("memory"):
        lines += ["", "60 tokens of one study, each side alone in a process; what is above the libraries is the model and its writing.", "",
                  "| side | CPU-s | MB at most | above the libraries |", "|---|---|---|---|"]
        lines += [f"| {side} | {decoder[f'{side} CPU s']} | {row['peak MB']} | {row['above the libraries, MB']} |" for side, row in memory.items()]
    return [*lines, "", "![F1 by finding](drafts.png)", "![Calibration, risk and coverage](sureness.png)"]


def write_card(out: Path, figures: dict[str, Any]) -> None:
    """figures.json, card.md, drafts.png and, where probabilities were held against the truth, sureness.png."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=1))
    (out / "card.md").write_text(card(figures))
    plot_findings(figures, out / "drafts.png")
    if (sure := figures.get("unseen heads", figures).get("sureness")):
        plot_sureness(sure, out / "sureness.png")


def plot_findings(figures: dict[str, Any], path: Path) -> None:
    """Of the heads that no training saw, where they were measured."""
    name = next(iter(parts_of(figures)))
    figures = parts_of(figures)[name]
    sheet = Figure(figsize=(8, 4.5), layout="constrained")
    axes, codes = sheet.add_subplot(), figures["codes"]
    for k, row in enumerate(ROWS):
        axes.bar(np.arange(len(codes)) + (k - 1.5) * 0.2, [figures[row]["by finding"][code]["F1"] or 0 for code in codes], 0.2, label=row)
    axes.set_xticks(range(len(codes)), [code.replace("_haemorrhage", "").replace("_", " ") for code in codes], rotation=30, ha="right")
    axes.set(ylabel="F1, read from the text", title=f"{figures['studies']} studies" + (f", {name}" if name else ""))
    axes.legend()
    sheet.savefig(path, dpi=100)


def plot_sureness(sure: dict[str, Any], path: Path) -> None:
    sheet = Figure(figsize=(8, 3.8), layout="constrained")
    left, right = sheet.subplots(1, 2)
    stated, true, counts = (np.array(column, float) for column in zip(*sure["bins"], strict=True))
    left.plot((0, 1), (0, 1), "--", color="0.6", label="as it should be")
    left.scatter(stated, true, s=20 + 200 * counts / counts.max(), color="#17518f", label="answers")
    left.set(xlabel="probability", ylabel="share that is true", title=f"Calibration, ECE {sure['ECE']}")
    left.legend()
    right.plot(np.linspace(0, 1, len(sure["curve"])), sure["curve"], color="#17518f")
    right.set(xlabel="coverage, surest first", ylabel="share that is wrong", ylim=(0, None), title="Risk and coverage")
    sheet.savefig(path, dpi=100)


def noticed(row: dict[str, Any]) -> str:
    if not row["cases"]:
        return "-"
    return f"{row['noticed']} of {row['cases']}" + (f" (ROUGE-L {row['ROUGE-L share']})" if "ROUGE-L share" in row else f", {row['share']}")


def shown(value: Any) -> str:
    return "-" if value is None else str(value)


def counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in rows.items() if count) or "nothing"
