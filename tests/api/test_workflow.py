"""Orders, patients, studies and drafts, step by step, with real messages and small real models of our own."""
import asyncio
import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest

from api.jobs import Worker
from api.settings import Destination
from api.store import Store
from api.workflow import Desk
from data.errors import InputError, ModelError, NotFound, StateError, StudyRefused
from data.records import (
    Draft,
    Finding,
    Flag,
    ImageEvidence,
    Order,
    Patient,
    PatientMerge,
    PatientUpdate,
    Ranked,
    Sentence,
    Suggestion,
)


class WordSuggester:
    """Suggests by one word of the text: small, deterministic, and right or wrong in a way a test can see."""

    def suggest(self, order):
        bleed = "bleed" in order.text
        protocol = "CT_HEAD_WO" if bleed else "MR_BRAIN_WO"
        flags = (Flag("pregnancy", "stop", "r1", "a source", "pregnant"),) if order.facts.pregnant else ()
        return Suggestion(ranked=(Ranked(protocol, 0.9), Ranked("CT_HEAD_W", 0.1)), set=(protocol,), contrast="none", flags=flags,
                          urgent=bleed, urgent_probability=float(bleed), disposition="auto")


class Broken:
    def suggest(self, order):
        raise ModelError(f"no model for {order.patient.name}")

    def draft(self, study, order, priors=()):
        raise RuntimeError("out of memory")


class CountingReporter:
    """Its finding is the number of images, its mask marks nothing but has the volume's shape."""

    def draft(self, images, order, priors=()):
        n = len(images)
        finding = Finding("f1", "haemorrhage", "haemorrhage", True, 0.9, evidence=(ImageEvidence("1.2", 0, mask="f1"),))
        words = f"{n} images. Clot of 1.5 mL, ca. 3 mm wide."
        return Draft(study="", status="draft", refused=None, findings=(finding,), sections={"findings": words, "impression": "Bleed."},
                     sentences=(Sentence(f"{n} images.", "findings"), Sentence("Clot of 1.5 mL, ca. 3 mm wide.", "findings", ("f1",), 0.8, "model"),
                                Sentence("Bleed.", "impression", ("f1",), 0.8, "model")), model={}, priority=0.9), \
            {"f1": np.ones((n, 2, 2), np.uint8)}


class ListDesk(Desk):
    """A desk whose images are the files themselves: reading DICOM is tested with data.dicom."""

    @staticmethod
    def _read(paths):
        return [path.read_bytes() for path in paths]


@pytest.fixture
def desk(store, settings):
    return ListDesk(store, settings, WordSuggester(), CountingReporter())


def work(desk, **others):
    """Do every job that is due, and those that its end makes due."""
    worker = Worker(desk.store, {"message": desk.apply_message, "suggest": desk.suggest_order, "complete": desk.complete_quiet_study,
                                 "draft": desk.draft_study, **others}, backoff_s=(0, 0))
    while worker.run_once():
        pass


NUMBERS = itertools.count(1)


def order_message(control="NW", placer="P1", *, at="20261124080000", text="fall ?bleed", priority="R", patient="X1", name="Muster^Erika",
                  exam="CT HEAD", accession="", born="19600101"):
    return "\r".join([
        f"MSH|^~\\&|RIS|HOSP|WETREAD|RAD|{at}||ORM^O01^ORM_O01|C{next(NUMBERS)}|P|2.5.1",
        f"PID|1||{patient}^^^HOSP^MR||{name}||{born}|F",
        f"ORC|{control}|{placer}",
        f"OBR|1|{placer}||CT1^{exam}^L||||||||||||||{accession}|||||||||^^^^^{priority}||||^{text}"]).encode()


def adt(event, patient, *, at, prior="", name="", born="", sex=""):
    lines = [f"MSH|^~\\&|ADT|HOSP|WETREAD|RAD|{at}||ADT^{event}^ADT_{event}|C{next(NUMBERS)}|P|2.5.1", f"EVN||{at}",
             f"PID|1||{patient}^^^HOSP^MR||{name}||{born}|{sex}", *([f"MRG|{prior}^^^HOSP^MR"] if prior else [])]
    return "\r".join(lines).encode()


def receive(desk, *messages, then_work=True):
    from api.hl7.reader import read_message

    async def keep():
        for raw in messages:
            read = read_message(raw)
            await desk.store.keep_message(raw, read.sender, read.control_id, read.kind, "127.0.0.1", True, ack=b"AA")

    asyncio.run(keep())
    if then_work:
        work(desk)


# -- orders ----------------------------------------------------------------------------------------------------------


def test_a_message_becomes_an_order_with_its_suggestion(desk):
    receive(desk, order_message(accession="A1"))
    (row,) = desk.orders()
    assert (row["state"], row["suggestion"]["ranked"][0]["protocol"], row["order"]["text"]) == ("suggested", "CT_HEAD_WO", "fall ?bleed")
    order = desk.order(row["id"])
    assert order == desk.order("P1") == desk.order("A1")
    assert [event["what"] for event in order["history"]] == ["new", "suggested"]
    assert [message["state"] for message in order["messages"]] == ["applied"]


def test_the_same_order_applied_twice_is_one_order(desk, store):
    receive(desk, order_message())
    store.replay_message("1")
    work(desk)
    assert len(desk.orders()) == 1 and len(desk.order("P1")["history"]) == 2


def test_the_same_number_again_is_a_change_and_asks_for_a_new_suggestion(desk):
    receive(desk, order_message(), order_message(at="20261124090000", text="headache for a week"))
    (row,) = desk.orders()
    assert (row["order"]["text"], row["suggestion"]["ranked"][0]["protocol"]) == ("headache for a week", "MR_BRAIN_WO")


def test_an_order_sent_again_unchanged_keeps_its_decision(desk):
    receive(desk, order_message())
    desk.decide("P1", "accept", user="anna")
    receive(desk, order_message("XO", at="20261124090000"))
    assert desk.order("P1")["state"] == "accepted"


def test_another_question_takes_a_decision_back(desk):
    receive(desk, order_message())
    desk.decide("P1", "accept", user="anna")
    receive(desk, order_message("XO", at="20261124090000", text="seizure"))
    order = desk.order("P1")
    assert (order["state"], order["decision"]) == ("suggested", None)
    assert [event["what"] for event in order["history"]] == ["new", "suggested", "accept", "change", "suggested"]


def test_an_older_event_never_overwrites_a_newer_one(desk):
    receive(desk, order_message("XO", at="20261124090000", text="newer"), order_message("NW", at="20261124080000", text="older"))
    assert desk.order("P1")["order"]["text"] == "newer"


@pytest.mark.parametrize("cancel_at", ["20261124080100", "20261124080000", "20261124100000+0100"])
def test_a_cancel_that_arrives_before_its_order_leaves_it_cancelled(desk, cancel_at):
    receive(desk, order_message("CA", at=cancel_at, text=""), order_message("NW", at="20261124080000"))
    (row,) = desk.orders()
    assert (row["state"], row["order"]["text"], row["suggestion"]) == ("cancelled", "fall ?bleed", None)
    with pytest.raises(StateError):
        desk.decide(row["id"], "accept", user="anna")


def test_a_sparse_cancel_keeps_what_the_order_said(desk):
    receive(desk, order_message(priority="S"), order_message("CA", at="20261124090000", text=""))
    (row,) = desk.orders()
    assert (row["state"], row["order"]["text"], row["order"]["priority"]) == ("cancelled", "fall ?bleed", "STAT")


def test_two_exams_under_one_number_in_one_message_are_two_orders(desk):
    lines = order_message().split(b"\r")
    second = [lines[2], lines[3].replace(b"CT HEAD", b"CT NECK")]
    receive(desk, b"\r".join([*lines, *second]))
    assert sorted(row["order"]["ordered_exam"] for row in desk.orders()) == ["CT HEAD", "CT NECK"]


def test_equal_numbers_of_two_senders_are_two_orders(desk):
    receive(desk, order_message(), order_message().replace(b"|RIS|HOSP|", b"|RIS|CLINIC|"))
    assert len(desk.orders()) == 2


def test_a_filler_number_finds_the_order_that_first_came_without_a_placer(desk):
    base = Order(text="q", filler_number="F1", accession_number="A1")
    first = desk.add_order(base)
    assert desk.add_order(replace(base, placer_number="P9", text="q2")) == first
    assert desk.add_order(Order(accession_number="A1", control="cancel")) == first
    assert desk.order("F1")["state"] == "cancelled"
    assert desk.add_order(Order(text="q")) != desk.add_order(Order(text="q"))


def test_the_list_goes_by_urgency_then_arrival(desk):
    receive(desk, order_message(placer="P1", text="a"), order_message(placer="P2", text="b", priority="S"),
            order_message(placer="P3", text="c ?bleed"), order_message(placer="P4", text="d"))
    assert [row["order"]["placer_number"] for row in desk.orders()] == ["P2", "P3", "P1", "P4"]
    assert desk.orders("cancelled") == [] and len(desk.orders("suggested", limit=2)) == 2
    with pytest.raises(InputError):
        desk.orders("lost")


def test_an_unusable_message_is_marked_failed_with_the_field_and_made_again_by_replay(desk, store):
    receive(desk, order_message().replace(b"ORC|NW", b"ORC|ZZ"))
    (row,) = store.messages()
    assert row["state"] == "failed" and "ORC-1" in row["reason"] and desk.orders() == []
    store.replay_message(row["id"])
    assert store.messages()[0]["state"] == "received"
    work(desk)
    assert store.messages()[0]["state"] == "failed"


def test_a_message_of_another_type_is_marked_unused(desk, store):
    receive(desk, order_message().replace(b"ORM^O01^ORM_O01", b"SIU^S12"))
    assert store.messages()[0]["state"] == "unused"


def test_a_message_that_always_fails_is_a_dead_letter(desk, store):
    receive(desk, order_message(), then_work=False)

    def fails(job):
        raise RuntimeError("Erika")

    work(desk, message=fails)
    assert store.messages()[0]["state"] == "failed" and store.messages()[0]["reason"] == "RuntimeError"
    store.replay(store.jobs("dead")[0]["id"])
    work(desk)
    assert store.messages()[0]["state"] == "applied" and len(desk.orders()) == 1


@pytest.mark.parametrize(("suggester", "reason"), [(None, "no-model"), (Broken(), "E108")])
def test_without_a_model_an_order_goes_on_to_a_person(store, settings, suggester, reason):
    desk = Desk(store, settings, suggester, None)
    receive(desk, order_message())
    (row,) = desk.orders()
    assert (row["state"], row["suggestion"], row["reason"]) == ("no-suggestion", None, reason)
    assert desk.decide(row["id"], "change", "CT_HEAD_WO", user="anna")["state"] == "changed"


def test_a_suggestion_for_an_older_version_is_dropped(desk, store):
    receive(desk, order_message(), then_work=False)
    work(desk, suggest=lambda job: None)                                # lost its suggestion, say
    (row,) = desk.orders()
    with store.write() as tx:
        tx.enqueue("suggest", "old", {"order_id": row["id"], "order_version": 0})
    work(desk)
    assert desk.orders()[0]["state"] == "new"


def test_suggest_stores_nothing(desk, store, settings):
    assert desk.suggest(Order(text="?bleed")).ranked[0].protocol == "CT_HEAD_WO"
    assert desk.orders() == []
    with pytest.raises(ModelError):
        Desk(store, settings, None, None).suggest(Order(text="?bleed"))


def test_decisions_need_what_they_need(desk, store):
    receive(desk, order_message())
    for action, protocol, reason in (("change", "NO_SUCH", ""), ("change", None, ""), ("reject", None, " "), ("accept", "CT_HEAD_W", "")):
        with pytest.raises(StateError):
            desk.decide("P1", action, protocol, reason, "anna")
    with pytest.raises(InputError):
        desk.decide("P1", "delete", user="anna")
    with pytest.raises(NotFound):
        desk.decide("nobody", "accept", user="anna")
    assert desk.order("P1")["state"] == "suggested"
    decided = desk.decide("P1", "accept", user="anna")
    assert (decided["state"], decided["decision"]["protocol"], decided["decision"]["user"]) == ("accepted", "CT_HEAD_WO", "anna")
    with pytest.raises(StateError):
        desk.decide("P1", "accept", user="ben")
    with pytest.raises(StateError):
        desk.decide("P1", "reject", user="ben")
    assert desk.decide("P1", "reject", reason="wrong patient", user="ben")["state"] == "rejected"
    assert [(row["user"], row["action"]) for row in store.audit_rows()] == [("ben", "reject"), ("anna", "accept")]


def test_a_changed_protocol_goes_out_with_its_own_contrast_and_warnings(store, settings):
    from data.records import Facts

    desk = ListDesk(store, replace(settings, outbox=(Destination("ris", "127.0.0.1", 1),)), WordSuggester(), None)
    id = desk.add_order(Order(text="new seizure, known melanoma", facts=Facts(egfr=18.0)))
    work(desk)
    desk.decide(id, "change", "MR_BRAIN_WWO", "mass", "anna")
    suggested, changed = (desk.store.outbox(row["id"])["raw"].decode() for row in reversed(store.outbox_rows()))
    assert "Contrast: none" in suggested and "egfr_low_for_gadolinium" not in suggested
    assert "Contrast: without_and_with" in changed and "egfr_low_for_gadolinium" in changed


def test_automation_is_off_unless_switched_on_and_never_passes_a_stop_flag(desk, store, settings):
    receive(desk, order_message())
    assert desk.order("P1")["state"] == "suggested"
    automatic = ListDesk(store, replace(settings, automation=True), WordSuggester(), None)
    receive(automatic, order_message(placer="P2"))
    assert (automatic.order("P2")["state"], automatic.order("P2")["decision"]["user"]) == ("accepted", "automation")
    from data.records import Facts

    stopped = automatic.add_order(Order(text="?bleed", facts=Facts(pregnant=True)))
    work(automatic)
    assert automatic.order(stopped)["state"] == "suggested"


# -- patients --------------------------------------------------------------------------------------------------------


def patient(desk, id="P1"):
    return desk.order(id)["order"]["patient"]


def test_new_demographics_reach_open_orders_and_those_that_follow(desk):
    receive(desk, order_message(), adt("A08", "X1", at="20261124100000", name="Neu^Erika"), order_message(placer="P2", at="20261124090000"))
    assert patient(desk)["name"] == patient(desk, "P2")["name"] == "Neu^Erika"
    assert patient(desk)["birth_date"] == "19600101"            # left blank by the update


def test_older_demographics_change_nothing(desk):
    receive(desk, order_message(at="20261124080000"), adt("A08", "X1", at="20261123000000", name="Alt^Erika", sex="M"))
    assert (patient(desk)["name"], patient(desk)["sex"]) == ("Muster^Erika", "F")


def test_another_birth_date_asks_for_a_new_suggestion_and_ages_the_order(desk):
    receive(desk, order_message())
    before = desk.order("P1")
    receive(desk, adt("A08", "X1", at="20261124100000", born="20200101"))
    after = desk.order("P1")
    assert after["version"] > before["version"] and after["state"] == "suggested"
    assert after["order"]["age_years"] < 20


def test_a_merge_moves_orders_and_what_comes_later_under_the_old_identifier(desk):
    receive(desk, order_message(), adt("A40", "X2", prior="X1", at="20261124100000", name="Muster^Erika"),
            order_message(placer="P2", at="20261124110000"))
    assert patient(desk)["id"] == patient(desk, "P2")["id"] == "X2"


def test_of_two_opposite_merges_the_newer_counts_whichever_comes_first(desk):
    old, new = (adt("A40", "X2", prior="X1", at="20261124100000"), adt("A40", "X1", prior="X2", at="20261124110000"))
    receive(desk, order_message(), new, old)
    assert patient(desk)["id"] == "X1"
    receive(desk, order_message(placer="P2", patient="X2"))
    assert patient(desk, "P2")["id"] == "X1"


def test_merges_chain(desk):
    receive(desk, order_message(), adt("A40", "X2", prior="X1", at="20261124100000"), adt("A40", "X3", prior="X2", at="20261124110000"),
            order_message(placer="P2"))
    assert patient(desk)["id"] == patient(desk, "P2")["id"] == "X3"


def test_the_records_of_an_adt_message_have_the_names_the_desk_reads():
    assert PatientUpdate(Patient("a"), "2026").patient.id == PatientMerge("b", Patient("a"), "2026").surviving.id == "a"


# -- studies ---------------------------------------------------------------------------------------------------------


def instance(desk, number, *, study="1.2.3", data=None, accession="A1", patient="X1"):
    data = data or f"image {number}".encode()
    digest = hashlib.sha256(data).hexdigest()
    path = desk.store.home / "dicom" / f"{digest}.dcm"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return desk.instance_kept({"StudyInstanceUID": study, "SOPInstanceUID": f"{study}.{number}", "SeriesInstanceUID": f"{study}.0",
                               "AccessionNumber": accession, "PatientID": patient, "PatientName": "Muster^Erika", "Modality": "CT",
                               "SeriesDescription": "head", "SeriesNumber": "2", "InstanceNumber": str(number), "sha256": digest,
                               "path": f"dicom/{digest}.dcm", "source": "127.0.0.1"})


def drafted(desk, *numbers, study="1.2.3", **more):
    for number in numbers or (1, 2):
        instance(desk, number, study=study, **more)
    desk.complete_study(study)
    work(desk)
    return desk.study(study)


def test_a_study_is_complete_after_the_quiet_period_and_gets_its_draft(desk, store):
    store.quiet_period_s = 60
    assert instance(desk, 2) and instance(desk, 1) and not instance(desk, 1)
    work(desk)
    assert desk.study("1.2.3")["state"] == "receiving"
    store.quiet_period_s = 0
    instance(desk, 3)
    work(desk)
    study = desk.study("1.2.3")
    assert (study["state"], study["draft"]["status"], study["draft"]["sections"]["impression"]) == ("drafted", "draft", "Bleed.")
    (series,) = study["series"]
    assert [i["number"] for i in series["instances"]] == [1, 2, 3] and series["description"] == "head"
    assert study["draft"]["sentences"][0]["text"] == "3 images."


def test_a_mask_is_stored_with_the_shape_of_its_volume_and_named_in_the_evidence(desk, store):
    (finding,) = drafted(desk)["draft"]["findings"]
    path = finding["evidence"][0]["mask"]
    with np.load(store.home / path) as stored:
        assert stored["mask"].shape == (2, 2, 2) and stored["mask"].dtype == np.uint8


def test_a_late_image_supersedes_the_draft(desk):
    first = drafted(desk)["draft"]
    second = drafted(desk, 3)
    assert second["revision"] == 2 and second["draft"]["sentences"][0]["text"] == "3 images."
    assert desk.draft(first["id"])["status"] == "cancelled"
    with pytest.raises(StateError):
        desk.sign_draft(first["id"], "anna", desk.draft(first["id"])["version"])


def test_a_late_image_after_the_signature_offers_a_draft_beside_the_report(desk):
    first = drafted(desk)["draft"]
    desk.sign_draft(first["id"], "anna", 1)
    study = drafted(desk, 3)
    assert (study["state"], study["draft"]["id"], study["draft"]["status"]) == ("signed", first["id"], "final")
    assert [draft["status"] for draft in study["drafts"]] == ["draft", "final"]
    desk.sign_draft(study["drafts"][0]["id"], "ben", 1)
    assert desk.study("1.2.3")["draft"]["signed_by"] == "ben" and desk.draft(first["id"])["status"] == "final"


def test_a_draft_of_images_that_meanwhile_grew_is_dropped(desk, store):
    class Interrupted(CountingReporter):
        def draft(self, images, order, priors=()):
            if len(images) == 2:
                instance(desk, 3)           # while it is being written
            return super().draft(images, order)

    store.quiet_period_s = 60
    desk.reporter = Interrupted()
    study = drafted(desk)
    assert (study["state"], study["drafts"]) == ("receiving", [])
    desk.complete_study("1.2.3")
    work(desk)
    assert [d["sentences"][0]["text"] for d in desk.study("1.2.3")["drafts"]] == ["3 images."]


def test_an_image_sent_again_with_other_bytes_replaces_the_first_in_reading(desk):
    drafted(desk)
    assert instance(desk, 2, data=b"corrected")
    desk.complete_study("1.2.3")
    work(desk)
    study = desk.study("1.2.3")
    assert study["revision"] == 2 and len(study["series"][0]["instances"]) == 2


class Refusing:
    def draft(self, study, order, priors=()):
        raise StudyRefused("not-a-head", "the region is CHEST, expected HEAD")


@pytest.mark.parametrize(("reporter", "state", "reason"), [
    (None, "no-draft", "no-model"), (Broken(), "no-draft", "RuntimeError"), (Refusing(), "refused", "not-a-head")])
def test_without_a_draft_a_study_goes_on_to_a_person(desk, reporter, state, reason):
    desk.reporter = reporter
    study = drafted(desk)
    assert (study["state"], study["reason"]) == (state, reason)
    if state == "refused":
        assert study["draft"]["refused"]["code"] == reason
        with pytest.raises(StateError, match="empty"):
            desk.sign_draft(study["draft"]["id"], "anna", 1)


def test_a_study_without_readable_images_is_refused(store, settings):
    desk = Desk(store, settings, None, CountingReporter())      # reads with data.dicom
    study = drafted(desk)
    assert (study["state"], study["reason"]) == ("refused", "images-not-readable")


def test_a_study_finds_its_order_whichever_comes_first_and_never_another_patients(desk):
    receive(desk, order_message(accession="A1"))
    assert drafted(desk)["order"]["order"]["placer_number"] == "P1"
    drafted(desk, study="1.2.4", accession="A2")
    receive(desk, order_message(placer="P2", accession="A2"))
    assert desk.study("1.2.4")["order"]["order"]["placer_number"] == "P2"
    assert drafted(desk, study="1.2.5", patient="OTHER")["order"] is None


class AskingReporter(CountingReporter):
    def draft(self, images, order, priors=()):
        draft, masks = super().draft(images, order)
        return replace(draft, sections={**draft.sections, "indication": order.text if order else ""}), masks


def test_an_order_that_comes_after_the_images_gets_a_draft_that_knows_its_question(desk):
    desk.reporter = AskingReporter()
    first = drafted(desk, accession="A1")["draft"]
    assert first["sections"]["indication"] == ""
    receive(desk, order_message(accession="A1"))
    study = desk.study("1.2.3")
    assert study["draft"]["sections"]["indication"] == study["order"]["order"]["text"] != ""
    assert (study["state"], study["draft"]["status"], desk.draft(first["id"])["status"]) == ("drafted", "draft", "cancelled")


def test_an_urgent_order_that_comes_after_the_images_makes_their_reading_urgent(desk):
    desk.reporter = None
    drafted(desk, accession="A1")
    assert desk.study("1.2.3")["priority"] == 0
    receive(desk, order_message(accession="A1", priority="S"), then_work=False)
    work(desk, draft=lambda job: None)
    assert desk.study("1.2.3")["priority"] == 0.5


def test_an_order_of_nobody_is_joined_to_no_images_of_somebody(desk):
    receive(desk, order_message(accession="A1", patient=""))
    assert drafted(desk, accession="A1", patient="OTHER")["order"] is None
    drafted(desk, study="1.2.4", accession="A2", patient="OTHER")
    receive(desk, order_message(placer="P2", accession="A2", patient=""))
    assert desk.study("1.2.4")["order"] is None


@pytest.mark.parametrize("step", ["edit_draft", "make_preliminary", "sign_draft"])
def test_an_order_that_comes_late_takes_no_draft_from_who_works_on_it(desk, step):
    desk.reporter = AskingReporter()
    first = drafted(desk, accession="A1")["draft"]
    getattr(desk, step)(first["id"], *([{"impression": "No bleed."}] if step == "edit_draft" else []), "anna", 1)
    receive(desk, order_message(accession="A1"))
    study = desk.study("1.2.3")
    assert study["order"] and [draft["id"] for draft in study["drafts"]] == [first["id"]] and study["draft"]["version"] == 2


def test_the_reading_list_goes_by_urgency_then_arrival_and_ends_with_the_signed(desk):
    receive(desk, order_message(accession="A9", priority="S"))
    drafted(desk, study="1.2.1", accession="")
    desk.reporter = None
    drafted(desk, study="1.2.2", accession="")
    drafted(desk, study="1.2.9", accession="A9")
    assert [row["id"] for row in desk.studies()] == ["1.2.1", "1.2.9", "1.2.2"]
    desk.sign_draft(desk.study("1.2.1")["draft_id"], "anna", 1)
    assert [row["id"] for row in desk.studies()] == ["1.2.9", "1.2.2", "1.2.1"]


def test_unknown_things_are_not_found(desk):
    for look in (desk.order, desk.study, desk.draft, desk.complete_study):
        with pytest.raises(NotFound):
            look("nothing")


# -- drafts ----------------------------------------------------------------------------------------------------------


def test_changed_sentences_are_the_users_and_the_others_keep_their_source(desk):
    draft = drafted(desk)["draft"]
    text = "Two images. Clot of 1.5 mL, ca. 3 mm wide. No fracture."
    after = desk.edit_draft(draft["id"], {"findings": text}, "anna", 1)
    assert after["sections"] == {"findings": text, "impression": "Bleed."} and after["version"] == 2
    assert [(s["text"], s["provenance"], s["findings"]) for s in after["sentences"]] == [
        ("Two images.", "user", []), ("Clot of 1.5 mL, ca. 3 mm wide.", "model", ["f1"]), ("No fracture.", "user", []),
        ("Bleed.", "model", ["f1"])]


def test_a_sentence_put_back_as_the_model_wrote_it_is_the_models_again(desk):
    draft = drafted(desk)["draft"]
    edited = desk.edit_draft(draft["id"], {"impression": "No bleed."}, "anna", 1)
    assert [s["provenance"] for s in edited["sentences"] if s["section"] == "impression"] == ["user"]
    back = desk.edit_draft(draft["id"], {"impression": "Bleed. Called."}, "anna", 2)
    assert [(s["text"], s["provenance"], s["findings"]) for s in back["sentences"] if s["section"] == "impression"] == [
        ("Bleed.", "model", ["f1"]), ("Called.", "user", [])]
    assert [version["sections"]["impression"] for version in back["history"]] == ["Bleed.", "No bleed.", "Bleed. Called."]


def test_the_number_of_an_item_stays_with_the_sentence_it_numbers_when_it_was_edited(desk):
    draft = drafted(desk)["draft"]
    text = "1. Bleed, now larger. Called at 5. 2. No fracture seen.\n3) Old infarct.\n12. Atrophy"
    after = desk.edit_draft(draft["id"], {"impression": text}, "anna", 1)
    assert [s["text"] for s in after["sentences"] if s["section"] == "impression"] == [
        "1. Bleed, now larger.", "Called at 5.", "2. No fracture seen.", "3) Old infarct.", "12. Atrophy"]


def test_two_people_cannot_edit_one_version(desk):
    id = drafted(desk)["draft"]["id"]
    desk.edit_draft(id, {"impression": "A."}, "anna", 1)
    with pytest.raises(StateError, match="version 2"):
        desk.edit_draft(id, {"impression": "B."}, "ben", 1)
    with pytest.raises(StateError):
        desk.sign_draft(id, "ben", 1)
    assert desk.draft(id)["sections"]["impression"] == "A."


def test_a_report_goes_from_draft_to_final_to_amended_and_every_text_is_kept(desk, store):
    id = drafted(desk)["draft"]["id"]
    with pytest.raises(StateError):
        desk.amend_draft(id, {"impression": "C."}, "anna", 1)
    desk.make_preliminary(id, "anna", 1)
    with pytest.raises(InputError):
        desk.sign_draft(id, "", 2)
    final = desk.sign_draft(id, "anna", 2)
    assert (final["status"], final["signed_by"], desk.study("1.2.3")["state"]) == ("final", "anna", "signed")
    for step in (desk.sign_draft, desk.make_preliminary, desk.cancel_draft):
        with pytest.raises(StateError):
            step(id, "anna", 3)
    with pytest.raises(StateError):
        desk.edit_draft(id, {"impression": "C."}, "anna", 3)
    amended = desk.amend_draft(id, {"impression": "C."}, "ben", 3)
    assert [(v["status"], v["user"], v["sections"]["impression"]) for v in amended["history"]] == [
        ("draft", "", "Bleed."), ("preliminary", "anna", "Bleed."), ("final", "anna", "Bleed."), ("amended", "ben", "C.")]
    assert [row["action"] for row in store.audit_rows()] == ["amend", "sign", "make-preliminary"]


@pytest.mark.parametrize("sections", [{"conclusion": "x"}, {"findings": "x" * 20_001}, {"findings": None}])
def test_an_edit_names_what_it_cannot_take(desk, sections):
    id = drafted(desk)["draft"]["id"]
    with pytest.raises(InputError):
        desk.edit_draft(id, sections, "anna", 1)


# -- out -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sending(store, settings):
    pytest.importorskip("api.hl7.outgoing", reason="api/hl7/outgoing.py is not there yet")
    two = (Destination("ris", "127.0.0.1", 1), Destination("archive", "127.0.0.1", 2))
    return ListDesk(store, replace(settings, outbox=two), WordSuggester(), CountingReporter())


def sent(desk, kind):
    rows = [desk.store.outbox(row["id"]) for row in reversed(desk.store.outbox_rows())]
    return [(row["destination"], row["state"], bytes(row["raw"] or b"")) for row in rows if row["kind"] == kind]


def test_a_suggestion_and_a_decision_go_to_every_destination_once(sending, store):
    receive(sending, order_message())
    rows = sent(sending, "order update")
    assert [(name, state) for name, state, _ in rows] == [("ris", "queued"), ("archive", "queued")]
    assert all(b"P1" in raw and b"CT_HEAD_WO" in raw for _, _, raw in rows)
    sending.decide("P1", "change", "CT_HEAD_WWO", user="anna")
    assert len(sent(sending, "order update")) == 4 and b"CT_HEAD_W" in sent(sending, "order update")[-1][2]
    assert sorted(job["key"] for job in store.jobs() if job["kind"] == "send") == ["send:archive", "send:ris"]


def test_nothing_is_sent_before_a_person_acts_and_final_only_after_the_signature(sending):
    receive(sending, order_message(accession="A1"))
    id = drafted(sending)["draft"]["id"]
    assert sent(sending, "ORU^R01") == []
    sending.make_preliminary(id, "anna", 1)
    sending.sign_draft(id, "anna", 2)
    sending.amend_draft(id, {"impression": "No bleed."}, "anna", 3)
    reports = [raw for name, _, raw in sent(sending, "ORU^R01") if name == "ris"]
    status = [next(line for line in raw.split(b"\r") if line.startswith(b"OBR")).split(b"|")[25] for raw in reports]
    assert status == [b"P", b"F", b"C"]
    assert all(b"A1" in raw and b"X1" in raw for raw in reports) and b"No bleed." in reports[2]


def test_no_preliminary_report_follows_a_signed_one_and_a_second_signature_is_a_correction(sending):
    first = drafted(sending)["draft"]["id"]
    sending.sign_draft(first, "anna", 1)
    late = drafted(sending, 3)["drafts"][0]["id"]
    with pytest.raises(StateError, match="signed report"):
        sending.make_preliminary(late, "ben", 1)
    sending.sign_draft(late, "ben", 1)
    rows = [sending.store.outbox(row["id"]) for row in reversed(sending.store.outbox_rows())]
    assert [(row["result_status"], row["study_id"]) for row in rows if row["destination"] == "ris"] == [("F", "1.2.3"), ("C", "1.2.3")]


def test_a_message_that_cannot_be_built_stops_no_signature_and_is_seen_in_the_outbox(sending, monkeypatch):
    from api.hl7 import outgoing

    def broken(*parts):
        raise ValueError("Erika")

    monkeypatch.setattr(outgoing, "report_message", broken)
    id = drafted(sending)["draft"]["id"]
    assert sending.sign_draft(id, "anna", 1)["status"] == "final"
    assert [row[:2] for row in sent(sending, "ORU^R01")] == [("ris", "failed"), ("archive", "failed")]
    assert {row["reason"] for row in sending.store.outbox_rows()} == {"ValueError"}


def test_a_desk_sets_the_stores_quiet_period(store, settings):
    Desk(store, replace(settings, quiet_period_s=1.5))
    assert isinstance(store, Store) and store.quiet_period_s == 1.5
