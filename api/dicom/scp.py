"""The DICOM listener: every service as SCP, one handler each; an instance is durable before its status is 0x0000."""
import logging
from collections.abc import Callable, Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]   # made at import time
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    Verification,
)

from api.dicom import listener, performed, retrieve
from api.dicom.commitment import take_request
from api.dicom.intake import keep_instance
from api.dicom.nodes import server_tls
from api.dicom.worklist import find_worklist
from api.settings import Settings, may_speak
from api.workflow import Desk
from data.errors import ImageError, StoreError, WetreadError

log = logging.getLogger("wetread.dicom")
# PS3.4 annex B.2.3 and PS3.7 annex C
SUCCESS, NOT_AUTHORIZED, PROCESSING_FAILURE, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0x0124, 0x0110, 0xA700, 0xC000
SERVICES = (Verification, ModalityWorklistInformationFind, ModalityPerformedProcedureStep, StorageCommitmentPushModel, *retrieve.SERVICES)
PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]     # a deflated query of a kilobyte inflates to a gigabyte
ASSOCIATIONS_MAX = 25
IDLE_S = 60


class DicomServer:
    """Listens from start() to stop(), in threads of its own; `port` is the real one when settings ask for 0."""

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self.desk, self.settings, self.port = desk, settings, settings.dicom
        self.server: Any = None

    def start(self) -> None:
        ae = AE(ae_title=self.settings.ae_title)
        ae.maximum_associations = ASSOCIATIONS_MAX
        ae.maximum_pdu_size = listener.PDU_MAX_BYTES
        ae.network_timeout = IDLE_S
        syntaxes = list(dict.fromkeys([*ALL_TRANSFER_SYNTAXES, *AllTransferSyntaxes]))
        for context in AllStoragePresentationContexts:
            # a C-GET turns the roles: the peer stores what we send
            ae.add_supported_context(context.abstract_syntax, syntaxes, scu_role=True, scp_role=True)
        for service in SERVICES:
            ae.add_supported_context(service, PLAIN)
        handlers = [(evt.EVT_C_STORE, self.store), (evt.EVT_C_ECHO, self.echo), (evt.EVT_C_FIND, self.find), (evt.EVT_C_MOVE, self.move),
                    (evt.EVT_C_GET, self.get), (evt.EVT_N_CREATE, self.create), (evt.EVT_N_SET, self.change), (evt.EVT_N_ACTION, self.commit)]
        secure = server_tls(self.settings)
        try:
            self.server = listener.start(ae, (self.settings.host, self.settings.dicom), handlers, secure,
                                         lambda peer: may_speak(peer, self.settings.dicom_peers))
        except OSError as error:
            raise StoreError(f"DICOM port {self.settings.dicom} on {self.settings.host} cannot be opened ({error.strerror}); "
                             "stop what listens there or choose another with --dicom") from None
        self.port = self.server.server_address[1]

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server = None

    # -- services ----------------------------------------------------------------------------------------------------

    def echo(self, event: Any) -> int:
        return SUCCESS if self.peer_allowed(event) else NOT_AUTHORIZED

    def store(self, event: Any) -> int | Dataset:
        if not self.peer_allowed(event):
            return not_authorized()
        try:
            # what comes because we asked a PACS to move it here is a prior; some name themselves as the originator
            origin = str(event.request.MoveOriginatorApplicationEntityTitle or "").strip()
            prior = self.desk.store.fetches_priors and origin in (self.settings.ae_title, caller(event))
            keep_instance(self.desk, event.encoded_dataset(), source(event), prior)
        except StoreError as error:
            log.error("instance not kept: %s", error.code)
            return status(OUT_OF_RESOURCES, str(error))
        except ImageError as error:
            log.warning("instance refused: %s", error.code)
            return status(CANNOT_UNDERSTAND, str(error))
        except WetreadError as error:
            log.warning("instance refused: %s", error.code)
            return status(CANNOT_UNDERSTAND, str(error))
        except Exception as error:      # a peer gets a status, never a closed socket; the words of an unknown error may hold patient data
            log.error("instance not kept: %s", type(error).__name__)
            return status(OUT_OF_RESOURCES, "[E100] not kept; see the log")
        return SUCCESS

    def find(self, event: Any) -> Iterator[tuple[int | Dataset, Dataset | None]]:
        if not self.peer_allowed(event):
            yield not_authorized(), None
            return
        try:
            def cancelled() -> bool:
                return bool(event.is_cancelled)

            rows = find_worklist(self.desk, event.identifier, caller(event), cancelled) \
                if event.request.AffectedSOPClassUID == ModalityWorklistInformationFind \
                else retrieve.find_kept(self.desk, event.identifier, self.settings.ae_title, cancelled)
            for code, found in rows:
                yield (found, None) if found is not None and "Status" in found else (code, found)
        except WetreadError as error:
            log.error("query not answered: %s", error.code)
            yield status(OUT_OF_RESOURCES, str(error)), None
        except Exception as error:
            log.error("query not answered: %s", type(error).__name__)
            yield status(CANNOT_UNDERSTAND, "[E100] the query was not understood; see the log"), None

    def move(self, event: Any) -> Iterator[Any]:
        if not self.peer_allowed(event):
            yield None, None
            return
        yield from retrieve.move(self.desk, self.settings, event.identifier, str(event.move_destination), lambda: event.is_cancelled)

    def get(self, event: Any) -> Iterator[Any]:
        if not self.peer_allowed(event):
            yield 0
            yield not_authorized(), None
            return
        yield from retrieve.get(self.desk, event.identifier, lambda: event.is_cancelled)

    def create(self, event: Any) -> tuple[int | Dataset, Dataset | None]:
        return self.normalized(event, lambda: performed.create(
            self.desk, str(event.request.AffectedSOPInstanceUID or ""), event.attribute_list, source(event)))

    def change(self, event: Any) -> tuple[int | Dataset, Dataset | None]:
        return self.normalized(event, lambda: performed.change(
            self.desk, str(event.request.RequestedSOPInstanceUID or ""), event.modification_list, source(event)))

    def commit(self, event: Any) -> tuple[int | Dataset, Dataset | None]:
        return self.normalized(event, lambda: (take_request(self.desk.store, self.settings, event), None))

    def normalized(self, event: Any, step: Callable[[], tuple[Dataset, Dataset | None]]) -> tuple[int | Dataset, Dataset | None]:
        """A DIMSE-N service: its own status, or a processing failure with the coded error."""
        if not self.peer_allowed(event):
            return not_authorized(), None
        try:
            return step()
        except WetreadError as error:
            log.error("a request was not carried out: %s", error.code)
            return status(PROCESSING_FAILURE, str(error)), None
        except Exception as error:
            log.error("a request was not carried out: %s", type(error).__name__)
            return status(PROCESSING_FAILURE, "[E100] not kept; see the log"), None

    def peer_allowed(self, event: Any) -> bool:
        return may_speak(event.assoc.requestor.address, self.settings.dicom_peers)


def caller(event: Any) -> str:
    return str(event.assoc.requestor.ae_title).strip()


def source(event: Any) -> str:
    return f"dicom:{caller(event)}@{event.assoc.requestor.address}"


def not_authorized() -> Dataset:
    return status(NOT_AUTHORIZED, "[E112] this peer is not in dicom_peers")


def status(code: int, words: str) -> Dataset:
    """A status with its Error Comment, which holds 64 characters."""
    answer = Dataset()
    answer.Status, answer.ErrorComment = code, words[:64]
    return answer
