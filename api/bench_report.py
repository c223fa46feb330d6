"""How long a complete study waits for its draft: the desk's own jobs on a store of its own, with the model loaded."""
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from api.dicom.intake import keep_instance
from api.jobs import Worker
from api.settings import Settings
from api.store import Store
from api.workflow import Desk
from data.errors import StoreError
from data.simulator import simulate_head_ct, write_dicom

SLICE_MM = 4.0          # some 40 slices


def seconds_to_stored_draft(device: str, seed: int = 1) -> float:
    """From "all images are there" to the draft in the store, one simulated head CT of some 40 slices."""
    from vision.reporter import Reporter

    with TemporaryDirectory(prefix="wetread-bench-") as folder:
        files = write_dicom(simulate_head_ct(seed, slice_mm=SLICE_MM), Path(folder) / "study")
        store = Store.open("", Path(folder) / "home")
        try:
            desk = Desk(store, Settings(home=store.home), None, Reporter.load(device=device))
            kept = [keep_instance(desk, path.read_bytes(), "bench") for path in files]
            study = kept[0].study_uid
            start = time.perf_counter()
            desk.complete_study(study)
            worker = Worker(store, {"draft": desk.draft_study, "complete": desk.complete_quiet_study})
            while desk.study(study)["state"] == "complete" and worker.run_once():
                pass
            took_s = time.perf_counter() - start
            if desk.study(study)["state"] != "drafted":
                raise StoreError(f"the study was not drafted: {desk.study(study)['reason'] or desk.study(study)['state']}")
        finally:
            store.close()
    return took_s
