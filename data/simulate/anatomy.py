"""Heads as label maps with fine tissue codes: SynthSeg/FreeSurfer label maps, or the embedded MNI152 maps.

The MNI head is coarse where its maps are an average of many people: sulci are shallow, the cortex is a band, deep nuclei, hippocampus and
amygdala are ellipsoids and tubes in MNI millimetres, the cerebellum is cut off by a plane for the tentorium, skull and face are built around it.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data import simulator
from data.errors import SimulatorError

Floats = NDArray[np.float32]

(
    AIR,
    SKIN,
    FAT,
    MUSCLE,
    BONE,
    MARROW,
    CSF,
    VENTRICLE,
    CORTEX,
    WHITE,
    CAUDATE,
    PUTAMEN,
    PALLIDUM,
    THALAMUS,
    HIPPOCAMPUS,
    AMYGDALA,
    STEM,
    CEREBELLAR_CORTEX,
    CEREBELLAR_WHITE,
    CHOROID,
    VEIN,
    ARTERY,
    EYE,
    MUCOSA,
    DURA,
) = range(25)
CODES = 48  # lesion tissues follow from 25 on (data.simulate.tissue)

# tissue -> structure (data.simulate.case.STRUCTURES); accumbens counts as caudate, amygdala as grey, brainstem as white matter
STRUCTURE_OF = np.zeros(CODES, np.uint8)
for structure, members in (
    (1, (CORTEX, CEREBELLAR_CORTEX, AMYGDALA)),
    (2, (WHITE, CEREBELLAR_WHITE, STEM)),
    (3, (CSF,)),
    (4, (VENTRICLE, CHOROID)),
    (5, (CAUDATE, PUTAMEN, PALLIDUM, THALAMUS)),
    (6, (HIPPOCAMPUS,)),
):
    STRUCTURE_OF[list(members)] = structure
GREYS = (CORTEX, CAUDATE, PUTAMEN, PALLIDUM, THALAMUS, HIPPOCAMPUS, AMYGDALA, CEREBELLAR_CORTEX)
WHITES = (WHITE, CEREBELLAR_WHITE, STEM)
BRAIN = np.isin(np.arange(CODES), GREYS + WHITES)
CEREBRUM = np.isin(np.arange(CODES), (CORTEX, WHITE, CAUDATE, PUTAMEN, PALLIDUM, THALAMUS, HIPPOCAMPUS, AMYGDALA))

SYNTHSEG = {
    2: WHITE,
    41: WHITE,
    7: CEREBELLAR_WHITE,
    46: CEREBELLAR_WHITE,
    3: CORTEX,
    42: CORTEX,
    8: CEREBELLAR_CORTEX,
    47: CEREBELLAR_CORTEX,
    16: STEM,
    512: STEM,
    24: CSF,
    85: WHITE,
    4: VENTRICLE,
    43: VENTRICLE,
    5: VENTRICLE,
    44: VENTRICLE,
    14: VENTRICLE,
    15: VENTRICLE,
    72: VENTRICLE,
    10: THALAMUS,
    49: THALAMUS,
    11: CAUDATE,
    50: CAUDATE,
    12: PUTAMEN,
    51: PUTAMEN,
    13: PALLIDUM,
    52: PALLIDUM,
    26: CAUDATE,
    58: CAUDATE,
    28: STEM,
    60: STEM,
    17: HIPPOCAMPUS,
    53: HIPPOCAMPUS,
    18: AMYGDALA,
    54: AMYGDALA,
    25: WHITE,
    57: WHITE,
    30: ARTERY,
    62: ARTERY,
    77: WHITE,
    136: CHOROID,
    163: CHOROID,
    137: CHOROID,
    164: CHOROID,
    502: ARTERY,
    506: EYE,
    507: MUSCLE,
    508: MUSCLE,
    509: MUCOSA,
    511: SKIN,
    514: VEIN,
    515: BONE,
    516: MARROW,
    530: MUSCLE,
}

# Rough centres in MNI millimetres, right side; they tie each head to standard coordinates.
LANDMARKS = {
    THALAMUS: (11, -18, 7),
    CAUDATE: (13, 10, 8),
    PUTAMEN: (26, 2, 1),
    PALLIDUM: (20, -5, -1),
    HIPPOCAMPUS: (27, -22, -14),
    AMYGDALA: (23, -4, -19),
    CEREBELLAR_CORTEX: (25, -64, -36),
    WHITE: (27, -20, 19),
    CORTEX: (36, -18, 15),
}
HELD_OUT = 4  # of a folder's label maps, the last in alphabetical order


@dataclass(frozen=True)
class Head:
    """One head at 1 mm: x to the right, y to the front, z to the top. The coarse fields lie on every second voxel."""

    name: str
    tissue: NDArray[np.uint8]
    rim: NDArray[np.uint8]  # 1/64 mm: how deep a cortical voxel lies under CSF, a hippocampal one inside the hippocampus; 255 elsewhere
    coarse: NDArray[np.uint8]  # tissue at 2 mm
    depth: NDArray[np.float16]  # 2 mm: mm below the inner table, 0 outside
    inward: NDArray[np.float16]  # 2 mm: (3, ...) unit vectors away from the inner table
    ventricle: NDArray[np.float16]  # 2 mm: mm from the nearest ventricle, negative inside
    outward: NDArray[np.float16]  # 2 mm: (3, ...) unit vectors away from the ventricles
    midline: tuple[float, float, float]  # x of the falx = a + b y + c z
    centre: Floats  # middle of the brain, mm
    extent: tuple[float, float]  # z of the lowest brain and of the highest
    to_standard: NDArray[np.float64]  # (3, 4): head mm -> MNI-like mm

    def standard(self, point: list[Floats]) -> list[Floats]:
        """MNI-like millimetres (right, front, top) of head points; within a centimetre or so."""
        m = self.to_standard.astype(np.float32)
        return [m[i, 0] * point[0] + m[i, 1] * point[1] + m[i, 2] * point[2] + m[i, 3] for i in range(3)]

    def lateral(self, point: list[Floats]) -> Floats:
        """mm to the right of the midline."""
        a, b, c = self.midline
        return point[0] - (np.float32(a) + np.float32(b) * point[1] + np.float32(c) * point[2])


def list_heads(anatomy: Path | str | None, held_out: bool) -> tuple[str, ...]:
    """The sources to draw from: the embedded head (""), a file, or a folder's files, the last four of them for held-out cases."""
    if anatomy is None or anatomy == "":
        return ("",)
    path = Path(anatomy)
    if path.is_file():
        return (str(path),)
    if not path.is_dir():
        raise SimulatorError(f"anatomy {path} does not exist; give a label map (.npz with `lab`, NIfTI) or a folder of them")
    found = simulator.list_anatomies(path)
    if len(found) < 2 * HELD_OUT:
        return found
    return found[-HELD_OUT:] if held_out else found[:-HELD_OUT]


@lru_cache(maxsize=24)
def read_head(source: str = "") -> Head:
    """A head from "" (MNI152) or one label map file; cached, its arrays are read-only."""
    if not source:
        base = simulator.read_anatomy("")
        return finish(base, mni_labels(base.tissue))
    base = simulator.read_anatomy(source)
    path = Path(source)
    if path.suffix == ".npz":
        with np.load(path) as file:
            labels = file["lab"]
    else:
        import nibabel

        labels = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)  # type: ignore[arg-type]
    table = np.zeros(max(1024, int(labels.max()) + 1), np.uint8)
    for label, tissue in SYNTHSEG.items():
        table[label] = tissue
    return finish(base, table[labels.astype(np.int32)])


def mni_labels(old: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fine codes on the grid of data.simulator.mni_tissue: nuclei, hippocampus, amygdala, brainstem and cerebellum by shapes in MNI mm."""
    import nibabel
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    grey, white = (
        np.pad(
            np.asarray(nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz").dataobj, np.float32) / 255,
            ((14, 14), (24, 14), (24, 16)),
        )
        for name in ("gm", "wm")
    )  # type: ignore[attr-defined]
    table = np.zeros(18, np.uint8)
    table[simulator.FALX] = CSF
    for code, new in (
        (simulator.SKIN, SKIN),
        (simulator.SOFT, MUSCLE),
        (simulator.BONE, BONE),
        (simulator.DIPLOE, MARROW),
        (simulator.CSF, CSF),
        (simulator.VENTRICLE, VENTRICLE),
        (simulator.GREY, CORTEX),
        (simulator.WHITE, WHITE),
        (simulator.DEEP, CORTEX),
        (simulator.STEM, STEM),
        (simulator.VEIN, VEIN),
        (simulator.EYE, EYE),
        (simulator.MUCOSA, MUCOSA),
        (simulator.FAT, FAT),
    ):
        table[code] = new
    tissue = table[old]
    x, y, z = (a.astype(np.float32) for a in np.ogrid[: old.shape[0], : old.shape[1], : old.shape[2]])
    x, y, z = np.abs(x - 112), y - 158, z - 96
    brain = np.isin(tissue, (CORTEX, WHITE, STEM))
    # An average brain has no sulci where both probabilities are middling: take the lower ones for CSF, and a narrower band for cortex.
    tissue[brain] = np.where(grey + white < 0.74, CSF, np.where(white > 0.75 * grey, WHITE, CORTEX))[brain]
    brain &= tissue != CSF
    behind = np.maximum(0, -50 - y)
    cerebellum = brain & (z < -4 - 0.5 * x - 0.15 * behind) & (y < np.where(x > 16, -38, -44))
    tissue[cerebellum & (tissue == CORTEX)] = CEREBELLAR_CORTEX
    tissue[cerebellum & (tissue == WHITE)] = CEREBELLAR_WHITE
    stem = brain & ~cerebellum & (y < -13) & (y > -46) & (z < -8) & (((x / np.where(z > -24, 15, 21)) ** 2 + ((y + 28) / 16) ** 2) < 1)
    tissue[stem] = STEM
    room = brain | (tissue == CSF) & (x < 45)

    def ball(code: int, centre: tuple[float, float, float], radii: tuple[float, float, float], slope: float = 0.0) -> None:
        j, k = ((slice(round(middle + c - r) - 1, round(middle + c + r) + 2)) for middle, c, r in zip((158, 96), centre[1:], radii[1:], strict=True))
        here = (slice(None), j, k)
        off = x - centre[0] + slope * (y[:, j] - centre[1])
        inside = (off / radii[0]) ** 2 + ((y[:, j] - centre[1]) / radii[1]) ** 2 + ((z[:, :, k] - centre[2]) / radii[2]) ** 2 < 1
        tissue[here][inside & room[here] & ~cerebellum[here] & (tissue[here] != VENTRICLE) & (x > 1)] = code

    ball(PUTAMEN, (26, 3, 1), (6.5, 16, 10.5), 0.25)
    ball(PALLIDUM, (19.5, -4, -1), (4.5, 9, 6.5), 0.3)
    ball(THALAMUS, (11, -18, 7), (9, 14, 9), 0.25)
    ball(CAUDATE, (13, 13, 4), (5.5, 9.5, 10), 0.1)
    for along in np.linspace(0, 1, 8):  # the caudate's body curls back over the thalamus
        ball(CAUDATE, (14 + 4 * along, 6 - 30 * along, 15 + 3 * along), (3.5 - along, 5, 4 - along))
    for along in np.linspace(0, 1, 12):  # the hippocampus from head to tail
        ball(HIPPOCAMPUS, (23 + 6 * along - 3 * along**3, -11 - 27 * along, -20 + 13 * along + 4 * along**3), (6 - along, 4, 5.5 - 1.5 * along))
    ball(AMYGDALA, (23, -3, -19), (6.5, 6, 6.5))
    return tissue


def finish(base: simulator.Anatomy, tissue: NDArray[np.uint8]) -> Head:
    """Dura, fat under the skin, distances and standard coordinates; everything rests on the coarse anatomy of data.simulator."""
    tissue = tissue.copy()
    tissue[base.tissue == simulator.FALX] = DURA
    for axis in range(3):  # a border of air, so that points outside fall on it
        ends = [slice(None)] * 3
        for end in (0, -1):
            ends[axis] = end  # type: ignore[call-overload]
            tissue[tuple(ends)] = AIR
    body = tissue[::2, ::2, ::2] > AIR
    skin_depth = ndimage.distance_transform_edt(ndimage.binary_closing(body, iterations=4)) * 2
    skin_depth = np.repeat(np.repeat(np.repeat(skin_depth.astype(np.float32), 2, 0), 2, 1), 2, 2)[tuple(slice(n) for n in tissue.shape)]
    scalp = (tissue == SKIN) & (skin_depth > 2)
    tissue[scalp] = FAT
    # Over the calvarium the scalp is fat but for the temporal muscles.
    x, y, z = np.nonzero(tissue == MUSCLE)
    m = standardise(np.ascontiguousarray(tissue[::2, ::2, ::2]), base.midline)
    right, _, top = (m[i, 0] * x + m[i, 1] * y + m[i, 2] * z + m[i, 3] for i in range(3))
    loose = (top > 24) | ((top > -4) & (np.abs(right) < 54))
    tissue[x[loose], y[loose], z[loose]] = FAT
    coarse = np.ascontiguousarray(tissue[::2, ::2, ::2])
    vent = ndimage.binary_opening(np.isin(coarse, (VENTRICLE, CHOROID)), iterations=1) | np.isin(coarse, (VENTRICLE, CHOROID))
    signed = (ndimage.distance_transform_edt(~vent) - ndimage.distance_transform_edt(vent)).astype(np.float32) * 2
    outward = np.stack(np.gradient(ndimage.gaussian_filter(signed, 2.0)))
    outward /= np.linalg.norm(outward, axis=0) + 0.15
    brain = np.argwhere(CEREBRUM[coarse]) * 2.0
    both = np.argwhere(BRAIN[coarse])[:, 2] * 2.0
    head = Head(
        base.name,
        tissue,
        rim_of(tissue),
        coarse,
        base.depth.astype(np.float16),
        base.inward.astype(np.float16),
        signed.astype(np.float16),
        outward.astype(np.float16),
        base.midline,
        ((brain.min(0) + brain.max(0)) / 2).astype(np.float32),
        (float(both.min()), float(both.max())),
        standardise(coarse, base.midline),
    )
    for grid in (head.tissue, head.rim, head.coarse, head.depth, head.inward, head.ventricle, head.outward):
        grid.flags.writeable = False
    return head


def rim_of(tissue: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Depth of grey voxels under their surface, dithered, so that thinning by a part of a millimetre takes a part of the voxels."""
    rim = np.full(tissue.shape, 255, np.uint8)
    near = np.ones((3, 3, 3), bool)
    box = tuple(slice(max(0, a.min() - 4), a.max() + 5) for a in np.nonzero(BRAIN[tissue]))
    inner, inner_rim = tissue[box], rim[box]
    dither = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(inner.shape, np.float32), 0.8)
    inner_dither = np.clip(0.5 + dither / dither.std() * np.float32(0.29), 0, 1)
    for members, outside in (
        ((CORTEX,), np.isin(inner, (CSF, DURA))),
        ((HIPPOCAMPUS, AMYGDALA), ~np.isin(inner, (HIPPOCAMPUS, AMYGDALA))),
        ((CAUDATE,), np.isin(inner, (VENTRICLE, CHOROID))),
    ):
        mine = np.isin(inner, members)
        grown = outside
        for layer in range(3):
            grown = ndimage.binary_dilation(grown, near if layer % 2 else None)
            new = grown & mine & (inner_rim == 255)
            inner_rim[new] = np.minimum(254, (layer + inner_dither[new]) * 64).astype(np.uint8)
    return rim


def standardise(coarse: NDArray[np.uint8], midline: tuple[float, float, float]) -> NDArray[np.float64]:
    """The affine that lays this head's landmarks on those of the MNI brain, by least squares."""
    here, there = [], []
    for tissue, (x, y, z) in LANDMARKS.items():
        at = np.argwhere(coarse == tissue) * 2.0
        if len(at) < 20:
            continue
        right = at[:, 0] > midline[0] + midline[1] * at[:, 1] + midline[2] * at[:, 2]
        for side, sign in ((right, 1), (~right, -1)):
            if side.sum() > 10:
                here.append([*at[side].mean(0), 1.0])
                there.append((sign * x, y, z))
    cerebrum = np.argwhere(CEREBRUM[coarse]) * 2.0
    middle = cerebrum.mean(0)
    top = cerebrum[cerebrum[:, 2] > np.quantile(cerebrum[:, 2], 0.999)].mean(0)  # the vertex: centroids alone say little about height
    here.append([middle[0], top[1], top[2], 1.0])
    there.append((0, -25, 76))
    return np.linalg.lstsq(np.array(here), np.array(there, float), rcond=None)[0].T
