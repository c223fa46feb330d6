"""FHIR search: parameters read into conditions on our rows, and rows into a Bundle with its pages. Source: R4 (4.0.1) search.html, http.html."""
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from api.fhir.values import ID, Resource
from data.errors import InputError

COUNT, COUNT_MAX, OFFSET_MAX = 50, 200, 1_000_000
FREE = {"_format", "_pretty", "_summary", "_total"}           # taken and not needed
PAGING = {"_count", "_offset", "_sort"}
DATE = re.compile(r"(eq|ge|gt|le|lt|sa|eb)?(\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?)?)")
PATIENT = ("patient.identifier", "subject.identifier", "patient:identifier", "subject:identifier")
# type -> parameter -> (how it is read, our column)
PARAMETERS: dict[str, dict[str, tuple[str, str]]] = {
    "ServiceRequest": {"_id": ("id", "id"), "identifier": ("number", ""), "status": ("status", "state"), "authored": ("time", "created"),
                       "_lastUpdated": ("time", "updated")},
    "Task": {"_id": ("id", "id"), "based-on": ("reference:ServiceRequest", "id"), "focus": ("reference:ServiceRequest", "id"),
             "status": ("status", "state"), "authored-on": ("time", "created"), "_lastUpdated": ("time", "updated")},
    "ImagingStudy": {"_id": ("id", "id"), "identifier": ("number", ""), "basedon": ("reference:ServiceRequest", "order_id"),
                     "started": ("date", "date"), "_lastUpdated": ("time", "updated")},
    "DiagnosticReport": {"_id": ("id", "id"), "based-on": ("study.reference:ServiceRequest", "order_id"), "status": ("status", "status"),
                         "identifier": ("study.number", ""), "_lastUpdated": ("time", "updated")},
    "Observation": {"_id": ("id", "id"), "based-on": ("study.reference:ServiceRequest", "order_id"),
                    "derived-from": ("study.reference:ImagingStudy", "id"), "_lastUpdated": ("time", "updated")},
    "Provenance": {"target": ("target", "")},
}
OPEN = ("new", "suggested", "no-suggestion", "accepted", "changed", "rejected")
STATES: dict[str, dict[str, tuple[str, ...]]] = {
    "ServiceRequest": {"active": OPEN, "on-hold": OPEN, "revoked": ("cancelled",)},
    "Task": {"requested": ("new",), "ready": ("suggested", "no-suggestion"), "completed": ("accepted", "changed"), "rejected": ("rejected",),
             "cancelled": ("cancelled",)},
    "DiagnosticReport": {"registered": ("draft",), "preliminary": ("preliminary",), "final": ("final",), "amended": ("amended",),
                         "cancelled": ("cancelled",), "entered-in-error": ("cancelled",)},
}
SORTS = {"authored": "created", "authored-on": "created", "_lastUpdated": "updated", "started": "date", "issued": "updated"}
SORTS_OF = {"ServiceRequest": ("authored", "_lastUpdated"), "Task": ("authored-on", "_lastUpdated"), "ImagingStudy": ("started", "_lastUpdated"),
            "DiagnosticReport": ("issued", "_lastUpdated"), "Observation": ("_lastUpdated",), "Provenance": ()}


@dataclass
class Query:
    """Conditions on the rows of a type (`equal`: any of a list), and on the studies they belong to."""

    equal: dict[str, list[str]] = field(default_factory=dict)
    ranges: list[tuple[str, str, str]] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)            # any of the row's numbers
    study: dict[str, list[str]] = field(default_factory=dict)
    study_numbers: list[str] = field(default_factory=list)
    target: str = ""
    statuses: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=lambda: ["created", "id"])
    count: int = COUNT
    offset: int = 0


def read_query(kind: str, pairs: list[tuple[str, str]]) -> Query:
    """Raises InputError for a parameter that is not known: one that was ignored would answer more than was asked for."""
    known, query = PARAMETERS[kind], Query(order=["arrived", "id"] if kind == "ImagingStudy" else ["created", "id"])
    for name, value in pairs:
        if len(value) > 2000 or not value.strip():
            raise InputError(f"parameter {name[:40]} is empty or longer than 2000 characters; give a value, or leave it out")
        if name in FREE:
            continue
        if name in PAGING:
            paging(query, kind, name, value)
        elif name in PATIENT and kind != "Provenance":
            place = query.equal if kind in ("ServiceRequest", "Task", "ImagingStudy") else query.study
            narrow(place, "patient_id", [number for _, number in tokens(value)])
        elif name in known:
            condition(query, kind, *known[name], name, value)
        else:
            raise InputError(f"search parameter {name[:40]} is not known for {kind}; it takes {', '.join([*known, *PATIENT[:1], *sorted(PAGING)])}")
    if kind == "Provenance" and not query.target:
        raise InputError("search parameter target is missing; send target=DiagnosticReport/ID or target=Task/ID")
    return query


def condition(query: Query, kind: str, how: str, column: str, name: str, value: str) -> None:
    place = query.equal
    if how.startswith("study."):
        place, how = query.study, how.removeprefix("study.")
    if how == "id":
        narrow(place, column, texts(value))
    elif how == "number":
        (query.study_numbers if place is query.study else query.numbers).extend(number.removeprefix("urn:oid:") for _, number in tokens(value))
    elif how == "status":
        asked = {code for _, code in tokens(value)}
        query.statuses |= asked
        narrow(place, column, sorted({state for code in asked for state in STATES[kind].get(code, ())}))
        if kind == "ServiceRequest" and "on-hold" not in asked:
            narrow(query.equal, "held", [False])        # type: ignore[list-item]  # equal holds words; held is a boolean
        elif kind == "ServiceRequest" and "active" not in asked:
            if "revoked" in asked:              # which is never on hold
                raise InputError(f"{name} can name on-hold alone, or beside active; ask for revoked by itself")
            narrow(query.equal, "held", [True])         # type: ignore[list-item]  # likewise
    elif how == "time":
        query.ranges += time_ranges(column, name, value)
    elif how == "date":
        query.ranges += [(column, operator, bound[:10].replace("-", "")) for column, operator, bound in time_ranges(column, name, value)]
    elif how == "target":
        query.target = value
    else:
        wanted = how.partition(":")[2]
        named = [text.split("/") for text in texts(value)]
        narrow(place, column, [parts[-1] for parts in named if len(parts) == 1 or parts[-2] == wanted])


def narrow(place: dict[str, list[str]], column: str, values: list[str]) -> None:
    """Parameters that repeat are joined by and."""
    place[column] = [value for value in place[column] if value in values] if column in place else values


def texts(value: str) -> list[str]:
    """Comma-separated alternatives; a comma of a value comes as \\,."""
    return [re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\),", value) if part]


def tokens(value: str) -> list[tuple[str, str]]:
    """system|code, |code or code."""
    return [(system, code) if bar else ("", system) for system, bar, code in (text.partition("|") for text in texts(value))]


def paging(query: Query, kind: str, name: str, value: str) -> None:
    if name == "_sort":
        query.order = []
        for part in value.split(","):
            if (plain := part.removeprefix("-")) not in SORTS_OF[kind]:
                raise InputError(f"_sort cannot sort {kind} by that; it takes {', '.join(SORTS_OF[kind]) or 'nothing'}, with - for newest first")
            query.order.append(f"-{SORTS[plain]}" if part.startswith("-") else SORTS[plain])
        query.order.append("-id" if query.order[0].startswith("-") else "id")
        return
    if not (value.isascii() and value.isdigit() and len(value) < 9):
        raise InputError(f"{name} is no number; send {name}={COUNT}")
    if name == "_count":
        query.count = min(int(value), COUNT_MAX)
    elif int(value) <= OFFSET_MAX:
        query.offset = int(value)
    else:
        raise InputError(f"_offset is more than {OFFSET_MAX}; search more narrowly")


def time_ranges(column: str, name: str, value: str) -> list[tuple[str, str, str]]:
    """A date parameter as bounds on our UTC texts; a date stands for its whole day, a minute for its 60 seconds."""
    found = DATE.fullmatch(value.replace(" ", "+"))
    if not found:
        raise InputError(f"{name} is no date; send {name}=ge2026-11-26 or with a time and offset")
    prefix, text = found[1] or "eq", found[2]
    begin, end = bounds(text, name)
    return {"eq": [(column, ">=", begin), (column, "<", end)], "ge": [(column, ">=", begin)], "gt": [(column, ">=", end)],
            "sa": [(column, ">=", end)], "lt": [(column, "<", begin)], "eb": [(column, "<", begin)], "le": [(column, "<", end)]}[prefix]


def bounds(text: str, name: str) -> tuple[str, str]:
    try:
        if len(text) == 4:
            begin = datetime(int(text), 1, 1, tzinfo=UTC)
            end = datetime(int(text) + 1, 1, 1, tzinfo=UTC)
        elif len(text) == 7:
            begin = datetime(int(text[:4]), int(text[5:]), 1, tzinfo=UTC)
            end = (begin + timedelta(days=32)).replace(day=1)
        else:
            begin = datetime.fromisoformat(text)
            begin = begin.replace(tzinfo=UTC) if begin.tzinfo is None else begin.astimezone(UTC)
            step = "days" if "T" not in text else "milliseconds" if "." in text else "seconds" if re.search(r"T\d\d:\d\d:", text) else "minutes"
            end = begin + timedelta(**{step: 1})
        return stamp(begin), stamp(end)
    except (ValueError, OverflowError):
        raise InputError(f"{name} is no date of the calendar; send YYYY-MM-DD") from None


def stamp(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")[:-6] + "Z"


def bundle(kind: str, resources: list[Resource], total: int | None, query: Query, base: str, pairs: list[tuple[str, str]]) -> Resource:
    """A searchset page; `next` when there is more."""
    kept = [(name, value) for name, value in pairs if name not in ("_offset", "_count")]

    def link(offset: int) -> str:
        return f"{base}/fhir/{kind}?{urlencode([*kept, ('_count', str(query.count)), ('_offset', str(offset))])}"

    links = [{"relation": "self", "url": link(query.offset)}]
    if total is not None and query.offset + query.count < total and query.count:
        links.append({"relation": "next", "url": link(query.offset + query.count)})
    if query.offset and query.count:
        links.append({"relation": "previous", "url": link(max(0, query.offset - query.count))})
    found: Resource = {"resourceType": "Bundle", "type": "searchset", "link": links}
    if total is not None:
        found["total"] = total
    if resources:
        found["entry"] = [{"fullUrl": f"{base}/fhir/{row['resourceType']}/{row['id']}", "resource": row, "search": {"mode": "match"}}
                          for row in resources]
    return found


def check_id(id: str) -> str:
    if not ID.fullmatch(id):
        raise InputError("the id is no FHIR id; ids are letters, digits, - and .")
    return id
