"""Whose turn it is to write the SQLite file: waiting writers sleep in the kernel and are woken at once.

SQLite's own waiting is polling with pauses of up to 100 ms, which an acknowledgement cannot afford.
"""
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_S = 0.003      # how often who gives way looks whether the intake is quiet


class Turns:
    """Two lock files beside the database: `turn` for the one that writes, `intake` while messages are coming in."""

    def __init__(self, database: Path) -> None:
        self._turn, self._intake = (os.open(f"{database}.{name}", os.O_RDWR | os.O_CREAT, 0o600) for name in ("turn", "intake"))
        self._mine = threading.Lock()

    @contextmanager
    def taken(self, gives_way_s: float = 0.0) -> Iterator[None]:
        """Hold the turn; one that gives way first waits, that long at most, until no message is coming in."""
        end = time.monotonic() + gives_way_s
        while gives_way_s and time.monotonic() < end and self._busy():
            time.sleep(LOOK_S)
        with self._mine:
            fcntl.flock(self._turn, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._turn, fcntl.LOCK_UN)

    def intake_begins(self) -> None:
        fcntl.flock(self._intake, fcntl.LOCK_SH)

    def intake_ends(self) -> None:
        fcntl.flock(self._intake, fcntl.LOCK_UN)

    def _busy(self) -> bool:
        try:
            fcntl.flock(self._intake, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._intake, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        os.close(self._turn)
        os.close(self._intake)
