"""The command line. Every heavy import stands inside its command, so that `--help` answers at once."""
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from data.errors import InputError, WetreadError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Protocol suggestions and draft reports for neuroradiology. Not a medical device.")

model_app = typer.Typer(no_args_is_help=True, help="Which protocol model answers: the shipped one, or a version trained here.")
app.add_typer(model_app, name="model")
db_app = typer.Typer(no_args_is_help=True, help="The store's schema.")
app.add_typer(db_app, name="db")

bench_app = typer.Typer(no_args_is_help=True, help="Measure a served Wetread on this machine.")
app.add_typer(bench_app, name="bench")

Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Home = Annotated[Path, typer.Option(envvar="WETREAD_HOME", help="Folder that holds all Wetread keeps.")]
HOME = Path("wetread-home")
Database = Annotated[str | None, typer.Option("--db", help="postgresql://… instead of the SQLite file in HOME.")]
Out = Annotated[Path | None, typer.Option(help="File or folder to write to.")]


def main() -> None:
    """Run a command; coded errors become one line on standard error: exit code 1 for input, 2 for wrong use."""
    try:
        raise SystemExit(app(standalone_mode=False) or 0)
    except WetreadError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except typer.Abort:
        raise SystemExit(1) from None
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        # a wrong use that typer found; its classes have no name to catch by, since typer carries a copy of click
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context:
            print(context.get_help())
            raise SystemExit(2) from None
        wrong_use(f"{error.format_message().rstrip('.')}; {context.command_path if context else 'wetread'} --help shows what is right")


@app.command()
def serve(
    home: Home = HOME,
    host: Annotated[str, typer.Option(help="Address to bind; beyond loopback keys and peers are checked.")] = "127.0.0.1",
    http: int = 8080,
    mllp: int = 2575,
    dicom: int = 11112,
    db: Database = None,
    device: Device = "auto",
    outbox: Annotated[list[str] | None, typer.Option(help="NAME=HOST:PORT, an MLLP receiver of results; repeatable.")] = None,
) -> None:
    """Listen for orders, images and people until stopped."""
    from api.server import run
    from api.settings import read_settings

    run(read_settings(home, host=host, http=http, mllp=mllp, dicom=dicom, device=device,
                      **({"db": db} if db else {}), **({"outbox": destinations(outbox)} if outbox else {})))


@app.command()
def demo(
    home: Annotated[Path | None, typer.Option(help="Default: a new folder under the system's temporary folder.")] = None,
    http: int = 8080,
    mllp: int = 2575,
    dicom: int = 11112,
    device: Device = "auto",
    seed: int = 1,
    leave: Annotated[bool, typer.Option("--leave", help="Stop when the morning has been read, instead of serving on.")] = False,
) -> None:
    """Serve, and feed it a simulated morning: 20 orders over MLLP, 3 head CTs over DICOM."""
    from api.demo import run_demo

    run_demo(home, http=http, mllp=mllp, dicom=dicom, device=device, seed=seed, leave=leave)


@app.command()
def protocol(
    orders: Annotated[Path | None, typer.Argument(help="JSONL, or HL7 (.hl7).")] = None,
    text: Annotated[str | None, typer.Option(help="One order as text.")] = None,
    out: Out = None,
    book: Annotated[Path | None, typer.Option(help="A folder with another protocol book.")] = None,
    device: Device = "auto",
) -> None:
    """Suggest protocols: one JSON line an order."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")       # so small a model is slower on two threads when the cores are busy
    from data.book import BOOK_PATH, read_book
    from data.records import Order, as_json
    from nlp.suggest import Suggester

    if (orders is None) == (text is None):
        wrong_use("give ORDERS or --text, one of the two")
    given, failed = orders_from(orders) if orders else ([Order(id="1", text=text or "")], 0)
    suggester = Suggester.load(device=device_name(device), book=read_book(book or BOOK_PATH))
    write_lines(({"id": order.id, **as_json(found)} for order, found in
                 zip(given, suggester.suggest_many(given), strict=True)), out)
    raise typer.Exit(1 if failed else 0)


@app.command()
def draft(
    studies: Annotated[list[Path], typer.Argument(help="Each a study: DICOM folder or file, NIfTI, PNG or JPEG.")],
    order: Annotated[Path | None, typer.Option(help="The order: JSONL (one line) or HL7.")] = None,
    prior: Annotated[list[Path] | None,
                     typer.Option(help="An earlier study to compare with: the JSON that this command wrote of it; repeatable.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Plain text instead of JSON.")] = False,
    sr: Annotated[Path | None, typer.Option(help="Write a DICOM SR here (one study, from DICOM).")] = None,
    masks: Annotated[Path | None, typer.Option(help="Write each finding's mask here as NIfTI, named by study and finding.")] = None,
    decoder: Annotated[str, typer.Option(help="hf:FOLDER: your own Hugging Face causal model words the findings (docs/reports.md).")] = "",
    out: Out = None,
    device: Device = "auto",
) -> None:
    """Draft reports: one JSON line a study, in the order given."""
    if sr and len(studies) != 1:
        wrong_use("--sr goes with one study")
    if prior and len(studies) != 1:
        wrong_use("--prior goes with one study")
    priors = earlier_studies(prior or [])
    from api.drafts import draft_lines  # takes seconds: wrong use and a wrong --prior are told before

    given = orders_from(order)[0] if order else []
    if order and not given:
        raise InputError(f"{order} holds no order; write one JSON object a line, {{\"order_text\": \"…\"}}, or give an HL7 v2 order message")
    request = given[0] if given else None
    failed: list[str] = []
    lines = draft_lines(studies, request, device_name(device), sr, failed, decoder, priors, masks)
    if text:
        body = "\n\n".join(line["text"] for line in lines) + "\n"
        out.write_text(body) if out else sys.stdout.write(body)
    else:
        write_lines(({k: v for k, v in line.items() if k != "text"} for line in lines), out)
    raise typer.Exit(1 if failed else 0)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="protocol, findings, report, or a row of `wetread head`")],
    out: Annotated[Path | None, typer.Option(help="Folder for the model, its card and checkpoints; not with --from-store.")] = None,
    from_store: Annotated[bool, typer.Option("--from-store", help="protocol, report: learn from the desk's decisions or signatures.")] = False,
    data: Annotated[list[Path] | None, typer.Option(help="Your own material; default: what Wetread ships or simulates.")] = None,
    base: Annotated[str | None, typer.Option(help="protocol: a Hugging Face model, on disk or hub; heads, findings: a model's folder.")] = None,
    size: Annotated[int | None, typer.Option(help="findings, heads: simulated studies; report: sentences an epoch.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="findings: a folder of real head CT pictures with labels.csv to mix in.")] = None,
    epochs: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    minutes: Annotated[float | None, typer.Option(help="heads, findings: stop by the clock; findings with --base: 0 teaches the midline's "
                                                       "head alone.")] = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="heads: keep the encoder of --base as it is, of a detector all its first stage; "
                                                          "findings: its picture net.")] = False,
    real: Annotated[bool, typer.Option("--real", help="heads: learn from the row's public real images under --data, not from simulation.")] = False,
    workers: Annotated[int | None, typer.Option(help="heads, findings: processes that simulate and draw.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="heads, findings: cases or slices in a step; a GPU takes more.", min=1)] = None,
    home: Home = HOME,
    db: Database = None,
) -> None:
    """Train a model; the shipped one is never overwritten."""
    from api.training import known, train_model, train_on_decisions, train_on_signatures

    known(name)             # an unknown model is named before anything else is asked for
    if from_store:
        if name not in ("protocol", "report"):
            wrong_use("--from-store goes with protocol (decisions) and report (signatures): the desk decides on nothing else")
        learn = train_on_decisions if name == "protocol" else train_on_signatures
        print(learn(home, db, out=out, data=data, base=base, size=size, pictures=pictures, epochs=epochs, minutes=minutes, frozen=frozen or None,
                    real=real or None, workers=workers, batch=batch))
        return
    if out is None:
        wrong_use("give --out FOLDER for the model, or --from-store")
    train_model(name, out, data=data, base=base, size=size, pictures=pictures, epochs=epochs, seed=seed, device=device_name(device), resume=resume,
                minutes=minutes, frozen=frozen or None, real=real or None, workers=workers, batch=batch)


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="protocol, findings, report, reading, or a row of `wetread head`")],
    out: Annotated[Path | None,
                   typer.Option(help="Folder for figures, plots and the model card; heads: with weights in it, those are measured.")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="Your own material; default: what Wetread ships or simulates.")] = None,
    epochs: int | None = None,
    authors: Annotated[str | None, typer.Option(help="protocol: letters of the authors to leave out in turn; default all.")] = None,
    size: Annotated[int | None, typer.Option(help="findings, report, heads: held-out simulated studies; reading: reports.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="findings, report: a folder of real head CT pictures with labels.csv.")] = None,
    seed: int | None = None,
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="heads: processes that simulate.")] = None,
    base: Annotated[Path | None, typer.Option(help="heads: weights of simulation alone for the folds on real images; report: models.")] = None,
    graphs: Annotated[int | None, typer.Option(help="report: random findings graphs put into words; default 1600, its bar asks for 10000.")] = None,
) -> None:
    """Measure a model beside its floors; prints JSON, writes plots and the model card."""
    from api.training import evaluate_model

    figures = evaluate_model(name, out, data=data, epochs=epochs, authors=authors, size=size, pictures=pictures, seed=seed,
                             device=device_name(device), workers=workers, base=base, graphs=graphs)
    print(json.dumps(figures, indent=2))


@app.command()
def head(
    name: Annotated[str | None, typer.Argument(help="A head; without one all are listed with their figures.")] = None,
    inputs: Annotated[list[str] | None, typer.Argument(help="DICOM, NIfTI, .npz or JSON; NAME=FILE for a head of several channels.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for maps and results; one folder below it a patient.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of weights; default: the shipped ones.")] = None,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Also a map of how much eight passes with dropout differ.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Of a class, also a map and picture of what it was read from.")] = False,
    form: Annotated[str, typer.Option("--format", help="Of the list: text, json or markdown.")] = "text",
    device: Device = "auto",
) -> None:
    """List the imaging heads, or run one: masks, images and measures. Not a medical device."""
    from api.heads import as_lines, as_table, list_heads, run_head

    if form not in ("text", "json", "markdown"):
        wrong_use(f"--format takes text, json or markdown, not '{form}'")
    if name is None and form == "json":
        write_lines(list_heads(), out)
        return
    if name is None:
        sys.stdout.write((as_lines if form == "text" else as_table)(list_heads()))
        return
    if not inputs or out is None:
        wrong_use("give NAME INPUT… --out OUT; `wetread head` alone lists the heads")
    failed: list[str] = []
    write_lines(run_head(name, inputs, out, failed, device_name(device), model, 8 if uncertainty else 0, explain), None)
    raise typer.Exit(1 if failed else 0)


@app.command()
def simulate(
    what: Annotated[str, typer.Argument(help="orders, studies, gallery (a picture of every recipe) or comparison (simulated beside real pictures)")],
    out: Annotated[Path, typer.Option(help="A JSONL file (orders), a folder (studies, comparison) or a PNG (gallery).")],
    n: Annotated[int, typer.Option("-n", "--count", help="How many.")] = 10,
    seed: int = 1,
    recipe: Annotated[str, typer.Option(help="studies, comparison: a recipe of data/simulate/recipes.py; default: head CT as DICOM.")] = "",
    anatomy: Annotated[Path | None, typer.Option(help="With --recipe: a label map or a folder of them; default: the embedded MNI152 head.")] = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="With --recipe: heads, numbers and scanner settings training never sees.")] = False,
    format: Annotated[str, typer.Option(help="studies: nifti (the default of a recipe) or dicom (head CT without a recipe is always this).")] = "",
    channel: Annotated[str, typer.Option(help="comparison: the channel to compare, such as FLAIR.")] = "",
    real: Annotated[Path | None, typer.Option(help="comparison: real pictures: folder or zip of PNG/JPEG, NIfTI, DICOM folder.")] = None,
    strip: Annotated[str, typer.Option(help="comparison: N:I when each real picture is N tiles side by side; the I-th is meant.")] = "1:1",
    brain_only: Annotated[bool, typer.Option("--brain-only", help="comparison: the real pictures show no skull.")] = False,
    blur: Annotated[float, typer.Option(help="comparison: blur both by so many pixels of 128, to compare without resolution and noise.",
                                        min=0.0)] = 0.0,
) -> None:
    """Make seeded material with the truth known."""
    if n < 1:
        wrong_use("-n must be 1 or more")
    if what == "orders":
        from data.simulated_orders import simulate_orders

        write_lines(simulate_orders(n, seed), out)
    elif what == "studies" and not recipe:
        from api.demo import simulated_study

        if format not in ("", "dicom"):
            wrong_use(f"--format is '{format}', expected dicom: head CT without --recipe is written as DICOM; for NIfTI add --recipe ct_haemorrhage")
        if anatomy or held_out:
            wrong_use("--anatomy and --held-out go with --recipe; for head CT add --recipe ct_haemorrhage")
        for i in progress(range(n), "studies"):
            simulated_study(seed + i, out / f"study_{seed + i:04d}")
    elif what == "studies":
        from data.simulate.files import write_case
        from data.simulate.recipes import simulate as simulate_case

        for i in progress(range(n), "studies"):
            case = simulate_case(recipe, seed + i, anatomy=anatomy, held_out=held_out)
            write_case(case, out / f"{recipe}_{seed + i:04d}", format or "nifti")
    elif what == "gallery":
        from data.simulate.compare import gallery

        gallery(out, anatomy, seed)
    elif what == "comparison":
        from data.simulate.compare import compare

        if real is None or not recipe or not channel:
            wrong_use("comparison takes --recipe, --channel and --real")
        tiles = strip.split(":")
        if len(tiles) != 2 or not all(t.isdigit() for t in tiles) or not 1 <= int(tiles[1]) <= int(tiles[0]):
            wrong_use(f"--strip takes N:I, I from 1 to N, not '{strip}'")
        print(json.dumps(compare(recipe, channel, real, out, n, seed, anatomy, (int(tiles[0]), int(tiles[1]) - 1), brain_only, blur)))
    else:
        wrong_use(f"'{what}' cannot be simulated; say orders, studies, gallery or comparison")


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="HL7 files, JSONL with message_base64, DICOM files or folders.")],
    mllp: Annotated[str | None, typer.Option(help="HOST:PORT of an MLLP listener.")] = None,
    dicom: Annotated[str | None, typer.Option(help="HOST:PORT of a DICOM storage SCP.")] = None,
) -> None:
    """Send HL7 messages or DICOM files and print what was answered."""
    if (mllp is None) == (dicom is None):
        wrong_use("give --mllp HOST:PORT or --dicom HOST:PORT, one of the two")
    if mllp:
        from api.hl7.client import send_files

        answers = send_files(*address(mllp), paths)
    else:
        from api.dicom.client import send_dicom

        answers = send_dicom(*address(dicom or ""), paths)
    bad = 0
    for answer in answers:
        print(json.dumps(answer))
        if not answer["ok"]:
            bad += 1
            print(f"{answer['file']}: {answer['text'] or 'not acknowledged'}", file=sys.stderr)
    raise typer.Exit(1 if bad else 0)


@app.command()
def deidentify(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A DICOM file or folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder; files lie there as study/series/instance.dcm.")],
    secret: Annotated[Path | None, typer.Option(help="File that keeps new UIDs and pseudonyms the same from run to run; made when absent.")] = None,
) -> None:
    """Remove what identifies a patient (PS3.15 Basic Profile, no options); pictures that may show a name are left out and named.

    A thin-slice head scan still holds the face: deface it before you give it away.
    """
    from data.deidentify import deidentify_files, read_secret

    bad = 0
    for row in deidentify_files(source, out, read_secret(secret)):
        print(json.dumps(row))
        bad += not row["ok"]
    raise typer.Exit(1 if bad else 0)


@bench_app.command("day")
def bench_day(
    home: Annotated[Path | None, typer.Option(help="An empty folder; default: a new one under the system's temporary folder.")] = None,
    orders: int = 2000,
    studies: int = 200,
    head_cts: Annotated[int, typer.Option(help="How many of the studies are whole head CTs, each half a minute of drafting or less.")] = 12,
    minutes: Annotated[float, typer.Option(help="What the 24 hours are compressed to; the RIS is out for one of them.")] = 48.0,
    crashes: Annotated[int, typer.Option(help="How often the server is killed (kill -9) and started again.")] = 2,
    seed: int = 1,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Replay a simulated day against a served Wetread: orders, changes, cancels, merges, studies, an outage, crashes; then account for all."""
    import tempfile

    from rich.console import Console

    from api.bench_day import run_day
    from api.day_accounts import show

    home = home or Path(tempfile.mkdtemp(prefix="wetread-day-"))
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 150)
    figures = run_day(home, orders=orders, studies=studies, head_cts=head_cts, minutes=minutes, crashes=crashes, seed=seed, device=device,
                      say=lambda words: console.print(words))
    show(console, figures)
    write_lines([figures], out)
    if figures["unaccounted"]:
        raise typer.Exit(1)


@bench_app.command("queue")
def bench_queue(
    home: Annotated[Path | None, typer.Option(help="An empty folder; default: a new one under the system's temporary folder.")] = None,
    rows: Annotated[int, typer.Option(help="Messages that wait when the server starts.")] = 100_000,
    device: Device = "auto",
) -> None:
    """How long a server takes to start, and how much memory, with many messages waiting: a line of JSON, an empty server beside it."""
    import tempfile

    from api.bench_queue import run_queue

    write_lines([run_queue(home or Path(tempfile.mkdtemp(prefix="wetread-queue-")), rows, device)], None)


@bench_app.command("decoder")
def bench_decoder(repeats: int = 5, out: Out = None) -> None:
    """CPU seconds and memory of 60 words at R2Gen's published shape, fp32 and int8, beside Hugging Face and R2Gen's own loop: a line of JSON."""
    from vision.bench_decoder import bench_decoder as measure
    from vision.bench_decoder import peak_memory

    write_lines([{**measure(repeats=repeats), "memory": peak_memory()}], out)


@db_app.command("upgrade")
def db_upgrade(home: Home = HOME, db: Database = None) -> None:
    """Bring the store's schema up to this version."""
    from api.settings import read_settings
    from api.store import Store

    settings = read_settings(home, **({"db": db} if db else {}))
    Store.open(settings.db, settings.home, upgrade=True).close()
    print("schema is up to date")


@app.command()
def doctor(
    home: Home = HOME,
    http: int = 8080,
    mllp: int = 2575,
    dicom: int = 11112,
    db: Database = None,
) -> None:
    """Say in words what keeps Wetread from working here."""
    from api.doctor import examine

    checks = examine(home, db, {"HTTP": http, "MLLP": mllp, "DICOM": dicom})
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.words}")
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@app.command()
def automation(
    action: Annotated[str | None, typer.Argument(help="stop or start; without it, only say how it stands.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept with who and when.")] = "",
    home: Home = HOME,
    db: Database = None,
) -> None:
    """The kill switch: stop acceptance without a person at once, also in a running server, or let it run again."""
    from api.settings import read_settings
    from api.store import Store
    from api.training import os_user
    from api.workflow import Desk

    if action not in (None, "stop", "start"):
        wrong_use(f"'{action}' is no step of automation; say stop or start")
    settings = read_settings(home, **({"db": db} if db else {}))
    store = Store.open(settings.db, settings.home)
    desk = Desk(store, settings)
    print(json.dumps(desk.switch_automation(action == "start", os_user(), reason) if action else desk.automation()))
    store.close()


@app.command()
def monitor(
    home: Home = HOME,
    db: Database = None,
    weeks: Annotated[int, typer.Option(min=1, max=520, help="How many weeks back.")] = 26,
    reference: Annotated[str, typer.Option(help="First of the four weeks to compare with, 2026-W31; default: the first there are.")] = "",
    out: Out = None,
) -> None:
    """Drift of words, protocols, overrides and calibration by week, and what to do; --out FOLDER takes monitor.json and monitor.png."""
    from api.monitor import in_words, plot
    from api.monitor import monitor as watch
    from api.settings import read_settings
    from api.store import Store

    settings = read_settings(home, **({"db": db} if db else {}))
    store = Store.open(settings.db, settings.home)
    try:
        figures = watch(store, weeks, reference)
    finally:
        store.close()
    print(in_words(figures))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "monitor.json").write_text(json.dumps(figures, indent=1) + "\n")
        (out / "monitor.png").write_bytes(plot(figures))


@model_app.command("list")
def model_list(home: Home = HOME, db: Database = None) -> None:
    """Versions with their figures, which one answers, and who changed that when; as JSON."""
    on_models(home, db, lambda desk, user: desk.models())


@model_app.command("promote")
def model_promote(version: str, home: Home = HOME, db: Database = None) -> None:
    """Let VERSION (or shipped) answer from the next suggestion on; a running server needs no restart."""
    on_models(home, db, lambda desk, user: desk.promote_model(version, user))


@model_app.command("rollback")
def model_rollback(home: Home = HOME, db: Database = None) -> None:
    """Let the version answer again that did before the last promotion."""
    on_models(home, db, lambda desk, user: desk.roll_back_model(user))


@model_app.command("shadow")
def model_shadow(
    version: Annotated[str | None, typer.Argument()] = None,
    off: Annotated[bool, typer.Option("--off", help="End shadow mode.")] = False,
    home: Home = HOME,
    db: Database = None,
) -> None:
    """Let VERSION answer beside the shown model, stored for `wetread monitor` and shown to nobody."""
    if (version is None) != off:
        wrong_use("give VERSION or --off, one of the two")
    on_models(home, db, lambda desk, user: desk.shadow_model(version or "", user))


def on_models(home: Path, db: str | None, step: Any) -> None:
    on_desk(home, db, lambda desk, user: print(json.dumps(step(desk, user), indent=1)))


def on_desk(home: Path, db: str | None, step: Any) -> None:
    """One step by the person at this machine, on a store that may be served at the same time."""
    from api.settings import read_settings
    from api.store import Store
    from api.training import os_user
    from api.workflow import Desk

    settings = read_settings(home, **({"db": db} if db else {}))
    store = Store.open(settings.db, settings.home)
    try:
        step(Desk(store, settings), os_user())
    finally:
        store.close()


@app.command()
def replay(
    kind: Annotated[str | None, typer.Argument(help="outbox, message or job; without it the dead letters are listed.")] = None,
    ids: Annotated[list[str] | None, typer.Argument(help="Their numbers.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="outbox: every dead letter.")] = False,
    to: Annotated[str, typer.Option(help="outbox --failed: of this destination alone.")] = "",
    home: Home = HOME,
    db: Database = None,
) -> None:
    """Send results once more, or apply kept messages again; alone, list what failed as JSON lines."""
    from api.connection_steps import KINDS

    if kind is not None and kind not in KINDS:
        wrong_use(f"replay takes {', '.join(KINDS)}, not '{kind}'")
    if (kind is not None and bool(ids) == failed) or (failed and kind != "outbox"):
        wrong_use("give the numbers, or outbox --failed")
    on_desk(home, db, lambda desk, user: again(desk, user, kind, ids or [], to))


def again(desk: Any, user: str, kind: str | None, ids: list[str], to: str) -> None:
    if kind is None:
        found = desk.connections()
        write_lines(({"what": what, **row} for what in ("outbox", "messages", "jobs") for row in found[what]), None)
    elif not ids:
        print(f"{desk.replay_failed(to, user)} messages are queued again")
    else:
        bad = 0
        for id in ids:
            try:
                desk.replay(kind, id, user)
                print(f"{kind} {id} is queued again")
            except WetreadError as error:
                bad += 1
                print(f"{kind} {id}: {error}", file=sys.stderr)
        raise SystemExit(1 if bad else 0)


@app.command("user")
def add_user(
    name: str,
    home: Home = HOME,
    db: Database = None,
    role: Annotated[str, typer.Option(help="radiologist, technologist or administrator")] = "radiologist",
    password: Annotated[str, typer.Option(prompt=True, confirmation_prompt=True, hide_input=True, envvar="WETREAD_PASSWORD")] = "",
) -> None:
    """Add a person who may sign in."""
    from api.security import hash_password
    from api.settings import read_settings
    from api.store import Store

    settings = read_settings(home, **({"db": db} if db else {}))
    store = Store.open(settings.db, settings.home)
    store.add_user(name, hash_password(password), role)
    store.close()
    print(f"{name} may sign in as {role}")


@app.command("key")
def add_key(name: str, home: Home = HOME, db: Database = None) -> None:
    """Make an API key for a system; it is shown once."""
    from api.security import new_api_key
    from api.settings import read_settings
    from api.store import Store

    settings = read_settings(home, **({"db": db} if db else {}))
    store = Store.open(settings.db, settings.home)
    key, key_hash = new_api_key()
    store.add_api_key(name, key_hash)
    store.close()
    print(key)


def wrong_use(message: str) -> NoReturn:
    print(InputError(message), file=sys.stderr)
    raise SystemExit(2)


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        wrong_use(f"'{text}' is no HOST:PORT")
    return host, int(port)


def destinations(texts: list[str]) -> tuple[Any, ...]:
    """NAME=HOST:PORT rows to outbox destinations."""
    from api.settings import Destination

    rows = []
    for text in texts:
        name, _, rest = text.partition("=")
        if not name or not rest:
            wrong_use(f"--outbox takes NAME=HOST:PORT, not '{text}'")
        rows.append(Destination(name, *address(rest)))
    return tuple(rows)


def device_name(device: str) -> str:
    """`auto` becomes cuda when there is a GPU, else cpu."""
    if device not in ("auto", "cpu", "cuda"):
        wrong_use(f"--device takes auto, cpu or cuda, not '{device}'")
    if device == "cpu":
        return "cpu"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, but torch sees no GPU; use --device auto, or install a CUDA build of torch")
    return "cuda" if torch.cuda.is_available() else "cpu"


def earlier_studies(paths: list[Path]) -> list[Any]:
    """(file, earlier study) of each line of each file; raises InputError."""
    from api.prior_studies import read_priors

    return [(path, earlier) for path in paths for earlier in read_priors(path)]


def orders_from(path: Path) -> tuple[list[Any], int]:
    """Orders of a JSONL or HL7 file, and how many rows failed (each named on standard error)."""
    from api.order_files import read_order_file

    orders, errors = read_order_file(path)
    for error in errors:
        print(error, file=sys.stderr)
    if not orders and errors:
        raise SystemExit(1)
    return orders, len(errors)


def write_lines(rows: Any, out: Path | None) -> None:
    if out is None:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    if out.exists() and not out.is_file():          # a pipe or /dev/null is written to; a file put in its place would take the device away
        with out.open("w") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".part")     # a stopped run leaves no half file under the asked name
    with partial.open("w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, out)


def progress(items: Any, label: str) -> Iterator[Any]:
    """A rich bar on a terminal, JSON lines elsewhere."""
    total = len(items)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, description=label, console=Console(stderr=True), total=total)
        return
    for i, item in enumerate(items, 1):
        yield item
        print(json.dumps({"done": i, "of": total, "what": label}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
