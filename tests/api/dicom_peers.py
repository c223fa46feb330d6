"""Real DICOM peers for the tests: a desk with its listener, pynetdicom as SCU, dcmtk's programs."""
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import pytest
from pynetdicom import AE

from api.settings import read_settings
from api.store import Store
from api.workflow import Desk

ENVIRONMENT = {"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"}       # without TCP_NODELAY each message of dcmtk waits 40 ms


def needs(program, package="dcmtk"):
    """Skip, and say so, where a peer's program is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed: apt-get install {package}")


def run(*words):
    """A dcmtk program to its end; gives (exit status, what it printed) with its bytes as UTF-8."""
    done = subprocess.run([str(word) for word in words], env=ENVIRONMENT, capture_output=True, timeout=120)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


@contextmanager
def associated(port, *services, title="SCANNER1", handlers=(), roles=(), called="WETREAD", tls=None):
    """An association for the given abstract syntaxes, (abstract, transfer) pairs among them."""
    ae = AE(ae_title=title)
    for service in services:
        ae.add_requested_context(*service) if isinstance(service, tuple) else ae.add_requested_context(service)
    association = ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=list(handlers), ext_neg=list(roles), tls_args=tls)
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


@contextmanager
def desk_at(home, template, suggester=None, reporter=None, **settings):
    """A desk on a store of its own, its DICOM port free to choose."""
    chosen = replace(read_settings(home), dicom=0, **settings)
    home.mkdir()
    shutil.copy(template, home / "wetread.db")
    store = Store.open(chosen.db, home, upgrade=False)
    try:
        yield Desk(store, chosen, suggester, reporter)
    finally:
        store.close()
