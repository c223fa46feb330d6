"""`wetread bench day`: a simulated day against a really served Wetread, with a RIS outage and crashes; every order and study accounted for."""
import contextlib
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from api.day_accounts import accounts
from api.day_plan import DAY_S, Event, Plan, plan_day
from api.dicom.client import send_dicom
from api.settings import Settings
from data.errors import InputError, StoreError

DAY = datetime(2026, 11, 24)
OUTAGE = (12.0 / 24, 13.0 / 24)     # of the day, when the RIS takes no results
PATIENCE_S = 3600.0                 # after the day's end, until all work is done
END = b"\x1c\r"


class Ris:
    """The department's RIS: sends each message until it is acknowledged, and takes results, unless it is out."""

    def __init__(self) -> None:
        self.acknowledged: dict[bytes, bytes] = {}      # message -> its acknowledgement
        self.ack_ms: list[float] = []
        self.sent = self.refused = 0
        self.results: Counter[str] = Counter()          # control id -> how often it came
        self.port = 0
        self._peer: socket.socket | None = None
        self._listening: socket.socket | None = None
        self._speaking: set[socket.socket] = set()

    def send(self, port: int, raw: bytes) -> None:
        """Until AA, AE or their enhanced forms; a lost connection, a restart or AR only delays it."""
        while True:
            try:
                if self._peer is None:
                    self._peer = socket.create_connection(("127.0.0.1", port), 5)
                    self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._peer.settimeout(30)
                began = time.perf_counter()
                self._peer.sendall(b"\x0b" + raw + END)
                self.sent += 1
                answer = b""
                while not answer.endswith(END):
                    piece = self._peer.recv(65536)
                    if not piece:
                        raise ConnectionError
                    answer += piece
            except OSError:
                self.hang_up()
                time.sleep(0.1)
                continue
            code = re.search(rb"MSA\|(\w\w)", answer)
            if code and code[1][1:] == b"R":
                time.sleep(0.2)
                continue
            self.ack_ms.append(1000 * (time.perf_counter() - began))
            self.refused += not code or code[1][1:] != b"A"
            self.acknowledged[raw] = answer
            return

    def hang_up(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def listen(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._take, args=(self._listening,), daemon=True).start()

    def go_out(self) -> None:
        """No results are taken from now on, and what is open is closed."""
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)      # wakes the thread that accepts
            self._listening.close()
        for peer in list(self._speaking):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def _take(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listening.accept()
                threading.Thread(target=self._speak, args=(peer,), daemon=True).start()

    def _speak(self, peer: socket.socket) -> None:
        held = b""
        self._speaking.add(peer)
        with contextlib.suppress(OSError), peer:
            while piece := peer.recv(65536):
                held += piece
                while END in held:
                    raw, _, held = held.partition(END)
                    control = raw.split(b"\r")[0].split(b"|")[9]
                    self.results[control.decode()] += 1
                    peer.sendall(b"\x0bMSH|^~\\&|SIMRIS|DEMO|WETREAD|RADIOLOGY|20261124||ACK|A|P|2.5.1\rMSA|AA|" + control + b"\r" + END)
        self._speaking.discard(peer)


class Server:
    """`wetread serve` as a process, to be killed and started again."""

    def __init__(self, home: Path, device: str, ris_port: int) -> None:
        self.home, self.log = home, home / "serve.log"
        self.http, self.mllp, self.dicom = free_ports(3)
        self.command = [sys.executable, "-m", "api.cli", "serve", "--home", str(home), "--device", device, "--http", str(self.http),
                        "--mllp", str(self.mllp), "--dicom", str(self.dicom), "--outbox", f"ris=127.0.0.1:{ris_port}"]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> float:
        """Seconds until it says that it is ready."""
        began = time.perf_counter()
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, text=True,
                                            env={**os.environ, "WETREAD_CDS_JWT": "false"})
        assert self.process.stdout is not None
        if not self.process.stdout.readline().startswith("ready"):
            raise StoreError(f"the server did not start; see {self.log}")
        return time.perf_counter() - began

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=60)
            if self.process.poll() is None:
                self.process.kill()


class Day:
    def __init__(self, plan: Plan, server: Server, ris: Ris, images: "Images", seconds: float, crashes: int) -> None:
        self.plan, self.server, self.ris, self.images, self.seconds = plan, server, ris, images, seconds
        self.crash_at = [DAY_S * (n + 1) / (crashes + 1) + 600 for n in range(crashes)]
        self.restarts_s: list[float] = []
        self.stored: dict[int, int] = {}            # order -> instances answered 0x0000
        self.to_accept: list[int] = []
        self.accepted: set[int] = set()
        self.outage_s = self.latest_s = 0.0

    def play(self, say: Callable[[str], None]) -> None:
        """Every event at its time of the compressed day, or as soon after it as the server takes it."""
        began, marks = time.monotonic(), self.marks(say)
        images = threading.Thread(target=self.send_studies, args=(began,), daemon=True)
        images.start()
        for event in [event for event in self.plan.events if event.what != "study"]:
            while marks and marks[0][0] <= event.at_s:
                self.wait_for(began, marks[0][0])
                marks.pop(0)[1]()
            self.wait_for(began, event.at_s)
            self.latest_s = max(self.latest_s, time.monotonic() - began - event.at_s / DAY_S * self.seconds)
            if event.what == "message":
                self.ris.send(self.server.mllp, event.raw)
            else:
                self.to_accept.append(event.order)
                self.accept()
        for _, mark in marks:
            mark()
        images.join()

    def marks(self, say: Callable[[str], None]) -> list[tuple[float, Callable[[], None]]]:
        def crash() -> None:
            self.server.kill()
            self.ris.hang_up()
            self.restarts_s.append(self.server.start())
            say(f"killed, and serving again after {self.restarts_s[-1]:.1f} s")

        out = [0.0]

        def outage() -> None:
            self.ris.go_out()
            out[0] = time.monotonic()
            say("the RIS takes no results")

        def back() -> None:
            self.ris.listen()
            self.outage_s = time.monotonic() - out[0]
            say(f"the RIS takes results again after {self.outage_s:.0f} s")

        return sorted([*((at, crash) for at in self.crash_at), (DAY_S * OUTAGE[0], outage), (DAY_S * OUTAGE[1], back)], key=lambda mark: mark[0])

    def wait_for(self, began: float, at_s: float) -> None:
        time.sleep(max(0.0, began + at_s / DAY_S * self.seconds - time.monotonic()))

    def send_studies(self, began: float) -> None:
        """The scanners: each instance until it is answered 0x0000."""
        for event in [event for event in self.plan.events if event.what == "study"]:
            self.wait_for(began, event.at_s)
            with tempfile.TemporaryDirectory() as name:
                left = self.images.write(Path(name), event, self.plan)
                self.stored[event.order] = len(left)
                while left:
                    with contextlib.suppress(StoreError, OSError):
                        done = {row["file"] for row in send_dicom("127.0.0.1", self.server.dicom, left) if row["ok"]}
                        left = [path for path in left if str(path) not in done]
                    time.sleep(0.5 if left else 0)

    def accept(self) -> int:
        """A radiologist accepts what was suggested, and how much that was; an order without a suggestion yet is looked at again later."""
        before = len(self.accepted)
        for number in list(self.to_accept):
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.post(f"http://127.0.0.1:{self.server.http}/v1/orders/{self.plan.placer_numbers[number]}/decision",
                                    json={"action": "accept"}, timeout=30)
                # accepted already: the answer to an earlier try was lost with the server
                done = answer.status_code == 200 or "is accepted already" in answer.text
                if done:
                    self.accepted.add(number)
                if done or ("[E111]" in answer.text and "no suggestion" not in answer.text):
                    self.to_accept.remove(number)
        return len(self.accepted) - before


class Images:
    """Head CTs, simulated once and sent under many names; all other studies are three small MR localisers, which are refused with a reason."""

    def __init__(self, head_cts: int, seed: int) -> None:
        from data.simulator import simulate_head_ct

        self.head_cts = head_cts
        self.volumes = [simulate_head_ct(seed + i, kind=kind) for i, kind in enumerate(("subdural", "none"))] if head_cts else []

    def write(self, folder: Path, event: Event, plan: Plan) -> list[Path]:
        from data.simulator import write_dicom

        place, accession = plan.studies.index(event.order), plan.accessions[event.order]
        every = max(1, len(plan.studies) // self.head_cts) if self.head_cts else 0
        if every and place % every == 0 and place // every < self.head_cts:
            return write_dicom(self.volumes[place % len(self.volumes)], folder, accession_number=accession, patient_id=plan.examined_as[event.order])
        return localiser(folder, accession, plan.examined_as[event.order])


def localiser(folder: Path, accession: str, patient: str) -> list[Path]:
    """Three MR slices of 64 x 64 in one series."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    chance = np.random.default_rng(zlib.crc32(accession.encode()))
    study, series = (generate_uid(entropy_srcs=[accession, part]) for part in ("study", "series"))
    written = []
    for i in range(3):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.MediaStorageSOPClassUID, image.file_meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid(entropy_srcs=[accession, str(i)])
        image.SOPClassUID, image.StudyInstanceUID, image.SeriesInstanceUID = MRImageStorage, study, series
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = patient, "SIMULATED^PATIENT", "", "O"
        image.AccessionNumber, image.StudyDate, image.Modality, image.SeriesDescription = accession, "20261124", "MR", "localiser"
        image.ImageType, image.InstanceNumber, image.Rows, image.Columns = ["ORIGINAL", "PRIMARY"], i + 1, 64, 64
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 10 * i], [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = [4, 4], 10
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit = 15
        image.PixelData = chance.integers(0, 1000, (64, 64), dtype=np.uint16).tobytes()
        path = folder / f"{i}.dcm"
        image.save_as(path, enforce_file_format=True)
        written.append(path)
    return written


def run_day(home: Path, *, orders: int, studies: int, head_cts: int, minutes: float, crashes: int, seed: int, device: str,
            say: Callable[[str], None]) -> dict[str, Any]:
    """Play the day and close the books; the figures, with `unaccounted` empty when all is well."""
    if orders < 1 or not 0 <= studies <= orders or not 0 <= head_cts <= studies or minutes <= 0 or crashes < 0:
        raise InputError(f"{orders} orders, {studies} studies, {head_cts} head CTs and {minutes:g} minutes make no day; "
                         "give at least one order, no more studies than orders, no more head CTs than studies, more than 0 minutes")
    home.mkdir(parents=True, exist_ok=True)
    if (home / "wetread.db").exists():
        raise InputError(f"{home} holds a store already; give an empty folder, so that the books are of this day alone")
    say(f"{orders} orders and {studies} studies, {head_cts} of them head CTs (simulated, seed {seed}), in {minutes:g} minutes")
    plan = plan_day(orders, studies, seed, DAY)
    images = Images(head_cts, seed)
    ris = Ris()
    ris.listen()
    server = Server(home, device, ris.port)
    try:
        first_s = server.start()
        day = Day(plan, server, ris, images, 60 * minutes, crashes)
        day.play(say)
        say("the day is over; waiting for what is still to do")
        ended = time.monotonic()
        books = accounts(Settings(home), plan, day, ris, PATIENCE_S)
        return {"orders": orders, "studies": studies, "head_cts": head_cts, "seed": seed, "minutes": minutes, "crashes": crashes,
                "first_start_s": round(first_s, 1), "restarts_s": [round(s, 1) for s in day.restarts_s], "outage_s": round(day.outage_s, 1),
                "behind_at_most_s": round(day.latest_s, 1), "finished_after_s": round(time.monotonic() - ended, 1),
                "ack_ms": {"median": round(statistics.median(ris.ack_ms), 1),
                           "p99": round(sorted(ris.ack_ms)[len(ris.ack_ms) * 99 // 100], 1)}, **books}
    finally:
        server.stop()


def free_ports(count: int) -> list[int]:
    """Below those that the system gives to outgoing connections, so that a server which is started again finds them free."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found
