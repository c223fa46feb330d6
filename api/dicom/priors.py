"""A patient's earlier studies, fetched from the PACS when a new one arrives: C-FIND, then C-MOVE to ourselves or C-GET."""
import logging
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import build_role, evt
from pynetdicom.sop_class import BasicTextSRStorage as TextReport  # type: ignore[attr-defined]
from pynetdicom.sop_class import ComprehensiveSRStorage as Report  # type: ignore[attr-defined]
from pynetdicom.sop_class import (  # type: ignore[attr-defined]   # made at import time
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from api.dicom.intake import keep_instance
from api.dicom.matching import text, values
from api.dicom.nodes import associated
from api.jobs import Dead, Later
from api.settings import Node, Settings
from api.store import Job, later
from api.workflow import Desk
from data.errors import InputError, StoreError, WetreadError

log = logging.getLogger("wetread.dicom")

Find, Move, Get = (StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove,
                   StudyRootQueryRetrieveInformationModelGet)
PRIORS_MAX = 3                  # newest earlier studies of a patient
FOUND_MAX = 500
MODALITIES = {"CT", "MR"}
CLASSES = (CTImageStorage, MRImageStorage, EnhancedCTImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedCTImageStorage,
           LegacyConvertedEnhancedMRImageStorage, SecondaryCaptureImageStorage, TextReport, Report)
RETRY_S, PATIENCE_S = 60.0, 6 * 3600.0      # a prior that comes after the report was read helps nobody
KEYS = ("PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "StudyTime", "ModalitiesInStudy", "NumberOfStudyRelatedInstances")


class Priors:
    def __init__(self, desk: Desk, settings: Settings) -> None:
        self.desk, self.settings = desk, settings

    def fetch(self, job: Job) -> None:
        """Job "priors": for each node with `priors`, the newest earlier CT and MR studies of the same patient that are not kept yet."""
        with self.desk.store.read() as tx:
            study = tx.one("studies", id=job.payload["study_id"])
        if study is None or not study["patient_id"]:
            return
        try:
            for node in self.settings.dicom_nodes:
                if node.priors:
                    self.fetch_from(node, study)
        except (StoreError, InputError) as error:
            if study["arrived"] < later(-PATIENCE_S):
                raise Dead(error.code) from None
            raise Later(f"priors could not be fetched ({error.code})", RETRY_S) from None

    def fetch_from(self, node: Node, study: dict[str, Any]) -> None:
        service = Move if node.priors == "move" else Get
        contexts: list[tuple[str, list[str]]] = [(Find, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]), (service, ["1.2.840.10008.1.2"])]
        roles = []
        if node.priors == "get":
            contexts += [(sop_class, list(AllTransferSyntaxes)) for sop_class in CLASSES]
            roles = [build_role(sop_class, scp_role=True) for sop_class in CLASSES]
        handlers = [(evt.EVT_C_STORE, self.keep, [node, study["patient_id"]])]
        with associated(self.settings, node, contexts, roles, handlers) as association:
            for prior in self.choose(find(association, study), study):
                self.retrieve(association, node, service, prior)

    def choose(self, found: Iterator[Dataset], study: dict[str, Any]) -> list[Dataset]:
        """The newest that are surely this patient's, earlier, of a modality we read, and not here yet."""
        born, known = study["patient"].get("birth_date", ""), []
        for row in found:
            other = text(row, "PatientBirthDate")
            same = text(row, "PatientID") == study["patient_id"] and not (born and other and born != other)
            earlier = not study["date"] or text(row, "StudyDate") <= study["date"]
            modalities = {str(value) for value in values(row["ModalitiesInStudy"])} if "ModalitiesInStudy" in row else set()
            if same and earlier and text(row, "StudyInstanceUID") not in ("", study["id"]) and modalities & MODALITIES:
                known.append(row)
        known.sort(key=lambda row: (text(row, "StudyDate"), text(row, "StudyTime")), reverse=True)
        return [row for row in known[:PRIORS_MAX] if not self.here(row)]

    def here(self, row: Dataset) -> bool:
        """Kept already, and whole as far as the node says."""
        with self.desk.store.read() as tx:
            known = tx.one("studies", id=text(row, "StudyInstanceUID"))
            count = len(tx.find("instances", study_id=known["id"], superseded=False, columns=("id",))) if known else 0
        number = text(row, "NumberOfStudyRelatedInstances")
        return known is not None and (known["state"] != "prior" or not number.isdigit() or count >= int(number))

    def retrieve(self, association: Any, node: Node, service: str, prior: Dataset) -> None:
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", prior.StudyInstanceUID
        answers = association.send_c_move(query, self.settings.ae_title, service) if service == Move else association.send_c_get(query, service)
        statuses = [status for status, _ in answers]
        last = statuses[-1] if statuses else None
        code = last.get("Status") if last is not None else None
        if code is None:
            raise StoreError(f"{node.ae_title} did not end the retrieval of a prior; try again")
        if code != 0:
            log.warning("%s gave a prior with status 0x%04X", node.ae_title, code)

    def keep(self, event: Any, node: Node, patient_id: str) -> int:
        """A C-STORE of our C-GET; what is not this patient's is not taken."""
        try:
            if text(event.dataset, "PatientID") != patient_id:
                return 0xA900
            keep_instance(self.desk, event.encoded_dataset(), f"prior:{node.ae_title}", prior=True)
        except StoreError:
            return 0xA700
        except WetreadError:
            return 0xC000
        return 0x0000


def find(association: Any, study: dict[str, Any]) -> Iterator[Dataset]:
    query = Dataset()
    query.QueryRetrieveLevel, query.SpecificCharacterSet = "STUDY", "ISO_IR 192"
    for name in KEYS:
        setattr(query, name, "" if name != "NumberOfStudyRelatedInstances" else None)
    query.PatientID = study["patient_id"]
    for count, (status, row) in enumerate(association.send_c_find(query, Find)):
        if "Status" not in status:
            raise StoreError("the search for priors was not answered; try again")
        if row is not None and count < FOUND_MAX:
            yield row
