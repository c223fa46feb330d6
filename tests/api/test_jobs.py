"""Jobs happen once: lease, fence, three tries, dead letter, replay."""
import threading
import time

import pytest

from api.board import Board
from api.jobs import Dead, Fenced, Later, Worker, replay
from api.store import DIED, HUNG, LOST_MAX, due_jobs, later, now
from data.errors import ModelError, StateError, StoreFull


def ask(store, *keys, kind="suggest", **more):
    with store.write() as tx:
        for key in keys:
            tx.enqueue(kind, key, {"order_id": key, "order_version": 1}, **more)


def note(store, job):
    """The effect of a job in these tests: a row of the audit."""
    with store.effect(job) as tx:
        tx.audit("worker", "did", job.kind, job.key)


def done(store):
    return sorted(row["object_id"] for row in store.audit_rows(10_000))


def states(store):
    return {job["key"]: job["state"] for job in store.jobs(limit=10_000)}


def until(question, patience_s=10):
    end = time.monotonic() + patience_s
    while not question():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_job_asked_for_twice_is_one_job(store):
    ask(store, "a", "a")
    ask(store, "a")
    assert len(store.jobs()) == 1


def test_a_leased_job_is_given_to_nobody_else_and_others_are(store):
    ask(store, "a", "b", "c")
    assert [job.key for job in store.lease(["suggest"], 2)] == ["a", "b"]
    assert [job.key for job in store.lease(["suggest"], 2)] == ["c"]
    assert store.lease(["suggest"]) == [] == store.lease([])


def test_only_kinds_asked_for_and_only_what_is_due_is_leased(store):
    ask(store, "a", not_before=later(60))
    ask(store, "b", kind="draft")
    assert store.lease(["suggest"]) == []
    assert [job.key for job in store.lease(["suggest", "draft"], 5)] == ["b"]


def test_of_several_kinds_those_that_wait_longest_are_leased(store):
    for key, kind, day in (("b1", "study", 2), ("a1", "message", 3), ("b2", "study", 1)):
        ask(store, key, kind=kind, not_before=f"2020-01-0{day}T00:00:00.000Z")
    assert store.due_kinds(["message", "draft", "study"]) == ["message", "study"]
    assert [job.key for job in store.lease(["message", "study"], 2)] == ["b2", "b1"]
    assert [job.key for job in store.lease(["message", "study"], 2)] == ["a1"]


def test_due_jobs_are_found_by_their_kind_without_reading_those_of_others(store):
    """100,000 messages waiting must not be read through each time a worker asks for a study to draft."""
    query = str(due_jobs("study", False).limit(1).compile(store.engine, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN " if store.engine.dialect.name == "sqlite" else "EXPLAIN "
    with store.engine.begin() as connection:
        if store.engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")        # of so few rows it would read them all
        plan = " ".join(str(row) for row in connection.exec_driver_sql(explain + query))
    assert "jobs_due" in plan and ("kind=?" in plan or "kind = 'study'" in plan) and "Filter: (kind" not in plan, plan


def test_a_worker_that_lost_its_lease_commits_nothing(store):
    ask(store, "a")
    (slow,) = store.lease(["suggest"], lease_s=-1)
    assert store.recover() == 1
    (fast,) = store.lease(["suggest"])
    note(store, fast)
    with pytest.raises(Fenced):
        note(store, slow)
    assert done(store) == ["a"] and states(store) == {"a": "done"}
    store.release(slow, "too late", after_s=0, failed=True)
    assert states(store) == {"a": "done"}


def test_an_effect_that_fails_leaves_the_job_to_be_done(store):
    ask(store, "a")
    (job,) = store.lease(["suggest"])
    with pytest.raises(RuntimeError), store.effect(job) as tx:
        tx.audit("worker", "did", "suggest", "a")
        raise RuntimeError
    assert done(store) == [] and states(store) == {"a": "leased"}


def test_a_renewed_lease_does_not_run_out(store):
    ask(store, "a")
    held = store.lease(["suggest"], lease_s=-1)
    store.renew(held, 60)
    assert store.recover() == 0 and states(store) == {"a": "leased"}


def test_rearming_a_job_under_way_fences_it(store):
    ask(store, "a")
    (job,) = store.lease(["suggest"])
    ask(store, "a", rearm=True)
    with pytest.raises(Fenced):
        note(store, job)
    (again,) = store.lease(["suggest"])
    assert again.fence > job.fence


def test_a_job_that_keeps_killing_its_worker_ends_among_the_dead(store):
    ask(store, "a")
    for _ in range(LOST_MAX):
        assert len(store.lease(["suggest"], lease_s=-1)) == 1
        store.recover()
    (job,) = store.jobs("dead")
    assert job["reason"] == "lease lost"


def test_three_failures_make_a_dead_letter_that_names_class_and_code_only_and_can_be_replayed(store):
    ask(store, "a")
    calls = []

    def fails(job):
        calls.append(job.tries)
        raise ModelError("Erika Mustermann has no model")

    worker = Worker(store, {"suggest": fails}, backoff_s=(0, 0))
    while worker.run_once():
        pass
    (job,) = store.jobs("dead")
    assert (calls, job["reason"], job["tries"]) == ([0, 1, 2], "[E108] ModelError", 3)
    replay(store, job["id"])
    with pytest.raises(StateError):
        replay(store, job["id"])
    Worker(store, {"suggest": lambda job: note(store, job)}).run_once()
    assert done(store) == ["a"] and states(store) == {"a": "done"}


def test_what_a_dead_worker_had_in_hand_has_failed_once_and_is_left_to_a_worker_of_its_own(store):
    ask(store, "poison", "bystander")
    poison, bystander = store.lease(["suggest"], 2)
    store.settle([(int(poison.id), poison.fence, True), (int(bystander.id), bystander.fence, False)], DIED, after_s=0)
    assert [job.key for job in store.lease(["suggest"], 5)] == ["bystander"]
    assert store.due(["suggest"], suspect=True)
    worker = Worker(store, {"suggest": lambda job: note(store, job)}, suspect=True)
    assert (worker.run_once(), done(store), states(store)["poison"]) == (1, ["poison"], "done")


def test_a_job_that_three_workers_died_over_is_dead_and_its_order_goes_on_to_a_person(store):
    from api.settings import Settings
    from api.workflow import Desk
    from data.records import Order

    desk = Desk(store, Settings(store.home))
    id = desk.add_order(Order(text="headache", placer_number="P1"))
    for n in range(3):
        (job,) = store.lease(["suggest"], suspect=n > 0)
        store.settle([(int(job.id), job.fence, True)], DIED, after_s=0)
    (dead,) = store.jobs("dead")
    assert (dead["tries"], dead["reason"]) == (3, DIED)
    assert (desk.order(id)["state"], desk.order(id)["reason"]) == ("no-suggestion", DIED)


def test_a_hang_counts_though_its_lease_was_taken_back_meanwhile(store):
    ask(store, "a")
    for n in range(3):
        (job,) = store.lease(["suggest"], lease_s=-1, suspect=n > 0)
        assert store.recover() == 1
        store.settle([(int(job.id), job.fence, True)], HUNG, after_s=0)
    (dead,) = store.jobs("dead")
    assert (dead["tries"], dead["reason"]) == (3, HUNG)


def test_what_was_done_before_its_worker_died_is_not_done_again(store):
    ask(store, "a")
    (job,) = store.lease(["suggest"])
    note(store, job)
    store.settle([(int(job.id), job.fence, True)], DIED)
    assert states(store) == {"a": "done"}


def test_a_store_that_is_away_counts_as_no_failure_of_the_job(store):
    ask(store, "a")

    def full(job):
        raise StoreFull("no room")

    worker = Worker(store, {"suggest": full})
    for _ in range(5):
        worker.run_once()
        until(lambda: store.due(["suggest"]))
    assert [(job["state"], job["tries"]) for job in store.jobs()] == [("queued", 0)]


def test_a_worker_tells_what_it_has_in_hand_on_its_board(store):
    board = Board()
    seen = []
    ask(store, "a", "b")

    def handler(job):
        seen.append([(row.job_id, bool(row.begun), row.overdue) for row in sorted(board.held(), key=lambda row: row.job_id)])
        note(store, job)

    Worker(store, {"suggest": handler}, board=board).run_once()
    a, b = sorted(int(job["id"]) for job in store.jobs())
    assert seen == [[(a, True, False), (b, False, False)], [(b, True, False)]] and board.held() == []
    (job,) = (ask(store, "c"), store.lease(["suggest"]))[1]
    board.begin(job, -1.0)
    assert [row.overdue for row in board.held()] == [True]


def test_a_silent_receiver_holds_up_no_order(store):
    blocked, release = threading.Event(), threading.Event()

    def send(job):
        blocked.set()
        assert release.wait(10)

    ask(store, "s1", "s2", kind="send")
    worker = Worker(store, {"send": send, "message": lambda job: note(store, job), "suggest": lambda job: note(store, job)})
    worker.start()
    try:
        assert blocked.wait(10)
        ask(store, "m", kind="message")
        ask(store, "o")
        until(lambda: done(store) == ["m", "o"])
    finally:
        release.set()
        worker.stop()


def test_one_hanging_message_holds_up_no_other(store):
    release = threading.Event()

    def handler(job):
        if job.key == "k0":
            assert release.wait(10)
        note(store, job)

    ask(store, *(f"k{i}" for i in range(12)), kind="message")      # more than one lease takes
    worker = Worker(store, {"message": handler})
    worker.start()
    try:
        until(lambda: len(done(store)) == 11)
    finally:
        release.set()
        worker.stop()


@pytest.mark.parametrize("late", ["queued", "leased"])
def test_a_clock_that_was_put_back_delays_no_job(store, late, monkeypatch):
    with monkeypatch.context() as ahead:
        for name in ("now", "later"):
            ahead.setattr(f"api.store.{name}", lambda seconds=0.0: later(seconds + 3600))
        ask(store, "a")
        ask(store, "b", not_before=later(3600.0))
        if late == "leased":
            assert store.lease(["suggest"])
    assert store.lease(["suggest"]) == []
    store.recover()
    until(lambda: store.due(["suggest"]))
    assert "a" in [job.key for job in store.lease(["suggest"], 5)] or late == "leased"
    (row,) = [job for job in store.jobs() if job["key"] == "a"]
    assert (row["lease_until"] or row["not_before"]) < later(60)


def test_a_failure_waits_before_the_next_try(store):
    ask(store, "a")

    def fails(job):
        raise RuntimeError

    worker = Worker(store, {"suggest": fails}, backoff_s=(60, 60))
    assert (worker.run_once(), worker.run_once()) == (1, 0)
    (job,) = store.jobs()
    assert job["state"] == "queued" and job["not_before"] > later(50) > now()


def test_dead_ends_at_once_and_later_counts_no_try(store):
    ask(store, "a", "b")

    def handler(job):
        raise Dead("AE") if job.key == "a" else Later("receiver-down", 0)

    worker = Worker(store, {"suggest": handler})
    for _ in range(5):
        worker.run_once()
    rows = {job["key"]: (job["state"], job["tries"], job["reason"]) for job in store.jobs()}
    assert rows == {"a": ("dead", 1, "AE"), "b": ("queued", 0, "receiver-down")}


def test_a_handler_without_an_effect_ends_its_job(store):
    ask(store, "a")
    Worker(store, {"suggest": lambda job: None}).run_once()
    assert states(store) == {"a": "done"}


def test_several_workers_do_every_job_once(store):
    keys = [f"k{i:03}" for i in range(60)]
    ask(store, *keys)
    workers = [Worker(store, {"suggest": lambda job: note(store, job)}) for _ in range(2)]
    for worker in workers:
        worker.start()
    until(lambda: not store.jobs("queued") and not store.jobs("leased"))
    for worker in workers:
        worker.stop()
    assert done(store) == keys


def test_new_work_wakes_a_waiting_worker_and_slow_work_leaves_a_thread_for_it(store):
    blocked, release = threading.Event(), threading.Event()

    def draft(job):
        blocked.set()
        assert release.wait(10)

    ask(store, "d1", "d2", kind="draft")
    worker = Worker(store, {"draft": draft, "suggest": lambda job: note(store, job)})
    worker.start()
    try:
        assert blocked.wait(10)
        ask(store, "s1")
        until(lambda: states(store)["s1"] == "done")
        assert states(store)["d2"] == "queued"
    finally:
        release.set()
        worker.stop()
    assert states(store)["d1"] == "done"


def test_a_long_job_keeps_its_lease_while_its_worker_lives(store):
    ask(store, "a")
    runs = []

    def slow(job):
        runs.append(job.fence)
        time.sleep(0.7)
        note(store, job)

    worker = Worker(store, {"suggest": slow}, lease_s=0.3)
    worker.start()
    until(lambda: states(store)["a"] == "done")
    worker.stop()
    assert runs == [1] and done(store) == ["a"]


def test_stopping_gives_back_what_was_not_begun(store):
    ask(store, *"abcdef")
    began, release = threading.Event(), threading.Event()

    def first(job):
        began.set()
        assert release.wait(10)

    worker = Worker(store, {"suggest": first})
    worker.start()
    assert began.wait(10)
    threading.Timer(0.05, release.set).start()
    worker.stop()
    assert sorted(states(store).values()) == ["done", *["queued"] * 5]
