"""`wetread serve`: HTTP, MLLP and DICOM listeners in this process, the workers (and their models) in a child.

The child keeps inference from slowing an acknowledgement, and a model that dies takes no listener with it.
"""
import asyncio
import logging
import os
import signal
import socket
import sys
import threading

from api.app import create_app
from api.cds.child import ChildSuggester
from api.cds.prompt import Prompt
from api.dicom.scp import DicomServer
from api.hl7.mllp import Listener
from api.http_limits import http_server
from api.inference import LateReporter, LateSuggester
from api.keeper import Keeper
from api.model_versions import folder_in_use
from api.settings import Settings
from api.store import Store
from api.workflow import Desk
from data.errors import StoreError

log = logging.getLogger("wetread.server")


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; raises StoreError when a port is taken or the store cannot be written."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)
    # one thread a model: the worker has two at work, and on busy cores two OpenMP threads are slower than one
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.setswitchinterval(0.0005)   # the thread that commits messages must not wait 5 ms for its turn to answer
    settings.home.mkdir(parents=True, exist_ok=True)
    for name, host, port in (("HTTP", settings.host, settings.http), ("DICOM", settings.host, settings.dicom),
                             *(("MLLP", site.host, site.port) for site in settings.listeners)):
        require_free(name, host, port)
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    store = Store.open(settings.db, settings.home)
    # the worker child drafts, so the reporter is never loaded here; this process suggests only for direct questions over REST
    desk = Desk(store, settings, LateSuggester(settings.device, lambda: folder_in_use(store, "shown")), LateReporter(settings.device))
    listeners = [Listener(store, settings, site) for site in settings.listeners]
    dicom = DicomServer(desk, settings)
    app = create_app(desk, settings)
    model, rules = ChildSuggester(settings.device, folder=lambda: folder_in_use(store, "shown")), ChildSuggester(model=False)
    app.state.prompt = Prompt(model, rules)
    app.state.listeners = listeners
    http = http_server(app, settings.host, settings.http)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for listener in listeners:
        await listener.start()
    dicom.start()
    # uvicorn installs its own signal handlers; ours come after, so that one signal stops all three listeners
    http_task = asyncio.create_task(http.serve())
    while not http.started and not http_task.done():
        await asyncio.sleep(0.02)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    keeper = Keeper(store, settings)
    app.state.worker_models = keeper.models
    keeping = asyncio.create_task(keeper.run(stopping))
    threading.Thread(target=warm, args=(desk, rules), daemon=True).start()     # the first CDS call must not wait for them
    print(f"ready http://{settings.host}:{settings.http} mllp://{settings.host}:{settings.mllp} "
          f"dicom://{settings.host}:{settings.dicom} (AE {settings.ae_title})", flush=True)
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({waiting, http_task}, return_when=asyncio.FIRST_COMPLETED)
    stopping.set()
    http.should_exit = True
    for listener in listeners:
        await listener.stop()
    await asyncio.to_thread(dicom.stop)
    await asyncio.gather(http_task, keeping, waiting)
    await app.state.fetcher.close()
    for child in (model, rules):
        child.stop()
    store.close()


def warm(desk: Desk, rules: ChildSuggester) -> None:
    assert desk.book.protocols
    rules.warm()


def require_free(name: str, host: str, port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise StoreError(f"{name} port {port} on {host} cannot be opened ({error.strerror}); stop what listens there "
                         f"or choose another with --{name.lower()}") from None
