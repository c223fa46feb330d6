"""A ServiceRequest from outside: what must be there before it becomes an order. Source: R4 (4.0.1) ServiceRequest, extensibility.html."""
from typing import Any

from api.fhir.orders import IDENTIFIER_TYPES, order_from
from api.fhir.values import Resource, at, codes, rows, words
from data.errors import InputError
from data.records import Order

STATUSES = ("draft", "active", "on-hold", "revoked", "completed", "entered-in-error", "unknown")
INTENTS = ("proposal", "plan", "directive", "order", "original-order", "reflex-order", "filler-order", "instance-order", "option")
PRIORITIES = ("routine", "urgent", "asap", "stat")
LISTS = ("identifier", "category", "reasonCode", "reasonReference", "note", "orderDetail", "contained", "bodySite", "supportingInfo")


def read_request(body: Any, id: str = "") -> tuple[Order, str]:
    """(order, the system of its number); raises InputError naming the element at fault, never its value."""
    if not isinstance(body, dict) or body.get("resourceType") != "ServiceRequest":
        raise InputError("resourceType is not ServiceRequest; send one ServiceRequest")
    if id and body.get("id") != id:
        raise InputError("ServiceRequest.id is not the one of the address; send the same")
    for name, allowed in (("status", STATUSES), ("intent", INTENTS)):
        if body.get(name) not in allowed:
            raise InputError(f"ServiceRequest.{name} is missing or not known; it is one of {', '.join(allowed)}")
    if body["status"] in ("draft", "unknown"):
        raise InputError(f"ServiceRequest.status is {body['status']}; send the order when it is active")
    if body.get("priority") not in (None, *PRIORITIES):
        raise InputError(f"ServiceRequest.priority is not known; it is one of {', '.join(PRIORITIES)}")
    for name in LISTS:
        if not all_objects(body.get(name, [])):
            raise InputError(f"ServiceRequest.{name} is no list of objects; see R4 ServiceRequest")
    for name in ("code", "subject", "requester", "encounter"):
        if not isinstance(body.get(name, {}), dict):
            raise InputError(f"ServiceRequest.{name} is no object; see R4 ServiceRequest")
    if "modifierExtension" in body or any("modifierExtension" in row for row in rows(body, "contained")):
        raise InputError("modifierExtension is not understood here, and what it changes must not be overlooked; send the order without")
    if body.get("doNotPerform") not in (None, False):
        raise InputError("doNotPerform is true: an order not to do something is not taken here; revoke the order instead")
    order = order_from(body)
    if not order.patient.id:
        raise InputError("subject holds no patient identifier; send a contained Patient with identifier, or subject.identifier")
    if order.control != "cancel" and not order.ordered_exam and not order.text:
        raise InputError("code and reasonCode are both empty; send the exam or the clinical question")
    return order, system_of(body)


def all_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def system_of(body: Resource) -> str:
    """identifier.system of the number the order is known by: the placer's, else the filler's, else the accession's."""
    found: dict[str, str] = {}
    for row in rows(body, "identifier"):
        if words(row, "value") and words(row, "system") != "urn:dicom:uid":
            kinds = codes(at(row, "type"))
            name = next((IDENTIFIER_TYPES[code] for code in kinds if code in IDENTIFIER_TYPES), "" if kinds else "placer_number")
            found.setdefault(name, words(row, "system")[:300])
    return next((found[name] for name in IDENTIFIER_TYPES.values() if name in found), "")
