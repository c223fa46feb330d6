"""Training: exact resume, whole checkpoints on a full disk, stops by validation, splits by patient, several processes alike."""
import io
import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from data.errors import ImageError, InputError, ModelError, OutputError
from data.head_images import ImageCase, write_nifti
from data.model_files import load_model, save_model
from data.records import Volume
from tests.vision.heads_material import tiny_examples
from vision import train_head
from vision.apply_head import HeadModel
from vision.checkpoints import write_whole
from vision.evaluate_head import FLOOR_CASES_MAX, as_stage, on_oasis, taught_cases
from vision.evaluate_head import main as evaluate
from vision.heads import HEADS
from vision.heads.clinical import VALUES
from vision.heads.examples import Example, is_ready, open_example, split_counts, write_example
from vision.heads.tasks import LEFT_OUT, TASKS, predict_tissues, values_in
from vision.heads.two_stage import TwoStage
from vision.train_head import load_head, main

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """An epoch of two steps: the rules are the same, the wait is not."""
    monkeypatch.setattr(train_head, "EPOCH", 2)


def material(name, count=4):
    return {"train": tiny_examples(HEADS[name], count), "validation": tiny_examples(HEADS[name], 2, 50)}


class Stopped(Exception):
    pass


def stop_after(epoch):
    def report(step, of, **figures):
        if "loss" in figures and step == 2 * epoch:
            raise Stopped
    return report


@pytest.mark.parametrize("name", ["ad_volumes", "ct_classes", "flair_lesions", "microbleeds", "seven_tesla"])
def test_a_run_cut_off_and_resumed_ends_with_the_same_bytes(name, tmp_path):
    examples = material(name)
    main(name, out=tmp_path / "whole", examples=examples, epochs=3)
    with pytest.raises(Stopped):
        main(name, out=tmp_path / "cut", examples=examples, epochs=3, report=stop_after(1))
    main(name, out=tmp_path / "cut", examples=examples, epochs=3, resume=True)
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert not (tmp_path / "cut/checkpoint.safetensors").exists()


def test_another_seed_gives_another_net(tmp_path):
    for seed in (0, 1):
        main("ad_volumes", out=tmp_path / str(seed), examples=material("ad_volumes"), epochs=1, seed=seed)
    assert (tmp_path / "0/model.safetensors").read_bytes() != (tmp_path / "1/model.safetensors").read_bytes()


@pytest.mark.parametrize(("patience", "share", "epochs"), [(3, 0.0, 4), (3, 0.2, 11), (15, 0.2, 16)])
def test_training_stops_when_validation_gets_no_better_for_some_epochs_and_a_share_of_it(patience, share, epochs, tmp_path, monkeypatch):
    monkeypatch.setattr(train_head, "PATIENCE", patience)
    monkeypatch.setattr(train_head, "PATIENT", share)
    monkeypatch.setitem(train_head.TASKS, "volumes", replace(train_head.TASKS["volumes"], peak=0.0))
    assert main("ad_volumes", out=tmp_path, examples=material("ad_volumes"), epochs=50)["steps"] == 2 * epochs


@pytest.mark.parametrize("name", ["seven_tesla", "dwi_infarct", "ct_classes", "tumour_type", "structures", "huntington_pattern",
                                  "reconstruction_radial", "fmri_networks"])
def test_a_step_in_half_precision_teaches_every_part_of_a_row(name, monkeypatch):
    """bfloat16 on the CPU stands in for CUDA: what mixes the two kinds of number fails on both."""
    head, whole = HEADS[name], torch.autocast
    monkeypatch.setattr(train_head.torch, "autocast", lambda *a, **k: whole("cpu", torch.bfloat16))
    torch.manual_seed(0)
    modules = {"net": train_head.TASKS[head.task].build(head)}
    if "adversarial" in head.loss:
        modules["judge"] = train_head.PatchDiscriminator(len(head.outputs))
    optimisers = {part: torch.optim.AdamW(module.parameters(), 1e-3) for part, module in modules.items()}
    before = {part: [p.clone() for p in module.parameters()] for part, module in modules.items()}
    batch = train_head.draw(head, tiny_examples(head, 6), [0, 0, 0], 2, "cpu")
    for _ in range(3):          # answers that begin as nothing pass no gradient on in the first step
        train_head.learn(head, modules, optimisers, batch, 1.0, train_head.Run(), "cpu", 1, [0, 0, 0])
    for part, module in modules.items():
        after = list(module.parameters())
        taught = [not torch.equal(a, b) for a, b in zip(before[part], after, strict=True)]
        waits = len(list(module.judge.parameters())) if isinstance(module, TwoStage) else 0     # for its own stage
        assert all(torch.isfinite(p).all() for p in after) and sum(taught) >= 0.9 * (len(taught) - waits)


def test_each_stage_of_a_training_begins_fast_and_ends_slowly():
    """The first stage is over at SECOND_FROM or sooner, the second has what is left."""
    first, second = train_head.Run(), train_head.Run(stage=1, turned=0.4)
    paces = [train_head.rate(train_head.of_stage(done, first)) for done in (0.05, 0.3, train_head.SECOND_FROM)]
    assert paces[0] > 0.9 and paces[0] > paces[1] > paces[2] and paces[2] < 0.02
    paces = [train_head.rate(train_head.of_stage(done, second)) for done in (0.45, 0.7, 1.0)]
    assert paces[0] > 0.9 and paces[0] > paces[1] > paces[2] and paces[2] < 0.02


def test_the_card_names_the_size_of_a_step_and_the_device(tmp_path):
    main("ad_volumes", out=tmp_path, examples=material("ad_volumes"), epochs=1, batch=16)
    card = json.loads((tmp_path / "card.json").read_text())
    assert "--epochs 1 --batch 16" in card["command"] and card["device"] == "CPU"


def test_a_large_picture_is_given_the_class_of_the_same_picture_made_small():
    torch.manual_seed(0)
    net, head = train_head.TASKS["picture"].build(HEADS["tumour_type"]).eval(), HEADS["tumour_type"]
    rows = np.linspace(0, 3, 384)
    large = (1 + np.sin(rows)[:, None] * np.cos(2 * rows)[None, :]).astype(np.float32)
    small = functional.interpolate(torch.from_numpy(large)[None, None], scale_factor=1 / 3, mode="bilinear", antialias=True)[0, 0].numpy()
    answers = [train_head.TASKS["picture"].predict(head, net, Example({"inputs": p[None, None]}), "cpu") for p in (large, small)]
    np.testing.assert_allclose(*answers, atol=1e-4)


def test_weights_are_small_and_load_into_the_row_they_were_trained_for_alone(tmp_path):
    main("flair_lesions", out=tmp_path, examples=material("flair_lesions"), epochs=1)
    config, tensors = load_model(tmp_path)
    assert {str(v.dtype) for v in tensors.values()} == {"float16", "int8", "float32"} and config["head"] == "flair_lesions"
    assert (tmp_path / "model.safetensors").stat().st_size < 1.6 * sum(p.numel() for p in load_head(HEADS["flair_lesions"], tmp_path).parameters())
    load_head(HEADS["flair_lesions"], tmp_path)
    with pytest.raises(ModelError, match="perihaematomal_oedema"):
        load_head(HEADS["perihaematomal_oedema"], tmp_path)


def test_another_heads_encoder_can_be_built_on_and_kept_frozen(tmp_path):
    main("flair_lesions", out=tmp_path / "base", examples=material("flair_lesions"), epochs=1)
    main("super_resolution", out=tmp_path / "new", examples=material("super_resolution"), epochs=1, base=tmp_path / "base", frozen=True)
    old, new = load_model(tmp_path / "base")[1], load_model(tmp_path / "new")[1]
    kernel = "down.stages.1.0.0.weight"
    np.testing.assert_array_equal(old[kernel], new[kernel])
    assert (old["up.0.0.0.weight"] != new["up.0.0.0.weight"]).any()


def test_a_frozen_detector_keeps_its_first_stage_and_teaches_the_second_anew(tmp_path):
    main("microbleeds", out=tmp_path / "base", examples=material("microbleeds"), epochs=1)
    main("microbleeds", out=tmp_path / "new", examples=material("microbleeds"), epochs=1, base=tmp_path / "base", frozen=True)
    (_, old), (_, new) = load_model(tmp_path / "base"), load_model(tmp_path / "new")
    first = [name for name in old if name.startswith("map.")]
    assert len(first) > 20 and all(np.allclose(old[name], new[name], atol=1e-6) for name in first if old[name].dtype != np.int8)
    assert all((np.abs(old[name].astype(int) - new[name]) <= 1).all() for name in first if old[name].dtype == np.int8)
    assert any((old[name] != new[name]).any() for name in old if name.startswith("judge.") and old[name].shape == new[name].shape)
    assert json.loads((tmp_path / "new" / "card.json").read_text())["figures"]["steps"] == 2      # all of them of the second stage


def test_a_base_without_a_fitting_encoder_is_refused(tmp_path):
    main("ad_volumes", out=tmp_path / "base", examples=material("ad_volumes"), epochs=1)
    with pytest.raises(InputError, match="encoder"):
        main("t1_to_t2", out=tmp_path / "new", examples=material("t1_to_t2"), epochs=1, base=tmp_path / "base")


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path):
    """A process that may write no more than 20 kB a file: the error is coded, what stood there is read back."""
    path = tmp_path / "checkpoint.safetensors"
    write_whole(path, b"whole")
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            write_whole(path, b"x" * 100_000)
        except OutputError as error:
            os._exit(0 if "--resume" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_while_training_leaves_a_checkpoint_that_goes_on_to_the_same_end(tmp_path):
    """The disk is full from the second epoch on: coded error, the first epoch's checkpoint whole, --resume ends as if nothing had happened."""
    examples = material("ad_volumes")
    main("ad_volumes", out=tmp_path / "whole", examples=examples, epochs=3)

    def fill_up(step, of, **figures):
        if "loss" in figures:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))

    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            main("ad_volumes", out=tmp_path / "cut", examples=examples, epochs=3, report=fill_up)
        except OutputError as error:
            os._exit(0 if "make room" in str(error) and "--resume" in str(error) else 2)
        except BaseException:
            os._exit(3)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["checkpoint.safetensors"]
    main("ad_volumes", out=tmp_path / "cut", examples=examples, epochs=3, resume=True)
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_a_disk_full_at_the_end_of_a_training_leaves_the_model_that_was_there(tmp_path):
    main("ad_volumes", out=tmp_path, examples=material("ad_volumes"), epochs=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
        try:
            save_model(tmp_path, {"w": np.ones(4_000, np.float32)}, {"version": "new"}, {})
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    load_head(HEADS["ad_volumes"], tmp_path)


def test_a_checkpoint_of_another_head_is_a_coded_error(tmp_path):
    with pytest.raises(Stopped):
        main("ad_volumes", out=tmp_path, examples=material("ad_volumes"), epochs=3, report=stop_after(1))
    with pytest.raises(ModelError, match="checkpoint"):
        main("flair_lesions", out=tmp_path, examples=material("flair_lesions"), epochs=3, resume=True)


def test_an_example_on_disk_is_read_back_as_it_was_and_half_written_ones_do_not_count(tmp_path):
    example = Example({"inputs": np.arange(8, dtype=np.float16).reshape(1, 2, 2, 2)}, {"patient": "1"})
    write_example(tmp_path / "a", example)
    np.testing.assert_array_equal(open_example(tmp_path / "a")["inputs"], example["inputs"])
    (tmp_path / "b").mkdir()
    assert is_ready(tmp_path / "a") and not is_ready(tmp_path / "b")


def test_simulated_cases_are_made_once_and_the_evaluation_stands_beside_its_floor(tmp_path):
    """The whole way on real simulated cases: train, measure, card and pictures."""
    main("dwi_infarct", out=tmp_path, size=8, epochs=2)
    made = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cases").iterdir()}
    assert len(made) == split_counts(8)["train"] + split_counts(8)["validation"]
    figures = evaluate("dwi_infarct", out=tmp_path, size=2, date="2026-01-01")
    assert set(figures["simulated"]) >= {"head", "floors", "subgroups"} and "a threshold" in figures["simulated"]["floors"]
    assert all((tmp_path / "cases" / name).stat().st_mtime_ns == when for name, when in made.items())
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert (tmp_path / "card.md").exists() and (tmp_path / "examples.png").exists() and (tmp_path / "training.png").exists()


def own_patient(place, seed, lesion=True):
    place.mkdir(parents=True)
    mask = np.zeros((3, 32, 32), np.float32)
    mask[:, 10:16, 10:16] = lesion
    write_nifti(place / "FLAIR.nii.gz", (1 + mask + 0.1 * np.random.default_rng(seed).normal(size=mask.shape)).astype(np.float32), None)
    write_nifti(place / "lesion.nii.gz", mask, None)


def gathered(folder, name="flair_lesions"):
    return train_head.gather(HEADS[name], folder, folder, 80, 0, None, 1, lambda *a, **k: None)


def test_own_patients_take_the_place_of_simulated_ones_and_none_is_in_two_splits(tmp_path):
    for i in range(8):
        own_patient(tmp_path / "own" / f"p{i}", i)
    examples = gathered(tmp_path)
    names = [e.facts["patient"] for split in ("train", "validation", "test") for e in examples[split]]
    assert sorted(names) == [f"p{i}" for i in range(8)]
    (tmp_path / "own/p3/lesion.nii.gz").unlink()
    with pytest.raises(InputError, match=r"p3 has no lesion"):
        gathered(tmp_path)


def test_sixteen_own_patients_train_a_head_and_their_masks_may_be_empty_but_not_all(tmp_path):
    for i in range(16):
        own_patient(tmp_path / "own" / f"p{i:02d}", i, lesion=i % 3 > 0)
    main("flair_lesions", data=tmp_path, out=tmp_path / "out", epochs=1)
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["trained_on"] == {"train": 10, "validation": 2} and card["recipe"] == "own patients"
    figures = evaluate("flair_lesions", data=tmp_path, out=tmp_path / "out")
    assert figures["own patients held out"]["cases"] == 4
    for i in range(16):
        write_nifti(tmp_path / "own" / f"p{i:02d}" / "lesion.nii.gz", np.zeros((3, 32, 32), np.float32), None)
    with pytest.raises(InputError, match="lesion is empty in all 10 patients"):
        gathered(tmp_path)


def test_too_few_own_patients_and_files_that_cannot_be_read_are_refused_by_name(tmp_path):
    for i in range(3):
        own_patient(tmp_path / "own" / f"p{i}", i)
    with pytest.raises(InputError, match="3 patients are given for flair_lesions, expected 8"):
        gathered(tmp_path)
    for words, raw in (("no JSON object", "{"), ("no JSON object", "[1]"), ("category in p1/patient.json is 'tumour'", '{"category": "tumour"}'),
                       ("category in p1/patient.json is 4", '{"category": 4}')):
        (tmp_path / "own/p1/patient.json").write_text(raw)
        with pytest.raises(InputError, match=words):
            gathered(tmp_path)
    (tmp_path / "own/p1/patient.json").unlink()
    write_nifti(tmp_path / "own/p2/FLAIR.nii.gz", np.full((3, 32, 32), np.nan, np.float32), None)
    with pytest.raises(ImageError, match=r"FLAIR.nii.gz holds values that are no numbers"):
        gathered(tmp_path)


def test_a_class_may_be_named_and_classes_that_exclude_each_other_come_as_one_mask_each(tmp_path):
    head = HEADS["structures"]
    for i in range(8):
        place = tmp_path / "own" / f"p{i}"
        place.mkdir(parents=True)
        write_nifti(place / "IMAGE.nii.gz", np.random.default_rng(i).uniform(1, 2, (2, 16, 16)).astype(np.float32), None)
        for k, name in enumerate(head.outputs):
            mask = np.zeros((2, 16, 16), np.float32)
            mask[:, k] = 1
            write_nifti(place / f"{name}.nii.gz", mask, None)
    codes = gathered(tmp_path, "structures")["train"][0]["targets"]
    assert codes.shape == (1, 2, 16, 16) and codes[0, 0, :, 0].tolist()[:len(head.outputs) + 1] == [*range(1, len(head.outputs) + 1), 0]
    for i in range(8):
        place = tmp_path / "named/own" / f"p{i}"
        place.mkdir(parents=True)
        write_nifti(place / "T1.nii.gz", np.random.default_rng(i).uniform(1, 2, (2, 16, 16)).astype(np.float32), None)
        (place / "patient.json").write_text('{"category": "manifest"}')
    assert {e.facts["category"] for e in gathered(tmp_path / "named", "huntington_pattern")["train"]} == {2}


def test_too_few_cases_and_rows_without_training_are_refused(tmp_path):
    with pytest.raises(InputError, match="--size is 4"):
        main("flair_lesions", out=tmp_path, size=4)
    with pytest.raises(InputError, match="findings"):
        main("ct_haemorrhage", out=tmp_path)


TWO = """
import sys, torch
from pathlib import Path
from tests.vision.heads_material import tiny_examples
from vision.heads.clinical import VALUES
from vision import train_head
from vision.heads import HEADS
from vision.heads.tasks import TASKS
from vision.heads.unet import UNet, UNetConfig

torch.set_num_threads(1)
train_head.EPOCH = 2
rank, world = train_head.distributed()
assert world == 2
head, task = HEADS["ad_volumes"], TASKS["volumes"]


def taught(batch, processes):
    torch.manual_seed(0)
    net = task.build(head).eval()               # without dropout: what is compared is the gradient
    train_head.step(net, torch.optim.SGD(net.parameters(), 1.0), task.loss(head, net, batch), processes)
    return net.state_dict()


generator = torch.Generator().manual_seed(1)
whole = {"values": torch.randn(8, 2 * len(VALUES), generator=generator), "labels": torch.randint(4, (8,), generator=generator)}
own = {name: values[4 * rank:4 * rank + 4] for name, values in whole.items()}
alone, both = taught(whole, 1), taught(own, 2)
assert all(torch.allclose(alone[name], both[name], atol=1e-6) for name in alone), "another step than of the whole batch"
assert any(not torch.allclose(alone[name], taught(own, 1)[name], atol=1e-6) for name in alone), "the halves are alike: nothing is tested"

net = UNet(UNetConfig(1, 1, width=4, stages=2))
net(torch.full((2, 1, 8, 8), float(rank)) + torch.randn(2, 1, 8, 8))
train_head.share_buffers(net, world)
mine = torch.cat([b.flatten() for b in net.buffers() if b.is_floating_point()])
theirs = mine.clone()
torch.distributed.broadcast(theirs, 0)
assert torch.equal(mine, theirs), "each process keeps norms of its own"

figures = train_head.main("ad_volumes", out=Path(sys.argv[1]), size=8, minutes=0.02)
assert bool(figures) == (rank == 0)
"""


def test_two_processes_under_torchrun_train_one_net(tmp_path):
    """A step is that of the whole batch, norms are shared, the first process makes the cases, all stop by its clock, one writes."""
    (tmp_path / "run.py").write_text(TWO)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "run.py"),
                           str(tmp_path / "out")], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    load_head(HEADS["ad_volumes"], tmp_path / "out")
    assert len(list((tmp_path / "out/cases").iterdir())) == split_counts(8)["train"] + split_counts(8)["validation"]


def clinical_set(folder, patients=16):
    """lgg_flair's own form, tiny: a bright ball in a head, seven slices a patient."""
    place, rng = folder / "lgg_flair", np.random.default_rng(0)
    place.mkdir(parents=True)
    rows, masks = ["row,case,site,slice,pre_is_flair,post_is_flair"], []
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    with zipfile.ZipFile(place / "strips.zip", "w") as archive:
        for i in range(7 * patients):
            at = rng.uniform(-0.3, 0.3, 2)
            ball = (y - at[0]) ** 2 + (x - at[1]) ** 2 < 0.05
            grey = np.clip((y**2 + x**2 < 0.6) * 90 + 120 * ball + rng.normal(0, 3, ball.shape), 0, 255).astype(np.uint8)
            raw = io.BytesIO()
            Image.fromarray(np.concatenate([grey] * 3, 1)).save(raw, "JPEG")
            archive.writestr(f"{i:04d}.jpg", raw.getvalue())
            masks.append(ball)
            rows.append(f"{i},p{i // 7:02d},{('DU', 'HT', 'CS', 'FG')[i // 7 % 4]},{i % 7},0,0")
    (place / "index.csv").write_text("\n".join(rows) + "\n")
    np.savez(place / "masks128.npz", masks=np.packbits(np.stack(masks), axis=-1))
    return folder


def test_a_row_learns_from_real_images_and_is_judged_by_nets_that_did_not_see_the_patient(tmp_path, monkeypatch):
    data = clinical_set(tmp_path / "data")
    main("flair_lesions", out=tmp_path / "base", examples=material("flair_lesions"), epochs=1)
    main("flair_lesions", data=data, out=tmp_path / "net", real=True, base=tmp_path / "base", epochs=2)
    card = json.loads((tmp_path / "net/card.json").read_text())
    assert card["recipe"] == "real: lgg_flair" and card["trained_on"] == {"train": 14, "validation": 2} and card["started from"].endswith("base")
    monkeypatch.setattr("vision.evaluate_head.simulated_examples", lambda head, split, count, *a, **k: tiny_examples(head, 3, 90))
    seen = []
    real_main = train_head.main
    monkeypatch.setattr(train_head, "main", lambda *a, **k: seen.append(k["examples"]) or real_main(*a, **k))
    with pytest.raises(InputError, match="--base"):
        evaluate("flair_lesions", data=data, out=tmp_path / "net", epochs=1)
    figures = evaluate("flair_lesions", data=data, out=tmp_path / "net", base=tmp_path / "base", epochs=1)
    assert {k: v["cases"] for k, v in figures.items() if k.startswith("real")} == {
        "real lgg_flair, simulation only": 16, "real lgg_flair, 5 folds by patient": 16,
        "real lgg_flair, taught sites DU and HT, tested on CS and FG": 8}
    assert "--base" in figures["command"] and len(seen) == 6
    taught = [{e.facts["patient"] for split in k.values() for e in split} for k in seen]
    assert taught[0] == {f"p{i:02d}" for i in range(16) if i % 4 < 2}
    assert all(len(t) in (12, 13) for t in taught[1:]) and set.intersection(*taught[1:]) == set()


def test_real_images_are_asked_for_only_where_a_row_has_some(tmp_path):
    with pytest.raises(InputError, match="dwi_infarct has no public set"):
        main("dwi_infarct", data=tmp_path, out=tmp_path / "net", real=True)


def test_a_classifier_takes_the_whole_net_that_knows_the_tissue(tmp_path, monkeypatch):
    main("schizophrenia_pattern", out=tmp_path / "base", examples=material("schizophrenia_pattern"), epochs=1)
    monkeypatch.setitem(train_head.TASKS, "tissues", replace(train_head.TASKS["tissues"], peak=0.0))
    main("huntington_pattern", out=tmp_path / "new", examples=material("huntington_pattern"), epochs=1, base=tmp_path / "base")
    old, new = load_model(tmp_path / "base")[1], load_model(tmp_path / "new")[1]
    for name in ("down.stem.0.0.weight", "up.0.0.0.weight", "last.0.weight", "answer.weight"):
        np.testing.assert_array_equal(new["unet." + name], old["unet." + name])
    assert np.abs(new["usual"].astype(float)).max() > 1                         # fitted, whatever the pace: logarithms of shares


def test_classes_from_tissues_are_fitted_to_what_the_net_finds_as_it_is_stored(tmp_path):
    examples, head = material("huntington_pattern"), HEADS["huntington_pattern"]
    figures = main("huntington_pattern", out=tmp_path, examples=examples, epochs=1)
    net = train_head.trained(head, tmp_path)
    values = np.stack([values_in(net, e, "cpu") for e in examples["train"]])
    np.testing.assert_array_equal(net.usual.numpy(), torch.from_numpy(values).mean(0).half().float().numpy())
    told = [predict_tissues(head, net, e, "cpu")[e.facts["category"]] for e in examples["validation"]]
    assert figures["validation"] == pytest.approx(float(-np.log(told).mean()), abs=0.01)               # of the classes, not of the outlines


def test_classes_of_patients_whose_tissue_nobody_outlined_are_fitted_to_what_a_base_finds(tmp_path):
    main("huntington_pattern", out=tmp_path / "base", examples=material("huntington_pattern"), epochs=1)
    main("t1_to_t2", out=tmp_path / "other", examples=material("t1_to_t2"), epochs=1)
    own = {split: [Example({"inputs": e["inputs"]}, e.facts | {"patient": f"own-{i}"}) for i, e in enumerate(rows)]
           for split, rows in material("huntington_pattern").items()}
    for base, words in ((None, "--base is not given"), (tmp_path / "other", "no encoder that fits")):
        with pytest.raises(InputError, match=words):
            main("huntington_pattern", out=tmp_path / "none", examples=own, epochs=1, base=base)
    figures = main("huntington_pattern", out=tmp_path / "own", examples=own, epochs=1, base=tmp_path / "base")
    old, new = load_model(tmp_path / "base")[1], load_model(tmp_path / "own")[1]
    assert figures["steps"] == 0 and 0 < figures["validation"] < 20
    for name in (n for n in old if n.startswith("unet.")):
        np.testing.assert_array_equal(new[name], old[name])


def test_stages_are_fitted_to_the_tissues_that_another_row_finds_and_ship_without_its_net(tmp_path):
    """Nothing of the net is taught or stored twice, another base is refused, and so are classes fitted to another net's tissues."""
    head, examples = HEADS["ad_stages"], material("ad_stages")
    with pytest.raises(InputError, match="t1_structures finds, as it ships; leave --base out"):
        main("ad_stages", out=tmp_path, examples=examples, base=tmp_path)
    assert main("ad_stages", out=tmp_path, examples=examples)["steps"] == 0
    config, tensors = load_model(tmp_path)
    assert set(tensors) == {"usual", "spread", "answer.weight", "answer.bias"} and (tmp_path / "model.safetensors").stat().st_size < 5_000
    net, outlines = train_head.trained(head, tmp_path), train_head.trained(HEADS["t1_structures"])
    assert all(torch.equal(values, net.unet.state_dict()[name]) for name, values in outlines.state_dict().items())
    save_model(tmp_path, tensors, config | {"tissues": {**config["tissues"], "sha256": "0"}}, {})
    with pytest.raises(ModelError, match="fitted to other tissues than t1_structures finds"):
        load_head(head, tmp_path)


def test_own_patients_of_any_spacing_are_fitted_on_the_grid_that_they_are_read_on():
    head = HEADS["huntington_pattern"]
    cases = [ImageCase(f"p{i}", {"T1": np.random.default_rng(i).uniform(1, 2, (24, 40, 40)).astype(np.float32)}, category=i % 3,
                       spacing_mm=(2.0, 2.0, 2.0) if i % 2 else (4.0, 1.0, 1.0)) for i in range(10)]
    model = HeadModel(head, None, {"spacing_mm": [2.0, 2.0, 2.0]})
    for examples in train_head.split_own(head, cases).values():
        for example in examples:
            case = cases[int(example.facts["patient"][1:])]
            volume = Volume(case.channels["T1"], case.spacing_mm, None, modality="MR")
            assert example["inputs"].shape[1:] == model.grid(volume) and example.facts["spacing_mm"] == [2.0, 2.0, 2.0]


def test_values_are_left_out_of_a_patient_together_with_their_being_known():
    head, rng = HEADS["ad_volumes"], np.random.default_rng(0)
    values = TASKS["volumes"].draw(head, material("ad_volumes")["train"], rng, 400)["values"].numpy()
    measured, known = values[:, :len(VALUES)], values[:, len(VALUES):]
    assert not measured[known == 0].any() and set(np.unique(known)) == {0.0, 1.0}
    share = known[:, [name for name, _, _ in VALUES].index("age_years")].mean()
    assert 1 - LEFT_OUT < share < 1 - 0.3 * LEFT_OUT


def test_the_floor_of_a_class_learns_from_as_many_cases_as_the_head_did_but_not_from_thousands(tmp_path):
    for cases, wanted in ((240, 240), (4970, FLOOR_CASES_MAX)):
        (tmp_path / "card.json").write_text(json.dumps({"trained_on": {"train": cases, "validation": 15}}))
        assert taught_cases(HEADS["tumour_type"], tmp_path) == wanted
        assert taught_cases(HEADS["reconstruction_radial"], tmp_path) == cases + 15         # its U-Net is stopped by as many as the head was


def test_patients_of_oasis_are_judged_each_by_the_net_that_did_not_learn_from_it():
    """Demented is taught as the last class; patient i's probability is net i's."""
    head = HEADS["ad_volumes"]
    examples = [Example({}, {"patient": f"p{i}", "category": i % 2, "numbers": {"age_years": 70.0 + i % 2}}) for i in range(40)]
    assert [as_stage(head, e).facts["category"] for e in examples[:4]] == [0, 3, 0, 3] and examples[1].facts["category"] == 1
    nets = []
    for i in range(40):
        net = TASKS["volumes"].build(head)
        torch.nn.init.zeros_(net.straight.weight)
        torch.nn.init.zeros_(net.straight.bias)
        with torch.no_grad():
            net.straight.bias[3] = float(i % 2)
        nets.append(net)
    assert on_oasis(head, lambda i: nets[i], examples, "cpu")["head"]["auc"][0] == 1.0
    assert on_oasis(head, lambda i: nets[0], examples, "cpu")["head"]["auc"][0] == 0.5


def test_near_duplicates_are_never_parted():
    examples = [Example({}, {"patient": case.kept_whole}) for case in
                [ImageCase(f"picture{i}", {}, group=str(i // 4)) for i in range(64)] + [ImageCase("alone", {}, site="CS")]]
    assert examples[-1].facts["patient"] == "alone"
    for seed in range(5):
        split = train_head.split_real(examples, seed)
        sides = [{e.facts["patient"] for e in split[name]} for name in ("train", "validation")]
        assert not sides[0] & sides[1] and len(sides[1]) == 2 and sum(map(len, split.values())) == 65
