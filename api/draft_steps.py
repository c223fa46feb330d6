"""Steps on drafts: edited, made preliminary, signed, amended, cancelled; only a person makes one final."""
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from api.sending import build, post
from api.sentence_steps import keep_outcomes
from api.settings import Settings
from api.store import Store, Tx, now
from data.errors import InputError, NotFound, StateError
from data.records import Sentence

SECTIONS = ("exam", "indication", "technique", "comparison", "findings", "impression")
SECTION_MAX = 20_000        # characters
STOP, ITEM = re.compile(r"[.!?](?=\s)|\n"), re.compile(r"\d{1,2}[.)][ \t]+")
EDITABLE = ("draft", "preliminary")
SIGNED = ("final", "amended")
# what ORU^R01 says of each status; table 0123: P preliminary, F final, C corrected
RESULT_STATUS = {"preliminary": "P", "final": "F", "amended": "C"}


class DraftSteps:
    store: Store
    settings: Settings

    def draft(self, id: str) -> dict[str, Any]:
        """One draft with its versions, oldest first; raises NotFound."""
        with self.store.read() as tx:
            row = known(tx.one("drafts", id=id))
            versions = tx.find("draft_versions", draft_id=id, order=["version"])
        return {**draft_dict(row), "history": [
            {**{name: version[name] for name in ("version", "status", "user", "time")}, "sections": version["record"]["sections"]}
            for version in versions]}

    def edit_draft(self, id: str, sections: dict[str, str], user: str, version: int) -> dict[str, Any]:
        """Replace the text of the sections given; what changed is the user's from then on."""
        check_sections(sections)
        return self._step(id, user, version, "edit", EDITABLE, None, lambda record: edited(record, sections, self._first_sentences(id)))

    def make_preliminary(self, id: str, user: str, version: int) -> dict[str, Any]:
        return self._step(id, user, version, "make-preliminary", ("draft",), "preliminary", readable)

    def sign_draft(self, id: str, user: str, version: int) -> dict[str, Any]:
        """draft or preliminary -> final: the one way to a final report."""
        if not user:
            raise InputError("user is empty; a report is signed by a person")
        return self._step(id, user, version, "sign", EDITABLE, "final", readable)

    def amend_draft(self, id: str, sections: dict[str, str], user: str, version: int) -> dict[str, Any]:
        """final -> amended, with the sections given replaced; the signed text stays in the history."""
        check_sections(sections)
        if not user:
            raise InputError("user is empty; a report is amended by a person")
        return self._step(id, user, version, "amend", SIGNED, "amended",
                          lambda record: readable(really_edited(record, sections, self._first_sentences(id))))

    def cancel_draft(self, id: str, user: str, version: int) -> dict[str, Any]:
        return self._step(id, user, version, "cancel", EDITABLE, "cancelled", lambda record: record)

    def _first_sentences(self, id: str) -> list[dict[str, Any]]:
        """As the models wrote them."""
        with self.store.read() as tx:
            first = tx.find("draft_versions", draft_id=id, order=["version"], limit=1)
        return first[0]["record"]["sentences"] if first else []

    def _step(self, id: str, user: str, version: int, action: str, allowed: tuple[str, ...], status: str | None,
              make: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """One step from `version`; raises StateError when someone else was faster or the status does not allow it."""
        with self.store.read() as tx:
            row = known(tx.one("drafts", id=id))
            study = tx.one("studies", id=row["study_id"])
            order = tx.one("orders", id=study["order_id"]) if study["order_id"] else None
            signed = signed_beside(tx, row["study_id"], id)
        if row["status"] not in allowed:
            raise StateError(f"the draft is {row['status']}; {action} needs {' or '.join(allowed)}")
        if row["version"] != version:
            raise StateError(f"the draft was changed meanwhile, it is at version {row['version']}, not {version}; look at it again")
        status = status or row["status"]
        if status == "preliminary" and signed and action != "edit":
            raise StateError("the study has a signed report, which no preliminary one may follow; amend it, or sign this draft: it goes out as "
                             "its correction")
        record = {**make(row["record"]), "status": status}
        after = {**row, "record": record, "status": status, "version": version + 1, "updated": now()}
        if status in SIGNED:
            after |= {"signed_by": user, "signed": now()}
        despite = status in SIGNED and self._asks_for_a_look(id, record["sections"])
        key, raw = f"report:{id}:{version + 1}", None
        if sent := action != "edit" and status in RESULT_STATUS:
            # a second final report on a study corrects the first, whichever draft it came from
            result = "C" if signed else RESULT_STATUS[status]
            raw = self._report(key, after, result)
        with self.store.write() as tx:
            tx.one("studies", id=row["study_id"], lock=True)
            if signed_beside(tx, row["study_id"], id) != signed:        # what goes out was made for the state before
                raise StateError("another report on the study was signed meanwhile; look at it again")
            if not tx.change("drafts", {"id": id, "version": version, "status": row["status"]},
                             **{name: after[name] for name in ("record", "status", "version", "signed_by", "signed", "updated")}):
                raise StateError("the draft was changed meanwhile; look at it again")
            tx.insert("draft_versions", draft_id=id, version=version + 1, status=status, record=record, user=user, time=now())
            if despite:
                tx.audit(user, f"{action}-despite-check", "draft", id)
            tx.audit(user, action, "draft", id)
            if status in SIGNED:
                settle_study(tx, row["study_id"], id)
                keep_outcomes(tx, id, version + 1, record, user)
            if sent:
                post(tx, self.settings, key, "ORU^R01", raw, patient_id=study["patient_id"], order_id=order["id"] if order else None, draft_id=id,
                     study_id=study["id"], result_status=result)
                tx.enqueue("results", f"results:{id}:{version + 1}", {"draft_id": id, "version": version + 1})
        return self.draft(id)

    def _asks_for_a_look(self, id: str, sections: dict[str, str]) -> bool:
        """Whether the check before signature has a remark marked `stop` on this text; it is kept in the audit, whichever way the signature came."""
        return any(remark["severity"] == "stop" for remark in self.check_draft(id, sections))      # type: ignore[attr-defined]     # Desk has it

    def _report(self, key: str, after: dict[str, Any], result: str) -> bytes | Exception | None:
        study: dict[str, Any] = self.study(after["study_id"])      # type: ignore[attr-defined]     # Desk has it
        return build(self.settings, key, report_message, draft_dict(after), study, study["order"], result)


def report_message(*parts: Any) -> bytes:
    from api.hl7.outgoing import report_message as make

    return make(*parts)


def signed_beside(tx: Tx, study_id: str, draft_id: str) -> bool:
    """Whether another draft of the study was signed."""
    return any(other["id"] != draft_id for other in tx.find("drafts", study_id=study_id, status=list(SIGNED), columns=("id",)))


def settle_study(tx: Tx, study_id: str, draft_id: str) -> None:
    study = tx.one("studies", id=study_id, lock=True)
    assert study is not None
    # a study whose late images are still coming in stays so: their draft will be offered beside the signed one
    state = study["state"] if study["state"] in ("receiving", "complete") else "signed"
    tx.change("studies", {"id": study_id}, state=state, draft_id=draft_id, updated=now())


def known(row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        raise NotFound("there is no draft of that id; GET /v1/studies/… names a study's drafts")
    return row


def draft_dict(row: dict[str, Any]) -> dict[str, Any]:
    return {**row["record"], "id": row["id"], "study_id": row["study_id"], "revision": row["revision"], "status": row["status"],
            "version": row["version"], "signed_by": row["signed_by"], "signed": row["signed"], "created": row["created"],
            "updated": row["updated"]}


def check_sections(sections: dict[str, str]) -> None:
    for name, text in sections.items():
        if name not in SECTIONS:
            raise InputError(f"sections names '{str(name)[:30]}', expected {', '.join(SECTIONS)}")
        if not isinstance(text, str) or len(text) > SECTION_MAX:
            came = f"a text of {len(text)} characters" if isinstance(text, str) else "no text"
            raise InputError(f"section {name} is {came}, expected a text of at most {SECTION_MAX} characters")


def readable(record: dict[str, Any]) -> dict[str, Any]:
    """A refused or empty draft is no report until a person has written into it."""
    if not any(record["sections"].get(name, "").strip() for name in ("findings", "impression")):
        raise StateError("findings and impression are empty; write the report before it goes out")
    return record


def edited(record: dict[str, Any], sections: dict[str, str], first: list[dict[str, Any]]) -> dict[str, Any]:
    """The record with new texts; sentences that stand unchanged, or again as `first`, keep where they came from, the others are the user's."""
    kept = [sentence for sentence in record["sentences"] if sentence["section"] not in sections]
    texts = {**record["sections"], **sections}
    for section, text in sections.items():
        old = [sentence for sentence in record["sentences"] if sentence["section"] == section]
        again = [sentence for sentence in first if sentence["section"] == section and sentence not in old]
        kept += old if text == record["sections"].get(section, "") else split(text, section, again + old)
    order = {name: i for i, name in enumerate(SECTIONS)}
    return {**record, "sections": texts, "sentences": sorted(kept, key=lambda sentence: order[sentence["section"]])}


def really_edited(record: dict[str, Any], sections: dict[str, str], first: list[dict[str, Any]]) -> dict[str, Any]:
    """A correction that corrects nothing would alarm its receiver for nothing."""
    after = edited(record, sections, first)
    if after["sections"] == record["sections"]:
        raise InputError("nothing was changed; edit the report before amending it")
    return after


def split(text: str, section: str, old: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A section's text as sentences. A known sentence is recognised whole, so that one with a full stop inside stays whole."""
    left, found, at = sorted(old, key=lambda sentence: -len(sentence["text"])), [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        same = next((s for s in left if s["text"] and text.startswith(s["text"], at) and
                     (at + len(s["text"]) == len(text) or text[at + len(s["text"])].isspace())), None)
        if same is not None:
            left.remove(same)
            found.append(same)
            at += len(same["text"])
            continue
        item = ITEM.match(text, at)     # "2." numbers what follows and is no sentence of its own
        stop = STOP.search(text, item.end() if item else at)
        end = stop.end() if stop else len(text)
        found.append(asdict(Sentence(text[at:end].strip(), section, provenance="user")))
        at = end
    return found
