"""Results on their way out: one outbox row a destination, in the transaction of the step that made them."""
import hashlib
import logging
from collections.abc import Callable
from typing import Any

from api.settings import Settings
from api.store import Tx, now

log = logging.getLogger("wetread.sending")


def control_id(key: str) -> str:
    """MSH-10 of an outgoing message: at most 20 characters (2.5.1 section 2.15.9.10), the same for the same event."""
    return "W" + hashlib.sha256(key.encode()).hexdigest()[:19].upper()


def build(settings: Settings, key: str, make: Callable[..., bytes], *parts: Any) -> bytes | Exception | None:
    """The bytes for `key`, None when nobody receives. Made before the transaction, because hl7apy takes its time.

    An error is returned, not raised: a message that cannot be built must not stop a decision or a signature. It stays
    in the outbox as failed, where it is seen.
    """
    if not settings.outbox:
        return None
    try:
        return make(*parts, control_id(key), now())
    except Exception as error:
        log.error("message %s was not built: %s", control_id(key), type(error).__name__)
        return error


def post(tx: Tx, settings: Settings, key: str, kind: str, raw: bytes | Exception | None, *, patient_id: str, order_id: str | None = None,
         draft_id: str | None = None, study_id: str = "", result_status: str = "") -> None:
    """Put `raw` into the outbox once for each destination; the same key again changes nothing."""
    for destination in settings.outbox:
        broken = not isinstance(raw, bytes)
        new = tx.add("outbox", key=f"{key}:{destination.name}", destination=destination.name, kind=kind, order_id=order_id, draft_id=draft_id,
                     control_id=control_id(key), raw=None if broken else raw, state="failed" if broken else "queued",
                     reason=type(raw).__name__ if broken else "", created=now(), updated=now(), patient_id=patient_id, study_id=study_id,
                     result_status=result_status)
        if new and not broken:
            rouse(tx, destination.name)


def rouse(tx: Tx, destination: str) -> None:
    """Let the destination's queue be sent; its one job may be at rest, waiting or under way. During an outage it waits on."""
    tx.rouse("send", f"send:{destination}", {"destination": destination}, at_once=tx.one("outages", destination=destination, ended="") is None)
