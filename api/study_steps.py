"""Steps on studies: instances come in, a study is complete, a draft is written."""
import hashlib
import io
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from api.alert_steps import raise_alerts
from api.draft_steps import draft_dict
from api.order_steps import order_from_record, order_of_study, order_priority, present, surviving_id
from api.prior_studies import kept_drafts, priors_from_drafts
from api.schema import TABLES
from api.settings import Settings
from api.store import Job, Store, Tx, insertion, later, now, sync_folder
from data.errors import ImageError, NotFound, SeriesError, StudyRefused, WetreadError
from data.records import Draft, Order, PriorStudy, Refusal, Study, as_json

log = logging.getLogger("wetread.studies")

READ = ("receiving", "complete", "drafted", "refused", "no-draft", "signed")      # states of a study to be read; a prior is none
PATIENT = {"id": "PatientID", "name": "PatientName", "birth_date": "PatientBirthDate", "sex": "PatientSex"}


class StudySteps:
    store: Store
    settings: Settings
    reporter: Any

    # -- in ----------------------------------------------------------------------------------------------------------

    def instance_kept(self, row: dict[str, Any]) -> bool:
        """Record an instance whose file is durable; True when it is new. See Store.keep_instance for the row."""
        return self.store.keep_instance(row)

    def complete_study(self, study_id: str, user: str = "") -> None:
        """Take a study as complete now, without waiting for the quiet period."""
        with self.store.write() as tx:
            if not complete(tx, study_id) and tx.one("studies", id=study_id) is None:
                raise NotFound("there is no study of that StudyInstanceUID; GET /v1/studies lists them")
            if user:
                tx.audit(user, "complete", "study", study_id)

    def complete_quiet_study(self, job: Job) -> None:
        """Job "complete": due when no instance came for the quiet period (each new one puts it off)."""
        with self.store.effect(job) as tx:
            complete(tx, job.payload["study_id"])

    # -- draft -------------------------------------------------------------------------------------------------------

    def draft_study(self, job: Job) -> None:
        """Job "draft": write a draft for one revision of a study; a refusal is a draft too, with its reason."""
        study_id, revision = job.payload["study_id"], job.payload["revision"]
        with self.store.read() as tx:
            row = tx.one("studies", id=study_id)
            instances = tx.find("instances", study_id=study_id, superseded=False, order=["id"])
            request = tx.one("orders", id=row["order_id"]) if row and row["order_id"] else None
            earlier = kept_drafts(tx, row) if row and self.reporter is not None else []
        if row is None or row["revision"] != revision:
            return                              # more instances came; their own job follows
        order = order_from_record(request["record"]) if request else None
        draft, masks, reason = self._try_to_draft(study_id, [self.store.home / i["path"] for i in instances], order, earlier)
        if draft is None:
            with self.store.effect(job) as tx:
                signed = tx.find("drafts", study_id=study_id, status=["final", "amended"], limit=1, columns=("id",))
                tx.change("studies", {"id": study_id, "revision": revision}, state="signed" if signed else "no-draft", reason=reason, updated=now())
            return
        # the id follows from what was read, so that a second go after a crash writes the same files
        id = "d" + hashlib.sha256(f"{study_id}:{revision}".encode()).hexdigest()[:16]
        draft = replace(draft, study=study_id, findings=named_masks(draft, id, self._keep_masks(id, masks)))
        with self.store.effect(job) as tx:
            keep_draft(tx, id, study_id, revision, draft)

    def _try_to_draft(self, study_id: str, paths: list[Path], order: Order | None,
                      earlier: Sequence[dict[str, Any]] = ()) -> tuple[Draft | None, dict[str, NDArray[np.uint8]], str]:
        """(draft, masks, "") or (None, {}, code): images that cannot be used are refused in a draft, a failing model gives none."""
        if self.reporter is None:
            return None, {}, "no-model"
        try:
            study = self._read(paths)
            return (*self.reporter.draft(study, order, priors_of(study, earlier)), "")
        except StudyRefused as error:
            return refusal(study_id, error.reason, error), {}, ""
        except (ImageError, SeriesError) as error:
            return refusal(study_id, "images-not-readable", error), {}, ""
        except Exception as error:
            reason = error.code if isinstance(error, WetreadError) else type(error).__name__
            log.error("no draft for a study: %s", reason)
            return None, {}, reason

    @staticmethod
    def _read(paths: list[Path]) -> Study:
        from data.dicom import read_study

        return read_study(paths)

    def _keep_masks(self, draft_id: str, masks: dict[str, NDArray[np.uint8]]) -> dict[str, str]:
        """Write each mask, durably; mask name -> its path below HOME."""
        folder = self.store.home / "masks" / draft_id
        paths = {}
        for name, mask in masks.items():
            assert re.fullmatch(r"[\w.-]+", name) and not name.startswith("."), "a mask's name is a file name"
            folder.mkdir(parents=True, exist_ok=True)
            paths[name] = f"masks/{draft_id}/{name}.npz"
            body = io.BytesIO()
            np.savez_compressed(body, mask=mask.astype(np.uint8))
            with (folder / f"{name}.npz").open("wb") as file:
                file.write(body.getvalue())
                file.flush()
                os.fsync(file.fileno())
        if paths:
            for made in (folder, folder.parent, self.store.home):
                sync_folder(made)
        return paths

    # -- looking -----------------------------------------------------------------------------------------------------

    def studies(self, limit: int = 200) -> list[dict[str, Any]]:
        """The reading list: most urgent first, then as they came; signed ones last."""
        with self.store.read() as tx:
            rows = tx.find("studies", state=READ, order=["-priority", "arrived", "id"], limit=limit)
        return [summary(row) for row in sorted(rows, key=lambda row: row["state"] == "signed")]

    def study(self, id: str) -> dict[str, Any]:
        """One study with series, instances, the draft to show, all drafts, and its order; raises NotFound."""
        with self.store.read() as tx:
            row = tx.one("studies", id=id)
            if row is None:
                raise NotFound("there is no study of that StudyInstanceUID; GET /v1/studies lists them")
            instances = tx.find("instances", study_id=id, superseded=False, order=["id"])
            order = tx.one("orders", id=row["order_id"]) if row["order_id"] else None
            drafts = [draft_dict(draft) for draft in tx.find("drafts", study_id=id, order=["-revision"])]
        return {**summary(row), "series": series_of(instances), "order": present(order) if order else None, "drafts": drafts,
                "draft": next((draft for draft in drafts if draft["id"] == row["draft_id"]), None)}


class Statements(NamedTuple):
    """Of one more instance of a study; made once, since making them takes longer than the store does."""

    study: Any
    instance: Any
    supersede: Any
    came: Any


@cache
def statements(dialect: str) -> Statements:
    studies, instances = TABLES["studies"], TABLES["instances"]
    columns = ("state", "revision", "order_id", "accession_number", "patient_id")
    return Statements(
        sa.select(*(studies.c[name] for name in columns)).where(studies.c.id == sa.bindparam("id")).with_for_update(),
        insertion(dialect, "instances").on_conflict_do_nothing().returning(sa.literal(1)),
        # sent again with other bytes: the newest is read, the older kept
        sa.update(instances).where(instances.c.sop_uid == sa.bindparam("uid"), instances.c.sha256 != sa.bindparam("digest"),
                                   instances.c.superseded.is_(False)).values(superseded=True),
        sa.update(studies).where(studies.c.id == sa.bindparam("study")).values(last_instance=sa.bindparam("time"), updated=sa.bindparam("time")))


def record_instance(tx: Tx, row: dict[str, Any], quiet_period_s: float, fetches_priors: bool = False) -> bool:
    study_id, sop_uid = row["StudyInstanceUID"], row["SOPInstanceUID"]
    if not study_id or not sop_uid:
        raise ImageError("StudyInstanceUID or SOPInstanceUID is empty; an instance is filed by both")
    run, hot = tx.connection.execute, statements(tx.connection.dialect.name)
    prior = row.get("prior", False)         # fetched to compare with: kept, but nobody's work
    study, new_study = run(hot.study, {"id": study_id}).first(), False
    if study is None:
        patient = {name: row.get(tag, "") for name, tag in PATIENT.items()}
        patient["id"] = surviving_id(tx, patient["id"])
        new_study = tx.add("studies", id=study_id, accession_number=row.get("AccessionNumber", ""), patient_id=patient["id"], patient=patient,
                           date=row.get("StudyDate", ""), description=row.get("StudyDescription", ""), modality=row.get("Modality", ""),
                           state="prior" if prior else "receiving", revision=1, arrived=now(), last_instance=now(), updated=now())
        study = run(hot.study, {"id": study_id}).one()
    header = {name: value for name, value in row.items() if name not in ("sha256", "path", "source", "prior")}
    if run(hot.instance, {"sop_uid": sop_uid, "sha256": row["sha256"], "study_id": study_id, "series_uid": row.get("SeriesInstanceUID", ""),
                          "path": str(row["path"]), "header": header, "source": row.get("source", ""), "received": now(),
                          "superseded": False}).first() is None:
        return False
    run(hot.supersede, {"uid": sop_uid, "digest": row["sha256"]})
    run(hot.came, {"study": study_id, "time": now()})
    if prior and study.state == "prior":
        return True
    values: dict[str, Any] = {}
    if study.state != "receiving":
        values |= {"revision": study.revision + 1, "state": "receiving", "reason": ""}
    if new_study:       # an order that comes later finds the study, and what else may join them is looked for when it is complete
        values |= joined(tx, study_id, study.accession_number, study.patient_id)
    if values:
        tx.change("studies", {"id": study_id}, **values)
    if fetches_priors and (new_study or study.state == "prior"):
        tx.enqueue("priors", f"priors:{study_id}", {"study_id": study_id})
    tx.enqueue("complete", f"complete:{study_id}", {"study_id": study_id}, not_before=later(quiet_period_s), rearm=True)
    return True


def joined(tx: Tx, study_id: str, accession_number: str, patient_id: str) -> dict[str, Any]:
    """What changes when the study's order is found."""
    order_id = order_of_study(tx, accession_number, study_id, patient_id)
    return {"order_id": order_id, "priority": order_priority(tx, order_id)} if order_id else {}


def complete(tx: Tx, study_id: str) -> bool:
    study = tx.one("studies", id=study_id, lock=True)
    if study is None or study["state"] != "receiving":
        return False
    order = {} if study["order_id"] else joined(tx, study_id, study["accession_number"], study["patient_id"])
    tx.change("studies", {"id": study_id}, state="complete", updated=now(), **order)
    tx.enqueue("draft", f"draft:{study_id}:{study['revision']}", {"study_id": study_id, "revision": study["revision"]})
    return True


def keep_draft(tx: Tx, id: str, study_id: str, revision: int, draft: Draft) -> None:
    """Store a draft of this revision and withdraw older unsigned ones; a signed report stays what is shown."""
    study = tx.one("studies", id=study_id, lock=True)
    if study is None or study["revision"] != revision:
        return                                      # more instances came while it was written
    tx.insert("drafts", id=id, study_id=study_id, revision=revision, status=draft.status, version=1, record=as_json(draft),
              created=now(), updated=now())
    tx.insert("draft_versions", draft_id=id, version=1, status=draft.status, record=as_json(draft), user="", time=now())
    raise_alerts(tx, study_id, id, draft)
    signed = False
    for other in tx.find("drafts", study_id=study_id, lock=True):
        signed |= other["status"] in ("final", "amended")
        if other["id"] != id and other["status"] in ("draft", "preliminary"):
            version = other["version"] + 1
            tx.change("drafts", {"id": other["id"]}, status="cancelled", version=version, updated=now())
            tx.insert("draft_versions", draft_id=other["id"], version=version, status="cancelled", record=other["record"],
                      user="", time=now())
    values: dict[str, Any] = {"priority": max(draft.priority, order_priority(tx, study["order_id"]) if study["order_id"] else 0.0)}
    values |= {"state": "signed"} if signed else {"state": "refused" if draft.refused else "drafted", "draft_id": id}
    tx.change("studies", {"id": study_id}, reason=draft.refused.code if draft.refused else "", updated=now(), **values)


def priors_of(study: Study, earlier: Sequence[dict[str, Any]]) -> tuple[PriorStudy, ...]:
    """What the earlier studies' drafts say; under the number in the images, which may be older than the one that the store joined them by."""
    try:
        return priors_from_drafts(earlier, study.patient.id) if earlier else ()
    except Exception as error:      # a draft without a comparison, which says so, is worth more than none
        log.error("earlier drafts could not be compared with: %s", type(error).__name__)
        return ()


def refusal(study_id: str, code: str, error: WetreadError) -> Draft:
    return Draft(study=study_id, status="draft", refused=Refusal(code, str(error)), findings=(), sections={}, sentences=(), model={})


def named_masks(draft: Draft, id: str, paths: dict[str, str]) -> tuple[Any, ...]:
    """The findings, with the path of each mask in place of its name."""
    return tuple(replace(finding, evidence=tuple(replace(seen, mask=paths.get(seen.mask, "")) for seen in finding.evidence))
                 for finding in draft.findings)


def summary(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "state", "reason", "revision", "priority", "accession_number", "patient", "date", "description",
                                         "modality", "order_id", "draft_id", "arrived", "last_instance", "updated")}


def series_of(instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Series by their number, instances by theirs."""
    series: dict[str, dict[str, Any]] = {}
    for row in instances:
        header = row["header"]
        one = series.setdefault(row["series_uid"], {"series_uid": row["series_uid"], "modality": header.get("Modality", ""),
                                                    "description": header.get("SeriesDescription", ""),
                                                    "number": whole(header.get("SeriesNumber")), "instances": []})
        one["instances"].append({"sop_uid": row["sop_uid"], "path": row["path"], "number": whole(header.get("InstanceNumber")),
                                 "position": header.get("ImagePositionPatient", "")})
    for one in series.values():
        one["instances"].sort(key=lambda i: (i["number"] is None, i["number"] or 0))
    return sorted(series.values(), key=lambda s: (s["number"] is None, s["number"] or 0))


def whole(text: Any) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,9}", str(text or "").strip()) else None
