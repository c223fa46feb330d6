"""Ranker, calibration and thresholds, fitted on orders that no learned model saw."""
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from data.book import Book
from data.orders import Labelled
from data.records import Order
from nlp.classifier import (
    CONTRASTS,
    LEARNED,
    TEXT,
    URGENCY,
    BookView,
    Ranker,
    Said,
    acceptable_of,
    contrast_features,
    features_of,
    log_odds,
    shares,
    urgency_features,
    urgency_of,
)
from nlp.features import Seen
from nlp.suggest import LIKELY, dispose, flags_of

STEPS, STEP = 400, 0.05     # of the ranker
DRAWN_IN = 0.003        # its weights, towards 0
NEW = 10                # protocols taken as new at a time
COVERAGE = 0.95
AUTOMATIC = 0.97        # acceptable share that automation needs


def urgent_rates(rows: list[Labelled], protocols: tuple[str, ...]) -> list[float]:
    """Share of urgent orders of each protocol, drawn a little towards a half."""
    count, urgent = np.full(len(protocols), 2.0), np.ones(len(protocols))
    for row in rows:
        count[protocols.index(row.expected)] += 1
        urgent[protocols.index(row.expected)] += row.urgent
    return [round(float(share), 4) for share in urgent / count]


def fit(rows: list[Labelled], said: Said, protocols: tuple[str, ...], rates: list[float], book: Book,
        ranker: Ranker | None = None) -> tuple[Ranker, dict[str, Any]]:
    """Ranker (unless one is given), calibration and thresholds, from orders that the models which answered for them had not learnt from."""
    view, orders = BookView(book, protocols), [row.order for row in rows]
    right, features = acceptable(rows, view), features_of(orders, [Seen(order) for order in orders], view, said)
    if ranker is None:
        authors = np.array([row.author for row in rows])
        folds = authors if len(set(authors)) > 2 else np.arange(len(rows)) % 5
        held = np.zeros(right.shape, np.float32)        # each order by a ranker that was not fitted on its author
        for fold in sorted(set(folds)):
            held[folds == fold] = features[folds == fold] @ ranker_of(features[folds != fold], right[folds != fold])
        weight = ranker_of(features, right)
        ranker = Ranker(weight, new_ranker_of(features @ weight, features[..., LEARNED:], right))
    else:
        held = ranker(features, view.known)
    share = shares(held)
    calibration: dict[str, Any] = {"urgent_rates": rates} | platt(share, right)
    chance = acceptable_of(share, calibration)
    best = np.sort((chance * right).max(1))     # split conformal (Vovk 2005): 95 % of orders have an acceptable protocol from here on
    calibration["conformal_threshold"] = float(best[int((1 - COVERAGE) * (len(best) + 1))])
    passed = np.array([may_pass(order, chance[i], view) for i, order in enumerate(orders)])
    calibration["automatic"] = automatic(chance[passed], right[passed], [p.id for p in view.protocols])
    calibration["contrast_weights"] = contrast_weights(contrast_features(share, view, said), [CONTRASTS.index(row.contrast) for row in rows])
    truth = np.array([row.urgent for row in rows])
    return ranker, calibration | urgency(urgency_features(orders, share, view, said, rates), truth)


def may_pass(order: Order, chance: NDArray[np.float32], view: BookView) -> bool:
    """Whether the rules would let an order go without a person, were its protocol certain: thresholds are chosen among these."""
    likely = [(view.protocols[i], float(chance[i])) for i in np.argsort(-chance, kind="stable")[:LIKELY]]
    return dispose(flags_of(order, likely), order, True)[0] == "auto"


def acceptable(rows: list[Labelled], view: BookView) -> NDArray[np.bool_]:
    return np.array([[p.id in {row.expected, *row.acceptable} for p in view.protocols] for row in rows])


def ranker_of(features: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Conditional logit: the summed probability of the acceptable protocols is made as large as it can be."""
    spread = features.std((0, 1)) + 1e-6
    x, y = torch.from_numpy(np.ascontiguousarray(features / spread)).float(), torch.from_numpy(right)
    weight = torch.zeros(x.shape[2], requires_grad=True)
    optimiser = torch.optim.Adam([weight], lr=STEP)
    for _ in range(STEPS):
        loss = missed(x @ weight, y) + DRAWN_IN * (weight**2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (weight.detach().numpy() / spread).astype(np.float32)


def missed(logits: Tensor, right: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    return -(weight * logits.log_softmax(1).masked_fill(~right, -1e9).logsumexp(1)).mean()


def new_ranker_of(known: NDArray[np.float32], plain: NDArray[np.float32], right: NDArray[np.bool_], seed: int = 0) -> NDArray[np.float32]:
    """Weights, and an offset last, of a protocol never trained on, so that it stands fairly beside the known ones.

    Learnt by taking the trained scores of NEW protocols away, others each step; an order that wants one of these counts as much as all others.
    """
    rng, spread = np.random.default_rng(seed), plain.std((0, 1)) + 1e-6
    x, scores, y = torch.from_numpy(plain / spread).float(), torch.from_numpy(known).float(), torch.from_numpy(right)
    weight = torch.zeros(x.shape[2] + 1, requires_grad=True)
    optimiser = torch.optim.Adam([weight], lr=STEP)
    for _ in range(STEPS):
        new = torch.zeros(right.shape[1], dtype=torch.bool)
        new[rng.choice(right.shape[1], min(NEW, right.shape[1] // 2), replace=False)] = True
        wants = (y & new).any(1)
        balance = torch.where(wants, 0.5 / wants.float().mean().clamp(min=1e-3), 0.5 / (~wants).float().mean().clamp(min=1e-3))
        loss = missed(torch.where(new, x @ weight[:-1] + weight[-1], scores), y, balance) + 1e-3 * (weight**2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return np.append(weight.detach().numpy()[:-1] / spread, weight.detach().numpy()[-1]).astype(np.float32)


def platt(share: NDArray[np.float32], right: NDArray[np.bool_]) -> dict[str, float]:
    """Share -> probability of being acceptable, fitted on each order's five best; a fit that would turn the ranks round is refused."""
    best = np.argsort(-share, 1)[:, :5]
    x, y = np.take_along_axis(log_odds(share), best, 1).reshape(-1, 1), np.take_along_axis(right, best, 1).ravel()
    if y.all() or not y.any():
        return {"slope": 1.0, "offset": 0.0}
    model = LogisticRegression(C=1e3).fit(x, y)
    return {"slope": max(float(model.coef_[0, 0]), 0.05), "offset": float(model.intercept_[0])}


def contrast_weights(features: NDArray[np.float32], truth: list[int]) -> list[float]:
    """How much the likely protocols, the words and the transformer count for the contrast decision: a conditional logit."""
    return [float(w) for w in ranker_of(features, np.eye(len(CONTRASTS), dtype=bool)[truth])]


def urgency(features: NDArray[np.float32], truth: NDArray[np.bool_]) -> dict[str, Any]:
    """Two logistic regressions, with the priority and without, and the lowest threshold with precision 0.75: a miss is worse than a false alarm."""
    if truth.all() or not truth.any():
        return {"urgent_weights": [1.0] * len(URGENCY), "urgent_offset": 0.0, "text_weights": [1.0] * (len(URGENCY) - TEXT), "text_offset": 0.0,
                "urgent_threshold": 0.5}
    found: dict[str, Any] = {}
    for name, part in (("urgent", features), ("text", features[:, TEXT:])):
        model = LogisticRegression(C=1).fit(part, truth)
        found |= {f"{name}_weights": [float(w) for w in model.coef_[0]], f"{name}_offset": float(model.intercept_[0])}
    p = urgency_of(features, found)
    good = [t for t in np.unique(p) if truth[p >= t].mean() >= 0.75]
    return found | {"urgent_threshold": float(min(good)) if good else 0.5}


def automatic(p: NDArray[np.float32], right: NDArray[np.bool_], names: list[str]) -> dict[str, float]:
    """Protocol -> probability from which an order may go without a person: the lowest at which AUTOMATIC of all orders above were acceptable.

    One threshold for all, raised for a protocol whose own orders above it fell short.
    """
    top, hit = p.max(1), right[np.arange(len(p)), p.argmax(1)]
    by = np.argsort(-top)
    share = hit[by].cumsum() / np.arange(1, len(by) + 1)
    good = np.flatnonzero(share >= AUTOMATIC)
    if not len(good):
        return {}
    common, found = float(top[by[good.max()]]), {}
    for i, name in enumerate(names):
        mine = p.argmax(1) == i
        wrong = top[mine & ~hit]
        found[name] = round(max(common, float(wrong.max()) + 1e-4 if len(wrong) and (mine & hit & (top >= common)).sum() < 20 else 0.0), 4)
    return found
