"""Ischaemic infarct by vascular territory and age, and the perfusion behind it: core, penumbra, final infarct with and without reperfusion."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.simulate.anatomy import (
    BRAIN,
    CAUDATE,
    CEREBELLAR_CORTEX,
    CEREBELLAR_WHITE,
    CORTEX,
    GREYS,
    PALLIDUM,
    PUTAMEN,
    STEM,
    THALAMUS,
    WHITE,
    WHITES,
)
from data.simulate.scene import Box, Scene
from data.simulate.shapes import Floats, Paint, blob, pick, same_side, soft
from data.simulate.signal import Layer
from data.simulate.tissue import CAVITY, CODES, INFARCT, INFARCT_WHITE, LEUKOARAIOSIS, Tissues

GREY_SHARE = np.zeros(CODES, np.float32)
GREY_SHARE[list(GREYS)] = 1.0
WHITE_SHARE = np.zeros(CODES, np.float32)
WHITE_SHARE[list(WHITES)] = 1.0
TERRITORIES = ("ACA", "MCA", "PCA", "cerebellar", "lacunar", "embolic")


@dataclass(frozen=True)
class Infarct:
    """What was drawn: where and how old."""

    territory: str
    hours: float
    side: int  # 1 right, -1 left


def territory_at(standard: list[Floats] | NDArray[np.float64], name: str, wander: Floats | float = 0.0) -> NDArray[np.bool_]:
    """Whether points (MNI-like mm) lie in the territory of an artery; borders after the usual atlas drawings, coarse, moved by `wander` mm."""
    x, y, z = (standard[i] for i in range(3))
    x = np.abs(x) + wander
    back = y - 0.35 * wander
    posterior = (back < -62 + 0.25 * np.maximum(z, 0)) | ((z < -6) & (back < -22) & (x < 46)) | ((x < 20) & (back < -45) & (z < 18))
    anterior = ~posterior & (((x < 15) & (z > 4)) | ((x < 20 + 0.12 * np.maximum(z - 30, 0)) & (y > 20)) | ((x < 26) & (z > 58)))
    if name == "ACA":
        return anterior
    if name == "PCA":
        return posterior
    return ~anterior & ~posterior


def draw_hours(rng: np.random.Generator, oldest: float = 240.0) -> float:
    return float(np.exp(rng.uniform(np.log(1.0), np.log(oldest))))


def age_tissue(tissues: Tissues, hours: float, severity: float) -> None:
    """Set the infarct's tissue for its age. ADC falls within the hour, is normal again after 7-10 days and rises; T2 and T1 rise from 4 to 6 h;
    density falls by about 1 HU an hour at first.

    Sources: Lansberg 2001 (AJNR 22:637), Schlaug 1997 (Neurology 49:113), Dzialowski 2004 (AJNR 25:934).
    """
    days = hours / 24
    low = 0.48 + 0.14 * (1 - severity)
    if days < 4:
        adc = 1 - (1 - low) * min(1, 0.55 + hours / 8)
    elif days < 30:
        adc = low + (1.35 - low) * (days - 4) / (30 - 4) * 1.25
    else:
        adc = 1.9
    water = 1 / (1 + np.exp(-(hours - 9) / 3.0)) * (1 if hours < 72 else 1.15)  # vasogenic oedema, 0..1
    for code, normal in ((INFARCT, CORTEX), (INFARCT_WHITE, WHITE)):
        tissues.adc[code] = tissues.adc[normal] * adc
        tissues.t2[code] = tissues.t2[normal] * (1 + (0.75 if code == INFARCT else 1.05) * water * severity + 0.02)
        tissues.t1[code] = tissues.t1[normal] * (1 + 0.35 * water * severity)
        tissues.t2star[code] = tissues.t2star[normal] * (1 + 0.3 * water)
        tissues.pd[code] = tissues.pd[normal] * (1 + 0.08 * water)
        tissues.hu[code] = tissues.hu[normal] - (3 * min(1, hours / 4) + (11 if code == INFARCT else 8) * water * severity)
        tissues.cbf[code], tissues.cbv[code], tissues.fdg[code] = 0.15 * tissues.cbf[normal], 0.3 * tissues.cbv[normal], 0.25 * tissues.fdg[normal]
        tissues.gd[code] = 1.2 if 4 < days < 40 else 0.05


def infarct(scene: Scene, rng: np.random.Generator, hours: float, territory: str | None = None, name: str = "infarct") -> tuple[Paint, Infarct]:
    """One infarct (or a shower of emboli) of an age; the territorial ones swell for days and shrink to a cavity over weeks."""
    kind = territory or str(rng.choice(TERRITORIES, p=[0.07, 0.43, 0.1, 0.07, 0.2, 0.13]))
    side = int(rng.choice((-1, 1)))
    draws = rng.uniform(size=5)
    plans: list[tuple[NDArray[np.float64], float, np.random.Generator]] = []
    if kind == "lacunar":
        at, standard = scene.spots(PUTAMEN, THALAMUS, CAUDATE, PALLIDUM, STEM, WHITE)
        near = scene.field_at(scene.head.ventricle, at) if len(at) else np.zeros(0)
        fits = (np.sign(standard[:, 0]) == side) & (np.abs(standard[:, 0]) < 36) & (near < 24) & (near > 1)
        radii = [float(rng.uniform(2.5, 8.5))]
    elif kind == "cerebellar":
        at, standard = scene.spots(CEREBELLAR_CORTEX, CEREBELLAR_WHITE)
        fits = np.sign(standard[:, 0]) == side
        radii = [float(rng.uniform(7, 22))]
    elif kind == "embolic":
        at, standard = scene.spots(CORTEX, WHITE)
        fits = (np.sign(standard[:, 0]) == side) & (scene.field_at(scene.head.depth, at) < 22) if len(at) else np.zeros(0, bool)
        radii = [float(rng.uniform(1.8, 6.5)) for _ in range(int(rng.integers(2, 10)))]
        if len(at):
            first = pick(rng, at, fits)
            assert first is not None
            fits &= np.linalg.norm(at - first, axis=1) < rng.uniform(25, 70)
    else:
        at, standard = scene.spots(CORTEX, WHITE, PUTAMEN, CAUDATE)
        fits = (np.sign(standard[:, 0]) == side) & territory_at(standard.T, kind)
        if kind == "MCA":
            fits &= (standard[:, 2] > -15) & (standard[:, 2] < 55)
        radii = [float(rng.uniform(9, 24) if draws[0] < 0.55 else rng.uniform(24, 52))]
    for radius in radii:
        centre = pick(rng, at, fits)
        if centre is not None:
            plans.append((centre, radius, np.random.default_rng(rng.integers(2**62))))
    if plans:
        centre, radius, _ = plans[0]
        scene.focus(centre, radius)
        days = hours / 24
        if radius > 12 and days > 0.5:
            if days < 15:
                scene.swell(centre, radius, 0.22 * min(1, days / 3) * (0.5 + draws[1]), 30)
            else:
                scene.shrink(centre, radius, -0.12)

    def paint() -> dict[str, list[Layer]]:
        layers: list[Layer] = []
        for centre, radius, mine in plans:
            territorial = kind in ("ACA", "MCA", "PCA")
            made = blob(scene, centre, radius, mine, rough=0.22 if territorial else 0.12)
            if made is None:
                continue
            box, ratio = made
            fraction = soft(ratio, radius, 1.5 if radius < 10 else 3.0)
            if territorial:
                wander = 4 * scene.noise(22, box, mine)
                fraction = fraction * territory_at(scene.standard(box), kind, wander) * same_side(scene, centre, box)
                fraction = fraction * np.clip(1.15 + 0.25 * scene.noise(8, box, mine), 0, 1)
            layers += paint_infarct(scene, box, fraction.astype(np.float32), hours, ratio)
        scene.lesions.extend(layers)
        return {name: layers}

    return paint, Infarct(kind, hours, side)


def paint_infarct(scene: Scene, box: Box, fraction: Floats, hours: float, ratio: Floats | None = None) -> list[Layer]:
    """Infarcted grey and white matter; after weeks a cavity with a gliotic rim."""
    tissue = scene.tissue[box]
    brain = BRAIN[tissue].astype(np.float32)
    if hours > 24 * 30:
        middle = np.clip((0.8 - ratio) * 6, 0, 1) if ratio is not None else 0.7
        return [Layer(box, LEUKOARAIOSIS, fraction * brain), Layer(box, CAVITY, (fraction * brain * middle * 0.9).astype(np.float32))]
    return [Layer(box, INFARCT, fraction * GREY_SHARE[tissue]), Layer(box, INFARCT_WHITE, fraction * WHITE_SHARE[tissue])]


# ---------------------------------------------------------------- perfusion


@dataclass(frozen=True)
class Perfusion:
    """Sub-slice fields of an occlusion: what flow is left (1 normal), delay in s, volume (1 normal), and tissue fates (fractions, 0 or 1)."""

    flow: Floats
    delay: Floats
    volume: Floats
    core: Floats
    final_untreated: Floats
    final_treated: Floats
    truth: dict[str, float | bool | str]


class Occlusion:
    """A large-vessel occlusion: everything about the patient is drawn first, `solve` computes the fields once the tissue is known."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.rng = np.random.default_rng(rng.integers(2**62))
        self.name = str(rng.choice(("MCA", "MCA", "MCA", "MCA", "PCA", "ACA")))
        self.side = int(rng.choice((-1, 1)))
        at, standard = scene.spots(CORTEX, WHITE, PUTAMEN)
        fits = (np.sign(standard[:, 0]) == self.side) & territory_at(standard.T, self.name)
        if self.name == "MCA":
            fits &= (standard[:, 2] > -8) & (standard[:, 2] < 35) & (np.abs(standard[:, 0]) > 24)
        self.centre = pick(rng, at, fits)
        self.radius = float(rng.uniform(26, 62))
        self.collaterals = float(rng.beta(2.2, 2.0))  # 0 none, 1 as good as the artery
        self.hours = float(rng.uniform(1.0, 12.0))
        self.pace = float(np.exp(rng.normal(np.log(5.5), 0.45)))  # hours for the threshold to rise: fast and slow progressors
        self.to_treatment = float(rng.uniform(0.7, 3.0))
        grade = rng.uniform()
        self.reperfused = float(rng.uniform(0.9, 1.0) if grade < 0.55 else rng.uniform(0.5, 0.9) if grade < 0.8 else rng.uniform(0, 0.3))
        if self.centre is not None:
            scene.focus(self.centre, self.radius)

    def threshold(self, hours: float) -> float:
        """Flow (1 normal) below which tissue is dead after so many hours: a sixth at once, 0.45 when it lasts. Jones 1981 (J Neurosurg 54:773)."""
        return 0.15 + 0.30 * (1 - float(np.exp(-hours / self.pace)))

    def solve(self, scene: Scene) -> Perfusion:
        rng, shape = self.rng, scene.shape
        zero = np.zeros(shape, np.float32)
        flow, delay, volume = zero + 1, zero.copy(), zero + 1
        seeds = [np.random.default_rng(s) for s in rng.integers(2**62, size=7)]
        core, untreated, treated = zero.copy(), zero.copy(), zero.copy()
        made = blob(scene, self.centre, self.radius, seeds[0], rough=0.2, reach=1.7) if self.centre is not None else None
        if made is not None:
            box, ratio = made
            standard = scene.standard(box)
            inside = territory_at(standard, self.name, 4 * scene.noise(22, box, seeds[1])) & same_side(scene, self.centre, box)  # type: ignore[arg-type]
            brain = BRAIN[scene.tissue[box]]
            # Distance to the territory's border feeds collateral flow: the deep middle suffers most.
            severity = np.clip(1.15 - ratio, 0, 1) ** (0.45 + 0.6 * self.collaterals) * inside * brain
            deep = np.isin(scene.tissue[box], (PUTAMEN, CAUDATE, PALLIDUM))
            severity = np.where(deep & (severity > 0), np.maximum(severity, 0.85), severity)  # end arteries have no collaterals
            severity *= np.clip(1 + 0.16 * scene.noise(14, box, seeds[2]), 0.3, 1.5)
            left = np.clip(1 - severity * (1.08 - 0.55 * self.collaterals), 0.04, 1).astype(np.float32)
            flow[box] = left
            delay[box] = np.clip((1 - left) ** 0.8 * (13 - 2 * self.collaterals) * (1 + 0.12 * scene.noise(12, box, seeds[3])), 0, 16) * inside
            volume[box] = np.where(left < 0.3, 0.35 + left * 1.6, 1 + 0.45 * (1 - left) * (left < 0.9))
            own = 1 + 0.15 * scene.noise(10, box, seeds[4])  # tissue differs in what it bears, and white matter bears more
            bear = (left * own / np.where(WHITE_SHARE[scene.tissue[box]] > 0, 0.85, 1.0)).astype(np.float32)
            weight = (brain & inside).astype(np.float32)

            def dead(threshold: NDArray[np.float32] | float) -> Floats:
                return (np.clip((threshold - bear) / 0.05 + 0.5, 0, 1) * weight).astype(np.float32)

            core[box] = dead(self.threshold(self.hours))
            untreated[box] = dead(self.threshold(120.0))
            share = scene.noise(18, box, seeds[5])
            open_again = share < np.float32(2.2 * (2 * self.reperfused - 1)) if self.reperfused < 0.9 else np.ones_like(share, bool)
            saved = self.threshold(self.hours + self.to_treatment)
            treated[box] = dead(np.where(open_again, saved, self.threshold(120.0)).astype(np.float32))
        return Perfusion(
            flow,
            delay,
            volume,
            core,
            untreated,
            treated,
            {
                "territory": self.name,
                "hours": round(self.hours, 1),
                "reperfused": round(self.reperfused, 2),
                "collaterals": round(self.collaterals, 2),
                "hours_to_treatment": round(self.to_treatment, 1),
            },
        )


def perfusion_maps(scene: Scene, tissues: Tissues, state: Perfusion) -> dict[str, Floats]:
    """CBF, CBV, MTT and TMAX before the scanner, sub-slices averaged."""
    flow = tissues.cbf.astype(np.float32)[scene.tissue] * state.flow
    blood = tissues.cbv.astype(np.float32)[scene.tissue] * state.volume
    np.minimum(flow, 160, out=flow)
    np.minimum(blood, 16, out=blood)
    brain = BRAIN[scene.tissue].astype(np.float32)
    cbf, cbv, cover = scene.average(flow), scene.average(blood), scene.average(brain)
    lag = scene.average((1.1 + state.delay + 0.5 * WHITE_SHARE[scene.tissue]) * brain)
    return {
        "CBF": cbf,
        "CBV": cbv,
        "MTT": np.where(cover > 0.3, 60 * cbv / np.maximum(cbf, 2.0), 0).clip(0, 25).astype(np.float32),
        "TMAX": np.where(cover > 0.1, lag / np.maximum(cover, 0.1), 0).astype(np.float32),
    }
