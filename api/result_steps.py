"""Results as DICOM: what a report leaves as beside its HL7 message, kept with the study and sent to the nodes that want it."""
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.jobs import Dead
from api.settings import Settings
from api.store import Job, Store, Tx, now
from data.errors import ImageError, WetreadError

OURS = "wetread:results"            # source of an instance we made ourselves
WANTED_AS = {"SR": "SR", "MEASUREMENTS": "SR", "SEG": "SEG", "KO": "KO"}    # kind of a result -> what a node's `results` calls it


class ResultSteps:
    store: Store
    settings: Settings

    def make_results(self, job: Job) -> None:
        """Job "results": SR, SEG, measurements and key images of one version of a draft, kept and queued for each node."""
        from api.dicom.intake import write_durably
        from data.dicom import instance_header

        draft_id, version = job.payload["draft_id"], job.payload["version"]
        with self.store.read() as tx:
            draft = tx.one("drafts", id=draft_id)
            said = tx.one("draft_versions", draft_id=draft_id, version=version)
            versions = tx.find("draft_versions", draft_id=draft_id, order=["version"])
            assert draft is not None and said is not None
            instances = tx.find("instances", study_id=draft["study_id"], superseded=False, order=["id"])
        paths = [self.store.home / row["path"] for row in instances if row["source"] != OURS]
        before = [row["version"] for row in versions if row["version"] < version and row["status"] in ("final", "amended")]
        rows = {}
        for kind, data in make_objects(self.store.home, said, paths, before[-1] if before else None):
            header = instance_header(data)
            path, digest = content_path(data)
            write_durably(self.store.home, path, data)
            rows[kind] = {"header": header, "sha256": digest, "path": str(path)}
        with self.store.effect(job) as tx:
            keep_results(tx, self.settings, draft_id, draft["study_id"], rows)


def content_path(data: bytes) -> tuple[Path, str]:
    import hashlib

    digest = hashlib.sha256(data).hexdigest()
    return Path("dicom") / digest[:2] / f"{digest}.dcm", digest


def make_objects(home: Path, said: dict[str, Any], paths: list[Path], before: int | None) -> list[tuple[str, bytes]]:
    """(kind, bytes) of each result; raises Dead when no image of the study can be read, since an SR refers to what was read."""
    from dataclasses import replace

    from api.dicom import results
    from api.dicom.sr import Grounds, report_text, with_type_2
    from data.dicom import read_header, why_no_image

    images = []
    for path in paths:
        try:
            header = read_header(path, "an instance")
        except ImageError:
            continue
        if not why_no_image(header):
            images.append(with_type_2(header))
    if not images:
        raise Dead("no image of the study can be read")
    record, person = said["record"], said["status"] in ("final", "amended")
    report = results.Report(said["draft_id"], said["version"], said["status"], stated(record), software(record), said["user"] if person else "",
                            said["time"])
    identity = report.identity("SR")
    if before:
        identity = replace(identity, before=(identity.series_uid, report.uid("SR", before)))
    outlines, segments = None, {}
    volume, masks, series = outlined(home, report.findings, paths, images)
    if masks:
        outlines, segments = results.segmentation(report, volume, masks, series), {id: n for n, id in enumerate(masks, 1)}
    found = {finding["id"]: finding for finding in report.findings}
    grounds = Grounds(record["sentences"], found, outlines, segments, {id: report.uid(f"track:{id}", 0) for id in found})
    made: list[tuple[str, Any]] = [("SR", report_text(said["status"], record["sections"], images, identity, grounds))]
    if outlines is not None:
        made.append(("SEG", outlines))
    made += [("MEASUREMENTS", results.measurements(report, images, segments, outlines)), ("KO", results.key_images(report, images))]
    return [(kind, as_file(dataset)) for kind, dataset in made if dataset is not None]


def stated(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The findings that the report's sentences still rest on: one whose sentence a person rewrote is no longer the model's."""
    cited = {id for sentence in record["sentences"] for id in sentence["findings"]}
    return [finding for finding in record["findings"] if finding["present"] and finding["id"] in cited]


def software(record: dict[str, Any]) -> str:
    words = "; ".join(f"{name} {value}" for name, value in record["model"].items() if isinstance(value, str) and value)
    return words[:64] or "none"


def outlined(home: Path, findings: list[dict[str, Any]], paths: list[Path], images: list[Any]) -> tuple[Any, dict[str, NDArray[np.uint8]], list[Any]]:
    """(volume, masks by finding id, headers of the volume's series), of the series with most masks; masks is empty where none can be placed."""
    from data.dicom import read_study

    named = {finding["id"]: seen for finding in findings for seen in finding["evidence"] if seen["mask"]}
    if not named:
        return None, {}, []
    try:
        volumes = read_study(paths).volumes
    except WetreadError:
        return None, {}, []
    best: tuple[Any, dict[str, NDArray[np.uint8]], list[Any]] = (None, {}, [])
    for volume in volumes:
        masks = {}
        for id, seen in named.items():
            if seen["series_uid"] == volume.series_uid and volume.affine is not None:
                with np.load(home / seen["mask"], allow_pickle=False) as file:
                    mask = file["mask"]
                if mask.shape == volume.pixels.shape and mask.any():
                    masks[id] = mask
        series = [image for image in images if str(image.SeriesInstanceUID) == volume.series_uid]
        if len(masks) > len(best[1]) and series and series[0].get("FrameOfReferenceUID"):
            best = (volume, masks, series)
    return best


def as_file(dataset: Any) -> bytes:
    body = io.BytesIO()
    dataset.save_as(body, enforce_file_format=True)
    return body.getvalue()


def keep_results(tx: Tx, settings: Settings, draft_id: str, study_id: str, rows: dict[str, dict[str, Any]]) -> None:
    """Put the results beside the study's images without opening it again, withdraw those of earlier versions, and queue them."""
    for old in tx.find("instances", study_id=study_id, source=OURS, superseded=False, columns=("id",)):
        tx.change("instances", {"id": old["id"]}, superseded=True)
    for kind, row in rows.items():
        uid = row["header"]["SOPInstanceUID"]
        if not tx.add("instances", sop_uid=uid, sha256=row["sha256"], study_id=study_id, series_uid=row["header"]["SeriesInstanceUID"],
                      path=row["path"], header=row["header"], source=OURS, received=now(), superseded=False):
            tx.change("instances", {"sop_uid": uid, "sha256": row["sha256"]}, superseded=False)         # the second go made the same bytes
        for node in settings.dicom_nodes:
            if WANTED_AS[kind] in node.results:
                own = f"result:{uid}:{node.ae_title}"
                if tx.add("outbox", key=own, destination=node.ae_title, kind=f"DICOM {WANTED_AS[kind]}", draft_id=draft_id, control_id=uid, raw=None,
                          state="queued", reason="", created=now(), updated=now()):
                    queued = tx.one("outbox", key=own)
                    assert queued is not None
                    tx.enqueue("send-dicom", f"send-dicom:{own}", {"outbox_id": str(queued["id"])})
