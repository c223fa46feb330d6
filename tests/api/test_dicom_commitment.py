"""Storage commitment over real sockets: kept is what can be read back, and the report arrives on either association."""
import io
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel as Push

from api.dicom import commitment
from api.dicom.commitment import INSTANCE, Commitment
from api.dicom.intake import keep_instance
from api.dicom.scp import DicomServer
from api.jobs import Worker
from api.settings import Node
from tests.api.dicom_peers import associated, desk_at
from tests.api.web import ct_slices

CT = "1.2.840.10008.5.1.4.1.1.2"


class Reports:
    """An N-EVENT-REPORT handler that keeps what came."""

    def __init__(self):
        self.got, self.came = [], threading.Event()

    def __call__(self, event):
        self.got.append((event.event_type, event.event_information))
        self.came.set()
        return 0x0000, None


@pytest.fixture
def caller():
    """A scanner's own SCP, which takes reports on a new association; gives (node, reports)."""
    reports, ae = Reports(), AE("SCANNER1")
    ae.add_supported_context(Push, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports)])
    yield Node("SCANNER1", "127.0.0.1", server.server_address[1]), reports
    server.shutdown()


@pytest.fixture
def desk(tmp_path, sqlite_template, caller):
    with desk_at(tmp_path / "home", sqlite_template, dicom_nodes=(caller[0],)) as desk:
        yield desk


@pytest.fixture
def server(desk):
    server = DicomServer(desk, desk.settings)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def kept(desk):
    files = list(ct_slices(np.zeros((3, 4, 4))))
    return [(keep_instance(desk, data, "test"), str(dcmread(io.BytesIO(data)).SOPInstanceUID)) for data in files]


def request(*instances, sop_class=CT, transaction="1.2.3.9"):
    asked = Dataset()
    asked.TransactionUID, asked.ReferencedSOPSequence = transaction, []
    for uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        asked.ReferencedSOPSequence.append(item)
    return asked


def on_the_same_association(server, asked):
    reports = Reports()
    with associated(server.port, Push, title="STRANGER", handlers=[(evt.EVT_N_EVENT_REPORT, reports)]) as association:
        status, _ = association.send_n_action(asked, 1, Push, INSTANCE)
        assert status.Status == 0 and reports.came.wait(20)
        time.sleep(0.2)         # its answer goes out before the release
    return reports.got[0]


def failures(information):
    return {str(item.ReferencedSOPInstanceUID): item.FailureReason for item in information.get("FailedSOPSequence", [])}


def test_what_is_kept_is_committed_on_the_same_association(server, kept):
    number, information = on_the_same_association(server, request(*(uid for _, uid in kept)))
    assert number == 1 and information.TransactionUID == "1.2.3.9" and len(information.ReferencedSOPSequence) == 3
    assert "FailedSOPSequence" not in information


def test_what_never_came_what_is_of_another_class_and_what_was_damaged_is_not(desk, server, kept):
    (first, a), (second, b), (_, c) = kept
    [path] = (desk.settings.home / "dicom").rglob(f"{first.sha256}.dcm")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    [gone] = (desk.settings.home / "dicom").rglob(f"{second.sha256}.dcm")
    gone.unlink()
    number, information = on_the_same_association(server, request(a, b, c, "1.2.99"))
    assert number == 2 and failures(information) == {a: 0x0110, b: 0x0110, "1.2.99": 0x0112}
    assert [str(item.ReferencedSOPInstanceUID) for item in information.ReferencedSOPSequence] == [c]
    _, information = on_the_same_association(server, request(c, sop_class="1.2.840.10008.5.1.4.1.1.4"))
    assert failures(information) == {c: 0x0119}


def test_a_configured_node_is_called_back_once_it_can_be_reached(desk, server, kept, caller):
    with associated(server.port, Push) as association:
        assert association.send_n_action(request(kept[0][1]), 1, Push, INSTANCE)[0].Status == 0
    assert not caller[1].got
    assert Worker(desk.store, {"commitment": Commitment(desk.store, desk.settings).send}).run_once() == 1
    assert caller[1].came.wait(10) and caller[1].got[0][0] == 1
    assert desk.store.jobs(state="done")


def test_a_node_that_is_down_is_tried_again(desk, server, kept, caller):
    with associated(server.port, Push) as association:
        association.send_n_action(request(kept[0][1]), 1, Push, INSTANCE)
    away = replace(desk.settings, dicom_nodes=(Node("SCANNER1", "127.0.0.1", 1),))
    Worker(desk.store, {"commitment": Commitment(desk.store, away).send}).run_once()
    [job] = [job for job in desk.store.jobs() if job["kind"] == "commitment"]
    assert (job["state"], job["tries"]) == ("queued", 0) and "SCANNER1" in job["reason"]


def test_a_request_that_says_nothing_is_refused(server):
    with associated(server.port, Push, roles=[build_role(Push, scp_role=False, scu_role=True)]) as association:
        assert association.send_n_action(request(), 1, Push, INSTANCE)[0].Status == 0x0115
        assert association.send_n_action(request("1.2"), 2, Push, INSTANCE)[0].Status == 0x0123
        assert association.send_n_action(request("1.2"), 1, Push, "1.2.3")[0].Status == 0x0112


def test_a_caller_that_leaves_before_the_report_harms_nobody(server, kept, monkeypatch):
    monkeypatch.setattr(commitment, "REPORT_S", 0.5)
    for _ in range(3):
        with associated(server.port, Push, title="STRANGER") as association:
            assert association.send_n_action(request(kept[0][1]), 1, Push, INSTANCE)[0].Status == 0
    assert on_the_same_association(server, request(kept[0][1]))[0] == 1
