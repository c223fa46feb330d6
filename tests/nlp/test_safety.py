"""Safety rules: each hazard is seen in metadata or text, each trap is not."""
import pytest

from data.book import read_book
from data.errors import BookError
from data.orders import order_from_json
from data.rules import read_rules
from nlp.safety import check

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
    "unsure whether pacemaker was removed",
])
def test_a_denial_of_something_else_hides_no_hazard(text):
    assert "pacemaker_mri" in flags("MR_BRAIN_WO", order_text=text)


@pytest.mark.parametrize("text", ["no pacemaker", "denies pacemaker or ICD", "no history of pacemaker", "pacemaker removed 2020",
                                  "without a pacemaker"])
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


def test_every_flag_of_the_vocabulary_has_a_rule_with_its_source():
    assert len(read_rules()) == 24 and all(rule.source for rule in read_rules().values())


def test_a_wrong_rule_is_named_with_file_block_and_key(tmp_path):
    (tmp_path / "rules.toml").write_text('[x]\nflag = "x"\nseverity = "loud"\nsource = "s"\nmessage = "m"\naction = "a"\n')
    with pytest.raises(BookError, match=r"rules.toml.*\[x\].*severity"):
        read_rules(tmp_path / "rules.toml")
