"""The re-reader: what a text says, in our own sentences and in other people's."""
import itertools
import tomllib
from pathlib import Path

import pytest

from data.records import Finding
from nlp.assertions import read_all, read_report, says
from nlp.report_pipe import codes, pipe
from nlp.sentences import NOUNS, paraphrase, render, render_absent

FINDINGS = tomllib.loads((Path(__file__).parent.parent.parent / "data" / "findings.toml").read_text())


def finding(code, present=True, **facts):
    return Finding(id="f1", code=code, label=FINDINGS[code]["label"], present=present, probability=0.9, **facts)


def one(text, code=None):
    found = [a for a in read_report(text) if code in (None, a.code)]
    assert len(found) == 1, found
    return found[0]


def test_every_finding_is_known_to_the_reader_and_to_the_writer():
    assert set(FINDINGS) <= set(codes()) and set(FINDINGS) == set(NOUNS)


@pytest.mark.parametrize("code", FINDINGS)
def test_what_is_rendered_is_read_back_as_the_same_finding(code):
    for side, band, present in itertools.product((None, "left", "right", "bilateral"), ("state", "hedge"), (True, False)):
        size = {"size_mm": 7.4} if FINDINGS[code].get("size") else {"volume_ml": 12.0} if FINDINGS[code].get("volume") else {}
        if code == "midline_shift" and side == "bilateral":
            continue
        single = finding(code, present, side=side, band=band, **size)
        assert says(render(single), [single]), render(single)


@pytest.mark.parametrize("code", FINDINGS)
def test_every_wording_the_decoder_learns_is_read_back(code):
    from random import Random

    from nlp.sentences import fill

    chance = Random(code)
    for band in ("state", "hedge"):
        single = finding(code, side="left", band=band, **({"size_mm": 3.5} if code == "midline_shift" else {"volume_ml": 3.5}))
        for _ in range(12):
            text = fill(paraphrase([single], chance), single)
            assert says(text, [single]), text


def test_a_count_is_stated_and_read_back():
    for count in (1, 3):
        single = finding("microbleeds", count=count)
        assert says(render(single), [single]), render(single)
    assert render(finding("microbleeds", count=1)) == "1 cerebral microbleed."
    assert not says("4 cerebral microbleeds.", [finding("microbleeds", count=3)])


@pytest.mark.parametrize("changed", ["Right subdural haematoma, 12 mL.", "Left subdural haematoma, 21 mL.", "No subdural haematoma.",
                                     "Possible left subdural haematoma, 12 mL.", "Left epidural haematoma, 12 mL.", "Left subdural haematoma.",
                                     "Left subdural haematoma, 12 mL. Mass effect.", "The study is normal."])
def test_a_sentence_that_says_something_else_is_noticed(changed):
    assert not says(changed, [finding("subdural_haemorrhage", side="left", volume_ml=12.0)])


@pytest.mark.parametrize(("code", "side", "region", "words"), [
    ("intraparenchymal_haemorrhage", "left", "frontal", "Left intraparenchymal haemorrhage in the frontal lobe, 12 mL."),
    ("intraparenchymal_haemorrhage", "bilateral", "frontal", "Bilateral intraparenchymal haemorrhage in the frontal lobes, 12 mL."),
    ("intraparenchymal_haemorrhage", "left", "frontal, basal ganglia",
     "Left intraparenchymal haemorrhage in the frontal lobe and basal ganglia, 12 mL."),
    ("intraparenchymal_haemorrhage", None, "thalamus, brainstem", "Intraparenchymal haemorrhage in the thalamus and brainstem, 12 mL."),
    ("subdural_haemorrhage", "right", "frontal, parietal", "Right subdural haematoma in the frontal and parietal regions, 12 mL."),
    ("subdural_haemorrhage", "right", "posterior fossa", "Right subdural haematoma in the posterior fossa, 12 mL.")])
def test_regions_are_put_into_words_and_read_back(code, side, region, words):
    single = finding(code, side=side, region=region, volume_ml=12.0)
    assert render(single) == words and says(words, [single])
    assert one(words).region == ", ".join(sorted(region.split(", ")))


@pytest.mark.parametrize("changed", ["Left subdural haematoma in the parietal region.", "Left subdural haematoma.",
                                     "Left subdural haematoma in the frontal and parietal regions."])
def test_a_sentence_that_names_another_region_is_noticed(changed):
    assert says("Left subdural haematoma in the frontal region.", [finding("subdural_haemorrhage", side="left", region="frontal")])
    assert not says(changed, [finding("subdural_haemorrhage", side="left", region="frontal")])


def test_a_region_that_the_graph_does_not_have_is_noticed_but_not_that_of_a_name():
    assert not says("Left subdural haematoma in the frontal region.", [finding("subdural_haemorrhage", side="left")])
    assert says("Medial temporal lobe atrophy.", [finding("hippocampal_atrophy")])


def test_a_denial_reaches_the_whole_list_but_not_the_next_sentence_or_a_but():
    read = read_report("No haemorrhage, mass effect or midline shift. There is a skull fracture. No SDH, but a small right EDH, 3 cc.")
    assert [(a.code, a.polarity, a.side, a.volume_ml) for a in read] == [
        ("intracranial_haemorrhage", "absent", None, None), ("mass_effect", "absent", None, None), ("midline_shift", "absent", None, None),
        ("skull_fracture", "present", None, None), ("subdural_haemorrhage", "absent", None, None), ("epidural_haemorrhage", "present", "right", 3.0)]


def test_american_spelling_centimetres_and_doubt_are_read():
    shift = one("Midline shift of 1.2 cm to the left.")
    assert (shift.code, shift.size_mm, shift.side) == ("midline_shift", 12.0, "left")
    assert one("Subarachnoid hemorrhage cannot be excluded.").polarity == "possible"


def test_offsets_point_at_the_words():
    text = "Comparison: none.\nLeft subdural hematoma, 4.5 mL."
    found = one(text)
    assert text[found.start:found.end] == "subdural hematoma" and found.volume_ml == 4.5 and found.context == "now"
    assert text[slice(*found.size_at)] == "4.5 mL" and text[slice(*found.side_at)] == "Left"


def test_several_absences_are_one_sentence_and_read_back():
    absent = [finding(code, False) for code in ("intracranial_haemorrhage", "midline_shift", "mass_effect")]
    assert render_absent(absent) == "No intracranial haemorrhage, midline shift or mass effect."
    assert says(render_absent(absent), absent)
    listed = "No small-vessel white matter changes, glioma and FLAIR hyperintensity."
    assert {a.polarity for a in read_report(listed)} == {"absent"} and len(read_report(listed)) == 3
    assert {a.polarity for a in read_report("No metastases, small-vessel white matter disease and hydrocephalus.")} == {"absent"}
    everything = [finding(code, False) for code in FINDINGS]
    assert says(render_absent(everything), everything)


POLARITIES = [
    ("The subdural haematoma is no longer seen.", "subdural_haemorrhage", "absent"),
    ("Prior haemorrhage has resolved.", "intracranial_haemorrhage", "absent"),
    ("Findings in keeping with chronic change rather than acute infarct.", "acute_infarct", "absent"),
    ("Acute infarct cannot be entirely excluded.", "acute_infarct", "possible"),
    ("Haemorrhage is not excluded.", "intracranial_haemorrhage", "possible"),
    ("Haemorrhage is excluded.", "intracranial_haemorrhage", "absent"),
    ("Neither hydrocephalus nor herniation.", "hydrocephalus", "absent"),
    ("Neither hydrocephalus nor herniation.", "herniation", "absent"),
    ("Nonhaemorrhagic infarct in the left thalamus.", "acute_infarct", "present"),
    ("The ventricles are normal without hydrocephalus.", "hydrocephalus", "absent"),
    ("No significant change in the left subdural haematoma.", "subdural_haemorrhage", "present"),
    ("Not only a meningioma but also a second mass.", "meningioma", "present"),
    ("No abnormality other than a small left meningioma.", "meningioma", "present"),
    ("No haemorrhage. Mild atrophy.", "atrophy", "present"),
    ("No haemorrhage, mild atrophy.", "atrophy", "present"),
    ("No haemorrhage and there is mild atrophy.", "atrophy", "present"),
    ("Metastasis is unlikely.", "metastasis", "absent"),
    ("Enhancing lesion suspicious for metastasis.", "metastasis", "possible"),
    ("Haemorrhage, mass effect or midline shift are not seen.", "mass_effect", "absent"),
    ("A haemorrhage is seen, mass effect is not identified.", "intracranial_haemorrhage", "present"),
    ("A haemorrhage is seen, mass effect is not identified.", "mass_effect", "absent"),
    ("The lesion does not enhance.", "enhancement", "absent"),
    ("Non-enhancing lesion.", "enhancement", "absent"),
    ("No restricted diffusion to suggest acute infarct.", "acute_infarct", "absent"),
    ("Small focus of haemorrhage without mass effect.", "intracranial_haemorrhage", "present"),
    ("Small focus of haemorrhage without mass effect.", "mass_effect", "absent"),
    ("NO ACUTE INFARCT.", "acute_infarct", "absent"),
    ("No acute\r\nintracranial\r\nhemorrhage is seen.", "intracranial_haemorrhage", "absent"),
]


@pytest.mark.parametrize(("text", "code", "polarity"), POLARITIES)
def test_polarity_of_free_text(text, code, polarity):
    assert one(text, code).polarity == polarity


SIDES = [
    ("Infarct in the left frontal lobe with rightward midline shift.", {"acute_infarct": "left", "midline_shift": "right"}),
    ("There is a 9 mm left-to-right midline shift.", {"midline_shift": "right"}),
    ("Midline shift from right to left.", {"midline_shift": "left"}),
    ("Haemorrhage in the left frontal and right parietal lobes.", {"intracranial_haemorrhage": "bilateral"}),
    ("Effacement of the left lateral ventricle and a right frontal meningioma.", {"effacement": "left", "meningioma": "right"}),
    ("Mass effect and left subdural haematoma.", {"mass_effect": None, "subdural_haemorrhage": "left"}),
    ("Left hyperdense subdural haematoma.", {"subdural_haemorrhage": "left"}),
    ("Hypodensity in L parietal lobe.", {"dark_signal": "left"}),
    ("Rt temporal-occipital epidural hematoma.", {"epidural_haemorrhage": "right"}),
    ("The patient is right-handed. Glioma.", {"glioma": None}),
    ("BRAIN: Within the left parietal lobe, there is a solitary glioma.", {"glioma": "left"}),
    ("No mass in the left temporal lobe, there is a right glioma.", {"mass": "left", "glioma": "right"}),
    ("Atrophy of the left hippocampus.", {"hippocampal_atrophy": "left"}),
]


@pytest.mark.parametrize(("text", "expected"), SIDES)
def test_a_side_goes_to_its_own_finding(text, expected):
    read = {a.code: a.side for a in read_report(text)}
    assert {code: read[code] for code in expected} == expected


def test_left_greater_than_right_is_both_with_more_on_the_left():
    found = one("Hippocampal atrophy, left greater than right.")
    assert (found.side, found.more) == ("bilateral", "left")
    assert one("Subdural haematomas, R>L.").more == "right"


SIZES = [
    ("Left meningioma measuring 3.5 cm.", 35.0), ("A 3.5cm meningioma.", 35.0), ("Meningioma, .5 cm.", 5.0), ("Meningioma, 2,5 cm.", 25.0),
    ("Meningioma of 1.3 x 1.2 cm.", 13.0), ("Meningioma of 2.3 cm x 14 mm.", 23.0), ("Meningioma measuring 4.3 × 4.3 × 6.6 cm (AP x TV x CC).", 66.0),
    ("Meningioma. It measures 12.0 mm.", 12.0), ("A 4-mm meningioma.", 4.0), ("Meningioma, 0.9 cm (previously seen).", 9.0),
    ("Meningioma, now 9 mm (previously 14 mm).", 9.0), ("Meningioma has decreased from 14 mm to 9 mm.", 9.0), ("Meningioma of 3-5 mm.", 5.0),
]


@pytest.mark.parametrize(("text", "millimetres"), SIZES)
def test_a_decimal_point_is_never_lost(text, millimetres):
    assert one(text, "meningioma").size_mm == pytest.approx(millimetres)


def test_volumes_are_read_with_their_thousands():
    assert one("Glioma of 1,200 mL.", "glioma").volume_ml == 1200.0
    assert one("Glioma of 12.5 cm3.", "glioma").volume_ml == 12.5


def test_a_number_goes_to_the_finding_it_measures():
    read = {a.code: a.size_mm for a in read_report("4 mm midline shift and a meningioma measuring 3 cm with surrounding oedema.")}
    assert read == {"midline_shift": 4.0, "meningioma": 30.0, "oedema": None}


COMPARISONS = [
    ("The subdural haematoma has increased in size.", "larger"), ("Unchanged left subdural haematoma.", "unchanged"),
    ("Subdural haematoma, smaller than on the prior study.", "smaller"), ("New subdural haematoma.", "new"),
    ("No significant interval change in the subdural haematoma.", "unchanged"), ("Resolution of the subdural haematoma.", "resolved"),
    ("Left subdural haematoma.", ""),
]


@pytest.mark.parametrize(("text", "comparison"), COMPARISONS)
def test_comparison_with_a_prior_is_read(text, comparison):
    assert one(text, "subdural_haemorrhage").comparison == comparison


def test_an_indication_is_asked_and_a_history_past_and_neither_is_of_these_images():
    text = "INDICATION: rule out subdural haematoma, old stroke\r\n\r\nFINDINGS:\r\nHistory of meningioma. No haemorrhage.\r\nIMPRESSION: Normal."
    assert [(a.code, a.context) for a in read_report(text)] == [
        ("subdural_haemorrhage", "asked"), ("chronic_infarct", "asked"), ("meningioma", "past"), ("intracranial_haemorrhage", "now"),
        ("normal", "now")]
    assert one("MRI is recommended to exclude metastasis.").context == "asked"


def test_empty_headings_say_nothing_and_short_answers_do():
    text = ("MASS EFFECT:\nMIDLINE SHIFT: None\nHYDROCEPHALUS: mild\nHEMORRHAGE: No intracranial hemorrhage.\n"
            "FRACTURE: not seen\nMASS EFFECT & VENTRICLES: There is a left glioma.")
    assert [(a.code, a.polarity) for a in read_report(text)] == [
        ("midline_shift", "absent"), ("hydrocephalus", "present"), ("intracranial_haemorrhage", "absent"), ("skull_fracture", "absent"),
        ("glioma", "present")]


def test_a_line_broken_by_a_printer_does_not_end_a_sentence_and_a_list_does():
    text = "There is no evidence of acute intracranial hemorrhage, mass effect,\nmidline shift or hydrocephalus.\n- Left meningioma\n- Mild atrophy"
    assert [a.polarity for a in read_report(text)] == ["absent"] * 4 + ["present"] * 2
    assert [text[a:b].strip() for a, b in read_all(text).sentences][1:] == ["- Left meningioma", "- Mild atrophy"]


def test_severity_acuity_count_and_region_are_read():
    found = one("Three large chronic infarcts in the left cerebellum.")
    assert (found.code, found.severity, found.acuity, found.count, found.region) == ("chronic_infarct", "severe", "chronic", 3, "cerebellum")
    assert one("Hydrocephalus is moderate.").severity == "moderate"


def test_the_pipeline_marks_the_findings_on_spacys_own_document():
    doc = pipe()("Left subdural haematoma of 4.5 mL. No shift.")
    assert [(span.text, span.label_) for span in doc.spans["findings"]] == [
        ("subdural haematoma", "subdural_haemorrhage"), ("shift", "midline_shift")]
    assert len(list(doc.sents)) == 2


@pytest.mark.parametrize("text", ["", " ", "\r\n\r\n", ":::", "no no no", "left", "4.5 cm", "x" * 5000, "\0\ufeff",
                                  "Übelkeit, Blutung links 3,5 cm", "((((", "- - -\n* *"])
def test_no_text_breaks_it(text):
    read_report(text)
