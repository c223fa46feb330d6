"""Physical parameters of every tissue, with spread: what the sequences' equations start from.

Values at 3 T from the usual tables: T1 and T2 of brain after Stanisz 2005 (MRM 54:507) and Wansapura 1999 (JMRI 9:531), T2* after Peters 2007
(MRI 25:748), growth of T1 with the field after Rooney 2007 (MRM 57:308), diffusivity after Helenius 2002 (AJNR 23:194), perfusion after Leenders
1990 (Brain 113:27), HU as in data.simulator; lesions set so that their look on each sequence is the textbook's. T2 of CSF and eye are the shorter
values that an imaging sequence shows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.simulate.anatomy import (
    AIR,
    AMYGDALA,
    ARTERY,
    BONE,
    CAUDATE,
    CEREBELLAR_CORTEX,
    CEREBELLAR_WHITE,
    CHOROID,
    CODES,
    CORTEX,
    CSF,
    DURA,
    EYE,
    FAT,
    HIPPOCAMPUS,
    MARROW,
    MUCOSA,
    MUSCLE,
    PALLIDUM,
    PUTAMEN,
    SKIN,
    STEM,
    THALAMUS,
    VEIN,
    VENTRICLE,
    WHITE,
)

(
    OEDEMA,
    TUMOUR,
    ENHANCING,
    NECROSIS,
    MENINGIOMA,
    ADENOMA,
    PLAQUE,
    BLACK_HOLE,
    LEUKOARAIOSIS,
    INFARCT,
    CAVITY,
    BLOOD,
    HAEMOSIDERIN,
    CALCIFICATION,
    METASTASIS,
    ACTIVE_PLAQUE,
    INFARCT_WHITE,
) = range(25, 42)

PARAMETERS = ("pd", "t1", "t2", "t2star", "adc", "fa", "cbf", "cbv", "hu", "fdg", "gd")
# pd share of water; t1, t2, t2star ms at 3 T; adc 1e-6 mm2/s; cbf mL/100 g/min; cbv mL/100 g; fdg SUVR; gd: 1/s added to 1/T1 by a usual dose
TABLE: dict[int, tuple[float, ...]] = {
    #                  pd    t1    t2  t2star  adc    fa   cbf  cbv    hu   fdg   gd
    AIR: (0.00, 1000, 50, 1, 0, 0.00, 0, 0.0, -1000, 0.00, 0.0),
    SKIN: (0.55, 900, 35, 20, 500, 0.00, 8, 1.0, -10, 0.25, 0.8),
    FAT: (1.00, 390, 125, 30, 80, 0.00, 2, 0.4, -95, 0.12, 0.1),
    MUSCLE: (0.75, 1350, 42, 28, 1300, 0.20, 8, 1.2, 45, 0.35, 0.4),
    BONE: (0.06, 500, 2, 1, 10, 0.00, 2, 0.3, 1150, 0.10, 0.0),
    MARROW: (0.55, 480, 55, 12, 200, 0.00, 5, 0.6, 600, 0.25, 0.2),
    CSF: (1.00, 4200, 1500, 600, 3000, 0.02, 0, 0.0, 8, 0.06, 0.0),
    VENTRICLE: (1.00, 4300, 1700, 700, 3050, 0.02, 0, 0.0, 5, 0.06, 0.0),
    CORTEX: (0.84, 1400, 97, 60, 850, 0.10, 60, 4.0, 37, 1.25, 0.06),
    WHITE: (0.70, 850, 75, 48, 740, 0.48, 23, 2.0, 28, 0.50, 0.03),
    CAUDATE: (0.82, 1330, 84, 48, 760, 0.15, 58, 3.8, 38, 1.35, 0.05),
    PUTAMEN: (0.81, 1270, 78, 42, 730, 0.16, 58, 3.8, 38, 1.45, 0.05),
    PALLIDUM: (0.76, 1040, 62, 27, 760, 0.25, 45, 3.2, 36, 1.05, 0.05),
    THALAMUS: (0.79, 1180, 83, 50, 770, 0.28, 55, 3.8, 37, 1.25, 0.05),
    HIPPOCAMPUS: (0.85, 1430, 102, 58, 880, 0.13, 48, 3.6, 36, 0.95, 0.06),
    AMYGDALA: (0.85, 1410, 102, 58, 860, 0.13, 48, 3.6, 36, 0.90, 0.06),
    STEM: (0.74, 990, 77, 50, 760, 0.42, 38, 2.8, 31, 0.80, 0.04),
    CEREBELLAR_CORTEX: (0.84, 1330, 94, 58, 780, 0.12, 55, 4.0, 37, 1.05, 0.06),
    CEREBELLAR_WHITE: (0.72, 890, 73, 48, 720, 0.42, 26, 2.2, 30, 0.65, 0.03),
    CHOROID: (0.92, 2000, 160, 60, 1900, 0.05, 40, 8.0, 38, 0.60, 3.0),
    VEIN: (0.30, 1650, 40, 18, 1500, 0.05, 60, 40.0, 52, 0.35, 5.0),
    ARTERY: (0.22, 1650, 80, 45, 1500, 0.05, 120, 40.0, 44, 0.35, 5.0),
    EYE: (0.98, 4000, 900, 500, 2900, 0.02, 0, 0.0, 14, 0.10, 0.0),
    MUCOSA: (0.80, 1500, 75, 40, 1500, 0.05, 40, 4.0, 25, 0.60, 3.0),
    DURA: (0.45, 950, 30, 20, 700, 0.10, 20, 3.0, 52, 0.35, 1.6),
    OEDEMA: (0.92, 1900, 190, 90, 1500, 0.12, 14, 1.4, 17, 0.35, 0.05),
    TUMOUR: (0.90, 1750, 165, 80, 1350, 0.12, 38, 3.2, 26, 0.60, 0.15),
    ENHANCING: (0.88, 1500, 120, 55, 1000, 0.12, 85, 7.0, 38, 1.30, 3.2),
    NECROSIS: (0.97, 2700, 330, 120, 2000, 0.05, 3, 0.3, 16, 0.12, 0.15),
    MENINGIOMA: (0.84, 1350, 92, 50, 900, 0.15, 110, 10.0, 46, 0.90, 3.4),
    ADENOMA: (0.84, 1400, 100, 55, 900, 0.10, 60, 5.0, 40, 0.90, 2.0),
    PLAQUE: (0.88, 1450, 155, 75, 1100, 0.22, 20, 1.8, 24, 0.40, 0.05),
    BLACK_HOLE: (0.94, 2300, 230, 100, 1500, 0.12, 10, 1.0, 18, 0.25, 0.03),
    LEUKOARAIOSIS: (0.86, 1300, 130, 70, 1050, 0.25, 15, 1.5, 21, 0.38, 0.03),
    INFARCT: (0.86, 1500, 110, 60, 450, 0.15, 5, 1.0, 30, 0.20, 0.05),
    INFARCT_WHITE: (0.80, 1200, 100, 55, 420, 0.25, 3, 0.7, 24, 0.15, 0.05),
    CAVITY: (0.99, 3600, 900, 300, 2600, 0.04, 1, 0.1, 10, 0.08, 0.0),
    BLOOD: (0.80, 1200, 48, 10, 800, 0.05, 2, 0.2, 66, 0.15, 0.0),
    HAEMOSIDERIN: (0.60, 1200, 28, 4, 600, 0.05, 5, 0.5, 42, 0.30, 0.0),
    CALCIFICATION: (0.35, 1100, 35, 7, 500, 0.05, 2, 0.3, 180, 0.25, 0.0),
    METASTASIS: (0.86, 1500, 100, 50, 1000, 0.10, 70, 6.0, 38, 1.20, 3.0),
    ACTIVE_PLAQUE: (0.88, 1550, 150, 75, 1200, 0.20, 25, 2.2, 24, 0.50, 2.2),
}
SPREAD = {"pd": 0.02, "t1": 0.045, "t2": 0.06, "t2star": 0.1, "adc": 0.05, "fa": 0.06, "cbf": 0.12, "cbv": 0.12, "fdg": 0.05, "gd": 0.2}
LESIONS_FROM = OEDEMA
FIXED_T1 = (CSF, VENTRICLE, EYE, CAVITY, FAT)  # water that no field and little tissue changes


@dataclass
class Tissues:
    """One patient's values, an array of CODES entries a parameter; the fields are those of PARAMETERS."""

    pd: NDArray[np.float64]
    t1: NDArray[np.float64]
    t2: NDArray[np.float64]
    t2star: NDArray[np.float64]
    adc: NDArray[np.float64]
    fa: NDArray[np.float64]
    cbf: NDArray[np.float64]
    cbv: NDArray[np.float64]
    hu: NDArray[np.float64]
    fdg: NDArray[np.float64]
    gd: NDArray[np.float64]

    def at_field(self, tesla: float) -> "Tissues":
        """The same tissues in another field: T1 grows with B0^0.38, T2 and T2* shrink."""
        grow = np.full(CODES, (tesla / 3) ** 0.38)
        grow[list(FIXED_T1)] = 1
        blood = (tesla / 3) ** -0.9
        t2, t2star = self.t2 * (tesla / 3) ** -0.45, self.t2star * (tesla / 3) ** -0.7
        t2[list(FIXED_T1)] = self.t2[list(FIXED_T1)]
        t2star[VEIN], t2[VEIN] = self.t2star[VEIN] * blood, self.t2[VEIN] * blood
        return Tissues(**{**vars(self), "t1": self.t1 * grow, "t2": t2, "t2star": t2star})


def draw_tissues(rng: np.random.Generator, spread: float = 1.0) -> Tissues:
    """A patient's tissues: each parameter varies for all brain together, for each tissue alone, and twice as much for lesions."""
    mean = np.ones((CODES, len(PARAMETERS)))
    for code, row in TABLE.items():
        mean[code] = row
    values = {}
    wide = np.where(np.arange(CODES) >= LESIONS_FROM, 2.0, 1.0)
    for i, name in enumerate(PARAMETERS):
        if name == "hu":
            offset = rng.normal(0, 1.2)
            own = rng.normal(0, 1.2, CODES) * wide
            bony = np.isin(np.arange(CODES), (BONE, MARROW))
            values[name] = mean[:, i] + np.where(bony, rng.normal(0, 120), np.where(np.arange(CODES) == AIR, 0, offset + own))
            continue
        factor = np.exp(spread * SPREAD[name] * (0.7 * rng.standard_normal() + wide * rng.standard_normal(CODES)))
        values[name] = mean[:, i] * factor
    for name in ("t1", "t2", "pd"):  # one fluid, whichever space it fills
        values[name][VENTRICLE] = values[name][CSF] * 1.02 if name != "pd" else values[name][CSF]
    tissues = Tissues(**values)
    tissues.pd[:] = np.clip(tissues.pd, 0, 1.05)
    tissues.hu[WHITE] = min(tissues.hu[WHITE], tissues.hu[CORTEX] - 5)
    return tissues
