"""The worker process: takes jobs from the store and does them; the suggester is loaded at once, the reporter with the first study."""
import contextlib
import json
import logging
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

from api.board import Board
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
        "alert": desk.escalate_alert,
        "send": sender.send_queue,
        "results": desk.make_results,
        "send-dicom": ResultSender(desk.store, desk.settings).send_result,
        "priors": Priors(desk, desk.settings).fetch,
        "commitment": Commitment(desk.store, desk.settings).send,
    }


def read_line(home: Path) -> tuple[Settings, dict[str, Any]]:
    """The settings, and what else the parent said: board, careful, without."""
    given = json.loads(os.environ.get("WETREAD_WORKER", "{}"))
    more = {name: given.pop(name) for name in ("board", "careful", "without") if name in given}
    if "outbox" in given:
        given["outbox"] = tuple(Destination(*row) for row in given["outbox"])
    return read_settings(home, **given), more


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    os.nice(10)     # an acknowledgement goes before an inference
    settings, more = read_line(Path(sys.argv[1]))
    limit_memory(settings.device)
    store = Store.open(settings.db, settings.home, upgrade=False)
    store.gives_way_s = 0.25
    without = more.get("without", ())       # models that killed the workers that loaded them
    suggester = None if "suggester" in without else LateSuggester(settings.device, lambda: folder_in_use(store, "shown"))
    reporter = None if "reporter" in without else LateReporter(settings.device)
    desk = Desk(store, settings, suggester, reporter, shadow=LateSuggester(settings.device, lambda: folder_in_use(store, "shadow")))
    worker = Worker(store, handlers(desk, Sender(store, settings)), board=Board(more["board"]) if "board" in more else None,
                    load={name: model.load for name, model in (("suggester", suggester), ("reporter", reporter)) if model is not None},
                    suspect=more.get("careful", False))
    ended = threading.Event()

    def watch_parent() -> None:
        sys.stdin.buffer.read()     # returns when serve closes the pipe, or dies
        ended.set()

    threading.Thread(target=watch_parent, daemon=True).start()
    if worker.suspect:
        worker.run_once()
    else:
        worker.start()
        with contextlib.suppress(KeyboardInterrupt):
            ended.wait()
        worker.stop()
    store.close()


def limit_memory(device: str) -> None:
    """A job that takes ever more memory fails by itself, or is what the system ends first; the listeners stay."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    if device != "cuda":        # a GPU's driver takes address space by the hundred GB
        most = min([int(text) for text in (content(file) for file in MEMORY_FILES) if text.isdigit()]
                   + [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]) * 3 // 4
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))


MEMORY_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def content(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
