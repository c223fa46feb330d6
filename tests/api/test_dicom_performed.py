"""MPPS over a real socket: a step begins and ends, its order goes with it, and what may not happen is answered by the right status."""
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from pynetdicom.sop_class import ModalityPerformedProcedureStep as Step

from api.dicom.scp import DicomServer
from api.procedure_steps import COMPLETED, DISCONTINUED, IN_PROGRESS
from data.records import Order, Patient
from tests.api.dicom_peers import associated, desk_at
from tests.api.web import WordSuggester, work


@pytest.fixture
def desk(tmp_path, sqlite_template):
    with desk_at(tmp_path / "home", sqlite_template, WordSuggester()) as desk:
        yield desk


@pytest.fixture
def scanner(desk):
    """An association of a scanner."""
    server = DicomServer(desk, desk.settings)
    server.start()
    with associated(server.port, Step) as association:
        yield association
    server.stop()


@pytest.fixture
def order(desk):
    id = desk.add_order(Order(text="fall ?bleed", patient=Patient("P1", "Müller^Jürgen"), ordered_exam="CT HEAD", placer_number="PL1",
                              accession_number="A1"))
    work(desk)
    return id


def begun(step_id="", accession="A1", study="1.2.3.4", patient="P1", **others):
    step, scheduled = Dataset(), Dataset()
    scheduled.StudyInstanceUID, scheduled.AccessionNumber, scheduled.ScheduledProcedureStepID = study, accession, step_id
    step.SpecificCharacterSet = "ISO_IR 192"
    step.ScheduledStepAttributesSequence = [scheduled]
    step.PatientID, step.PatientName, step.Modality = patient, "Müller^Jürgen", "CT"
    step.PerformedProcedureStepID, step.PerformedStationAETitle = "PPS1", "SCANNER1"
    step.PerformedProcedureStepStartDate, step.PerformedProcedureStepStartTime = "20261124", "081500"
    step.PerformedProcedureStepStatus, step.PerformedSeriesSequence = "IN PROGRESS", []
    for name, value in others.items():
        setattr(step, name, value)
    return step


def create(scanner, step, uid=""):
    status, attributes = scanner.send_n_create(step, Step, uid or None)
    return status.Status, str(getattr(attributes, "AffectedSOPInstanceUID", "") or uid)


def end(scanner, uid, value, **others):
    change = Dataset()
    change.PerformedProcedureStepStatus = value
    change.PerformedProcedureStepEndDate, change.PerformedProcedureStepEndTime = "20261124", "083000"
    for name, item in others.items():
        setattr(change, name, item)
    return scanner.send_n_set(change, Step, uid)[0]


@pytest.mark.parametrize("value", [COMPLETED, DISCONTINUED])
def test_a_step_begins_and_ends_and_its_order_goes_with_it(desk, scanner, order, value):
    uid = generate_uid()
    assert create(scanner, begun(order[1:], accession=""), uid)[0] == 0
    assert desk.order(order)["performed"] == IN_PROGRESS
    assert end(scanner, uid, value).Status == 0
    found = desk.order(order)
    assert found["performed"] == value and [event["what"] for event in found["history"]][-2:] == ["in progress", value.lower()]
    assert desk.step(uid)["record"]["00100010"]["Value"][0]["Alphabetic"] == "Müller^Jürgen"
    # an order is to be scanned again unless its scan was completed
    assert [row["id"] for row in desk.worklist()] == ([] if value == COMPLETED else [order])


def test_a_step_finds_its_order_by_accession_number_but_never_another_patients(desk, scanner, order):
    create(scanner, begun(), "1.2.3.1")
    assert desk.order(order)["performed"] == IN_PROGRESS
    create(scanner, begun(order[1:], patient="P2"), "1.2.3.2")
    with desk.store.read() as tx:
        assert [link["step_id"] for link in tx.find("procedure_step_orders")] == ["1.2.3.1"]


def test_an_unscheduled_step_is_kept_without_an_order(desk, scanner):
    assert create(scanner, begun(accession=""), "1.2.3.1")[0] == 0
    assert desk.step("1.2.3.1")["status"] == IN_PROGRESS


@pytest.mark.parametrize("images_first", [True, False])
def test_a_study_without_accession_number_is_linked_by_what_was_performed(desk, scanner, images_first):
    order = desk.add_order(Order(text="fall ?bleed", patient=Patient("P1"), placer_number="PL1", study_instance_uid="1.2.9"))
    steps = [lambda: create(scanner, begun(order[1:], study="1.2.3.4"), "1.2.3.1"),
             lambda: desk.instance_kept({"StudyInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5", "SeriesInstanceUID": "1.2.3",
                                         "PatientID": "P1", "sha256": "x", "path": "none.dcm", "source": "test"})]
    for step in reversed(steps) if images_first else steps:
        step()
    assert desk.study("1.2.3.4")["order"]["id"] == order


def test_one_completed_and_one_discontinued_step_make_a_completed_order(desk, scanner, order):
    for uid in ("1.2.3.1", "1.2.3.2"):
        create(scanner, begun(order[1:]), uid)
    end(scanner, "1.2.3.1", COMPLETED)
    assert desk.order(order)["performed"] == IN_PROGRESS
    end(scanner, "1.2.3.2", DISCONTINUED)
    assert desk.order(order)["performed"] == COMPLETED


def test_a_step_that_ended_may_no_longer_be_updated(desk, scanner, order):
    create(scanner, begun(order[1:]), "1.2.3.1")
    end(scanner, "1.2.3.1", DISCONTINUED)
    status = end(scanner, "1.2.3.1", COMPLETED)
    assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
    assert desk.order(order)["performed"] == DISCONTINUED


def test_an_unknown_step_a_second_one_and_an_unknown_status_are_refused(scanner, order):
    assert end(scanner, "1.2.9.9", COMPLETED).Status == 0x0112
    assert create(scanner, begun(), "1.2.3.1")[0] == 0 and create(scanner, begun(), "1.2.3.1")[0] == 0x0111
    assert end(scanner, "1.2.3.1", "FINISHED").Status == 0x0106


@pytest.mark.parametrize("others, code", [
    ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106), ({"ScheduledStepAttributesSequence": []}, 0x0121), ({"Modality": ""}, 0x0121)])
def test_what_cannot_begin_a_step_is_refused(desk, scanner, order, others, code):
    assert create(scanner, begun(**others), "1.2.3.1")[0] == code
    assert desk.order(order)["performed"] == ""


def test_a_missing_attribute_is_named(scanner):
    step = begun()
    del step.PerformedProcedureStepID
    status, _ = scanner.send_n_create(step, Step, "1.2.3.1")
    assert status.Status == 0x0120 and "PerformedProcedureStepID" in status.ErrorComment


def test_a_step_without_a_uid_is_given_one(desk, scanner):
    assert create(scanner, begun())[0] == 0
    with desk.store.read() as tx:
        [step] = tx.find("procedure_steps")
    assert UID(step["id"]).is_valid and step["status"] == IN_PROGRESS


def test_who_was_examined_cannot_be_changed_afterwards(desk, scanner, order):
    create(scanner, begun(order[1:]), "1.2.3.1")
    status = end(scanner, "1.2.3.1", COMPLETED, PatientID="P2")
    assert status.Status == 0x0107 and desk.step("1.2.3.1")["record"]["00100020"]["Value"] == ["P1"]
    assert desk.order(order)["performed"] == COMPLETED
