"""The findings graph of a head CT: choose the series, run the network, measure, calibrate, decide what is stated."""
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from data.dicom import UNEVEN_GAPS
from data.errors import StudyRefused
from data.findings import FINDINGS
from data.midline import SHIFT_FROM_MM, midline_shift, wider_than
from data.model_files import MODELS
from data.records import Band, Finding, ImageEvidence, Side, Study, Volume
from data.simulator import LABELS, TYPES
from vision.picture_net import PICTURE_SIZE, PictureNet
from vision.regions import Placing, place, region_of
from vision.skull_net import ANGLES, TOP, TURN, FlatSkull, SkullNet, flatten_skull, fracture_logits, strongest, to_mask
from vision.train_findings import OUTLINES, SLICE_CODES, FindingNet, Slices, augment, load_nets
from vision.train_pictures import picture_logits
from vision.train_skull import Skull, strengths
from vision.transforms import FIELD_MM, SIZE, WINDOWS, Grid, from_grid, grid_for, picture_grid, to_grid, volume_channels

PIXEL_MM = FIELD_MM / SIZE
MAX_SLICES = 1200
MIN_SPAN_MM = 85.0          # less of a head than this is no head CT
NO_AIR_HU = -300.0          # a CT whose darkest value lies above it is not in HU
LETTERS_MIN = 30            # pixels that are the brightest in every slice: text, not bone
COLOURED_MAX = 0.1          # of a picture's pixels
MIN_SLICES = 8
MIN_BRAIN_MM2 = 4500.0      # area inside the skull in the largest slice of any head, children included
THICK_MM = 4.0              # thinner slices are averaged to about this, the thickness the network was trained on
# probability from which a finding is stated, and from which it is hedged; below, it is absent
# ("any" in a whole head, "picture": any in one picture)
STATE = {"any": 0.7, "picture": 0.6, "type": 0.6, "shift": 0.6}
HEDGE = {"any": 0.3, "picture": 0.4, "type": 0.3, "fracture": 0.3, "shift": 0.35}
NO_SHIFT = 0.1              # probability below which it is said that the midline is not shifted, where the held-out heads allow it:
DENIED_FEWEST, DENIED_SHARE, DENIED_MM = 60, 0.05, 5.0      # of so many denied at the least, so few shifted, and none by so much
SUREST = 6.0                # logit beyond which the net of the outlines, surer than it should be, is not believed more
# Logit at which the best two neighbours of some thirty slices are as likely blood as not, where for one picture alone it is 0.
# Between PHE-SICH patients that neither net has seen: whole from 3.9 up, without the slices near blood up to -0.7. The band of what is
# only possible around it (0.65 to 2.35) was chosen on 40 simulated studies of held-out heads: none without blood is stated. Both were
# chosen before slices and their mirror images were read alike; docs/models.md has the same patients since.
PEAK_OF_MANY = 1.5
FRAGMENT, FRAGMENT_ML = 0.2, 4.0    # share of the larger blood, and volume, below which what touches it under another name is a part of it
SAID_AUC = 0.9              # of a fracture, of a midline shift on held-out simulated heads, by the bare answer: it asks for no calibration, so all of
                            # them count; below it nothing is said of them
SPECK = 0.25                # of the longest fracture line, below which another is none
MIDLINE_COLUMNS = 6         # of the flat skull, a few mm: what runs no further from the plane between the sides has no side
# Of head CTs, what the probability of a fracture is meant for: a choice, as no department's share is known; of simulated studies a fifth, of
# the skulls that are learnt from nearly half.
FRACTURE_SHARE = 0.1
OUTLINED_FROM = 40           # pixels of a study, below which an outline is not judged
CUTS = (0.5, 0.4, 0.3, 0.2, 0.12, 0.6)      # probabilities tried as the border of an outline; of equals the first
CONTRAST = re.compile(r"\b(c\+|post.?contrast|with contrast|contrast enhanced|cta|angio\w*|venogra\w*|perfusion|ctp)\b", re.I)
WITHOUT = re.compile(r"\b(without|non|no|w/?o)\b", re.I)


@dataclass(frozen=True)
class Findings:
    findings: tuple[Finding, ...]               # present and absent; `band` says what is stated
    masks: dict[str, NDArray[np.uint8]]         # by finding code, shape of the volume as read
    image_tokens: NDArray[np.float32]           # (n, channels) for the report decoder
    notes: tuple[str, ...] = ()
    volume: int = 0                             # index in study.volumes
    slice_probability: tuple[float, ...] = ()   # of any haemorrhage, one a slice as read
    not_assessed: tuple[str, ...] = ()          # codes that these images can show and that nothing is said of, not even that they are absent


@dataclass
class Answers:
    """What the network says of one volume, on the grid."""

    logits: NDArray[np.float32]                 # (S, 6) SLICE_CODES
    outlines: NDArray[np.float32]               # (S, 5, SIZE, SIZE) probabilities
    halves: NDArray[np.float32]                 # (S, 3, SIZE/2, SIZE/2) outside, image-left, image-right
    deep: NDArray[np.float32]                   # (S, C, h, w)


@dataclass
class Measures:
    """Numbers read off the answers; millilitres where slice_mm is known, else shares of the picture."""

    evidence: dict[str, tuple[float, float]]    # SLICE_CODES -> (best logit, log of size)
    size_ml: dict[str, float]
    outlines: NDArray[np.bool_]                 # (S, 5, SIZE, SIZE) cleaned
    shift_mm: float | None = None               # + towards image-right, before calibration; None where it cannot be measured
    shift_slice: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FractureLines:
    """What the net of the skull says of one volume."""

    flat: FlatSkull
    logits: NDArray[np.float32]                 # (S, ANGLES) of the flat skull

    @property
    def strength(self) -> float:
        return float(strongest(torch.from_numpy(self.logits)[None])[0])

    def columns(self) -> NDArray[np.bool_]:
        """Where it is likelier than not, without specks; where nothing is, the places that decided."""
        best = float(np.sort(self.logits, axis=None)[-TOP])
        seen = self.logits > 0 if best > 0 else self.logits >= best
        lines, count = ndimage.label(seen, np.ones((3, 3)))
        sizes = np.bincount(lines.ravel(), minlength=count + 1)
        return seen & (sizes >= SPECK * sizes[1:].max(initial=0))[lines]

    def side(self, leftward: bool) -> Side | None:
        """The patient's side: columns of the flat skull run from the front by the image's right to the back.

        None where the head may be turned by more than the plane between the sides is looked for.
        """
        if abs(self.flat.turned) >= TURN // 2 - 1:
            return None
        at = np.nonzero(self.columns())[1]
        if float(np.abs((at + ANGLES // 4) % (ANGLES // 2) - ANGLES // 4).mean()) < MIDLINE_COLUMNS:
            return "midline"
        share = float((at >= ANGLES // 2).mean())
        one, other = ("right", "left") if leftward else ("left", "right")
        return one if share >= 0.75 else other if share <= 0.25 else "bilateral"    # type: ignore[return-value]


class FindingModel:
    """Load once, use for every study; on the CPU about a second a study."""

    def __init__(self, net: FindingNet, picture_net: PictureNet, skull_net: SkullNet, settings: dict[str, Any], device: str = "cpu") -> None:
        self.net, self.picture_net = (n.to(device, memory_format=torch.channels_last).eval() for n in (net, picture_net))  # type: ignore[call-overload]
        self.skull_net = skull_net.to(device).eval()
        self.settings, self.device = settings, device
        self.calibration: dict[str, Any] = settings["calibration"]
        self.version = str(settings["version"])

    @classmethod
    def load(cls, folder: Path | None = None, device: str = "cpu") -> "FindingModel":
        """Raises ModelError when the folder is missing, altered or broken."""
        net, picture_net, skull_net, settings = load_nets(Path(folder) if folder else MODELS / "findings")
        assert skull_net is not None
        return cls(net, picture_net, skull_net, settings, device)

    def find(self, study: Study) -> Findings:
        """The findings of the best axial non-contrast head series; raises StudyRefused with the reason when there is none."""
        index = choose_volume(study)
        volume, notes = study.volumes[index], list(study.volumes[index].notes)
        picture = is_picture(volume)
        thin, group = merge_thin(volume)
        if group > 1:
            notes.append(f"{group} thin slices averaged for each one read")
        grid = grid_for(thin)
        answers = run(self.net, volume_channels(thin, grid), self.device, bias=self.calibration.get("outline_bias"))
        check_head(thin, answers, picture)
        measures = measure(answers, None if picture else thin.spacing_mm[0])  # type: ignore[index]
        seen = both_readers(picture_logits(self.picture_net, as_pictures(thin), self.device), answers)
        sided = not lies_turned(answers)
        if picture:
            assumed = "; sides assume that the image's left is the patient's right" if sided else ""
            notes.append(f"a picture without spacing: nothing measured{assumed}")
        if not sided:
            notes.append("the head lies turned, so no side is given")
        if not picture and (gone := missing_end(answers, thin.spacing_mm)):  # type: ignore[arg-type]
            notes.append(gone)
        uneven = any(note.startswith(UNEVEN_GAPS) for note in volume.notes)
        if uneven:          # a slice between two others shows the skull of both, and neither as dense: of the one such head at hand, lines all along
            notes.append("slices lie unevenly: no fracture looked for")
        lines = None if picture or uneven else self.fracture_lines(thin)
        affine = volume.affine if sided and not uneven and volume.spacing_mm is not None else None
        placing = place(answers.halves[:, 0] < 0.5, affine_of_halves(grid, group, affine)) if affine is not None else None
        findings, masks = self.graph(volume, group, grid, answers, measures, seen, picture, sided, lines, placing)
        chance = np.repeat(1 / (1 + np.exp(-seen)), group)[: len(volume.pixels)]
        return Findings(findings, masks, image_tokens(answers), tuple(notes + measures.notes), index, tuple(float(p) for p in chance),
                        not_assessed(findings, "CT"))

    def fracture_lines(self, volume: Volume) -> FractureLines:
        flat = flatten_skull(volume.pixels, *volume.spacing_mm[1:])  # type: ignore[index]
        return FractureLines(flat, fracture_logits(self.skull_net, flat.grey, self.device))

    def graph(self, volume: Volume, group: int, grid: Grid, answers: Answers, measures: Measures, seen: NDArray[np.float32],
              picture: bool, sided: bool, lines: FractureLines | None,
              placing: Placing | None = None) -> tuple[tuple[Finding, ...], dict[str, NDArray[np.uint8]]]:
        """Findings and the masks they point to."""
        fits = self.calibration["picture" if picture else "volume"]
        chance = {code: probability(fits[code], measures.evidence[code]) for code in SLICE_CODES}
        masks: dict[str, NDArray[np.uint8]] = {}
        found: list[Finding] = []
        leftward = volume.affine is None or volume.affine[0, 0] > 0        # columns run to the patient's left

        def add(code: str, present: bool, p: float, band: Band, **facts: Any) -> None:
            found.append(Finding(id=f"f{len(found) + 1}", code=code, label=LABELS[code], present=present, probability=round(p, 4),
                                 band=band, critical=present, **facts))

        def evidence(name: str, by_slice: NDArray[np.float32], mask: NDArray[np.uint8] | None) -> tuple[ImageEvidence, ...]:
            if mask is not None and mask.any():
                at = int(mask.sum((1, 2)).argmax())
                rows, columns = ndimage.find_objects(mask[at])[0]
                box = (rows.start, columns.start, rows.stop, columns.stop)
            else:
                at, box = min(int(by_slice.argmax()) * group + group // 2, len(volume.pixels) - 1), None
            return (ImageEvidence(volume.series_uid, at, volume.instance_uids[at] if at < len(volume.instance_uids) else "", box,
                                  name if mask is not None and mask.any() else ""),)

        p_any = sigmoid(peak(seen) - (PEAK_OF_MANY if len(seen) > 1 else 0.0))
        any_of = "picture" if picture else "any"
        clear = p_any < HEDGE[any_of]
        band: Band = "state" if p_any >= STATE[any_of] or clear else "hedge"
        # what is only possible is given the likeliest kind and its side, both only possible, and no volume
        outlined = [picture or measures.size_ml[name] > 0 for name in TYPES]       # what is said of a head can be shown in it
        likely = [k for k, name in enumerate(TYPES) if outlined[k] and min(chance[name], p_any) >= HEDGE["type"]]
        surest = sorted(likely, key=lambda k: -chance[TYPES[k]])
        shown = [] if clear else likely if band == "state" else surest[:1]
        for k in shown:
            masks[f"{TYPES[k]}_haemorrhage"] = to_volume(measures.outlines[:, k], answers.outlines[:, k], grid, group, len(volume.pixels))
        all_blood = np.clip(sum(masks.values()), 0, 1).astype(np.uint8) if masks else None
        add("intracranial_haemorrhage", not clear, p_any, band, evidence=evidence("", seen, all_blood) if not clear else ())
        voxel_ml = float(np.prod(volume.spacing_mm)) / 1000 if volume.spacing_mm else None
        for k, name in enumerate(TYPES):
            code, p = f"{name}_haemorrhage", min(chance[name], p_any)
            if k not in shown:
                add(code, False, p, "omit")
                continue
            mask = masks[code]
            side = side_of(measures.outlines[:, k], answers.halves, leftward) if sided else None
            volume_ml = round(float(mask.sum()) * voxel_ml, 1) if voxel_ml and mask.any() and band == "state" else None
            region = region_of(code, mask, volume.affine, placing) if placing and volume.affine is not None else ""
            add(code, True, p, "state" if p >= STATE["type"] and band == "state" else "hedge", side=side, region=region, volume_ml=volume_ml,
                evidence=evidence(code, answers.logits[:, k + 1], mask))
        # how much there is of what is only possible is not known
        shown_at = {f.code: f.evidence for f in found}
        self.add_shift_and_effect(add, measures, p_any, shown if band == "state" else [], picture, leftward, volume, group, shown_at)
        if lines is None:
            add("skull_fracture", False, 0.0, "omit")        # bone is not seen in a brain window, nor between slices
        else:
            p = probability(self.calibration["fracture"], (lines.strength, 0.0))
            fractured = p >= HEDGE["fracture"]
            if fractured:
                mask = to_mask(lines.columns(), lines.flat, (len(lines.logits), *volume.pixels.shape[1:]), *volume.spacing_mm[1:])  # type: ignore[index]
                masks["skull_fracture"] = np.repeat(mask, group, 0)[: len(volume.pixels)]
            # learnt from simulated fractures alone: good enough to point to one, never to state one or to say that there is none
            add("skull_fracture", fractured, p, "hedge" if fractured and self.calibration["fracture_said"] else "omit",
                side=lines.side(leftward) if fractured and sided else None,
                evidence=evidence("skull_fracture", lines.logits.max(1), masks["skull_fracture"]) if fractured else ())
        return tuple(found), {name: mask for name, mask in masks.items() if mask.any()}

    def add_shift_and_effect(self, add: Callable[..., None], measures: Measures, p_any: float, shown: Sequence[int], picture: bool,
                             leftward: bool, volume: Volume, group: int, shown_at: Mapping[str, tuple[ImageEvidence, ...]]) -> None:
        measured = abs(measures.shift_mm or 0.0)
        p = 0.0 if measures.shift_mm is None else probability(self.calibration["shift"], (measured, 0.0))
        said = measures.shift_mm is not None and self.calibration["shift_said"]
        shifted = said and p >= HEDGE["shift"]
        denied = said and p < NO_SHIFT and self.calibration["shift_denied"]
        band: Band = "omit" if not shifted and not denied else "hedge" if shifted and p < STATE["shift"] else "state"
        at = min(measures.shift_slice * group + group // 2, len(volume.pixels) - 1)
        seen = (ImageEvidence(volume.series_uid, at, volume.instance_uids[at] if at < len(volume.instance_uids) else ""),)
        side: Side = "left" if ((measures.shift_mm or 0) > 0) == leftward else "right"
        shift = round(measured * self.calibration["shift_slope"], 1)
        add("midline_shift", shifted, p, band, **({"side": side, "size_mm": shift, "evidence": seen} if shifted else {}))
        bulky = sorted((TYPES[k] for k in shown if TYPES[k] in ("epidural", "subdural", "intraparenchymal")), key=lambda name: measures.size_ml[name])
        bulk = sum(measures.size_ml[name] for name in bulky)
        effect = 0.0 if picture else max(p_any / (1 + float(np.exp(-(bulk - 20) / 4))), p if shifted else 0.0)
        # Only blood and the midline are measured here, and it is not all that pushes: no mass effect is never said.
        # It is shown where it was read from: at the largest of the blood that pushes, or at the shift.
        where = shown_at[f"{bulky[-1]}_haemorrhage"] if bulky else seen
        add("mass_effect", effect >= 0.5, effect, "omit" if effect < 0.5 else "hedge" if effect < 0.7 else "state",
            evidence=where if effect >= 0.5 else ())


def not_assessed(findings: Sequence[Finding], modality: str) -> tuple[str, ...]:
    """Codes that the modality can show and that the findings settle neither themselves nor by what they are a kind of."""
    settled = {f.code for f in findings if f.band != "omit"}
    absent = {f.code for f in findings if f.band == "state" and not f.present}
    seen_kinds = {FINDINGS[f.code].parent for f in findings if f.present and f.band != "omit"}
    return tuple(code for code, row in FINDINGS.items()
                 if modality in row.modalities and code not in settled | seen_kinds and row.parent not in absent)


# ---------------------------------------------------------------- which series

def is_picture(volume: Volume) -> bool:
    return volume.spacing_mm is None and volume.units != "HU" and len(volume.pixels) == 1


def choose_volume(study: Study) -> int:
    """Index of the best axial non-contrast head CT series; StudyRefused names why the most promising one was turned down."""
    if not study.volumes:
        raise StudyRefused("empty", "the study has no readable image; send the axial head CT series")
    verdicts = [why_not(volume) for volume in study.volumes]
    good = [i for i, verdict in enumerate(verdicts) if verdict is None]
    if good:
        return max(good, key=lambda i: (span_mm(study.volumes[i]), -abs((study.volumes[i].spacing_mm or (4.0,))[0] - 4.0), -i))
    order = ["modality", "rescale", "not-a-head", "plane", "contrast", "too-many-slices", "coverage", "burnt-in", "pixels"]
    reason, message = max((v for v in verdicts if v), key=lambda v: order.index(v[0]))
    raise StudyRefused(reason, message)


def span_mm(volume: Volume) -> float:
    return len(volume.pixels) * volume.spacing_mm[0] if volume.spacing_mm else 0.0


def why_not(volume: Volume) -> tuple[str, str] | None:
    """(reason, message) why a series cannot be read, or None."""
    picture = is_picture(volume)
    if volume.modality not in ("CT",) and not (picture and volume.modality in ("", "OT", "SC", "XC")):
        return "modality", (f"modality is {volume.modality or 'not given'}, expected CT; drafts are made of non-contrast head CT, and of head MR "
                            "whose files are named by sequence (t1.nii.gz, flair.nii.gz) or say it in their header")
    if volume.units != "HU" and not picture:
        return "modality", f"pixels are in '{volume.units}', expected HU; send CT with RescaleSlope and RescaleIntercept"
    if float(volume.tags.get("coloured_share", 0)) > COLOURED_MAX:
        return "pixels", f"{float(volume.tags['coloured_share']):.0%} of the picture is in colour; send the grey picture of a head CT"
    part = volume.tags.get("BodyPartExamined", "").upper()
    if part and not re.search(r"HEAD|BRAIN|SKULL|CRANI|NEURO|SCHAEDEL", part):
        return "not-a-head", f"BodyPartExamined is {part[:16]}, expected HEAD"
    if volume.orientation not in ("axial",) and not picture:
        return "plane", f"plane is {volume.orientation}, expected axial; send the axial series"
    agent = volume.tags.get("ContrastBolusAgent", "").strip()
    if (agent and agent.upper() not in ("NONE", "NO", "N", "NOT GIVEN", "WITHOUT")) or (
            CONTRAST.search(volume.sequence) and not WITHOUT.search(volume.sequence)):
        return "contrast", "the series was taken with contrast agent, which looks like blood; send the non-contrast series"
    if len(volume.pixels) > MAX_SLICES:
        return "too-many-slices", f"{len(volume.pixels)} slices, at most {MAX_SLICES} are read; send one reconstruction of the head"
    if not picture and (len(volume.pixels) < MIN_SLICES or span_mm(volume) < MIN_SPAN_MM):
        return "coverage", (f"{len(volume.pixels)} slices over {span_mm(volume):.0f} mm, expected {MIN_SLICES} over {MIN_SPAN_MM:.0f} mm or more; "
                            "send the whole head")
    if not np.isfinite(volume.pixels).all():
        return "pixels", "pixels hold NaN or infinity; send the series again"
    if volume.pixels.size == 0 or float(np.ptp(volume.pixels)) < 1e-3:
        return "pixels", "all pixels have one value; send the series again"
    if volume.units == "HU" and float(volume.pixels.min()) > NO_AIR_HU:
        return "rescale", (f"values run from {volume.pixels.min():.0f} to {volume.pixels.max():.0f} HU, and air has about -1000; "
                           "send the series with RescaleSlope and RescaleIntercept")
    if burnt_in(volume):
        return "burnt-in", "text is burnt into the pixels; send the original images"
    return None


def burnt_in(volume: Volume) -> bool:
    """Whether the header says so, or the same pixels have the greatest value in nearly every slice, as letters laid over a series have."""
    if volume.tags.get("BurnedInAnnotation", "").upper() == "YES":
        return True
    if len(volume.pixels) < MIN_SLICES:
        return False
    same = (volume.pixels >= volume.pixels.max()).mean(0) >= 0.9
    return LETTERS_MIN <= int(same.sum()) <= 0.2 * same.size


def merge_thin(volume: Volume) -> tuple[Volume, int]:
    """Average groups of thin slices; how many went into one."""
    if volume.spacing_mm is None or volume.spacing_mm[0] >= 2.2:
        return volume, 1
    group = max(1, round(THICK_MM / volume.spacing_mm[0]))
    if group == 1:
        return volume, 1
    pixels = np.stack([volume.pixels[i:i + group].mean(0) for i in range(0, len(volume.pixels), group)])
    step, row, column = volume.spacing_mm
    return Volume(pixels=pixels, spacing_mm=(step * group, row, column), affine=volume.affine, modality=volume.modality, units=volume.units), group


def check_head(volume: Volume, answers: Answers, picture: bool) -> None:
    """Refuse what the network finds no brain in, or what has no skull around it."""
    brain = answers.halves[:, 1:].sum(1) > 0.5
    area = brain.sum((1, 2)) * (2 * PIXEL_MM) ** 2
    best = int(area.argmax())
    grid = grid_for(volume)
    one = Volume(pixels=volume.pixels[best:best + 1], spacing_mm=volume.spacing_mm, affine=None, units=volume.units)
    image = volume_channels(one, grid)[0, 0].numpy()
    inside = np.kron(brain[best], np.ones((2, 2), bool))
    ring = ndimage.binary_dilation(inside, iterations=5) & ~ndimage.binary_erosion(inside, iterations=2)
    skull = float((image[ring] > 0.85).mean()) if ring.any() else 0.0
    if (picture and (area[best] < 2500 or skull < 0.2)) or (not picture and (area[best] < MIN_BRAIN_MM2 or skull < 0.2)):
        raise StudyRefused("not-a-head", f"no brain within a skull was found ({area[best] / 100:.0f} cm2, skull around {skull:.0%}); "
                                         "expected an axial head CT")


def lies_turned(answers: Answers) -> bool:
    """Whether the head is wider than it is long in its largest slice: its front is not above, and image-left is no side."""
    inside = answers.halves[:, 0] < 0.5
    return wider_than(inside[int(inside.sum((1, 2)).argmax())], 1.02)


def missing_end(answers: Answers, spacing_mm: tuple[float, float, float]) -> str:
    area = (answers.halves[:, 1:].sum(1) > 0.5).sum((1, 2)) * (2 * PIXEL_MM) ** 2
    low, top = area[0], area[-1]
    words = [end for end, size in (("first", low), ("last", top)) if size > 0.6 * area.max()]
    return f"the brain runs on beyond the {' and the '.join(words)} slice: part of the head is not covered" if words else ""


# ---------------------------------------------------------------- the network and what is read off it

@torch.inference_mode()
def run(net: FindingNet, images: torch.Tensor, device: str = "cpu", batch: int = 16, bias: Sequence[float] | None = None) -> Answers:
    """What the net says of slices and of their mirror images, on average: left and right are read alike.

    `bias`, log odds for each of OUTLINES, is added so that an outline is best where it is likelier than not.
    """
    parts: list[tuple[torch.Tensor, ...]] = []
    lift = torch.tensor(bias or [0.0] * len(OUTLINES))[:, None, None].to(device)
    for chunk in images.split(batch):
        seen = chunk.to(device, memory_format=torch.channels_last)
        (plain, deep), (mirrored, _) = net(seen), net(seen.flip(-1))
        outlines = (plain["segment"] + mirrored["segment"].flip(-1)) / 2
        halves = (torch.softmax(plain["midline"], 1) + torch.softmax(mirrored["midline"], 1).flip(-1)[:, [0, 2, 1]]) / 2
        parts.append(tuple(t.float().cpu() for t in ((plain["classify"] + mirrored["classify"]) / 2, torch.sigmoid(outlines + lift), halves, deep)))
    return Answers(*(torch.cat(list(column)).numpy() for column in zip(*parts, strict=True)))


def measure(answers: Answers, slice_mm: float | None) -> Measures:
    """Sizes, best logits and the midline's shift; fragments at the rim of other blood are given to it in `answers`."""
    unit = PIXEL_MM**2 * (slice_mm or 1.0) / 1000
    if slice_mm:
        give_fragments(answers.outlines, FRAGMENT_ML / unit)
    outlines = answers.outlines > 0.5
    outlines &= answers.outlines >= answers.outlines.max(1, keepdims=True)         # one place bleeds in one way
    for k in range(len(OUTLINES)):
        outlines[:, k] = without_specks(outlines[:, k], 0.15 / unit if slice_mm else 15)
    sizes = {name: float(outlines[:, k].sum()) * unit for k, name in enumerate(OUTLINES)}
    logits = np.clip(answers.logits, -12, 12)
    evidence = {}
    for k, code in enumerate(SLICE_CODES):
        best = peak(logits[:, k])
        size = sum(sizes[t] for t in TYPES) if code == "any" else sizes[code]
        evidence[code] = (best, float(np.log(size + 0.1)))
    shift, at = (midline_shift(answers.halves, slice_mm, 2 * PIXEL_MM) if slice_mm else None) or (None, 0)
    return Measures(evidence, sizes, outlines, shift, at)


def give_fragments(chances: NDArray[np.float32], most_points: float) -> None:
    """A few mL called epidural, subdural or intraparenchymal that are one with much larger blood of another kind take its name.

    Blood in ventricles and sulci keeps its own: other blood breaks into them.
    """
    kinds = np.where(chances.max(1) > 0.5, chances.argmax(1), -1)
    spots, count = ndimage.label(kinds >= 0, np.ones((3, 3, 3)))
    sizes = np.stack([np.bincount(spots[kinds == k], minlength=count + 1) for k in range(5)], 1)
    for spot in range(1, count + 1):
        most = int(sizes[spot].argmax())
        for k in (TYPES.index(name) for name in ("epidural", "subdural", "intraparenchymal")):
            if 0 < sizes[spot, k] < min(FRAGMENT * sizes[spot, most], most_points):
                at, rows, columns = np.nonzero((spots == spot) & (kinds == k))
                chances[at, most, rows, columns], chances[at, k, rows, columns] = chances[at, k, rows, columns], 0.0


def as_pictures(volume: Volume) -> torch.Tensor:
    """Every slice as a grey picture that the head fills, (slices, PICTURE_SIZE, PICTURE_SIZE); HU in a brain window."""
    low, high = WINDOWS["brain"] if volume.units == "HU" else (0.0, 1.0)
    made = []
    for plane in volume.pixels:
        grey = np.clip((plane - low) / (high - low), 0, 1).astype(np.float32)
        made.append(to_grid(grey[None], picture_grid(grey, PICTURE_SIZE), 0.0))
    return torch.cat(made)


def both_readers(pictures: NDArray[np.float32], answers: Answers) -> NDArray[np.float32]:
    """Any haemorrhage, a logit a slice: the picture net and the net of the outlines must see it in the same slice, or outvote each other."""
    return ((pictures + np.clip(answers.logits[:, 0], -SUREST, SUREST)) / 2).astype(np.float32)


def peak(logits: NDArray[np.float32]) -> float:
    """The best mean of two neighbouring slices: one slice alone decides only where it is alone."""
    return float(((logits[:-1] + logits[1:]) / 2).max() if len(logits) > 1 else logits[0])


def sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


def log_odds(p: float) -> float:
    p = min(max(p, 1e-4), 1 - 1e-4)
    return float(np.log(p / (1 - p)))


def without_specks(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    spots, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(spots.ravel())
    keep = sizes >= max(least, 0.03 * sizes[1:].max())
    keep[0] = False
    return keep[spots]


def side_of(outline: NDArray[np.bool_], halves: NDArray[np.float32], leftward: bool) -> Side | None:
    """The patient's side of an outline, by the halves the network saw; the shares are those of the simulator's truth."""
    if not outline.any():
        return None
    first = np.kron(halves[:, 1] > halves[:, 2], np.ones((1, 2, 2), bool))      # image-left
    columns = np.arange(SIZE)
    border = np.where(first.any(2), SIZE - 1 - first[:, :, ::-1].argmax(2), SIZE // 2)
    lateral = np.abs(columns[None, None, :] - border[:, :, None])[outline] * PIXEL_MM
    if float(lateral.mean()) < 5:
        return "midline"
    share = float(first[outline].mean())
    one, other = ("right", "left") if leftward else ("left", "right")
    return one if share >= 0.75 else other if share <= 0.25 else "bilateral"    # type: ignore[return-value]


def affine_of_halves(grid: Grid, group: int, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(column, row, slice) of the halves, each point of which stands for four of the grid, to LPS mm."""
    steps = np.diag((2 * grid.step_column, 2 * grid.step_row, float(group), 1.0))
    steps[:3, 3] = grid.column0 + grid.step_column / 2, grid.row0 + grid.step_row / 2, (group - 1) / 2
    return affine @ steps


def to_volume(outline: NDArray[np.bool_], chance: NDArray[np.float32], grid: Grid, group: int, slices: int) -> NDArray[np.uint8]:
    """Outline on the grid -> mask in the volume as read."""
    maps = torch.from_numpy(np.where(ndimage.binary_dilation(outline, np.ones((1, 3, 3))), chance, 0).astype(np.float32))
    used = np.flatnonzero(outline.any((1, 2)))
    mask = np.zeros((len(outline), grid.rows, grid.columns), np.uint8)
    if len(used):
        mask[used] = (from_grid(maps[used], grid) > 0.5).numpy()
    return np.repeat(mask, group, 0)[:slices]


def image_tokens(answers: Answers, spread: int = 12, best: int = 4) -> NDArray[np.float32]:
    """Pooled features for the report decoder: a row for each of `spread` slices, four (quarters) for each of the `best`."""
    deep = answers.deep
    rows = [deep[i].mean((1, 2)) for i in np.unique(np.linspace(0, len(deep) - 1, min(spread, len(deep))).round().astype(int))]
    half = deep.shape[2] // 2
    for i in np.argsort(-answers.logits[:, 0])[:best]:
        rows += [deep[i, :, r:r + half, c:c + half].max((1, 2)) for r in (0, half) for c in (0, half)]
    return np.stack(rows).astype(np.float32)


def probability(fit: Sequence[float], evidence: tuple[float, float]) -> float:
    return sigmoid(fit[0] * evidence[0] + fit[1] * evidence[1] + fit[2])


# ---------------------------------------------------------------- calibration on held-out studies

def calibrate(net: FindingNet, held: Slices, report: Callable[..., None] = lambda *a, **k: None,
              device: str = "cpu") -> tuple[dict[str, Any], dict[str, Any]]:
    """(calibration, figures): fitted on the even studies and measured on the odd ones; the fit returned uses all."""
    rows, truth, shifts, dice, volumes = [], [], [], {t: [] for t in OUTLINES}, []     # type: ignore[var-annotated]
    bias = outline_bias(net, held, device)
    for s in range(len(held.counts)):
        index, images, maps = whole_study(held, s)
        found = measure(run(net, images, device, bias=bias), float(held.slice_mm[s]))
        rows.append([found.evidence[c] for c in SLICE_CODES])
        truth.append(held.present[index].max(0))
        if found.shift_mm is not None:
            shifts.append((abs(found.shift_mm), held.shift_mm[s]))
        for k, name in enumerate(OUTLINES):
            wanted = maps[:, k].numpy() > 0.5
            if wanted.sum() >= OUTLINED_FROM:
                dice[name].append(2 * float((wanted & found.outlines[:, k]).sum()) / float(wanted.sum() + found.outlines[:, k].sum()))
                volumes.append(abs(found.size_ml[name] - wanted.sum() * PIXEL_MM**2 * held.slice_mm[s] / 1000))
        report(s + 1, len(held.counts), phase="calibrate")
    x, y, moved = np.array(rows), np.array(truth), np.array(shifts or [(0.0, 0.0)])
    odd = np.arange(len(x)) % 2 == 1
    figures: dict[str, Any] = {"studies": len(x), "auc": {}, "accuracy": {}}
    fits: dict[str, Any] = {}
    error = []
    for k, code in enumerate(SLICE_CODES):
        trial = fit(x[~odd, k], y[~odd, k])
        p = np.array([probability(trial, tuple(e)) for e in x[odd, k]])
        error.append(np.abs(p - y[odd, k]).mean())
        figures["auc"][code] = area_under(p, y[odd, k])
        figures["accuracy"][code] = round(float(((p >= 0.5) == (y[odd, k] > 0.5)).mean()), 3)
        fits[code] = fit(x[:, k], y[:, k])
    slope = float((moved[:, 0] * moved[:, 1]).sum() / max((moved[:, 0] ** 2).sum(), 1e-6))
    shifted = moved[:, 1] >= SHIFT_FROM_MM
    shift_fit = fit(np.stack([moved[:, 0], 0 * moved[:, 0]], 1), shifted.astype(float))
    denied = np.array([true for seen, true in moved if probability(shift_fit, (seen, 0.0)) < NO_SHIFT])
    figures |= {"midline denied": len(denied), "shifted of them": int((denied >= SHIFT_FROM_MM).sum())}
    figures["auc"]["midline_shift"] = area_under(moved[:, 0], shifted)
    figures |= {"dice": {n: round(float(np.mean(d)), 3) for n, d in dice.items() if d}, "volume_error_ml": round(float(np.mean(volumes or [0])), 2),
                "shift_error_mm": round(float(np.abs(moved[:, 0] * slope - moved[:, 1]).mean()), 2),
                "shift_error_constant_mm": round(float(np.abs(moved[:, 1] - np.median(moved[:, 1])).mean()), 2)}
    calibration = {"outline_bias": bias, "volume": fits, "picture": calibrate_pictures(net, held, bias, device), "shift_slope": slope,
                   "shift": shift_fit, "shift_denied": bool(len(denied) >= DENIED_FEWEST and (denied >= SHIFT_FROM_MM).mean() <= DENIED_SHARE
                                                            and denied.max() < DENIED_MM),
                   "shift_said": (figures["auc"]["midline_shift"] or 0.0) >= SAID_AUC}
    return calibration, figures


def calibrate_fracture(net: SkullNet, held: Sequence[Skull], device: str = "cpu") -> tuple[dict[str, Any], float | None]:
    """(calibration, AUC) on held-out skulls; a net that finds fractures badly says nothing of them."""
    strength, broken = strengths(net, held, device), np.array([skull.fracture.any() for skull in held], float)
    auc = area_under(strength, broken)
    fitted = fit(np.stack([strength, 0 * strength], 1), broken)
    fitted[2] = round(fitted[2] + log_odds(FRACTURE_SHARE) - log_odds(float(broken.mean())), 5)
    return {"fracture": fitted, "fracture_said": (auc or 0.0) >= SAID_AUC}, auc


def whole_study(held: Slices, s: int) -> tuple[NDArray[np.int64], torch.Tensor, torch.Tensor]:
    """(slices, their channels, true outlines) of a study as it is."""
    index = np.arange(held.start[s], held.start[s + 1])
    images, maps, _ = augment(held, index, np.random.default_rng(s), np.zeros(len(index), bool), plain=True)
    return index, images, maps


def outline_bias(net: FindingNet, held: Slices, device: str = "cpu") -> list[float]:
    """Log odds to add to each outline for the best Dice on the even studies: what a net learnt of few steps lies too low, and volumes with it."""
    overlaps: list[list[list[float]]] = [[] for _ in OUTLINES]
    for s in range(0, len(held.counts), 2):
        _, images, maps = whole_study(held, s)
        chance, wanted = run(net, images, device).outlines, maps.numpy() > 0.5
        for k in range(len(OUTLINES)):
            if wanted[:, k].sum() >= OUTLINED_FROM:
                found = [chance[:, k] > cut for cut in CUTS]
                overlaps[k].append([2 * float((f & wanted[:, k]).sum()) / float(wanted[:, k].sum() + f.sum()) for f in found])
    return [round(-log_odds(CUTS[int(np.mean(each, 0).argmax())]), 4) if each else 0.0 for each in overlaps]


def calibrate_pictures(net: FindingNet, held: Slices, bias: Sequence[float] | None = None, device: str = "cpu") -> dict[str, Any]:
    rng = np.random.default_rng(1)
    middle = [i for s in range(len(held.counts)) for i in range(held.start[s] + held.counts[s] // 5, held.start[s + 1] - held.counts[s] // 8)]
    index = rng.permutation(np.array(middle))[:480]
    x, y = [], []
    for chunk in np.array_split(index, max(1, len(index) // 24)):
        images, maps, _ = augment(held, chunk, rng, np.ones(len(chunk), bool))
        answers = run(net, images, device, bias=bias)
        for b in range(len(chunk)):
            one = Answers(answers.logits[b:b + 1], answers.outlines[b:b + 1], answers.halves[b:b + 1], answers.deep[b:b + 1])
            x.append([measure(one, None).evidence[c] for c in SLICE_CODES])
            size = maps[b].sum((1, 2)).numpy()
            y.append([float(size.max() >= 12), *(size >= 12).astype(float)])
    xs, ys = np.array(x), np.array(y)
    return {code: fit(xs[:, k], ys[:, k]) for k, code in enumerate(SLICE_CODES)}


def fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[float]:
    """Logistic calibration of (logit, log size); with one class only, a careful default."""
    from sklearn.linear_model import LogisticRegression

    if y.min() == y.max():
        return [1.0, 0.0, 0.0]
    model = LogisticRegression(C=0.5, max_iter=500).fit(x, y)
    return [round(float(v), 5) for v in (*model.coef_[0], model.intercept_[0])]


def area_under(score: NDArray[np.float64], truth: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve; None when one class is missing."""
    positive, negative = score[truth > 0.5], score[truth <= 0.5]
    if not len(positive) or not len(negative):
        return None
    return round(float((positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()), 4)
