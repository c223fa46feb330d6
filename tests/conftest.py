"""`starter` for the tests that kill what they started; sqlite_template is a store's file with its schema, copied for each test."""
import pytest

from api.store import Store
from tests.served import Starter


@pytest.fixture(scope="session")
def starter():
    """Starts served Wetreads that a test may kill (tests/served.py)."""
    made = Starter()
    yield made
    made.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """A store's file with its schema, copied for each test: an upgrade takes longer than a test."""
    home = tmp_path_factory.mktemp("template")
    Store.open("", home).close()
    return home / "wetread.db"
