"""The technologist's sheet: of the protocol taken, else of the suggested one and said so; warnings for that protocol."""
from api.sheet import sheet_of
from data.book import read_book
from data.records import Facts, Order, as_json

BOOK = read_book()
RANKED = {"ranked": [{"protocol": "MR_BRAIN_WO", "probability": 0.9}], "flags": []}


def row(state, order, protocol="", suggestion=RANKED):
    decision = {"protocol": protocol, "user": "anna", "time": "2026-11-24T08:00:00.000Z"} if protocol else None
    return {"state": state, "suggestion": suggestion, "decision": decision, "order": as_json(order)}


def test_a_suggested_protocol_is_said_to_be_suggested():
    order = Order(text="dizzy for weeks")
    sheet = sheet_of(row("suggested", order), order, BOOK)
    book = BOOK.protocols["MR_BRAIN_WO"]
    assert (sheet["basis"], sheet["name"], sheet["minutes"], sheet["contrast_agent"]) == ("suggested", book.name, book.minutes, "")
    assert sheet["sequences"] == list(book.sequences) and sheet["preparation"] == list(book.preparation)


def test_another_protocol_than_suggested_brings_its_own_warnings_and_marks_them_new():
    order = Order(text="new seizure, known melanoma", facts=Facts(egfr=18.0))
    assert not sheet_of(row("suggested", order), order, BOOK)["warnings"]
    sheet = sheet_of(row("changed", order, "MR_BRAIN_WWO"), order, BOOK)
    assert (sheet["basis"], sheet["by"], sheet["contrast_agent"]) == ("accepted", "anna", "gadolinium-based, intravenous")
    (kidney,) = [flag for flag in sheet["warnings"] if flag["code"] == "egfr_low_for_gadolinium"]
    assert kidney["new"] and kidney["source"] and kidney["action"]


def test_a_flag_that_was_shown_with_the_accepted_protocol_stays_on_the_sheet():
    flag = {"code": "local_rule", "severity": "stop", "rule": "r", "source": "s", "message": "m", "action": "", "evidence": []}
    order = Order(text="dizzy for weeks")
    sheet = sheet_of(row("accepted", order, "MR_BRAIN_WO", {**RANKED, "flags": [flag]}), order, BOOK)
    assert [(w["code"], w["new"]) for w in sheet["warnings"]] == [("local_rule", False)]


def test_nothing_is_scanned_for_a_rejected_a_cancelled_or_an_unprotocoled_order():
    order = Order(text="x")
    for state, suggestion in (("rejected", RANKED), ("cancelled", RANKED), ("new", None), ("no-suggestion", None)):
        assert sheet_of(row(state, order, suggestion=suggestion), order, BOOK) is None


def test_a_protocol_that_left_the_book_is_named_and_said_to_be_gone():
    order = Order(text="x")
    sheet = sheet_of(row("changed", order, "MR_OLD"), order, BOOK)
    assert (sheet["name"], sheet["in_book"], sheet["minutes"]) == ("MR_OLD", False, None)


def test_every_protocol_with_contrast_names_its_agent_and_none_without():
    for protocol in BOOK.protocols.values():
        assert bool(protocol.contrast_agent) == (protocol.contrast != "none"), protocol.id
    assert "intrathecal" in BOOK.protocols["MYELO_FL_CT"].contrast_agent
