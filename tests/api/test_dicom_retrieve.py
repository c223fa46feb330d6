"""Query/Retrieve in both directions, and TLS: what is kept is found, moved and got; a patient's earlier studies are fetched."""
import io
import shutil
import ssl
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import CTImageStorage as CT
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Move
from pynetdicom.sop_class import Verification

from api.dicom.client import send_dicom
from api.dicom.intake import keep_instance
from api.dicom.nodes import associated as call
from api.dicom.priors import Priors
from api.dicom.scp import DicomServer
from api.jobs import Worker
from api.settings import Node, read_settings
from data.errors import InputError, StoreError
from tests.api.dicom_peers import associated, desk_at, needs, run
from tests.api.web import ct_slices

VOLUME = np.zeros((2, 8, 8), np.int16)


def study(uid, patient="SIM1", date="20261124", name="Simulated^Head", slices=VOLUME, **values):
    for data in ct_slices(slices, uid, f"{uid}.1"):
        image = dcmread(io.BytesIO(data))
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientID, image.StudyDate, image.PatientName = patient, date, name
        for keyword, value in values.items():
            setattr(image, keyword, value)
        body = io.BytesIO()
        image.save_as(body)
        yield body.getvalue()


class Storage:
    """A storage SCP that keeps what came."""

    def __init__(self):
        self.got = []
        ae = AE("ELSEWHERE")
        ae.supported_contexts = AllStoragePresentationContexts
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)])
        self.node = Node("ELSEWHERE", "127.0.0.1", self.server.server_address[1])

    def store(self, event):
        self.got.append(event.dataset)
        return 0x0000


@pytest.fixture
def elsewhere():
    storage = Storage()
    yield storage
    storage.server.shutdown()


@pytest.fixture
def desk(tmp_path, sqlite_template, elsewhere):
    with desk_at(tmp_path / "home", sqlite_template, dicom_nodes=(elsewhere.node,)) as desk:
        for uid, patient, name in (("1.2.3", "SIM1", "Simulated^Head"), ("1.2.9", "Q2", "Müller^Jürgen")):
            for data in study(uid, patient, name=name):
                keep_instance(desk, data, "test")
        yield desk


@pytest.fixture
def server(desk):
    server = DicomServer(desk, desk.settings)
    server.start()
    yield server
    server.stop()


def asked(level, **keys):
    query = Dataset()
    query.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(query, name, value)
    return query


def find(server, level, **keys):
    with associated(server.port, Find) as association:
        rows = list(association.send_c_find(asked(level, **keys), Find))
    return [row for _, row in rows[:-1]], rows[-1][0].Status


def test_studies_series_and_instances_are_found(server):
    asked_for = {"PatientName": "m*", "PatientID": "", "StudyInstanceUID": "", "ModalitiesInStudy": "", "NumberOfStudyRelatedInstances": None}
    rows, code = find(server, "STUDY", **asked_for)
    assert code == 0
    assert [(str(row.PatientName), row.StudyInstanceUID, row.NumberOfStudyRelatedInstances) for row in rows] == [("Müller^Jürgen", "1.2.9", 2)]
    rows, _ = find(server, "SERIES", StudyInstanceUID="1.2.3", SeriesInstanceUID="", Modality="CT")
    assert [row.SeriesInstanceUID for row in rows] == ["1.2.3.1"]
    rows, _ = find(server, "IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1", SOPInstanceUID="", InstanceNumber="2")
    assert len(rows) == 1 and rows[0].InstanceNumber == 2


def test_a_query_without_its_level_or_its_key_above_is_not_of_the_class(server):
    assert find(server, "SERIES", SeriesInstanceUID="")[1] == 0xA900 and find(server, "ROOM", PatientID="")[1] == 0xA900


def test_a_study_moves_to_a_configured_node_and_to_no_other(server, elsewhere):
    with associated(server.port, Move) as association:
        query = asked("STUDY", StudyInstanceUID="1.2.3")
        assert list(association.send_c_move(query, "ELSEWHERE", Move))[-1][0].Status == 0
        assert list(association.send_c_move(query, "STRANGER", Move))[-1][0].Status == 0xA801
    assert [item.StudyInstanceUID for item in elsewhere.got] == ["1.2.3", "1.2.3"]


def test_a_study_is_got_on_the_same_association(server):
    got = []

    def store(event):
        got.append(event.dataset)
        return 0x0000

    with associated(server.port, Get, CT, roles=[build_role(CT, scp_role=True)], handlers=[(evt.EVT_C_STORE, store)]) as association:
        assert list(association.send_c_get(asked("STUDY", StudyInstanceUID="1.2.9"), Get))[-1][0].Status == 0
    assert [str(item.PatientName) for item in got] == ["Müller^Jürgen"] * 2


def test_a_peer_not_on_the_list_finds_moves_and_gets_nothing(server, elsewhere, monkeypatch):
    monkeypatch.setattr("api.dicom.scp.may_speak", lambda peer, peers: False)
    assert find(server, "STUDY", PatientID="") == ([], 0x0124)
    with associated(server.port, Move) as association:
        assert list(association.send_c_move(asked("STUDY", StudyInstanceUID="1.2.3"), "ELSEWHERE", Move))[-1][0].Status != 0
    assert not elsewhere.got


@needs("movescu")
def test_dcmtk_finds_moves_and_gets(desk, server, elsewhere, tmp_path):
    code, said = run("findscu", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=Q2", "-k", "PatientName", "127.0.0.1", server.port)
    assert code == 0 and "Müller^Jürgen" in said
    named = ("-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.3", "127.0.0.1", server.port)
    assert run("movescu", "-S", "-aem", "ELSEWHERE", *named)[0] == 0 and len(elsewhere.got) == 2
    assert run("getscu", "-S", "-od", tmp_path, *named)[0] == 0
    assert sorted(dcmread(path).SOPInstanceUID for path in tmp_path.glob("CT*")) == sorted(item.SOPInstanceUID for item in elsewhere.got)


# -- priors: a second Wetread is the PACS ----------------------------------------------------------------------------


@pytest.fixture
def pacs(tmp_path, sqlite_template):
    """A PACS with four earlier studies of the patient, one later one, and one of another patient under the same number."""
    with desk_at(tmp_path / "pacs", sqlite_template) as desk:
        for n in range(4):
            for data in study(f"1.3.{n}", date=f"2025010{n + 1}"):
                keep_instance(desk, data, "test")
        for data in (*study("1.3.8", date="20270101"), *study("1.3.9", date="20250601", PatientBirthDate="19990101"),
                     *study("1.3.10", date="20250601", Modality="US")):
            keep_instance(desk, data, "test")
        server = DicomServer(desk, replace(desk.settings, ae_title="PACS"))
        server.start()
        yield desk, server
        server.stop()


@pytest.mark.parametrize("way", ["get", "move"])
def test_a_new_study_brings_its_patients_newest_earlier_studies(tmp_path, sqlite_template, pacs, way):
    there, pacs_server = pacs
    with desk_at(tmp_path / "home", sqlite_template, dicom_nodes=(Node("PACS", "127.0.0.1", pacs_server.port, priors=way),)) as desk:
        server = DicomServer(desk, desk.settings)
        server.start()
        pacs_server.settings = there.settings = replace(pacs_server.settings, dicom_nodes=(Node("WETREAD", "127.0.0.1", server.port),))
        rows = list(send_files(server.port, tmp_path / "new", study("1.2.3")))
        assert all(row["ok"] for row in rows)
        worker = Worker(desk.store, {"priors": Priors(desk, desk.settings).fetch})
        assert worker.run_once() == 1
        server.stop()
        assert [row["id"] for row in desk.studies()] == ["1.2.3"]           # a prior is nobody's work
        with desk.store.read() as tx:
            priors = tx.find("studies", state="prior", order=["id"])
            assert [row["id"] for row in priors] == ["1.3.1", "1.3.2", "1.3.3"]
            assert {row["patient_id"] for row in priors} == {"SIM1"}
            assert len(tx.find("instances", study_id="1.3.3")) == 2
        assert [job["kind"] for job in desk.store.jobs() if job["state"] == "queued"] == ["complete"]


def test_a_prior_that_is_sent_to_be_read_becomes_work(tmp_path, sqlite_template):
    with desk_at(tmp_path / "home", sqlite_template) as desk:
        first, second = study("1.3.1")
        keep_instance(desk, first, "prior:PACS", prior=True)
        assert desk.studies() == []
        keep_instance(desk, second, "test")
        assert [row["state"] for row in desk.studies()] == ["receiving"]


def test_a_pacs_that_is_down_is_asked_again_later(tmp_path, sqlite_template):
    with desk_at(tmp_path / "home", sqlite_template, dicom_nodes=(Node("PACS", "127.0.0.1", 1, priors="get"),)) as desk:
        for data in study("1.2.3"):
            keep_instance(desk, data, "test")
        Worker(desk.store, {"priors": Priors(desk, desk.settings).fetch}).run_once()
        [job] = [job for job in desk.store.jobs() if job["kind"] == "priors"]
        assert (job["state"], job["tries"]) == ("queued", 0)


def send_files(port, folder, instances):
    folder.mkdir()
    for n, data in enumerate(instances):
        (folder / f"{n}.dcm").write_bytes(data)
    return send_dicom("127.0.0.1", port, [folder])


# -- TLS -------------------------------------------------------------------------------------------------------------

openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed: apt-get install openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key) for 127.0.0.1, its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem", "-out",
                    "cert.pem", "-days", "2", "-subj", "/CN=wetread", "-addext", "subjectAltName=IP:127.0.0.1"], cwd=folder, check=True,
                   capture_output=True, timeout=60)
    return folder / "cert.pem", folder / "key.pem"


@openssl
def test_with_a_certificate_only_tls_is_spoken_and_with_an_authority_only_to_its_own(tmp_path, sqlite_template, certificate):
    cert, key = map(str, certificate)
    secure = {"dicom_tls_certificate": cert, "dicom_tls_key": key, "dicom_tls_authority": cert}
    with desk_at(tmp_path / "home", sqlite_template, **secure) as desk:
        server = DicomServer(desk, desk.settings)
        server.start()
        try:
            node = Node("WETREAD", "127.0.0.1", server.port, tls=True)
            with call(desk.settings, node, [(Verification, ["1.2.840.10008.1.2"])]) as association:
                assert association.send_c_echo().Status == 0
            for settings, called in ((desk.settings, replace(node, tls=False)), (replace(desk.settings, dicom_tls_certificate=""), node),
                                     (replace(desk.settings, dicom_tls_authority=""), node)):
                with pytest.raises(StoreError), call(settings, called, [(Verification, ["1.2.840.10008.1.2"])]) as association:
                    association.send_c_echo()
                    if association.is_aborted or not association.is_established:    # TLS 1.3 refuses a client after its first bytes
                        raise StoreError("refused")
        finally:
            server.stop()


@openssl
@needs("echoscu")
def test_dcmtk_speaks_tls_with_the_listener(tmp_path, sqlite_template, certificate):
    cert, key = certificate
    with desk_at(tmp_path / "home", sqlite_template, dicom_tls_certificate=str(cert), dicom_tls_key=str(key)) as desk:
        server = DicomServer(desk, desk.settings)
        server.start()
        code, said = run("echoscu", "+tla", "+cf", cert, "127.0.0.1", server.port)
        server.stop()
        assert code == 0, said


def test_a_certificate_that_is_none_is_a_coded_error(tmp_path, sqlite_template):
    (tmp_path / "no.pem").write_text("no")
    with desk_at(tmp_path / "home", sqlite_template, dicom_tls_certificate=str(tmp_path / "no.pem")) as desk, pytest.raises(InputError, match="PEM"):
        DicomServer(desk, desk.settings).start()


def test_nodes_are_read_from_the_settings_and_what_is_wrong_is_named(tmp_path):
    (tmp_path / "settings.toml").write_text('[[dicom_nodes]]\nae_title = "PACS"\nhost = "10.0.0.2"\nport = 104\nresults = ["SR"]\npriors = "move"\n')
    assert read_settings(tmp_path, {}).dicom_nodes == (Node("PACS", "10.0.0.2", 104, ("SR",), "move"),)
    (tmp_path / "settings.toml").write_text('[[dicom_nodes]]\nae_title = "PACS"\nhost = "10.0.0.2"\nport = 104\nresults = ["PDF"]\n')
    with pytest.raises(InputError, match="dicom_nodes is malformed"):
        read_settings(tmp_path, {})


def test_tls_before_1_2_is_not_spoken(tmp_path, sqlite_template):
    from api.dicom.nodes import client_tls

    assert client_tls(read_settings(tmp_path, {})).minimum_version == ssl.TLSVersion.TLSv1_2
