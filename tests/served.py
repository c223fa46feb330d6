"""A really served Wetread that a test may kill: started in a moment by a process that has imported everything, with faults as wanted."""
import contextlib
import fcntl
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
FAULTS = ROOT / "tests" / "faults"


PORTS = Path(tempfile.gettempdir()) / "wetread-test-ports"     # a file a port, locked by the process whose tests use it
HELD = []


def free_ports(n):
    """Below those that the system gives to outgoing connections, and no other test process's until this one ends: a server that is started again
    finds them free."""
    PORTS.mkdir(exist_ok=True)
    found = []
    while len(found) < n:
        port = random.SystemRandom().randrange(12_000, 32_000)
        lock = (PORTS / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        HELD.append(lock)
        found.append(port)
    return found


def until(question, patience_s=900):
    end = time.monotonic() + patience_s
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


class Starter:
    """A process that has imported the server and forks one for each line it is given; one a test session."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-m", "tests.served"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                                        env={**os.environ, "PYTHONPATH": f"{FAULTS}:{ROOT}", "OMP_NUM_THREADS": "1"})

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Served:
    def __init__(self, starter, home, *, db="", outbox=0, model="rules", lease_s=5.0, longest_s=None, **environment):
        self.starter, self.home, self.outbox, self.db = starter, Path(home), outbox, db
        self.home.mkdir(exist_ok=True)
        self.http, self.mllp, self.dicom = free_ports(3)
        self.url, self.pid, self.faults = f"http://127.0.0.1:{self.http}", 0, []
        self.environment = {"WETREAD_TEST_MODEL": model, "WETREAD_TEST_LEASE_S": str(lease_s), **environment}
        if longest_s:
            self.environment["WETREAD_TEST_LONGEST_S"] = str(longest_s)
        self.log = self.home.parent / f"{self.home.name}.log"

    def start(self):
        environment = {**self.environment, "WETREAD_TEST_FAULTS": ";".join(self.faults)}
        words = ["--home", str(self.home), "--http", str(self.http), "--mllp", str(self.mllp), "--dicom", str(self.dicom), "--device", "cpu",
                 *(["--db", self.db] if self.db else []), *(["--outbox", f"ris=127.0.0.1:{self.outbox}"] if self.outbox else [])]
        for _ in range(5):
            began = self.log.stat().st_size if self.log.exists() else 0
            answer = self.starter.ask(words=words, environment=environment, log=str(self.log))
            self.pid = answer["pid"]
            if answer["said"].startswith("ready"):
                return self
            said = self.log.read_text()
            if "cannot be opened" not in said[began:]:      # a port that someone else had for a moment; all else is what is tested
                break
            time.sleep(1)
        raise AssertionError(said[-3000:])

    def die_at(self, when, place, count, flag):
        """Kill whichever process passes there, once."""
        self.faults.append(f"{when} {place} {count} {flag}")

    @property
    def alive(self):
        return bool(self.pid) and not self.starter.ask(ended=self.pid)["ended"]

    def workers(self):
        """Process ids of the worker children."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                if folder.name.isdigit() and parent_of(folder) == self.pid and b"ask.py" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found

    def kill(self, *, server=True, workers=True):
        """kill -9, and wait until they are gone."""
        pids = (self.workers() if workers else []) + ([self.pid] if server else [])
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if server:
            until(lambda: not self.alive)
            self.pid = 0

    def freeze(self):
        """Stop the server where it is; only it answers anybody."""
        os.kill(self.pid, signal.SIGSTOP)
        time.sleep(0.05)

    def stop(self):
        """As an administrator does."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            until(lambda: not self.alive)
            self.pid = 0

    def get(self, path, **more):
        return httpx.get(self.url + path, timeout=30, **more)

    def ready(self):
        with contextlib.suppress(httpx.HTTPError):
            return self.get("/ready").status_code == 200
        return False


def parent_of(folder):
    return int((folder / "stat").read_text().rpartition(")")[2].split()[1])


def order(number, text="new headache for a week, ?bleed", seconds=0):
    """ORM^O01 for one order; its control id follows from its number."""
    when = f"20261126{seconds % 86400 // 3600:02}{seconds // 60 % 60:02}{seconds % 60:02}"
    return (f"MSH|^~\\&|RIS|HOSP|WETREAD|RAD|{when}||ORM^O01^ORM_O01|M{number}|P|2.5.1\r"
            f"PID|1||P{number}^^^HOSP^MR||TEST^CASE||19600101|F\rPV1|1|O\rORC|NW|PL{number}\r"
            f"OBR|1|PL{number}||CTHEAD^CT HEAD WO CONTRAST^L|||{when}|||||||||||ACC{number}||||||CT|||^^^^^R||||^{text}\r").encode()


class Feed(threading.Thread):
    """A RIS: sends its messages one after another over one connection, each until it is acknowledged, however often the receiver dies."""

    def __init__(self, port, messages, pause_s=0.0, answer_s=10.0):
        super().__init__(daemon=True)
        self.port, self.left, self.pause_s, self.answer_s = port, list(messages), pause_s, answer_s
        self.acknowledged, self.seconds, self.refused, self.sent = {}, {}, [], 0
        self.ending = threading.Event()

    def run(self):
        connection = None
        while self.left and not self.ending.is_set():
            raw = self.left[0]
            try:
                if connection is None:
                    connection = socket.create_connection(("127.0.0.1", self.port), 2)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.settimeout(self.answer_s)
                began = time.monotonic()
                connection.sendall(b"\x0b" + raw + b"\x1c\r")
                self.sent += 1
                answer = b""
                while not answer.endswith(b"\x1c\r"):
                    piece = connection.recv(65536)
                    if not piece:
                        raise ConnectionError
                    answer += piece
                assert b"MSA|AE" not in answer, answer
                code, about = re.search(rb"MSA\|(\w\w)\|([^\r|]*)", answer).groups()
                assert about == control_id(raw), "an answer to another message"
                if code == b"AA":
                    self.acknowledged[control_id(raw).decode()] = raw
                    self.seconds[control_id(raw).decode()] = time.monotonic() - began
                    self.left.pop(0)
                else:
                    self.refused.append(code.decode())
                    self.ending.wait(0.2)
                self.ending.wait(self.pause_s)
            except OSError:
                if connection is not None:
                    connection.close()
                connection = None
                self.ending.wait(0.1)
        if connection is not None:
            connection.close()

    def end(self):
        self.ending.set()
        self.join()


def control_id(raw):
    return raw.split(b"\r")[0].split(b"|")[9]


class Receiver:
    """A RIS that takes results: every message answered AA, its control id noted each time it came."""

    def __init__(self):
        self.came, self.server = [], socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.server.accept()
                threading.Thread(target=self._speak, args=(peer,), daemon=True).start()

    def _speak(self, peer):
        held = b""
        with contextlib.suppress(OSError), peer:
            while piece := peer.recv(65536):
                held += piece
                while b"\x1c\r" in held:
                    raw, _, held = held.partition(b"\x1c\r")
                    self.came.append((control_id(raw).decode(), raw))
                    peer.sendall(b"\x0bMSH|^~\\&|RIS|H|WETREAD|R|20261126||ACK|A|P|2.5.1\rMSA|AA|" + control_id(raw) + b"\r\x1c\r")

    def close(self):
        self.server.close()


def main():
    """The starter: a line in, a server out; a worker for each process that asks (faults/ask.py). Single-threaded, so that a fork is whole."""
    os.environ["WETREAD_TEST_LATER"] = "1"
    import sitecustomize

    import api.cli
    import api.keeper
    import api.server
    import api.settings
    import api.work

    sitecustomize.rules()
    path = f"{tempfile.mkdtemp(prefix='wetread-')}/starter"
    asked = socket.socket(socket.AF_UNIX)
    asked.bind(path)
    asked.listen(50)
    api.keeper.WORKER = (sys.executable, "-I", "-S", str(FAULTS / "ask.py"), path)
    children, workers = set(), {}
    while True:
        readable, _, _ = select.select([0, asked], [], [], 0.1)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            children.discard(pid)
            if pid in workers:
                link = workers.pop(pid)
                with contextlib.suppress(OSError):
                    link.send(str(os.waitstatus_to_exitcode(status)).encode())
                link.close()
        if asked in readable:
            link, _ = asked.accept()
            try:
                line, handles, _, _ = socket.recv_fds(link, 2**20, 3)
            except OSError:
                line = b""
            if not line.endswith(b"\n"):        # killed before it had asked
                link.close()
                continue
            question = json.loads(line)
            pid = os.fork()
            if pid == 0:
                die_with(link)
                os.dup2(handles[0], 0)
                os.dup2(handles[1], 2)
                os.dup2(handles[2], question["board"])
                become(question["environment"], ["api.work", question["home"]], api.work.main)
            for handle in handles:
                os.close(handle)
            children.add(pid)
            workers[pid] = link
        if 0 in readable:
            line = os.read(0, 2**16)
            if not line:
                break
            question = json.loads(line)
            if "ended" in question:
                print(json.dumps({"ended": question["ended"] not in children}), flush=True)
                continue
            out, into = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(out)
                os.dup2(into, 1)
                os.dup2(os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                become(question["environment"], ["wetread", "serve", *question["words"]], api.cli.main)
            os.close(into)
            children.add(pid)
            with os.fdopen(out) as said:
                print(json.dumps({"pid": pid, "said": said.readline()}), flush=True)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(Path(path).parent)


def become(environment, words, run):
    import sitecustomize

    os.environ.pop("WETREAD_TEST_LATER", None)
    os.environ.update({name: text for name, text in environment.items() if name != "WETREAD_TEST_LATER"})
    sitecustomize.install()
    sys.argv = words
    try:
        run()
    except SystemExit as error:
        os._exit(error.code or 0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def die_with(link):
    """The kernel ends this process (SIGIO) when the one that asked for it ends, whatever it is doing."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(link, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(link, fcntl.F_SETFL, fcntl.fcntl(link, fcntl.F_GETFL) | os.O_ASYNC)


if __name__ == "__main__":
    main()
