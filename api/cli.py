"""The command line. Every heavy import stands inside its command, so that `--help` answers at once."""
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from data.errors import InputError, WetreadError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Protocol suggestions and draft reports for neuroradiology. Not a medical device.")

Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Out = Annotated[Path | None, typer.Option(help="File or folder to write to.")]


def main() -> None:
    """Run a command; coded errors become one line on standard error and exit code 1."""
    try:
        app()
    except WetreadError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


@app.command()
def protocol(
    orders: Annotated[Path | None, typer.Argument(help="JSONL, or HL7 (.hl7).")] = None,
    text: Annotated[str | None, typer.Option(help="One order as text.")] = None,
    out: Out = None,
    book: Annotated[Path | None, typer.Option(help="A folder with another protocol book.")] = None,
    device: Device = "auto",
) -> None:
    """Suggest protocols: one JSON line an order."""
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
def train(
    name: Annotated[str, typer.Argument(help="protocol")],
    out: Annotated[Path, typer.Option(help="Folder for the model, its card and checkpoints.")],
    data: Annotated[list[Path] | None, typer.Option(help="Your own material; default: what Wetread ships or simulates.")] = None,
    base: Annotated[str | None, typer.Option(help="protocol: a Hugging Face model on disk or hub to start from.")] = None,
    epochs: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
) -> None:
    """Train a model; the shipped one is never overwritten."""
    from api.training import train_model

    train_model(name, out, data=data, base=base, epochs=epochs, seed=seed, device=device_name(device), resume=resume)


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="protocol")],
    out: Annotated[Path | None, typer.Option(help="Folder for figures, plots and the model card.")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="Your own material; default: what Wetread ships or simulates.")] = None,
    epochs: int | None = None,
    authors: Annotated[str | None, typer.Option(help="Letters of the authors to leave out in turn; default all.")] = None,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Measure a model beside its floors; prints JSON, writes plots and the model card."""
    from api.training import evaluate_model

    figures = evaluate_model(name, out, data=data, epochs=epochs, authors=authors, seed=seed, device=device_name(device))
    print(json.dumps(figures, indent=2))


def wrong_use(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


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
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".part")     # a stopped run leaves no half file under the asked name
    with partial.open("w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, out)


if __name__ == "__main__":
    main()
