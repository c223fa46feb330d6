"""Measure the findings model: fresh simulated studies through the whole path, real heads and pictures where given, floors beside it."""
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from data.atlas import REGIONS
from data.errors import StudyRefused
from data.images import open_study
from data.labelled_pictures import LabelledPicture, folds, read_labelled_pictures
from data.midline import SHIFT_FROM_MM
from data.records import Finding, Study, Volume
from data.simulate.true_regions import REGION_LEAST, region_shares
from data.simulator import TYPES, list_anatomies, simulate_head_ct
from vision.findings import HEDGE, STATE, FindingModel, area_under, sigmoid
from vision.metrics import dice, with_interval
from vision.picture_net import PictureNet
from vision.train_findings import Slices, make_slices
from vision.train_pictures import BODY_STEPS, FOLDS, HELD_OUT_FOLD, JUDGE_STEPS, Drawn, all_on_grid, learn_body, picture_logits, train_judge

SIMULATED = 260         # studies that the picture nets of the folds learn from, as in training
IN_TABLES = ("studies", "findings", "outlines")
THRESHOLD = "50 to 90 HU"       # what a trivial method outlines
LEAST_STACK = 17        # slices of 5 mm: less is refused as no whole head


def main(data: Path | None = None, out: Path | None = None, studies: int = 60, seed: int = 500, device: str = "cpu", folder: Path | None = None,
         pictures: Path | None = None, anatomy: Path | None = None, report: Callable[..., None] = lambda *a, **k: None,
         slices: Slices | None = None, learned: tuple[PictureNet, Drawn] | None = None, date: str = "") -> dict[str, Any]:
    """Figures as a dict; with `out`, figures.json, card.md and a plot; weights that lie in `out` are those that are measured.

    Args:
        data: folder of real material as in train_findings; the picture net is trained anew without each fifth of it (minutes).
        slices, learned: simulated slices, and the picture net's body and features, where a caller has them already.
    """
    model = FindingModel.load(folder or (out if out and (out / "model.safetensors").exists() else None), device)
    data = data or pictures
    data = Path(data) if data else None
    if anatomy is None and data and (data / "synthseg_labelmaps").is_dir():
        anatomy = data / "synthseg_labelmaps"
    figures: dict[str, Any] = {"model": model.version, "date": date, "command": f"wetread evaluate findings --size {studies}"
                               + (" --data ../shared/imaging" if data else ""), "simulated": on_simulated(model, studies, seed, anatomy, report)}
    if data is not None:
        figures["real heads without haemorrhage"] = on_real_volumes(model, real_volumes(data))
        figures |= on_real_pictures(model, data, device, report, anatomy, slices, learned)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        (out / "card.md").write_text(card(figures))
        plot(figures, out / "findings.png")
    return figures


def on_real_pictures(model: FindingModel, data: Path, device: str, report: Callable[..., None], anatomy: Path | None = None,
                     slices: Slices | None = None, learned: tuple[PictureNet, Drawn] | None = None) -> dict[str, Any]:
    """Labelled pictures of `data`, each answered by nets that did not see its group; empty when there are none."""
    real = read_labelled_pictures(data)
    if not real:
        return {}
    if anatomy is None and (data / "synthseg_labelmaps").is_dir():
        anatomy = data / "synthseg_labelmaps"
    heads = list_anatomies(anatomy)
    slices = slices or make_slices(SIMULATED, 1, anatomy, slice(0, max(1, round(len(heads) * 0.8))), report)
    body, drawn = learned or learn_body(real, all_on_grid(real), slices, BODY_STEPS, device=device, report=report)
    figures, blind = cross_validate(real, body, drawn, device, report)
    return {"picture net, five folds": figures, "drafts of groups held out": held_out_drafts(model, blind, real)}


def on_simulated(model: FindingModel, studies: int, seed: int, anatomy: Path | None, report: Callable[..., None]) -> dict[str, Any]:
    """Truth against the findings graph, study by study; seeds and, with `anatomy`, heads that training did not see."""
    heads = list_anatomies(anatomy) if anatomy else ("",)
    heads = heads[round(len(heads) * 0.8):] or heads
    rows: dict[str, list[tuple[float, bool, bool]]] = {}
    sides, volumes, shifts, stated, floor = [], [], [], [], []
    drafts: dict[str, dict[str, int]] = {"with haemorrhage": {}, "without haemorrhage": {}}
    overlaps: dict[str, list[dict[str, float]]] = {"head": [], THRESHOLD: []}
    regions: dict[str, dict[str, int]] = {}
    for i in range(studies):
        made = simulate_head_ct(seed * 100_000 + i, anatomy=heads[i % len(heads)] or None)
        answer = model.find(made.study)
        found = {f.code: f for f in answer.findings}
        bright = np.stack([ndimage.median_filter(plane, 3) for plane in made.volume.pixels])
        for name, masks in (("head", answer.masks), (THRESHOLD, dict.fromkeys((f"{t}_haemorrhage" for t in TYPES), (bright > 50) & (bright < 90)))):
            overlaps[name].append({t: dice(masks.get(f"{t}_haemorrhage", np.zeros_like(made.masks[t])), made.masks[t] > 0)
                                   for t in TYPES if t in made.masks and made.masks[t].any()})
        for wanted in made.findings:
            got = found[wanted.code]
            rows.setdefault(wanted.code, []).append((got.probability, got.present, wanted.present))
            if got.present and wanted.present:
                if wanted.side and got.side:
                    sides.append(got.side == wanted.side)
                if wanted.volume_ml and got.volume_ml:
                    volumes.append((got.volume_ml, wanted.volume_ml))
                if (kind := wanted.code.removesuffix("_haemorrhage")) in made.masks and kind != "intraventricular":
                    verdict = region_verdict(got.region, region_shares(made, heads[i % len(heads)], kind))
                    regions.setdefault(kind, dict.fromkeys(VERDICTS, 0))[verdict] += 1
            if got.band == "state":
                stated.append(got.present == wanted.present)
        tally = drafts[f"{'with' if made.findings[0].present else 'without'} haemorrhage"]
        words = said(found["intracranial_haemorrhage"])
        tally[words] = tally.get(words, 0) + 1
        if made.shift_mm >= SHIFT_FROM_MM and found["midline_shift"].size_mm:
            shifts.append(abs(found["midline_shift"].size_mm - made.shift_mm))
        hu = made.volume.pixels
        floor.append((float(((hu > 50) & (hu < 90)).sum()), any(f"{t}" in made.masks for t in TYPES)))
        report(i + 1, studies, phase="simulated studies")
    result: dict[str, Any] = {"studies": studies, "findings": {}}
    for code, answers in rows.items():
        p, present, truth = (np.array(column) for column in zip(*answers, strict=True))
        result["findings"][code] = {
            "auc": area_under(p, truth),
            "accuracy": share(present == truth), "sensitivity": share(present[truth]), "specificity": share(~present[~truth]),
            "cases": int(truth.sum()), "floor_accuracy_constant": round(float(max(truth.mean(), 1 - truth.mean())), 3)}
    bright, bleeding = (np.array(column, float) for column in zip(*floor, strict=True))
    pairs = np.array(volumes or [(0, 0)], float)
    return result | {
        "outlines": {"head": outlined(overlaps["head"]), "floors": {THRESHOLD: outlined(overlaps[THRESHOLD])}},
        "drafts": drafts, "regions": regions,
        "side_accuracy": share(np.array(sides)), "stated_right": share(np.array(stated)),
        "volume_error_ml_median": round(float(np.median(np.abs(pairs[:, 0] - pairs[:, 1]))), 2),
        "shift_error_mm_median": round(float(np.median(shifts)), 2) if shifts else None,
        "floor_auc_bright_pixels": area_under(bright, bleeding)}


VERDICTS = ("right", "wrong", "none named")


def region_verdict(region: str, shares: NDArray[np.float64]) -> str:
    named = [REGIONS.index(name) for name in region.replace("posterior fossa", "cerebellum").split(", ") if name]
    if not named:
        return "none named"
    return "right" if int(shares.argmax()) in named and shares[named].min() >= REGION_LEAST else "wrong"


def outlined(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Dice of each kind where it is there, drawn by study, and the mean over the kinds."""
    kinds = [t for t in TYPES if any(t in row for row in rows)]

    def mean_of(drawn: list[dict[str, float]], wanted: Sequence[str]) -> float:
        each = [[row[t] for row in drawn if t in row] for t in wanted]
        return float(np.mean([np.mean(values) for values in each if values])) if any(each) else float("nan")

    wanted = {"dice": kinds, **{f"dice {t}": [t] for t in kinds}} if kinds else {}
    return {name: with_interval(rows, partial(mean_of, wanted=some)) for name, some in wanted.items()}


def on_real_volumes(model: FindingModel, studies: Sequence[Study]) -> dict[str, Any]:
    """What is said of real heads without haemorrhage."""
    rows = {}
    for study in studies:
        found = {f.code: f for f in model.find(study).findings}
        parent = found["intracranial_haemorrhage"]
        rows[study.id] = {"said": said(parent), "probability": parent.probability,
                          "also said": [f.code for f in found.values() if f.present and f.band != "omit" and f is not parent]}
    return rows


def cross_validate(real: Sequence[LabelledPicture], body: PictureNet, drawn: Drawn, device: str,
                   report: Callable[..., None]) -> tuple[dict[str, Any], PictureNet]:
    """Figures of five picture nets, each without a fifth of the groups; and the net without HELD_OUT_FOLD."""
    images, fold, nets = torch.from_numpy(all_on_grid(real)), folds([p.group for p in real], FOLDS), []
    logits = np.zeros(len(real), np.float32)
    for k in range(FOLDS):
        nets.append(train_judge(body, drawn, fold != k, JUDGE_STEPS, seed=k, device=device, report=report, phase=f"fold {k + 1} of {FOLDS}"))
        logits[fold == k] = picture_logits(nets[k].to(device), images[fold == k], device)
    # the body was taught turned pictures of all folds but one: only that one counts for them
    fair = np.array([p.bleeds is not None and (not p.turned or k == HELD_OUT_FOLD) for p, k in zip(real, fold, strict=True)])
    figures: dict[str, Any] = {"folds": FOLDS}
    for name in sorted({p.group.split(":")[0] for p in real}):
        own = np.array([i for i, p in enumerate(real) if p.group.split(":")[0] == name and fair[i]])
        figures[name] = figures_of(np.array([sigmoid(v) for v in logits[own]]), np.array([bool(real[i].bleeds) for i in own]),
                                   np.array([real[i].group for i in own]), images[own].numpy())
    return figures, nets[HELD_OUT_FOLD]


def figures_of(p: NDArray[np.float64], truth: NDArray[np.bool_], groups: NDArray[np.str_], images: NDArray[np.float32]) -> dict[str, Any]:
    """Pictures: AUC with a bootstrap interval by group; what is stated, excluded and left open; floors."""
    rng = np.random.default_rng(0)
    names, draws = np.unique(groups), []
    members = {name: np.flatnonzero(groups == name) for name in names}
    for _ in range(300):
        index = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        if (value := area_under(p[index], truth[index].astype(float))) is not None:
            draws.append(value)
    decided = (p >= STATE["picture"]) | (p < HEDGE["picture"])
    grey = images.reshape(len(images), -1).mean(1).astype(float)
    return {"pictures": len(truth), "groups": len(names), "auc": area_under(p, truth.astype(float)),
            "auc_95": [round(float(v), 3) for v in np.quantile(draws, (0.025, 0.975))],
            "accuracy": share((p >= 0.5) == truth), "sensitivity": share(p[truth] >= 0.5), "specificity": share(p[~truth] < 0.5),
            "decided": share(decided), "accuracy_decided": share(((p >= 0.5) == truth)[decided]),
            "floor_accuracy_constant": round(float(max(truth.mean(), 1 - truth.mean())), 3),
            "floor_auc_mean_grey": area_under(grey, truth.astype(float)),
            "shuffled_images_auc": area_under(p[rng.permutation(len(p))], truth.astype(float))}


def held_out_drafts(model: FindingModel, net: PictureNet, real: Sequence[LabelledPicture]) -> dict[str, Any]:
    """Through the whole path, for groups that neither net has seen: pictures alone, and patients as stacks."""
    blind = FindingModel(model.net, net, model.skull_net, model.settings, model.device)
    own = [p for p, k in zip(real, folds([p.group for p in real], FOLDS), strict=True) if k == HELD_OUT_FOLD]
    tally: dict[str, dict[str, int]] = {}

    def count(row: str, study: Study) -> None:
        try:
            words = said({f.code: f for f in blind.find(study).findings}["intracranial_haemorrhage"])
        except StudyRefused as refused:
            words = f"refused ({refused.reason})"
        tally.setdefault(row, {})[words] = tally.setdefault(row, {}).get(words, 0) + 1

    for picture in own:
        if picture.bleeds is not None and not picture.turned:
            count(f"{picture.group.split(':')[0]}, {'with' if picture.bleeds else 'without'} haemorrhage",
                  Study(picture.name, (Volume(picture.plane, None, None, units="1"),)))
    for group in sorted({p.group for p in own if p.turned}):
        slices = [p for p in own if p.group == group]
        for words, kept in (("whole", slices), ("slices without blood", [p for p in slices if p.bleeds is False])):
            if len(kept) >= LEAST_STACK:
                count(f"{group.split(':')[0]} patients as stacks, {words}", as_stack(kept))
    return tally


def as_stack(pictures: Sequence[LabelledPicture]) -> Study:
    """Slices in a window of 0 to 80 HU as a volume; black is taken for air, white for bone, spacing as usual for such scans."""
    grey = np.concatenate([p.plane for p in pictures])
    hu = np.where(grey > 0.97, 900, np.where(grey > 0.02, grey * 80, -1000)).astype(np.float32)
    return Study(pictures[0].group, (Volume(hu, (5.0, 1.2, 1.2), None, modality="CT", units="HU", orientation="axial"),))


def real_volumes(data: Path) -> list[Study]:
    """The real heads without haemorrhage that lie in `data`."""
    found = [Study(path.name, open_study(path).volumes) for path in [data / "head_ct_dicom"] if path.is_dir()]
    for path in sorted((data / "ct_volume").glob("*.npz")):
        with np.load(path) as file:
            spacing = tuple(float(v) for v in file["spacing_mm"])
            volume = Volume(file["hu"].astype(np.float32), spacing, None, modality="CT", units="HU", orientation="axial")  # type: ignore[arg-type]
        found.append(Study(path.stem, (volume,)))
    return found


def said(finding: Finding) -> str:
    if finding.band == "state":
        return "stated" if finding.present else "excluded"
    return "possible"


def share(right: NDArray[Any]) -> float | None:
    return round(float(right.mean()), 3) if len(right) else None


def card(figures: dict[str, Any]) -> str:
    simulated = figures["simulated"]
    lines = ["# Findings of a head CT", "",
             f"`{figures['model']}`: a draft for a radiologist, never a diagnosis. Written by `wetread evaluate findings`.", "",
             f"## {simulated['studies']} simulated studies, heads and seeds not trained on, through the whole path", "",
             "| finding | cases | AUC | sensitivity | specificity | accuracy | always the commoner answer |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {code.replace('_', ' ')} | {row['cases']} | {row['auc']} | {row['sensitivity']} | {row['specificity']} | {row['accuracy']} | "
              f"{row['floor_accuracy_constant']} |" for code, row in simulated["findings"].items()]
    lines += ["", *(f"- {name.replace('_', ' ')}: {value}" for name, value in simulated.items() if name not in IN_TABLES)]
    lines += ["", "## Outlines", "", "Dice where the kind is there, with its 95 % interval by study.", "",
              f"| kind | model | {THRESHOLD} |", "|---|---|---|"]
    floors = simulated["outlines"]["floors"][THRESHOLD]
    lines += [f"| {name.removeprefix('dice ')} | {value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}] | {floors[name][0]:.2f} |"
              for name, value in simulated["outlines"]["head"].items()]
    if "real heads without haemorrhage" in figures:
        lines += ["", "## Real heads without haemorrhage, used in no training", ""]
        lines += [f"- {name}: {row['said']} (p {row['probability']})" + (f", also said: {', '.join(row['also said'])}" if row["also said"] else "")
                  for name, row in figures["real heads without haemorrhage"].items()]
    if "picture net, five folds" in figures:
        lines += ["", "## Real pictures, five folds by group", "",
                  "The body of the picture net has seen no picture of the upright sets, and four fifths of the turned ones, "
                  "which are measured on the rest.", ""]
        lines += [f"- {name}: {json.dumps(row)}" for name, row in figures["picture net, five folds"].items()]
        lines += ["", "## Drafts of pictures and patients held out of this training", ""]
        lines += [f"- {name}: {json.dumps(row)}" for name, row in figures["drafts of groups held out"].items()]
    return "\n".join([*lines, "", "No absence of mass effect is stated.", "", "![AUC](findings.png)", ""])


def plot(figures: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    simulated = figures["simulated"]["findings"]
    axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")[1]
    axes.barh(list(simulated), [row["auc"] or 0 for row in simulated.values()], color="#3b6ea5")
    axes.set(xlim=(0.5, 1), xlabel="AUC, simulated studies of unseen seeds")
    rows = {name: row for name, row in figures.get("picture net, five folds", {}).items() if isinstance(row, dict) and "auc" in row}
    for i, (name, row) in enumerate(rows.items()):
        axes.axvline(row["auc"], color=f"C{i + 1}", label=f"any haemorrhage, {name}, five folds")
    if rows:
        axes.legend()
    pyplot.savefig(path, dpi=110)
    pyplot.close("all")


