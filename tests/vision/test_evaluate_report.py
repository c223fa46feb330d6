"""The harness: it cannot be fooled by one sentence for everybody, and it says what was not reached."""
import json
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from data.errors import InputError
from data.findings import FINDINGS
from data.records import Draft, Finding, Sentence
from data.simulator import LEFT, RIGHT, SYNTHSEG, read_anatomy
from nlp.evaluate_protocol import BARS as PROTOCOL_BARS
from nlp.sentences import group_findings
from vision.evaluate_report import CODES, drafts_of_pictures, main
from vision.evaluate_wording import CARRIED, random_graph, unsupported_names, wording
from vision.report_card import BARS, PARTS, all_bars, card
from vision.report_scores import CONSTANT, alert_table, haemorrhage_table, score, shuffled, sureness, unsupported
from vision.reporter import Reporter

SUBDURAL, SHIFT = "subdural_haemorrhage", "midline_shift"


def finding(code, present=True, p=0.9, **facts):
    return Finding(f"f-{code}", code, code.replace("_", " "), present, p, **facts)


TRUTHS = [(finding(SUBDURAL, side="left", volume_ml=20.0), finding(SHIFT, side="right", size_mm=8.0)), (finding(SUBDURAL, False),)]


def test_a_constant_report_states_nothing_and_a_true_one_everything():
    constant = score([CONSTANT] * 2, TRUTHS, CODES)
    assert (constant["recall"], constant["F1"], constant["precision"]) == (0.0, 0.0, None)
    true = score(["Left subdural haematoma, 21.5 mL. Midline shift of 8.5 mm to the right.", "No haemorrhage."], TRUTHS, CODES)
    assert (true["F1"], true["side right"], true["size right"]) == (1.0, 1.0, 1.0)
    assert true["median error, share of volume"] == pytest.approx(0.07, abs=0.006) and true["median error mm"] == 0.5


def test_a_swapped_side_and_a_size_times_ten_cost_what_they_should():
    found = score(["Right subdural haematoma, 200 mL.", "Possible subdural haematoma."], TRUTHS, CODES)
    assert (found["precision"], found["recall"]) == (0.5, 0.5)
    assert found["side right"] == 0.0 and found["size right"] == 0.0
    assert found["by side"]["left"]["recall"] == 0.0 and found["by side"]["right"]["precision"] == 0.0


def test_shuffling_leaves_no_text_at_its_own_study():
    texts = [str(i) for i in range(9)]
    moved = shuffled(texts, 3)
    assert sorted(moved) == texts and all(a != b for a, b in zip(moved, texts, strict=True))


def test_haemorrhage_is_counted_as_stated_possible_excluded_or_left_open():
    table = haemorrhage_table(["Subdural haematoma.", "Possible haemorrhage."], TRUTHS)
    assert table["with"]["stated"] == 1 and table["without"]["possible"] == 1
    table = haemorrhage_table(["Read the images.", CONSTANT], TRUTHS)
    assert table["with"]["nothing said"] == 1 and table["without"]["excluded"] == 1


@pytest.mark.parametrize("check", [unsupported, unsupported_names])
def test_a_positive_statement_without_its_finding_is_found_by_both_checks(check):
    assert check("Left subdural haematoma. Skull fracture.", [SUBDURAL]) == ["skull_fracture"]
    assert check("Intracranial haemorrhage.", [SUBDURAL]) == []         # a kind of it is there
    assert check("No skull fracture or midline shift.", []) == []
    assert check("Midline shift of 3 mm.", [SUBDURAL]) == [SHIFT]


def drafts_of(*findings):
    return [Draft("s", "draft", None, tuple(row), {}, (), {}) for row in findings]


def test_overconfidence_and_the_risk_among_the_surest_are_seen():
    rows = [finding(SUBDURAL, p=0.95)] * 10
    truths = [(finding(SUBDURAL, i < 5),) for i in range(10)]
    found = sureness(drafts_of(*[[row] for row in rows]), truths)
    assert found["ECE"] == pytest.approx(0.45) and found["bands"]["state"] == {"answers": 10, "right": 0.5}
    assert found["risk at coverage"]["100%"] == 0.5
    sure = drafts_of(*[[finding(SUBDURAL, p=0.99 if i < 5 else 0.6)] for i in range(10)])
    assert sureness(sure, truths)["risk at coverage"]["40%"] == 0.0


def test_alerts_are_weighed_by_threshold():
    drafts = drafts_of([finding(SUBDURAL, False, 0.2)], [finding(SUBDURAL, False, 0.12)])
    table = alert_table(drafts, TRUTHS, {SUBDURAL: 1, SHIFT: 1})
    assert (table["0.15"]["recall"], table["0.15"]["false alarms"]) == (1.0, 0.0)
    assert (table["0.1"]["false alarms"], table["0.3"]["recall"]) == (1.0, 0.0)


class Liar:
    """A text half that adds a fracture to everything."""

    def word(self, groups, tokens):
        texts = [f"{group[0].label} is seen." if group[0].present else "Nothing else." for group in groups]
        return [Sentence(f"{text} There is a skull fracture.", "findings", (group[0].id,), 0.9, "model")
                for text, group in zip(texts, groups, strict=True)], 0


def test_a_text_half_that_adds_a_finding_is_caught_and_the_shipped_one_adds_none():
    wrong = wording(Liar(), 10, 1)["unsupported positives per 10,000 sentences"]
    assert wrong["re-reader"] > 500 and wrong["search for names"] > 500
    found = wording(Reporter.load(), 25, 1)
    assert set(found["unsupported positives per 10,000 sentences"].values()) == {0.0}
    assert found["distinct texts over distinct graphs"] >= 0.95 and found["sentences"] > 50


def test_random_graphs_have_no_code_twice_and_differ():
    chance = Random(0)
    graphs = [random_graph(chance) for _ in range(30)]
    assert all(len({f.code for f in graph}) == len(graph) == len({f.id for f in graph}) for graph in graphs)
    assert len({repr(graph) for graph in graphs}) == 30 and any(len(group_findings(graph)) > 2 for graph in graphs)


def test_random_graphs_carry_all_that_a_graph_can_hold_and_only_what_the_table_allows():
    chance = Random(1)
    found = [f for _ in range(300) for f in random_graph(chance) if f.present]
    assert all(any(getattr(f, name) for f in found) for name in CARRIED)
    for f in found:
        row = FINDINGS[f.code]
        assert (f.side or "left") in (row.side or ("left",)) and (not f.grade or f.grade in row.grade) and (not f.acuity or f.acuity in row.acuity)
        assert (f.count is None or row.count) and (f.size_mm is None or row.size) and (f.volume_ml is None or row.volume)


def test_possible_and_refused_pictures_are_abstentions_and_no_mistakes():
    rows = drafts_of_pictures({"head_ct, with haemorrhage": {"stated": 13}, "phe_sich patients as stacks, whole": {"stated": 4},
                               "head_ct, without haemorrhage": {"excluded": 11, "possible": 1, "stated": 1}})
    assert set(rows) == {"head_ct"} and rows["head_ct"]["pictures"] == 26
    assert rows["head_ct"]["right of those decided"] == pytest.approx(24 / 25) and rows["head_ct"]["abstained"] == pytest.approx(1 / 26, abs=1e-4)


def label_map(path):
    """The embedded head as a SynthSeg label map, its halves told apart."""
    tissue = read_anatomy().tissue
    labels = np.zeros(tissue.shape, np.int16)
    for label, kind in SYNTHSEG.items():
        if label not in RIGHT:
            labels[(tissue == kind) & (labels == 0)] = label
    right = labels[len(labels) // 2:]
    for left_label, right_label in zip(LEFT, RIGHT, strict=True):
        right[right == left_label] = right_label
    path.parent.mkdir()
    np.savez_compressed(path, lab=labels)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    label_map(folder / "synthseg_labelmaps" / "another_head.npz")
    return main(data=folder, out=folder / "out", studies=2, graphs=4), folder / "out"


def test_the_command_writes_bars_rows_tables_and_plots(measured):
    figures, out = measured
    page = (out / "card.md").read_text()
    assert json.loads((out / "figures.json").read_text())["bars"] == figures["bars"]
    for words in ("| constant report |", "| shuffled images |", "| true labels |", "negation removed", "BLEU-4", "alert threshold", "reached",
                  "--size 2", "| left |", "**Unseen heads**", "the heads another_head,"):
        assert words in page
    for part in (figures, figures["unseen heads"]):
        assert part["constant report"]["F1"] in (0.0, None) and part["true labels"]["F1"] == 1.0
        assert part["unsupported positives"] == 0
    assert figures["heads"] == ["embedded"] and figures["unseen heads"]["heads"] == ["another_head"]
    for name in ("drafts.png", "sureness.png"):
        assert Image.open(out / name).size[0] > 300
    assert {row["figure"] for row in figures["bars"]} >= {row[0] for row in BARS}


def test_each_bar_says_on_which_side_of_it_is_good_and_every_column_has_a_heading(measured):
    figures, out = measured
    lines = (out / "card.md").read_text().splitlines()
    assert "| figure | measured | bar | reached? |" in lines
    for name, _, bar, up in BARS:
        [line] = [line for line in lines if line.startswith(f"| {name} |")]
        assert f"| {'>=' if up else '<='} {bar} |" in line
    [errors] = [line for line in lines if line.startswith("| drafts, harmless paraphrase")]
    assert "| <= 0.05 |" in errors and all(row["direction"] in (">=", "<=") for row in figures["bars"])


def test_the_page_on_models_has_the_bars_of_the_programs_that_print_them():
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    for name, _, bar, up in (*BARS, *PROTOCOL_BARS):
        assert re.search(rf"\| {re.escape(name)} \| [^|]* \| {'>=' if up else '<='} {bar} \|", page), name


def test_a_figure_below_its_bar_is_said_not_to_be_reached_and_one_not_taken_not_to_be_measured(measured):
    figures, _ = measured
    low = {**figures["drafts"], "F1": 0.2}
    unseen = {**figures["unseen heads"], "drafts": low}
    rows = {row["figure"]: row for row in all_bars({**figures, "drafts": low, "unseen heads": unseen, "speed": {}})}
    assert [rows[f"{part}: positive-finding F1"]["reached"] for part in PARTS] == [False, False]
    assert rows["memory of the image path, MB"]["reached"] is None
    alone = {name: value for name, value in figures.items() if name != "unseen heads"}
    assert next(row for row in all_bars(alone) if row["figure"] == "unseen heads: positive-finding F1")["reached"] is None
    assert "of heads that training does not know nothing was measured" in card(alone)


def test_the_page_has_time_and_memory_of_each_side_of_the_decoder(measured):
    figures, _ = measured
    decoder = {"int8 CPU s": 0.04, "memory": {"int8": {"peak MB": 307, "above the libraries, MB": 32.8}}}
    assert "| int8 | 0.04 | 307 | 32.8 |" in card({**figures, "speed": {**figures["speed"], "decoder": decoder}})


def test_studies_of_others_are_read_drafted_or_named_as_refused(tmp_path):
    (tmp_path / "images").mkdir()
    rows = []
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "images" / f"{i}.png")
        rows.append({"id": f"{i}", "patient": f"p{i}", "images": f"images/{i}.png", "text": f"FINDINGS: Left subdural haematoma, {i + 3}.5 cm.",
                     "split": "test"})
    rows.append({**rows[0], "id": "leak", "patient": "q", "split": "train"})
    (tmp_path / "reports.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = main(data=tmp_path, out=tmp_path / "out", studies=10)
    assert (figures["studies"], figures["source"], figures["split"]) == (3, "jsonl", "test")
    assert figures["left out so that nothing leaks"]["text of another split"] == 1
    assert figures["true labels"]["recall"] == 1.0
    assert sum(figures["outcomes"].values()) == 3 and all(name.startswith("refused") for name in figures["outcomes"])
    assert "left out so that nothing leaks: text of another split 1" in (tmp_path / "out" / "card.md").read_text()


def test_a_folder_without_anything_to_measure_on_is_named(tmp_path):
    (tmp_path / "reports.jsonl").write_text(json.dumps({"id": 1, "patient": 1, "images": "x.png", "text": "No bleed.", "split": "train"}))
    with pytest.raises(InputError, match="neither a test nor a val"):
        main(data=tmp_path)
    with pytest.raises(InputError, match="--graphs is 0"):
        main(graphs=0)
