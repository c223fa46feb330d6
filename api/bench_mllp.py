"""`python -m api.bench_mllp FOLDER`: durable accept of our MLLP listener beside reference servers, in turns on the same machine.

FOLDER holds mllp_servers.py (modes sqlite_group, sqlite_full) and mllp_load.py. Each round runs the reference and ours one after the other; what is
said are medians over the rounds and the median of the rounds' ratios, so that a busy machine slows both.
"""
import argparse
import asyncio
import json
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# connections -> (the reference's mode, least ratio to it)
BARS = {8: ("sqlite_group", 0.7), 1: ("sqlite_full", 0.8)}
CPU_MS_MAX, P99_MS_MAX = 1.0, 60.0


def measure(folder: Path, rounds: int, messages: int) -> dict[str, Any]:
    figures = {}
    for connections, (mode, bar) in BARS.items():
        count = messages if connections > 1 else max(1, messages // 4)
        theirs, ours = [], []
        for _ in range(rounds):
            theirs.append(once([str(folder / "mllp_servers.py"), mode], folder, count, connections))
            ours.append(once(["-m", "api.bench_mllp", "--listen"], folder, count, connections))
        ratios = [our["msg_per_s"] / their["msg_per_s"] for our, their in zip(ours, theirs, strict=True)]
        figures[f"{connections} connections"] = {
            "reference": mode, "ratio": round(statistics.median(ratios), 2), "ratios": [round(r, 2) for r in ratios], "bar": bar,
            **{f"{who}_{name}": round(statistics.median(row[name] for row in rows), 3)
               for who, rows in (("reference", theirs), ("ours", ours)) for name in ("msg_per_s", "p50_ms", "p99_ms", "cpu_ms")},
            "answered_wrong": sum(row["bad"] for row in ours)}
    return {"messages": messages, "rounds": rounds, "cpu_ms_max": CPU_MS_MAX, "p99_ms_max": P99_MS_MAX, **figures}


def once(server: list[str], folder: Path, count: int, connections: int) -> dict[str, Any]:
    """Start a server on an empty store, load it, stop it; the load's figures with the server's CPU time a message."""
    place = tempfile.mkdtemp(prefix="bench-mllp-", dir=Path.cwd())       # the disk of the work, not a memory file system
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    running = subprocess.Popen([sys.executable, *server, port, place], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None and running.stderr is not None
    try:
        assert running.stdout.readline().strip() == "ready", running.stderr.read()
        load = subprocess.run([sys.executable, str(folder / "mllp_load.py"), port, str(count), str(connections)], capture_output=True, text=True,
                              check=True, timeout=600)
        running.send_signal(signal.SIGTERM)
        said = json.loads(running.communicate(timeout=60)[1].splitlines()[-1])
    finally:
        running.kill()
        shutil.rmtree(place, ignore_errors=True)
    return {**json.loads(load.stdout), "cpu_ms": 1000 * said["cpu_s"] / count}


async def listen(port: int, home: str) -> None:
    """Our listener and store alone, as they stand in `wetread serve`; says its CPU time when it is stopped."""
    from api.hl7.mllp import Listener
    from api.settings import read_settings
    from api.store import Store

    sys.setswitchinterval(0.0005)
    settings = read_settings(home, mllp=port)
    store = Store.open(settings.db, settings.home)
    listener = Listener(store, settings)
    await listener.start()
    before = used_s()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    print("ready", flush=True)
    await stopping.wait()
    await listener.stop()
    store.close()
    print(json.dumps({"cpu_s": used_s() - before}), file=sys.stderr)


def used_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--listen", nargs=2, metavar=("PORT", "HOME"))
    given = parser.parse_args()
    if given.listen:
        asyncio.run(listen(int(given.listen[0]), given.listen[1]))
    elif given.folder and (given.folder / "mllp_servers.py").exists():
        print(json.dumps(measure(given.folder.resolve(), given.rounds, given.messages), indent=1))
    else:
        parser.error("name the folder that holds mllp_servers.py and mllp_load.py")


if __name__ == "__main__":
    main()
