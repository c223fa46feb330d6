"""Steps of the FHIR side: orders taken as ServiceRequests, and what FHIR reads and searches."""
from collections.abc import Callable
from typing import Any

from api.fhir.resources import RELEASED, diagnostic_report, imaging_study, observations, order_provenance, report_provenance, service_request, task
from api.fhir.search import Query
from api.fhir.values import ID, Resource
from api.order_steps import order_key, same_patient
from api.store import Store, new_id, now
from api.study_steps import series_of
from data.errors import InputError, NotFound, StateError
from data.records import Order

STUDIES_MAX = 1000          # whose reports one search looks through
TARGETS_MAX = 1000


class FhirSteps:
    store: Store
    book: Any
    _place: Callable[..., str]      # OrderSteps has it: the one step that applies an order, from whatever side

    # -- in ----------------------------------------------------------------------------------------------------------

    def take_request(self, order: Order, system: str, user: str) -> tuple[str, bool]:
        """(the desk's id, whether it is new): an order known by its number in `system` is changed, by the same step as an HL7 order."""
        key = order_key(order, system)
        if not key:
            raise InputError("identifier is missing; send the order's own number, so that sending it twice makes one order")
        with self.store.write() as tx:
            known = tx.one("orders", key=key, lock=True) is not None
            id = self._place(tx, order, key, system, now(), now(), 0, new_id("e"), user)
            tx.audit(user, "add" if not known else "change", "order", id)
        return id, not known

    def change_request(self, id: str, order: Order, system: str, version: int | None, user: str) -> None:
        """PUT: the order of this id; raises NotFound, StateError when its version is another, InputError when its number is."""
        with self.store.write() as tx:
            row = tx.one("orders", id=id, lock=True)
            if row is None:
                raise NotFound("there is no order of that id; POST a ServiceRequest to make one")
            if version is not None and version != row["version"]:
                raise StateError(f"If-Match is version {version}, the order is at {row['version']}; read it again")
            for name in ("placer_number", "filler_number", "accession_number"):
                given, stands = getattr(order, name), row[name]
                if given and stands and given != stands:
                    raise InputError(f"identifier ({name}) is another than the one of this order; POST another order, or send its own number")
            if not same_patient(tx, order.patient.id, row["patient_id"]):
                raise InputError("subject is another patient than the one of this order; cancel it and POST a new one")
            self._place(tx, order, row["key"], row["sender"], now(), now(), 0, new_id("e"), user)
            tx.audit(user, "change", "order", id)

    # -- out ---------------------------------------------------------------------------------------------------------

    def fhir_read(self, kind: str, id: str) -> Resource:
        """One resource; raises NotFound."""
        if kind == "Provenance":
            target, _, rest = id.rpartition("-")
            owner = "DiagnosticReport" if rest[:1] == "v" else "Task"
            found = self.provenances(f"{owner}/{target}") if target else []
        elif kind == "Observation":
            found, _ = self.fhir_search("DiagnosticReport", Query(equal={"id": [id.rpartition("-")[0]]}), observed=True)
        else:
            found, _ = self.fhir_search(kind, Query(equal={"id": [id]}))
        one = next((row for row in found if row["id"] == id), None)
        if one is None:
            raise NotFound(f"there is no {kind} of that id; GET /fhir/{kind} lists them")
        return one

    def fhir_search(self, kind: str, query: Query, observed: bool = False) -> tuple[list[Resource], int | None]:
        """(a page of resources, how many there are in all; None where only the page was looked at)."""
        if kind == "Provenance":
            found = self.provenances(query.target)
            return found[query.offset:query.offset + query.count], len(found)
        if kind in ("ServiceRequest", "Task"):
            make = service_request if kind == "ServiceRequest" else task
            rows, total = self._rows("orders", query, query.equal)
            return [make(row, self.book) for row in rows], total
        if kind == "ImagingStudy":
            return self._studies(query)
        return self._reports(kind, query, observed)

    def _rows(self, table: str, query: Query, equal: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
        with self.store.read() as tx:
            total = tx.count(table, ranges=query.ranges, any_of=query.numbers, **equal)
            rows = tx.find(table, order=query.order, limit=query.count, offset=query.offset, ranges=query.ranges, any_of=query.numbers, **equal)
        return rows, total

    def _studies(self, query: Query) -> tuple[list[Resource], int]:
        # a study comes to FHIR when its UID is an id there
        query.order = [name.replace("created", "arrived") for name in query.order]
        rows, total = self._rows("studies", query, query.equal)
        found = []
        with self.store.read() as tx:
            for row in rows:
                if ID.fullmatch(row["id"]):
                    found.append(imaging_study(row, series_of(tx.find("instances", study_id=row["id"], superseded=False, order=["id"]))))
        return found, total

    def _reports(self, kind: str, query: Query, observed: bool) -> tuple[list[Resource], int | None]:
        """Reports, or (observed, or for Observation) their measurements, which are counted only by looking."""
        equal: dict[str, Any] = dict(query.equal)
        measured = observed or kind == "Observation"
        asked = equal.pop("id", None) if kind == "Observation" else None
        if asked is not None:
            equal["id"] = sorted({id.rpartition("-")[0] for id in asked})
        with self.store.read() as tx:
            if query.study or query.study_numbers:
                studies = tx.find("studies", limit=STUDIES_MAX + 1, columns=("id",), any_of=query.study_numbers, **query.study)
                if len(studies) > STUDIES_MAX:
                    raise InputError(f"more than {STUDIES_MAX} studies fit; search more narrowly")
                equal["study_id"] = [row["id"] for row in studies]
            if measured:
                equal.setdefault("status", list(RELEASED))
            total = tx.count("drafts", ranges=query.ranges, **equal)
            window = {} if measured and not observed else {"limit": query.count, "offset": query.offset}
            if measured and total > STUDIES_MAX:
                raise InputError(f"more than {STUDIES_MAX} reports fit; search more narrowly")
            drafts = tx.find("drafts", order=query.order, ranges=query.ranges, **window, **equal)
            owners = {row["id"]: row for row in tx.find("studies", id=sorted({draft["study_id"] for draft in drafts}))} if drafts else {}
            cancelled = [draft["id"] for draft in drafts if draft["status"] == "cancelled"]
            out = {row["draft_id"] for row in tx.find("draft_versions", draft_id=cancelled, status=list(RELEASED), columns=("draft_id",))} \
                if cancelled else set()
        if measured:
            found = [one for draft in drafts for one in observations(draft, owners[draft["study_id"]]) if asked is None or one["id"] in asked]
            return (found, None) if observed else (found[query.offset:query.offset + query.count], len(found))
        made = [diagnostic_report(draft, owners[draft["study_id"]], draft["id"] in out) for draft in drafts]
        # cancelled and entered-in-error are one state here: which of the two it is shows only in the report's history
        exact = not query.statuses & {"cancelled", "entered-in-error"}
        return [row for row in made if exact or row["status"] in query.statuses], total if exact else None

    def provenances(self, target: str) -> list[Resource]:
        kind, _, id = target.rpartition("/")
        kind = kind.rpartition("/")[2]
        with self.store.read() as tx:
            if kind == "DiagnosticReport" and (draft := tx.one("drafts", id=id)):
                versions = tx.find("draft_versions", draft_id=id, order=["version"], limit=TARGETS_MAX)
                return [report_provenance(version, draft) for version in versions]
            if kind in ("Task", "ServiceRequest"):
                events = tx.find("order_events", order_id=id, order=["id"], limit=TARGETS_MAX)
                return [order_provenance(event) for event in events if event["what"] in ("suggested", "accepted", "accept", "change", "reject")
                        and (event["detail"] or {}).keys() & {"suggestion", "protocol"}]
        return []
