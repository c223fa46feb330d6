"""Measure any head of the table: unseen seeds on held-out heads and scanners, real images where there are some, the floor beside it."""
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, ModelError, OutputError
from data.head_images import READERS, ImageCase, own_cases, real_cases
from data.labelled_pictures import folds
from data.model_files import load_model
from vision import train_head
from vision.calibration import OF, Counts, calibration, counts_of
from vision.head_pictures import plot_examples, plot_reliability
from vision.heads import CLASSED, HEADS, Head, head_named
from vision.heads.examples import Example, make_example, simulated_examples
from vision.heads.tasks import TASKS, Scores, masks_of
from vision.metrics import class_figures
from vision.metrics import with_interval as interval
from vision.train_head import load_head, split_own, split_real

CASES, FLOOR_CASES, FLOOR_CASES_MAX = 24, 20, 800
FOLDS = 5
FOLDED = ("lgg_flair", "phe_sich", "tumor4")    # real sets with enough patients to learn from
SITES = ("DU", "HT")                            # of lgg_flair
HIDDEN = ("validation", "label")
MCI = ("mci_stable", "mci_converter")
Rows = list[Scores]
Answer = Callable[[Example], Any]


def main(name: str, data: Path | None = None, out: Path | None = None, size: int | None = None, seed: int = 0, device: str = "cpu",
         folder: Path | None = None, epochs: int | None = None, anatomy: Path | None = None, workers: int | None = None, date: str = "",
         base: Path | None = None,
         report: Callable[..., None] = lambda *a, **k: None) -> dict[str, Any]:
    """Figures as a dict; with `out`, figures.json, card.md, examples.png and calibration.png beside the weights.

    Args:
        folder: the weights; default `out` where it holds some, else what ships.
        size: test cases.
        workers: processes that simulate, and threads that draw the batches of the folds.
        epochs: of each of five folds on the row's real images, started from `base`; none unless given.
        base: folder of weights taught by simulation alone, where those that are measured were taught the real images too.
    """
    head = head_named(name)
    if head.task == "program":
        raise InputError(f"{name} has an evaluation of its own; run `wetread evaluate {name}`")
    out = Path(out) if out else None
    folder = folder or (out if out and (out / "model.safetensors").exists() else head.folder)
    net = load_head(head, folder, device)
    data = Path(data) if data else None
    if anatomy is None and data and (data / "synthseg_labelmaps").is_dir():
        anatomy = data / "synthseg_labelmaps"
    cases = (out or Path("build") / name) / "cases"
    if data and (data / "own").is_dir():
        split = split_own(head, own_cases(data / "own", head.inputs, head.outputs, head.modality))
        known, test, what = split["train"], split["test"], "own patients held out"
    else:
        known = simulated_examples(head, "train", taught_cases(head, folder), cases, seed, anatomy, workers or 1, report)
        test = simulated_examples(head, "test", size or CASES, cases, seed, anatomy, workers or 1, report)
        what = "simulated"
    task = TASKS[head.task]
    answers = [task.predict(head, net, example, device) for example in test]
    rows = [task.score(head, answer, example) for answer, example in zip(answers, test, strict=True)]
    asked = "".join(f" --{word} {value}" for word, value in (("data", data), ("size", size), ("epochs", epochs), ("base", base)) if value)
    made = json.loads((folder / "card.json").read_text())
    figures: dict[str, Any] = {"head": name, "date": date, "command": f"wetread evaluate {name}{asked}",
                               "taught_by": made.get("command", ""), "taught_minutes": made["figures"]["minutes"],
                               "metric": head.metric, what: {"cases": len(test), "head": summary(head, rows), "floors": {}}}
    floors: dict[str, Answer] = {}
    for title, floor in ((head.floor_name, head.floor), *head.also):
        if floor is not None:
            answer = floors[title] = floor(head, known)
            figures[what]["floors"][title] = summary(head, [task.score(head, answer(example), example) for example in test])
            report(1, 1, phase=f"floor: {title}")
    if head.pair and what == "simulated":
        figures[what]["treatment effect"] = treatment_effect(head, answers, test, device)
    figures[what]["subgroups"] = subgroups(head, rows, test)
    if head.task in OF:
        figures[what]["calibration"] = calibration(head, [counts_of(head, answer, example) for answer, example in zip(answers, test, strict=True)])
    if data and head.real and (data / READERS[head.real][0]).is_dir():
        base = Path(base or folder)
        if not json.loads((base / "card.json").read_text())["recipe"].startswith("simulated"):
            raise InputError(f"{base} holds weights that were taught real images; give --base FOLDER with weights taught by simulation alone")
        figures |= on_real(head, load_head(head, base, device), data, device, base, epochs, seed, workers, floors.get(head.floor_name), report)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            plot_examples(head, test, answers, rows, out / "examples.png")
            if reliable := {name: part["calibration"] for name, part in figures.items() if isinstance(part, dict) and part.get("calibration")}:
                plot_reliability(reliable, out / "calibration.png")
            (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
            (out / "card.md").write_text(card(head, figures, folder))
        except OSError as error:
            raise OutputError(f"{out} cannot be written ({error.strerror}); make room or give another --out") from None
    return figures


def taught_cases(head: Head, folder: Path) -> int:
    """What a floor learns from: of a class, and where a network is compared with, as many cases as the head did, at most FLOOR_CASES_MAX; a network
    for raw data as many as the head learnt from and was stopped by; else FLOOR_CASES, whose points are many.
    """
    if head.task not in (*CLASSED, "rebuild") and not head.pair:
        return FLOOR_CASES
    taught = json.loads((folder / "card.json").read_text())["trained_on"]
    return int(taught["train"] + taught["validation"]) if head.task == "rebuild" else min(FLOOR_CASES_MAX, int(taught["train"]))


# ---------------------------------------------------------------- summing up

def summary(head: Head, rows: Rows) -> dict[str, list[float]]:
    """Figure -> [value, low, high], 95 % by drawing patients again; [value] where one patient gives none, no figure where there is none."""
    found: dict[str, list[float]] = {}
    if head.task in CLASSED:
        for key in ("accuracy", "auc", "ece"):
            found[key] = interval(rows, lambda drawn, key=key: classes_of(drawn)[key])
        for extra, pair in (("auc normal against alzheimer", ("normal", "alzheimer")),):
            if set(pair) <= set(head.outputs) and len(head.outputs) > 2:
                a, b = (head.outputs.index(p) for p in pair)
                two = [row for row in rows if int(row["label"]) in (a, b)]
                found[extra] = interval(two, lambda drawn, a=a, b=b: class_figures(
                    np.array([[r[f"p{a}"], r[f"p{b}"]] for r in drawn]), np.array([int(r["label"]) == b for r in drawn], np.int64))["auc"])
        if set(MCI) <= set(head.outputs):
            found["accuracy, MCI as one"] = interval(rows, lambda drawn: accuracy_of_three(head, drawn))
        return {key: value for key, value in found.items() if value}
    if head.task == "detect":
        found["sensitivity"] = interval(rows, lambda drawn: total(drawn, "lesions_found") / max(total(drawn, "lesions"), 1))
        found["false_positives_a_case"] = interval(rows, lambda drawn: total(drawn, "false_positives") / len(drawn))
    for key in sorted({k for row in rows for k in row} - set(HIDDEN)):
        if key.startswith(("lesions", "false_positives")):
            continue
        have = [row for row in rows if key in row]
        found[key] = interval(have, lambda drawn, key=key: float(np.mean([row[key] for row in drawn])))
    return {key: value for key, value in found.items() if value}


def total(rows: Rows, key: str) -> float:
    return float(sum(row[key] for row in rows))


def classes_of(rows: Rows) -> dict[str, float]:
    count = sum(k[:1] == "p" and k[1:].isdigit() for k in rows[0])
    return class_figures(np.array([[row[f"p{k}"] for k in range(count)] for row in rows]), np.array([int(row["label"]) for row in rows]))


def accuracy_of_three(head: Head, rows: Rows) -> float:
    """Normal, MCI or Alzheimer's disease, as the review's three classes: both kinds of MCI are one."""
    a, b = (head.outputs.index(name) for name in MCI)
    probability = np.array([[row[f"p{k}"] for k in range(len(head.outputs))] for row in rows])
    label = np.array([int(row["label"]) for row in rows])
    probability[:, a] += probability[:, b]
    probability[:, b] = 0
    return float((probability.argmax(1) == np.where(label == b, a, label)).mean())


def subgroups(head: Head, rows: Rows, examples: Sequence[Example]) -> dict[str, Any]:
    """The row's figure for parts of the test: small and large lesions, sexes, ages, classes; parts of fewer than three are left out."""
    groups: dict[str, list[int]] = {}
    measured = head.task in ("outline", "detect") and not head.exclusive
    sizes = [float((np.asarray(e["targets"]) > 0).sum()) * e.voxel_ml for e in examples] if measured else []
    middle = float(np.median([s for s in sizes if s > 0] or [0]))
    for i, example in enumerate(examples):
        numbers = example.facts.get("numbers", {})
        if sizes and sizes[i] > 0:
            groups.setdefault(f"{'up to' if sizes[i] <= middle else 'above'} {middle:.1f} mL", []).append(i)
        if "age_years" in numbers:
            groups.setdefault("from 65 years" if float(numbers["age_years"]) >= 65 else "under 65 years", []).append(i)
        if "sex" in numbers:
            groups.setdefault(f"sex {numbers['sex']}", []).append(i)
        if head.task in ("outline", "image") and isinstance(numbers.get("contrast"), str):
            groups.setdefault(f"contrast {numbers['contrast']}", []).append(i)
    found = {}
    for name, index in sorted(groups.items()):
        own = summary(head, [rows[i] for i in index]) if len(index) >= 3 else {}
        if head.metric in own:
            found[name] = {"cases": len(index), head.metric: own[head.metric]}
    return found


def treatment_effect(head: Head, answers: Sequence[Any], examples: Sequence[Example], device: str) -> dict[str, Any]:
    """mL that the treatment saves the same patients, by this row's network and its pair's, beside what the simulator put in."""
    pair = HEADS[head.pair]
    other = load_head(pair, None, device)

    def volume_ml(row: Head, answer: Any, example: Example) -> float:
        return float(masks_of(row, answer)[0].sum()) * example.voxel_ml

    def saved(volumes_ml: Mapping[str, float]) -> float:
        return volumes_ml["final_untreated"] - volumes_ml["final_treated"]

    rows = [{"predicted": saved({head.outputs[0]: volume_ml(head, answer, example),
                                 pair.outputs[0]: volume_ml(pair, TASKS[pair.task].predict(pair, other, example, device), example)}),
             "simulated": saved(example.facts["volumes_ml"])} for answer, example in zip(answers, examples, strict=True)]

    def mean(of: Callable[[Scores], float]) -> list[float]:
        return interval(rows, lambda drawn: float(np.mean([of(row) for row in drawn])))

    return {"of": "mL lost without treatment less mL lost with it", "predicted_ml": mean(lambda row: row["predicted"]),
            "simulated_ml": mean(lambda row: row["simulated"]), "error_ml": mean(lambda row: abs(row["predicted"] - row["simulated"])),
            "correlation": interval(rows, lambda drawn: together([row["predicted"] for row in drawn], [row["simulated"] for row in drawn]))}


def together(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's r; NaN where one of them never changes."""
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else float("nan")


# ---------------------------------------------------------------- real images

def on_real(head: Head, net: Any, data: Path, device: str, folder: Path, epochs: int | None, seed: int, workers: int | None,
            floor: Answer | None, report: Callable[..., None]) -> dict[str, Any]:
    cases = real_cases(head.real, data)
    if not cases:
        return {}
    if head.name == "t1_to_flair":
        whole = [c for c in cases if complete(c)]
        found = {f"real {head.real}, simulation only": on_made_flair(head, lambda i: net, whole, device, report)}
        if epochs:
            examples = [make_example(head, c, c.kept_whole) for c in whole]
            nets = fold_nets(head, examples, folder, epochs, seed, device, workers, report)
            found[f"real {head.real}, {FOLDS} folds by patient"] = on_made_flair(head, lambda i: nets[i], whole, device, report)
        return found
    if head.name == "ad_volumes":
        examples = [make_example(head, case, case.patient) for case in cases]
        found = {"real oasis": on_oasis(head, lambda i: net, examples, device)}
        if epochs:
            nets = fold_nets(head, [as_stage(head, e) for e in examples], None, epochs, seed, device, workers, report)
            found[f"real oasis, {FOLDS} folds by patient"] = on_oasis(head, lambda i: nets[i], examples, device)
        return found
    examples = [make_example(head, case, case.kept_whole) for case in cases]
    floors = {head.floor_name: summary(head, [TASKS[head.task].score(head, floor(e), e) for e in examples])} if floor is not None else {}
    counts: list[Counts] = []
    rows = score_all(head, net, examples, device, report, counts)
    found = {f"real {head.real}, simulation only": {"cases": len(cases), "head": summary(head, rows), "floors": floors,
                                                    "calibration": calibration(head, counts) if counts else {}}}
    if epochs and head.real in FOLDED:
        if head.real == "lgg_flair":
            found["real lgg_flair, taught sites DU and HT, tested on CS and FG"] = other_sites(head, examples, cases, folder, epochs, seed, device,
                                                                                               workers, report)
        found[f"real {head.real}, {FOLDS} folds by patient"] = five_folds(head, examples, folder, epochs, seed, device, workers, report)
    return found


def score_all(head: Head, net: Any, examples: Sequence[Example], device: str, report: Callable[..., None] = lambda *a, **k: None,
              counts: list[Counts] | None = None) -> Rows:
    """`counts` gets each case's, for calibration."""
    task, rows = TASKS[head.task], []
    for i, example in enumerate(examples):
        answer = task.predict(head, net, example, device)
        rows.append(task.score(head, answer, example))
        if counts is not None and head.task in OF:
            counts.append(counts_of(head, answer, example))
        if (i + 1) % 10 == 0:
            report(i + 1, len(examples), phase="real")
    return rows


def fold_nets(head: Head, examples: list[Example], folder: Path | None, epochs: int, seed: int, device: str, workers: int | None,
              report: Callable[..., None]) -> list[Any]:
    """For each example the net that was taught the other folds, started from the weights in `folder`; an eighth of those stops the training."""
    import tempfile

    fold, nets = folds_of(head, examples), []
    for k in range(FOLDS):
        split = split_real([e for e, f in zip(examples, fold, strict=True) if f != k], seed + k)
        with tempfile.TemporaryDirectory() as place:
            train_head.main(head.name, out=Path(place), examples=split, epochs=epochs, seed=seed + k, device=device, base=folder, workers=workers,
                            report=report)
            nets.append(load_head(head, Path(place), device))
    return [nets[f] for f in fold]


def five_folds(head: Head, examples: list[Example], folder: Path, epochs: int, seed: int, device: str, workers: int | None,
               report: Callable[..., None]) -> dict[str, Any]:
    """Each patient by a net that was taught the other folds, and by a floor that was."""
    nets = fold_nets(head, examples, folder, epochs, seed, device, workers, report)
    counts: list[Counts] = []
    rows = [score_all(head, net, [example], device, counts=counts)[0] for net, example in zip(nets, examples, strict=True)]
    found: dict[str, Any] = {"cases": len(examples), "epochs": epochs, "head": summary(head, rows)}
    if counts:
        found["calibration"] = calibration(head, counts)
    if head.floor is not None:
        fold, answers = folds_of(head, examples), []
        for k in range(FOLDS):
            answers.append(head.floor(head, [e for e, f in zip(examples, fold, strict=True) if f != k]))
        floor_rows = [TASKS[head.task].score(head, answers[f](e), e) for e, f in zip(examples, fold, strict=True)]
        found["floors"] = {head.floor_name: summary(head, floor_rows)}
    return found


def folds_of(head: Head, examples: Sequence[Example]) -> NDArray[np.int64]:
    return folds([f"{head.real}:{e.facts['patient']}" for e in examples], FOLDS)


def other_sites(head: Head, examples: list[Example], cases: Sequence[ImageCase], folder: Path, epochs: int, seed: int, device: str,
                workers: int | None, report: Callable[..., None]) -> dict[str, Any]:
    """Patients of hospitals that the net was taught nothing of."""
    import tempfile

    known = [e for e, c in zip(examples, cases, strict=True) if c.site in SITES]
    other = [e for e, c in zip(examples, cases, strict=True) if c.site not in SITES]
    split = split_real(known, seed)
    with tempfile.TemporaryDirectory() as place:
        train_head.main(head.name, out=Path(place), examples=split, epochs=epochs, seed=seed, device=device, base=folder, workers=workers,
                        report=report)
        taught = load_head(head, Path(place), device)
    return {"cases": len(other), "epochs": epochs, "head": summary(head, score_all(head, taught, other, device, report))}


def complete(case: ImageCase) -> bool:
    return not any(np.array_equal(case.channels[name], case.channels["FLAIR"]) for name in ("T1", "T1CE"))


def on_made_flair(head: Head, net_of: Callable[[int], Any], cases: Sequence[ImageCase], device: str, report: Callable[..., None]) -> dict[str, Any]:
    """SSIM against the real FLAIR, and what the frozen lesion segmenter makes of the synthetic one beside the real one."""
    segmenter = HEADS["flair_lesions"]
    try:
        judge = load_head(segmenter, None, device)
    except ModelError:
        judge = None
    rows, real, made = [], [], []
    for i, case in enumerate(cases):
        example = make_example(head, case, case.patient)
        image = TASKS["image"].predict(head, net_of(i), example, device)
        rows.append(TASKS["image"].score(head, image, example))
        if judge is not None and case.masks["lesion"].any():
            own = make_example(segmenter, case, case.patient)
            real += score_all(segmenter, judge, [own], device)
            synthetic = ImageCase(case.patient, {"FLAIR": image[0]}, case.masks, spacing_mm=case.spacing_mm)
            made += score_all(segmenter, judge, [make_example(segmenter, synthetic, case.patient)], device)
        report(i + 1, len(cases), phase="real")
    found: dict[str, Any] = {"cases": len(cases), "head": summary(head, rows)}
    if real:
        share = float(np.mean([r["dice"] for r in made])) / max(float(np.mean([r["dice"] for r in real])), 1e-6)
        found["frozen segmenter"] = {"dice on the real": summary(segmenter, real)["dice"], "dice on the synthetic": summary(segmenter, made)["dice"],
                                     "share": round(share, 3)}
    return found


def as_stage(head: Head, example: Example) -> Example:
    """Who is demented as the last of the head's classes."""
    return Example(example.arrays, example.facts | {"category": (len(head.outputs) - 1) * int(example.facts["category"] or 0)})


def on_oasis(head: Head, net_of: Callable[[int], Any], examples: Sequence[Example], device: str) -> dict[str, Any]:
    """Dementia or not: each patient's probability of Alzheimer's disease, and a logistic regression of its own, five folds by patient."""
    from vision.heads.floors import volume_regression

    truth = np.array([int(e.facts["category"] or 0) for e in examples])
    fold = folds_of(head, examples)
    own = np.zeros((len(examples), 2))
    for k in range(FOLDS):
        answer = volume_regression(head, [e for e, f in zip(examples, fold, strict=True) if f != k])
        for i in np.flatnonzero(fold == k):
            own[i] = answer(examples[i])
    p = np.array([float(TASKS["volumes"].predict(head, net_of(i), e, device)[-1]) for i, e in enumerate(examples)])

    def auc(values: NDArray[Any]) -> list[float]:
        rows = [{"p0": 1 - float(v), "p1": float(v), "label": float(t)} for v, t in zip(values, truth, strict=True)]
        return interval(rows, lambda drawn: classes_of(drawn)["auc"])

    return {"cases": len(examples), "head": {"auc": auc(p)}, "floors": {"logistic regression, five folds": {"auc": auc(own[:, 1])}}}


# ---------------------------------------------------------------- the card

def card(head: Head, figures: dict[str, Any], folder: Path) -> str:
    made = json.loads((folder / "card.json").read_text())
    lines = [f"# {head.name}", "", f"{head.what[0].upper()}{head.what[1:]}. A tool for a radiologist, never a diagnosis. Not a medical device.", "",
             f"- reads: {', '.join(head.inputs) or 'volumes, age, sex'}; answers: {', '.join(head.outputs)}",
             f"- network: {head.network}, {made['parameters']:,} weights; loss {head.loss}",
             f"- trained on: {made['recipe']}, {json.dumps(made['trained_on'])}, heads {made['heads simulated']}, "
             f"seed {made['seed']}, {made['figures']['minutes']} minutes on {made.get('device', 'CPU')}, by `{made.get('command', '')}`",
             f"- bar: {head.bar}", f"- published: {head.published or 'no figure'}", f"- measured {figures['date']} by `{figures['command']}`", ""]
    for name, part in figures.items():
        if not isinstance(part, dict):
            continue
        lines += [f"## {name[0].upper()}{name[1:]}: {part['cases']} cases", "", "| method | " + " | ".join(part["head"]) + " |",
                  "|---" * (len(part["head"]) + 1) + "|"]
        for title, own in (("this head", part["head"]), *part.get("floors", {}).items()):
            lines.append(f"| {title} | " + " | ".join(words(own.get(key)) for key in part["head"]) + " |")
        lines += ["",
                  *(f"- {group}: {row['cases']} cases, {head.metric} {words(row[head.metric])}" for group, row in part.get("subgroups", {}).items())]
        if kept := part.get("calibration"):
            lines.append(f"- calibration of {kept['of']}: ECE {words(kept['ece'])}")
        if effect := part.get("treatment effect"):
            told = "; ".join(f"{key} {words(value)}" for key, value in effect.items() if key != "of")
            lines.append(f"- treatment effect, {effect['of']}: {told}")
        if "frozen segmenter" in part:
            lines.append(f"- frozen segmenter: {json.dumps(part['frozen segmenter'])}")
        lines.append("")
    reliable = any(isinstance(part, dict) and part.get("calibration") for part in figures.values())
    return "\n".join([*lines, "A figure on simulated cases says how well the simulation was learnt, not how well patients are read.", "",
                      "![best, median, worst](examples.png)", "", *(["![calibration](calibration.png)", ""] if reliable else [])])


def words(value: list[float] | None) -> str:
    return "" if not value else f"{value[0]:.3g}" + (f" [{value[1]:.3g}, {value[2]:.3g}]" if len(value) > 2 else "")


def shipped_figures(head: Head) -> dict[str, Any]:
    """What was measured of the shipped weights; {} where nothing was."""
    path = head.folder / "figures.json"
    return json.loads(path.read_text()) if path.exists() and not head.weights else {}


def version_of(head: Head) -> str:
    try:
        return str(load_model(head.folder)[0]["version"])
    except ModelError:
        return ""
