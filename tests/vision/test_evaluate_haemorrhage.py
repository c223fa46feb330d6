"""What simulation alone teaches: judged on real pictures only, matched for the brain's size, and told seed by seed."""
import json

import numpy as np
import pytest

from data.errors import InputError
from data.labelled_pictures import LabelledPicture
from vision import evaluate_haemorrhage
from vision.evaluate_haemorrhage import auc, main, matched


def picture(i, bleeds, brain, name="phe_sich"):
    grey = np.zeros((64, 64), np.uint8)
    grey[:brain] = 110
    return LabelledPicture(f"{i}", f"{name}:{i}", bleeds, grey)


def test_as_many_slices_without_blood_as_with_it_are_kept_of_each_brain_size():
    """Slices that bleed are larger here: size alone tells them apart before, and nothing after."""
    rng = np.random.default_rng(0)
    real = [picture(i, i % 2 == 0, int(rng.integers(20, 60) if i % 2 == 0 else rng.integers(5, 45))) for i in range(400)]
    images = np.stack([p.plane[0] for p in real])
    brain = ((images > 0.25) & (images < 0.7)).mean((1, 2))
    kept = matched(range(400), real, images)
    assert auc(brain, real, range(400)) > 0.7 and abs(auc(brain, real, kept) - 0.5) < 0.06
    assert sum(real[i].bleeds for i in kept) == len(kept) / 2 > 50


def test_each_seed_is_told_and_no_real_picture_is_learnt_from(tmp_path, monkeypatch):
    real = [picture(i, i % 2 == 0, 30, ("head_ct", "phe_sich")[i // 20]) for i in range(40)]
    monkeypatch.setattr(evaluate_haemorrhage, "read_labelled_pictures", lambda folder: real)
    monkeypatch.setattr(evaluate_haemorrhage, "make_slices", lambda *a: "simulated slices")
    monkeypatch.setattr(evaluate_haemorrhage, "simulated_pool", lambda slices, rng: ("pool of", slices))
    taught = []

    class Net:
        def to(self, device):
            return self

    def train_body(pools, steps, seed, **more):
        taught.append((pools, seed))
        return Net()

    def logits(net, images, device):
        right = np.array([1.0 if p.bleeds else -1.0 for p in real])
        return right if len(taught) % 2 else np.zeros(40)

    monkeypatch.setattr(evaluate_haemorrhage, "train_body", train_body)
    monkeypatch.setattr(evaluate_haemorrhage, "picture_logits", logits)
    figures = main(data=tmp_path, out=tmp_path / "out", date="2026-01-01")
    assert taught == [([("pool of", "simulated slices")], seed) for seed in range(5)]
    own = figures["real head_ct, simulation alone: mean and range of 5 seeds"]
    assert own["seeds"] == [1.0, 0.5, 1.0, 0.5, 1.0] and own["head"]["auc"] == [0.8, 0.5, 1.0] and own["cases"] == 20
    assert json.loads((tmp_path / "out/figures.json").read_text()) == figures
    with pytest.raises(InputError, match="no labelled head CT"):
        main()
