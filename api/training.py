"""`wetread train` and `wetread evaluate`: one row a model, the progress shown on a terminal or as JSON lines."""
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from data.errors import InputError

# name -> (training program, evaluation program)
MODELS = {"protocol": ("nlp.train_protocol", "nlp.evaluate_protocol")}


def row_of(name: str) -> tuple[str, str]:
    if name not in MODELS:
        raise InputError(f"NAME is '{name}', expected one of {', '.join(MODELS)}")
    return MODELS[name]


def train_model(name: str, out: Path, **options: Any) -> None:
    """Train into `out`; never over the shipped models."""
    program, _ = row_of(name)
    shipped = (Path(__file__).parent.parent / "data" / "models").resolve()
    if shipped in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} lies in the shipped models; train into another folder and promote it by hand")
    import_module(program).main(out=out, report=reporter(), **given(options))


def evaluate_model(name: str, out: Path | None, **options: Any) -> dict[str, Any]:
    return import_module(row_of(name)[1]).main(out=out, report=reporter(), **given(options))


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Only what was asked for: each program keeps its own defaults."""
    return {name: value for name, value in options.items() if value is not None}


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
