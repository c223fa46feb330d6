"""A suggester for CDS Hooks in a child process: its loading, its work and its death disturb no listener and no acknowledgement."""
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from data.errors import ModelError, WetreadError
from data.records import Order, Suggestion

log = logging.getLogger("wetread.cds")

LOAD_S, ANSWER_S = 300.0, 10.0          # after these the child is taken to hang, and is ended
loaded: dict[str, Any] = {}             # in the child: the suggester, and where it came from


class ChildSuggester:
    """As `nlp.suggest.Suggester`, in a process of its own that is started on first use and again after it died."""

    def __init__(self, device: str = "auto", folder: Callable[[], Path | None] = lambda: None, model: bool = True) -> None:
        self._device, self._folder, self._model, self._lock = device, folder, model, Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._pid = 0
        self.ready = False

    def suggest(self, order: Order) -> Suggestion:
        """Raises ModelError when the child died, hung, or cannot load its model."""
        with self._lock:
            try:
                if self._pool is None:
                    # spawn: a fork would carry our threads' locks and the listeners' sockets along
                    self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=begin)
                    self._pid = self._pool.submit(os.getpid).result(LOAD_S)
                found = self._pool.submit(answer, order, self._folder(), self._device, self._model).result(ANSWER_S if self.ready else LOAD_S)
                self.ready = True
                return found
            except (BrokenProcessPool, TimeoutError, CancelledError, OSError) as error:
                self.stop()
                raise ModelError(f"the process of the model ended or hung ({type(error).__name__}); it is started again") from None

    def warm(self) -> None:
        """Load before the first question; a failure is logged, the first question tries again."""
        try:
            self.suggest(Order())
        except WetreadError as error:
            log.error("%s", error)

    def stop(self) -> None:
        pool, self._pool, self.ready = self._pool, None, False
        if pool is not None:
            if self._pid:
                try:
                    os.kill(self._pid, signal.SIGKILL)
                except ProcessLookupError:
                    log.info("the process of the model had ended")
            pool.shutdown(wait=False, cancel_futures=True)
        self._pid = 0


def begin() -> None:
    """In the child: end with the parent, also when that is killed; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
        os._exit(0)

    Thread(target=end_with_parent, daemon=True).start()


def answer(order: Order, folder: Path | None, device: str, model: bool) -> Suggestion:
    from api.inference import torch_device
    from nlp.suggest import Suggester

    if "suggester" not in loaded or loaded["folder"] != folder:
        loaded.clear()                  # the old one goes first: two at once are a gigabyte
        loaded.update(suggester=Suggester.load(folder, device=torch_device(device) if model else "cpu", model=model), folder=folder)
    return loaded["suggester"].suggest(order)
