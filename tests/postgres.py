"""A PostgreSQL server of our own, in a folder that goes away with it."""
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name.split(".")[0]))


class Postgres:
    """Started at once; skips the test, saying why, where none is installed or may run."""

    def __init__(self, options=""):
        self.binary = INSTALLED[-1] if INSTALLED else None
        if self.binary is None and shutil.which("initdb"):
            self.binary = Path(shutil.which("initdb")).resolve().parent
        if self.binary is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql); the store is tested on SQLite only")
        self.folder = tempfile.mkdtemp(prefix="wetread-pg-", dir="/tmp")     # short: a socket's path has 107 characters at most
        self.options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} {options}"
        self.owner = []
        if os.getuid() == 0:        # the server refuses to run as root
            self.owner = ["runuser", "-u", "postgres", "--"]
            shutil.chown(self.folder, "postgres", "postgres")
        try:
            self.do("initdb", "-U", "wetread", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
            self.control("start")
        except (subprocess.CalledProcessError, OSError) as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            pytest.skip(f"PostgreSQL did not start: {getattr(error, 'stderr', '') or error}")

    def do(self, program, *words):
        # output into files: the server inherits it, and a pipe would be waited for
        with open(f"{self.folder}/out", "w") as out:
            subprocess.run([*self.owner, self.binary / program, "-D", f"{self.folder}/data", *words], check=True, stdout=out, stderr=out,
                           timeout=180, cwd=self.folder)

    def control(self, *words):
        self.do("pg_ctl", "-l", f"{self.folder}/log", "-w", "-t", "120", "-o", self.options, *words)

    def restart_at_once(self):
        """As after a crash of the server: nothing is written down, the log is replayed."""
        self.control("restart", "-m", "immediate")

    def address(self, database):
        return f"postgresql://wetread@/{database}?host={self.folder}"

    def close(self):
        try:
            self.control("stop", "-m", "immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
