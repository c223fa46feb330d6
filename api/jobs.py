"""The worker: leases jobs from the store and runs their handlers; a crash at any point neither loses nor doubles an effect."""
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from api.board import Board
from api.store import LEASE_S, Fenced, Job, Store
from data.errors import StoreError, WetreadError

log = logging.getLogger("wetread.jobs")

__all__ = ["LANES", "Dead", "Fenced", "Job", "Lane", "Later", "Worker", "replay"]

POLL_S = 0.2                    # other processes' work is found within this time
SHARE = 5                       # looking takes a fifth of a thread's time at most, however long the queue is
BACKOFF_S = (1.0, 10.0)         # after the first and the second failure
LOAD_S = 1800.0                 # a model that is not loaded by then is taken to hang


@dataclass(frozen=True)
class Lane:
    """Kinds of work that may wait for each other."""

    kinds: tuple[str, ...]
    at_once: int                # jobs taken with one lease
    longest_s: float            # a job that takes longer is taken to hang; its worker is ended by its parent
    threads: int = 1
    model: str = ""             # loaded before the first job is taken
    idle: bool = False          # nobody waits for it: only when no other lane has work


# an order is on a person's list whatever the models, the receivers and the archive do: each has threads of its own
LANES = {
    "intake": Lane(("message", "complete"), 8, 300.0, threads=2),
    "suggest": Lane(("suggest",), 8, 120.0, model="suggester"),
    "alert": Lane(("alert",), 8, 60.0),
    "send": Lane(("send",), 1, 86_400.0, threads=8),       # a receiver has its own patience (api/hl7/sender.py)
    "archive": Lane(("results", "send-dicom", "commitment", "priors"), 1, 900.0),
    "draft": Lane(("draft",), 1, 900.0, model="reporter"),
    "shadow": Lane(("shadow",), 1, 300.0, idle=True),
}
AHEAD = ("suggester",)          # models loaded at once and not with the first job

Handler = Callable[[Job], None]


class Dead(Exception):
    """Raised by a handler: no further try can help. `reason` is a code, never patient text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Later(Exception):
    """Raised by a handler: nothing is wrong with the job, try again after a while (a receiver is down, say)."""

    def __init__(self, reason: str, after_s: float) -> None:
        super().__init__(reason)
        self.reason, self.after_s = reason, after_s


class Worker:
    """Runs `handlers` (job kind -> what does it) on the threads of their lanes until stopped.

    A handler commits through `store.effect(job)`; one that returns without doing so had nothing to commit, and its job is done.
    `load` are the models' loaders by name; `suspect` takes the jobs that another worker died over, one at a time, and no others.
    """

    def __init__(self, store: Store, handlers: Mapping[str, Handler], lease_s: float = LEASE_S, backoff_s: tuple[float, float] = BACKOFF_S,
                 board: Board | None = None, load: Mapping[str, Callable[[], object]] | None = None, suspect: bool = False) -> None:
        self.store, self.handlers, self.lease_s, self.backoff_s = store, dict(handlers), lease_s, backoff_s
        self.board, self.suspect = board or Board(), suspect
        self.lanes = {name: kinds for name, lane in LANES.items() if (kinds := [kind for kind in lane.kinds if kind in handlers])}
        assert set(handlers) == {kind for kinds in self.lanes.values() for kind in kinds}, "a kind of work has no lane"
        self._lane_of = {kind: LANES[name] for name, kinds in self.lanes.items() for kind in kinds}
        self._load = dict(load or {})
        self._leasing = {name: threading.Lock() for name in self.lanes}
        self._waiting: dict[str, deque[Job]] = {name: deque() for name in self.lanes}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], tuple[Job, float]] = {}
        self._calls = {name: threading.Condition(self._lock) for name in self.lanes}
        self._called: set[str] = set()          # lanes that should look for work

    def start(self) -> None:
        assert not self._threads, "a worker is started once"
        self._threads = [threading.Thread(target=self._run, args=(name,), name=f"worker-{name}-{i}", daemon=True)
                         for name in self.lanes for i in range(LANES[name].threads)]
        self._threads += [threading.Thread(target=self._keep_leases, name="worker-leases", daemon=True),
                          threading.Thread(target=self._look, name="worker-look", daemon=True)]
        for thread in self._threads:
            thread.start()

    def stop(self, patience_s: float = 30.0) -> None:
        """End after the jobs in hand; one that takes longer than `patience_s` is left to its lease."""
        self._stopping.set()
        self.store.wake()
        self._call(self.lanes)
        end = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def run_once(self) -> int:
        """Do what is due now in the first lane that has work, on this thread; how many jobs were done."""
        for name in self.lanes:
            done = 0
            while (job := self._next(name, more=not done)) is not None:
                self._do(job)
                done += 1
            if done:
                return done
        return 0

    def _run(self, name: str) -> None:
        if LANES[name].model in AHEAD:
            self._prepare(name)
        while not self._stopping.is_set():
            try:
                job = self._next(name)
            except Exception as error:      # a lane must not end; what was leased and not said is left to its lease
                words = str(error) if isinstance(error, WetreadError) else f"{type(error).__name__} at {place(error)}"
                log.error("the worker waits for the store: %s", words)
                self._stopping.wait(1.0)
                continue
            if job is not None:
                self._do(job)
            else:
                with self._lock:
                    self._calls[name].wait_for(lambda: name in self._called or self._stopping.is_set())
                    self._called.discard(name)
        while (job := self._next(name, more=False)) is not None:
            self._give_back(job)

    def _look(self) -> None:
        """Call the lanes that have work: one question for all of them, at once when this process made some."""
        seen, lane_of = 0, {kind: name for name, kinds in self.lanes.items() for kind in kinds}
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._call({lane_of[kind] for kind in self.store.due_kinds(list(lane_of), self.suspect)})
            except WetreadError as error:
                log.error("the worker waits for the store: %s", error)
                self._stopping.wait(1.0)
            took_s = time.monotonic() - began
            self._stopping.wait((SHARE - 1) * took_s)
            seen = self.store.wait_for_work(seen, POLL_S)

    def _call(self, names: Iterable[str]) -> None:
        with self._lock:
            for name in names:
                self._called.add(name)
                self._calls[name].notify_all()

    def _next(self, name: str, more: bool = True) -> Job | None:
        """The lane's next job; with `more`, from a new lease when none is left of the last."""
        lane, kinds, waiting = LANES[name], self.lanes[name], self._waiting[name]
        with self._leasing[name]:
            if not waiting and more:
                if lane.model in self._load and self.store.due(kinds, self.suspect):
                    self._prepare(name)
                if lane.idle and self._others_have_work(name):
                    return None
                jobs = self.store.lease(kinds, 1 if self.suspect else lane.at_once, self.lease_s, self.suspect)
                self.board.take(jobs)
                with self._lock:
                    self._held |= {(job.id, job.fence): (job, time.monotonic()) for job in jobs}
                waiting.extend(jobs)
                if len(jobs) > 1:
                    self._call([name])      # the lane's other thread takes its part
            return waiting.popleft() if waiting else None

    def _others_have_work(self, name: str) -> bool:
        with self._lock:
            if self._held:
                return True
        return self.store.due([kind for other, kinds in self.lanes.items() if other != name for kind in kinds])

    def _prepare(self, name: str) -> None:
        """Load the lane's model, once; one that cannot be loaded is met again, and told, by the jobs that need it."""
        model = LANES[name].model
        load = self._load.pop(model, None)
        if load is None:
            return
        with self.board.loading(list(LANES).index(name), LOAD_S):
            try:
                load()
            except Exception as error:
                log.error("the %s was not loaded: %s", model, error if isinstance(error, WetreadError) else type(error).__name__)
            else:
                self.board.loaded(model)

    def _do(self, job: Job) -> None:
        if self._stopping.is_set():
            return self._give_back(job)
        lane = self._lane_of[job.kind]
        with self._lock:
            self._held[(job.id, job.fence)] = job, time.monotonic()
        self.board.begin(job, lane.longest_s)
        try:
            self._try(job)
        except StoreError as error:
            log.error("job %s %s waits for the store: %s", job.id, job.kind, error)
            self.board.take([job])      # no longer in hand
            return self._give_back(job, after_s=0.2)
        self._let_go(job)

    def _try(self, job: Job) -> None:
        """One try; raises StoreError when the store could not be asked, which is no failure of the job."""
        try:
            self.handlers[job.kind](job)
            if not job.finished:
                with self.store.effect(job):
                    pass
        except Fenced:
            log.info("job %s %s was taken over, its effect is not kept", job.id, job.kind)
        except Later as error:
            self.store.release(job, error.reason, after_s=error.after_s, failed=False)
        except Dead as error:
            log.error("job %s %s is given up: %s", job.id, job.kind, error.reason)
            self.store.release(job, error.reason, after_s=0, failed=True, dead=True)
        except Exception as error:      # whatever it was is recorded; its text may quote a patient, so class and code only
            if isinstance(error, StoreError) and error.passes:
                raise
            reason = f"[{error.code}] {type(error).__name__}" if isinstance(error, WetreadError) else type(error).__name__
            log.error("job %s %s failed at try %d: %s at %s", job.id, job.kind, job.tries + 1, reason, place(error))
            self.store.release(job, reason, after_s=self.backoff_s[min(job.tries, len(self.backoff_s) - 1)], failed=True)

    def _give_back(self, job: Job, after_s: float = 0.0) -> None:
        """Return a job untried, as soon as the store takes it; when that is never, its lease runs out."""
        while True:
            try:
                self.store.release(job, None, after_s=after_s, failed=False)
                break
            except StoreError:
                if self._stopping.wait(1.0):
                    break
        self._let_go(job)

    def _let_go(self, job: Job) -> None:
        self.board.drop(job)
        with self._lock:
            self._held.pop((job.id, job.fence), None)

    def _keep_leases(self) -> None:
        """Renew the leases in hand, and take back those of workers that died."""
        while not self._stopping.wait(self.lease_s / 3):
            with self._lock:
                held = [job for job, since in self._held.values()
                        if time.monotonic() - since < self._lane_of[job.kind].longest_s and not job.finished]
            try:
                if held:
                    self.store.renew(held, self.lease_s)
                self.store.recover()
            except WetreadError as error:
                log.error("leases were not renewed: %s", error)


def replay(store: Store, job_id: str) -> None:
    """Queue a dead job again, with three new tries."""
    store.replay(job_id)


def place(error: BaseException) -> str:
    """File and line where an error arose: enough to find it, and no data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "?"
