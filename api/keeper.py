"""Keeps the worker processes alive, and settles what they held when they died or hung.

One worker does everything; a job that it died over is tried again by a careful worker, a new process for each try, which takes no other job with it.
"""
import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

from api.board import Board
from api.jobs import LANES
from api.settings import Settings
from api.store import DIED, HUNG, Store
from data.errors import WetreadError

log = logging.getLogger("wetread.server")

LOOK_S = 0.5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
LIVED_S = 60.0              # a worker that lived that long is started again at once
LOADS_MAX = 2               # workers that may die loading a model; the next is started without it
WORKER = (sys.executable, "-m", "api.work")
KINDS = tuple(kind for lane in LANES.values() for kind in lane.kinds)


class Keeper:
    """`run` until stopping; `models` says how far the worker's models are."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self._board: Board | None = None
        self._died_loading: dict[str, int] = {}

    def models(self) -> dict[str, str]:
        """Model -> loaded, loading, not yet loaded, or none when it killed the workers that loaded it."""
        board = self._board
        loaded = board.models() if board else set()
        loading = {list(LANES.values())[row.fence].model for row in board.held() if not row.job_id} if board else set()
        return {name: "none" if name in self.without else "loaded" if name in loaded else "loading" if name in loading else "not yet loaded"
                for name in sorted({lane.model for lane in LANES.values()} - {""})}

    @property
    def without(self) -> list[str]:
        return [model for model, deaths in self._died_loading.items() if deaths >= LOADS_MAX]

    async def run(self, stopping: asyncio.Event) -> None:
        await asyncio.gather(self._keep(stopping), self._retry(stopping))

    async def _keep(self, stopping: asyncio.Event) -> None:
        """Keep one worker alive; its death is logged and it is started again, at once the first time."""
        pause_s = FIRST_PAUSE_S
        while not stopping.is_set():
            began = time.monotonic()
            code = await self._one(stopping, careful=False)
            if stopping.is_set():
                break
            pause_s = FIRST_PAUSE_S if time.monotonic() - began > LIVED_S else pause_s
            log.warning("worker ended with code %s, starting it again in %.1f s", code, pause_s)
            await pause(stopping, pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _retry(self, stopping: asyncio.Event) -> None:
        """Give each job that a worker died over a process of its own."""
        while not stopping.is_set():
            try:
                waits = await asyncio.to_thread(self.store.due, KINDS, True)
            except WetreadError:
                waits = False
            if waits:
                await self._one(stopping, careful=True)
            await pause(stopping, LOOK_S)

    async def _one(self, stopping: asyncio.Event, careful: bool) -> int | None:
        """One worker from start to end."""
        board = Board()
        line = settings_line(self.settings, board=board.handle, careful=careful, without=self.without)
        try:
            child = await asyncio.create_subprocess_exec(*WORKER, str(self.settings.home), stdin=subprocess.PIPE, pass_fds=[board.handle],
                                                         env={**os.environ, "WETREAD_WORKER": line}, cwd=Path.cwd())
        except OSError as error:        # no memory, no file handles: tried again after the pause
            log.error("no worker could be started: %s", error.strerror)
            board.close()
            return None
        if not careful:
            self._board = board
        exited, stopped = asyncio.create_task(child.wait()), asyncio.create_task(stopping.wait())
        reason = DIED
        while not exited.done() and not stopped.done():
            await asyncio.wait({exited, stopped}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done() and any(row.overdue for row in board.held()):
                log.error("a worker hangs in a job, it is ended")
                reason = HUNG
                child.kill()
                await exited
        if stopping.is_set() and child.returncode is None:
            assert child.stdin is not None
            child.stdin.close()                 # the child's own sign to stop, also when this process is killed
            try:
                await asyncio.wait_for(asyncio.shield(exited), 10)
            except TimeoutError:
                child.kill()                    # its lease runs out and the job is done again
                await exited
        else:
            await self._settle(board, reason)
        stopped.cancel()
        if not careful:
            self._board = None
        board.close()
        return child.returncode

    async def _settle(self, board: Board, reason: str) -> None:
        rows = board.held()
        for row in rows:
            if not row.job_id and (row.overdue or reason != HUNG):
                model = list(LANES.values())[row.fence].model
                self._died_loading[model] = self._died_loading.get(model, 0) + 1
                log.error("a worker ended while it loaded the %s%s", model, ", which is left out from now on" if model in self.without else "")
        # over a hang only what hung is to blame
        held = [(row.job_id, row.fence, row.overdue if reason == HUNG else bool(row.begun)) for row in rows if row.job_id]
        if held:
            try:
                await asyncio.to_thread(self.store.settle, held, reason)
            except WetreadError as error:
                log.error("what a worker held waits for its lease to end: %s", error)


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)


def settings_line(settings: Settings, **more: object) -> str:
    """What a worker needs beyond HOME/settings.toml, as JSON."""
    return json.dumps({"db": settings.db, "device": settings.device, "quiet_period_s": settings.quiet_period_s,
                       "automation": settings.automation, "outbox": [list(astuple(d)) for d in settings.outbox], **more})
