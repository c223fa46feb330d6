"""Who may write the SQLite file, between threads and processes."""
import subprocess
import sys
import threading
import time
from pathlib import Path

from api.turns import Turns

ROOT = Path(__file__).parent.parent.parent
# each process adds to a number in a file, read and written apart, so that a turn held by two loses one
ADDER = """
import sys, time
from pathlib import Path
from api.turns import Turns
turns, file = Turns(Path(sys.argv[1])), Path(sys.argv[2])
for _ in range(50):
    with turns.taken():
        n = int(file.read_text()); time.sleep(0.0005); file.write_text(str(n + 1))
"""


def test_a_turn_is_held_by_one_process_at_a_time(tmp_path):
    counted = tmp_path / "counted"
    counted.write_text("0")
    adders = [subprocess.Popen([sys.executable, "-c", ADDER, str(tmp_path / "db"), str(counted)], cwd=ROOT) for _ in range(3)]
    assert [adder.wait() for adder in adders] == [0, 0, 0]
    assert counted.read_text() == "150"


def test_a_turn_is_held_by_one_thread_at_a_time(tmp_path):
    turns, held, most = Turns(tmp_path / "db"), [0], [0]

    def work():
        for _ in range(50):
            with turns.taken():
                held[0] += 1
                most[0] = max(most[0], held[0])
                time.sleep(0.0002)
                held[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert most == [1]


def test_one_that_gives_way_waits_for_the_intake_but_not_for_ever(tmp_path):
    intake, worker = Turns(tmp_path / "db"), Turns(tmp_path / "db")
    intake.intake_begins()
    start = time.monotonic()
    with worker.taken(gives_way_s=0.1):
        waited_s = time.monotonic() - start
    intake.intake_ends()
    start = time.monotonic()
    with worker.taken(gives_way_s=30):
        assert time.monotonic() - start < 5
    assert waited_s >= 0.1
