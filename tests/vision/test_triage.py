"""The queue: who waits, and what flags are worth."""
import json

import numpy as np

from data.model_files import MODELS
from vision.triage import Day, main, measured_auc, simulate_day, waits


def test_an_urgent_study_is_read_next_but_no_reading_is_broken_off():
    day = Day(np.array([0.0, 1.0, 2.0]), np.array([10.0, 10.0, 10.0]), np.array([False, False, True]), np.zeros(3, bool))
    assert waits(day, np.zeros(3, bool)).tolist() == [10, 19, 28]
    assert waits(day, day.critical).tolist() == [10, 29, 18]


def test_flags_shift_waiting_and_do_not_make_it_less():
    day = simulate_day(np.random.default_rng(0), 0.9)
    plain, flagged = waits(day, np.zeros(len(day.critical), bool)), waits(day, day.flagged)
    assert (flagged > 0).all() and abs(flagged.sum() / plain.sum() - 1) < 0.35


def test_better_flags_save_more_and_flags_at_chance_save_nothing_to_speak_of():
    saved = {auc: main(size=60, auc=auc)["simulated"]["head"]["minutes_saved"][0] for auc in (0.5, 0.8, 0.99)}
    perfect = main(size=60, auc=0.99)["simulated"]["floors"]["perfect flags"]["minutes_saved"][0]
    assert saved[0.5] < 0.25 * perfect < saved[0.8] < saved[0.99] <= perfect


def test_the_shipped_figures_are_of_the_shipped_head_ct_model():
    """A new model's card asks for `wetread evaluate triage` again; it takes seconds."""
    assert json.loads((MODELS / "heads/triage/figures.json").read_text())["simulated"]["assumed"]["auc"] == measured_auc()
