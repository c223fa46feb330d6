"""The modality worklist over a real socket: who is on it, what stands in it, and what a scanner may ask for."""
from dataclasses import replace

import pytest
from pydicom.dataset import Dataset
from pynetdicom.sop_class import ModalityWorklistInformationFind as Worklist

from api.dicom import worklist
from api.dicom.matching import in_range, matches, value_matches
from api.dicom.scp import DicomServer
from data.records import Facts, Order, Patient
from tests.api.dicom_peers import associated, desk_at, needs, run
from tests.api.web import WordSuggester, work

NAMES = ("Müller^Jürgen", "山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", "قباني^لنزار")


@pytest.fixture
def desk(tmp_path, sqlite_template):
    with desk_at(tmp_path / "home", sqlite_template, WordSuggester()) as desk:
        yield desk


@pytest.fixture
def server(desk):
    server = DicomServer(desk, desk.settings)
    server.start()
    yield server
    server.stop()


def add(desk, number, name="Muster^Erika", *, text="fall ?bleed", exam="CT HEAD", date="20261124081500", sex="F", **facts):
    order = desk.add_order(Order(text=text, patient=Patient(f"P{number}", name, "19600101", sex), ordered_exam=exam, ordered_exam_code="CTH",
                                 placer_number=f"PL{number}", accession_number=f"A{number}", requested_date=date, facts=Facts(**facts)))
    work(desk)
    return order


def query(step=(), **keys):
    """A query for what the tests look at; `step` are keys of the scheduled step."""
    asked, inner = Dataset(), Dataset()
    for name in ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID", "MedicalAlerts", "Allergies", "SpecialNeeds", "PregnancyStatus",
                 "RequestedProcedureID", "RequestedProcedureComments", "RequestedProcedureDescription"):
        setattr(asked, name, keys.pop(name, None) if name == "PregnancyStatus" else keys.pop(name, ""))
    for name, value in keys.items():
        setattr(asked, name, value)
    for name in ("Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime",
                 "ScheduledProcedureStepID", "RequestedContrastAgent", "ScheduledProcedureStepStatus"):
        setattr(inner, name, "")
    inner.ScheduledProtocolCodeSequence = []
    for name, value in dict(step).items():
        setattr(inner, name, value)
    asked.ScheduledProcedureStepSequence = [inner]
    return asked


def ask(server, step=(), title="SCANNER1", **keys):
    """What a scanner is told: the items, and the last status."""
    with associated(server.port, Worklist, title=title) as association:
        rows = list(association.send_c_find(query(step, **keys), Worklist))
    return [item for _, item in rows[:-1]], rows[-1][0].Status


def codes(item):
    return [(code.CodingSchemeDesignator, code.get("CodeValue") or code.LongCodeValue)
            for code in item.ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence]


def test_an_order_a_person_accepted_carries_its_protocol_with_our_code_and_loinc(desk, server):
    desk.decide(add(desk, 1), "accept", user="r")
    [item], status = ask(server)
    step = item.ScheduledProcedureStepSequence[0]
    assert status == 0 and codes(item) == [("99WETREAD", "CT_HEAD_WO"), ("LN", "30799-1")]
    assert (step.Modality, step.ScheduledStationAETitle, step.ScheduledProcedureStepStartDate) == ("CT", "SCANNER1", "20261124")
    assert (item.AccessionNumber, item.PatientID) == ("A1", "P1") and item.StudyInstanceUID
    assert "Protocol: " in item.RequestedProcedureComments and "fall ?bleed" in item.RequestedProcedureComments


def test_an_order_nobody_decided_is_listed_as_requested_without_a_protocol(desk, server):
    add(desk, 1, exam="MRI BRAIN")
    [item], _ = ask(server)
    assert codes(item) == [] and item.RequestedProcedureDescription == "MRI BRAIN"
    assert item.ScheduledProcedureStepSequence[0].Modality == "MR" and "No protocol accepted yet" in item.RequestedProcedureComments


def test_what_automation_accepted_is_no_persons_decision(desk, server):
    desk.settings = replace(desk.settings, automation=True)
    id = add(desk, 1)
    assert desk.order(id)["state"] == "accepted"
    [item], _ = ask(server)
    assert codes(item) == []


def test_a_changed_protocol_brings_its_modality_its_agent_and_its_own_warnings(desk, server):
    desk.decide(add(desk, 1, text="fall ?bleed, has a pacemaker, eGFR 20", egfr=20.0), "change", "MR_BRAIN_WWO", user="r")
    [item], _ = ask(server)
    step = item.ScheduledProcedureStepSequence[0]
    assert (step.Modality, step.RequestedContrastAgent) == ("MR", "Gadolinium-based contrast agent IV")
    assert any("pacemaker" in alert for alert in item.MedicalAlerts)
    assert "eGFR 20" in item.RequestedProcedureComments


def test_warnings_stand_where_a_scanner_looks_for_them(desk, server):
    add(desk, 1, text="fall ?bleed, claustrophobic, hives after gadolinium", allergies=("Iohexol: anaphylaxis",), pregnant=True, implants=("clip",))
    [item], _ = ask(server)
    alerts = item.MedicalAlerts if not isinstance(item.MedicalAlerts, str) else [item.MedicalAlerts]
    assert any("pregnant" in alert.lower() for alert in alerts) and "Implant: clip" in alerts
    assert "Iohexol: anaphylaxis" in item.Allergies and item.PregnancyStatus == 3


def test_a_flag_about_the_request_is_no_medical_alert_but_stands_in_the_comments(desk, server):
    add(desk, 1, text="?")
    [item], _ = ask(server)
    assert not item.MedicalAlerts and "clinical question" in item.RequestedProcedureComments


def test_a_man_has_no_pregnancy_status_and_a_woman_not_asked_an_unknown_one(desk, server):
    add(desk, 1, sex="M")
    add(desk, 2, sex="F")
    items, _ = ask(server)
    assert {item.PatientID: item.PregnancyStatus for item in items} == {"P1": None, "P2": 4}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_any_script_comes_byte_for_byte(desk, server, name):
    add(desk, 1, name)
    with associated(server.port, Worklist) as association:
        [(_, item), _] = list(association.send_c_find(query(), Worklist))
    assert item.SpecificCharacterSet == "ISO_IR 192"
    assert str(item.PatientName) == name and item.PatientName.original_string.rstrip(b" ") == name.encode()


def test_a_scanner_that_reads_latin_1_alone_gets_latin_1_where_it_holds_every_letter(desk, server):
    add(desk, 1, NAMES[0])
    add(desk, 2, NAMES[1])
    items, _ = ask(server, SpecificCharacterSet="ISO_IR 100")
    found = {item.PatientID: (item.SpecificCharacterSet, item.PatientName.original_string.rstrip(b" ")) for item in items}
    assert found == {"P1": ("ISO_IR 100", NAMES[0].encode("latin-1")), "P2": ("ISO_IR 192", NAMES[1].encode())}


def test_a_name_is_found_in_the_askers_own_character_set(desk, server):
    add(desk, 1, NAMES[0])
    add(desk, 2)
    items, _ = ask(server, SpecificCharacterSet="ISO_IR 100", PatientName="müll*")
    assert [item.PatientID for item in items] == ["P1"]


def test_a_suffix_and_a_prefix_change_places_between_hl7_and_dicom(desk, server):
    add(desk, 1, "Muster^Erika^M^Jr^Dr")
    [item], _ = ask(server)
    assert str(item.PatientName) == "Muster^Erika^M^Dr^Jr"


@pytest.mark.parametrize("step, keys, expected", [
    ({}, {}, {"P1", "P2", "P3"}),
    ({"Modality": "MR"}, {}, {"P3"}),
    ({"ScheduledProcedureStepStartDate": "20261124"}, {}, {"P1", "P3"}),
    ({"ScheduledProcedureStepStartDate": "20261125-"}, {}, {"P2"}),
    ({"ScheduledProcedureStepStartDate": "-20261124"}, {}, {"P1", "P3"}),
    ({"ScheduledProcedureStepStartDate": "20261124-20261125", "ScheduledProcedureStepStartTime": "0900-0700"}, {}, {"P3"}),
    ({"ScheduledProcedureStepStartTime": "0800-0859"}, {}, {"P1", "P2"}),
    ({}, {"PatientName": "mus*^E?ika"}, {"P1", "P2"}),
    ({}, {"PatientID": "P2"}, {"P2"}),
    ({}, {"PatientID": "P?"}, {"P1", "P2", "P3"}),
    ({}, {"AccessionNumber": "A3"}, {"P3"}),
    ({}, {"PatientID": "p1"}, set()),
    ({"ScheduledStationAETitle": "SCANNER1"}, {}, {"P1", "P2", "P3"}),
])
def test_keys_match_as_annex_k_asks(desk, server, step, keys, expected):
    """The span of the sixth row begins on the first day at nine and ends on the second at seven: P1 at 08:15 is before, P2 at 08:15 after."""
    add(desk, 1)
    add(desk, 2, date="20261125081500")
    add(desk, 3, "Other^Kim", exam="MR BRAIN", date="20261124100000")
    items, status = ask(server, step, **keys)
    assert status == 0 and {item.PatientID for item in items} == expected


def test_cancelled_rejected_and_performed_orders_are_not_for_the_scanner(desk, server):
    for number in (1, 2, 3):
        add(desk, number)
    desk.decide("PL1", "reject", reason="no", user="r")
    desk.add_order(Order(placer_number="PL2", control="cancel"))
    with desk.store.write() as tx:
        tx.change("orders", {"placer_number": "PL3"}, performed="COMPLETED")
    assert ask(server) == ([], 0)


def test_the_study_uid_told_once_is_told_again_and_joins_the_study(desk, server):
    id = add(desk, 1)
    [first], _ = ask(server)
    [second], _ = ask(server, title="SCANNER2")
    assert first.StudyInstanceUID == second.StudyInstanceUID == desk.order(id)["order"]["study_instance_uid"]
    desk.instance_kept({"StudyInstanceUID": first.StudyInstanceUID, "SOPInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3", "PatientID": "P1",
                        "Modality": "CT", "sha256": "x", "path": "none.dcm", "source": "test"})
    assert desk.study(first.StudyInstanceUID)["order"]["id"] == id


def test_too_many_matches_end_with_out_of_resources_after_what_there_was(desk, server, monkeypatch):
    monkeypatch.setattr(worklist, "RESULTS_MAX", 2)
    for number in (1, 2, 3):
        add(desk, number)
    items, status = ask(server)
    assert (len(items), status) == (2, 0xA700)


def test_a_search_that_takes_too_long_says_so(desk, server, monkeypatch):
    monkeypatch.setattr(worklist, "SEARCH_S", -1.0)
    add(desk, 1)
    assert ask(server) == ([], 0xA700)


def test_a_peer_not_on_the_list_sees_nobody(desk, server, monkeypatch):
    monkeypatch.setattr("api.dicom.scp.may_speak", lambda peer, peers: False)
    add(desk, 1)
    assert ask(server) == ([], 0x0124)


@pytest.mark.parametrize("vr, asked, value, found", [
    ("LO", "a*b", "a--b", True), ("LO", "a.b", "axb", False), ("LO", "(", "(", True), ("UI", "1.2*", "1.2.3", False), ("CS", "M?", "MR", True),
    ("PN", "muster^erika", "Muster^Erika^^^", True), ("PN", "山田*", "Yamada^Tarou=山田^太郎", True), ("LO", "*" * 64 + "x", "y" * 64, False),
    ("TM", "08", "081500", True), ("DA", "20261124", "20261124", True), ("DA", "2026.11.24-", "20261125", True)])
def test_one_value_against_one_key(vr, asked, value, found):
    assert value_matches(vr, asked, value) is found


def test_a_range_includes_its_ends_and_an_absent_value_lies_in_none():
    assert in_range("TM", "0800-0900", "090059.5") and not in_range("TM", "0800-0900", "0901") and not in_range("DA", "-20261124", "")


def test_a_sequence_key_matches_any_item():
    query_, item, one, two, asked = (Dataset() for _ in range(5))
    one.Modality, two.Modality, asked.Modality = "CT", "MR", "MR"
    item.ScheduledProcedureStepSequence, query_.ScheduledProcedureStepSequence = [one, two], [asked]
    assert matches(query_, item)
    asked.Modality = "US"
    assert not matches(query_, item)


@needs("findscu")
def test_dcmtk_reads_the_worklist_with_a_name_in_utf_8(desk, server):
    for number, name in enumerate(NAMES):
        add(desk, number, name)
    code, said = run("findscu", "-W", "-aet", "MR1", "-k", "PatientName", "-k", "ScheduledProcedureStepSequence[0].Modality=CT", "-k",
                     "ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence", "127.0.0.1", server.port)
    assert code == 0
    for name in NAMES:
        assert f"PN [{name}" in said, said
