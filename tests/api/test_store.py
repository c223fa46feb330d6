"""What the store keeps, and how it says no."""
import asyncio
import os
import threading

import pytest
import sqlalchemy as sa

from api.schema import TABLES, metadata
from api.store import HEAD, Store, now, schema_state
from data.errors import NotFound, StateError, StoreError


def keep(store, *rows):
    """Keep (raw, control id) pairs at once, as many connections would."""
    async def all_of_them():
        return await asyncio.gather(*(store.keep_message(raw, "RIS|HOSP", control_id, "ORM^O01", "127.0.0.1", True, ack=b"ACK " + raw)
                                      for raw, control_id in rows), return_exceptions=True)

    return asyncio.run(all_of_them())


def test_a_message_is_kept_with_its_bytes_its_answer_and_one_job(store):
    raw = bytes(range(256))
    (kept,) = keep(store, (raw, "M1"))
    assert not kept.duplicate
    row = store.message(kept.id)
    assert (bytes(row["raw"]), bytes(row["ack"]), row["state"], row["conflict"]) == (raw, b"ACK " + raw, "received", False)
    (job,) = store.lease(["message"], 10)
    assert job.payload == {"message_id": kept.id}


def test_the_same_message_again_gets_the_first_answer_and_makes_no_second_job(store):
    (first,) = keep(store, (b"one", "M1"))

    async def again():
        return await store.keep_message(b"one", "RIS|HOSP", "M1", "ORM^O01", "127.0.0.1", True, ack=b"another answer")

    second = asyncio.run(again())
    assert (second.id, second.duplicate, bytes(second.ack)) == (first.id, True, b"ACK one")
    assert len(store.messages()) == len(store.jobs()) == 1


def test_a_batch_with_doubles_in_it_keeps_each_once(store):
    results = keep(store, *[(b"%d" % (i % 7), f"M{i % 7}") for i in range(50)])
    assert len(store.messages()) == len(store.jobs()) == 7
    by_number = [{results[j].id for j in range(i, 50, 7)} for i in range(7)]
    assert all(len(ids) == 1 for ids in by_number) and len(set.union(*by_number)) == 7
    assert sum(not result.duplicate for result in results) == 7


def test_a_control_id_used_twice_for_different_messages_keeps_both_and_says_so(store):
    keep(store, (b"one", "M1"))
    (other,) = keep(store, (b"two", "M1"))
    assert not other.duplicate
    assert [row["conflict"] for row in store.messages()] == [True, False]
    assert len(store.jobs()) == 2


def test_a_message_without_a_job_is_kept_as_unused(store):
    kept = asyncio.run(store.keep_message(b"x", "A|B", "1", "ORU^R01", "peer", False))
    assert store.message(kept.id)["state"] == "unused"
    assert store.jobs() == []
    store.replay_message(kept.id)
    assert [job["key"] for job in store.jobs()] == [f"message:{kept.id}"]


def test_characters_that_a_database_refuses_are_kept_all_the_same(store):
    kept = asyncio.run(store.keep_message(b"\0\xff", "A\0|\ud800", "1\0", "ORM^O01", "peer", True))
    assert bytes(store.message(kept.id)["raw"]) == b"\0\xff"
    again = asyncio.run(store.keep_message(b"\0\xff", "A\0|\ud800", "1\0", "ORM^O01", "peer", True))
    assert again.duplicate


def test_one_item_at_fault_does_not_take_its_neighbours_with_it(store):
    async def three():
        wrong = store.keep_message(b"b", "S", "2", "ORM^O01", "peer", True)
        good = [store.keep_message(raw, "S", raw.decode(), "ORM^O01", "peer", True, ack=ack) for raw, ack in ((b"a", b"x"), (b"c", b"y"))]
        items = [good[0], store.keep_message(b"q", "S", "q", "ORM^O01", "peer", True, ack=object()), good[1], wrong]    # no bytes
        return await asyncio.gather(*items, return_exceptions=True)

    results = asyncio.run(three())
    assert isinstance(results[1], StoreError)
    assert [bytes(row["raw"]) for row in map(store.message, (results[0].id, results[2].id, results[3].id))] == [b"a", b"c", b"b"]
    assert len(store.jobs()) == 3


def test_a_full_disk_fails_every_message_of_the_batch_and_keeps_none(sqlite_template, tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'small.db'}", tmp_path)

    @sa.event.listens_for(store.engine, "checkout")
    def small(connection, record, proxy):       # the real SQLITE_FULL, from SQLite itself
        connection.execute("PRAGMA max_page_count=80")

    results = keep(store, *[(os.urandom(100_000), f"M{i}") for i in range(4)])
    assert all(isinstance(result, StoreError) and "disk is full" in str(result) for result in results)
    assert store.messages() == [] and store.jobs() == []
    (kept,) = keep(store, (b"small", "M9"))
    assert not kept.duplicate
    store.close()


def test_a_store_that_is_read_only_says_so(tmp_path):
    store = Store.open("", tmp_path)

    @sa.event.listens_for(store.engine, "checkout")
    def read_only(connection, record, proxy):
        connection.execute("PRAGMA query_only=ON")

    with pytest.raises(StoreError, match=r"\[E113\].*SQLITE_READONLY"):
        store.audit("me", "look", "order", "1")
    store.close()


def test_sqlite_is_as_durable_as_promised(tmp_path):
    store = Store.open("", tmp_path)
    with store.read() as tx:
        pragmas = [tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
    store.close()
    assert pragmas == ["wal", 2, 1]         # 2 is FULL


def test_the_migrations_make_the_tables_the_code_expects(store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    assert ScriptDirectory("api/migrations").get_current_head() == HEAD
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, metadata) == []
        columns = {c["name"]: c["nullable"] for c in sa.inspect(connection).get_columns("orders")}
    assert columns == {c.name: c.nullable for c in TABLES["orders"].c}


def test_a_store_of_another_schema_is_refused_and_left_alone(store_address):
    url, home = store_address
    store = Store.open(url, home, upgrade=False)
    with store.engine.begin() as tx:
        tx.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    store.close()
    for upgrade in (False, True):
        with pytest.raises(StoreError, match="0000"):
            Store.open(url, home, upgrade=upgrade)
    ok, words = schema_state(url, home)
    assert not ok and "wetread db upgrade" in words


def test_an_error_quotes_no_row_and_no_password(store, tmp_path):
    with pytest.raises(StoreError) as caught, store.write() as tx:
        tx.insert("order_events", key="k", order_id="Erika Mustermann", time=now(), what="new")
    assert "Erika" not in str(caught.value)
    with pytest.raises(StoreError) as caught:
        Store.open("postgresql://wetread:geheim@127.0.0.1:1/none", tmp_path)
    assert "geheim" not in str(caught.value)


def test_a_failed_transaction_leaves_nothing(store):
    with pytest.raises(RuntimeError), store.write() as tx:
        tx.audit("me", "look", "order", "1")
        tx.enqueue("draft", "draft:1", {})
        raise RuntimeError
    assert store.audit_rows() == [] and store.jobs() == []


def test_writers_wait_for_each_other(store):
    """Without BEGIN IMMEDIATE a reader that turns writer fails at once when another wrote meanwhile."""
    failures = []

    def count(times):
        try:
            for _ in range(times):
                with store.write() as tx:
                    row = tx.one("patients", id="p", lock=True)
                    tx.change("patients", {"id": "p"}, record=row["record"] + 1)
        except Exception as error:
            failures.append(error)

    with store.write() as tx:
        tx.insert("patients", id="p", record=0, event_time="")
    threads = [threading.Thread(target=count, args=(10,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        assert (failures, tx.one("patients", id="p")["record"]) == ([], 40)


def test_people_sessions_keys_and_the_audit(store):
    store.add_user("anna", "hash", "radiologist")
    with pytest.raises(StateError):
        store.add_user("anna", "other", "radiologist")
    store.add_session("s1", "anna", "csrf", "2999-01-01T00:00:00.000Z")
    store.add_session("s2", "anna", "csrf", "2001-01-01T00:00:00.000Z")
    assert store.session("s1")["role"] == "radiologist" and store.session("s2") is None
    store.end_session("s1")
    assert store.session("s1") is None
    store.add_api_key("ris", "keyhash")
    assert [(key["name"], key["key_hash"]) for key in store.api_keys()] == [("ris", "keyhash")]
    store.audit("anna", "look", "order", "o1")
    (row,) = store.audit_rows()
    assert (row["user"], row["action"], row["kind"], row["object_id"]) == ("anna", "look", "order", "o1")


@pytest.mark.parametrize("id", ["", "x", "1;2", "99", "٣", "9" * 30])
def test_an_unknown_message_is_not_found(store, id):
    with pytest.raises(NotFound):
        store.message(id)
