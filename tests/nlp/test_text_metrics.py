from nlp.text_metrics import meteor, text_metrics

REFERENCE = "Left subdural haematoma of 3.5 cm. No midline shift."


def test_the_same_text_scores_one_and_another_text_nothing():
    same, other = text_metrics([REFERENCE], [REFERENCE]), text_metrics(["quite different"], [REFERENCE])
    assert same["BLEU-4"] == same["ROUGE-L"] == 1.0 and same["METEOR-like"] > 0.99
    assert other["ROUGE-L"] == other["METEOR-like"] == 0.0 and other["BLEU-4"] < 0.05


def test_case_and_decimals_of_the_reference_count():
    """The cleaner of the field makes 35 of 3.5 and lower-cases: both must cost here."""
    for spoilt in (REFERENCE.replace("3.5", "35"), REFERENCE.replace("3.5", "3.6"), REFERENCE.lower()):
        found = text_metrics([spoilt], [REFERENCE])
        assert found["BLEU-4"] < 1 and found["ROUGE-L"] < 1 and found["METEOR-like"] < 0.99


def test_meteor_matches_stems_and_charges_for_a_broken_order():
    assert meteor("haemorrhages seen", "haemorrhage seen") > 0.9
    assert meteor("seen haemorrhage", "haemorrhage seen") < meteor("haemorrhage seen", "haemorrhage seen")
    assert meteor("", REFERENCE) == meteor("x", "") == 0.0
