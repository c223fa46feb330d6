"""What a destination is told of a critical finding that nobody acknowledged: an ORU^R01 that calls itself not verified."""
from typing import Any

from api.hl7.outgoing import checked, digits, fields, header, observation_request, pid
from api.hl7.reader import escape_text

NOTE = "Found by software in images that nobody has read. Not a report, not for diagnosis. Look at the images, and tell who referred the patient."


def alert_message(alert: dict[str, Any], study: dict[str, Any], order: dict[str, Any] | None, control_id: str, now: str) -> bytes:
    """ORU^R01 2.5.1; OBR-25 and OBX-11 R (stored, not yet verified; tables 0123, 0085), OBX-8 AA (critically abnormal; table 0078)."""
    record, found = (order or {}).get("order", order) or {}, alert["record"]
    stamp = digits(now)
    side = f", {found['side']}" if found.get("side") else ""
    words = (f"Possible critical finding: {found['label']}{side}. Raised {alert['raised'][:16]}Z, "
             f"not acknowledged within {found['minutes']} minutes.")
    return checked([
        header("ORU^R01^ORU_R01", control_id, stamp), pid(record.get("patient") or study.get("patient") or {}),
        fields("ORC", "RE", record.get("placer_number"), record.get("filler_number")),
        observation_request(record, study, stamp, "R", ""),
        f"OBX|1|TX|{escape_text(alert['code'])}^{escape_text(found['label'])}^99WETREAD||{escape_text(words)}|||AA|||R|||{stamp}",
        f"OBX|2|ST|113014^DICOM Study^DCM||{escape_text(study['id'])}||||||O|||{stamp}",
        f"NTE|1||{escape_text(NOTE)}"])
