"""One head on one patient: checked, brought to what the net was taught on, answered, brought back, measured in mL and mm."""
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import pdist

from data.errors import InputError
from data.model_files import load_model
from data.records import Volume
from vision.heads import CLASSED, Head, head_named
from vision.heads.channels import B_S_MM2, UNIT_NAMES, UNITS
from vision.heads.clinical import check_values, with_shares
from vision.heads.examples import Example, make_example
from vision.heads.explain import FEW_BOXES, left_out, occlusion
from vision.heads.infer import resample, uncertainty
from vision.heads.tasks import LIKELY, TASKS, Spots, as_tissues, class_of, detected_mask, masks_of, outline_finish, tissues_in, values_in
from vision.heads.tissue_class import values_of
from vision.mr_series import ROLES, role_of
from vision.train_head import load_head

Floats = NDArray[np.float32]
COARSER_MAX = 4.0           # times the slice thickness taught: more is refused
WHOLE_COARSER_MAX = 1.5     # the same of a volume that is read whole: a class told by tissues changed with slices four times as thick
WHOLE_MM = 100.0            # less of a head along any axis is no whole head
UNLIKE_MAX = 0.05           # 14 simulated heads of held-out anatomy have at most 0.01, their upper and lower halves 0.13 and more, noise 0.93
APART = 0.5                 # of the smallest side of a voxel: series further apart are not on one grid
DECIDES = 0.05              # a fall of the probability below this is not worth pointing at
SHORTEST = 40               # time points of a series in which networks can be told from noise
# measured on OASIS-1, which tells age, sex, brain and intracranial volume alone: AUC 0.45 for dementia (docs/heads.md)
NO_HIPPOCAMPUS = "the volumes of both hippocampi are not given: without them the class is no better than chance"
Grid = tuple[int, int, int]
SEQUENCES = (*ROLES, "T1CE")
PLANES = ("axial", "oblique", "unknown", "")


@dataclass(frozen=True)
class HeadAnswer:
    """Maps lie on the grid of the input: masks uint8; images, uncertainty and heat float32."""

    masks: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    images: dict[str, Floats] = field(default_factory=dict)
    uncertainty: dict[str, Floats] = field(default_factory=dict)
    measures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    heat: dict[str, Floats] = field(default_factory=dict)       # of a class: by how much its probability falls where a place is hidden
    probability: dict[str, Floats] = field(default_factory=dict)        # of outlines, and of a detector's first stage
    chances: tuple[float, ...] = ()     # of a detector's candidates, by its judge, the surest first


class HeadModel:
    def __init__(self, head: Head, net: Any, config: dict[str, Any], device: str = "cpu") -> None:
        self.head, self.net, self.config, self.device = head, net, config, device

    @classmethod
    def load(cls, name: str, folder: Path | None = None, device: str = "cpu") -> "HeadModel":
        """Raises InputError for an unknown name, ModelError for weights that are missing or altered."""
        head = head_named(name)
        if head.task == "program":
            raise InputError(f"{name} is answered by `wetread draft`, not by a head of its own; give the study to that")
        net = load_head(head, folder, device)
        return cls(head, net, load_model(Path(folder or head.folder))[0], device)

    def apply(self, channels: Mapping[str, Volume], numbers: Mapping[str, Any] | None = None, draws: int = 0,
              explain: bool = False) -> HeadAnswer:
        """Answer one patient.

        Args:
            channels: by the names of the row's inputs, all on one grid; a series has its own axis first in `pixels`.
            numbers: volumes, age and sex, or raw data (kspace, mask_4x, trajectory), by the names of the simulator's truth.
            draws: passes with dropout left on for the uncertainty map of outlines and images; 0 for none.
            explain: of a class, also what it was read from (vision.heads.explain).
        Raises: InputError naming the channel.
        """
        head = self.head
        if explain and head.task not in CLASSED:
            raise InputError(f"--explain is for heads that answer a class, {head.name} answers {', '.join(head.outputs)}; leave it out")
        if head.task in ("volumes", "rebuild"):
            return self.without_images(dict(numbers or {}), explain)
        notes = ([head.caveat] if head.caveat else []) + check(head, channels, self.config)
        if "DIFFUSION" in head.inputs:
            notes.append(f"read as b0 and the usual six directions at b {B_S_MM2:.0f} s/mm2; the table of directions of the file is not read")
        first = channels[head.inputs[0]]
        if head.task == "series" and (first.pixels.ndim != 4 or len(first.pixels) < SHORTEST):
            raise InputError(f"{head.inputs[0]} has shape {first.pixels.shape}, expected (time, slices, rows, columns) of {SHORTEST} time points or "
                             "more; give a 4D NIfTI, or .npz with pixels and spacing_mm")
        shape, taught = grid_of(first), self.grid(first)
        pixels = {name: v.pixels if v.pixels.ndim == 4 else v.pixels[None] for name, v in channels.items()}
        moved = {name: resample(p, taught) for name, p in pixels.items()}
        spacing = tuple(s * a / b for s, a, b in zip(first.spacing_mm or (1.0, 1.0, 1.0), shape, taught, strict=True))
        if taught != shape:
            notes.append(f"read on a grid of {spacing[0]:.1f} x {spacing[1]:.1f} x {spacing[2]:.1f} mm")
        case = SimpleNamespace(channels={n: p if len(p) > 1 else p[0] for n, p in moved.items()}, masks={}, structures=None, category=None,
                               spacing_mm=spacing, truth=dict(numbers or {}))
        example = self.example(case)
        if head.dimensions == 3:
            check_whole(head, example)
        if head.task == "tissues":
            return self.from_tissues(example, first, shape, notes, explain)
        answer = TASKS[head.task].predict(head, self.net, example, self.device)
        if head.task in ("category", "picture"):
            heat = self.heat(example, shape, notes) if explain else {}
            return HeadAnswer(measures=classes(head, answer), notes=notes, heat=heat)
        if head.task == "series":
            return self.networks(answer, example, shape, notes)
        spread = self.spread(example, shape, draws)
        if head.task == "image":
            return self.images(answer, example, channels, spread, notes)
        found = outlined(head, answer, first, shape)
        if head.dimensions == 3 and (lacking := [name for name, mask in found.masks.items() if not mask.any()]):
            raise InputError(f"no {' and no '.join(lacking)} was found in {head.inputs[0]}, expected a T1 of a whole head; send such a series, "
                             "or read another contrast with structures")
        return replace(found, uncertainty=spread, notes=notes)

    def from_tissues(self, example: Example, first: Volume, shape: Grid, notes: list[str], explain: bool) -> HeadAnswer:
        """The class, and the outlines of the tissues that tell it.

        Of a part of a head, or of no head, a regression would give a sure class: what is unlike all that it was taught is refused.
        """
        tissue = tissues_in(self.net, example, self.device)
        values = values_of(tissue, example.facts["spacing_mm"])
        if (unlike := self.net.unlike(values)) > UNLIKE_MAX:
            raise InputError(f"the tissues found in {self.head.inputs[0]} are unlike those of a whole head ({unlike:.0%} of their measures are "
                             "far from usual); send a T1 of the whole brain")
        told = classes(self.head, class_of(self.net, values))
        heat = self.heat(example, shape, notes) if explain else {}
        found = outlined(as_tissues(self.head), tissue.cpu().numpy(), first, shape)
        return replace(found, measures=[*told, *found.measures], notes=notes, heat=heat)

    def example(self, case: Any) -> Example:
        """As in training, without the truth."""
        head = self.head
        blank = np.zeros(next(iter(case.channels.values())).shape[-3:], np.float32)
        case.masks = {name: blank.astype(np.uint8) for name in head.outputs}
        case.structures = blank.astype(np.uint8)
        inside = next(iter(case.channels.values()))
        case.channels |= {name: inside if inside.ndim == 3 else inside[0] for name in head.outputs if head.task == "image"}
        return make_example(head, case, "")

    def grid(self, volume: Volume) -> Grid:
        """Outlines are read at the spacing taught, thinner slices averaged to about that, whole volumes just so; images keep their own grid."""
        shape, taught = grid_of(volume), self.config.get("spacing_mm")
        if self.head.task in ("image", "series") or volume.spacing_mm is None or not taught:
            return shape
        if self.head.dimensions == 3:
            slices, rows, columns = (max(1, round(n * own / t)) for n, own, t in zip(shape, volume.spacing_mm, taught, strict=True))
            return slices, rows, columns
        thick, row, column = volume.spacing_mm
        slices = max(1, round(shape[0] * thick / taught[0])) if thick < 0.67 * taught[0] else shape[0]
        rows, columns = (max(16, round(n * own / t)) if abs(own / t - 1) > 0.08 else n for n, own,
                         t in zip(shape[1:], (row, column), taught[1:], strict=True))
        return slices, rows, columns

    def heat(self, example: Example, shape: Grid, notes: list[str]) -> dict[str, Floats]:
        if self.head.task == "tissues":                     # a net of three dimensions reads all slices, here without their mirror images
            likeliest, fall = occlusion(lambda e: class_of(self.net, values_in(self.net, e, self.device, flips=False)), example,
                                        example["inputs"].shape[1], FEW_BOXES)
        else:
            likeliest, fall = occlusion(lambda e: TASKS[self.head.task].predict(self.head, self.net, e, self.device), example)
        name, most = self.head.outputs[likeliest], float(fall.max())
        notes.append(f"the probability of {name} falls by at most {most:.2f} where a part of the image is hidden"
                     + ("; no one place decides" if most < DECIDES else ""))
        return {name: resample(fall[None], shape)[0]}

    def spread(self, example: Example, shape: Grid, draws: int) -> dict[str, Floats]:
        if not draws or self.head.task not in ("outline", "image"):
            return {}
        finish = outline_finish(self.head) if self.head.task == "outline" else (lambda x: x)
        _, deviation = uncertainty(self.net, example["inputs"], self.net.config.stride, self.device, finish, draws)
        back = resample(deviation, shape)
        return {name: back[k] * np.float32(unit_of(self.head, name, example)) for k, name in enumerate(self.head.outputs)}

    def images(self, answer: Floats, example: Example, channels: Mapping[str, Volume], spread: dict[str, Floats], notes: list[str]) -> HeadAnswer:
        """An answer that is a change of an input is added to it as it came, so that what was clipped for the net (bone, say) is kept."""
        head = self.head
        made = {name: answer[k] * np.float32(unit_of(head, name, example)) for k, name in enumerate(head.outputs)}
        if head.start:
            seen = np.asarray(example["inputs"][head.inputs.index(head.start)], np.float32)
            scale = np.float32(unit_of(head, head.outputs[0], example))
            made[head.outputs[0]] = channels[head.start].pixels + (answer[0] - seen) * scale
        measures = [{"output": name, "unit": UNIT_NAMES.get(name, "as the input"), "mean": round(float(image.mean()), 3)} for name,
                    image in made.items()]
        return HeadAnswer(images=made, uncertainty=spread, measures=measures, notes=notes)

    def networks(self, maps: Floats, example: Example, shape: Grid, notes: list[str]) -> HeadAnswer:
        found = {}
        for k, values in enumerate(maps):
            image = np.zeros(shape, np.float32)
            image[np.asarray(example["brain"]) > 0] = values
            found[f"network_{k + 1:02d}"] = image
        return HeadAnswer(images=found, measures=[{"output": "networks", "count": len(maps), "unit": "of the strongest point"}], notes=notes)

    def without_images(self, numbers: dict[str, Any], explain: bool = False) -> HeadAnswer:
        head = self.head
        if head.task == "volumes":
            check_values(numbers)

            def answer(values: dict[str, Any]) -> Floats:
                return TASKS["volumes"].predict(head, self.net, Example({}, {"numbers": values, "spacing_mm": (1.0, 1.0, 1.0)}), self.device)

            measures = classes(head, answer(numbers))
            if explain:
                likeliest, falls = left_out(answer, numbers)
                measures += [{"output": head.outputs[likeliest], "left_out": name, "probability_falls_by": fall} for name, fall in falls.items()]
            notes = [] if "hippocampus" in with_shares(numbers.get("volumes_ml") or {}) else [NO_HIPPOCAMPUS]
            return HeadAnswer(measures=measures, notes=notes)
        kspace = np.asarray(numbers.get("kspace", 0))
        if kspace.ndim not in (3, 4) or not np.iscomplexobj(kspace):
            raise InputError(f"kspace is {kspace.dtype} with {kspace.ndim} axes, expected complex (coils, slices, rows, columns) "
                             "or (coils, slices, samples); give the measured lines or points as they are, not an image")
        if ("trajectory" in numbers) != (kspace.ndim == 3):
            raise InputError("trajectory does not fit kspace; give trajectory (samples, 2) with (coils, slices, samples), "
                             "and mask_4x or mask_8x with (coils, slices, rows, columns)")
        if kspace.ndim == 4 and not {"mask_4x", "mask_8x"} & set(numbers):
            raise InputError("mask_4x or mask_8x is missing; give which lines (rows,), or points (rows, columns), were measured")
        size = int(numbers.get("size", kspace.shape[-1] if kspace.ndim == 4 else 128))
        blank = {} if kspace.ndim == 4 else {"TARGET": np.zeros((kspace.shape[1], size, size), np.float32)}
        case = SimpleNamespace(truth=numbers, channels=blank, spacing_mm=(1.0, 1.0, 1.0), category=None)
        made = TASKS["rebuild"].predict(head, self.net, make_example(head, case, ""), self.device)
        names = [k[5:] for k in ("mask_4x", "mask_8x") if k in numbers] if kspace.ndim == 4 else list(head.outputs)
        return HeadAnswer(images=dict(zip(names, made, strict=True)), measures=[{"output": name, "unit": "as the raw data"} for name in names])


def check_whole(head: Head, example: Example) -> None:
    """Raise InputError where less than a whole head is shown."""
    span = [n * s for n, s in zip(example["inputs"].shape[1:], example.facts["spacing_mm"], strict=True)]
    if min(span) < WHOLE_MM:
        raise InputError(f"{head.inputs[0]} covers {' x '.join(f'{v:.0f}' for v in span)} mm, expected a whole head, "
                         f"{WHOLE_MM:.0f} mm or more along each axis; send the whole volume")


def covers_whole(volume: Volume, config: Mapping[str, Any]) -> bool:
    """Whether a volume shows a whole head in slices as thin as a net that reads it whole was taught."""
    if volume.spacing_mm is None or volume.spacing_mm[0] > WHOLE_COARSER_MAX * config["spacing_mm"][0]:
        return False
    return min(n * mm for n, mm in zip(volume.pixels.shape, volume.spacing_mm, strict=True)) >= WHOLE_MM


def outlined(head: Head, answer: Floats | Spots, first: Volume, shape: Grid) -> HeadAnswer:
    """Probabilities of outlines, or candidates, brought to the grid of the input and measured there."""
    spots = answer if isinstance(answer, Spots) else None
    back = resample(answer.probability[None] if isinstance(answer, Spots) else answer, shape)
    found = masks_of(head, back) if spots is None else resample(detected_mask(spots)[None].astype(np.float32), shape) > LIKELY
    masks = {name: found[k].astype(np.uint8) for k, name in enumerate(head.outputs)}
    sure = spots.chance if spots is not None else None
    measures = [measure(name, mask, first.spacing_mm, float(sure.max()) if sure is not None and len(sure) else None) for name, mask in masks.items()]
    return HeadAnswer(masks, measures=measures, probability=dict(zip(head.outputs, back, strict=True)),
                      chances=tuple(sorted((float(c) for c in sure), reverse=True)) if sure is not None else ())


def unit_of(head: Head, name: str, example: Example) -> float:
    """What a value of 1 stands for; images in arbitrary units come out in those of the first input."""
    if head.task != "image":
        return 1.0
    scales = example.facts["scales"]
    return float(UNITS.get(name, scales[head.start or head.inputs[0]]))


def check(head: Head, channels: Mapping[str, Volume], config: Mapping[str, Any]) -> list[str]:
    """Notes on what is unusual; InputError for what cannot be read."""
    missing = [name for name in head.inputs if name not in channels]
    extra = [name for name in channels if name not in head.inputs]
    if missing or extra:
        raise InputError(f"{head.name} got {', '.join(channels) or 'nothing'}, expected {', '.join(head.inputs)}; give each as NAME=FILE")
    shape, notes = channels[head.inputs[0]].pixels.shape[-3:], []
    for name, volume in channels.items():
        ct = volume.modality == "CT" or volume.units == "HU"
        if head.modality == "CT" and volume.units != "HU":
            raise InputError(f"{name} is {volume.modality or 'no CT'} in '{volume.units or 'arbitrary units'}', expected CT in HU; "
                             "give a head CT with its RescaleSlope and RescaleIntercept")
        if head.modality == "MR" and (ct or volume.modality not in ("", "MR", "OT", "PT")):
            raise InputError(f"{name} is {'CT' if ct else volume.modality}, expected MR; "
                             f"give {name} of a head MR, or see `wetread head` for what reads CT")
        if head.modality == "MR" and name in SEQUENCES and (role := role_of(volume)) and role != name:
            notes.append(f"the series given as {name} calls itself {role} by its name or timing: read as {name} all the same")
        if volume.orientation not in PLANES and (head.task not in CLASSED or head.task == "tissues"):
            raise InputError(f"{name} is {volume.orientation}, expected axial slices; reformat it to axial")
        if head.task == "picture" and volume.pixels.shape[-3] != 1:
            raise InputError(f"{name} holds {volume.pixels.shape[-3]} slices, expected one picture; give the slice that shows the lesion")
        series = volume.pixels.shape[0] if volume.pixels.ndim == 4 else 1
        if name == "DIFFUSION" and series != head.series:
            raise InputError(f"{name} holds {series} images, expected {head.series}: one without diffusion weighting "
                             f"and {head.series - 1} directions; give the series of that protocol")
        if not np.isfinite(volume.pixels).all():
            raise InputError(f"{name} holds NaN or infinity; replace them by the background (air: -1000 on CT, 0 on MR)")
        if float(volume.pixels.max()) <= float(volume.pixels.min()):
            raise InputError(f"{name} is empty: all its values are the same; send the series with its pixels")
        if volume.pixels.shape[-3:] != shape:
            raise InputError(f"{name} is {volume.pixels.shape[-3:]}, {head.inputs[0]} is {shape}; bring the series to one grid")
        if away := apart_mm(volume, channels[head.inputs[0]]):
            raise InputError(f"{name} lies up to {away:.0f} mm away from {head.inputs[0]}; bring the series to one grid (register and resample them)")
        if volume.spacing_mm is None and head.task in ("outline", "detect", "tissues"):
            raise InputError(f"{name} has no spacing, so nothing can be measured; send a volume with its spacing in mm")
        if volume.orientation == "oblique":
            notes.append(f"{name} is oblique: read in its own planes, its geometry kept")
        taught = config.get("spacing_mm")
        coarsest = (WHOLE_COARSER_MAX if head.dimensions == 3 else COARSER_MAX) * taught[0] if taught else 0.0
        if taught and volume.spacing_mm and volume.spacing_mm[0] > coarsest:
            raise InputError(f"{name} has slices of {volume.spacing_mm[0]:.1f} mm, expected at most {coarsest:.0f}; "
                             "send thinner slices")
        if taught and volume.spacing_mm and volume.spacing_mm[0] > 1.5 * taught[0]:
            notes.append(f"{name} has slices of {volume.spacing_mm[0]:.1f} mm, the head was taught {taught[0]:.1f} mm: what is small may be missed")
    return list(dict.fromkeys(notes))


def grid_of(volume: Volume) -> Grid:
    """(slices, rows, columns), of a series those of each of its volumes."""
    slices, rows, columns = volume.pixels.shape[-3:]
    return slices, rows, columns


def apart_mm(volume: Volume, first: Volume) -> float:
    """How far the corners of two volumes of one shape lie apart, 0.0 where that is within half a voxel or not known."""
    if volume.affine is None or first.affine is None or first.spacing_mm is None:
        return 0.0
    slices, rows, columns = first.pixels.shape[-3:]
    corners = np.array([(c, r, s, 1) for c in (0, columns - 1) for r in (0, rows - 1) for s in (0, slices - 1)], float)
    away = float(np.linalg.norm(corners @ (volume.affine - first.affine).T, axis=1).max())
    return away if away > APART * min(first.spacing_mm) else 0.0


def measure(name: str, mask: NDArray[np.uint8], spacing_mm: tuple[float, float, float] | None, probability: float | None) -> dict[str, Any]:
    """mL, number of parts, longest diameter in a slice (mm)."""
    assert spacing_mm is not None
    row: dict[str, Any] = {"output": name, "volume_ml": round(float(mask.sum()) * float(np.prod(spacing_mm)) / 1000, 2),
                           "count": int(ndimage.label(mask, np.ones((3, 3, 3)))[1]), "longest_mm": longest_mm(mask, spacing_mm)}
    return row | ({"probability": round(probability, 3)} if probability is not None else {})


def longest_mm(mask: NDArray[np.uint8], spacing_mm: tuple[float, float, float]) -> float:
    """Of the largest part, in the slice where it is largest."""
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        return 0.0
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    plane = largest[int(largest.sum((1, 2)).argmax())]
    edge = np.argwhere(plane & ~ndimage.binary_erosion(plane)) * np.array(spacing_mm[1:])
    if len(edge) > 800:
        edge = edge[:: len(edge) // 800 + 1]
    return round(float(pdist(edge).max()) if len(edge) > 1 else float(spacing_mm[1]), 1)


def classes(head: Head, probability: Floats) -> list[dict[str, Any]]:
    return [{"output": name, "probability": round(float(p), 3)} for name, p in zip(head.outputs, probability, strict=True)]
