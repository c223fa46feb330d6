"""Every row of the table: it learns, answers, is scored and has a floor; a patient is not changed by the one beside it."""
import numpy as np
import pytest
import torch
from torch.nn import functional

from data.model_files import MODELS, rows, to_int8
from data.simulate.recipes import RECIPES
from tests.vision.heads_material import tiny_case, tiny_examples
from vision.heads import CLASSED, HEADS, floors, tasks
from vision.heads.augment import look_whole, move_whole
from vision.heads.examples import Example, make_example
from vision.heads.infer import planes, through
from vision.heads.tasks import TASKS
from vision.heads.tissue_class import STAGED, VALUES, TissueClass, values_of
from vision.heads.two_stage import candidates, patches
from vision.heads.unet import UNet, UNetConfig

TAUGHT = [name for name, head in HEADS.items() if head.task != "program"]


@pytest.mark.parametrize("name", TAUGHT)
def test_a_row_names_channels_and_outputs_that_its_recipe_has(name):
    head, recipe = HEADS[name], RECIPES[HEADS[name].recipe]
    if head.task in ("image",):
        assert {*head.inputs, *head.outputs} <= set(recipe.channels)
    if head.task in ("outline", "detect"):
        assert set(head.inputs) <= set(recipe.channels) and (head.exclusive or set(head.outputs) <= set(recipe.masks))
    if head.task in CLASSED:
        assert head.outputs == recipe.categories
    assert head.start in ("", *head.inputs) and head.better in ("higher", "lower") and head.bar


@pytest.mark.parametrize("name", TAUGHT)
def test_a_row_learns_answers_and_is_scored_beside_its_floor(name):
    """One step gives gradients to all of the net; the head's figure is among the scores, the floor's answer is scored alike."""
    torch.manual_seed(0)
    head, task = HEADS[name], TASKS[HEADS[name].task]
    examples = tiny_examples(head, 6)
    net = task.build(head).train()
    batch = task.draw(head, examples, np.random.default_rng(0), 2)
    loss = task.loss(head, net, batch)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    scores = task.score(head, task.predict(head, net.eval(), examples[0], "cpu"), examples[0])
    assert np.isfinite(scores["validation"])
    floor = task.score(head, head.floor(head, examples)(examples[0]), examples[0])
    assert set(floor) >= {"validation"}
    if head.task not in (*CLASSED, "detect"):
        assert head.metric in scores and head.metric in floor


def test_a_plain_unet_learns_from_the_zero_filled_image_alone_and_stands_beside_the_unrolled_network(monkeypatch):
    """A case that it was not taught comes out better than it went in; the raw data is not looked at again."""
    monkeypatch.setattr(floors, "UNET_EPOCHS", 1)
    head, task = HEADS["reconstruction_radial"], TASKS["rebuild"]
    answer = dict(head.also)["U-Net"](head, tiny_examples(head, 10))
    case = tiny_examples(head, 1, seed=50)[0]
    made = answer(case)
    assert task.score(head, made, case)["nmse"] < task.score(head, floors.zero_filled(head, [])(case), case)["nmse"]
    np.testing.assert_array_equal(answer(Example(case.arrays | {"kernels": 0 * case["kernels"], "coils": 0 * case["coils"]})), made)


@pytest.mark.parametrize("name", ["flair_lesions", "t1_to_t2", "ad_stages", "reconstruction_cartesian"])
def test_the_same_step_draws_the_same_batch_and_another_step_another(name):
    head, task = HEADS[name], TASKS[HEADS[name].task]
    examples = tiny_examples(head, 4)
    first, again, other = (task.draw(head, examples, np.random.default_rng(key), 2) for key in ([0, 5], [0, 5], [0, 6]))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_slice_is_not_changed_by_its_neighbour_in_the_batch(dimensions):
    torch.manual_seed(0)
    net = UNet(UNetConfig(2, 3, width=4, stages=3, dimensions=dimensions)).eval()
    pair = torch.randn(2, 2, *[16] * dimensions)
    torch.testing.assert_close(net(pair)[0], net(pair[:1])[0])
    assert net(pair).shape == (2, 3, *[16] * dimensions)


def test_all_heads_as_they_are_stored_leave_the_shipped_weights_under_sixty_megabytes():
    heads = 0
    for name in TAUGHT:
        net = TASKS[HEADS[name].task].build(HEADS[name])
        stored = to_int8({k: rows(v.numpy()) for k, v in net.state_dict().items() if "num_batches" not in k})
        heads += sum(v.nbytes for v in stored.values())
    others = sum(p.stat().st_size for p in MODELS.rglob("*.safetensors") if "heads" not in p.parts)
    assert heads + others < 60e6


def test_a_candidate_lies_where_the_probability_is_and_its_cube_is_cut_around_it():
    probability = np.zeros((6, 20, 20), np.float32)
    probability[2, 4, 15], probability[4, 10, 3] = 0.9, 0.4
    found, labels = candidates(probability)
    assert [c.centre for c in found] == [(2, 4, 15), (4, 10, 3)] and labels.max() == 2
    cubes = patches(probability[None], probability, [c.centre for c in found])
    assert cubes.shape == (2, 2, 16, 16, 16) and cubes[0, 0, 8, 8, 8] == pytest.approx(0.9)


def test_a_small_crop_is_read_as_part_of_a_head_and_comes_back_at_its_own_size():
    """The mirrored surroundings, not zeros, are what a network sees beyond a small plane; a large one is left alone."""
    seen = []

    class Same(torch.nn.Module):
        def forward(self, image):
            seen.append(image)
            return image[:, 1:2]

    crop = np.full((1, 2, 10, 11), 3.0, np.float32)
    np.testing.assert_array_equal(planes(Same(), crop, 16), crop)
    assert seen[0].shape[-2:] == (48, 64) and (seen[0][..., :48, :49] == 3).all()
    large = np.random.default_rng(0).normal(size=(1, 2, 64, 80)).astype(np.float32)
    np.testing.assert_array_equal(planes(Same(), large, 16), large)
    assert seen[1].shape[-2:] == (64, 80)


def test_what_a_classifiers_last_layer_learns_from_is_bounded(monkeypatch):
    """Of single pictures a batch holds many: neither more than VIEWS of each nor more than VIEWED of all are answered, but for the last batch."""
    head = HEADS["tumour_type"]
    net = TASKS["category"].build(head)
    examples = tiny_examples(head, 6)
    for example in examples:
        example.arrays = {name: values[:, :1] for name, values in example.arrays.items()}
    monkeypatch.setattr(tasks, "SLICES", 2)
    pool = TASKS["category"].second.pool(head, net, examples, "cpu", 0)
    assert tasks.VIEWS * 6 <= len(pool["labels"]) < tasks.VIEWS * 6 + 8 and pool["answers"].shape[1] == len(head.outputs) + 3 * tasks.TISSUES
    monkeypatch.setattr(tasks, "VIEWED", 10)
    assert len(TASKS["category"].second.pool(head, net, examples, "cpu", 0)["labels"]) == 16


def test_every_slice_of_a_thin_volume_is_seen():
    """24 slices are read in two sets of 16; before, the sets left a third unseen."""
    head, seen = HEADS["ct_classes"], []
    net = TASKS["category"].build(head).eval()
    example = make_example(head, tiny_case(head, 0, slices=24), "a")
    example.arrays["inputs"] = np.broadcast_to(np.arange(24, dtype=np.float32)[None, :, None, None], example["inputs"].shape).copy()
    net.register_forward_pre_hook(lambda module, given: seen.extend(given[0][0, :, 0, 0, 0].tolist()))
    TASKS["category"].predict(head, net, example, "cpu")
    assert set(seen) == set(range(24))


def blocks(shape=(48, 56, 52), at=(20, 20, 20), size=(6, 12, 10), inner=2):
    """Probabilities of six tissues: a brain of white matter, its front third grey, a hippocampus in the back with tissue `inner` around it."""
    tissue = np.zeros((6, *shape), np.float32)
    box = tuple(slice(a, a + n) for a, n in zip(at, size, strict=True))
    tissue[1][box] = 1
    for kind, held in ((0, slice(at[1], at[1] + size[1] // 3)), (inner, slice(at[1] + 6, at[1] + 12)), (5, slice(at[1] + 8, at[1] + 10))):
        here = (box[0], held, box[2])
        tissue[(slice(None), *here)] = 0
        tissue[kind][here] = 1
    return tissue


def test_what_is_read_of_tissues_is_the_same_wherever_the_head_lies_and_says_what_lies_around_what():
    def read(tissue):
        return values_of(torch.from_numpy(np.ascontiguousarray(tissue)), (2.0, 2.0, 2.0)).numpy()

    found = read(blocks())
    assert found.shape == (VALUES,) and np.exp(found[:6]) == pytest.approx([1 / 3, 1 / 6, 1 / 3, 0, 0, 1 / 6], abs=1e-4)
    assert np.exp(found[6:12])[[0, 1, 5]] == pytest.approx([0.5, 0.25, 0.25], abs=1e-4)                 # of the brain: without the fluid
    np.testing.assert_allclose(read(blocks((60, 64, 70), (30, 20, 24))), found, atol=0.01)
    np.testing.assert_allclose(read(blocks()[..., ::-1]), found, atol=1e-4)         # left and right count alike
    other = read(blocks(inner=3))                                                                      # ventricle instead of CSF around it
    near = found[12:48].reshape(6, 6), other[12:48].reshape(6, 6)
    assert near[0][5, 2] > near[0][5, 3] + 2 and near[1][5, 3] > near[1][5, 2] + 2
    assert np.isfinite(read(np.zeros((6, 4, 8, 8), np.float32))).all()
    alone = np.zeros((6, 30, 34, 38), np.float32)
    alone[1] = 1
    np.testing.assert_allclose(np.exp(read(alone)[12:].reshape(3, 6, 6)[:, 1, 1]), 1.001, atol=1e-3)     # nothing else around it, at the rim either


def test_classes_that_differ_in_one_value_alone_are_told_apart_and_what_never_differs_is_left_out():
    rng = np.random.default_rng(0)
    net = TissueClass(UNetConfig(3, 7, width=4, widest=8), 2)
    labels = torch.from_numpy(rng.integers(2, size=400))
    values = torch.from_numpy(rng.normal(-1, 0.004, (400, VALUES)).astype(np.float32))
    values[:, 40:60] += torch.from_numpy(rng.normal(0, 0.05, (400, 20)).astype(np.float32))
    values[:, 50] += 0.2 * labels
    net.fit(values[:300], labels[:300])
    assert (net(values[300:]).argmax(1) == labels[300:]).float().mean() > 0.85
    weight = net.answer.weight.abs().amax(0)
    assert int(weight.argmax()) == 50 and int((weight > 0).sum()) == 20 and net(values).isfinite().all()


def test_stages_share_one_direction_in_few_values_and_are_as_sure_as_they_are_right():
    """What looks of a few heads the other values show is not learnt; an ordinary regression learns it and is far too sure."""
    rng = np.random.default_rng(0)
    labels, heads = rng.integers(4, size=700), rng.integers(16, size=700)
    looks = rng.normal(0, 1, (17, VALUES))[np.where(np.arange(700) < 300, heads, 16)]
    values = torch.from_numpy((looks + rng.normal(0, 0.3, (700, VALUES))).astype(np.float32))
    values[:, STAGED] = torch.from_numpy(rng.normal(0, 1, (700, len(STAGED))).astype(np.float32))
    values[:, STAGED[5]] += torch.from_numpy(labels).float()
    net, truth = TissueClass(UNetConfig(3, 7, width=4, widest=8), 4), torch.from_numpy(labels)
    lost = []
    for ordered in (True, False):
        net.fit(values[:300], truth[:300], ordered)
        lost.append(functional.cross_entropy(net(values[300:]), truth[300:]).item())
        if ordered:
            weight, sure = net.answer.weight.detach().clone(), torch.softmax(net(values[300:]), 1).amax(1).mean()
            right = (net(values[300:]).argmax(1) == truth[300:]).float().mean()
    assert set(weight.abs().amax(0).nonzero().flatten().tolist()) == set(STAGED) and len(STAGED) == 10
    torch.testing.assert_close(weight, torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0])[:, None] * weight[3])
    assert int(weight[3].argmax()) == STAGED[5] and lost[0] < lost[1] - 0.1 and abs((sure - right).item()) < 0.08


def test_a_volume_that_is_moved_whole_takes_its_codes_along():
    codes = torch.zeros(4, 1, 24, 32, 40)
    codes[:, :, 6:18, 8:20, 10:16], codes[:, :, 6:18, 8:20, 24:34] = 1, 2
    image, moved = move_whole(codes.clone(), codes, np.random.default_rng(3))
    inside = functional.avg_pool3d((moved == 2).float(), 3, 1, 1) == 1              # away from the edges
    assert inside.sum() > 400 and float((image[inside] - 2).abs().max()) < 0.01
    left = [(moved[b, 0] == 1).nonzero()[:, 2].float().mean() < (moved[b, 0] == 2).nonzero()[:, 2].float().mean() for b in range(4)]
    assert len(set(map(bool, left))) == 2                                           # some are mirrored
    assert not torch.equal(moved[0], moved[1])


def test_another_scanner_gives_each_tissue_a_brightness_of_its_own_and_what_is_no_tissue_none():
    codes = torch.arange(4).float()[None, None, :, None, None].repeat_interleave(8, 2).expand(1, 1, 32, 16, 16).contiguous()
    at = [4, 12, 20, 28]                                        # the middle of each layer
    ratios = []
    for spread in (0.0, 2.0):
        seen = torch.cat([look_whole(torch.ones_like(codes), codes, 4, np.random.default_rng(k), spread) for k in range(24)])[:, 0, at].mean((2, 3))
        ratios.append((seen[:, 1:] / seen[:, :1]).log().std(0))
    assert (ratios[1] > 2 * ratios[0]).all()
    tinted = look_whole(torch.ones_like(codes), codes, 4, np.random.default_rng(1), 2.0)[0, 0, at[0]]
    plain = look_whole(torch.ones_like(codes), codes, 4, np.random.default_rng(1), 0.0)[0, 0, at[0]]
    torch.testing.assert_close(tinted, plain)


def test_a_volume_that_is_read_whole_comes_back_in_its_own_size_and_the_mean_of_both_mirror_images():
    class Ramp(torch.nn.Module):
        config = UNetConfig(1, 1, stages=3, dimensions=3)

        def forward(self, image):
            assert all(n % 8 == 0 for n in image.shape[2:])
            return image + torch.arange(image.shape[-1])

    volume = np.random.default_rng(0).normal(size=(1, 9, 17, 24)).astype(np.float32)
    plain, both = (through(Ramp(), volume, 8, flips=flips) for flips in (False, True))
    np.testing.assert_allclose(plain, volume + np.arange(24), atol=1e-5)
    np.testing.assert_allclose(both, volume + 11.5, atol=1e-5)
