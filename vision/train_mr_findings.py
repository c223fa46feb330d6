"""Calibrate the screens of head MR on simulated studies: how often a finding is there, given what its head saw."""
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.atlas import REGIONS, regions_at
from data.errors import StudyRefused
from data.records import Volume
from data.simulate.case import SimulatedCase
from data.simulate.recipes import simulate
from data.simulate.scene import Ask, Scene
from data.simulate.usual_sizes import SMALL_BRAIN, SMALL_HIPPOCAMPI_ML, brain_share, hippocampi_ml
from vision.mr_findings import ABSENT, HEDGE, SCREENS, STATE, MrFindingModel, Seen, probability
from vision.mr_measure import ONE_SIDED, frame_of, likeness, longest_mm
from vision.regions import PLACED, Placing

VERSION = "mr-findings-5"
# recipe -> its share of the studies; each has the sequences of its own disease, and is a study without the others'
RECIPES = ("dwi_infarct", "microbleeds", "tumour_segmentation", "ms_plaques", "flair_lesions", "white_matter_disease", "hydrocephalus",
           "ad_classes", "chronic_infarct", "global_atrophy")
# whose ventricles are under no pressure, however old the brain and whatever lies beside them
FREE_VENTRICLES = ("tumour_segmentation", "ms_plaques", "flair_lesions", "white_matter_disease")
FREE_OLD_INFARCTS = ("tumour_segmentation", "ms_plaques", "flair_lesions", "white_matter_disease", "hydrocephalus")
OLD_LEAST_ML = 0.5          # smaller old infarcts are lacunes, which are neither asked for nor held against the screen
SIZES = {"microbleeds": (46, 192, 192)}         # the recipe's own grid is a slab; a study covers the brain
SEED = {"calibrate": 700_000, "evaluate": 900_000}          # beside every seed that the heads were taught and measured with
STATE_FROM, HEDGE_FROM = (STATE, 0.85, 0.9), (HEDGE, 0.5, 0.6)      # the lowest probability counts whose findings are true often enough
PURE = 0.9                  # of what is stated, hedges left out, as many must be true, or the finding is only hedged
SIDE_PURE = 0.95            # of the sides told, as many must be right, or none is told
HEDGED_TRUE = 0.6           # of what is hedged, or a doubtful finding is left out
OFF_MAX = 0.25              # median error of the volume as a share of it, beyond which no mL are told
MISSED_MAX = 0.05           # of what is called absent so many may be there, and of what is there so many called absent, or absence is not said
FEWEST = 8                  # studies, below which a share is not known
DENIED_FEWEST = 60          # of what is called absent, below which none that is there proves little (none of 60: at most 5 %, 95 times in 100)
FIT_FEWEST = 5              # studies with and without a finding, below which nothing is fitted
SIDES = (("left", "right"), ("bilateral", "midline"))       # told or not together: one part more makes both of one side
GRADED = 0.8                # of the grades that must be right, or no grade is told
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Truth:
    """What a simulated study holds of one finding; codes without a Truth are not known in it."""

    present: bool
    mask: Mask | None = None
    count: int | None = None
    grade: str = ""


def truths(case: SimulatedCase) -> dict[str, Truth]:
    """By the recipe: what it paints, and what it is known not to hold."""
    return (painted(case) | ({"hydrocephalus": Truth(False)} if case.recipe in FREE_VENTRICLES else {})
            | ({"chronic_infarct": Truth(False)} if case.recipe in FREE_OLD_INFARCTS else {}))


def painted(case: SimulatedCase) -> dict[str, Truth]:
    masks = case.masks
    if case.recipe == "dwi_infarct":
        [infarct] = case.findings
        # an infarct older than two weeks is none that is acute; what the head makes of it is not judged beside its size
        return {"acute_infarct": Truth(infarct.present, masks["infarct"])}
    if case.recipe == "microbleeds":
        count = len(case.truth["microbleeds"])
        return {"microbleeds": Truth(count > 0, masks["microbleed"], count)}
    if case.recipe == "tumour_segmentation":
        return {"mass": Truth(bool(masks["core"].any()), masks["core"]), "oedema": Truth(ml(case, masks["oedema"]) >= 1, masks["oedema"]),
                "enhancement": Truth(bool(masks["enhancing"].any()), masks["enhancing"])}
    if case.recipe == "ms_plaques":
        return {"mass": Truth(False), "oedema": Truth(False), "enhancement": Truth(bool(masks["enhancing"].any()), masks["enhancing"])}
    if case.recipe == "flair_lesions":
        aged = ml(case, masks["white_matter_disease"])
        found = {"flair_lesion": Truth(case.category == 1, masks["lesion"])}
        return found | ({"white_matter_disease": Truth(aged > 0, masks["white_matter_disease"])} if aged == 0 or aged >= 1 else {})
    if case.recipe == "white_matter_disease":
        grade = int(case.truth["fazekas"])
        return {"flair_lesion": Truth(False), "white_matter_disease": Truth(grade > 0, masks["lesion"], grade=str(grade) if grade else "")}
    if case.recipe == "hydrocephalus":
        return {"hydrocephalus": Truth(case.category == 1)}
    if case.recipe == "ad_classes":
        return {"hippocampal_atrophy": Truth(case.findings[0].present), "atrophy": Truth(brain_share(case.structures) < SMALL_BRAIN)}
    if case.recipe == "global_atrophy":
        small = hippocampi_ml(case.structures, case.sides) < SMALL_HIPPOCAMPI_ML
        return {"hippocampal_atrophy": Truth(small), "atrophy": Truth(case.findings[0].present)}
    if case.recipe == "chronic_infarct":
        acute, old = case.findings
        old_ml = ml(case, masks["infarct"])
        found = {"acute_infarct": Truth(acute.present, masks["acute"])}
        if not old.present or old_ml >= OLD_LEAST_ML:
            found["chronic_infarct"] = Truth(old.present, masks["infarct"])
        return found | ({"flair_lesion": Truth(False)} if case.truth["other"] == "none" else {})
    raise AssertionError(case.recipe)


def ml(case: SimulatedCase, mask: Mask) -> float:
    return float(mask.sum()) * float(np.prod(case.spacing_mm)) / 1000


def cases(split: str, studies: int, anatomy: Path | None, seed: int = 0) -> Iterator[SimulatedCase]:
    """Studies of all recipes in turn, from settings of the scanner that no head was taught.

    With a folder of label maps calibration takes the heads that the nets know, evaluation the last four, which neither knows.
    """
    maps = sorted(p for p in anatomy.iterdir() if p.is_file()) if anatomy else []
    for i in range(studies):
        recipe = RECIPES[i % len(RECIPES)]
        head = None if anatomy is None else anatomy if split == "evaluate" or len(maps) < 8 else maps[(i // len(RECIPES)) % (len(maps) - 4)]
        yield simulate(recipe, SEED[split] + seed * 10_000 + i, size=SIZES.get(recipe), anatomy=head, held_out=True)


def gather(model: MrFindingModel, split: str, studies: int, anatomy: Path | None, seed: int, place: Path, resume: bool,
           report: Callable[..., None]) -> list[dict[str, Any]]:
    """A row a study: what every screen saw, and what is there. Kept in `place`, so that a fit can be made again without the images."""
    if resume and place.is_file():
        kept: list[dict[str, Any]] = json.loads(place.read_text())
        return kept
    rows = []
    for i, case in enumerate(cases(split, studies, anatomy, seed)):
        row: dict[str, Any] = {"recipe": case.recipe, "seed": case.seed, "seen": {}, "truth": {}, "likeness": [], "refused": ""}
        try:
            seen, _, volumes = model.screen(case.study)
            row["likeness"] = [likeness(volume, frame_of(volume)) for volume in volumes.values()]
            known = truths(case)
            row["seen"] = {one.code: {**asdict(replace(one, mask=np.zeros(0, bool))), "mask": None} for one in seen}
            row["truth"] = {code: as_row(case, truth) for code, truth in known.items()}
            if split == "evaluate":
                row["regions"] = regions_of(model, case, anatomy, seen, volumes, known)
        except StudyRefused as error:
            row["refused"] = error.reason
        rows.append(row)
        report(i + 1, studies, phase=f"screen {split}")
        if i % 20 == 19 or i + 1 == studies:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(rows))
    return rows


def as_row(case: SimulatedCase, truth: Truth) -> dict[str, Any]:
    mask = truth.mask if truth.mask is not None and truth.present and truth.mask.any() else None
    row: dict[str, Any] = {"present": truth.present, "count": truth.count, "grade": truth.grade, "side": None, "volume_ml": None, "size_mm": None}
    if mask is not None:
        inside = case.sides[mask > 0]
        left = float((inside == 2).sum()) / max(1, int((inside > 0).sum()))
        row |= {"side": "left" if left >= ONE_SIDED else "right" if left <= 1 - ONE_SIDED else "bilateral", "volume_ml": ml(case, mask),
                "size_mm": longest_mm(mask > 0, case.spacing_mm)}
    return row


def regions_of(model: MrFindingModel, case: SimulatedCase, anatomy: Path | None, seen: Sequence[Seen], volumes: Mapping[int, Volume],
               known: Mapping[str, Truth]) -> dict[str, dict[str, Any]]:
    """Of each finding that is there and outlined: the region named, and the share of what is there in each of REGIONS.

    The shares are by the head's own standard millimetres, which landmarks lay on to within a centimetre: what is counted as wrong can be theirs.
    """
    masks = {code: truth.mask > 0 for code, truth in known.items() if code in PLACED and truth.present and truth.mask is not None}
    there = [one for one in seen if one.code in masks and one.mask.any()]
    if not there:
        return {}
    scene = Scene(Ask(case.recipe, case.seed, case.structures.shape, case.spacing_mm, anatomy, case.held_out))      # type: ignore[arg-type]  # mypy knows no length
    scene.build()
    point = np.stack(scene.standard())[:, scene.subs // 2::scene.subs]
    placings: dict[int, Placing | None] = {}
    rows = {}
    for one in there:
        found = regions_at(point[:, masks[one.code]].T.astype(float))
        rows[one.code] = {"named": model.region(one, volumes[one.volume], placings),
                          "shares": [round(float((found == k).mean()), 4) for k in range(len(REGIONS))]}
    return rows


def seen_of(row: Mapping[str, Any]) -> Seen:
    return Seen(**{**row, "mask": np.zeros(0, bool), "evidence": tuple(row["evidence"])})


def main(data: Path | None = None, out: Path | None = None, studies: int = 240, seed: int = 0, device: str = "cpu", resume: bool = False,
         report: Callable[..., None] = lambda *a, **k: None, base: Path | None = None) -> dict[str, Any]:
    """Write calibration.json; returns the figures in it.

    Args:
        data: a folder that may hold synthseg_labelmaps (anatomy for the simulator).
        base: a folder of heads, default the shipped ones.
        resume: fit again from the rows kept in `out`.
    """
    assert out is not None
    out = Path(out)
    anatomy = anatomy_of(data)
    model = MrFindingModel(MrFindingModel.heads_of(device, base), {})
    rows = gather(model, "calibrate", studies, anatomy, seed, out / "rows-calibrate.json", resume, report)
    pairs = {code: [(seen_of(row["seen"][code]), row["truth"][code]) for row in rows if code in row["seen"] and code in row["truth"]]
             for code in dict.fromkeys(screen.code for screen in SCREENS)}
    heads = [one for row in rows for one in row["likeness"]]
    command = f"wetread train mr_findings --size {len(rows)} --seed {seed}{' --data ../shared/imaging' if anatomy else ''}"
    calibration = {"version": VERSION, "command": command,
                   "studies": len(rows), "refused": sum(bool(row["refused"]) for row in rows),
                   "anatomy": "SynthSeg label maps" if anatomy else "embedded head",
                   "likeness": {name: around([one[name] for one in heads]) for name in (heads[0] if heads else ())},
                   "findings": {code: fitted(known) for code, known in pairs.items() if enough(known)}}
    (out / "calibration.json").write_text(json.dumps(calibration, indent=1) + "\n")
    return calibration


def anatomy_of(data: Path | None) -> Path | None:
    return data / "synthseg_labelmaps" if data and (data / "synthseg_labelmaps").is_dir() else None


def around(values: list[float]) -> list[float]:
    """The range of heads: from the least to the greatest, a third wider on either side, as real ones differ more than simulated ones."""
    low, high = min(values), max(values)
    return [round(low - (high - low) / 3, 4), round(high + (high - low) / 3, 4)]


def enough(pairs: list[tuple[Seen, dict[str, Any]]]) -> bool:
    there = sum(truth["present"] for _, truth in pairs)
    return FIT_FEWEST <= there <= len(pairs) - FIT_FEWEST


def fitted(pairs: list[tuple[Seen, dict[str, Any]]]) -> dict[str, Any]:
    """The fit on all studies; what may be said is decided on folds that the fit of each has not seen."""
    x, y = np.array([one.evidence for one, _ in pairs]), np.array([truth["present"] for _, truth in pairs])
    fold = np.random.default_rng(0).permutation(len(y)) % 5     # recipes come in turn: by place, each could fall into one fold
    p = np.zeros(len(y))
    for k in range(5):
        trial = logistic(x[fold != k], y[fold != k])
        p[fold == k] = [probability(trial, row) for row in x[fold == k]]
    empty = np.array([one.count == 0 for one, _ in pairs])
    absent = p < ABSENT

    def true_from(levels: tuple[float, ...], least: float, others: NDArray[np.bool_]) -> float | None:
        """The lowest level from which enough of what is said is true."""
        chosen = ((level, (p >= level) & ~empty & ~others) for level in levels)
        return next((level for level, said in chosen if said.sum() >= FEWEST and y[said].mean() >= least), None)

    state_from = true_from(STATE_FROM, PURE, np.zeros(len(y), bool))
    stated = (p >= (state_from or STATE)) & ~empty
    others = stated if state_from else np.zeros(len(y), bool)       # what may not be stated is hedged
    few = ((p >= HEDGE) & ~empty & ~others).sum() < FEWEST          # nothing speaks against a hedge
    hedge_from = HEDGE if few else true_from(HEDGE_FROM, HEDGED_TRUE, others)
    hedged = (p >= (hedge_from or HEDGE)) & ~empty & ~others
    share = {name: float(y[chosen].mean()) if chosen.sum() >= FEWEST else None
             for name, chosen in (("stated", stated), ("hedged", hedged), ("absent", absent))}
    said = [pair for pair, q in zip(pairs, p, strict=True) if q >= (hedge_from or HEDGE) and pair[0].count and pair[1]["present"]]
    off = [abs(one.volume_ml - truth["volume_ml"]) / max(truth["volume_ml"], 1.0) for one, truth in said if truth["volume_ml"]]
    sides = {names: [one.side == truth["side"] for one, truth in said if truth["side"] and one.side in names] for names in SIDES}
    told = [name for names, right in sides.items() if len(right) >= FEWEST and float(np.mean(right)) >= SIDE_PURE for name in names]
    lateral = sides[SIDES[0]]
    whole = logistic(x, y) | {
        "states": state_from is not None,
        "hedges": hedge_from is not None,
        "state_from": state_from or STATE,
        "hedge_from": hedge_from or HEDGE,
        "excludes": bool(absent.sum() >= DENIED_FEWEST and max(y[absent].mean(), absent[y].mean()) <= MISSED_MAX),
        "measures": bool(off) and float(np.median(off)) <= OFF_MAX,
        "sides": told,
        "figures": {"studies": len(y), "there": int(y.sum()), "true of what is stated": rounded(share["stated"]), "stated": int(stated.sum()),
                    "true of what is hedged": rounded(share["hedged"]), "hedged": int(hedged.sum()), "there of what is called absent":
                    rounded(share["absent"]), "called absent": int(absent.sum()), "brier": rounded(float(((p - y) ** 2).mean())),
                    "left or right, and so it is": rounded(float(np.mean(lateral)) if lateral else None), "left or right": len(lateral),
                    "median error of mL": rounded(float(np.median(off)) if off else None)}}
    graded = [(one, truth) for one, truth in pairs if truth["grade"]]
    return whole | (grades(graded) if graded else {})


def logistic(x: NDArray[np.float64], y: NDArray[np.bool_]) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    mean, spread = x.mean(0), np.maximum(x.std(0), 1e-3)
    model = LogisticRegression(C=10.0, max_iter=500).fit((x - mean) / spread, y)
    return {"weights": [round(float(w), 4) for w in model.coef_[0]], "bias": round(float(model.intercept_[0]), 4),
            "mean": [round(float(v), 4) for v in mean], "spread": [round(float(v), 4) for v in spread]}


def grades(pairs: list[tuple[Seen, dict[str, Any]]]) -> dict[str, Any]:
    """The two borders in mL between the grades 1, 2 and 3 with the fewest grades missed, and how many are right on unseen folds."""
    size, grade = np.array([one.volume_ml for one, _ in pairs]), np.array([int(truth["grade"]) for _, truth in pairs])
    fold, told = np.arange(len(grade)) % 5, np.zeros(len(grade), int)
    for k in range(5):
        told[fold == k] = graded_by(borders(size[fold != k], grade[fold != k]), size[fold == k])
    right = float((told == grade).mean())
    return {"grade_from_ml": borders(size, grade), "grades": right >= GRADED, "grade_right": rounded(right)}


def borders(size: NDArray[np.float64], grade: NDArray[np.int64]) -> list[float]:
    steps = np.unique(np.round(np.quantile(size, np.linspace(0.02, 0.98, 49)), 1))
    return list(min(((int(np.abs(graded_by([a, b], size) - grade).sum()), float(a), float(b)) for a in steps for b in steps if a < b),
                    default=(0, 0.0, 0.0))[1:])


def graded_by(from_ml: list[float], size: NDArray[np.float64]) -> NDArray[np.int64]:
    return 1 + (size >= from_ml[0]).astype(int) + (size >= from_ml[1])


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def said_by(calibration: Mapping[str, Any]) -> list[str]:
    """A line a finding, for docs and cards."""
    lines = ["| finding | studies, there | stated | true of it | called absent | there of it | may state / deny |", "|---|---|---|---|---|---|---|"]
    for code, fit in calibration["findings"].items():
        f = fit["figures"]
        lines.append(f"| {code} | {f['studies']}, {f['there']} | {f['stated']} | {f['true of what is stated']} | {f['called absent']} "
                     f"| {f['there of what is called absent']} | {'yes' if fit['states'] else 'no'} / {'yes' if fit['excludes'] else 'no'} |")
    return lines
