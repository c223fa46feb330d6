"""`wetread doctor`: each check says in words what is wrong and what mends it."""
import os
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from data.errors import WetreadError


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    words: str


def examine(home: Path, db: str | None, ports: dict[str, int]) -> list[Check]:
    return [python(), folder(home), disk(home), *(port(name, number) for name, number in ports.items()),
            book(), *models(), schema(home, db), gpu()]


def python() -> Check:
    have = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), f"{have} (3.11 or newer is needed)")


def folder(home: Path) -> Check:
    """HOME, or the nearest folder above it that exists, must take a new file."""
    place = next(p for p in (home, *home.resolve().parents) if p.exists())
    if not place.is_dir():
        return Check("home", False, f"{place} is a file; choose another --home")
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check("home", False, f"{place} cannot be written ({error.strerror}); give it to the user {os.getuid()} "
                                    "or choose another --home")
    return Check("home", True, f"{home} can be written")


def disk(home: Path) -> Check:
    place = next(p for p in (home, *home.resolve().parents) if p.exists())
    free_gb = shutil.disk_usage(place).free / 1e9
    return Check("disk", free_gb > 2, f"{free_gb:.0f} GB free at {place}" + ("" if free_gb > 2 else "; make room, 2 GB at least"))


def port(name: str, number: int) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            return Check(f"{name} port", False, f"{number} cannot be opened ({error.strerror}); stop what listens there "
                                                f"or start with --{name.lower()} PORT")
    return Check(f"{name} port", True, f"{number} is free")


def book() -> Check:
    from data.book import read_book

    try:
        return Check("protocol book", True, f"{len(read_book().protocols)} protocols")
    except WetreadError as error:
        return Check("protocol book", False, str(error))


def models() -> list[Check]:
    from data.model_files import MODELS, load_model

    checks = []
    for name in ("protocol", "findings", "report"):
        try:
            load_model(MODELS / name)
            checks.append(Check(f"model {name}", True, "present, its checksums agree"))
        except WetreadError as error:
            checks.append(Check(f"model {name}", False, str(error)))
    return checks


def schema(home: Path, db: str | None) -> Check:
    from api.settings import read_settings
    from api.store import schema_state

    try:
        settings = read_settings(home, **({"db": db} if db else {}))
        ok, words = schema_state(settings.db, settings.home)
    except WetreadError as error:
        return Check("store", False, str(error))
    return Check("store", ok, words)


def gpu() -> Check:
    import torch

    return Check("device", True, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, the CPU is used")
