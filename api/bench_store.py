"""Measure C-STORE beside a reference: `python -m api.bench_store ../shared/bench/scp_pynetdicom.py`; prints one line of JSON.

200 CT slices of 512 x 512 by dcmtk's storescu, to our listener (file, folder and row fsynced) and to pynetdicom writing raw bytes with one fsync
each, in turn on the same disk; the median of the rounds counts.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROWS = 512


def write_slices(folder: Path, count: int) -> list[Path]:
    """CT slices with a real CT's header (pydicom's CT_small) and noise, so that no file is like another."""
    from pydicom import dcmread
    from pydicom.data import get_testdata_file
    from pydicom.uid import generate_uid

    folder.mkdir()
    image, noise = dcmread(str(get_testdata_file("CT_small.dcm"))), np.random.default_rng(0)
    small = np.frombuffer(image.PixelData, "<i2").reshape(image.Rows, image.Columns)
    large = np.kron(small, np.ones((ROWS // len(small),) * 2, "<i2"))
    image.Rows = image.Columns = ROWS
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    for number in range(count):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.InstanceNumber, image.PixelData = number + 1, (large + noise.integers(-20, 20, large.shape, "<i2")).tobytes()
        image.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)
    return sorted(folder.iterdir())


def serve(home: Path) -> None:
    """Our listener alone, until a signal."""
    from api.dicom.scp import DicomServer
    from api.settings import read_settings
    from api.store import Store
    from api.workflow import Desk

    settings = replace(read_settings(home), dicom=0)
    home.mkdir(parents=True)
    server = DicomServer(Desk(Store.open(settings.db, home), settings), settings)
    server.start()
    print(server.port, flush=True)
    signal.pause()


def send(port: int, files: list[Path]) -> float:
    """Instances a second; without TCP_NODELAY each message of storescu waits 40 ms for an acknowledgement."""
    began = time.monotonic()
    done = subprocess.run(["storescu", "127.0.0.1", str(port), *map(str, files)], env={**os.environ, "TCP_NODELAY": "1"},
                          capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"storescu: {done.stderr[-500:]}")
    return len(files) / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api.bench_store")
    parser.add_argument("reference", nargs="?", type=Path)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        files = write_slices(folder / "slices", asked.slices)
        rates: dict[str, list[float]] = {"ours": [], "reference": []}
        for number in range(asked.rounds):
            rates["ours"].append(one_round([sys.executable, "-m", "api.bench_store", "--serve", folder / f"home{number}"], files))
            if asked.reference:
                rates["reference"].append(one_round([sys.executable, asked.reference, free_port(), folder / f"raw{number}", "raw_fsync"], files))
        middle = {kind: round(statistics.median(values), 1) for kind, values in rates.items() if values}
        print(json.dumps({"slices": len(files), "rounds": {kind: [round(v, 1) for v in values] for kind, values in rates.items()}, **middle,
                          "ratio": round(middle["ours"] / middle["reference"], 2) if asked.reference else None}))


def one_round(words: list[object], files: list[Path]) -> float:
    server = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        said = server.stdout.readline().strip()
        return send(int(said) if said.isdigit() else int(str(words[2])), files)
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
