"""`wetread demo`: a simulated morning, sent to a real server over real sockets. Everything shown says 'simulated'."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from api.dicom.client import send_dicom
from api.hl7.client import send_messages
from data.errors import StoreError
from data.simulated_orders import simulate_orders

ORDERS = 20
CASES = ("subdural", "intraparenchymal", "none")      # the three head CTs, one with nothing to find
PATIENCE_S = 300
ESCAPES = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\r": " ", "\n": "\\.br\\"})


def run_demo(home: Path | None, *, http: int, mllp: int, dicom: int, device: str, seed: int, leave: bool) -> None:
    """Serve HOME, feed it, show what came of it; then serve on until interrupted, unless `leave`."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    home = home or Path(tempfile.mkdtemp(prefix="wetread-demo-"))
    console.print(f"Simulated morning, seed {seed}, kept in {home}. No real patient. Not a medical device.")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "serve.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "api.cli", "serve", "--home", str(home), "--device", device,
                                   "--http", str(http), "--mllp", str(mllp), "--dicom", str(dicom)],
                                  stdout=subprocess.PIPE, stderr=log, text=True,
                                  env={**os.environ, "WETREAD_CDS_JWT": "false"})
    try:
        line = server.stdout.readline()     # type: ignore[union-attr]   # stdout is a pipe, asked for above
        if not line.startswith("ready"):
            raise StoreError(f"the server did not start; {last_words(home / 'serve.log')}")
        console.print(f"[bold]http://127.0.0.1:{http}[/bold]  the page      mllp://127.0.0.1:{mllp}  orders      "
                      f"dicom://127.0.0.1:{dicom}  images")
        morning(console, http, mllp, dicom, seed)
        if not leave:
            console.print(f"Look at http://127.0.0.1:{http} . Ctrl-C ends it.")
            server.wait()
    except KeyboardInterrupt:
        console.print("Ending.")
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def morning(console: Console, http: int, mllp: int, dicom: int, seed: int) -> None:
    rows = simulate_orders(ORDERS, seed)        # a demonstration, no measurement: the model may have learnt their likes
    # each head CT belongs to the order with its accession number; these three are written for their cases
    requests = [case_order(seed, i, kind) for i, kind in enumerate(CASES)]
    start = datetime.now().replace(hour=7, minute=30, second=0, microsecond=0)
    messages = [order_message(row, i, start + timedelta(minutes=4 * i), seed)
                for i, row in enumerate([*rows[:ORDERS - len(CASES)], *requests])]
    answers = list(send_messages("127.0.0.1", mllp, messages))
    console.print(f"{len(answers)} orders sent over MLLP, {sum(a['ok'] for a in answers)} acknowledged AA")
    with tempfile.TemporaryDirectory() as folder:
        for i, kind in enumerate(CASES):
            simulated_study(seed + i, Path(folder) / str(i), kind, accession_number=requests[i]["accession_number"],
                            patient_id=requests[i]["patient_id"])
            sent = list(send_dicom("127.0.0.1", dicom, [Path(folder) / str(i)]))
            console.print(f"head CT {i + 1} of {len(CASES)} ({kind}): {sum(s['ok'] for s in sent)} of {len(sent)} images stored over DICOM")
    with httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=30) as client:
        orders, studies = wait_for_results(client)
    show(console, orders, studies)


def wait_for_results(client: httpx.Client) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Orders and studies once nothing is pending, or what there is after PATIENCE_S."""
    end = time.monotonic() + PATIENCE_S
    while True:
        orders, studies = client.get("/v1/orders").json(), client.get("/v1/studies").json()
        waiting = sum(o["state"] == "new" for o in orders) + sum(s["state"] in ("receiving", "complete") for s in studies)
        if (not waiting and len(orders) >= ORDERS and len(studies) >= len(CASES)) or time.monotonic() > end:
            break
        time.sleep(1)
    return ([client.get(f"/v1/orders/{o['id']}").json() for o in orders],
            [client.get(f"/v1/studies/{s['id']}").json() for s in studies])


def show(console: Console, orders: list[dict[str, Any]], studies: list[dict[str, Any]]) -> None:
    table = Table("Clicked", "Reason", "Suggested", "p", "Flags", "Urgent", "State", title="Orders to protocol (simulated)")
    for row in orders:
        found, order = row.get("suggestion") or {}, row["order"]
        top = (found.get("ranked") or [{"protocol": "none", "probability": 0.0}])[0]
        table.add_row(order["ordered_exam"], order["text"][:60], top["protocol"], f"{top['probability']:.2f}",
                      ", ".join(flag["code"] for flag in found.get("flags", [])), "yes" if found.get("urgent") else "", row["state"])
    console.print(table)
    for row in studies:
        draft = row.get("draft") or {}
        words = (draft.get("sections") or {}).get("impression") or (draft.get("refused") or {}).get("reason", "no draft")
        console.print(f"[bold]Study {row['id'][-12:]}[/bold] {row['state']}: {words}")


def order_message(row: dict[str, Any], number: int, when: datetime, seed: int) -> bytes:
    """One simulated order as ORM^O01 2.5.1."""
    stamp, control = when.strftime("%Y%m%d%H%M%S"), f"DEMO{seed:04d}{number:04d}"
    patient_id = row.get("patient_id") or f"SIM{seed:04d}{number:04d}"
    accession = row.get("accession_number") or f"SIMACC{seed:04d}{number:04d}"
    age = row.get("age")
    born = f"{when.year - int(age)}0101" if age is not None else ""
    priority = {"STAT": "S", "URGENT": "A"}.get(row.get("priority") or "", "R")
    segments = [
        f"MSH|^~\\&|SIMRIS|DEMO|WETREAD|RADIOLOGY|{stamp}||ORM^O01^ORM_O01|{control}|T|2.5.1|||||||UNICODE UTF-8",
        f"PID|1||{patient_id}^^^DEMO^MR||SIMULATED^PATIENT {number + 1}||{born}|{row.get('sex') or 'U'}",
        f"PV1|1|O|{(row.get('setting') or '').translate(ESCAPES)}",
        *(f"AL1|{i}|DA|{text.translate(ESCAPES)}" for i, text in enumerate(row.get("allergies") or [], 1)),
        f"ORC|NW|PL{control}|||SC||^^^^^{priority}||{stamp}",
        f"OBR|1|PL{control}||{'^' + (row.get('ordered_exam') or '').translate(ESCAPES)}|||{stamp}|||||||||||{accession}|||||||||^^^^^{priority}||||^"
        + row["order_text"].translate(ESCAPES),
    ]
    extra = []
    if row.get("egfr") is not None:
        extra.append(f"OBX|1|NM|33914-3^GFR^LN||{row['egfr']}|mL/min/1.73m2|||||F|||{stamp}")
    if row.get("implants"):
        extra.append("NTE|1||Implants: " + "; ".join(row["implants"]).translate(ESCAPES))
    if row.get("pregnant") is not None:
        extra.append(f"NTE|2||Pregnant: {'yes' if row['pregnant'] else 'no'}")
    return "\r".join([*segments, *extra, ""]).encode()


def case_order(seed: int, i: int, kind: str) -> dict[str, Any]:
    text = {"subdural": "fall 2 days ago, on apixaban, increasingly drowsy. ?bleed",
            "intraparenchymal": "sudden L weakness and vomiting, BP 220/110. ?haemorrhage",
            "none": "new headache for a week, neuro exam normal. ?SOL or bleed"}[kind]
    return {"id": f"case{i}", "order_text": text, "ordered_exam": "CT head without contrast", "setting": "ED",
            "age": 71 - 9 * i, "sex": "FMF"[i % 3], "priority": ("STAT", "STAT", "URGENT")[i % 3],
            "accession_number": f"SIMCT{seed:04d}{i}", "patient_id": f"SIMCT{seed:04d}{i}"}


def simulated_study(seed: int, folder: Path, kind: str | None = None, **header: str) -> None:
    """One simulated head CT as DICOM in `folder`; beside it, not sent: truth.json, masks as NIfTI and an order."""
    from data.records import as_json
    from data.simulate.files import write_beside
    from data.simulate.true_regions import true_region
    from data.simulator import findings_in_files, simulate_head_ct, write_dicom

    study = simulate_head_ct(seed, kind=kind)
    folder.mkdir(parents=True, exist_ok=True)
    findings = [replace(one, region=true_region(study, "", one.code.removesuffix("_haemorrhage"))) if one.present else one
                for one in findings_in_files(study, write_dicom(study, folder, **header))]
    (folder / "truth.json").write_text(json.dumps([as_json(finding) for finding in findings], indent=1))
    write_beside(study, folder)


def last_words(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return lines[-1] if lines else f"see {log}"
