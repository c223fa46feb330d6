"""`python -m tests.fuzz.run [TARGET ...] --seconds N`: each target for N seconds from its kept corpus; an input that breaks it is kept and named.

`--runs N --seed K` instead tries the same N inputs each time, for a test that must not change its mind while the code stays the same.

With atheris (Linux, Python up to 3.13) coverage leads the changes; without it they are random, and each line says which. The DICOM target is always
random: under atheris its process ends in the middle of a kept input, at another place each time; why is not known.
"""
import argparse
import faulthandler
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
FOUND = Path("fuzz-found")
RANDOM = ("dicom",)
LENGTH_MAX, MEMORY_MB = 20_000, 3000
SLOW_S, HUNG_S = 10, 300        # processor time of one input; what a target may take beyond its time


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    names = sorted(path.name for path in CORPUS.iterdir())
    parser.add_argument("targets", nargs="*", choices=[[], *names], metavar="TARGET", help=", ".join(names))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=0, help="inputs instead of seconds")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--random", action="store_true", help="without atheris, even where it is installed")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    found = find_spec("atheris") is not None and not asked.random
    if asked.inside:
        (guide if found and asked.targets[0] not in RANDOM else wander)(asked.targets[0], asked.seconds, asked.runs, asked.seed)
        return 0
    failed = []
    for name in asked.targets or names:
        words = [sys.executable, "-m", "tests.fuzz.run", name, "--inside", "--seconds", str(asked.seconds), "--runs", str(asked.runs),
                 "--seed", str(asked.seed), *(["--random"] if asked.random else [])]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=5 * asked.seconds + HUNG_S)
        except subprocess.TimeoutExpired:
            print(f"{name}: FAILED, an input is not done with after {HUNG_S} s", flush=True)
            failed.append(name)
            continue
        last = [line for line in done.stderr.splitlines() if line.startswith(("Done ", "#"))][-1:] or [""]
        how = "led by coverage" if found and name not in RANDOM else "random changes"
        print(f"{name} ({how}): {'ok' if done.returncode == 0 else f'FAILED with exit {done.returncode}'} {last[0]}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout[-3000:], done.stderr[-6000:], flush=True)      # atheris tells of an exception on the one, libFuzzer on the other
    print(f"{len(failed)} of {len(asked.targets or names)} targets broke{'' if found else '; atheris is not used: pip install atheris'}")
    return len(failed)


def guide(name: str, seconds: int, runs: int, seed: int) -> None:
    """Never returns: libFuzzer ends the process, with 0 when nothing was found."""
    import atheris

    from tests.fuzz.targets import INSTRUMENTED

    for module in [module for module in sys.modules if module.startswith((*INSTRUMENTED, "tests.fuzz.targets"))]:
        del sys.modules[module]         # they are read again, with their branches counted
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from tests.fuzz.targets import one
    for path in (CORPUS / name).iterdir():
        one(name, path.read_bytes())    # what is imported on first use is imported before libFuzzer watches
    FOUND.mkdir(exist_ok=True)
    atheris.Setup(["fuzz", f"-runs={runs}" if runs else f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={LENGTH_MAX}",
                   f"-rss_limit_mb={MEMORY_MB}", "-timeout=0",
                   f"-artifact_prefix={FOUND}/{name}-", tempfile.mkdtemp(prefix="wetread-fuzz-"), str(CORPUS / name)],
                 lambda data: timed(one, name, data))
    atheris.Fuzz()


def wander(name: str, seconds: int, runs: int, seed: int) -> None:
    """Kept inputs with bytes changed, cut, doubled and put together, from a seed that is printed when one breaks the target."""
    from tests.fuzz.targets import one

    faulthandler.enable()
    seeds = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    seed, count, until = seed or time.time_ns(), 0, time.monotonic() + seconds
    draw = random.Random(seed)
    FOUND.mkdir(exist_ok=True)
    tried = FOUND / f"{name}-{seed}"
    print(f"the input that is tried stands in {tried}", file=sys.stderr)
    while count < runs if runs else time.monotonic() < until:
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 8)):
            change(data, draw, seeds)
        count += 1
        tried.write_bytes(data[:LENGTH_MAX])        # before it is tried: a decoder may end the process
        timed(one, name, bytes(data[:LENGTH_MAX]))
    tried.unlink(missing_ok=True)
    print(f"Done {count} runs", file=sys.stderr)


def timed(one: Callable[[str, bytes], None], name: str, data: bytes) -> None:
    # not libFuzzer's own alarm: a library that the DICOM target loads gives it back to the system, which then ends the process
    began = time.process_time()
    one(name, data)
    assert time.process_time() - began < SLOW_S, "too slow"


def change(data: bytearray, draw: random.Random, seeds: list[bytes]) -> None:
    at, length = draw.randrange(len(data) + 1), draw.choice((1, 1, 2, 4, 16, 100))
    how = draw.randrange(5)
    if how == 0:
        data[at:at + length] = draw.randbytes(length)
    elif how == 1:
        del data[at:at + length]
    elif how == 2:
        data[at:at] = data[at:at + length] * draw.choice((1, 2, 50))
    elif how == 3:
        other = draw.choice(seeds)
        start = draw.randrange(len(other) + 1)
        data[at:at + length] = other[start:start + length]
    elif data:
        data[min(at, len(data) - 1)] = draw.choice(b"\0\x01\x7f\x80\xff\x0b\x1c\r\n|^~\\&\"{}[]-")


if __name__ == "__main__":
    sys.exit(main())
