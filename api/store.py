"""The store: the only module that speaks SQL, on SQLite or PostgreSQL. Synchronous and thread-safe; keep_message alone is async.

What `write` and `effect` commit is durable when they return: SQLite in WAL with synchronous=FULL, or PostgreSQL.
"""
import asyncio
import errno
import hashlib
import logging
import os
import queue
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from api.schema import TABLES, clean
from api.turns import Turns
from data.errors import InputError, NotFound, StateError, StoreError, StoreFull

log = logging.getLogger("wetread.store")

HEAD = "0007"               # the newest revision in api/migrations/versions
BUSY_TIMEOUT_S = 10.0
BATCH = 512                 # messages one transaction takes; beyond it latency grows and nothing is gained
LINGER_S = 0.005            # between two messages of a feed under load
LEASE_S = 30.0              # renewed by a living worker; after a crash a job waits this long at most
TRIES = 3
LOST_MAX = 8                # leases that may run out: a job that kills its worker must end, a bystander must not
DIED, HUNG = "worker-died", "took-too-long"
SUSPECT = (DIED, HUNG)      # reasons of a job that a worker of its own tries again, so that it takes no other with it
PROBE_BYTES, PROBE_S = 256 * 2**10, 1.0     # what a readiness check writes (room for a batch of messages), and how often at most
CLOCK_S = 2.0               # a row written later than this from now was written before the clock was put back
# a job given up is said where people look: job kind -> table, key of its payload, state there
GIVEN_UP = {
    "message": ("messages", "message_id", "failed"),
    "suggest": ("orders", "order_id", "no-suggestion"),
    "draft": ("studies", "study_id", "no-draft"),
    "send-dicom": ("outbox", "outbox_id", "failed"),
}
# states that a given-up job may still overwrite; a cancelled order stays cancelled
WAITING = {"message": ("received",), "suggest": ("new",), "draft": ("complete",), "send-dicom": ("queued",)}


class Fenced(Exception):
    """The lease of this job was lost to another worker, so its effect is not committed."""


@dataclass(frozen=True)
class Kept:
    """What keep_message did; `ack` is the stored answer, the first one for a duplicate."""

    id: str
    duplicate: bool
    ack: bytes | None


@dataclass
class Job:
    id: str
    kind: str
    key: str
    payload: dict[str, Any]
    fence: int
    tries: int
    finished: bool = False      # set when its effect was committed


def insertion(dialect: str, table: str) -> Any:
    return (sqlite if dialect == "sqlite" else postgresql).insert(TABLES[table])


@cache
def enqueuing(dialect: str, rearm: bool) -> Any:
    """Made once: making it takes longer than the store does."""
    insert = insertion(dialect, "jobs")
    if not rearm:
        return insert.on_conflict_do_nothing()
    fresh = {name: insert.excluded[name] for name in ("payload", "state", "not_before", "updated")}
    return insert.on_conflict_do_update(index_elements=["key"], set_={**fresh, "tries": 0, "lost": 0, "reason": ""})


class Tx:
    """One transaction; tables by name, rows as dicts, equality (or a list: any of them) as the only condition."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.enqueued = False

    def find(self, table: str, *, order: Sequence[str] = (), limit: int | None = None, offset: int = 0,
             lock: bool = False, columns: Sequence[str] = (), ranges: Sequence[tuple[str, str, str]] = (), any_of: Sequence[str] = (),
             **equal: Any) -> list[dict[str, Any]]:
        """Rows; `order` names columns, `-name` for descending; `lock` keeps them until the end (PostgreSQL; SQLite writes alone).

        `ranges` are (column, < or >=, bound); `any_of` are numbers of which one stands in one of the row's number columns.
        """
        t = TABLES[table]
        query = sa.select(*(t.c[name] for name in columns)) if columns else sa.select(t)
        query = query.where(*conditions(t, equal), *bounds(t, ranges, any_of)).limit(limit).offset(offset or None)
        query = query.order_by(*(t.c[name[1:]].desc() if name.startswith("-") else t.c[name] for name in order))
        return [dict(row) for row in self.connection.execute(query.with_for_update() if lock else query).mappings()]

    def since(self, table: str, column: str, time: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows whose `column` is `time` or later, in its order, a few hundred at once: there may be a year of them."""
        t = TABLES[table]
        query = sa.select(*(t.c[name] for name in columns)).where(t.c[column] >= time).order_by(t.c[column])
        for row in self.connection.execution_options(yield_per=500).execute(query).mappings():
            yield dict(row)

    def count(self, table: str, *, ranges: Sequence[tuple[str, str, str]] = (), any_of: Sequence[str] = (), **equal: Any) -> int:
        t = TABLES[table]
        query = sa.select(sa.func.count()).select_from(t).where(*conditions(t, equal), *bounds(t, ranges, any_of))
        return self.connection.execute(query).scalar_one()

    def one(self, table: str, *, lock: bool = False, **equal: Any) -> dict[str, Any] | None:
        return next(iter(self.find(table, limit=1, lock=lock, **equal)), None)

    def insert(self, table: str, **values: Any) -> Any:
        """Insert a row, return its primary key."""
        return self.connection.execute(sa.insert(TABLES[table]).values(values)).inserted_primary_key[0]

    def add(self, table: str, **values: Any) -> bool:
        """Insert a row unless one with the same unique key stands there; True when it is new."""
        insert = self.insertion(table).values(values).on_conflict_do_nothing().returning(sa.literal(1))
        return self.connection.execute(insert).first() is not None

    def insertion(self, table: str) -> Any:
        return insertion(self.connection.dialect.name, table)

    def change(self, table: str, where: dict[str, Any], **values: Any) -> int:
        """Update the rows that match, return how many."""
        t = TABLES[table]
        return self.connection.execute(sa.update(t).where(*conditions(t, where)).values(values)).rowcount

    def remove(self, table: str, **equal: Any) -> int:
        return self.connection.execute(sa.delete(TABLES[table]).where(*conditions(TABLES[table], equal))).rowcount

    def enqueue(self, kind: str, key: str, payload: dict[str, Any], not_before: str = "", rearm: bool = False) -> None:
        """Ask for work once by its key; `rearm` starts it anew, also when it is done, dead or under way."""
        self.connection.execute(enqueuing(self.connection.dialect.name, rearm), {
            "kind": kind, "key": key, "payload": payload, "state": "queued", "not_before": not_before or now(), "updated": now()})
        self.enqueued = True

    def rouse(self, kind: str, key: str, payload: dict[str, Any], at_once: bool = True) -> None:
        """Let a job run that stands for a queue: at rest it is due now, waiting too if `at_once`, under way it looks again before it ends.

        The row is written in each case, so that a job that is just ending comes before or after this transaction and not beside it.
        """
        jobs = TABLES["jobs"]
        values = {"kind": kind, "key": key, "payload": payload, "state": "queued", "not_before": now(), "updated": now()}
        resting = jobs.c.state.in_(("done", "dead"))
        changes = {"state": sa.case((resting, "queued"), else_=jobs.c.state), "tries": 0, "lost": 0, "updated": now(),
                   "not_before": now() if at_once else sa.case((resting, now()), else_=jobs.c.not_before)}
        self.connection.execute(self.insertion("jobs").values(values).on_conflict_do_update(index_elements=["key"], set_=changes))
        self.enqueued = True

    def audit(self, user: str, action: str, kind: str, id: str) -> None:
        self.insert("audit", time=now(), user=user, action=action, kind=kind, object_id=str(id))


class Store:
    def __init__(self, engine: Engine, home: Path) -> None:
        """Use Store.open."""
        self.engine = engine
        self.home = home
        self.quiet_period_s = 5.0       # Desk sets it from the settings
        self.fetches_priors = False     # so does this: whether a node is asked for a patient's earlier studies
        self.gives_way_s = 0.0          # how long a write waits for the intake; the worker sets it
        self._turns = Turns(Path(engine.url.database)) if is_sqlite(engine.url) and engine.url.database else None
        self._writer = MessageWriter(self)
        self._work = threading.Condition()
        self._work_count = 0
        self._probing, self._probed = threading.Lock(), -PROBE_S
        self._found: StoreError | None = None       # by the last probe
        self._doubted = threading.Event()           # something was refused since

    @classmethod
    def open(cls, url: str, home: Path | str, *, upgrade: bool = True) -> "Store":
        """Open a store and, with `upgrade`, bring its schema up to date; raises StoreError in words."""
        home = Path(home)
        address = parse(url, home)
        with in_words():
            try:
                home.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{home} cannot be made ({error.strerror}); choose another --home") from None
            new_file = Path(address.database) if is_sqlite(address) and not Path(address.database or "").exists() else None
            engine = make_engine(address)
            try:
                found = revision(engine)
                if upgrade and found != HEAD:
                    upgrade_schema(engine, found)
                elif found != HEAD:
                    raise StoreError(f"the store's schema is {found or 'empty'}, this version needs {HEAD}; run wetread db upgrade")
            except BaseException:
                engine.dispose()
                raise
            if new_file is not None:
                sync_folder(new_file.parent)    # a new file's name is durable only with its folder
        return cls(engine, home)

    def close(self) -> None:
        self._writer.stop()
        self.engine.dispose()
        if self._turns:
            self._turns.close()
            self._turns = None

    def turn(self, gives_way_s: float = 0.0) -> AbstractContextManager[None]:
        """The right to write; PostgreSQL settles that itself."""
        return self._turns.taken(gives_way_s) if self._turns else nullcontext()

    def intake(self, under_way: bool) -> None:
        """Say whether messages are coming in; the worker's writes wait for them."""
        if self._turns:
            (self._turns.intake_begins if under_way else self._turns.intake_ends)()

    # -- transactions ------------------------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[Tx]:
        with in_words(), self.engine.connect() as connection:
            yield Tx(connection)

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """Commit all or nothing; waiting workers are woken after the commit."""
        try:
            with in_words(), self.engine.connect() as plain:
                connection = plain.execution_options(wetread_write=True)
                with self.turn(self.gives_way_s), connection.begin():
                    tx = Tx(connection)
                    yield tx
        except StoreError:
            self.doubt()
            raise
        if tx.enqueued:
            self.wake()

    @contextmanager
    def effect(self, job: Job) -> Iterator[Tx]:
        """Commit a job's effect together with its end; raises Fenced, committing nothing, when the lease was lost."""
        with self.write() as tx:
            mine = {"id": int(job.id), "fence": job.fence, "state": "leased"}
            if tx.change("jobs", mine, state="done", lease_until=None, updated=now()) != 1:
                raise Fenced(job.key)
            yield tx
        job.finished = True

    # -- messages ----------------------------------------------------------------------------------------------------

    def put_message(self, raw: bytes, sender: str, control_id: str, kind: str, peer: str, job: bool, ack: bytes | None = None,
                    state: str = "", reason: str = "", listener: str = "", *, done: Callable[[Kept | StoreError], None]) -> None:
        """Keep a message, with its answer and its job; `done` is called in this event loop once it is durable, or could not be kept.

        The same sender, control id and bytes come back as a duplicate with the answer of the first time.
        `state` is received with a job and unused without one, unless given (failed, for what could not be read).
        """
        digest = hashlib.sha256(raw).hexdigest()
        self._writer.put(Item((clean(sender), clean(control_id), digest, clean(kind), clean(peer), now(), raw, ack,
                               state or ("received" if job else "unused"), clean(reason), listener), job, asyncio.get_running_loop(), done))

    async def keep_message(self, raw: bytes, sender: str, control_id: str, kind: str, peer: str, job: bool, ack: bytes | None = None,
                           state: str = "", reason: str = "", listener: str = "") -> Kept:
        """put_message to be awaited; raises StoreError when the message could not be kept."""
        future: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()

        def done(kept: Kept | StoreError) -> None:
            if not future.done():       # else its task was cancelled; the message is kept all the same
                future.set_exception(kept) if isinstance(kept, StoreError) else future.set_result(kept)

        self.put_message(raw, sender, control_id, kind, peer, job, ack, state, reason, listener, done=done)
        return await future

    def message(self, id: str) -> dict[str, Any]:
        with self.read() as tx:
            row = tx.one("messages", id=number(id, "message"))
        if row is None:
            raise NotFound(f"there is no message {str(id)[:20]}; GET /v1/messages lists them")
        return {**row, "id": str(row["id"])}

    def messages(self, state: str | None = None, limit: int = 200, offset: int = 0) -> list[dict[str, Any]]:
        """Newest first, without their bytes."""
        columns = ("id", "sender", "control_id", "kind", "peer", "received", "state", "reason", "conflict", "listener")
        with self.read() as tx:
            rows = tx.find("messages", order=["-id"], limit=limit, offset=offset, columns=columns, **({"state": state} if state else {}))
        return [{**row, "id": str(row["id"])} for row in rows]

    def mark_message(self, id: str, state: str, reason: str = "", tx: Tx | None = None) -> None:
        if tx is None:
            with self.write() as tx:
                return self.mark_message(id, state, reason, tx)
        assert state in ("received", "applied", "unused", "failed"), state
        tx.change("messages", {"id": int(id)}, state=state, reason=reason)

    def replay_message(self, id: str) -> None:
        """Apply a kept message again, whatever became of it the first time."""
        row = self.message(id)
        with self.write() as tx:
            self.mark_message(row["id"], "received", "", tx)
            tx.enqueue("message", f"message:{row['id']}", {"message_id": row["id"]}, rearm=True)

    # -- jobs (api/jobs.py runs them) --------------------------------------------------------------------------------

    def due(self, kinds: Sequence[str], suspect: bool = False) -> bool:
        """Whether a job waits; a reader locks nobody out, and most polls find nothing."""
        return bool(self.due_kinds(kinds, suspect, 1))

    def due_kinds(self, kinds: Sequence[str], suspect: bool = False, most: int | None = None) -> list[str]:
        """Those of `kinds` of which a job waits, the first `most` of them."""
        found: list[str] = []
        with self.read() as tx:
            for kind in kinds:
                if len(found) != most and tx.connection.execute(due_jobs(kind, suspect).limit(1)).first() is not None:
                    found.append(kind)
        return found

    def lease(self, kinds: Sequence[str], limit: int = 1, lease_s: float = LEASE_S, suspect: bool = False) -> list[Job]:
        """Take due jobs for `lease_s` seconds, longest waiting first; each lease raises the job's fence.

        `suspect`: those alone that a worker died or hung over, which are left out otherwise.
        """
        jobs = TABLES["jobs"]
        if not self.due(kinds, suspect):
            return []
        with self.write() as tx:
            due = [row for kind in kinds for row in tx.connection.execute(due_jobs(kind, suspect).limit(limit).with_for_update(skip_locked=True))]
            first = sorted(due, key=lambda row: (row.not_before, row.id))[:limit]
            taken = sa.update(jobs).where(jobs.c.id.in_([row.id for row in first]))
            taken = taken.values(state="leased", fence=jobs.c.fence + 1, lease_until=later(lease_s), updated=now())
            columns = ("id", "kind", "key", "payload", "fence", "tries")
            rows = tx.connection.execute(taken.returning(*(jobs.c[name] for name in columns), jobs.c.not_before)).mappings().all()
        rows = sorted(rows, key=lambda row: (row["not_before"], row["id"]))
        return [Job(str(row["id"]), *(row[name] for name in columns[1:])) for row in rows]

    def renew(self, held: Sequence[Job], lease_s: float = LEASE_S) -> None:
        with self.write() as tx:
            for job in held:
                tx.change("jobs", {"id": int(job.id), "fence": job.fence, "state": "leased"}, lease_until=later(lease_s))

    def settle(self, held: Sequence[tuple[int, int, bool]], reason: str, after_s: float = 1.0) -> None:
        """What a dead worker held, as (job id, fence, in hand): a job in hand has failed once, the others go back as they were."""
        with self.write() as tx:
            for id, fence, in_hand in held:
                # queued: it hung so that it could not renew its lease, which was taken back meanwhile
                row = tx.one("jobs", lock=True, id=id, fence=fence, state=["leased", "queued"])
                if row is None:
                    continue
                if not in_hand:
                    tx.change("jobs", {"id": id}, state="queued", lease_until=None, updated=now())
                elif row["tries"] + 1 < TRIES:
                    tx.change("jobs", {"id": id}, state="queued", tries=row["tries"] + 1, reason=reason, lease_until=None,
                              not_before=later(after_s), updated=now())
                else:
                    tx.change("jobs", {"id": id}, state="dead", tries=row["tries"] + 1, reason=reason, lease_until=None, updated=now())
                    give_up(tx, row["kind"], row["payload"], reason)
            tx.enqueued = True

    def recover(self) -> int:
        """Put jobs whose lease ran out back in the queue; one that lost too many leases is given up."""
        self._mend_clock()
        with self.read() as tx:
            jobs = TABLES["jobs"]
            query = sa.select(jobs).where(jobs.c.state == "leased", jobs.c.lease_until < now())
            rows = tx.connection.execute(query).mappings().all()
        if not rows:
            return 0
        with self.write() as tx:
            for row in rows:
                mine = {"id": row["id"], "fence": row["fence"], "state": "leased", "lease_until": row["lease_until"]}
                if row["lost"] + 1 < LOST_MAX:
                    tx.change("jobs", mine, state="queued", lost=row["lost"] + 1, lease_until=None, updated=now())
                elif tx.change("jobs", mine, state="dead", reason="lease lost", lease_until=None, updated=now()):
                    give_up(tx, row["kind"], row["payload"], "lease lost")
            tx.enqueued = True
        return len(rows)

    def _mend_clock(self) -> None:
        """After the clock was put back, jobs written under the old time would wait for it to come again: they wait as long as was meant."""
        jobs, soon = TABLES["jobs"], later(CLOCK_S)
        with self.read() as tx:
            late = [*tx.connection.execute(sa.select(jobs).where(jobs.c.state == "queued", jobs.c.not_before > soon, jobs.c.updated > soon)
                                           .limit(1000)).mappings(),
                    *tx.connection.execute(sa.select(jobs).where(jobs.c.state == "leased", jobs.c.updated > soon).limit(1000)).mappings()]
        if not late:
            return
        log.warning("the clock was put back; the times of %d jobs are set anew", len(late))
        with self.write() as tx:
            for row in late:
                column = "not_before" if row["state"] == "queued" else "lease_until"
                wait_s = max(0.0, (moment(row[column]) - moment(row["updated"])).total_seconds())
                tx.change("jobs", {"id": row["id"], "fence": row["fence"], "state": row["state"], "updated": row["updated"]},
                          **{column: later(wait_s) if wait_s else now()}, updated=now())
            tx.enqueued = True

    def release(self, job: Job, reason: str | None, *, after_s: float, failed: bool, dead: bool = False) -> None:
        """End a lease without an effect: try again later, or (three failures, or `dead`) give up. Silent when the lease was lost.

        A reason of None leaves what was said before: the job was not tried.
        """
        mine = {"id": int(job.id), "fence": job.fence, "state": "leased"}
        tries = job.tries + failed
        dead = dead or tries >= TRIES
        with self.write() as tx:
            done = tx.change("jobs", mine, state="dead" if dead else "queued", tries=tries, lease_until=None, not_before=later(after_s),
                             updated=now(), **({} if reason is None else {"reason": reason}))
            if done and dead:
                give_up(tx, job.kind, job.payload, reason or "")
        job.finished = True

    def jobs(self, state: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        """Newest first; state dead is the dead-letter list."""
        with self.read() as tx:
            rows = tx.find("jobs", order=["-id"], limit=limit, **({"state": state} if state else {}))
        return [{**row, "id": str(row["id"])} for row in rows]

    def replay(self, job_id: str) -> None:
        """Queue a dead job again, with three new tries."""
        with self.write() as tx:
            row = tx.one("jobs", id=number(job_id, "job"), lock=True)
            if row is None:
                raise NotFound(f"there is no job {str(job_id)[:20]}; `wetread replay` lists the dead letters")
            if row["state"] != "dead":
                raise StateError(f"job {row['id']} is {row['state']}, only a dead one can be replayed; `wetread replay` lists those")
            tx.enqueue(row["kind"], row["key"], row["payload"], rearm=True)
            if row["kind"] in GIVEN_UP:
                table, key, state = GIVEN_UP[row["kind"]]
                tx.change(table, {"id": row_id(table, row["payload"][key]), "state": state}, state=WAITING[row["kind"]][0], reason="")

    def require_writable(self) -> None:
        """Raise StoreError when a message could not be kept now: HOME and the folder of the SQLite file take a small file, PostgreSQL takes rows.

        Tried at most every second, however often it is asked, and at once when something was refused since.
        """
        with self._probing:
            if self._doubted.is_set() or time.monotonic() - self._probed > PROBE_S:
                self._doubted.clear()
                self._found = None
                try:
                    self._probe()
                except StoreError as error:
                    self._found = error
                self._probed = time.monotonic()
        if self._found is not None:
            raise self._found

    def doubt(self) -> None:
        """Something could not be kept: what the last probe found holds no longer."""
        self._doubted.set()

    def _probe(self) -> None:
        folders = {self.home, *([Path(self.engine.url.database).parent] if is_sqlite(self.engine.url) and self.engine.url.database else [])}
        for folder in folders:
            try:
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.write(bytes(PROBE_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise disk_error(folder, error) from None
        with self.read() as tx:
            tx.find("jobs", limit=1, columns=("id",))
            if not is_sqlite(self.engine.url) and tx.connection.execute(sa.text("SHOW transaction_read_only")).scalar() == "on":
                raise StoreError("the database takes no rows now (transaction_read_only); see whether it is a standby")

    def wake(self) -> None:
        with self._work:
            self._work_count += 1
            self._work.notify_all()

    def wait_for_work(self, seen: int, timeout_s: float) -> int:
        """Wait until work was added in this process since `seen`, or the time is up; other processes' work is found by polling."""
        with self._work:
            self._work.wait_for(lambda: self._work_count != seen, timeout_s)
            return self._work_count

    # -- instances ---------------------------------------------------------------------------------------------------

    def keep_instance(self, row: dict[str, Any]) -> bool:
        """Record one DICOM instance whose file is durable already; True when it is new.

        `row`: the keywords of data.dicom.instance_header, and sha256, path (below HOME), source. The study is opened,
        or re-opened when it was complete, and its completion armed for the end of the quiet period.
        """
        from api.study_steps import record_instance

        with self.write() as tx:
            return record_instance(tx, row, self.quiet_period_s, self.fetches_priors)

    # -- outbox ------------------------------------------------------------------------------------------------------

    def outbox(self, id: str) -> dict[str, Any]:
        with self.read() as tx:
            row = tx.one("outbox", id=number(id, "outbox message"))
        if row is None:
            raise NotFound(f"there is no outbox message {str(id)[:20]}; the connections page lists what there is")
        return {**row, "id": str(row["id"])}

    def outbox_rows(self, state: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        columns = [c.name for c in TABLES["outbox"].c if c.name not in ("raw", "ack")]
        with self.read() as tx:
            rows = tx.find("outbox", order=["-id"], limit=limit, columns=columns, **({"state": state} if state else {}))
        return [{**row, "id": str(row["id"])} for row in rows]

    def mark_outbox(self, id: str, state: str, reason: str = "", ack: bytes | None = None, tx: Tx | None = None) -> None:
        """state: queued, sent, failed or superseded; with `tx` from store.effect(job), together with the job's end."""
        if tx is None:
            with self.write() as tx:
                return self.mark_outbox(id, state, reason, ack, tx)
        assert state in ("queued", "sent", "failed", "superseded"), state
        tx.change("outbox", {"id": int(id)}, state=state, reason=reason, ack=ack, updated=now())

    # -- people, keys, audit -----------------------------------------------------------------------------------------

    def add_user(self, name: str, password_hash: str, role: str) -> None:
        if role not in ("radiologist", "technologist", "administrator"):
            raise InputError(f"role is '{str(role)[:20]}', expected radiologist, technologist or administrator")
        with self.write() as tx:
            if not tx.add("users", name=name, password_hash=password_hash, role=role, created=now()):
                raise StateError("a user of that name is there already; choose another name")

    def user(self, name: str) -> dict[str, Any] | None:
        with self.read() as tx:
            return tx.one("users", name=name)

    def users(self) -> list[dict[str, Any]]:
        with self.read() as tx:
            return tx.find("users", order=["name"], columns=("name", "role", "created"))

    def add_session(self, id: str, user: str, csrf: str, expires: str) -> None:
        """`id` is a hash of the cookie's token; `expires` a UTC ISO time. Sessions that ended are cleared away."""
        sessions = TABLES["sessions"]
        with self.write() as tx:
            tx.connection.execute(sa.delete(sessions).where(sessions.c.expires < now()))
            tx.insert("sessions", id=id, user=user, csrf=csrf, created=now(), expires=expires)

    def session(self, id: str) -> dict[str, Any] | None:
        """{id, user, role, csrf, created, expires}, or None when there is none or it ended."""
        with self.read() as tx:
            row = tx.one("sessions", id=id)
            person = tx.one("users", name=row["user"]) if row else None
        return {**row, "role": person["role"]} if row and person and row["expires"] > now() else None

    def end_session(self, id: str) -> None:
        with self.write() as tx:
            tx.remove("sessions", id=id)

    def add_api_key(self, name: str, key_hash: str) -> None:
        with self.write() as tx:
            if not tx.add("api_keys", name=name, key_hash=key_hash, created=now()):
                raise StateError("an API key of that name is there already; choose another name")

    def api_keys(self) -> list[dict[str, Any]]:
        with self.read() as tx:
            return tx.find("api_keys", order=["name"])

    def audit(self, user: str, action: str, kind: str, id: str) -> None:
        with self.write() as tx:
            tx.audit(user, action, kind, id)

    def audit_rows(self, limit: int = 200) -> list[dict[str, Any]]:
        """Newest first: {id, time, user, action, kind, object_id}."""
        with self.read() as tx:
            return tx.find("audit", order=["-id"], limit=limit)


# -- group commit ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    values: tuple[Any, ...]     # sender, control_id, sha256, kind, peer, received, raw, ack, state, reason, listener
    job: bool
    loop: asyncio.AbstractEventLoop
    done: Callable[[Kept | StoreError], None]


# written out because this is the one hot path: three statements a batch, whatever its size
KEEP = """INSERT INTO messages (id, sender, control_id, sha256, kind, peer, received, raw, ack, state, reason, listener, conflict)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, EXISTS (SELECT 1 FROM messages WHERE sender = ? AND control_id = ?))
ON CONFLICT (sender, control_id, sha256) DO NOTHING"""
KEEP_JOB = """INSERT INTO jobs (kind, key, payload, state, not_before, updated) VALUES ('message', ?, ?, 'queued', ?, ?)
ON CONFLICT (key) DO NOTHING"""
KEPT = "SELECT id, ack FROM messages WHERE sender = ? AND control_id = ? AND sha256 = ?"
NEXT_IDS = {
    "sqlite": "SELECT coalesce(max(id), 0) FROM messages",
    "postgresql": "SELECT nextval(pg_get_serial_sequence('messages', 'id')) FROM generate_series(1, %s)",
}


class MessageWriter:
    """One thread commits all messages that wait as one transaction: one fsync for many acknowledgements."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[list[Item] | None] = queue.SimpleQueue()
        self._fresh: dict[asyncio.AbstractEventLoop, list[Item]] = {}
        self._thread: threading.Thread | None = None
        self._under_way = False
        self._connection: Any = None      # kept between batches
        self._start = threading.Lock()

    def put(self, item: Item) -> None:
        """From the item's event loop: what comes in one turn of the loop goes to the thread together."""
        if self._thread is None:
            with self._start:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="message-writer", daemon=True)
                    self._thread.start()
        fresh = self._fresh.setdefault(item.loop, [])
        if not fresh:
            item.loop.call_soon(self._hand_over, item.loop)
        fresh.append(item)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        self._queue.put(self._fresh.pop(loop))

    def stop(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=BUSY_TIMEOUT_S + 5)
            self._thread = None
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _run(self) -> None:
        ending = False
        while not ending:
            given = [self._next()]
            while sum(len(items or ()) for items in given) < BATCH:
                try:
                    given.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ending = None in given
            if items := [item for some in given for item in some or ()]:
                results = self._keep(items)
                if any(isinstance(result, StoreError) for result in results):
                    self._store.doubt()
                answer(items, results)

    def _next(self) -> list[Item] | None:
        """What comes next; a feed that pauses for longer than LINGER_S is no longer under way."""
        if self._under_way:
            try:
                return self._queue.get(timeout=LINGER_S)
            except queue.Empty:
                self._store.intake(False)
                self._under_way = False
        items = self._queue.get()
        if items is not None:
            self._store.intake(True)
            self._under_way = True
        return items

    def _keep(self, items: list[Item]) -> list[Kept | StoreError]:
        """Keep a batch; when the store itself cannot write all fail, else each item that is at fault fails alone."""
        for attempt in (1, 2):
            try:
                return list(self._commit(items))
            except DBAPIError as error:
                if error.connection_invalidated and attempt == 1:
                    continue        # the server went away: the unique key makes a second go safe
                if isinstance(error, OperationalError) or len(items) == 1:
                    log.error("a batch of %d messages was not kept: %s", len(items), cause(error))
                    return [in_code(error)] * len(items)
                break
            except Exception as error:
                if len(items) == 1:
                    log.error("a message was not kept: %s", type(error).__name__)
                    return [StoreError(f"the message could not be kept ({type(error).__name__})")]
                break
        return [self._keep([item])[0] for item in items]

    def _commit(self, items: list[Item]) -> list[Kept]:
        """One transaction, on the driver itself: SQLAlchemy's part of a small batch would be as long as the batch."""
        store, dialect = self._store, self._store.engine.dialect
        if self._connection is None:
            self._connection = store.engine.raw_connection()
        connection = self._connection
        cursor = connection.cursor()
        try:
            with store.turn():
                results, asked = keep_batch(cursor, items, dialect.name)
                connection.commit()
            cursor.close()
        except BaseException as error:
            self._connection = None
            driver = dialect.loaded_dbapi.Error
            lost = isinstance(error, driver) and dialect.is_disconnect(error, connection.driver_connection, cursor)
            connection.invalidate()
            if isinstance(error, driver):
                raise DBAPIError.instance("", {}, error, driver, hide_parameters=True, connection_invalidated=lost, dialect=dialect) from None
            raise
        if asked:
            store.wake()
        return results


def keep_batch(cursor: Any, items: list[Item], dialect: str) -> tuple[list[Kept], int]:
    """Insert messages and their jobs; what each item became, and how many jobs there are."""
    lite = dialect == "sqlite"

    def sql(text: str) -> str:
        return text if lite else text.replace("?", "%s")

    if lite:
        cursor.execute("BEGIN IMMEDIATE")
        top = cursor.execute(NEXT_IDS["sqlite"]).fetchone()[0]
        ids = list(range(top + 1, top + 1 + len(items)))
    else:
        ids = sorted(row[0] for row in cursor.execute(NEXT_IDS["postgresql"], (len(items),)).fetchall())
    cursor.executemany(sql(KEEP), [(id, *item.values, item.values[0], item.values[1]) for id, item in zip(ids, items, strict=True)])
    results = [Kept(str(id), False, item.values[7]) for id, item in zip(ids, items, strict=True)]
    if cursor.rowcount != len(items):
        results = []
        for id, item in zip(ids, items, strict=True):       # its own row, or the one kept before
            kept, ack = cursor.execute(sql(KEPT), item.values[:3]).fetchone()
            results.append(Kept(str(kept), kept != id, ack))
    asked = [(f"message:{result.id}", f'{{"message_id": "{result.id}"}}', item.values[5], item.values[5])
             for result, item in zip(results, items, strict=True) if item.job and not result.duplicate]
    if asked:
        cursor.executemany(sql(KEEP_JOB), asked)
    return results, len(asked)


def answer(items: list[Item], results: Sequence[Kept | StoreError]) -> None:
    """Tell who waits, one call into each event loop a batch."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Callable[[Kept | StoreError], None], Kept | StoreError]]] = {}
    for item, result in zip(items, results, strict=True):
        by_loop.setdefault(item.loop, []).append((item.done, result))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(tell, pairs)
        except RuntimeError:
            log.warning("%d messages were kept after their listener had gone", len(pairs))


def tell(pairs: list[tuple[Callable[[Kept | StoreError], None], Kept | StoreError]]) -> None:
    for done, result in pairs:
        done(result)


# -- helpers ---------------------------------------------------------------------------------------------------------


def due_jobs(kind: str, suspect: bool) -> Any:
    """Of one kind, longest waiting first: in the order of the index jobs_due, so that it costs no more with 100,000 jobs of other kinds before it."""
    jobs = TABLES["jobs"]
    query = sa.select(jobs.c.id, jobs.c.not_before).where(
        jobs.c.state == "queued", jobs.c.kind == kind, jobs.c.not_before <= now(),
        jobs.c.reason.in_(SUSPECT) if suspect else jobs.c.reason.not_in(SUSPECT))
    return query.order_by(jobs.c.not_before, jobs.c.id)


def now() -> str:
    """UTC, ISO 8601 with milliseconds; one width, so that texts sort as times do."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def later(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")[:-6] + "Z"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def new_id(letter: str) -> str:
    return letter + uuid.uuid4().hex[:16]


def number(id: str, what: str) -> int:
    text = str(id)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise NotFound(f"there is no {what} of that id; ids are numbers")
    return int(text)


def conditions(table: sa.Table, equal: dict[str, Any]) -> list[Any]:
    return [table.c[name].in_(list(value)) if isinstance(value, list | tuple) else table.c[name].is_(None) if value is None
            else table.c[name] == value for name, value in equal.items()]


def bounds(table: sa.Table, ranges: Sequence[tuple[str, str, str]], any_of: Sequence[str]) -> list[Any]:
    found: list[Any] = [table.c[name] < bound if operator == "<" else table.c[name] >= bound for name, operator, bound in ranges]
    if any_of:
        numbers = ("id", "placer_number", "filler_number", "accession_number", "study_instance_uid")
        found.append(sa.or_(*(table.c[name].in_(list(any_of)) for name in numbers if name in table.c)))
    return found


def give_up(tx: Tx, kind: str, payload: dict[str, Any], reason: str) -> None:
    if kind in GIVEN_UP:
        table, key, state = GIVEN_UP[kind]
        tx.change(table, {"id": row_id(table, payload.get(key)), "state": WAITING[kind]}, state=state, reason=reason)


def row_id(table: str, id: Any) -> Any:
    """Payloads carry ids as text; PostgreSQL compares a number only with a number."""
    return int(id) if table in ("messages", "outbox") else id


def parse(url: str, home: Path) -> URL:
    try:
        address = make_url(url or f"sqlite:///{home.absolute() / 'wetread.db'}")
    except ArgumentError:
        raise StoreError("--db is no database address; write postgresql://user@host/name, or leave it out") from None
    if address.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return address.set(drivername="postgresql+psycopg")
    if address.drivername != "sqlite" or not address.database:
        raise StoreError(f"--db names {address.drivername}, expected postgresql://… or sqlite:///FILE")
    return address


def is_sqlite(address: URL) -> bool:
    return address.drivername == "sqlite"


def make_engine(address: URL) -> Engine:
    # parameters never go into an error's text: they are patient data
    engine = sa.create_engine(address, hide_parameters=True, pool_size=20, max_overflow=40,
                              **({"connect_args": {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}} if is_sqlite(address)
                                 else {"pool_recycle": 1800, "pool_pre_ping": True}))
    if is_sqlite(address):
        sa.event.listen(engine, "connect", prepare_sqlite)
        sa.event.listen(engine, "begin", begin_sqlite)
    return engine


def prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None       # BEGIN is ours: the driver's own would be deferred
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def begin_sqlite(connection: Connection) -> None:
    # a writer takes its lock at the start, where waiting is possible; an upgrade from reader to writer would fail at once
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("wetread_write") else "BEGIN")


def revision(engine: Engine) -> str | None:
    """The schema's revision; None when the store is empty."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def upgrade_schema(engine: Engine, found: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as plain:
        connection = plain.execution_options(wetread_write=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":     # two servers that start together upgrade one after the other
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7311930)"))
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                raise StoreError(f"the store's schema {found} is not known to this version ({HEAD}); install the version of Wetread "
                                 "that wrote it, or a newer one") from None


def schema_state(db: str, home: Path) -> tuple[bool, str]:
    """Whether the store can be used, in words; creates and changes nothing."""
    try:
        address = parse(db, Path(home))
        if is_sqlite(address):
            file = Path(address.database or "")
            if not file.exists():
                return True, "no store yet; serve makes one"
            if not os.access(file, os.W_OK):
                return False, f"{file} cannot be written; give it to the user {os.getuid()}"
        with in_words():
            engine = make_engine(address)
            try:
                found = revision(engine)
            finally:
                engine.dispose()
    except StoreError as error:
        return False, str(error)
    if found is None:
        return True, "the store is empty; serve makes its tables"
    if found != HEAD:
        return False, f"its schema is {found}, this version needs {HEAD}; run wetread db upgrade"
    return True, f"schema {found}, up to date"


@contextmanager
def in_words() -> Iterator[None]:
    """Database errors as StoreError; the driver's own text is left out, it can quote a row."""
    try:
        yield
    except DBAPIError as error:
        raise in_code(error) from None
    except SQLAlchemyError as error:
        raise StoreError(f"the store refused a step ({type(error).__name__})") from None


CURES = {"SQLITE_FULL": "the disk is full; make room", "SQLITE_BUSY": "another process holds the store for too long; stop it",
         "SQLITE_READONLY": "the file cannot be written; give it to the user that serves",
         "SQLITE_CANTOPEN": "the file cannot be opened; check HOME", "SQLITE_NOTADB": "the file is no SQLite database; move it away",
         "SQLITE_CORRUPT": "the file is damaged; restore a backup", "53100": "the database's disk is full; make room",
         "SQLITE_IOERR": "the disk does not take or give what it should; see the system's log"}
FULL = ("SQLITE_FULL", "53100")


def in_code(error: DBAPIError) -> StoreError:
    code = cause(error)
    # SQLITE_IOERR_WRITE and its like say SQLITE_IOERR and where
    cure = CURES.get(code) or CURES.get("_".join(code.split("_")[:2]), "see the database, and wetread doctor")
    coded = (StoreFull if code in FULL else StoreError)(f"the store cannot be used: {cure} ({code})")
    # what the statement itself is at fault for will fail again; all else passes when the database is back
    coded.passes = error.connection_invalidated or code == "25006" or (
        code != "SQLITE_ERROR" and isinstance(error, OperationalError | InterfaceError))
    return coded


def cause(error: DBAPIError) -> str:
    """A short code: SQLITE_FULL, an SQLSTATE, or the class."""
    return str(getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or type(error.orig).__name__)


def disk_error(folder: Path, error: OSError) -> StoreError:
    """A file that cannot be written, as the coded error it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"{folder} cannot be written, the disk is full; make room")
    return StoreError(f"{folder} cannot be written ({error.strerror}); make room or give it to the user {os.getuid()}")


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
