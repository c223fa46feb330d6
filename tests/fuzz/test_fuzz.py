"""Each target takes its kept corpus and the same few thousand changes to it; WETREAD_FUZZ_S=60 searches on, for other ones."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, one

CORPUS = Path(__file__).with_name("corpus")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_kept_input_is_taken_or_refused(path):
    one(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_taken_or_refused(name, tmp_path):
    seconds = os.environ.get("WETREAD_FUZZ_S")
    how = ["--seconds", seconds] if seconds else ["--runs", "6000", "--seed", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    done = subprocess.run([sys.executable, "-m", "tests.fuzz.run", name, *how], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=5 * int(seconds or 60) + 400)
    assert done.returncode == 0, done.stdout
