"""A class for a whole volume from its tissues: how much there is of each, what lies next to what, and a logistic regression."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.simulate.case import STRUCTURES
from vision.heads.unet import UNet, UNetConfig

NEAR_MM = (4.0, 6.0, 10.0)  # spread of what counts as next to
COARSE = 2                  # points a side that are averaged first
KINDS = len(STRUCTURES) - 1
BRAIN = tuple(STRUCTURES.index(name) - 1 for name in ("grey matter", "white matter", "deep nuclei", "hippocampus"))
VALUES = 2 * KINDS + len(NEAR_MM) * KINDS**2
LEAST_SHARE, LEAST_NEAR = 1e-5, 1e-3    # added before the logarithm
SHRINK = 3.0                # weight of the squared coefficients beside the sum of the cases' losses
# what stages of one disease are told by: shares of all tissue, and what lies next to the hippocampus; of 300 cases in folds of sixteen heads these
# lost least (1.14 shrunk by 10 and by 30, of which the stronger; all values, shrunk as they lost least, 1.16; these in no order 1.20)
STAGED = (*(STRUCTURES.index(name) - 1 for name in ("grey matter", "CSF", "ventricles", "hippocampus")),
          *range(2 * KINDS + KINDS * (STRUCTURES.index("hippocampus") - 1), 2 * KINDS + KINDS * STRUCTURES.index("hippocampus")))
STAGED_SHRINK = 30.0
ROUNDS = 200                # of L-BFGS
TOLD = 0.03                 # spread of a value below which it says nothing, and half precision would not keep it apart
FAR = 4.0                   # usual spreads


class TissueClass(nn.Module):
    """`unet` outlines the tissues (background first), `forward` reads the class off the `values_of` what it found."""

    usual: Tensor               # (VALUES,) mean over the patients taught
    spread: Tensor              # (VALUES,) their standard deviation, infinite where it says nothing

    def __init__(self, config: UNetConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config)
        self.register_buffer("usual", torch.zeros(VALUES))
        self.register_buffer("spread", torch.ones(VALUES))
        self.answer = nn.Linear(VALUES, outputs)

    def forward(self, values: Tensor) -> Tensor:                # (B, VALUES) -> (B, outputs) logits
        return self.answer((values - self.usual) / self.spread)

    def unlike(self, values: Tensor) -> float:
        """The share of a patient's values that lie further than FAR usual spreads from those of the patients it was taught."""
        return float((((values - self.usual) / self.spread).abs() > FAR).float().mean())

    def fit(self, values: Tensor, labels: Tensor, ordered: bool = False) -> None:
        """Logistic regression on standardised values; what hardly differs between patients says nothing.

        Classes that are stages of one disease, in their order, share one direction in few values, and each goes further along it: a handful of
        heads would be learnt by heart otherwise.
        """
        usual, spread = values.mean(0), values.std(0)
        told = spread > TOLD
        self.usual.copy_(usual)
        self.spread.copy_(torch.where(told, spread, torch.inf))
        with torch.no_grad():
            self.answer.weight.zero_()
            self.answer.bias.zero_()
        if not ordered:
            minimise([*self.answer.parameters()],
                     lambda: functional.cross_entropy(self(values), labels) + 0.5 * SHRINK / len(labels) * self.answer.weight.square().sum())
            return
        few = ((values - self.usual) / self.spread)[:, STAGED]
        stage = torch.arange(self.answer.out_features, device=values.device) - (self.answer.out_features - 1) / 2
        along = torch.zeros(len(STAGED), device=values.device, requires_grad=True)
        minimise([along, self.answer.bias], lambda: functional.cross_entropy((few @ along)[:, None] * stage + self.answer.bias, labels)
                 + 0.5 * STAGED_SHRINK / len(labels) * along.square().sum())
        with torch.no_grad():
            self.answer.weight[:, STAGED] = stage[:, None] * along


def minimise(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    best = torch.optim.LBFGS(parameters, max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        best.zero_grad()
        found = loss()
        found.backward()
        return found

    best.step(step)


def values_of(tissue: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """(tissues, S, H, W) probabilities -> (VALUES,): logarithms of each tissue's share of all tissue and of the brain, and for each distance in
    NEAR_MM of how much of each tissue lies around the points of each: a hippocampus that shrank has more fluid around it, whatever the head's size.
    """
    coarse = functional.avg_pool3d(tissue[None].float(), COARSE, ceil_mode=True)[0]
    flat = coarse.flatten(1)
    amount = flat.sum(1)
    shares = torch.cat([amount / amount.sum().clamp_min(1e-6), amount / amount[list(BRAIN)].sum().clamp_min(1e-6)])
    found = [torch.log(shares + LEAST_SHARE)]
    for near_mm in NEAR_MM:
        around = spread_out(coarse, [near_mm / (COARSE * s) for s in spacing_mm]).flatten(1)
        found.append(torch.log(flat @ around.T / amount.clamp_min(1e-3)[:, None] + LEAST_NEAR).flatten())
    return torch.cat(found)


def spread_out(maps: Tensor, points: Sequence[float]) -> Tensor:
    """(C, S, H, W) blurred by a Gaussian of so many points along each axis; each point's weights sum to 1 within the volume."""
    for axis, spread in enumerate(points, 1):
        at = torch.arange(maps.shape[axis], device=maps.device)
        weights = torch.exp(-0.5 * ((at[:, None] - at) / spread) ** 2)
        maps = (maps.movedim(axis, -1) @ (weights / weights.sum(0))).movedim(-1, axis)
    return maps
