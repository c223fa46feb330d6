"""Query/Retrieve as SCP over what is kept: C-FIND, C-MOVE to a node of dicom_nodes, C-GET. Source: PS3.4 annex C."""
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]   # made at import time
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from api.dicom import archive
from api.dicom.matching import answer, text, with_character_set
from api.dicom.nodes import client_tls, node_of
from api.settings import Settings
from api.workflow import Desk

SERVICES = (PatientRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelFind,
            PatientRootQueryRetrieveInformationModelMove, StudyRootQueryRetrieveInformationModelMove,
            PatientRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelGet)
PENDING, CANCELLED, OUT_OF_RESOURCES, UNKNOWN_DESTINATION, NOT_OF_CLASS = 0xFF00, 0xFE00, 0xA700, 0xA801, 0xA900
RESULTS_MAX = 1000
SEARCH_S = 20.0
CONTEXTS_MAX = 128
# the keys each level needs (C.4.1.1.3.1): those of the levels above must name one entity
NEEDED = {"STUDY": (), "SERIES": ("StudyInstanceUID",), "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID")}


def find_kept(desk: Desk, query: Dataset, ae_title: str, cancelled: Any = lambda: False) -> Iterator[tuple[int, Dataset | None]]:
    """(status, identifier) for each match; ends with out of resources past RESULTS_MAX or SEARCH_S."""
    level, end = text(query, "QueryRetrieveLevel"), time.monotonic() + SEARCH_S
    if level not in NEEDED or any(not text(query, name) for name in NEEDED[level]):
        yield NOT_OF_CLASS, status(NOT_OF_CLASS, "[E109] QueryRetrieveLevel or a unique key above it is missing")
        return
    for count, item in enumerate(archive.find(desk.store, level, query)):
        if cancelled():
            yield CANCELLED, None
            return
        if count == RESULTS_MAX or time.monotonic() > end:
            yield OUT_OF_RESOURCES, status(OUT_OF_RESOURCES, f"more than {RESULTS_MAX} match, or it takes too long; ask for less")
            return
        found = with_character_set(answer(query, item), query.get("SpecificCharacterSet"))
        found.QueryRetrieveLevel, found.RetrieveAETitle = level, ae_title
        yield PENDING, found


def wanted(desk: Desk, query: Dataset) -> list[Path]:
    """The files a retrieval names; none when it names nothing."""
    study, series, instance = archive.named(query)
    rows = archive.kept(desk.store, study, series, instance)
    if not rows and text(query, "QueryRetrieveLevel") == "PATIENT" and text(query, "PatientID"):
        with desk.store.read() as tx:
            rows = archive.kept(desk.store, [study["id"] for study in tx.find("studies", patient_id=text(query, "PatientID"))])
    return [desk.store.home / row["path"] for row in rows]


def get(desk: Desk, query: Dataset, cancelled: Any) -> Iterator[Any]:
    """What pynetdicom's C-GET asks for: how many, then each instance."""
    paths = wanted(desk, query)
    yield len(paths)
    yield from each(paths, cancelled)


def move(desk: Desk, settings: Settings, query: Dataset, destination: str, cancelled: Any) -> Iterator[Any]:
    """What pynetdicom's C-MOVE asks for: where to, how many, then each instance; only to a node of dicom_nodes."""
    node = node_of(settings, destination.strip())
    if node is None:
        yield None, None        # 0xA801, move destination unknown
        return
    paths = wanted(desk, query)
    kinds = list(dict.fromkeys(kind(path) for path in paths))[:CONTEXTS_MAX]
    extra = {"tls_args": (client_tls(settings), node.host)} if node.tls else {}
    yield node.host, node.port, {"contexts": [build_context(sop_class, [syntax]) for sop_class, syntax in kinds], **extra}
    yield len(paths)
    yield from each(paths, cancelled)


def each(paths: list[Path], cancelled: Any) -> Iterator[tuple[int, Dataset | None]]:
    for path in paths:
        if cancelled():
            yield CANCELLED, None
            return
        yield PENDING, dcmread(path)


def kind(path: Path) -> tuple[str, str]:
    header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    return str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID)


def status(code: int, words: str) -> Dataset:
    found = Dataset()
    found.Status, found.ErrorComment = code, words[:64]
    return found
