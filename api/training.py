"""`wetread train` and `wetread evaluate`: one row a model, the progress shown on a terminal or as JSON lines."""
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from data.errors import InputError

# name -> (training program, evaluation program, what `size` is called in each, options the programs do not take)
MODELS: dict[str, tuple[str, str, str, str, tuple[str, ...]]] = {
    "protocol": ("nlp.train_protocol", "nlp.evaluate_protocol", "", "", ("size", "pictures")),
    "findings": ("vision.train_findings", "vision.evaluate_findings", "studies", "studies", ("authors", "epochs")),
    "report": ("vision.train_report", "vision.evaluate_report", "graphs", "studies", ("authors", "epochs", "pictures")),
}


def train_model(name: str, out: Path, **options: Any) -> None:
    """Train into `out`; never over the shipped models."""
    program, _, size_name, _, _ = row_of(name)
    shipped = (Path(__file__).parent.parent / "data" / "models").resolve()
    if shipped in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} lies in the shipped models; train into another folder and promote it by hand")
    taken = ("pictures",) if name == "report" else MODELS["protocol"][4] if name == "protocol" else ()
    import_module(program).main(out=out, report=reporter(), **given(name, options, size_name, taken))


def evaluate_model(name: str, out: Path | None, **options: Any) -> dict[str, Any]:
    _, program, _, size_name, refused = row_of(name)
    figures: dict[str, Any] = import_module(program).main(out=out, report=reporter(), **given(name, options, size_name, refused))
    return figures


def row_of(name: str) -> tuple[str, str, str, str, tuple[str, ...]]:
    if name not in MODELS:
        raise InputError(f"NAME is '{name}', expected one of {', '.join(MODELS)}")
    return MODELS[name]


def given(name: str, options: dict[str, Any], size_name: str, refused: tuple[str, ...]) -> dict[str, Any]:
    """Only what was asked for: each program keeps its own defaults. Raises InputError for an option the model has no use for."""
    asked = {option: value for option, value in options.items() if value is not None}
    for option in refused:
        if option in asked:
            raise InputError(f"--{option} has no meaning for {name}; leave it out")
    if "size" in asked:
        asked[size_name] = asked.pop("size")
    if name != "protocol" and "data" in asked:
        if len(asked["data"]) != 1:
            raise InputError(f"--data is given {len(asked['data'])} times, {name} takes one folder")
        asked["data"] = asked["data"][0]
    return asked


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
