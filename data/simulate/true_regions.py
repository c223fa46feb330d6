"""In which part of the brain a simulated bleed began, in the names that a draft has."""
import numpy as np
from numpy.typing import NDArray

from data.atlas import CEREBELLUM, REGIONS, regions_at
from data.simulate.anatomy import read_head
from data.simulator import SimulatedStudy

REGION_LEAST = 0.15     # of the true outline in each region that is rightly named; its main one must be among them


def region_shares(made: SimulatedStudy, source: str, kind: str) -> NDArray[np.float64]:
    """Share of the true blood in each of REGIONS, by where its place was before it pushed, in the head's own standard millimetres.

    These are laid on by landmarks, to within a centimetre: what is counted as wrong can be theirs.
    """
    point = read_head(source).standard(list(made.origin[:, made.masks[kind] > 0].astype(np.float32)))
    found = regions_at(np.stack(point, 1), deep=kind == "intraparenchymal")
    return np.array([(found == k).mean() for k in range(len(REGIONS))])


def true_region(made: SimulatedStudy, source: str, kind: str) -> str:
    """The region that most of the blood began in and, with a comma, a second one that may rightly be named too; "" in none, and in the ventricles."""
    if kind == "intraventricular" or kind not in made.masks:
        return ""
    shares = region_shares(made, source, kind)
    named = sorted(k for k in np.argsort(-shares)[:2] if shares[k] >= REGION_LEAST)
    return ", ".join("posterior fossa" if k == CEREBELLUM and kind != "intraparenchymal" else REGIONS[k] for k in named)
