"""`store`: an empty store, once on SQLite and once on PostgreSQL; every test that takes it runs on both."""
import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from api.settings import Settings
from api.store import Store

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name.split(".")[0]))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """A store's file with its schema, copied for each test: an upgrade takes longer than a test."""
    home = tmp_path_factory.mktemp("template")
    Store.open("", home).close()
    return home / "wetread.db"


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of our own, in a folder that goes away with it; gives make(name) -> address of a new database."""
    binary = POSTGRES[-1] if POSTGRES else None
    if binary is None and shutil.which("initdb"):
        binary = Path(shutil.which("initdb")).resolve().parent
    if binary is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql); the store is tested on SQLite only")
    folder = tempfile.mkdtemp(prefix="wetread-pg-", dir="/tmp")     # short: a socket's path has 107 characters at most
    owner = []
    if os.getuid() == 0:        # the server refuses to run as root
        owner = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres", "postgres")
    data, log = f"{folder}/data", f"{folder}/log"

    def do(*words):
        return subprocess.run([*owner, *words], check=True, capture_output=True, text=True, timeout=60, cwd=folder)

    try:
        do(binary / "initdb", "-D", data, "-U", "wetread", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        # fsync off: these tests kill the client, never the server
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c full_page_writes=off"
        do(binary / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "30", "-o", options, "start")
    except (subprocess.CalledProcessError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL did not start: {getattr(error, 'stderr', '') or error}")
    try:
        import psycopg

        with psycopg.connect(f"host={folder} user=wetread dbname=postgres", autocommit=True) as admin:
            numbers = itertools.count(1)

            def make(template="wetread_template"):
                name = f"test{next(numbers)}"
                admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
                return f"postgresql://wetread@/{name}?host={folder}"

            admin.execute("CREATE DATABASE wetread_template")
            Store.open(f"postgresql://wetread@/wetread_template?host={folder}", Path(folder).parent).close()
            yield make
    finally:
        subprocess.run([*owner, binary / "pg_ctl", "-D", data, "-m", "immediate", "stop"], capture_output=True, timeout=30, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_address(request, tmp_path):
    """(url, home) of a store with its schema, for tests that open it themselves or in another process."""
    home = tmp_path / "home"
    home.mkdir()
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), home / "wetread.db")
        return f"sqlite:///{home / 'wetread.db'}", home
    return request.getfixturevalue("postgres")(), home


@pytest.fixture
def store(store_address):
    opened = Store.open(*store_address, upgrade=False)
    yield opened
    opened.close()


@pytest.fixture
def settings(store_address):
    return Settings(home=store_address[1], db=store_address[0])
