"""The worker process: takes jobs from the store and does them, models loaded on first use."""
import contextlib
import json
import logging
import os
import sys
import threading
from pathlib import Path

from api.dicom.commitment import Commitment
from api.dicom.priors import Priors
from api.dicom.sender import ResultSender
from api.hl7.sender import Sender
from api.inference import LateReporter, LateSuggester
from api.jobs import Worker
from api.model_versions import folder_in_use
from api.settings import Destination, Settings, read_settings
from api.store import Store
from api.workflow import Desk


def handlers(desk: Desk, sender: Sender) -> dict:
    """Job kind -> what does it; the whole list of work Wetread knows."""
    return {
        "message": desk.apply_message,
        "suggest": desk.suggest_order,
        "shadow": desk.shadow_order,
        "complete": desk.complete_quiet_study,
        "draft": desk.draft_study,
        "send": sender.send_queue,
        "results": desk.make_results,
        "send-dicom": ResultSender(desk.store, desk.settings).send_result,
        "priors": Priors(desk, desk.settings).fetch,
        "commitment": Commitment(desk.store, desk.settings).send,
    }


def worker_settings(home: Path) -> Settings:
    given = json.loads(os.environ.get("WETREAD_WORKER", "{}"))
    if "outbox" in given:
        given["outbox"] = tuple(Destination(*row) for row in given["outbox"])
    return read_settings(home, **given)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    os.nice(10)     # an acknowledgement goes before an inference
    settings = worker_settings(Path(sys.argv[1]))
    store = Store.open(settings.db, settings.home, upgrade=False)
    store.gives_way_s = 0.25
    desk = Desk(store, settings, LateSuggester(settings.device, lambda: folder_in_use(store, "shown")), LateReporter(settings.device),
                shadow=LateSuggester(settings.device, lambda: folder_in_use(store, "shadow")))
    # two threads: a CT of half a minute must not hold up the suggestion for the order behind it
    kinds = handlers(desk, Sender(store, settings))
    # sending has threads of its own: a receiver that does not answer must hold up neither a suggestion nor the other receivers
    sending = Worker(store, {"send": kinds.pop("send")}, threads=max(1, min(8, len(settings.outbox))), batch=1)
    worker = Worker(store, kinds, threads=2)
    worker.start()
    sending.start()
    ended = threading.Event()

    def watch_parent() -> None:
        sys.stdin.buffer.read()     # returns when serve closes the pipe, or dies
        ended.set()

    threading.Thread(target=watch_parent, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        ended.wait()
    worker.stop()
    sending.stop()
    store.close()


if __name__ == "__main__":
    main()
