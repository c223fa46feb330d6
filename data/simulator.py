"""Simulated non-contrast head CT with the truth known: anatomy -> pose -> lesion as displacement -> Hounsfield units -> scanner.

Everything is computed at the points of the scanned grid (three sub-slices a slice), never on a whole head: a label looked up
at a displaced point gives mass effect and midline shift by themselves. Lengths are mm; head coordinates run to the patient's
right, front and top (the label maps' axes), patient coordinates of the DICOM affine to the left, back and top (LPS).
"""
import datetime
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.errors import SimulatorError
from data.midline import SHIFT_FROM_MM, midline_shift
from data.records import Finding, ImageEvidence, Study, Volume

Floats = NDArray[np.float32]

AIR, SKIN, SOFT, BONE, DIPLOE, CSF, VENTRICLE, GREY, WHITE, DEEP, STEM, CHOROID, VEIN, ARTERY, EYE, MUCOSA, FALX, FAT = range(18)
# Mean HU at 120 kVp, and how far a head may differ from it. Acute blood is 55-80 HU, hence veins and falx are its mimics.
HU = {AIR: (-1000, 0), SKIN: (-10, 20), SOFT: (35, 10), BONE: (1150, 150), DIPLOE: (600, 150), CSF: (8, 3), VENTRICLE: (5, 3),
      GREY: (37, 2), WHITE: (28, 2), DEEP: (38, 2), STEM: (31, 2), CHOROID: (38, 5), VEIN: (52, 6), ARTERY: (44, 4), EYE: (14, 4),
      MUCOSA: (25, 10), FALX: (52, 7), FAT: (-90, 10)}
INSIDE = np.isin(np.arange(18), (CSF, VENTRICLE, GREY, WHITE, DEEP, STEM, CHOROID, VEIN, ARTERY, FALX))

TYPES = ("epidural", "subdural", "subarachnoid", "intraparenchymal", "intraventricular")
KINDS = ("none", *TYPES, "fracture", "infarct")
LABELS = {code: str(row["label"]) for code, row in
          tomllib.loads((Path(__file__).parent / "findings.toml").read_text()).items()}

# FreeSurfer / SynthSeg label -> tissue here
SYNTHSEG = {2: WHITE, 41: WHITE, 7: WHITE, 46: WHITE, 3: GREY, 42: GREY, 8: GREY, 47: GREY, 16: STEM, 512: STEM, 24: CSF, 85: WHITE,
            4: VENTRICLE, 43: VENTRICLE, 5: VENTRICLE, 44: VENTRICLE, 14: VENTRICLE, 15: VENTRICLE, 72: VENTRICLE,
            10: DEEP, 49: DEEP, 11: DEEP, 50: DEEP, 12: DEEP, 51: DEEP, 13: DEEP, 52: DEEP, 26: DEEP, 58: DEEP, 28: DEEP, 60: DEEP,
            17: GREY, 53: GREY, 18: GREY, 54: GREY, 25: WHITE, 57: WHITE, 30: ARTERY, 62: ARTERY, 77: WHITE,
            136: CHOROID, 163: CHOROID, 137: CHOROID, 164: CHOROID,
            502: ARTERY, 506: EYE, 507: SOFT, 508: SOFT, 509: MUCOSA, 511: SKIN, 514: VEIN, 515: BONE, 516: DIPLOE, 530: SOFT}
LEFT = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28)
RIGHT = (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)


@dataclass(frozen=True)
class Anatomy:
    """One head at 1 mm: tissue (x right, y front, z top); the rest at 2 mm. `midline` gives x of the straight midline as a + b y + c z."""

    name: str
    tissue: NDArray[np.uint8]
    depth: NDArray[np.float32]          # mm below the inner table, 0 outside the skull's inside
    inward: NDArray[np.float32]         # (3, ...) unit vectors pointing away from the inner table
    midline: tuple[float, float, float]
    bend: NDArray[np.float32]           # (y, z) mm by which this head's own border between the hemispheres lies to the right of that
    centre: NDArray[np.float32]         # mm, middle of the inside above the tentorium
    extent: tuple[float, float]         # z of the lowest brain and of the top of the head, mm


@dataclass(frozen=True)
class SimulatedStudy:
    volume: Volume
    masks: dict[str, NDArray[np.uint8]]     # volume shaped: the haemorrhage types and "fracture", only those present
    findings: tuple[Finding, ...]           # present and absent
    seed: int
    shift_mm: float = 0.0
    anatomy: str = ""
    halves: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))    # 1 the patient's right half of the brain, 2 left
    origin: NDArray[np.float16] = field(default_factory=lambda: np.zeros((3, 0), np.float16))   # (3, ...) mm in the head: where tissue was unpushed
    notes: tuple[str, ...] = ()

    @property
    def study(self) -> Study:
        return Study(id=f"simulated-{self.seed}", volumes=(self.volume,), description="SIMULATED head CT")


# ---------------------------------------------------------------- anatomy

@lru_cache(maxsize=24)
def read_anatomy(source: str = "") -> Anatomy:
    """The embedded MNI152 head (""), or one label map file (.npz with `lab`, or NIfTI) with FreeSurfer/SynthSeg labels at 1 mm."""
    if not source:
        return finish_anatomy("MNI152", mni_tissue())
    path = Path(source)
    if path.suffix == ".npz":
        with np.load(path) as file:
            labels = file["lab"]
    else:
        import nibabel

        labels = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    table = np.zeros(max(1024, int(labels.max()) + 1), np.uint8)
    for label, tissue in SYNTHSEG.items():
        table[label] = tissue
    tissue = table[labels.astype(np.int32)]
    if not (tissue == BONE).any() or not (tissue == WHITE).any():
        raise SimulatorError(f"{path.name} has no skull or no white matter; expected SynthSeg labels (2, 41 white, 515 skull)")
    return finish_anatomy(path.stem, tissue, labels)


def list_anatomies(folder: Path | None) -> tuple[str, ...]:
    if folder is None:
        return ("",)
    found = tuple(str(p) for p in sorted(Path(folder).iterdir()) if p.suffix == ".npz" or p.name.endswith((".nii", ".nii.gz")))
    if not found:
        raise SimulatorError(f"anatomy folder {folder} holds no .npz or NIfTI label map; give one that does, or leave it out")
    return found


def mni_tissue() -> NDArray[np.uint8]:
    """Tissue from the MNI152 maps that nilearn ships (brain only): skull, scalp, face, orbits and sinuses are built around it."""
    import nibabel
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    maps = [np.asarray(nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz").dataobj, np.float32) / 255
            for name in ("t1", "gm", "wm")]
    below = 24      # the maps end at the cerebellum; the foramen magnum and some face lie under it
    t1, grey, white = (np.pad(m, ((14, 14), (24, 14), (below, 16))) for m in maps)
    x, y, z = np.ogrid[:t1.shape[0], :t1.shape[1], :t1.shape[2]]
    x, y, z = x - 98 - 14, y - 134 - 24, z - 72 - below
    brain = ndimage.binary_closing(t1 > 0.05, iterations=1)
    coarse = ndimage.zoom(brain.astype(np.float32), 0.5, order=1) > 0.5
    hull = ndimage.distance_transform_edt(~coarse) * 2
    hull = ndimage.distance_transform_edt(hull < 9) * 2 > 8.0          # closing by 9 mm, then 1-2 mm of subarachnoid space
    inside = ndimage.zoom(ndimage.gaussian_filter(hull.astype(np.float32), 0.7), np.array(t1.shape) / hull.shape, order=1) > 0.5
    canal = (x**2 + (y + 46)**2 < 14**2) & (z < -50) & (y < -30)
    inside |= canal
    outside = ndimage.zoom(ndimage.distance_transform_edt(~(ndimage.zoom(inside.astype(np.float32), 0.5, order=1) > 0.5)).astype(np.float32) * 2,
                           np.array(t1.shape) / np.array(hull.shape), order=1)
    tissue = np.full(t1.shape, AIR, np.uint8)
    face = ((x / 62)**2 + ((y - 18) / 78)**2 < 1) & (z < -22)
    neck = ((x / 66)**2 + ((y + 38) / 72)**2 < 1) & (z < -50)
    head = (outside < 15) | face | neck
    tissue[head] = SOFT
    tissue[(outside < 15) & (outside > 12.5)] = SKIN
    thick = 5.6 + 1.3 * np.cos(np.arctan2(x, y) * 4)
    bone = (outside < thick + 1) & ~inside
    tissue[bone] = BONE
    tissue[bone & (outside > 2.2) & (outside < thick - 1.2)] = DIPLOE
    for side in (-1, 1):
        orbit = (x - side * 32)**2 + (y - 56)**2 * 0.55 + (z + 36)**2 < 18**2
        tissue[orbit & ~inside] = FAT
        tissue[((x - side * 32)**2 + (y - 64)**2 + (z + 36)**2 < 12**2) & ~inside] = EYE
        maxilla = ((x - side * 28) / 15)**2 + ((y - 55) / 16)**2 + ((z + 68) / 16)**2 < 1
        tissue[maxilla & ~inside] = AIR
        petrous = ((x - side * 45 - side * 6) / 20)**2 + ((y + 22) / 14)**2 + ((z + 40) / 12)**2 < 1
        tissue[petrous & ~inside] = BONE
        cells = petrous & ~inside & (np.sin(x * 1.3) * np.sin(y * 1.1) * np.sin(z * 1.2) > 0.12)
        tissue[cells] = AIR
    tissue[(np.abs(x) < 11) & (np.abs(y - 52) < 24) & (np.abs(z + 38) < 14) & ~inside & (np.sin(y * 0.7) > -0.6)] = AIR     # ethmoid
    tissue[(np.abs(x) < 13) & (np.abs(y - 14) < 11) & (np.abs(z + 38) < 10) & ~inside] = AIR                                 # sphenoid
    tissue[(np.abs(x) < 22) & (y > 68) & (y < 80) & (np.abs(z + 8) < 16) & ~inside & (np.abs(x) > 1)] = AIR                   # frontal
    both = grey + white
    tissue[inside] = CSF
    brain_tissue = inside & (both > 0.5)
    tissue[brain_tissue] = np.where(white > grey, WHITE, GREY)[brain_tissue]
    depth = depth_below(inside)
    deep = ndimage.zoom(depth, 2, order=1)[: t1.shape[0], : t1.shape[1], : t1.shape[2]]
    deep = np.pad(deep, [(0, n - m) for n, m in zip(t1.shape, deep.shape, strict=True)])
    tissue[(tissue == GREY) & (deep > 34) & (np.abs(x) < 40) & (z > -15)] = DEEP
    tissue[brain_tissue & (np.abs(x) < 18) & (y < -8) & (y > -44) & (z < -16)] = STEM
    low = inside & (both < 0.6) & (t1 > 0.02)
    tissue[low & (deep > 26) & (np.abs(x) < 42) & (y < 45) & (z > -22) & (np.hypot(x, (y + 20) / 1.6) < 34)] = VENTRICLE
    tissue[low & (np.abs(x) < 12) & (y < -36) & (y > -58) & (z < -18) & (deep > 16)] = VENTRICLE
    tissue[(tissue == CSF) & (np.abs(x) < 5) & (y < -60) & (deep < 5) & (z > -20)] = VEIN
    tissue[(tissue == CSF) & (np.abs(x) < 5) & (z > 20) & (deep < 5)] = VEIN
    return tissue


def depth_below(inside: NDArray[np.bool_]) -> Floats:
    """Depth in mm under the inner table, at 2 mm."""
    return (ndimage.distance_transform_edt(inside[::2, ::2, ::2]) * 2).astype(np.float32)


def border_of(labels: NDArray[Any], midline: NDArray[np.float64]) -> Floats:
    """(y, z) at 2 mm: how far the border between the labelled hemispheres lies to the right of the straight midline, mm; 0 where none is near."""
    coarse = labels[::2, ::2, ::2]
    sides = [np.isin(coarse, codes) for codes in (LEFT, RIGHT)]
    x = np.arange(len(coarse))[:, None, None]
    low, high = sorted(sides, key=lambda side: float((side * x).sum() / max(1, side.sum())))
    last, first = len(coarse) - 1 - low[::-1].argmax(0), high.argmax(0)
    y, z = np.mgrid[: coarse.shape[1], : coarse.shape[2]]
    off = (last + first).astype(np.float64) - (midline[0] + midline[1] * 2 * y + midline[2] * 2 * z)
    known = low.any(0) & high.any(0) & (np.abs(first - last) < 6) & (np.abs(off) < 8)
    near = ndimage.gaussian_filter(known.astype(np.float64), 3)
    return (ndimage.gaussian_filter(np.where(known, off, 0), 3) / (near + 0.05)).astype(np.float32)


def finish_anatomy(name: str, tissue: NDArray[np.uint8], labels: NDArray[Any] | None = None) -> Anatomy:
    """`labels` tell the hemispheres apart; without them the midline is straight."""
    inside = INSIDE[tissue]
    inside[:, :, : max(0, int(np.argwhere(np.isin(tissue, (GREY,)))[:, 2].min()) - 8)] = False    # veins of the neck are not inside
    spots, count = ndimage.label(ndimage.binary_opening(inside[::2, ::2, ::2]))
    main = spots == (1 + int(np.argmax(np.bincount(spots.ravel())[1:]))) if count else spots > 0
    main = ndimage.binary_closing(main, iterations=3)
    depth = (ndimage.distance_transform_edt(main) * 2).astype(np.float32)
    smooth = ndimage.gaussian_filter(depth, 4)
    inward = np.stack(np.gradient(smooth)).astype(np.float32)
    inward /= np.linalg.norm(inward, axis=0) + 1e-3
    x, y, z = np.nonzero(tissue[::2, ::2, ::2] == WHITE)
    rows = []
    for zi in range(0, tissue.shape[2] // 2, 5):
        for yi in range(0, tissue.shape[1] // 2, 8):
            here = x[(abs(z - zi) < 3) & (abs(y - yi) < 4)]
            if len(here) > 60:
                rows.append((1.0, 2.0 * yi, 2.0 * zi, 2.0 * (here.min() + here.max()) / 2))
    table = np.array(rows)
    weights = np.linalg.lstsq(table[:, :3], table[:, 3], rcond=None)[0]
    bend = np.zeros(depth.shape[1:], np.float32) if labels is None else border_of(labels, weights)
    brain = np.isin(tissue, (GREY, WHITE))
    top_half = np.argwhere(main) * 2.0
    z_low, z_top = top_half[:, 2].min(), np.nonzero((tissue > AIR).any((0, 1)))[0].max()
    upper = top_half[top_half[:, 2] > z_low + 0.35 * (top_half[:, 2].max() - z_low)]
    out = tissue.copy()
    # The falx: a thin sheet in the cleft between the hemispheres, not deeper than it reaches.
    gx, gy, gz = np.nonzero(out == CSF)
    own = bend[np.minimum(gy // 2, bend.shape[0] - 1), np.minimum(gz // 2, bend.shape[1] - 1)]
    lateral = np.abs(gx - (weights[0] + weights[1] * gy + weights[2] * gz) - own)
    d = depth[np.minimum(gx // 2, depth.shape[0] - 1), np.minimum(gy // 2, depth.shape[1] - 1), np.minimum(gz // 2, depth.shape[2] - 1)]
    sheet = (lateral < 1.0) & (gz > upper[:, 2].min()) & (d < 42)
    out[gx[sheet], gy[sheet], gz[sheet]] = FALX
    assert brain.any()
    out = np.ascontiguousarray(out)
    for grid in (out, depth, inward, bend):
        grid.flags.writeable = False        # cached and shared by all studies
    return Anatomy(name, out, depth, inward, tuple(float(w) for w in weights), bend, upper.mean(0).astype(np.float32),
                   (float(z_low), float(z_top)))


# ---------------------------------------------------------------- smooth randomness

def smooth_field(rng: np.random.Generator, shape: tuple[int, int, int], knots: tuple[int, int, int]) -> Floats:
    """Smooth noise of about unit size: random knots, interpolated one axis after the other."""
    values = rng.standard_normal(knots).astype(np.float32)
    for axis, (n, k) in enumerate(zip(shape, knots, strict=True)):
        at = np.linspace(0, k - 1, n)
        weights = np.exp(-0.5 * ((at[:, None] - np.arange(k)) / 0.6) ** 2)
        weights = (weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    return values


# ---------------------------------------------------------------- one study

@dataclass
class Scene:
    """The scanned points of one study, flat: `point` where they lie in the head, `moved` where the tissue there came from."""

    rng: np.random.Generator
    anatomy: Anatomy
    shape: tuple[int, int, int]     # sub-slices, rows, columns
    point: list[Floats]             # x, y, z: (points,)
    push: list[Floats]              # displacement of the inside, summed over lesions
    depth: Floats
    lateral: Floats                 # mm to the patient's right of the midline
    notes: list[str] = field(default_factory=list)

    @cached_property
    def spans(self) -> list[np.float32]:
        return [np.ptp(axis) for axis in (self.point[2], self.point[1], self.point[0])]

    def noise(self, size_mm: float) -> Floats:
        knots = tuple(max(3, int(span / size_mm)) for span in self.spans)
        return smooth_field(self.rng, self.shape, knots).ravel()    # type: ignore[arg-type]

    def lookup(self, where: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Tissue that was pushed to each point; `where` false, that which lies there without a push."""
        push = self.push if where is None else [np.where(where, d, 0) for d in self.push]
        return nearest(self.anatomy.tissue, [p - d for p, d in zip(self.point, push, strict=True)], 1.0)


def nearest(grid: NDArray[Any], point: list[Floats], step: float) -> NDArray[Any]:
    """Value of the voxel at each point; outside the grid 0."""
    return at_voxels(grid, *voxels(grid.shape, point, step))


def voxels(shape: tuple[int, ...], point: list[Floats], step: float) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Place of the nearest voxel in a ravelled grid, and which points lie outside of it."""
    flat = np.zeros(point[0].shape, np.int32)
    outside = np.zeros(point[0].shape, bool)
    for values, n in zip(point, shape, strict=True):
        index = np.rint(values if step == 1 else values / step).astype(np.int32)
        outside |= index.view(np.uint32) >= n       # below 0 too
        flat *= n
        flat += index
    return flat, outside


def at_voxels(grid: NDArray[Any], flat: NDArray[np.int32], outside: NDArray[np.bool_]) -> NDArray[Any]:
    found = grid.ravel().take(flat, mode="clip")
    found[outside] = 0
    return found


def smooth_at(grid: Floats, at: list[Floats]) -> Floats:
    """Value between the points of a grid, by straight lines; beyond it that of its edge."""
    if not grid.any():
        return np.zeros(at[0].shape, np.float32)
    return ndimage.map_coordinates(grid, np.stack(at), order=1, mode="nearest").astype(np.float32)


def simulate_head_ct(seed: int, kind: str | None = None, *, rows: int = 160, field_mm: float = 230.0, slice_mm: float | None = None,
                     tilt_degrees: float | None = None, size: float | None = None, anatomy: Path | str | None = None) -> SimulatedStudy:
    """One simulated head CT in HU with masks and findings.

    Args:
        kind: one of KINDS ("none" has no haemorrhage), or None for a random mixture with companions (blood in several spaces).
        size: 0 (smallest) to 1 (largest) lesion; None draws it.
        anatomy: None for the embedded MNI152 head, a label map file, or a folder of them (one is drawn).
    Raises: SimulatorError for an unknown kind or an empty folder.
    """
    if kind is not None and kind not in KINDS:
        raise SimulatorError(f"kind is '{kind}', expected one of {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, 20240])
    head = read_anatomy(pick_anatomy(rng, anatomy))
    slice_mm = float(slice_mm or rng.choice([2.5, 3.0, 4.0, 5.0, 5.0]))
    scene, affine, slices = place(rng, head, rows, field_mm, slice_mm, rng.uniform(-18, 12) if tilt_degrees is None else tilt_degrees)
    wanted, fracture, infarct = plan(rng, kind)
    age_change(scene)
    blood: dict[str, tuple[NDArray[np.bool_], Floats]] = {}
    shift_field = np.zeros_like(scene.depth)
    oedema = np.zeros_like(scene.depth)
    aged = [p.copy() for p in scene.push]
    base = scene.lookup() if "intraparenchymal" in wanted else np.zeros(0, np.uint8)
    site: NDArray[np.float32] | None = None
    for name in [t for t in ("epidural", "subdural", "intraparenchymal") if t in wanted]:
        extent = rng.uniform() if size is None else size
        if name == "intraparenchymal":
            blood[name], rim = parenchymal(scene, extent, base)
            oedema = np.maximum(oedema, rim)
        else:
            blood[name], site = extra_axial(scene, name, extent)
    if len(blood):
        shift_field = scene.push[0] - aged[0]
    inside = scene.depth > 0
    tissue = scene.lookup(inside)
    strayed = inside & ~INSIDE[tissue]
    tissue[strayed] = np.where(scene.depth[strayed] < 3, CSF, GREY)
    if "subarachnoid" in wanted:
        blood["subarachnoid"] = subarachnoid(scene, tissue, rng.uniform() if size is None else size)
    if "intraventricular" in wanted:
        blood["intraventricular"] = intraventricular(scene, tissue, rng.uniform() if size is None else size)
    values = to_hu(scene, tissue)
    values -= oedema * rng.uniform(6, 14)
    benign(scene, tissue, values, infarct, bool(blood))
    seams(scene, tissue, values, np.random.default_rng([seed, 515]))        # own draws: all else of a seed stays as it was
    taken = np.zeros(values.shape, bool)
    for name in ("epidural", "subdural", "intraparenchymal", "intraventricular", "subarachnoid"):
        if name in blood:
            mask, density = blood[name]
            mask &= inside & ~taken
            taken |= mask
            values[mask] = density[mask]
    broken = np.zeros(values.shape, bool)
    if fracture:
        broken = break_skull(scene, tissue, values, site)
    return scan(scene, seed, values, {n: m for n, (m, _) in blood.items()}, broken, shift_field, affine, slices, rows, field_mm, slice_mm)


def pick_anatomy(rng: np.random.Generator, anatomy: Path | str | None) -> str:
    if anatomy is None or anatomy == "":
        return ""
    path = Path(anatomy)
    return str(rng.choice(list_anatomies(path))) if path.is_dir() else str(path)


def plan(rng: np.random.Generator, kind: str | None) -> tuple[set[str], bool, bool]:
    """(haemorrhage types, fracture, infarct) to simulate."""
    if kind is None:
        if rng.uniform() < 0.38:
            return set(), bool(rng.uniform() < 0.15), bool(rng.uniform() < 0.35)
        wanted = {str(rng.choice(TYPES, p=[0.17, 0.23, 0.2, 0.26, 0.14]))}
        if rng.uniform() < 0.3:
            wanted.add(str(rng.choice(TYPES)))
        if "intraparenchymal" in wanted and rng.uniform() < 0.3:
            wanted.add("intraventricular")
        return wanted, bool(rng.uniform() < (0.75 if "epidural" in wanted else 0.12)), bool(rng.uniform() < 0.1)
    if kind in TYPES:
        return {kind}, kind == "epidural" and bool(rng.uniform() < 0.7), False
    return set(), kind == "fracture", kind == "infarct"


def place(rng: np.random.Generator, head: Anatomy, rows: int, field_mm: float, slice_mm: float,
          tilt_degrees: float) -> tuple[Scene, NDArray[np.float64], int]:
    """The scanned grid in head coordinates: pose, individual size and shape; and the DICOM affine."""
    pixel = field_mm / rows
    scale = np.array([rng.uniform(0.93, 1.07), rng.uniform(0.93, 1.07), rng.uniform(0.94, 1.06)])
    tilt, turn, lean = np.radians([tilt_degrees, rng.normal(0, 4), rng.normal(0, 3)])
    rotation = rotate(0, tilt) @ rotate(2, turn) @ rotate(1, lean)
    low, top = head.extent
    start = (low - head.centre[2]) * scale[2] + rng.uniform(-12, 14)
    stop = (top - head.centre[2]) * scale[2] + rng.uniform(-2, 8)
    slices = int(np.clip((stop - start) / slice_mm, 12, 90))
    subs = 3
    u = (np.arange(rows) - (rows - 1) / 2) * pixel
    depth = start + (np.arange(slices * subs) + 0.5) * slice_mm / subs
    drift = rng.normal(0, 4, 2)
    shape = (slices * subs, rows, rows)
    s, v, w = np.meshgrid(depth, -u + drift[1] - 5, -u + drift[0], indexing="ij", copy=False)   # up, front, right
    turned = rotation / scale[:, None]
    point = [(turned[i, 0] * w + turned[i, 1] * v + turned[i, 2] * s + head.centre[i]).astype(np.float32).ravel() for i in range(3)]
    middle = int(np.abs(u - drift[0]).argmin())
    for axis in range(3):
        bend = smooth_field(rng, shape, (5, 6, 6)) * np.float32(rng.uniform(0.8, 2.6))
        if axis == 0:       # the falx is stretched between two bones: the midline of a head without a push is nearly straight
            bend -= 0.8 * bend[:, :, middle, None] * np.exp(-((u - drift[0]) / 45) ** 2).astype(np.float32)
        point[axis] += bend.ravel()
    origin = (-drift[0] + u[0], -drift[1] + u[0], start + 0.5 * slice_mm)
    affine = np.eye(4)
    affine[0, 0] = affine[1, 1] = pixel
    affine[2, 2] = slice_mm
    affine[:3, 3] = origin
    a, b, c = head.midline
    here = nearest(head.depth, point, 2.0)
    lateral = point[0] - (a + b * point[1] + c * point[2]) - smooth_at(head.bend, [point[1] / 2, point[2] / 2])
    zeros = [np.zeros_like(here) for _ in range(3)]
    return Scene(rng, head, shape, point, zeros, here, lateral), affine, slices


def rotate(axis: int, angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    i, j = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def age_change(scene: Scene) -> None:
    """Wider or narrower ventricles: tissue moves away from, or to, the middle of each hemisphere's ventricle."""
    amount = scene.rng.uniform(-0.12, 0.38)
    centre = scene.anatomy.centre
    near = np.exp(-((scene.lateral / 34) ** 2 + ((scene.point[1] - centre[1]) / 46) ** 2 + ((scene.point[2] - centre[2] + 8) / 32) ** 2))
    shallow = np.minimum(scene.depth / 14, 1)
    for axis in range(3):
        off = scene.point[axis] - (centre[axis] - (8 if axis == 2 else 0))
        if axis == 0:
            off = np.sign(scene.lateral) * np.minimum(np.abs(scene.lateral), 30)
        scene.push[axis] = scene.push[axis] + (amount * 0.6 * off * near * shallow).astype(np.float32)


# ---------------------------------------------------------------- blood

def blood_hu(scene: Scene, old: float = 0.0) -> Floats:
    mean = scene.rng.uniform(58, 76) if scene.rng.uniform() > old else scene.rng.uniform(46, 56)
    return (mean + scene.noise(9) * scene.rng.uniform(1, 7)).astype(np.float32)


def parenchymal(scene: Scene, extent: float, base: NDArray[np.uint8]) -> tuple[tuple[NDArray[np.bool_], Floats], Floats]:
    """An irregular blob that pushes the brain away, and its rim of oedema (0..1)."""
    rng, low, top = scene.rng, *scene.anatomy.extent
    choice = rng.uniform()
    z = scene.point[2]
    height = (z - low) / (top - low)
    if choice < 0.5:
        room = np.isin(base, (DEEP, WHITE)) & (scene.depth > 28) & (np.abs(scene.lateral) > 14) & (height > 0.42) & (height < 0.75)
    elif choice < 0.86:
        room = np.isin(base, (WHITE, GREY)) & (scene.depth > 9) & (scene.depth < 34) & (height > 0.3) & (np.abs(scene.lateral) > 8)
    else:
        room = np.isin(base, (WHITE, GREY, STEM)) & (scene.depth > 12) & (height < 0.33) & (scene.point[1] < scene.anatomy.centre[1] - 8)
    spots = np.flatnonzero(room)
    if not len(spots):
        spots = np.flatnonzero(scene.depth > 20)
    at = spots[rng.integers(len(spots))]
    radius = 5 + 22 * extent**1.3 if choice < 0.86 else 4 + 11 * extent
    stretch = rng.uniform(0.75, 1.3, 3)
    off = [(p - p[at]) / s for p, s in zip(scene.point, stretch, strict=True)]
    distance = np.sqrt(off[0] ** 2 + off[1] ** 2 + off[2] ** 2) + 1e-3
    rough = 1 + 0.14 * scene.noise(max(8.0, radius)) + 0.1 * scene.noise(max(5.0, radius * 0.45))
    ratio = distance / (radius * np.clip(rough, 0.45, 1.7))
    mask = (ratio < 1) & (scene.depth > 0)
    if rng.uniform() < 0.8:        # deep blood stays on its side of the midline
        mask &= np.sign(scene.lateral) == np.sign(scene.lateral[at])
    keep = rng.uniform(0.6, 1.0)
    amount = distance - np.cbrt(np.maximum(distance**3 - keep * radius**3, 0))
    amount *= np.exp(-np.maximum(distance - radius, 0) / rng.uniform(25, 50)) * np.minimum(scene.depth / 12, 1)
    for axis in range(3):
        scene.push[axis] += (amount * off[axis] / distance).astype(np.float32)
    density = blood_hu(scene)
    rim_mm = rng.uniform(1, 9)
    rim = np.clip(1 - (ratio - 1) * radius / rim_mm, 0, 1) * (ratio >= 1)
    return (mask, density), rim.astype(np.float32)


def extra_axial(scene: Scene, name: str, extent: float) -> tuple[tuple[NDArray[np.bool_], Floats], NDArray[np.float32]]:
    """Epidural lens or subdural crescent under the inner table; returns also the point of the skull it lies under."""
    rng, centre = scene.rng, scene.anatomy.centre
    side = rng.choice([-1, 1])
    turn = rng.uniform(-1.15, 1.15)
    rise = rng.uniform(-0.3, 0.75)
    way = np.array([side * np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)], np.float32)
    steps = np.arange(0, 120, 1.0, np.float32)
    under = nearest(scene.anatomy.depth, [centre[i] + way[i] * steps for i in range(3)], 2.0)
    site = centre + way * steps[max(0, int(np.argmax(under <= 0)) - 1)]
    off = [scene.point[i] - centre[i] for i in range(3)]
    size = np.sqrt(off[0] ** 2 + off[1] ** 2 + off[2] ** 2) + 1e-3
    angle = np.arccos(np.clip((off[0] * way[0] + off[1] * way[1] + off[2] * way[2]) / size, -1, 1))
    rough = 1 + 0.12 * scene.noise(30)
    if name == "epidural":
        reach = rng.uniform(0.28, 0.42) + 0.3 * extent
        thick = (6 + 22 * extent) * np.sqrt(np.clip(1 - (angle / reach) ** 2, 0, 1)) * rough
    else:
        reach = rng.uniform(0.65, 1.1) + 0.35 * extent
        thick = (2.5 + 12 * extent) * np.clip(1.6 * (1 - (angle / reach) ** 2), 0, 1) * rough
        thick *= np.clip(side * scene.lateral / 8, 0, 1)
    thick = np.where(thick < 1.0, 0, thick)
    mask = (scene.depth > 0) & (scene.depth < thick + 1.0) & (thick > 0)
    if name == "subdural" and rng.uniform() < 0.15:       # along the falx
        width = 1.5 + 4 * extent
        mask |= (scene.depth > 0) & (scene.depth < 38) & (side * scene.lateral > 0) & (side * scene.lateral < width) \
            & (scene.point[2] > centre[2]) & (angle < reach + 0.4)
    # Next to the blood the brain gives way by its thickness; deeper in the whole hemisphere moves by a part of it.
    local = thick * np.exp(-np.maximum(scene.depth - thick, 0) / rng.uniform(12, 25))
    far = sum((scene.point[i] - (site[i] - 42 * way[i])) ** 2 for i in range(3))
    bulk = float(thick.max()) * rng.uniform(0.25, 0.95) * np.exp(-far / (2 * 40.0**2)) * np.minimum(scene.depth / 12, 1)
    amount = np.maximum(local, bulk) * (scene.depth > 0)
    # The far half of the head is moved less and less, and its surface not at all.
    amount *= np.where(side * scene.lateral > 0, 1, np.clip(1 + side * scene.lateral / 55, 0, 1) * np.minimum(scene.depth / 14, 1))
    near = np.exp(-scene.depth / 18)
    here = voxels(scene.anatomy.depth.shape, scene.point, 2.0)
    for axis in range(3):
        normal = at_voxels(scene.anatomy.inward[axis], *here)
        scene.push[axis] += (amount * (near * normal - (1 - near) * way[axis])).astype(np.float32)
    density = blood_hu(scene, old=0.12)
    if name == "subdural" and rng.uniform() < 0.15:       # mixed ages: darker in front, layered behind
        density -= np.clip((scene.point[1] - site[1]) / 20 + 0.5, 0, 1) * rng.uniform(10, 35)
    return (mask, density.astype(np.float32)), site.astype(np.float32)


def subarachnoid(scene: Scene, tissue: NDArray[np.uint8], extent: float) -> tuple[NDArray[np.bool_], Floats]:
    """Blood in the sulci of one region, or in the basal cisterns."""
    rng, centre, (low, top) = scene.rng, scene.anatomy.centre, scene.anatomy.extent
    space = np.isin(tissue, (CSF, FALX)) & (scene.depth > 0)
    if rng.uniform() < 0.5:     # basal cisterns, Sylvian and interhemispheric fissures
        at = np.array([centre[0], centre[1] + 12, low + 0.36 * (top - low)], np.float32)
        stretch = (1.25, 1.0, 0.75)
        space &= scene.depth > 6
    else:
        spots = np.flatnonzero(space & (scene.depth > 4) & (scene.depth < 22) & (scene.point[2] > centre[2] - 25))
        at = np.array([p[spots[rng.integers(len(spots))]] for p in scene.point], np.float32) if len(spots) else centre
        stretch = (1.0, 1.2, 1.0)
    distance = np.sqrt(sum(((p - a) / s) ** 2 for p, a, s in zip(scene.point, at, stretch, strict=True)))
    reach = (20 + 35 * extent) * (1 + 0.2 * scene.noise(25))
    mask = space & (distance < reach) & (scene.depth > 2)
    density = blood_hu(scene) - rng.uniform(0, 14)
    return mask, density.astype(np.float32)


def intraventricular(scene: Scene, tissue: NDArray[np.uint8], extent: float) -> tuple[NDArray[np.bool_], Floats]:
    """Casts of one or both ventricles, or a level in the part that lies lowest (the patient lies on the back)."""
    rng = scene.rng
    space = np.isin(tissue, (VENTRICLE, CHOROID)) & (scene.depth > 0)
    spots = np.flatnonzero(space)
    if not len(spots):
        return space, scene.depth * 0 + 65
    side = rng.choice([-1, 0, 1], p=[0.3, 0.4, 0.3])
    if side:
        space &= side * scene.lateral > -1
    if rng.uniform() < 0.45:
        level = np.quantile(scene.point[1][spots], 0.1 + 0.5 * extent)
        space &= scene.point[1] < level
    else:
        space &= scene.noise(22) > 0.9 - 2.2 * extent
    return space, blood_hu(scene)


# ---------------------------------------------------------------- what is no bleed

def to_hu(scene: Scene, tissue: NDArray[np.uint8]) -> Floats:
    rng = scene.rng
    table = np.array([rng.normal(mean, spread * 0.7) for mean, spread in (HU[t] for t in range(18))], np.float32)
    brain = rng.normal(0, 1.5)
    for t in (GREY, WHITE, DEEP, STEM):
        table[t] += brain
    table[WHITE] = min(table[WHITE], table[GREY] - 4)
    values = table[tissue]
    fat = 1 / (1 + np.exp(-4 * (scene.noise(8) - rng.uniform(-0.5, 0.9))))
    values -= np.where(tissue == SOFT, fat * rng.uniform(90, 140), 0).astype(np.float32)
    if rng.uniform() < 0.5:        # a young brain fills its sulci
        full = (tissue == CSF) & (scene.depth > 2.5) & (scene.depth < 25) & (scene.noise(11) > rng.uniform(-0.8, 0.8))
        values[full] = table[GREY] - 4
    if rng.uniform() < 0.5:        # white matter disease
        values -= np.where((tissue == WHITE) & (scene.depth > 24), np.clip(scene.noise(25), 0, 2) * rng.uniform(2, 7), 0)
    return values


def benign(scene: Scene, tissue: NDArray[np.uint8], values: Floats, infarct: bool, bleeding: bool) -> None:
    """Calcifications, infarct, old defect, sutures: bright and dark things that are no fresh blood."""
    rng = scene.rng
    centre = scene.anatomy.centre
    if rng.uniform() < 0.65:
        plexus = (tissue == CHOROID) | ((tissue == VENTRICLE) & (scene.point[1] < centre[1] - 18))
        values[plexus & (scene.noise(5) > rng.uniform(1.1, 2.2))] = rng.uniform(80, 350)
    if rng.uniform() < 0.55:       # pineal gland
        off = (scene.lateral / 2.5) ** 2 + ((scene.point[1] - centre[1] + 16) / 3.5) ** 2 + ((scene.point[2] - centre[2] + 16) / 3) ** 2
        values[(off < rng.uniform(0.5, 2)) & (scene.depth > 30)] = rng.uniform(80, 300)
    if rng.uniform() < 0.2:        # basal ganglia, both sides alike
        spot = ((np.abs(scene.lateral) - 20) / 4) ** 2 + ((scene.point[1] - centre[1] - 12) / 7) ** 2 + ((scene.point[2] - centre[2] + 12) / 5) ** 2
        values[(spot < 1) & (scene.noise(4) > 0.2)] = rng.uniform(60, 140)
    if rng.uniform() < 0.3:
        values[(tissue == FALX) & (scene.noise(8) > 1.4)] = rng.uniform(120, 600)
    if infarct:
        spots = np.flatnonzero(np.isin(tissue, (GREY, WHITE, DEEP)) & (scene.depth > 5))
        at = spots[rng.integers(len(spots))]
        radius = rng.uniform(8, 34)
        distance = np.sqrt(sum((p - p[at]) ** 2 for p in scene.point)) / (1 + 0.25 * scene.noise(18))
        same = np.sign(scene.lateral) == np.sign(scene.lateral[at])
        soft = np.clip((radius - distance) / 4, 0, 1) * same * np.isin(tissue, (GREY, WHITE, DEEP, STEM))
        values -= (soft * (rng.uniform(6, 14) if rng.uniform() < 0.6 else rng.uniform(15, 24))).astype(np.float32)
    bone = np.isin(tissue, (BONE, DIPLOE)) & (scene.depth <= 0)
    if rng.uniform() < 0.7:        # coronal and lambdoid sutures, alike on both sides
        for offset, slope in ((22, -0.25), (-52, 0.5)):
            plane = scene.point[1] - centre[1] - offset - slope * (scene.point[2] - centre[2]) + 1.2 * np.sin(np.abs(scene.lateral) * 0.9)
            seam = bone & (np.abs(plane) < rng.uniform(0.3, 0.7)) & (scene.point[2] > centre[2] - 20)
            values[seam] = rng.uniform(150, 500)


def seams(scene: Scene, tissue: NDArray[np.uint8], values: Floats, rng: np.random.Generator) -> None:
    """What a line through the skull can be and no fracture: further sutures alike on both sides, grooves of vessels, lakes, burr holes."""
    at = np.flatnonzero(np.isin(tissue, (BONE, DIPLOE)) & (scene.depth <= 0))
    if not len(at):
        return
    lateral = scene.lateral[at]
    front, up = (scene.point[axis][at] - scene.anatomy.centre[axis] for axis in (1, 2))
    share = np.ones(len(at), np.float32)        # of its own density that is left

    def thin(where: NDArray[np.bool_], left: float) -> None:
        share[where] = np.minimum(share[where], left)

    if rng.uniform() < 0.8:        # squamosal: an arch over each ear
        radius, back, low = rng.uniform(28, 36), rng.uniform(-12, 4), rng.uniform(-40, -30)
        arch = np.hypot(front - back, up - low) - radius + 0.8 * np.sin(front * 0.7)
        thin((np.abs(arch) < rng.uniform(0.4, 1.0)) & (np.abs(lateral) > 40) & (up > low), rng.uniform(0.3, 0.8))
    if rng.uniform() < 0.8:        # occipitomastoid, the darkest
        plane = front + rng.uniform(44, 56) + rng.uniform(-0.6, 0.2) * (up + 20) + 1.2 * np.sin(up * 0.8)
        thin((np.abs(plane) < rng.uniform(0.3, 1.0)) & (up < -15) & (np.abs(lateral) > 25), rng.uniform(0.0, 0.5))
    if rng.uniform() < 0.8:        # sagittal
        wave = lateral - rng.normal(0, 1.5) + rng.uniform(0.5, 2.0) * np.sin(front * rng.uniform(0.5, 1.0))
        thin((np.abs(wave) < rng.uniform(0.3, 0.8)) & (up > 20) & (np.abs(front + 15) < 40), rng.uniform(0.2, 0.7))
    if rng.uniform() < 0.08:       # metopic, where it stayed open
        thin((np.abs(lateral + np.sin(up * 0.8)) < rng.uniform(0.3, 0.6)) & (front > 30) & (up > -25), rng.uniform(0.2, 0.7))
    for side in (-1, 1):           # grooves of the middle meningeal vessels, each side its own: bone that is thinner there
        for _ in range(rng.integers(0, 4)):
            lean, start = rng.uniform(-1.2, 1.2), rng.uniform(-30, 30)
            course = front - start - lean * (up + 20) + rng.uniform(1, 3) * np.sin(up * rng.uniform(0.1, 0.25))
            low, high = rng.uniform(-20, 5), rng.uniform(15, 45)
            thin((np.abs(course) < rng.uniform(0.5, 1.2)) & (side * lateral > 20) & (up > low) & (up < low + high), rng.uniform(0.55, 0.85))
    spots = np.flatnonzero((up > 15) & (np.abs(lateral) < 40))
    for _ in range(rng.integers(0, 4) if len(spots) else 0):    # venous lakes beside the sinus
        spot = at[spots[rng.integers(len(spots))]]
        distance = np.sqrt(sum((p[at] - p[spot]) ** 2 for p in scene.point))
        thin(distance < rng.uniform(1.5, 4), rng.uniform(0.3, 0.7))
    if len(spots) and rng.uniform() < 0.04:                     # burr hole
        spot = at[spots[rng.integers(len(spots))]]
        thin(np.sqrt(sum((p[at] - p[spot]) ** 2 for p in scene.point)) < rng.uniform(5, 8), 0.04)
    values[at] *= share


def break_skull(scene: Scene, tissue: NDArray[np.uint8], values: Floats, site: NDArray[np.float32] | None) -> NDArray[np.bool_]:
    """A line through the calvarium, with a swollen scalp over it more often than not."""
    rng, centre = scene.rng, scene.anatomy.centre
    bone = np.isin(tissue, (BONE, DIPLOE)) & (scene.depth <= 0)
    if site is None:
        spots = np.flatnonzero(bone & (scene.point[2] > centre[2] - 15) & (np.abs(scene.lateral) > 12))
        if not len(spots):
            return np.zeros(values.shape, bool)
        site = np.array([p[spots[rng.integers(len(spots))]] for p in scene.point], np.float32)
    off = [p - a for p, a in zip(scene.point, site, strict=True)]
    normal = rng.standard_normal(3)
    outward = (site - centre) / np.linalg.norm(site - centre)
    normal -= outward * (normal @ outward)
    normal[2] *= 0.4               # steep lines are seen in axial slices; flat ones run within one
    normal /= np.linalg.norm(normal)
    plane = normal[0] * off[0] + normal[1] * off[1] + normal[2] * off[2] + 1.2 * scene.noise(14)
    distance = np.sqrt(off[0] ** 2 + off[1] ** 2 + off[2] ** 2)
    line = bone & (np.abs(plane) < rng.uniform(0.5, 1.3)) & (distance < rng.uniform(22, 50))
    values[line] = rng.uniform(-20, 60)
    if rng.uniform() < 0.7:
        swollen = np.isin(tissue, (SOFT, FAT, SKIN)) & (distance < rng.uniform(18, 34))
        values[swollen] = rng.uniform(35, 65)
    return line


# ---------------------------------------------------------------- the scanner

def scan(scene: Scene, seed: int, values: Floats, blood: dict[str, NDArray[np.bool_]], broken: NDArray[np.bool_], shift_field: Floats,
         affine: NDArray[np.float64], slices: int, rows: int, field_mm: float, slice_mm: float) -> SimulatedStudy:
    """Average the sub-slices (partial volume), blur, harden, add noise; read the truth off the same points."""
    rng, shape = scene.rng, (slices, 3, rows, rows)
    pixel = field_mm / rows
    sharp = rng.uniform(0.45, 0.95) / pixel
    depth = scene.depth.reshape(shape).mean(1)
    pixels = ndimage.gaussian_filter(np.maximum(values, -1000).reshape(shape).mean(1), (0, sharp, sharp))
    inside = depth > 0
    pixels += inside * (np.exp(-depth / rng.uniform(4, 12)) * rng.uniform(0, 7) - rng.uniform(0, 2))        # cupping: bright under bone
    dense = ((pixels > 400) & (ndimage.uniform_filter(inside.astype(np.float32), (0, 15, 15)) > 0.5)).mean((1, 2))
    bands = ndimage.gaussian_filter(rng.standard_normal((slices, rows, rows)).astype(np.float32), (0, 1.2, 14)) * 12
    pixels += bands * rng.uniform(1, 9) * np.clip(dense * 80 - 0.2, 0, 1.0)[:, None, None]                     # streaks at the base
    sd = rng.uniform(2.0, 6.5) * np.sqrt(5 / slice_mm) ** 0.5
    grain = rng.uniform(0.4, 0.9)
    noise = ndimage.gaussian_filter(rng.standard_normal((slices, rows, rows)).astype(np.float32), (0, grain, grain))
    pixels += noise * (sd / noise.std()) * (0.6 + 0.6 * np.clip(depth / 60, 0, 1))
    pixels = np.where(pixels < -900, -1000 + 0 * pixels, pixels)
    if rng.uniform() < 0.6:
        head_holder(rng, pixels, pixel)
    masks = {}
    for name, flat in blood.items():
        mask = flat.reshape(shape).mean(1) > 0.5
        if mask.sum() * pixel**2 * slice_mm / 1000 >= 0.15:
            masks[name] = mask.astype(np.uint8)
    if broken.any():
        crack = broken.reshape(shape).mean(1) > 0.2
        if crack.sum() >= 6:
            masks["fracture"] = crack.astype(np.uint8)
    # DICOM columns run to the patient's left, head x to the right: scene columns were laid out that way already.
    lateral = scene.lateral.reshape(shape)[:, 1]
    push = shift_field.reshape(shape)[:, 1]
    halves = np.where(depth > 0, np.where(lateral - push > 0, 1, 2), 0).astype(np.uint8)
    origin = np.stack([(p - d).reshape(shape)[:, 1] for p, d in zip(scene.point, scene.push, strict=True)]).astype(np.float16)
    measured = midline_shift(np.stack([halves == code for code in range(3)], 1).astype(np.float32), slice_mm, pixel)
    moved_mm = measured[0] if measured else 0.0
    volume = Volume(pixels=np.clip(np.rint(pixels), -1024, 3071).astype(np.float32), spacing_mm=(slice_mm, pixel, pixel), affine=affine,
                    modality="CT", sequence="SIMULATED head without contrast", units="HU", orientation="axial",
                    series_uid=f"2.25.{10**20 + seed * 1000 + 1}",
                    instance_uids=tuple(f"2.25.{10**20 + seed * 1000 + 100 + i}" for i in range(slices)),
                    tags={"BodyPartExamined": "HEAD", "KVP": "120", "PatientPosition": "HFS"})
    findings = truth(masks, lateral, pixel**2 * slice_mm / 1000, moved_mm)
    return SimulatedStudy(volume, masks, findings, seed, abs(moved_mm), scene.anatomy.name, halves, origin, tuple(scene.notes))


def head_holder(rng: np.random.Generator, pixels: Floats, pixel: float) -> None:
    """The curved head rest: a thin arc under the head."""
    rows = pixels.shape[1]
    y, x = np.mgrid[:rows, :rows]
    y, x = (y - rows / 2) * pixel, (x - rows / 2) * pixel
    radius = rng.uniform(98, 112)
    arc = (np.abs(np.hypot(x, y * rng.uniform(0.9, 1.0)) - radius) < 1.3) & (y > rng.uniform(0, 50))
    pixels[:, arc] = np.maximum(pixels[:, arc], rng.uniform(-200, 150))


def truth(masks: dict[str, NDArray[np.uint8]], lateral: Floats, voxel_ml: float, moved_mm: float) -> tuple[Finding, ...]:
    """What a perfect reader would say, present and absent; `moved_mm` is the midline's shift, + to the patient's left."""
    found: list[Finding] = []

    def add(code: str, present: bool, **facts: Any) -> None:
        found.append(Finding(id=f"f{len(found) + 1}", code=code, label=LABELS[code], present=present,
                             probability=float(present), critical=present, **facts))

    types = [t for t in TYPES if t in masks]
    add("intracranial_haemorrhage", bool(types))
    for name in TYPES:
        if name in masks:
            at = lateral[masks[name] > 0]
            add(f"{name}_haemorrhage", True, side=side_of(float((at > 0).mean()), float(np.abs(at).mean())),
                volume_ml=round(float(masks[name].sum()) * voxel_ml, 1))
        else:
            add(f"{name}_haemorrhage", False)
    shifted = abs(moved_mm) >= SHIFT_FROM_MM
    add("midline_shift", shifted, **({"side": "left" if moved_mm > 0 else "right", "size_mm": round(abs(moved_mm), 1)} if shifted else {}))
    volume = sum(float(masks[t].sum()) * voxel_ml for t in types if t in ("epidural", "subdural", "intraparenchymal"))
    add("mass_effect", shifted or volume >= 20)
    at = lateral[masks["fracture"] > 0] if "fracture" in masks else lateral[:0]
    add("skull_fracture", "fracture" in masks, **({"side": side_of(float((at > 0).mean()), float(np.abs(at).mean()))} if "fracture" in masks else {}))
    return tuple(found)


def side_of(right_share: float, mean_lateral_mm: float) -> Any:
    """Side of blood: right or left from three quarters on; on the midline when all of it lies close to it."""
    if mean_lateral_mm < 5:
        return "midline"
    return "right" if right_share >= 0.75 else "left" if right_share <= 0.25 else "bilateral"


# ---------------------------------------------------------------- DICOM

def write_dicom(study: SimulatedStudy, folder: Path, *, patient_id: str = "", accession_number: str = "", patient_name: str = "",
                sex: str = "O", age_years: float | None = None, when: datetime.datetime | None = None, **header: str) -> list[Path]:
    """One CT series, a file a slice; name and ID say SIMULATED whatever was given, UIDs follow from the seed and the accession."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    volume, seed = study.volume, study.seed
    assert volume.spacing_mm is not None and volume.affine is not None
    when = when or datetime.datetime(2026, 1, 1) + datetime.timedelta(minutes=seed % 100_000)
    entropy = [str(seed), accession_number, patient_id]
    study_uid, series_uid, frame_uid = (generate_uid(entropy_srcs=[*entropy, part]) for part in ("study", "series", "frame"))
    written = []
    for i, plane in enumerate(volume.pixels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*entropy, str(i)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = Dataset()
        image.file_meta = meta
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study_uid, series_uid, frame_uid
        image.PatientName = patient_name if patient_name.startswith("SIMULATED") else f"SIMULATED^CASE {seed}"
        image.PatientID = patient_id or f"SIM{seed:06d}"
        image.PatientBirthDate, image.PatientSex = "", sex
        if age_years is not None:
            image.PatientAge = f"{int(age_years):03d}Y"
        image.AccessionNumber, image.StudyID, image.ReferringPhysicianName = accession_number, str(seed % 10**8), ""
        image.StudyDate = image.SeriesDate = image.ContentDate = when.strftime("%Y%m%d")
        image.StudyTime = image.SeriesTime = image.ContentTime = when.strftime("%H%M%S")
        image.Modality, image.Manufacturer, image.ManufacturerModelName = "CT", "Wetread", "data.simulator"
        image.StudyDescription, image.SeriesDescription = "SIMULATED CT head", "SIMULATED head without contrast"
        image.BodyPartExamined, image.PatientPosition, image.KVP, image.ConvolutionKernel = "HEAD", "HFS", "120", "STANDARD"
        image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        image.SeriesNumber, image.InstanceNumber, image.AcquisitionNumber = "2", str(i + 1), "1"
        image.ImagePositionPatient = [f"{v:.4f}" for v in volume.affine[:3, 3] + volume.affine[:3, 2] * i]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.SliceThickness = f"{volume.spacing_mm[0]:.4f}"
        image.PixelSpacing = [f"{volume.spacing_mm[1]:.6f}", f"{volume.spacing_mm[2]:.6f}"]
        image.PositionReferenceIndicator, image.SamplesPerPixel, image.PhotometricInterpretation = "", 1, "MONOCHROME2"
        image.Rows, image.Columns = plane.shape
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "0", "1", "HU"
        image.WindowCenter, image.WindowWidth = "40", "80"
        image.ImageComments = "SIMULATED IMAGE, NOT A PATIENT"
        image.PixelData = plane.astype("<i2").tobytes()
        for name, value in header.items():
            setattr(image, name, value)
        path = folder / f"{i + 1:04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        written.append(path)
    return written


def findings_in_files(study: SimulatedStudy, files: Sequence[Path]) -> tuple[Finding, ...]:
    """The truth with the place of each finding in the files that `write_dicom` wrote, as a draft's evidence has it.

    Slices count from 0 in the files' order; a box is (row0, column0, row1, column1) of the slice that shows most, its ends exclusive.
    A midline shift has the slice where it is largest and no box; mass effect is where the largest blood that pushes is, else where the shift is.
    """
    from pydicom import dcmread

    headers = [dcmread(path, specific_tags=["SOPInstanceUID", "SeriesInstanceUID"], stop_before_pixels=True) for path in files]
    series_uid = str(headers[0].SeriesInstanceUID)

    def at(slice: int, **facts: Any) -> tuple[ImageEvidence, ...]:
        return (ImageEvidence(series_uid, slice, str(headers[slice].SOPInstanceUID), **facts),)

    def seen(mask: NDArray[Any]) -> tuple[ImageEvidence, ...]:
        areas = mask.sum((1, 2))
        most = int(areas.argmax())
        rows, columns = ndimage.find_objects((mask[most] > 0).astype(np.uint8))[0]
        used = np.flatnonzero(areas)
        return at(most, box=(rows.start, columns.start, rows.stop, columns.stop), slices=(int(used[0]), int(used[-1])))

    bleeding = {f"{name}_haemorrhage": study.masks[name] for name in TYPES if name in study.masks}
    places = {code: seen(mask) for code, mask in bleeding.items()}
    if bleeding:
        places["intracranial_haemorrhage"] = seen(sum(bleeding.values(), np.zeros_like(study.volume.pixels, np.uint8)))
    if "fracture" in study.masks:
        places["skull_fracture"] = seen(study.masks["fracture"])
    assert study.volume.spacing_mm is not None
    measured = midline_shift(np.stack([study.halves == code for code in range(3)], 1).astype(np.float32), *study.volume.spacing_mm[:2])
    if measured:
        places["midline_shift"] = at(measured[1])
    pushing = [code for code in ("epidural_haemorrhage", "subdural_haemorrhage", "intraparenchymal_haemorrhage") if code in bleeding]
    largest = max(pushing, key=lambda code: int(bleeding[code].sum()), default="midline_shift")
    places["mass_effect"] = places.get(largest, ())
    return tuple(replace(finding, evidence=places.get(finding.code, ())) if finding.present else finding for finding in study.findings)
