"""What a worker process has in hand, in memory that outlives it: its parent looks there when it died, or hangs."""
import mmap
import os
import struct
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from api.store import Job

ROW = struct.Struct("<qqdd")        # job id (0: a model is being loaded), fence + 1 (0: the row is free), begun, longest_s
HEAD = struct.Struct("<q")          # a bit for each model that is loaded
ROWS = 128
MODELS = ("suggester", "reporter")


@dataclass(frozen=True)
class Held:
    job_id: int             # 0: a model is being loaded
    fence: int
    begun: float            # seconds of the monotonic clock, which is the machine's; 0 when leased only
    longest_s: float

    @property
    def overdue(self) -> bool:
        return bool(self.begun) and time.monotonic() - self.begun > self.longest_s


class Board:
    """One writer process with several threads, one reader; a row is written at once, so that a kill leaves it old or new."""

    def __init__(self, handle: int | None = None) -> None:
        self._file: IO[bytes] | None = None
        if handle is None:
            self._file = tempfile.TemporaryFile()      # noqa: SIM115 - as long as the board
            self._file.truncate(HEAD.size + ROWS * ROW.size)
            handle = self._file.fileno()
        self.handle = handle
        self._map = mmap.mmap(handle, HEAD.size + ROWS * ROW.size)
        self._lock = threading.Lock()
        self._places: dict[tuple[int, int], int] = {}
        self._free = list(range(ROWS - 1, -1, -1))

    def close(self) -> None:
        self._map.close()
        if self._file is not None:
            self._file.close()
        else:
            os.close(self.handle)

    # -- the worker --------------------------------------------------------------------------------------------------

    def take(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._write(int(job.id), job.fence, 0.0, 0.0)

    def begin(self, job: Job, longest_s: float) -> None:
        self._write(int(job.id), job.fence, time.monotonic(), longest_s)

    def drop(self, job: Job) -> None:
        self._clear(int(job.id), job.fence)

    @contextmanager
    def loading(self, lane: int, longest_s: float) -> Any:
        self._write(0, lane, time.monotonic(), longest_s)
        try:
            yield
        finally:
            self._clear(0, lane)

    def loaded(self, model: str) -> None:
        with self._lock:
            HEAD.pack_into(self._map, 0, HEAD.unpack_from(self._map, 0)[0] | 1 << MODELS.index(model))

    def _write(self, id: int, fence: int, begun: float, longest_s: float) -> None:
        with self._lock:
            place = self._places.get((id, fence))
            if place is None:
                assert self._free, "a worker holds more jobs than it has lanes for"
                place = self._places[(id, fence)] = self._free.pop()
            at = HEAD.size + place * ROW.size
            self._map[at:at + ROW.size] = ROW.pack(id, fence + 1, begun, longest_s)

    def _clear(self, id: int, fence: int) -> None:
        with self._lock:
            place = self._places.pop((id, fence), None)
            if place is not None:
                at = HEAD.size + place * ROW.size
                self._map[at:at + ROW.size] = bytes(ROW.size)
                self._free.append(place)

    # -- its parent --------------------------------------------------------------------------------------------------

    def held(self) -> list[Held]:
        rows = [ROW.unpack_from(self._map, HEAD.size + place * ROW.size) for place in range(ROWS)]
        return [Held(id, fence - 1, begun, longest_s) for id, fence, begun, longest_s in rows if fence]

    def models(self) -> set[str]:
        bits = HEAD.unpack_from(self._map, 0)[0]
        return {name for i, name in enumerate(MODELS) if bits >> i & 1}
