"""A table of wordings from device catalogues, drug lists and ward slang: each hazard is seen, each look-alike is not."""
from pathlib import Path

import pytest

from data.book import read_book
from data.orders import order_from_json
from nlp.safety import check

BOOK = read_book().protocols
PROTOCOL = {"egfr_low_for_iodinated": "CT_NECK_W", "metformin": "CT_NECK_W", "contrast_allergy_iodinated": "CT_NECK_W", "anticoagulation_lp": "FL_LP",
            "pregnancy": "CT_HEAD_WO", "pregnancy_status_unknown": "CT_HEAD_WO"}


def phrases() -> dict[str, list[tuple[bool, str]]]:
    """Flag -> (whether it states the hazard, phrase)."""
    found: dict[str, list[tuple[bool, str]]] = {}
    for line in (Path(__file__).parent / "safety_phrases.txt").read_text().splitlines():
        if line.startswith("["):
            code = line.strip("[]")
        elif line[:2] in ("+ ", "- "):
            found.setdefault(code, []).append((line[0] == "+", line[2:]))
    return found


PHRASES = phrases()


def said(code: str, phrase: str) -> bool:
    row = {"age": 30, "sex": "F"} if code.startswith("pregnancy") else {"age": 61, "sex": "M"}
    order = order_from_json({"order_text": f"Headache, new. {phrase}", **row})
    return code in {flag.code for flag in check(order, BOOK[PROTOCOL.get(code, "MR_BRAIN_WWO")])}


@pytest.mark.parametrize("code", PHRASES)
def test_a_phrase_counts_only_when_it_states_the_hazard(code):
    assert [phrase for counts, phrase in PHRASES[code] if said(code, phrase) != counts] == []
