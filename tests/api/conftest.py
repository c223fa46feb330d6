"""`store`: an empty store, once on SQLite and once on PostgreSQL; every test that takes it runs on both. `sqlite_desk`: a desk on SQLite alone."""
import itertools
import shutil
from pathlib import Path

import pytest

from api.settings import Settings
from api.store import Store
from tests.postgres import Postgres


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of our own; gives make(name) -> address of a new database."""
    import psycopg

    # fsync off: these tests kill the client, never the server
    server = Postgres("-c fsync=off -c full_page_writes=off")
    with psycopg.connect(f"host={server.folder} user=wetread dbname=postgres", autocommit=True) as admin:
        numbers = itertools.count(1)

        def make(template="wetread_template"):
            name = f"test{next(numbers)}"
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            return server.address(name)

        admin.execute("CREATE DATABASE wetread_template")
        Store.open(server.address("wetread_template"), Path(server.folder).parent).close()
        yield make
    server.close()


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


@pytest.fixture
def sqlite_desk(sqlite_template, tmp_path):
    """Makes a desk on a store of its own: sqlite_desk(TextDesk, suggester, reporter, public_url=…)."""
    opened = []

    def make(kind, *models, **settings):
        home = tmp_path / "home"
        home.mkdir()
        shutil.copy(sqlite_template, home / "wetread.db")
        opened.append(Store.open("", home, upgrade=False))
        return kind(opened[-1], Settings(home=home, **settings), *models)

    yield make
    for store in opened:
        store.close()
