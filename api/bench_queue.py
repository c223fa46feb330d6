"""`wetread bench queue`: how long a server takes to start, and how much memory, with many messages waiting; beside an empty one."""
import asyncio
import contextlib
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from api.bench_day import Server
from api.demo import order_message
from api.hl7.acknowledge import receive
from api.store import Store
from data.errors import InputError
from data.simulated_orders import simulate_orders

AT_ONCE = 2_000
WATCHED_S = 10.0        # after it is ready, while its worker is at the queue


def fill(home: Path, rows: int) -> None:
    """Messages as the listener keeps them, each with its job."""
    texts = simulate_orders(min(rows, 500), 1)
    when = datetime(2026, 11, 24, 8)
    store = Store.open("", home)

    async def keep(numbers: range) -> None:
        waiting = []
        for n in numbers:
            raw = order_message({**texts[n % len(texts)], "patient_id": f"Q{n}", "accession_number": f"Q{n}"}, n, when, 1)
            read = receive(raw, "20261124080000")
            waiting.append(store.keep_message(raw, read.sender, read.control_id, read.kind, "bench", True, read.answer))
        await asyncio.gather(*waiting)

    for start in range(0, rows, AT_ONCE):
        asyncio.run(keep(range(start, min(rows, start + AT_ONCE))))
    store.close()


def start_and_watch(home: Path, device: str) -> dict[str, Any]:
    server = Server(home, device, 9)
    try:
        ready_s = server.start()
        assert server.process is not None
        most: dict[str, float] = {}
        end = time.monotonic() + WATCHED_S
        while time.monotonic() < end:
            for name, pids in (("server", [server.process.pid]), ("worker", workers_of(server.process.pid))):
                for pid in pids:
                    most[name] = max(most.get(name, 0.0), resident_mb(pid))
            time.sleep(0.2)
        return {"ready_s": round(ready_s, 1), **{f"{name}_mb": round(mb) for name, mb in most.items()}}
    finally:
        server.kill()


def workers_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent \
                    and b"api.work" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def resident_mb(pid: int) -> float:
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1000
    return 0.0


def run_queue(home: Path, rows: int, device: str) -> dict[str, Any]:
    if rows < 1:
        raise InputError("rows are fewer than 1; give 1 or more")
    if (home / "full" / "wetread.db").exists():
        raise InputError(f"{home} holds a store already; give an empty folder")
    fill(home / "full", rows)
    empty = start_and_watch(home / "empty", device)
    full = start_and_watch(home / "full", device)
    return {"rows": rows, "empty": empty, "full": full, "ready_ratio": round(full["ready_s"] / empty["ready_s"], 2)}
