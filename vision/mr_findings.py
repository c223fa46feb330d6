"""The findings graph of a head MR: series by their facts -> heads -> masks and measures -> calibrated probability -> what may be stated."""
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.dicom import UNEVEN_GAPS
from data.errors import InputError, ModelError, StudyRefused
from data.findings import FINDINGS
from data.model_files import MODELS
from data.records import Band, Finding, Side, Study, Volume
from vision.apply_head import HeadAnswer, HeadModel, covers_whole
from vision.findings import Findings, not_assessed
from vision.heads import HEADS
from vision.mr_measure import Frame, evans_index, evidence_of, frame_of, largest_part, likeness, longest_mm, without_specks
from vision.mr_series import back_from_axial, choose, to_axial, together, why_not
from vision.regions import PLACED, Placing, place, region_of

FOLDER = MODELS / "mr_findings"
STATE, HEDGE = 0.8, 0.4         # least calibrated probability from which a finding is stated, and hedged; its calibration may ask for more
ABSENT = 0.15                   # below it a finding is absent; between it and HEDGE nothing is said
LOW_ADC = 0.85                  # of the ADC of the brain: an infarct brighter than that on the ADC map is no acute one
HIGH_MM, WIDE_MM = (110, 260), (90, 230)        # of a head in its largest axial slice, children included
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Screen:
    """Which head fills a finding, and from which of its outputs: `outline` gets the head's masks and gives the finding's."""

    code: str
    head: str
    outline: Callable[[Mapping[str, NDArray[np.uint8]]], Mask]
    chance: str                         # the head's output whose probability counts
    least_ml: float = 0.0               # smaller parts are specks
    counted: bool = False               # parts are counted


# The table: a head's own figures (docs/heads.md) and the calibration of vision/train_mr_findings.py decide what it may say.
SCREENS = (
    Screen("acute_infarct", "dwi_infarct", lambda m: m["infarct"] > 0, "infarct", 0.05),
    Screen("chronic_infarct", "chronic_infarct", lambda m: m["infarct"] > 0, "infarct", 0.3),
    Screen("microbleeds", "microbleeds", lambda m: m["microbleed"] > 0, "microbleed", counted=True),
    Screen("mass", "tumour_segmentation", lambda m: m["core"] > 0, "core", 0.1),
    Screen("oedema", "tumour_segmentation", lambda m: (m["whole"] > 0) & (m["core"] == 0), "whole", 0.5),
    Screen("enhancement", "tumour_segmentation", lambda m: m["enhancing"] > 0, "enhancing", 0.05),
    Screen("flair_lesion", "flair_lesions", lambda m: m["lesion"] > 0, "lesion", 0.3),
    Screen("white_matter_disease", "white_matter_lesions", lambda m: m["lesion"] > 0, "lesion", 0.05),
    Screen("hydrocephalus", "structures", lambda m: m["ventricles"] > 0, "ventricles", 0.5),
    Screen("atrophy", "t1_structures", lambda m: (m["CSF"] > 0) | (m["ventricles"] > 0), "CSF"),
    Screen("hippocampal_atrophy", "t1_structures", lambda m: m["hippocampus"] > 0, "hippocampus", 0.2),
)
EVANS = 0.3                 # Evans index from which horns are wide (Evans 1942, Arch Neurol Psychiatry 47:931)
# rightly denied in simulated heads, and tried on averages of real heads, on no patient
UNDENIED = ("hydrocephalus", "atrophy", "hippocampal_atrophy")
INSIDE_ML = (900.0, 2200.0)     # brain and fluid of a whole head: where less or more is found, nothing follows from what shares it has
VENTRICLES_LEAST_ML = 3.0   # below it they were not found, and nothing follows from their size
CONTRAST, THICK_MM = "T1", (3.0, 5.5)      # what the screens of `structures` were calibrated on: their shares shift with the slices' thickness
HOLLOW = 0.7                # of the head's median on FLAIR: what is darker holds fluid
FLAIR_READERS = ("flair_lesion", "white_matter_disease", "chronic_infarct")        # each is told how much the others see


@dataclass(frozen=True)
class Seen:
    """What a screen saw in a study, before calibration. `mask` lies on the axial grid of `volume`, an index into the study's volumes."""

    code: str
    volume: int
    mask: Mask
    evidence: tuple[float, ...]
    volume_ml: float
    largest_ml: float
    size_mm: float
    count: int
    side: Side | None


class MrFindingModel:
    """Load once, use for every study; a screen whose head has no weights is not run and its finding is listed as not assessed."""

    def __init__(self, heads: Mapping[str, HeadModel], calibration: Mapping[str, Any]) -> None:
        self.heads, self.calibration = heads, calibration
        self.version = str(calibration.get("version", ""))

    @classmethod
    def load(cls, folder: Path | None = None, device: str = "cpu", heads: Path | None = None) -> "MrFindingModel":
        """Heads from `heads`/NAME, default the shipped ones; raises ModelError for altered weights or a calibration that cannot be read."""
        path = Path(folder or FOLDER) / "calibration.json"
        try:
            calibration = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read ({type(error).__name__}); write it again with wetread train mr_findings") from None
        return cls(cls.heads_of(device, heads), calibration)

    @staticmethod
    def heads_of(device: str = "cpu", heads: Path | None = None) -> dict[str, HeadModel]:
        """The heads of SCREENS that have weights."""
        places = {screen.head: heads / screen.head if heads else HEADS[screen.head].folder for screen in SCREENS}
        return {name: HeadModel.load(name, place, device) for name, place in places.items() if (place / "model.safetensors").is_file()}

    def find(self, study: Study) -> Findings:
        """The findings of every sequence that a head reads; raises StudyRefused with the reason when there is none."""
        seen, notes, volumes = self.screen(study)
        findings, masks, said = [], {}, set()
        for one in seen:
            fit = self.calibration["findings"].get(one.code)
            if fit is None:
                continue
            finding = self.finding(one, fit)
            if finding.present:
                mask = back_from_axial(one.mask.astype(np.uint8), study.volumes[one.volume].orientation)
                masks[one.code] = mask
                finding = replace(finding, evidence=evidence_of(study.volumes[one.volume], mask, one.code))
            findings.append(finding)
            said.add(one.code)
        placings: dict[int, Placing | None] = {}
        by_code = {one.code: one for one in seen}
        findings = [f if not f.present or f.band == "omit" else
                    replace(f, region=self.region(by_code[f.code], volumes[by_code[f.code].volume], placings)) for f in one_story(findings)]
        order = list(FINDINGS)
        findings = [replace(f, id=f"f{i + 1}") for i, f in enumerate(sorted(findings, key=lambda f: order.index(f.code)))]
        kept = {seen.mask for f in findings for seen in f.evidence}
        first = seen[0].volume if seen else 0
        return Findings(tuple(findings), {n: m for n, m in masks.items() if n in kept}, np.zeros((1, 1), np.float32),
                        tuple(dict.fromkeys(notes)), first, not_assessed=not_assessed(findings, "MR"))

    def region(self, one: Seen, volume: Volume, placings: dict[int, Placing | None]) -> str:
        """The part of the brain that it lies in, "" where that is not clear; `placings` keeps how the head lies in each series asked for."""
        if one.code not in PLACED or volume.affine is None:
            return ""
        if one.volume not in placings:
            placings[one.volume] = self.placing(volume)
        placing = placings[one.volume]
        return region_of(one.code, one.mask.astype(np.uint8), volume.affine, placing) if placing else ""

    def placing(self, volume: Volume) -> Placing | None:
        """How the head of an axial series lies in the atlas, by all that `structures` outlines in it: brain and fluid fill the skull."""
        outliner = self.heads.get("structures")
        if outliner is None or volume.affine is None or any(note.startswith(UNEVEN_GAPS) for note in volume.notes):
            return None
        try:
            outlined = outliner.apply({"IMAGE": volume}).masks.values()
        except InputError:          # what it cannot read gives no region, and keeps no finding
            return None
        return place(np.stack([ndimage.binary_fill_holes(plane) for plane in np.any(list(outlined), 0)]), volume.affine)

    def screen(self, study: Study) -> tuple[list[Seen], list[str], dict[int, Volume]]:
        """Every screen whose sequences are there, notes, and the volumes as they were read."""
        chosen, turned_down = choose(study.volumes)
        if not chosen:
            raise StudyRefused(*refusal_of(study, turned_down))
        volumes = {i: to_axial(study.volumes[i]) for i in chosen.values()}
        notes = [message for _, message in turned_down] + [note for i in volumes for note in study.volumes[i].notes]
        frames: dict[int, Frame] = {}
        answers: dict[str, tuple[int, HeadAnswer, dict[str, Volume]]] = {}
        unread: list[str] = []
        for name, model in self.heads.items():
            any_contrast = model.head.inputs == ("IMAGE",)
            inputs = (CONTRAST,) if any_contrast else model.head.inputs
            if not set(inputs) <= set(chosen) or (any_contrast and not as_calibrated(volumes[chosen[CONTRAST]])):
                continue
            if model.head.dimensions == 3 and not covers_whole(volumes[chosen[inputs[0]]], model.config):
                continue
            placed = together({role: volumes[chosen[role]] for role in inputs})
            if placed is None:
                unread.append(f"{', '.join(inputs)} do not lie in one frame of reference, so they were not read together")
                continue
            channels, more = placed
            at = chosen[inputs[0]]
            frames.setdefault(at, frame_of(volumes[at]))
            try:
                answer = model.apply({"IMAGE": channels[CONTRAST]} if any_contrast else channels)
            except InputError as error:         # one head that cannot read its series keeps no other from it
                unread.append(str(error).replace("IMAGE", CONTRAST))
                continue
            if any_contrast and (ventricles_ml := fluid_ml(answer, channels)) < VENTRICLES_LEAST_ML:
                unread.append(f"ventricles of {ventricles_ml:.1f} mL were found, fewer than any head has: hydrocephalus was not looked for")
                continue
            if model.head.dimensions == 3 and not INSIDE_ML[0] < (inside_ml := tissue_ml(answer, channels)) < INSIDE_ML[1]:
                unread.append(f"{inside_ml:.0f} mL of brain and fluid were found, expected {INSIDE_ML[0]:.0f} to {INSIDE_ML[1]:.0f} of a whole head: "
                              "atrophy of the brain and of the hippocampi was not looked for")
                continue
            spacing_mm = channels[inputs[0]].spacing_mm
            if model.head.dimensions == 3 and spacing_mm and (index := evans_index(answer.masks, spacing_mm[0])) >= EVANS:
                notes.append(f"the frontal horns are wide (Evans index {index:.2f}), and hydrocephalus is not looked for in slices of less than "
                             f"{THICK_MM[0]:.0f} mm: small hippocampi can come of it")
            notes += more if any_contrast else [*more, *answer.notes]       # calibrated on the slices that it remarks on
            answers[name] = at, answer, channels
        notes += unread
        if not answers:
            alone = (f"the study has {', '.join(sorted(chosen))}, and no head reads these alone; expected FLAIR, DWI with ADC, SWI, "
                     "T1 of 3 to 5.5 mm, T1 of the whole head in slices of at most 3 mm, or T1, T2, FLAIR and T1 with contrast")
            raise StudyRefused("sequences", unread[-1] if unread else alone)
        for at, frame in frames.items():
            check_head(volumes[at], frame, self.calibration.get("likeness", {}))
        seen = [look(screen, *answers[screen.head], frames[answers[screen.head][0]]) for screen in SCREENS if screen.head in answers]
        return told_of_each_other(seen), notes, volumes

    def finding(self, one: Seen, fit: Mapping[str, Any]) -> Finding:
        """What the calibration makes of a screen. A head that is often wrong states nothing, one that misses denies nothing."""
        p = probability(fit, one.evidence)
        row = FINDINGS[one.code]
        present = p >= fit["hedge_from"] and (one.count > 0)
        if one.code == "hydrocephalus" and one.evidence[0] < EVANS:     # narrow horns are none, whatever the sulci look like
            present, p = False, min(p, ABSENT)
        band: Band = "state" if p >= fit["state_from"] and fit["states"] else "hedge"
        if not present:
            denied = p < ABSENT and fit["excludes"] and one.code not in UNDENIED
            return Finding("", one.code, row.label, False, round(p, 4), band="state" if denied else "omit")
        if band == "hedge" and not fit["hedges"]:
            band = "omit"
        facts: dict[str, Any] = {"side": one.side if one.side in row.side and one.side in fit["sides"] else None}
        if row.volume and fit["measures"]:
            facts["volume_ml"] = round(one.volume_ml, 1)
        if row.size and fit["measures"]:
            facts["size_mm"] = one.size_mm
        if row.count and one.code in COUNTED:
            facts["count"] = one.count
        if row.scale == "Fazekas" and fit.get("grades"):
            facts["grade"] = fazekas(one, fit["grade_from_ml"])
        return Finding("", one.code, row.label, True, round(p, 4), band=band, critical=row.critical, **facts)


COUNTED = {screen.code for screen in SCREENS if screen.counted}


def look(screen: Screen, at: int, answer: HeadAnswer, channels: Mapping[str, Volume], frame: Frame) -> Seen:
    first = next(iter(channels.values()))
    assert first.spacing_mm is not None
    voxel_ml = float(np.prod(first.spacing_mm)) / 1000
    mask = without_specks(screen.outline(answer.masks), screen.least_ml, voxel_ml) if screen.least_ml else screen.outline(answer.masks)
    bright, mask = mask, restricted(mask, channels["ADC"].pixels, frame) if screen.code == "acute_infarct" else mask
    ml, largest = float(mask.sum()) * voxel_ml, float(largest_part(mask).sum()) * voxel_ml
    chance = answer.probability[screen.chance]
    if answer.chances or HEADS[screen.head].task == "detect":
        sure = log_odds(answer.chances[0]) if answer.chances else -6.0
    else:
        sure = log_odds(float(chance[mask].mean())) if mask.any() else -6.0
    if bright.any() and not mask.any():         # the chance was that of what is gone
        sure = -6.0
    count = int(ndimage.label(mask, np.ones((3, 3, 3)))[1])
    evidence = [sure, float(np.log(ml + 0.05))]
    if screen.code in FLAIR_READERS:            # one place or many
        evidence += [float(np.log(largest + 0.05)), float(np.log(count + 1))]
    if screen.code == "chronic_infarct":
        evidence.append(hollow(channels["FLAIR"].pixels, mask, frame))
    if screen.code == "acute_infarct":
        evidence.append(relative_adc(channels["ADC"].pixels, mask, frame))
    if screen.code == "hydrocephalus":
        evidence = [evans_index(answer.masks, first.spacing_mm[0]), *shares_of_brain(mask, answer.masks)]
    if screen.code == "atrophy":
        evidence = [shares_of_brain(part, answer.masks)[0] for part in (mask, answer.masks["ventricles"] > 0)]
    if screen.code == "hippocampal_atrophy":
        evidence = [float(np.log((mask.sum() + 1.0) / sum(float(part.sum()) for part in answer.masks.values())))]
    if screen.counted:
        evidence.append(log_odds(answer.chances[1]) if len(answer.chances) > 1 else -6.0)
    return Seen(screen.code, at, mask, tuple(round(v, 5) for v in evidence), ml, largest, longest_mm(mask, first.spacing_mm), count, frame.side(mask))


def told_of_each_other(seen: list[Seen]) -> list[Seen]:
    """The readers of FLAIR know how much the others outline: a tumour is no small-vessel disease and no old infarct, and the other way round."""
    size = {one.code: float(np.log(one.volume_ml + 0.05)) for one in seen}
    none = float(np.log(0.05))
    return [replace(one, evidence=(*one.evidence, *(size.get(code, none) for code in FLAIR_READERS if code != one.code)))
            if one.code in FLAIR_READERS else one for one in seen]


def restricted(mask: Mask, adc: NDArray[np.float32], frame: Frame) -> Mask:
    """The parts of a mask whose diffusion is below the brain's: what is bright on DWI and no darker on ADC is shine-through or an artefact."""
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    kept = [k for k in range(1, count + 1) if relative_adc(adc, parts == k, frame) < 1.0]
    return np.isin(parts, kept)


def relative_adc(adc: NDArray[np.float32], mask: Mask, frame: Frame) -> float:
    """Mean ADC of the mask over the median of the head's points between cortex and water; 1 without a mask."""
    inside = frame.head & (adc > 300) & (adc < 1500)
    if not mask.any() or not inside.any():
        return 1.0
    return float(adc[mask].mean() / np.median(adc[inside]))


def hollow(flair: NDArray[np.float32], mask: Mask, frame: Frame) -> float:
    """The share of a mask that holds fluid; 0 without a mask."""
    return float((flair[mask] < HOLLOW * np.median(flair[frame.head])).mean()) if mask.any() else 0.0


def as_calibrated(volume: Volume) -> bool:
    return volume.spacing_mm is not None and THICK_MM[0] <= volume.spacing_mm[0] <= THICK_MM[1]


def fluid_ml(answer: HeadAnswer, channels: Mapping[str, Volume]) -> float:
    first = next(iter(channels.values()))
    return float(answer.masks["ventricles"].sum()) * float(np.prod(first.spacing_mm or (0.0,))) / 1000


def tissue_ml(answer: HeadAnswer, channels: Mapping[str, Volume]) -> float:
    first = next(iter(channels.values()))
    return sum(float(mask.sum()) for mask in answer.masks.values()) * float(np.prod(first.spacing_mm or (0.0,))) / 1000


def shares_of_brain(mask: Mask, structures: Mapping[str, NDArray[np.uint8]]) -> list[float]:
    """Logarithms of the mask and of the fluid outside the ventricles, each over the brain: wide ventricles beside wide sulci are no hydrocephalus."""
    brain = 1.0 + sum(float(structures[name].sum()) for name in ("grey matter", "white matter", "deep nuclei", "hippocampus"))
    return [float(np.log((part.sum() + 1.0) / brain)) for part in (mask, structures["CSF"])]


def one_story(findings: list[Finding]) -> list[Finding]:
    """A mass that is stated is not told a second time as a FLAIR lesion, and without a mass its oedema is only possible; wide fluid spaces are
    not told as hydrocephalus and as atrophy."""
    by_code = {f.code: f for f in findings}
    mass, hydrocephalus = by_code.get("mass"), by_code.get("hydrocephalus")
    if hydrocephalus is not None and hydrocephalus.present and hydrocephalus.band != "omit":
        findings = [replace(f, band="omit") if f.code == "atrophy" else f for f in findings]
    if mass is None:
        return findings
    rows = []
    for f in findings:
        if f.code == "flair_lesion" and f.present and mass.present and mass.band != "omit":
            continue
        if f.code == "oedema" and f.present and not mass.present:
            f = replace(f, band="omit")
        rows.append(f)
    return rows


def fazekas(one: Seen, from_ml: Sequence[float]) -> str:
    """Grade 1, 2 or 3 by the volume of all lesions.

    Fazekas 1987 (AJR 149:351) grades by look: caps and dots, beginning confluence, confluence. Volume stands for it here, with the two
    borders that split simulated studies of known grade best.
    """
    return str(1 + sum(one.volume_ml >= border for border in from_ml))


def check_head(volume: Volume, frame: Frame, ranges: Mapping[str, Sequence[float]]) -> None:
    """Refuse what has not the size of a head, or looks like none of the heads that the calibration saw."""
    assert volume.spacing_mm is not None
    _, row_mm, column_mm = volume.spacing_mm
    plane = frame.head[int(frame.head.sum((1, 2)).argmax())]
    rows, columns = (np.flatnonzero(plane.any(axis)) for axis in (1, 0))
    high, wide = (np.ptp(v) * mm if len(v) else 0.0 for v, mm in ((rows, row_mm), (columns, column_mm)))
    if not (HIGH_MM[0] <= high <= HIGH_MM[1] and WIDE_MM[0] <= wide <= WIDE_MM[1]):
        raise StudyRefused("not-a-head", f"what is bright measures {high:.0f} x {wide:.0f} mm in its largest slice, expected a head of "
                                         f"{HIGH_MM[0]}-{HIGH_MM[1]} x {WIDE_MM[0]}-{WIDE_MM[1]} mm; send axial head MR")
    for name, value in likeness(volume, frame).items():
        low, high_end = ranges.get(name, (-np.inf, np.inf))
        if not low <= value <= high_end:
            raise StudyRefused("out-of-distribution", f"{name} of the images is {value:.2f}, and {low:.2f} to {high_end:.2f} in the heads that were "
                                                      "calibrated on; read the images yourself")


def refusal_of(study: Study, turned_down: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """(reason, message): why the best of the known series was turned down, else that none is known."""
    if not study.volumes:
        return "empty", "the study has no readable image; send the axial head series"
    if turned_down:
        order = ["not-a-head", "burnt-in", "too-many-slices", "plane", "coverage", "pixels"]
        return max(turned_down, key=lambda row: order.index(row[0]))
    general = [verdict for volume in study.volumes if (verdict := why_not(volume))]
    if len(general) == len(study.volumes):
        return general[0]
    return "sequences", ("no series could be told to be FLAIR, T1, T2, DWI, ADC or SWI by its description and timing; "
                         "send the original series with SeriesDescription, EchoTime, RepetitionTime and InversionTime")


def probability(fit: Mapping[str, Any], evidence: Sequence[float]) -> float:
    z = fit["bias"] + sum(w * (v - m) / s for w, v, m, s in zip(fit["weights"], evidence, fit["mean"], fit["spread"], strict=True))
    return float(1 / (1 + np.exp(-np.clip(z, -30, 30))))


def log_odds(p: float) -> float:
    p = min(max(p, 1e-3), 1 - 1e-3)
    return round(float(np.log(p / (1 - p))), 4)
