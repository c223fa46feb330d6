"""Safety rules: each hazard is seen in metadata or text, each trap is not."""
import re
import time

import pytest

from data.book import read_book
from data.errors import BookError
from data.orders import order_from_json
from data.rules import by_first_letter, read_rules
from nlp.safety import check, contrast_clicked

BOOK = read_book().protocols


def flags(protocol="MR_BRAIN_WWO", **row):
    return {flag.code: flag for flag in check(order_from_json({"order_text": "follow up of a known lesion", **row}), BOOK[protocol])}


@pytest.mark.parametrize("code, protocol, row", [
    ("pacemaker_mri", "MR_BRAIN_WO", {"order_text": "TIA, pacemaker 2016"}),
    ("pacemaker_mri", "MR_BRAIN_WO", {"implants": ["PPM 2001, non-conditional"]}),
    ("implant_mri_unsafe", "MR_BRAIN_WO", {"implants": ["pacemaker with abandoned RV lead"]}),
    ("neurostimulator_mri", "MR_BRAIN_WO", {"order_text": "tremor, has a VNS since 2019"}),
    ("cochlear_implant_mri", "MR_BRAIN_WO", {"implants": ["cochlear implant left"]}),
    ("aneurysm_clip_mri", "MR_BRAIN_WO", {"order_text": "headache; aneurysm clip 1994, make unknown"}),
    ("metal_fragment_mri", "MR_BRAIN_WO", {"order_text": "seizure. shrapnel in the face since the war"}),
    ("egfr_low_for_gadolinium", "MR_BRAIN_WWO", {"egfr": 22}),
    ("egfr_low_for_gadolinium", "MR_BRAIN_WWO", {"order_text": "mets staging, eGFR 18 last week"}),
    ("egfr_low_for_iodinated", "CT_NECK_W", {"egfr": 12}),
    ("metformin", "CT_NECK_W", {"order_text": "neck abscess, on metformin", "egfr": 24}),
    ("contrast_allergy_iodinated", "CT_NECK_W", {"allergies": ["iodinated contrast: anaphylaxis"]}),
    ("contrast_allergy_gadolinium", "MR_BRAIN_WWO", {"order_text": "mets. Reports hives after gadolinium 2019."}),
    ("pregnancy", "CT_HEAD_WO", {"order_text": "worst headache, 14 weeks pregnant", "sex": "F", "age": 30}),
    ("radiation_child", "CT_HEAD_WO", {"age": 9, "ordered_exam": "CT head"}),
    ("anesthesia_sedation", "MR_PED_BRAIN", {"age": 3}),
    ("claustrophobia", "MR_BRAIN_WO", {"order_text": "memory loss, very claustrophobic"}),
    ("weight_limit", "MR_BRAIN_WO", {"order_text": "papilloedema, weight 212 kg"}),
    ("anticoagulation_lp", "FL_LP", {"order_text": "LP for opening pressure, on apixaban"}),
    ("ordered_exam_mismatch", "MR_CAUDA_EQUINA", {"order_text": "saddle numbness, retention", "ordered_exam": "CT head wo"}),
    ("laterality_conflict", "MR_TN_CN", {"order_text": "pain of the right face, V2", "ordered_exam": "MRI TRIGEMINAL LEFT"}),
    ("missing_info", "MR_BRAIN_WO", {"order_text": "HA"}),
])
def test_a_hazard_is_flagged_with_source_and_evidence(code, protocol, row):
    found = flags(protocol, **row)
    assert code in found, sorted(found)
    assert found[code].source and found[code].action and found[code].evidence


@pytest.mark.parametrize("code, protocol, row", [
    ("contrast_allergy_iodinated", "CT_NECK_W", {"allergies": ["shellfish"]}),
    ("metformin", "CT_NECK_W", {"order_text": "neck abscess, on metformin", "egfr": 61}),
    ("pacemaker_mri", "MR_BRAIN_WO", {"order_text": "TIA, no pacemaker"}),
    ("cochlear_implant_mri", "MR_IAC_WO", {"order_text": "cochlear dysplasia? hearing loss at birth"}),
    ("pregnancy", "CT_HEAD_WO", {"order_text": "headache, pregnancy test negative", "sex": "F", "age": 30}),
    ("pregnancy", "CT_HEAD_WO", {"order_text": "headache, wife pregnant", "sex": "M", "age": 30}),
    ("egfr_low_for_gadolinium", "MR_BRAIN_WO", {"egfr": 12, "ordered_exam": "MRI brain wo"}),
    ("pacemaker_mri", "CT_HEAD_WO", {"order_text": "fall, pacemaker", "ordered_exam": "CT head wo"}),
])
def test_a_trap_is_not_flagged(code, protocol, row):
    assert code not in flags(protocol, **row)


@pytest.mark.parametrize("text", [
    "never had MRI because of pacemaker", "not MRI conditional pacemaker", "MRI w/o contrast, without gad - pacemaker",
    "denies pain but has a pacemaker", "r/o mets pacemaker 2016", "pacemaker neg troponin", "pacemaker not removed",
    "unsure whether pacemaker was removed", "no fever, pacemaker since 2016", "wife says he has a pacemaker", "2019 pacemaker",
    "CT no contrast pacemaker", "pacemaker out of battery",
])
def test_a_denial_of_something_else_hides_no_hazard(text):
    assert "pacemaker_mri" in flags("MR_BRAIN_WO", order_text=text)


@pytest.mark.parametrize("text", ["no pacemaker", "denies pacemaker or ICD", "no history of pacemaker", "pacemaker removed 2020",
                                  "no stents, clips, pacemaker", "without a pacemaker"])
def test_a_denied_pacemaker_is_none(text):
    assert "pacemaker_mri" not in flags("MR_BRAIN_WO", order_text=f"seizure, {text}")


@pytest.mark.parametrize("code, row", [
    ("pregnancy", {"order_text": "worst headache, 14 weeks pregnant", "pregnant": False, "sex": "F", "age": 30}),
    ("egfr_low_for_gadolinium", {"order_text": "mets, eGFR today 14", "egfr": 55}),
    ("egfr_low_for_gadolinium", {"order_text": "mets, eGFR 60 -> 18", "egfr": None}),
    ("egfr_low_for_gadolinium", {"order_text": "mets, on dialysis since May", "egfr": 45}),
])
def test_when_text_and_metadata_disagree_the_worse_counts(code, row):
    assert code in flags("MR_BRAIN_WWO", **row)


def test_a_date_beside_egfr_is_no_value():
    assert "egfr_low_for_gadolinium" not in flags("MR_BRAIN_WWO", order_text="mets, eGFR on 11/3 was 84")


def test_evidence_offsets_point_into_the_original_text():
    text = "İstanbul transfer; TIA, PACEMAKER 2016"       # the first letter grows when lowered
    flag = flags("MR_BRAIN_WO", order_text=text)["pacemaker_mri"]
    evidence = flag.evidence[0]
    assert text[evidence.start:evidence.end] == evidence.text == "PACEMAKER"


@pytest.mark.parametrize("code, text", [
    ("pacemaker_mri", "S-ICD (Emblem) in place"), ("pacemaker_mri", "Aveir leadless 2023"), ("pacemaker_mri", "temp transvenous pacer wire"),
    ("pacemaker_mri", "Abbott Assurity generator"), ("pacemaker_mri", "BiV ICD"),
    ("neurostimulator_mri", "Nevro Senza for back pain"), ("neurostimulator_mri", "Medtronic Intellis"), ("neurostimulator_mri", "AspireSR on"),
    ("neurostimulator_mri", "InterStim II"), ("neurostimulator_mri", "NeuroPace since 2020"), ("neurostimulator_mri", "Inspire for OSA"),
    ("cochlear_implant_mri", "wears a CI on the left"), ("cochlear_implant_mri", "Nucleus CI512"), ("cochlear_implant_mri", "AB HiRes 90K"),
    ("implant_mri_check", "Bonebridge L"), ("cochlear_implant_mri", "auditory brainstem implant"),
    ("aneurysm_clip_mri", "s/p clipping of L MCA aneurysm"), ("aneurysm_clip_mri", "Yasargil clip 1998"),
    ("implant_mri_unsafe", "on IABP"), ("implant_mri_unsafe", "Swan-Ganz in R IJ"), ("implant_mri_unsafe", "capped RV lead, ICD"),
    ("implant_mri_unsafe", "SCS, rep says not MRI conditional"), ("implant_mri_unsafe", "aneurysm clip, Mayfield type, steel"),
    ("implant_mri_check", "VP shunt, valve unknown"), ("implant_mri_check", "Strata valve 1.5"), ("implant_mri_check", "insulin pump and Dexcom"),
    ("implant_mri_check", "magnetic denture keeper"), ("implant_mri_check", "coiled ACOM 2019"), ("implant_mri_check", "halo vest"),
    ("metal_fragment_mri", "sheet metal worker, metal in eye removed 2010"), ("metal_fragment_mri", "hammering chisel, hit his eye, IOFB?"),
    ("metal_fragment_mri", "retained BBs in face"), ("metal_fragment_mri", "bullet fragments at C2"),
    ("claustrophobia", "couldn't finish last MRI, panic"), ("claustrophobia", "she can't do tunnels"),
    ("claustrophobia", "regular tube made her scream"),
    ("contrast_allergy_gadolinium", "ProHance -> wheeze"), ("contrast_allergy_gadolinium", "reaction to MRI contrast, throat tight"),
    ("anesthesia_sedation", "GA w/ ABR same day"), ("weight_limit", "did not fit in our scanner"), ("weight_limit", "weighs 400lb"),
])
def test_a_hazard_in_plain_words_is_flagged(code, text):
    assert code in flags("MR_BRAIN_WWO", order_text=f"headache, new. {text}")


@pytest.mark.parametrize("code, text", [
    ("pacemaker_mri", "ICD-10 G43.9"), ("pacemaker_mri", "ICD code R51"), ("pacemaker_mri", "s/p CRT 2019 for GBM"),
    ("pacemaker_mri", "DDD of L spine"),
    ("pacemaker_mri", "father has a pacemaker"), ("pacemaker_mri", "Pacing wires pulled POD3"),
    ("neurostimulator_mri", "DBS evaluation"), ("neurostimulator_mri", "candidate for DBS"), ("neurostimulator_mri", "CMV DBS positive"),
    ("neurostimulator_mri", "repetitive nerve stimulation: decrement"), ("neurostimulator_mri", "seen with 2 RNs"),
    ("cochlear_implant_mri", "cochlear implant candidate"), ("cochlear_implant_mri", "CI candidacy"),
    ("cochlear_implant_mri", "infarct at cochlear nucleus"),
    ("aneurysm_clip_mri", "skin clips in scalp"), ("aneurysm_clip_mri", "clip vs coil for the aneurysm"), ("aneurysm_clip_mri", "breast biopsy clip"),
    ("implant_mri_unsafe", "can't do MRI at this site"), ("implant_mri_unsafe", "ECMO 9 days, decannulated"),
    ("implant_mri_check", "subclavian steal, shunting"), ("implant_mri_check", "right to left shunt"), ("implant_mri_check", "would a shunt help"),
    ("implant_mri_check", "VP shunt, fixed pressure"), ("implant_mri_check", "halo around the screws"), ("implant_mri_check", "coronary stent"),
    ("metal_fragment_mri", "teeth grinder"), ("metal_fragment_mri", "retained disc fragment L5"), ("metal_fragment_mri", "metal in back from fusion"),
    ("metal_fragment_mri", "never a welder"), ("claustrophobia", "He isn't claustrophobic"), ("claustrophobia", "panic attacks at work"),
    ("contrast_allergy_gadolinium", "no reaction to gad"), ("contrast_allergy_gadolinium", "rash with lamotrigine. MRI with gad please"),
    ("anesthesia_sedation", "saddle anesthesia"), ("anesthesia_sedation", "refuses sedation"), ("anesthesia_sedation", "born at 34 wks GA"),
    ("anesthesia_sedation", "anesthesia at bedside"), ("weight_limit", "deadlifts 180 kg"), ("weight_limit", "BMI 44"),
    ("egfr_low_for_gadolinium", "EGFR 19del NSCLC"), ("egfr_low_for_gadolinium", "not on dialysis"), ("egfr_low_for_gadolinium", "declined dialysis"),
])
def test_words_that_only_look_like_a_hazard_are_not_flagged(code, text):
    assert code not in flags("MR_BRAIN_WWO", order_text=f"headache, new. {text}")


@pytest.mark.parametrize("text, is_pregnant", [
    ("G2P1 24w", True), ("19+3 weeks", True), ("32w4d", True), ("+UPT", True), ("30/40", True), ("third trimester", True), ("IUP at 9 weeks", True),
    ("EDD 3/4", True), ("hCG 4500", True), ("VA 20/40", False), ("last pregnancy 2018", False), ("postpartum day 3, pregnant till Monday", False),
    ("trying to get pregnant", False), ("delivered so not pregnant", False), ("sister is pregnant", False), ("pregnancy test pending", False),
])
def test_a_pregnancy_is_told_from_talk_of_one(text, is_pregnant):
    assert ("pregnancy" in flags("CT_HEAD_WO", order_text=f"headache, new. {text}", sex="F", age=30)) == is_pregnant


@pytest.mark.parametrize("text, counts", [
    ("eGFR 22 in 2019 during sepsis", False), ("eGFR 22 this morning", True), ("eGFR 24, now 68", False),
])
def test_an_old_kidney_value_gives_way_to_todays(text, counts):
    assert ("egfr_low_for_gadolinium" in flags("MR_BRAIN_WWO", order_text=f"mets? {text}", egfr=71)) == counts


@pytest.mark.parametrize("text, counts", [("AKI on CKD", True), ("creatinine doubled", True), ("AKI resolved", False), ("hx of AKI 2019", False)])
def test_only_a_present_kidney_injury_counts(text, counts):
    assert ("egfr_low_for_iodinated" in flags("CT_NECK_W", order_text=f"mass of the neck. {text}")) == counts


@pytest.mark.parametrize("allergy, counts", [
    ("IV dye - hives", True), ("contrast", True), ("iomeprol: urticaria", True), ("MRI contrast - hives", False), ("yellow dye", False),
    ("iodine, topical", False), ("no contrast allergy", False), ("shellfish", False),
])
def test_a_listed_allergy_counts_for_its_agent_only(allergy, counts):
    assert ("contrast_allergy_iodinated" in flags("CT_NECK_W", allergies=[allergy])) == counts


@pytest.mark.parametrize("text, counts", [
    ("Eliquis 5 bid", True), ("plt 38", True), ("INR 1.8", True), ("lovenox", True), ("INR 1.0, plts 210", False), ("off warfarin since 2019", False),
    ("not on anticoagulation", False), ("aspirin 81", False),
])
def test_bleeding_risk_counts_before_a_puncture(text, counts):
    assert ("anticoagulation_lp" in flags("FL_LP", order_text=f"opening pressure. {text}")) == counts


def test_a_myelopathy_in_the_click_is_no_puncture():
    assert "anticoagulation_lp" not in flags("MR_CSPINE_WO", order_text="on apixaban, gait worse", ordered_exam="MRI C spine myelopathy")


@pytest.mark.parametrize("click, text, conflict", [
    ("MRI IAC LEFT", "hearing loss right ear", True), ("CT temporal bone RIGHT", "H71.92, H90.12", True),
    ("MRI BRAIN", "L MCA stroke with residual left hemiparesis", True), ("MRI BRAIN", "resected L temporal [auto-text: RIGHT craniotomy]", True),
    ("MRI L spine", "R leg pain at L4", False), ("MRI IAC LEFT", "hearing loss left, RIGHT handed", False),
    ("CT orbit R", "r/o abscess right eye", False),
    ("MRI orbit LEFT", "r/o neuritis", False), ("CT temporal bone LEFT", "b/l loss, worse L", False),
    ("MRI brachial plexus LEFT", "s/p RT to breast", False),
])
def test_sides_conflict_only_when_both_are_sides(click, text, conflict):
    assert ("laterality_conflict" in flags("MR_IAC", order_text=text, ordered_exam=click)) == conflict


@pytest.mark.parametrize("row, conflict", [
    ({"order_text": "H90.42, hearing loss right"}, True), ({"order_text": "L SDH, bigger?", "priors": ["CT head 5 d ago: R SDH 4 mm"]}, True),
    ({"order_text": "L arm weak", "priors": ["CT head: R MCA infarct"]}, False), ({"order_text": "L SDH and R SDH", "priors": ["R SDH"]}, False),
])
def test_codes_and_priors_may_contradict_the_text(row, conflict):
    assert ("laterality_conflict" in flags("MR_BRAIN_WO", **row)) == conflict


@pytest.mark.parametrize("row, counts", [
    ({"order_text": "relapse? could not open the images", "ordered_exam": "MRI brain",
    "priors": ["outside MR brain 9 days ago: no new lesions"]}, True),
    ({"order_text": "please repeat", "ordered_exam": "MRI brain", "priors": ["MR brain 5 wks ago: normal"]}, True),
    ({"order_text": "progression? interval scan", "ordered_exam": "MRI brain", "priors": ["MR brain 5 wks ago: glioma"]}, False),
    ({"order_text": "weaker on the left", "ordered_exam": "MRI brain", "priors": ["CT head today: normal"]}, False),
    ({"order_text": "yearly look", "ordered_exam": "MRI brain", "priors": ["MR brain 2022: normal"]}, False),
])
def test_a_recent_exam_is_a_duplicate_unless_the_text_gives_a_reason(row, counts):
    assert ("duplicate_recent_exam" in flags("MR_BRAIN_WO", **row)) == counts


@pytest.mark.parametrize("text, counts", [
    ("PPM 2001, non-conditional", False), ("non-conditional pacemaker, intact leads, device MRI pathway approved", False),
    ("pathway approved, but an abandoned RV lead beside the pacemaker", True), ("SCS, non-conditional", True), ("ICD, stated MR unsafe", True),
    ("aneurysm clip, make unknown", False), ("shrapnel beside the optic nerve, MRI refused", False),
])
def test_a_plain_pacemaker_clip_or_fragment_keeps_its_own_stop_flag_unless_stated_unsafe(text, counts):
    assert ("implant_mri_unsafe" in flags("MR_BRAIN_WO", order_text=f"TIA. {text}")) == counts


@pytest.mark.parametrize("protocol, text, counts", [
    ("CT_HEAD_WO", "fall, has a pacemaker", False), ("CT_HEAD_WO", "fall, was refused an MRI for his pacemaker", True),
    ("CT_HEAD_WWO", "lung ca, has a pacemaker", True),
])
def test_an_implant_counts_when_an_mr_is_weighed_or_replaced(protocol, text, counts):
    assert ("pacemaker_mri" in flags(protocol, order_text=text, ordered_exam="CT head")) == counts


@pytest.mark.parametrize("row, counts", [
    ({"age": 4, "order_text": "gait worse for a month"}, True), ({"age": 4, "order_text": "gait worse; did fine awake, no sedation"}, False),
    ({"age": 0.1, "order_text": "seizures; feed and wrap"}, False), ({"order_text": "3 yo boy, gait worse for a month"}, True),
])
def test_a_small_child_needs_sedation_for_a_long_mr_unless_awake(row, counts):
    assert ("anesthesia_sedation" in flags("MR_PED_BRAIN", **row)) == counts


@pytest.mark.parametrize("click, contrast", [
    ("MRI brain w/o contrast", "none"), ("MRI brain no contrast", "none"), ("MRI BRAIN W WO CONTRAST", "with"), ("MRI brain w & w/o", "with"),
    ("MRI BRAIN WO W SEDATION", "none"), ("MRI BRAIN W MRS", ""), ("CT HEAD + C-SPINE", ""), ("CTA head", "with"),
    ("MRI without and with contrast", "with"),
])
def test_a_click_says_its_contrast(click, contrast):
    assert contrast_clicked(click) == contrast


@pytest.mark.parametrize("text, counts", [
    ("dizzy", True), ("R51.9", True), ("facial trauma", True), ("G40.219", False), ("clivus chordoma f/u", False), ("24h post TNK", False),
])
def test_a_text_that_says_little_is_asked_about(text, counts):
    assert ("missing_info" in flags("MR_BRAIN_WO", order_text=text)) == counts


@pytest.mark.parametrize("protocol, click, fits", [
    ("CTA_HEAD", "CT head w contrast", False), ("CT_TRAUMA_HEAD_CSPINE", "CT C SPINE", False), ("MR_IAC", "MRI brain w/wo", False),
    ("MR_BRAIN_WO", "MRI brain w/o contrast", True), ("MR_IAC", "MRI IAC w/wo", True), ("CT_STROKE_CODE", "CT code stroke with CTA", True),
])
def test_a_click_must_name_what_a_special_protocol_is_for(protocol, click, fits):
    assert ("ordered_exam_mismatch" not in flags(protocol, ordered_exam=click)) == fits


@pytest.mark.parametrize("junk", ["a" * 50_000, " " * 50_000, "lead capped " * 4_000, "clip aneurysm " * 3_500, "20 weeks " * 5_500, "." * 50_000])
def test_junk_of_50_kb_takes_linear_time(junk):
    """Four times the text takes at most some eight times the time: no pattern backtracks."""
    def seconds(text):
        order = order_from_json({"order_text": text, "ordered_exam": "MRI brain w/wo", "sex": "F"})
        start = time.process_time()
        check(order, BOOK["MR_BRAIN_WWO"])
        return time.process_time() - start
    seconds(junk[:100])
    assert seconds(junk) < 8 * min(seconds(junk[:len(junk) // 4]) for _ in range(3)) + 0.05


@pytest.mark.parametrize("terms, text", [
    (["(a|b) clip", "cat"], "b clip"), (["(old )?lead", "e?gfr"], "lead"), (["(old )?lead", "e?gfr"], "gfr"), (["x|yes", r"\d+ ?kg"], "yes"),
    (["x|yes", r"\d+ ?kg"], "12 kg"), (["(a(b|c)|d)e"], "ace"),
])
def test_grouping_by_first_letter_changes_no_term(terms, text):
    assert re.fullmatch(by_first_letter(terms), text) and re.fullmatch("|".join(terms), text)


def test_every_flag_of_the_vocabulary_has_a_rule_with_its_source():
    assert len(read_rules()) == 24 and all(rule.source for rule in read_rules().values())


def test_a_wrong_rule_is_named_with_file_block_and_key(tmp_path):
    (tmp_path / "rules.toml").write_text('[x]\nflag = "x"\nseverity = "loud"\nsource = "s"\nmessage = "m"\naction = "a"\n')
    with pytest.raises(BookError, match=r"rules.toml.*\[x\].*severity"):
        read_rules(tmp_path / "rules.toml")
