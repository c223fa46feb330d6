"""Teaching the head CT nets: studies and batches follow from the seed, whoever makes them."""
import json

import numpy as np
import pytest
import torch

from data.errors import ModelError
from data.labelled_pictures import LabelledPicture
from data.model_files import load_model, save_model
from vision import train_findings
from vision.encoder import EncoderConfig
from vision.heads.midline import border_loss
from vision.picture_net import PictureNet
from vision.skull_net import ANGLES, DEPTHS, SkullNet
from vision.train_findings import (
    FOLLOWED,
    Draws,
    FindingNet,
    RealSlices,
    Slices,
    augment,
    draw_ahead,
    follow,
    learn_halves,
    load_nets,
    main,
    make_slices,
    make_study,
    pick,
    stored,
)
from vision.train_skull import Skull
from vision.transforms import SIZE


def slices(studies: int = 2, count: int = 4) -> Slices:
    rng = np.random.default_rng(0)
    hu = rng.normal(30, 10, (studies * count, SIZE, SIZE)).astype(np.int16)
    hu[:, :20] = -1000
    labels = np.full(hu.shape, 16, np.uint8)
    labels[::2, 60:90, 60:90] = 16 | 4
    return Slices(hu, labels, np.full(studies, count), np.zeros(studies), np.full(studies, 5.0))


def pictures() -> RealSlices:
    rng = np.random.default_rng(1)
    return RealSlices([LabelledPicture(f"p{i}", f"set:{i}", bool(i % 2), rng.integers(0, 255, (64, 64), np.uint8), turned=i > 1) for i in range(4)])


def tensors(batch):
    return [*batch[:4], *(batch.real or ())]


def test_a_steps_batch_is_the_same_whoever_draws_it_and_wherever_the_training_begins():
    draws = Draws(slices(), pictures(), 4, seed=3)
    alone = list(draw_ahead(draws, range(0, 4), 1))
    for step, drawn in enumerate(draw_ahead(draws, range(0, 4), 2)):
        assert all(torch.equal(a, b) for a, b in zip(tensors(alone[step]), tensors(drawn), strict=True))
    later = next(draw_ahead(draws, range(2, 4), 1))
    assert all(torch.equal(a, b) for a, b in zip(tensors(alone[2]), tensors(later), strict=True))
    assert not torch.equal(alone[0].images, alone[1].images)
    assert [batch.real is not None for batch in alone] == [True, False, True, False]


def test_a_study_that_bleeds_in_one_slice_is_drawn_as_often_as_one_that_bleeds_in_ten():
    labels = np.zeros((24, SIZE, SIZE), np.uint8)
    labels[1:11, 20:30, 20:30] = labels[15, 20:30, 20:30] = 1
    data = Slices(np.zeros((24, SIZE, SIZE), np.int16), labels, np.array([12, 12]), np.zeros(2), np.full(2, 5.0))
    drawn = pick(data, 4000, np.random.default_rng(0))[1::2]
    drawn = drawn[labels[drawn].any((1, 2))]                # of the kinds that nobody has, healthy slices stand in
    assert (drawn == 15).mean() == pytest.approx(0.5, abs=0.06) and len(set(drawn)) == 11


def test_the_mean_of_the_weights_follows_them_slowly():
    net, mean = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.fill_(1.0)
        mean.weight.fill_(0.0)
    follow(mean, net, step=10**6)
    assert mean.weight.detach().numpy() == pytest.approx(np.full((2, 2), 1 - FOLLOWED), abs=1e-6)
    for _ in range(3000):
        follow(mean, net, step=10**6)
    assert mean.weight.min() > 0.99


def test_a_study_is_the_same_whichever_process_simulates_it():
    made = make_slices(2, 5, None, slice(0, 1), lambda *a, **k: None, workers=2)
    hu, labels, shift_mm, slice_mm = make_study((5, 1, ("",), 1.0))
    np.testing.assert_array_equal(made.hu[made.start[1]:], hu)
    np.testing.assert_array_equal(made.labels[made.start[1]:], labels)
    assert (made.shift_mm[1], made.slice_mm[1]) == (shift_mm, slice_mm) and made.counts[1] == len(hu)


def small_model(folder):
    """Untaught nets of a small config, in a folder as a training leaves it."""
    torch.manual_seed(0)
    config = EncoderConfig(width=4, fine=8)
    tensors = stored(FindingNet(config), PictureNet(), SkullNet())
    calibration = {"fracture": [1.0, 0.0, -2.5], "fracture_said": True}
    save_model(folder, tensors, {"version": "findings-0", "encoder": vars(config), "calibration": calibration}, {"name": "findings-0"})
    return config


def skulls():
    rng = np.random.default_rng(2)
    made = [Skull(rng.integers(0, 255, (9, DEPTHS, ANGLES), np.uint8), np.zeros((9, ANGLES), bool)) for _ in range(4)]
    for skull in made[1::2]:
        skull.fracture[2:7, 100:104] = True
    return made[:2], made[2:]


def test_without_minutes_only_the_midlines_head_is_taught_and_calibrated(tmp_path):
    config = small_model(tmp_path / "base")         # not the shape of a new training: it is kept
    main(out=tmp_path / "new", base=tmp_path / "base", frozen=True, minutes=0, slices=slices(), held_out=slices(4), real=[], halves_steps=3)
    (_, old), (settings, new) = load_model(tmp_path / "base"), load_model(tmp_path / "new")
    changed = {name for name in old if (old[name] != new[name]).any()}
    assert changed and all(name.startswith("net.heads.midline.") for name in changed)
    assert settings["encoder"] == vars(config)
    assert {"shift", "shift_slope", "shift_said", "volume", "picture"} <= settings["calibration"].keys()
    assert settings["calibration"]["shift_said"] is False           # no held-out head with a shift: nothing is known, nothing said
    assert settings["calibration"]["fracture"] == [1.0, 0.0, -2.5] and settings["calibration"]["fracture_said"]       # as in the base


def test_the_skulls_net_is_taught_where_the_base_has_none_or_is_not_kept_frozen(tmp_path):
    small_model(tmp_path / "base")
    settings, tensors = load_model(tmp_path / "base")
    older = {name: value for name, value in tensors.items() if not name.startswith("skull.")}
    save_model(tmp_path / "older", older, settings | {"calibration": {}}, {"name": "findings-0"})
    with pytest.raises(ModelError, match="findings-0"):
        load_nets(tmp_path / "older")
    nets = {}
    for name, frozen in (("older", True), ("base", False)):
        main(out=tmp_path / "new", base=tmp_path / name, frozen=frozen, minutes=0, slices=slices(), held_out=slices(4), real=[], halves_steps=0,
             picture_net=PictureNet(), skulls=skulls(), skull_steps=1)
        settings, nets[name] = load_model(tmp_path / "new")
        assert settings["calibration"].keys() >= {"fracture", "fracture_said"} and settings["calibration"]["fracture"] != [1.0, 0.0, -2.5]
        card = json.loads((tmp_path / "new" / "card.json").read_text())
        assert card["steps"]["skull"] == 1 and card["figures"]["simulated, held-out heads"]["auc"]["skull_fracture"] is not None
    kept = [name for name in tensors if name.startswith("skull.") and "weight" in name]
    assert kept and any((nets["base"][name] != tensors[name]).any() for name in kept)


def test_weights_are_stored_in_a_byte_each_and_those_stored_in_two_are_read_as_they_were(tmp_path):
    torch.manual_seed(1)
    nets = FindingNet(EncoderConfig(width=4, fine=8)).eval(), PictureNet().eval(), SkullNet().eval()
    settings = {"version": "findings-0", "encoder": vars(nets[0].encoder.config), "calibration": {}}
    half = {f"{part}.{name}": np.asarray(value.half().numpy() if value.is_floating_point() else value.numpy())
            for part, net in zip(("net", "picture", "skull"), nets, strict=True) for name, value in net.state_dict().items()}
    save_model(tmp_path / "half", half, settings, {"name": "findings-0"})
    save_model(tmp_path / "byte", stored(*nets), settings, {"name": "findings-0"})
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "byte")]
    assert sizes[1] < 0.55 * sizes[0], sizes
    for net, halved, byte in zip(nets, load_nets(tmp_path / "half")[:3], load_nets(tmp_path / "byte")[:3], strict=True):
        for one, two, three in zip(net.parameters(), halved.parameters(), byte.parameters(), strict=True):
            assert torch.equal(one.detach().half().float(), two.detach())
            step = one.detach().flatten(1).abs().amax(1) / 127 if one.ndim > 1 else torch.zeros(1)      # of a kernel of its own each
            off = (one - three).detach().abs().reshape(len(one), -1).amax(1)
            assert bool((off <= 0.51 * step + 1e-3 * one.detach().abs().max()).all())


def test_a_net_is_calibrated_as_it_is_stored(tmp_path, monkeypatch):
    seen = {}

    def calibrate(net, *rest):
        seen.update({name: value.clone() for name, value in net.state_dict().items()})
        return {}, {"auc": {}}

    monkeypatch.setattr("vision.findings.calibrate", calibrate)
    small_model(tmp_path / "base")
    main(out=tmp_path / "new", base=tmp_path / "base", frozen=True, epochs=1, steps_an_epoch=1, batch=4, slices=slices(), held_out=slices(4), real=[],
         halves_steps=0, config=EncoderConfig(width=4, fine=8))
    kept = load_nets(tmp_path / "new")[0].state_dict()
    assert all(torch.equal(seen[name], value) for name, value in kept.items() if "num_batches" not in name)


@pytest.mark.parametrize("width", [4, 6])
def test_a_base_of_another_shape_gives_its_picture_net_and_one_of_the_same_shape_both(tmp_path, width):
    config = small_model(tmp_path / "base")
    wanted = EncoderConfig(width=width, fine=8)
    main(out=tmp_path / "new", base=tmp_path / "base", frozen=True, epochs=1, steps_an_epoch=1, batch=4, slices=slices(), held_out=slices(4), real=[],
         halves_steps=0, config=wanted)
    old, new = load_nets(tmp_path / "base"), load_nets(tmp_path / "new")
    assert same(old[1], new[1]) and new[0].encoder.config == wanted
    card = json.loads((tmp_path / "new" / "card.json").read_text())
    assert card["steps"] == {"picture net": "as in findings-0", "outlines": 1, "midline": 0, "skull": "as in findings-0"}
    assert card["trained_on"]["outlines net started from"] == ("findings-0" if wanted == config else "nothing")
    assert card["trained_on"]["picture net started from"].endswith("by way of findings-0")
    if wanted == config:                # one step from where it was; from nothing, weights are as far apart as they are large
        assert all(float((a - b).detach().abs().max()) < 0.01 for a, b in zip(old[0].parameters(), new[0].parameters(), strict=True))


def test_a_training_that_was_cut_off_goes_on_to_the_same_weights_and_not_with_nets_of_another_shape(tmp_path, monkeypatch):
    small_model(tmp_path / "base")
    given = {"base": tmp_path / "base", "frozen": True, "epochs": 3, "steps_an_epoch": 1, "batch": 4, "slices": slices(), "held_out": slices(4),
             "real": [], "halves_steps": 0, "config": EncoderConfig(width=4, fine=8)}
    main(out=tmp_path / "whole", **given)
    left, real = [2], train_findings.loss_of_batch

    def cut_off(*args):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*args)

    monkeypatch.setattr(train_findings, "loss_of_batch", cut_off)
    with pytest.raises(KeyboardInterrupt):
        main(out=tmp_path / "cut", **given)
    with pytest.raises(ModelError, match="without --resume"):
        main(out=tmp_path / "cut", resume=True, **given | {"config": EncoderConfig(width=6, fine=8)})
    left[0] = 1                     # the third step alone is left
    main(out=tmp_path / "cut", resume=True, **given)
    assert same(load_nets(tmp_path / "whole")[0], load_nets(tmp_path / "cut")[0])


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_midlines_head_learns_where_the_halves_meet():
    """Heads as bright ovals, their halves of different brightness, the border bent or not."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    hu, labels = [], []
    for _ in range(16):
        first = x < rng.uniform(-14, 14) * np.clip(1 - (y / 60) ** 2, 0, 1)
        inside = (x / 48) ** 2 + (y / 60) ** 2 < 1
        hu.append(np.where(inside, np.where(first, 22, 48), -1000))
        labels.append(np.where(inside, np.where(first, 1, 2), 0) << 4)
    made = Slices(np.array(hu, np.int16), np.array(labels, np.uint8), np.full(4, 4), np.array([0.0, 5.0, 5.0, 0.0]), np.full(4, 5.0))
    torch.manual_seed(0)
    net = FindingNet(EncoderConfig(width=4, fine=8)).eval()

    def off():
        images, _, halves = augment(made, np.arange(16), np.random.default_rng(1), np.zeros(16, bool), plain=True)
        with torch.inference_mode():
            return float(border_loss(net(images)[0]["midline"], halves))

    before = off()
    learn_halves(net, made, 150, 0, "cpu", lambda *a, **k: None)
    assert off() < 0.5 * before, (off(), before)


def test_a_model_with_another_midline_head_is_a_base_to_go_on_from_and_else_a_coded_error(tmp_path):
    small_model(tmp_path / "old")
    settings, tensors = load_model(tmp_path / "old")
    other = {name: value for name, value in tensors.items() if not name.startswith("net.heads.midline.")}
    save_model(tmp_path / "old", other | {"net.heads.midline.answer.weight": np.zeros((3, 8, 1, 1), np.float16)}, settings, {"name": "findings-0"})
    with pytest.raises(ModelError, match="findings-0"):
        load_nets(tmp_path / "old")
    main(out=tmp_path / "new", base=tmp_path / "old", frozen=True, minutes=0, slices=slices(), held_out=slices(4), real=[], halves_steps=3)
    _, new = load_model(tmp_path / "new")
    assert all((new[name] == value).all() for name, value in other.items())
