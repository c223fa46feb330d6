"""`wetread train` and `wetread evaluate`: one row a model, the progress shown on a terminal or as JSON lines."""
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from data.errors import InputError

# name -> (training program, evaluation program, what `size` is called there)
MODELS = {
    "protocol": ("nlp.train_protocol", "nlp.evaluate_protocol", None),
    "findings": ("vision.train_findings", "vision.evaluate_findings", "studies"),
    "report": ("vision.train_report", "vision.evaluate_report", "graphs"),
}


def row_of(name: str) -> tuple[str, str, str | None]:
    if name not in MODELS:
        raise InputError(f"NAME is '{name}', expected one of {', '.join(MODELS)}")
    return MODELS[name]


def train_model(name: str, out: Path, *, size: int | None = None, **options: Any) -> None:
    program, _, size_name = row_of(name)
    shipped = (Path(__file__).parent.parent / "data" / "models").resolve()
    if shipped in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} lies in the shipped models; train into another folder and promote it by hand")
    import_module(program).main(out=out, report=reporter(), **given(options, **({size_name: size} if size_name else {})))


def evaluate_model(name: str, out: Path | None, *, size: int | None = None, pictures: Path | None = None, **options: Any) -> dict[str, Any]:
    _, program, size_name = row_of(name)
    extra = {"studies": size, "pictures": pictures} if size_name else {}
    if not size_name:
        options.pop("seed")
    return import_module(program).main(out=out, report=reporter(), **given(options, **extra))


def given(*options: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Only what was asked for: each program keeps its own defaults."""
    return {k: v for row in (*options, more) for k, v in row.items() if v is not None}


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
