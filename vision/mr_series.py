"""Which series of a head MR study is which, whether it can be read, and all of them on the grid of one."""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.records import Volume
from vision.findings import burnt_in

MAX_SLICES = 600
MIN_SLICES = 10
MIN_SPAN_MM = 90.0          # less of a head than this is no head MR
THICK_MAX_MM = 8.0
THIN_MM = 2.0               # a sagittal or coronal series with slices up to this is a volume scan, which is turned to axial
HEAD_PART = re.compile(r"HEAD|BRAIN|SKULL|CRANI|NEURO|SCHAEDEL|CEREBR", re.I)
GIVEN = re.compile(r"\b(?:post|gad\w*|gd|km|contrast|ce)\b|\+\s*(?:c|gd|km)\b|t1\s*(?:w\s*)?(?:ce|c\+|gd|post|km)\b|t1(?:ce|gd|post|c)(?:\b|_)", re.I)
NOT_GIVEN = re.compile(r"\b(?:pre|without|non|no|w/?o|nativ\w*|unenhanced|before)\b", re.I)
# what is made of a series or shows something else than the head's anatomy; it is read for nothing
DERIVED = re.compile(r"\b(?:mip|minip|phase|pha|fa|colou?r|colfa|tensor|exp|eadc|cbf|cbv|mtt|ttp|tmax|perf\w*|dsc|dce|asl|bold|fmri|mra|mrv|tof|mask|"
                     r"spine|orbit\w*|neck|iac|sella\w*|pituitary|b0map|field ?map|calib\w*|scout|locali[sz]er|survey|synthetic|subtract\w*|sub)\b",
                     re.I)


@dataclass(frozen=True)
class Role:
    """How a sequence is told: `named` in the description, and where the timing is known it must fit (ms)."""

    named: re.Pattern[str]
    echo_ms: tuple[float, float] = (0.0, 1e6)
    repetition_ms: tuple[float, float] = (0.0, 1e6)
    inversion_ms: tuple[float, float] | None = None         # None: the time does not count


# In order: the first that fits is the series' role. Bounds are wide: 1.5 and 3 T, spin and gradient echo (Bernstein, Handbook of MRI
# Pulse Sequences, 2004; ACR-ASNR brain MR parameters). Timing alone tells FLAIR, T2 and T1; diffusion and SWI need their name or b-value.
ROLES: dict[str, Role] = {
    "ADC": Role(re.compile(r"\b(?:adc|apparent diffusion|dadc)\b|_adc|adc_", re.I)),
    "DWI": Role(re.compile(r"\b(?:dwi|trace\w*|tracew|diff\w*|ep2d_diff\w*|b ?[-=_]? ?(?:8|9|10|12|15|20)00|resolve)\b|dwi|_b1000", re.I)),
    "SWI": Role(re.compile(r"\b(?:swi|swan|swip|venobold|susceptib\w*|mag_images|haemo|hemo)\b|swi", re.I)),
    "FLAIR": Role(re.compile(r"t2.?flair|flair|tirm|dark.?fl\w*|space.?fl|cube.?fl", re.I), (60, 700), (4000, 15000), (1400, 3200)),
    "T2": Role(re.compile(r"\bt2(?!\s*\*)(?:w|_|\b)|\bt2(?:tse|fse|frfse|tra|ax|space|cube|blade|propeller)", re.I), (60, 700), (1800, 20000)),
    "T1": Role(re.compile(r"t1|mp.?rage|spgr|bravo|vibe|tfe|3dflash|fspgr", re.I), (0, 40), (0, 3500)),
}
DIFFUSION_B = 700.0         # s/mm2, from which an image is a diffusion-weighted one


def role_of(volume: Volume) -> str:
    """One of ROLES or T1CE; "" where facts are missing, contradict the name or say that the series shows something else."""
    if volume.modality not in ("MR", "") or volume.units == "HU":
        return ""
    kind = volume.tags.get("ImageType", "").upper().split("\\")
    name = re.sub(r"[\s_.]+", " ", f"{volume.sequence} {volume.tags.get('ProtocolName', '')}").strip()
    if "ADC" in kind:
        return "ADC"
    if {"PHASE", "P", "PHASE MAP", "MIP", "MINIP", "MNIP", "FA", "LOCALIZER", "PROJECTION IMAGE"} & set(kind) or DERIVED.search(name):
        return ""
    strength = number(volume, "DiffusionBValue")
    if strength is not None and strength < DIFFUSION_B and not ROLES["ADC"].named.search(name):
        return "" if strength > 0 or ROLES["DWI"].named.search(name) else anatomical(volume, name)
    if strength is not None or "DIFFUSION" in kind:
        return "ADC" if ROLES["ADC"].named.search(name) else "DWI"
    return anatomical(volume, name)


def anatomical(volume: Volume, name: str) -> str:
    echo, repetition, inversion = (number(volume, tag) for tag in ("EchoTime", "RepetitionTime", "InversionTime"))
    for role, row in ROLES.items():
        if not row.named.search(name):
            continue
        if role == "FLAIR" and re.search(r"t1.?(?:w.?)?flair", name, re.I):
            continue
        return contrast(volume, name, role) if fits(row, echo, repetition, inversion) else ""
    if echo is None or repetition is None:
        return ""
    for role in ("FLAIR", "T2", "T1"):
        if fits(ROLES[role], echo, repetition, inversion) and (role != "FLAIR" or inversion is not None):
            return contrast(volume, name, role)
    return ""


def contrast(volume: Volume, name: str, role: str) -> str:
    """A T1 with agent is T1CE; the header's agent counts unless the name says that it was not given yet."""
    if role != "T1" or NOT_GIVEN.search(name):
        return role
    agent = volume.tags.get("ContrastBolusAgent", "").strip().upper()
    return "T1CE" if GIVEN.search(name) or agent not in ("", "NONE", "NO", "N", "NOT GIVEN", "WITHOUT") else role


def fits(row: Role, echo: float | None, repetition: float | None, inversion: float | None) -> bool:
    return all(bounds is None or value is None or bounds[0] <= value <= bounds[1]
               for value, bounds in ((echo, row.echo_ms), (repetition, row.repetition_ms), (inversion, row.inversion_ms)))


def number(volume: Volume, tag: str) -> float | None:
    match = re.match(r"\s*\[?\s*(\d+(?:\.\d+)?)", volume.tags.get(tag, ""))
    return float(match[1]) if match else None


def why_not(volume: Volume) -> tuple[str, str] | None:
    """(reason, message) why a series of a head MR cannot be read, or None."""
    name = volume.sequence[:40] or "a series"
    part = volume.tags.get("BodyPartExamined", "")
    if part and not HEAD_PART.search(part):
        return "not-a-head", f"BodyPartExamined is {part[:16]}, expected HEAD"
    if volume.spacing_mm is None:
        return "coverage", f"{name} has no geometry, so nothing can be measured; send the original images"
    if len(volume.pixels) > MAX_SLICES:
        return "too-many-slices", f"{name} has {len(volume.pixels)} slices, at most {MAX_SLICES} are read; send one reconstruction"
    span = len(volume.pixels) * volume.spacing_mm[0]
    if volume.orientation in ("sagittal", "coronal") and volume.spacing_mm[0] > THIN_MM:
        return "plane", f"{name} is {volume.orientation} with slices of {volume.spacing_mm[0]:.1f} mm, expected axial; send the axial series"
    if volume.orientation == "unknown":
        return "plane", f"{name} has no plane; send the original images"
    if len(volume.pixels) < MIN_SLICES or span < MIN_SPAN_MM or volume.spacing_mm[0] > THICK_MAX_MM:
        return "coverage", (f"{name} has {len(volume.pixels)} slices of {volume.spacing_mm[0]:.1f} mm, expected {MIN_SLICES} over "
                            f"{MIN_SPAN_MM:.0f} mm or more, at most {THICK_MAX_MM:.0f} mm each; send the whole head")
    if not np.isfinite(volume.pixels).all():
        return "pixels", f"{name} holds NaN or infinity; send the series again"
    if float(np.ptp(volume.pixels)) < 1e-6:
        return "pixels", f"all pixels of {name} have one value; send the series again"
    if burnt_in(volume):
        return "burnt-in", f"{name} has text burnt into its pixels; send the original images"
    return None


def to_axial(volume: Volume) -> Volume:
    """A volume scan in sagittal or coronal planes, as axial slices; nothing is interpolated."""
    if volume.orientation not in ("sagittal", "coronal"):
        return volume
    assert volume.spacing_mm is not None and volume.affine is not None
    # of (slices, rows, columns): rows run to the feet in both planes
    order = (1, 2, 0) if volume.orientation == "sagittal" else (1, 0, 2)
    pixels = volume.pixels.transpose(order)[::-1]
    step, row, column = (volume.spacing_mm[i] for i in order)
    columns_of = {0: 2, 1: 1, 2: 0}             # array axis -> column of the affine
    affine = volume.affine[:, [columns_of[order[2]], columns_of[order[1]], columns_of[order[0]], 3]].copy()
    affine[:3, 3] += affine[:3, 2] * (len(pixels) - 1)
    affine[:3, 2] *= -1
    return replace(volume, pixels=np.ascontiguousarray(pixels), affine=affine, spacing_mm=(step, row, column), orientation="axial", instance_uids=())


def back_from_axial(mask: NDArray[np.uint8], orientation: str) -> NDArray[np.uint8]:
    """A mask on `to_axial`'s grid, on the grid that the volume came with."""
    if orientation not in ("sagittal", "coronal"):
        return mask
    order = (1, 2, 0) if orientation == "sagittal" else (1, 0, 2)
    return np.ascontiguousarray(mask[::-1].transpose(np.argsort(order)))


def choose(volumes: Sequence[Volume]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Index of the series for each role, the axial and longest one where there are several; and what was turned down, (reason, message)."""
    found: dict[str, list[int]] = {}
    turned_down = []
    for i, volume in enumerate(volumes):
        role = role_of(volume)
        if not role:
            continue
        verdict = why_not(volume)
        if verdict:
            turned_down.append(verdict)
        else:
            found.setdefault(role, []).append(i)

    def merit(i: int) -> tuple[bool, float, float]:
        one = volumes[i]
        assert one.spacing_mm is not None
        return one.orientation == "axial", min(150.0, len(one.pixels) * one.spacing_mm[0]), -abs(one.spacing_mm[0] - 4.0)

    return {role: max(rows, key=merit) for role, rows in found.items()}, turned_down


def together(volumes: Mapping[str, Volume]) -> tuple[dict[str, Volume], list[str]] | None:
    """Series on the grid of the first, with notes; None where they do not lie in one frame of reference or do not overlap."""
    first, *rest = volumes.values()
    name, *names = volumes
    frames = {v.tags["FrameOfReferenceUID"] for v in volumes.values() if v.tags.get("FrameOfReferenceUID")}
    if len(frames) > 1:
        return None
    placed, notes = {name: first}, []
    for other, volume in zip(names, rest, strict=True):
        if volume.pixels.shape == first.pixels.shape and (volume.affine is None or first.affine is None or
                                                          np.allclose(volume.affine, first.affine, atol=0.5 * min(first.spacing_mm or (1.0,)))):
            placed[other] = replace(volume, affine=first.affine, spacing_mm=first.spacing_mm)
            continue
        if volume.affine is None or first.affine is None:
            return None
        moved, share = onto(volume, first)
        if share < 0.8:
            return None
        placed[other] = moved
        notes.append(f"{other} was laid on the grid of {name} by the patient positions in the headers, without registration")
    return placed, notes


def onto(volume: Volume, first: Volume) -> tuple[Volume, float]:
    """A volume on the grid of another, linear between points, averaged first where that is coarser; and the share of the grid it covers."""
    assert volume.affine is not None and first.affine is not None and volume.spacing_mm is not None and first.spacing_mm is not None
    coarser = [max(0.0, (b / a - 1) / 2) for a, b in zip(volume.spacing_mm, first.spacing_mm, strict=True)]
    pixels = ndimage.gaussian_filter(volume.pixels, coarser) if max(coarser) > 0.2 else volume.pixels
    turn = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)      # (slice, row, column) <-> (column, row, slice)
    to_own = turn @ np.linalg.inv(volume.affine) @ first.affine @ turn
    moved = ndimage.affine_transform(pixels, to_own[:3, :3], to_own[:3, 3], output_shape=first.pixels.shape, order=1, cval=np.nan)
    inside = np.isfinite(moved)
    moved = np.where(inside, moved, float(pixels.min())).astype(np.float32)
    return replace(volume, pixels=moved, affine=first.affine, spacing_mm=first.spacing_mm, instance_uids=first.instance_uids), float(inside.mean())
