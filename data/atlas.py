"""A small atlas of the head in the millimetres of MNI152: which part of the brain holds a point, and where the inner table of the skull lies.

Lobes end at planes, those of the central sulcus, the lateral fissure, the parieto-occipital sulcus and the tentorium; what lies deep is an
ellipsoid. The planes were fitted to the lobes of AAL (Tzourio-Mazoyer 2002, NeuroImage 15:273), of which nothing is kept here; the nuclei are
those of data.simulate.anatomy, made rounder. The skull is the one that data.simulator builds around the MNI152 maps of nilearn (Fonov 2009).
"""
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

# named as in data/report_cues.toml
REGIONS = ("frontal", "parietal", "temporal", "occipital", "basal ganglia", "thalamus", "cerebellum", "brainstem")
FRONTAL, PARIETAL, TEMPORAL, OCCIPITAL, GANGLIA, THALAMUS, CEREBELLUM, BRAINSTEM = range(8)
NONE = -1                   # white matter around the nuclei and above them, and the insula: a few mm away it is another's
# region, centre and radii, mm to the side, front and top; the later row wins
DEEP = (
    (NONE, (14, 12, 7), (16, 21, 22)), (NONE, (25, 1, 2), (17, 28, 20)), (NONE, (11, -18, 7), (19, 23, 19)),        # around the nuclei below
    (NONE, (36, 2, 2), (16, 32, 24)), (NONE, (27, -18, 26), (14, 30, 14)),      # insula, corona radiata
    (GANGLIA, (14, 12, 7), (10, 15, 16)), (GANGLIA, (25, 1, 2), (11, 22, 14)), (THALAMUS, (11, -18, 7), (13, 17, 13)))     # caudate, lentiform

CENTRE = (0.0, -20.0, 8.0)      # the skull is given around this point
STEP_DEGREES, LOWEST_DEGREES = 20, -80
# mm to the inner table: rows from below to the top, columns from the front by the side to the back
SKULL_MM = np.array((
    (43, 44, 46, 49, 52, 55, 63, 75, 79, 81), (31, 38, 59, 68, 61, 54, 69, 83, 85, 84), (61, 61, 74, 78, 77, 67, 80, 92, 91, 84),
    (91, 85, 80, 72, 75, 76, 78, 82, 86, 79), (92, 93, 84, 72, 70, 73, 77, 82, 87, 85), (86, 85, 79, 73, 72, 75, 78, 81, 82, 78),
    (78, 78, 76, 73, 73, 76, 78, 79, 80, 76), (73, 74, 73, 72, 74, 75, 76, 78, 78, 74), (70, 71, 71, 72, 73, 73, 73, 73, 73, 73)), float)


def regions_at(point: Floats, deep: bool = True) -> NDArray[np.int64]:
    """Index into REGIONS of what holds each point or lies nearest to it, or NONE.

    Args:
        point: (n, 3), mm to the right, front and top; the halves are alike.
        deep: False for what lies on the brain: only lobes and cerebellum.
    """
    side, front, top = np.abs(point[:, 0]), point[:, 1], point[:, 2]
    found = np.where(front > -10 - 0.45 * top + 0.34 * side, FRONTAL, PARIETAL)      # the central sulcus
    found[front < -50 - 0.63 * top + 0.18 * side] = OCCIPITAL
    below = top < -2.5 - 0.53 * front + 0.33 * (side - 40)      # the lateral fissure
    found[below & (front > -63.5) & ((front < 13) | (top < -8)) & (side > 14)] = TEMPORAL
    found[below & (front <= -63.5) & (found == PARIETAL)] = OCCIPITAL
    cerebellum = (top < -2.5 - 0.46 * side - 0.09 * np.maximum(0, -50 - front)) & (front < -29)
    for region, centre, radii in DEEP if deep else ():
        off = [(axis - middle) / radius for axis, middle, radius in zip((side, front, top), centre, radii, strict=True)]
        found[(off[0] ** 2 + off[1] ** 2 + off[2] ** 2 < 1) & ~cerebellum] = region
    if not deep:
        found[(side < 28) & (np.abs(front + 8) < 36) & (top < 8)] = NONE       # cisterns and the fissure, of no lobe
    found[cerebellum] = CEREBELLUM
    if deep:
        found[(top < -6) & ((side / np.where(top > -22, 16, 21)) ** 2 + ((front + 22) / 22) ** 2 < 1)] = BRAINSTEM
    return found


def skull_mm(off: Floats) -> Floats:
    """mm from CENTRE to the inner table in the direction of each of (n, 3) vectors."""
    up = np.degrees(np.arcsin(np.clip(off[:, 2] / (np.linalg.norm(off, axis=1) + 1e-6), -1, 1)))
    around = np.degrees(np.arctan2(np.abs(off[:, 0]), off[:, 1]))
    found: Floats = ndimage.map_coordinates(SKULL_MM, [(up - LOWEST_DEGREES) / STEP_DEGREES, around / STEP_DEGREES], order=1, mode="nearest")
    return found
