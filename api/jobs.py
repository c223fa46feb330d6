"""The worker: leases jobs from the store and runs their handlers; a crash at any point neither loses nor doubles an effect."""
import logging
import threading
import time
from collections.abc import Callable, Mapping

from api.store import LEASE_S, Fenced, Job, Store
from data.errors import WetreadError

log = logging.getLogger("wetread.jobs")

__all__ = ["Dead", "Fenced", "Job", "Later", "Worker", "replay"]

POLL_S = 0.2                    # other processes' work is found within this time
BACKOFF_S = (1.0, 10.0)         # after the first and the second failure
FAST = 8                        # jobs of the quick kinds taken with one lease
SLOW = ("draft", "results", "priors")     # kinds that take long: one lease each, and never on every thread at once
IDLE = ("shadow",)              # kinds that nobody waits for: one at a time, when nothing else is due
LONGEST_S = 900.0               # a handler that takes longer is taken to hang, and its lease is renewed no more

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
    """Runs `handlers` (job kind -> what does it) on `threads` threads until stopped.

    A handler commits through `store.effect(job)`; one that returns without doing so had nothing to commit, and its job is done.
    """

    def __init__(self, store: Store, handlers: Mapping[str, Handler], threads: int = 1, lease_s: float = LEASE_S,
                 backoff_s: tuple[float, float] = BACKOFF_S, batch: int = FAST) -> None:
        self.store, self.handlers, self.lease_s, self.backoff_s = store, dict(handlers), lease_s, backoff_s
        self._count, self._batch = threads, batch
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], tuple[Job, float]] = {}
        self._slow = 0

    def start(self) -> None:
        assert not self._threads, "a worker is started once"
        self._threads = [threading.Thread(target=self._run, name=f"worker-{i}", daemon=True) for i in range(self._count)]
        self._threads.append(threading.Thread(target=self._keep_leases, name="worker-leases", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self, patience_s: float = 30.0) -> None:
        """End after the jobs in hand; one that takes longer than `patience_s` is left to its lease."""
        self._stopping.set()
        self.store.wake()
        end = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def run_once(self) -> int:
        """Do what is due now, on this thread; how many jobs were done."""
        jobs = self._take()
        try:
            for job in jobs:
                self._do(job)
        finally:
            with self._lock:        # when the store failed under one, the leases of the rest run out
                for job in jobs:
                    self._held.pop((job.id, job.fence), None)
                self._slow -= any(job.kind in (*SLOW, *IDLE) for job in jobs)
        return len(jobs)

    def _run(self) -> None:
        seen = 0
        while not self._stopping.is_set():
            try:
                if self.run_once():
                    continue
            except WetreadError as error:
                log.error("the worker waits for the store: %s", error)
                self._stopping.wait(1.0)
            seen = self.store.wait_for_work(seen, POLL_S)

    def _take(self) -> list[Job]:
        quick = [kind for kind in self.handlers if kind not in (*SLOW, *IDLE)]
        jobs = self.store.lease(quick, self._batch, self.lease_s)
        if not jobs:
            with self._lock:
                allowed = self._slow < max(1, self._count - 1)
                self._slow += allowed
            if allowed:
                for kinds in (SLOW, IDLE):
                    jobs = jobs or self.store.lease([kind for kind in self.handlers if kind in kinds], 1, self.lease_s)
                if not jobs:
                    with self._lock:
                        self._slow -= 1
        with self._lock:
            self._held |= {(job.id, job.fence): (job, time.monotonic()) for job in jobs}
        return jobs

    def _do(self, job: Job) -> None:
        if self._stopping.is_set():
            self.store.release(job, "", after_s=0, failed=False)
            return
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
            reason = f"[{error.code}] {type(error).__name__}" if isinstance(error, WetreadError) else type(error).__name__
            log.error("job %s %s failed at try %d: %s at %s", job.id, job.kind, job.tries + 1, reason, place(error))
            self.store.release(job, reason, after_s=self.backoff_s[min(job.tries, len(self.backoff_s) - 1)], failed=True)

    def _keep_leases(self) -> None:
        """Renew the leases in hand, and take back those of workers that died."""
        while not self._stopping.wait(self.lease_s / 3):
            with self._lock:
                held = [job for job, since in self._held.values() if time.monotonic() - since < LONGEST_S and not job.finished]
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
