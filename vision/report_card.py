"""The figures of drafts as a page: the bars with reached or not reached, the rows beside each other, the plots."""
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data.bars import Bar, bar_row, bars_of

REACHED = {True: "reached", False: "**not reached**", None: "not measured"}
ROWS = ("drafts", "constant report", "shuffled images", "true labels")
BARS: tuple[Bar, ...] = (
    ("simulated studies: positive-finding F1", ("drafts", "F1"), 0.90, True),
    ("simulated studies: side right", ("drafts", "side right"), 0.98, True),
    ("simulated studies: volume error, median share of the volume", ("drafts", "median error, share of volume"), 0.10, False),
    ("simulated studies: size error, median mm", ("drafts", "median error mm"), 2.0, False),
    ("unsupported positives per 10,000 sentences, re-reader", ("text half", "unsupported positives per 10,000 sentences", "re-reader"), 0, False),
    ("unsupported positives per 10,000 sentences, search for names",
     ("text half", "unsupported positives per 10,000 sentences", "search for names"), 0, False),
    ("unsupported positives in the drafts of simulated studies", ("unsupported positives",), 0, False),
    ("real head CT: haemorrhage stated or excluded rightly, of those decided", ("real head CT", "head_ct", "right of those decided"), 0.93, True),
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
    gap, prevalence = figures["shuffled images"]["F1"], share_there(figures)
    if gap is not None:
        rows.append(bar_row("shuffled images: F1 falls to what chance gives", gap, round(prevalence + 0.1, 4), False))
    for kind, row in figures["errors noticed by the re-reader"].items():
        if row["share"] is not None:
            up = kind != "harmless paraphrase"
            rows.append(bar_row(f"drafts, {kind}: {'noticed' if up else 'wrongly flagged'}", row["share"], figures["errors, bars"][kind], up))
    return rows


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
    what = "simulated head CTs that no model was taught" if "text half" in figures else \
        (f"studies of {figures['source']}, its {figures['split']} part: {counted(figures['outcomes'])}; "
         f"left out so that nothing leaks: {counted(figures['left out so that nothing leaks'])}")
    lines = ["# Draft reports", "", f"`{figures['command']}`: {figures['studies']} {what}.", ""]
    if "bars" in figures:
        lines += ["| figure | measured | bar | reached? |", "|---|---|---|---|"]
        lines += [f"| {row['figure']} | {shown(row['measured'])} | {row['direction']} {row['bar']} | {REACHED[row['reached']]} |"
                  for row in figures["bars"]]
        lines.append("")
    lines += ["Size right: within 2 mm or a tenth of the volume. The last columns: haemorrhage stated, possible, excluded, nothing said.", "",
              "| row | precision | recall | F1 | side right | size right | median error | studies with haemorrhage | without |",
              "|---|---|---|---|---|---|---|---|---|"]
    for name in ROWS:
        row, blood = figures[name], figures["haemorrhage"][name]
        lines.append("| " + " | ".join((
            name, shown(row["precision"]), shown(row["recall"]), shown(row["F1"]), f"{shown(row['side right'])} ({row['sides']})",
            f"{shown(row['size right'])} ({row['sizes']})", f"{shown(row['median error mL'])} mL, {shown(row['median error mm'])} mm",
            ", ".join(map(str, blood["with"].values())), ", ".join(map(str, blood["without"].values())))) + " |")
    lines += ["", "| finding | there | said | precision | recall | F1 | F1 with true labels |", "|---|---|---|---|---|---|---|"]
    for part in ("by finding", "by side"):
        lines += [f"| {name.replace('_', ' ')} | {row['there']} | {row['said']} | {shown(row['precision'])} | {shown(row['recall'])} | "
                  f"{shown(row['F1'])} | {shown(figures['true labels'][part][name]['F1'])} |" for name, row in figures["drafts"][part].items()]
    if "text half" in figures:
        lines += of_simulation(figures)
    lines += ["", "| | BLEU-4 | ROUGE-L | METEOR-like |", "|---|---|---|---|"]
    lines += [f"| {name} | {row['BLEU-4']} | {row['ROUGE-L']} | {row['METEOR-like']} |" for name, row in figures["text metrics"].items()]
    lines += ["", "Text is compared as written: case, decimals and units count. METEOR-like is words and stems without synonyms."]
    return "\n".join([*lines, ""])


def of_simulation(figures: dict[str, Any]) -> list[str]:
    half, sure, speed, real = (figures[name] for name in ("text half", "sureness", "speed", "real head CT"))
    lines = ["", f"{figures['distinct drafts']} distinct drafts of {figures['studies']} studies, {figures['distinct graphs']} distinct graphs; "
             f"{figures['replaced by template']} sentences did not read back and were replaced by their template; "
             f"{shown(figures['worded by the model'])} of the findings' sentences worded by the model.", "",
             f"Text half alone: {half['graphs']} random graphs, {half['sentences']} sentences, {half['replaced by template']} of them "
             f"replaced by their template; {half['distinct texts']} distinct texts of {half['distinct graphs']} distinct graphs.", "",
             "| error put into the drafts | cases | noticed | ROUGE-L |", "|---|---|---|---|"]
    lines += [f"| {kind} | {row['cases']} | {shown(row['share'])} | {shown(row['ROUGE-L share'])} |"
              for kind, row in figures["errors noticed by the re-reader"].items()]
    if sure:
        lines += ["", f"Probabilities of {sure['answers']} answers: ECE {sure['ECE']}, Brier {sure['Brier']}; error among the surest "
                  + ", ".join(f"{share} {value}" for share, value in sure["risk at coverage"].items())
                  + "; right when " + ", ".join(f"{word} {shown(sure['bands'][band]['right'])} ({sure['bands'][band]['answers']})"
                                                for band, word in (("state", "stated"), ("hedge", "hedged"), ("omit", "left out"))) + "."]
    lines += ["", "| alert threshold | studies with a critical finding that alert | studies without any that alert |", "|---|---|---|"]
    lines += [f"| {limit} | {shown(row['recall'])} of {row['studies with']} | {shown(row['false alarms'])} of {row['studies without']} |"
              for limit, row in figures["alerts"].items()]
    lines += ["", f"Real pictures, from {real['from']}: " + "; ".join(
        f"{name}: {row['pictures']} pictures, {shown(row['abstained'])} abstained, {shown(row['right of those decided'])} of the others right "
        f"(always the commoner answer {shown(row['always the commoner answer'])})" for name, row in real.items() if isinstance(row, dict)) + "."]
    decoder = speed.get("decoder", {})
    lines += ["", f"{speed['slices']}-slice CT: {speed['seconds a draft']} s a draft, {speed['memory of the image path, MB']} MB."
              + (f" Decoder: {json.dumps(decoder)}." if decoder else "")]
    return [*lines, "", "![F1 by finding](drafts.png)", "![Calibration, risk and coverage](sureness.png)"]


def write_card(out: Path, figures: dict[str, Any]) -> None:
    """figures.json, card.md, drafts.png and, where probabilities were held against the truth, sureness.png."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=1))
    (out / "card.md").write_text(card(figures))
    plot_findings(figures, out / "drafts.png")
    if figures.get("sureness"):
        plot_sureness(figures["sureness"], out / "sureness.png")


def plot_findings(figures: dict[str, Any], path: Path) -> None:
    sheet = Figure(figsize=(8, 4.5), layout="constrained")
    axes, codes = sheet.add_subplot(), figures["codes"]
    for k, row in enumerate(ROWS):
        axes.bar(np.arange(len(codes)) + (k - 1.5) * 0.2, [figures[row]["by finding"][code]["F1"] or 0 for code in codes], 0.2, label=row)
    axes.set_xticks(range(len(codes)), [code.replace("_haemorrhage", "").replace("_", " ") for code in codes], rotation=30, ha="right")
    axes.set(ylabel="F1, read from the text", title=f"{figures['studies']} studies")
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


def shown(value: Any) -> str:
    return "-" if value is None else str(value)


def counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in rows.items() if count) or "nothing"
