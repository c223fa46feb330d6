"""`wetread train` and `wetread evaluate`: one row a model, or a row of HEADS; the progress shown on a terminal or as JSON lines."""
import datetime
import getpass
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from data.errors import InputError

OF_HEADS = ("minutes", "frozen", "real", "workers", "batch")    # options of the heads' training; all but `real` are of the head CT nets' too
# name -> (training program, evaluation program, what `size` is called in each, options the programs do not take)
MODELS: dict[str, tuple[str, str, str, str, tuple[str, ...]]] = {
    "protocol": ("nlp.train_protocol", "nlp.evaluate_protocol", "", "", ("size", "pictures", "epochs")),
    "findings": ("vision.train_findings", "vision.evaluate_findings", "studies", "studies", ("authors", "epochs")),
    "mr_findings": ("vision.train_mr_findings", "vision.evaluate_mr_findings", "studies", "studies", ("authors", "epochs", "pictures")),
    "reading": ("", "nlp.evaluate_reading", "", "texts", ("authors", "epochs", "pictures")),
    "report": ("vision.train_report", "vision.evaluate_report", "graphs", "studies", ("authors", "epochs")),
}
HEAD_REFUSED = ("authors", "pictures")      # options that the heads of vision.heads.HEADS have no use for


def train_model(name: str, out: Path, **options: Any) -> None:
    """Train into `out`; never over the shipped models."""
    shipped = (Path(__file__).parent.parent / "data" / "models").resolve()
    if shipped in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} lies in the shipped models; train into another folder and promote it by hand")
    if name not in MODELS:
        train_head(name, out, **options)
        return
    program, _, size_name, _, _ = row_of(name)
    if not program:
        raise InputError(f"{name} has nothing to train; run `wetread evaluate {name}`")
    options = {k: v for k, v in options.items() if k not in OF_HEADS or v is not None}
    for option in OF_HEADS:
        if option in options and not (name == "findings" and option != "real"):
            raise InputError(f"--{option} has no meaning for {name}; leave it out")
    taken = ("pictures",) if name == "report" else ("size", "pictures") if name == "protocol" else ()
    import_module(program).main(out=out, report=reporter(), **given(name, options, size_name, taken))


def train_head(name: str, out: Path, **options: Any) -> None:
    """A row of HEADS; one that is part of another model says which."""
    from vision.heads import head_named

    head = head_named(name)
    if head.programs:
        if head.weights and head.programs[0]:
            raise InputError(f"{name} is part of the {head.weights} model; run `wetread train {head.weights}`")
        raise InputError(f"{name} has nothing to train; run `wetread evaluate {name}`")
    base = options.pop("base", None)
    asked = given(name, options, "size", HEAD_REFUSED)
    import_module("vision.train_head").main(name, out=out, report=reporter(), base=Path(base) if base else None, **asked)


def evaluate_head(name: str, out: Path | None, **options: Any) -> dict[str, Any]:
    from vision.heads import head_named

    head = head_named(name)
    if options.pop("graphs", None):
        raise InputError(f"--graphs has no meaning for {name}; leave it out")
    if head.programs and head.weights and head.programs[1] == MODELS[head.weights][1]:
        raise InputError(f"{name} is part of the {head.weights} model; run `wetread evaluate {head.weights}`")
    asked = given(name, options, "size", HEAD_REFUSED)
    program = head.programs[1] if head.programs else "vision.evaluate_head"
    for option in ("base", "epochs", "workers") if head.programs else ():
        if asked.pop(option, None):
            raise InputError(f"--{option} has no meaning for {name}; leave it out")
    figures: dict[str, Any] = import_module(program).main(name, out=out, report=reporter(), date=today(), **asked)
    return figures


def train_on_decisions(home: Path, db: str | None, **options: Any) -> str:
    """Train a candidate on the store's decisions; the comparison, and how to promote it, in words."""
    from api.learning import comparison, train_from_store
    from api.settings import read_settings
    from api.store import Store
    from data.book import read_book

    if asked := [name for name, value in options.items() if value is not None]:
        raise InputError(f"--{asked[0].replace('_', '-')} has no meaning beside --from-store; leave it out")
    settings = read_settings(home, **({"db": db} if db else {}))
    store = Store.open(settings.db, settings.home)
    try:
        figures = train_from_store(store, read_book(), os_user(), reporter())
    finally:
        store.close()
    exported, version = figures["exported"], figures["version"]
    left_out = "".join(f"; left out, {why}: {count}" for why, count in exported["left out"].items())
    return "\n".join([
        f"{exported['orders']} decided orders, in {home / 'learning' / 'decisions.jsonl'}{left_out}",
        f"measured on {figures['held_out']} of them that the candidate did not learn from:", "", comparison(figures), "",
        *([f"{figures['in_use']} answers now; the table compares with the shipped model."] if figures["in_use"] != "shipped" else ()),
        f"Nothing has changed yet. To let it answer: wetread model promote {version} --home {home}",
        f"To watch it beside the shown model first: wetread model shadow {version} --home {home}"])


def train_on_signatures(home: Path, db: str | None, **options: Any) -> str:
    """Teach a decoder the sentences that were signed; what came of it, in words."""
    from api.report_learning import train_from_signatures
    from api.settings import read_settings
    from api.store import Store

    if asked := [name for name, value in options.items() if value is not None]:
        raise InputError(f"--{asked[0].replace('_', '-')} has no meaning beside --from-store; leave it out")
    settings = read_settings(home, **({"db": db} if db else {}))
    store = Store.open(settings.db, settings.home)
    try:
        done = train_from_signatures(store, reporter())
    finally:
        store.close()
    left_out = "".join(f"; left out, {why}: {count}" for why, count in done["exported"]["left out"].items())
    return "\n".join([f"{done['exported']['sentences']} signed sentences, in {home / 'learning' / 'sentences.jsonl'}{left_out}",
                      json.dumps(done["figures"]), f"A decoder that learnt them lies in {done['folder']}; the shipped one still writes."])


def evaluate_model(name: str, out: Path | None, **options: Any) -> dict[str, Any]:
    if name not in MODELS:
        return evaluate_head(name, out, **options)
    for option in ("workers",) if name == "report" else ("workers", "base", "graphs"):
        if options.get(option):
            raise InputError(f"--{option} has no meaning for {name}; leave it out")
        options.pop(option, None)
    _, program, _, size_name, refused = row_of(name)
    if name == "findings":
        options |= {"date": today()}
    if name == "report":
        from api.bench_report import seconds_to_stored_draft

        options |= {"stored_s": seconds_to_stored_draft}
        for home in options.get("data") or ():
            if (home / "wetread.db").is_file():
                keep_signed_reports(home)
    figures: dict[str, Any] = import_module(program).main(out=out, report=reporter(), **given(name, options, size_name, refused))
    return figures


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def keep_signed_reports(home: Path) -> None:
    """A HOME is measured on by its signed reports, as they are now."""
    from api.report_learning import export_reports
    from api.settings import read_settings
    from api.store import Store

    store = Store.open(read_settings(home).db, home)
    try:
        export_reports(store)
    finally:
        store.close()


def known(name: str) -> None:
    """Raises InputError for a name that is neither a model's nor a head's."""
    if name not in MODELS:
        from vision.heads import HEADS

        if name not in HEADS:
            raise InputError(f"NAME is '{name}', expected one of {', '.join((*MODELS, *HEADS))}")


def row_of(name: str) -> tuple[str, str, str, str, tuple[str, ...]]:
    if name not in MODELS:
        raise InputError(f"NAME is '{name}', expected one of {', '.join(MODELS)}, or a head of `wetread head`")
    return MODELS[name]


def given(name: str, options: dict[str, Any], size_name: str, refused: tuple[str, ...]) -> dict[str, Any]:
    """Only what was asked for: each program keeps its own defaults. Raises InputError for an option the model has no use for."""
    asked = {option: value for option, value in options.items() if value is not None}
    if name == "protocol" and "data" in asked:
        asked["data"] = [file for path in asked["data"] for file in jsonl_files(path)]
    for option in refused:
        if option in asked:
            raise InputError(f"--{option} has no meaning for {name}; leave it out")
    if "size" in asked:
        asked[size_name] = asked.pop("size")
    if name != "protocol" and "data" in asked:
        if len(asked["data"]) != 1:
            raise InputError(f"--data is given {len(asked['data'])} times, {name} takes one folder; give one")
        asked["data"] = asked["data"][0]
    return asked


def jsonl_files(path: Path) -> list[Path]:
    """A file of labelled orders, or all *.jsonl of a folder."""
    found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise InputError(f"--data {path} is no file and no folder with *.jsonl; give labelled orders, as data/authored_orders/README.md describes")
    return found


def os_user() -> str:
    """Who gives a command, for the record."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):     # a container without that user in its passwd
        return f"cli:{os.getuid()}"


def reporter() -> Callable[..., None]:
    """report(step, of, **figures): a line a step; a rich bar on a terminal."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                       console=Console(stderr=True))
        bar.start()
        task = bar.add_task("training")

        def show(step: int, of: int, **figures: Any) -> None:
            words = " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
            bar.update(task, completed=step, total=of, description=words)
            if step >= of:
                bar.refresh()

        import atexit

        atexit.register(bar.stop)
        return show

    def line(step: int, of: int, **figures: Any) -> None:
        print(json.dumps({"step": step, "of": of, **figures}), file=sys.stderr, flush=True)

    return line
