"""The trivial method that each head is measured beside.

A floor learns from (some of) the training examples and gives a function from an example to an answer of the head's own kind.
"""
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.diffusion import anisotropy, fit

Answer = Callable[[Any], Any]
LEARN_FROM = 20                 # training examples
POINTS = 20_000                 # points that a voxel-wise regression learns from
HIDDEN_UNITS, HIDDEN_POINTS = 32, 800   # of the shallow network; points of each kind that it learns from in a case
UNET_EPOCHS, UNET_BATCH = 10, 8 # of the plain U-Net: as many steps as the radial head had, of as many slices


def threshold(head: Any, examples: Sequence[Any]) -> Answer:
    """For each output the channel, the side of a level and the level with the best Dice in training."""
    chosen = []
    masks = [np.asarray(e["targets"]) > 0 for e in examples[:LEARN_FROM]]
    for k in range(len(head.outputs)):
        best = (-1.0, 0, 1, 0.0)
        for c in range(examples[0]["inputs"].shape[0]):
            images = [np.asarray(e["inputs"][c], np.float32)[::2, ::2, ::2] for e in examples[:LEARN_FROM]]
            small = [m[k, ::2, ::2, ::2] for m in masks]
            held = [i[m] for i, m in zip(images, small, strict=True) if m.any()]
            levels = np.quantile(np.concatenate(held), np.linspace(0.05, 0.95, 10)) if held else np.zeros(1)     # thinned, all may be missed
            for sign in (1, -1):
                for level in levels:
                    scores = [overlap(sign * i > sign * level, m) for i, m in zip(images, small, strict=True) if m.any()]
                    best = max(best, (float(np.mean(scores)) if scores else 0.0, c, sign, float(level)))
        chosen.append(best)

    def answer(example: Any) -> Any:
        maps = [ndimage.binary_opening(sign * np.asarray(example["inputs"][c], np.float32) > sign * level, np.ones((1, 2, 2))) for _, c, sign,
                level in chosen]
        stacked = np.stack(maps).astype(np.float32)
        return as_spots(stacked[0]) if head.task == "detect" else stacked

    return answer


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return 2 * float((found & truth).sum()) / max(float(found.sum() + truth.sum()), 1.0)


def as_spots(mask: NDArray[np.float32]) -> Any:
    from vision.heads.tasks import Spots

    labels, count = ndimage.label(mask > 0, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(mask > 0, labels, range(1, count + 1)) if count else np.zeros(0)
    kept = [int(k) + 1 for k in np.argsort(-sizes)[:100] if sizes[k] >= 3]
    return Spots(mask, labels, kept, [(0, 0, 0)] * len(kept), np.ones(len(kept), np.float32))


def dark_spots(head: Any, examples: Sequence[Any]) -> Answer:
    """Round dark spots in bright surroundings (Laplacian of Gaussians); the level with the best sensitivity less false positives in training."""
    def respond(example: Any) -> NDArray[np.float32]:
        image = np.asarray(example["inputs"][0], np.float32)
        step = [example.facts["spacing_mm"][2] / s for s in example.facts["spacing_mm"]]
        return ndimage.gaussian_laplace(image, [1.6 * s for s in step]).astype(np.float32)

    responses = [(respond(e), np.asarray(e["targets"][0]) > 0) for e in examples[:8]]
    best = (-1e9, 0.1)
    for level in np.linspace(0.03, 0.5, 16):
        score = 0.0
        for response, truth in responses:
            real, count = ndimage.label(truth, np.ones((3, 3, 3)))
            spots, found = ndimage.label(response > level)
            touched = len(set(np.unique(real[spots > 0])) - {0})
            true_spots = len(set(np.unique(spots[truth])) - {0})
            score += touched / max(count, 1) - 0.05 * (found - true_spots)
        best = max(best, (score, float(level)))
    return lambda example: as_spots((respond(example) > best[1]).astype(np.float32))


def brightness_classes(head: Any, examples: Sequence[Any]) -> Answer:
    """Each case's own brightness and place (row, column from the middle), nearest class means: no contrast is known beforehand."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    def features(example: Any) -> NDArray[np.float32]:
        image = np.asarray(example["inputs"][0], np.float32)
        ranks = np.searchsorted(np.quantile(image, np.linspace(0, 1, 64)), image).astype(np.float32)
        places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")).astype(np.float32)
        return np.stack([image, ranks, ndimage.gaussian_filter(image, 2), *places], -1)

    rng, rows, codes = np.random.default_rng(0), [], []
    for example in examples[:LEARN_FROM]:
        index = rng.integers(int(np.prod(example["inputs"].shape[1:])), size=1500)
        rows.append(features(example).reshape(-1, 6)[index])
        codes.append(np.asarray(example["targets"][0]).ravel()[index])
    model = HistGradientBoostingClassifier(max_iter=40, random_state=0).fit(np.concatenate(rows), np.concatenate(codes))

    def answer(example: Any) -> NDArray[np.float32]:
        shape = example["inputs"].shape[1:]
        code = model.predict(features(example).reshape(-1, 6)).reshape(shape)
        return np.stack([code == k + 1 for k in range(len(head.outputs))]).astype(np.float32)

    return answer


def mismatch(head: Any, examples: Sequence[Any]) -> Answer:
    """The rule of the trials: tissue with Tmax above 6 s dies if the vessel stays closed, the diffusion core if it is opened."""
    def answer(example: Any) -> NDArray[np.float32]:
        names = dict(zip(head.inputs, np.asarray(example["inputs"], np.float32), strict=True))
        adc, tmax = names["ADC"] * 1000, names["TMAX"] * 6
        core = (adc < 620) & (adc > 100)
        lost = core if head.outputs[0] == "final_treated" else core | (tmax > 6)
        return ndimage.binary_opening(lost, np.ones((1, 2, 2)))[None].astype(np.float32)

    return answer


def shallow_network(head: Any, examples: Sequence[Any]) -> Answer:
    """A perceptron of one hidden layer on what lies around each point (3 slices, rows and columns of every channel).

    Half of the points that it learns from are lost; the level from which a point counts as lost is the one with the best Dice in training.
    """
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def around(example: Any, where: NDArray[Any]) -> NDArray[np.float32]:
        padded = np.pad(np.asarray(example["inputs"], np.float32), ((0, 0), (1, 1), (1, 1), (1, 1)), mode="edge")
        shape = example["inputs"].shape[1:]
        shifted = (padded[:, i:i + shape[0], j:j + shape[1], k:k + shape[2]][:, where] for i in range(3) for j in range(3) for k in range(3))
        return np.concatenate(list(shifted)).T

    def inside(example: Any) -> NDArray[np.bool_]:
        return np.asarray(np.any(example["inputs"], axis=0), bool)

    rng, rows, labels = np.random.default_rng(0), [], []
    for example in examples:
        lost, within = np.asarray(example["targets"][0]) > 0, inside(example)
        for wanted, kind in ((lost & within, 1), (within & ~lost, 0)):
            found = np.flatnonzero(wanted)
            chosen = np.zeros(lost.size, bool)
            chosen[rng.choice(found, min(len(found), HIDDEN_POINTS), replace=False)] = True
            rows.append(around(example, chosen.reshape(lost.shape)))
            labels.append(np.full(len(rows[-1]), kind))
    model = make_pipeline(StandardScaler(), MLPClassifier((HIDDEN_UNITS,), early_stopping=True, max_iter=40, random_state=0))
    model.fit(np.concatenate(rows), np.concatenate(labels))

    def probability(example: Any) -> NDArray[np.float32]:
        within = inside(example)
        out = np.zeros(within.shape, np.float32)
        out[within] = model.predict_proba(around(example, within))[:, 1]
        return out

    made = [(probability(e), np.asarray(e["targets"][0]) > 0) for e in examples[:LEARN_FROM]]
    level = max(np.linspace(0.3, 0.98, 18), key=lambda at: float(np.mean([overlap(p > at, m) for p, m in made if m.any()])))
    return lambda example: (probability(example) > level)[None].astype(np.float32)


def voxel_regression(head: Any, examples: Sequence[Any]) -> Answer:
    """The best map from a point's own input values to its output value (gradient boosting)."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng, rows, values = np.random.default_rng(0), [], []
    for example in examples[:LEARN_FROM]:
        index = rng.choice(np.flatnonzero(np.asarray(example["inside"])), POINTS // LEARN_FROM)
        rows.append(np.asarray(example["inputs"], np.float32).reshape(len(example["inputs"]), -1)[:, index].T)
        values.append(np.asarray(example["targets"], np.float32).reshape(len(head.outputs), -1)[:, index].T)
    known, wanted = np.concatenate(rows), np.concatenate(values)
    models = [HistGradientBoostingRegressor(max_iter=80, random_state=0).fit(known, wanted[:, k]) for k in range(len(head.outputs))]

    def answer(example: Any) -> NDArray[np.float32]:
        inputs = np.asarray(example["inputs"], np.float32)
        flat = inputs.reshape(len(inputs), -1).T
        return np.stack([m.predict(flat).reshape(inputs.shape[1:]) for m in models]).astype(np.float32)

    return answer


def bicubic(head: Any, examples: Sequence[Any]) -> Answer:
    """The points that the low-resolution scan really has, in the slice, with a cubic spline between them."""
    def answer(example: Any) -> NDArray[np.float32]:
        low, factor = np.asarray(example["inputs"][0], np.float32), int(example.facts["numbers"].get("factor", 2))
        rows, columns = (np.arange(n) / factor for n in low.shape[1:])
        places = np.meshgrid(rows, columns, indexing="ij")
        return np.stack([ndimage.map_coordinates(plane[::factor, ::factor], places, order=3, mode="nearest") for plane in low])[None]

    return answer


def as_it_is(head: Any, examples: Sequence[Any]) -> Answer:
    """The input itself: the low-resolution scan as laid on the fine grid, the one noisy repetition."""
    at = head.inputs.index(head.start)
    return lambda example: np.asarray(example["inputs"][at:at + 1], np.float32)


def non_local_means(head: Any, examples: Sequence[Any]) -> Answer:
    """Each slice by non-local means (Buades 2005), patches of 5, window of 11, strength chosen in training."""
    def clean(volume: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
        total, weights = np.zeros_like(volume), np.zeros_like(volume)
        for dy in range(-5, 6):
            for dx in range(-5, 6):
                moved = np.roll(volume, (dy, dx), (1, 2))
                distance = ndimage.uniform_filter((moved - volume) ** 2, (0, 5, 5))
                weight = np.exp(-distance / strength**2)
                total += weight * moved
                weights += weight
        return total / weights

    def error(example: Any, strength: float) -> float:
        s = example["inputs"].shape[1] // 2
        inside = np.asarray(example["inside"][s]) > 0
        made = clean(np.asarray(example["inputs"][0, s:s + 1], np.float32), strength)[0]
        return float(((made - np.asarray(example["targets"][0, s], np.float32))[inside] ** 2).mean())

    best = min((float(np.mean([error(e, s) for e in examples[:4]])), s) for s in (0.02, 0.04, 0.07, 0.1, 0.15, 0.25))[1]
    return lambda example: clean(np.asarray(example["inputs"][0], np.float32), best)[None]


def tensor_fit(head: Any, examples: Sequence[Any]) -> Answer:
    """Least squares diffusion tensor of each point (Basser 1994)."""
    def answer(example: Any) -> NDArray[np.float32]:
        signal = np.maximum(np.asarray(example["inputs"][:head.series], np.float32), 1e-3)
        gradients, b = np.asarray(example["gradients"], np.float64), np.asarray(example["b_s_mm2"], np.float64)
        return anisotropy(fit(signal, gradients, b))

    return answer


def grey_levels(head: Any, examples: Sequence[Any]) -> Answer:
    """Histogram of each case's values, logistic regression."""
    def features(example: Any) -> NDArray[np.float64]:
        return np.concatenate([np.histogram(np.asarray(c, np.float32), 24, (0.02, 2.0), density=True)[0] for c in example["inputs"]])

    return logistic(features, examples)


def volume_regression(head: Any, examples: Sequence[Any]) -> Answer:
    """Volumes, age and sex, logistic regression."""
    from vision.heads.clinical import patient_values

    return logistic(lambda example: patient_values(example.facts["numbers"]), examples)


def logistic(features: Callable[[Any], NDArray[Any]], examples: Sequence[Any]) -> Answer:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.array([int(e.facts["category"]) for e in examples])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)).fit(np.stack([features(e) for e in examples]), labels)
    count = int(labels.max()) + 1

    def answer(example: Any) -> NDArray[np.float32]:
        probability = np.full(count, 1e-6, np.float32)
        probability[model[-1].classes_] = model.predict_proba(features(example)[None])[0]
        return probability

    return answer


def zero_filled(head: Any, examples: Sequence[Any]) -> Answer:
    """What is missing in k-space taken as nothing; for radial and spiral data, gridding."""
    return lambda example: np.abs(np.asarray(example["start"]))


def compressed_sensing(head: Any, examples: Sequence[Any]) -> Answer:
    """Total variation, its strength the best of four on training slices."""
    from vision.kspace import total_variation

    def rebuild(example: Any, f: int, s: int, strength: float) -> NDArray[np.float32]:
        return np.abs(total_variation(np.array(example["start"][f, s]), np.array(example["coils"][:, s]), np.array(example["kernels"][f]), strength))

    def error(strength: float) -> float:
        return float(np.mean([np.square(rebuild(e, 0, 0, strength) - np.asarray(e["targets"][0, 0], np.float32)).mean() for e in examples[:3]]))

    best = min((error(s), s) for s in (5e-4, 2e-3, 5e-3, 1.5e-2))[1]
    return lambda example: np.stack([[rebuild(example, f, s, best) for s in range(example["start"].shape[1])] for f in range(len(example["start"]))])


def plain_unet(head: Any, examples: Sequence[Any]) -> Answer:
    """A U-Net from the zero-filled image to the image, taught by the head's own loss and batches; the last fifth of the examples stops it."""
    from vision.heads.tasks import TASKS
    from vision.train_head import load_head, main

    learnt = len(examples) * 4 // 5
    with TemporaryDirectory() as place:
        main(head.name, out=Path(place), examples={"train": list(examples[:learnt]), "validation": list(examples[learnt:])}, epochs=UNET_EPOCHS,
             batch=UNET_BATCH, network="unet")
        net = load_head(replace(head, network="unet"), Path(place))
    return lambda example: TASKS["rebuild"].predict(head, net, example, "cpu")


def independent_components(head: Any, examples: Sequence[Any]) -> Answer:
    """Spatial ICA of each series by itself."""
    from sklearn.decomposition import FastICA

    def answer(example: Any) -> NDArray[np.float32]:
        series = np.asarray(example["series"], np.float32)
        return FastICA(min(16, len(series) - 1), max_iter=300, tol=1e-3, random_state=0).fit_transform(series.T).T.astype(np.float32)

    return answer


def components_cut(head: Any, examples: Sequence[Any]) -> Answer:
    """ICA whose maps are cut to the points well above the rest, as NextTime's are."""
    from vision.heads.next_time import cut

    components = independent_components(head, examples)
    return lambda example: cut(components(example))
