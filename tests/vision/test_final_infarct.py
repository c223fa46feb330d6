"""What two networks say of the same patients with and without treatment, and the shallow network beside them."""
import numpy as np
import pytest

from tests.vision.heads_material import tiny_case, tiny_examples
from vision.evaluate_head import treatment_effect
from vision.heads import HEADS
from vision.heads.examples import make_example
from vision.heads.floors import shallow_network
from vision.heads.tasks import TASKS
from vision.metrics import dice
from vision.train_head import load_head

PAIR = ("final_infarct_untreated", "final_infarct_treated")


@pytest.mark.parametrize("name", PAIR)
def test_the_shallow_network_learns_what_is_lost_from_the_points_around(name):
    head = HEADS[name]
    answer = dict(head.also)["shallow network"](head, tiny_examples(head, 5))
    example = tiny_examples(head, 1, 40)[0]
    found = answer(example)
    assert found.shape == example["targets"].shape and set(np.unique(found)) <= {0, 1}
    assert dice(found[0], np.asarray(example["targets"][0])) > 0.8


def test_the_shallow_network_answers_where_no_case_it_learnt_from_lost_anything():
    head, examples = HEADS[PAIR[1]], tiny_examples(HEADS[PAIR[1]], 3)
    examples[0].arrays["targets"] = np.zeros_like(examples[0]["targets"])
    assert shallow_network(head, examples)(examples[0]).shape == examples[0]["targets"].shape


def test_both_rows_tell_one_treatment_effect_of_the_same_patients():
    told = []
    for name in PAIR:
        head, net, examples = HEADS[name], load_head(HEADS[name], None, "cpu"), []
        for seed in range(4):
            case = tiny_case(head, seed)
            ball = np.maximum(*(case.masks.get(output, 0) for output in ("final_untreated", "final_treated")))
            case.masks |= {"final_untreated": ball, "final_treated": ball * (np.arange(ball.shape[-1]) < 16)}
            examples.append(make_example(head, case, str(seed)))
        told.append(treatment_effect(head, [TASKS["outline"].predict(head, net, e, "cpu") for e in examples], examples, "cpu"))
    assert told[0] == told[1]
    spared = [e.facts["volumes_ml"]["final_untreated"] - e.facts["volumes_ml"]["final_treated"] for e in examples]
    assert told[0]["simulated_ml"][0] == pytest.approx(np.mean(spared), abs=1e-3) and min(spared) >= 0
