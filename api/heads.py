"""`wetread head`: the list of all heads with their figures, and one head on a patient's images."""
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import ImageError, InputError, OutputError, WetreadError
from data.images import open_study, read_nifti
from data.records import Study, Volume

Opened = Callable[[], tuple[dict[str, Volume], dict[str, Any]]]       # channels and numbers of one patient


def list_heads() -> list[dict[str, Any]]:
    """One row a head: bar, measured figures, floor, date, command."""
    from vision.heads import HEADS

    return [row_of(head) for head in HEADS.values()]


def row_of(head: Any) -> dict[str, Any]:
    """`measured`: part of the test -> figure -> [value, low, high]; `floor`: method -> the same; `floor_better`: all that a floor does better."""
    figures = figures_of(head)
    parts = {name: part for name, part in figures.items() if isinstance(part, dict) and "head" in part}
    several = sum(bool(part.get("floors")) for part in parts.values()) > 1
    measured = {name: figures_shown(head, part["head"]) | derived(part) for name, part in parts.items()}
    floor = {f"{title}, {name}" if several else title: figures_shown(head, value)
             for name, part in parts.items() for title, value in part.get("floors", {}).items()}
    own = figures.get("command") or f"wetread evaluate {head.weights or head.name}"
    return {"name": head.name, "what": head.what, "bar": head.bar, "published": head.published, "metric": head.metric,
            "measured": {name: kept for name, kept in measured.items() if kept}, "floor": {title: kept for title, kept in floor.items() if kept},
            "floor_better": floor_better(parts), "date": figures.get("date", ""), "command": own,
            "commands": {name: [part.get("command", own), part.get("date", figures.get("date", ""))] for name, part in parts.items()},
            "taught_by": figures.get("taught_by", ""), "weights": head.name == "triage" or (head.folder / "model.safetensors").exists()}


def figures_shown(head: Any, figures: dict[str, Any]) -> dict[str, list[float]]:
    """The row's figure and the parts that its bar names."""
    return {key: figures[key] for key in (head.metric, *head.parts) if figures.get(key)}


def derived(part: dict[str, Any]) -> dict[str, list[float]]:
    """Figures of a part of the test that are no score of a case."""
    found: dict[str, list[float]] = {}
    if judged := part.get("frozen segmenter"):
        found["Dice of the segmenter, share of that on the real image"] = [judged["share"]]
    if effect := part.get("treatment effect"):
        found |= {"mL that treatment saves": effect["predicted_ml"], "as simulated": effect["simulated_ml"],
                  "correlation of the two": effect["correlation"]}
    return found


def floor_better(parts: dict[str, Any]) -> list[dict[str, Any]]:
    from vision.metrics import is_better

    return [{"part": name, "method": title, "figure": key, "head": own[0], "floor": value[key][0]}
            for name, part in parts.items() for title, value in part.get("floors", {}).items()
            for key, own in part["head"].items() if value.get(key) and is_better(key, value[key][0], own[0])]


def figures_of(head: Any) -> dict[str, Any]:
    """figures.json beside the weights; those of the head CT model stand in its card, and what the row's own evaluation measured beside it."""
    from vision.heads import WEIGHTS

    own, card = WEIGHTS / head.name / "figures.json", head.folder / "card.json"
    found: dict[str, Any] = json.loads(own.read_text()) if own.exists() else {}
    if head.weights and card.exists():
        found |= findings_figures(head.name, json.loads(card.read_text())["figures"])
    return found


def findings_figures(name: str, card: dict[str, Any]) -> dict[str, Any]:
    """The rows that are parts of the head CT model, from its card."""
    made = {"date": card.get("date", ""), "command": card.get("command", "")}
    if name == "ct_haemorrhage_outlines":
        return {"simulated": card["simulated"]["outlines"], **made} if "outlines" in card.get("simulated", {}) else {}
    found: dict[str, Any] = {}
    for real, words in (("head_ct", "five folds"), ("phe_sich", "{groups} patients of one fold")):
        if figures := card.get("picture net, five folds", {}).get(real):
            grey = figures["floor_auc_mean_grey"]
            found[f"real {real}, {words.format(**figures)}"] = {
                "cases": figures["pictures"], "head": {"auc": [figures["auc"], *figures["auc_95"]], "accuracy": [figures["accuracy"]]},
                "floors": {"mean grey": {"auc": [max(grey, 1 - grey)]}, "the commoner answer": {"accuracy": [figures["floor_accuracy_constant"]]}},
                **made}
    if whole := card.get("simulated", {}).get("findings", {}).get("intracranial_haemorrhage"):
        found["simulated"] = {"head": {"auc": [whole["auc"]], "accuracy": [whole["accuracy"]]},
                              "floors": {"the commoner answer": {"accuracy": [whole["floor_accuracy_constant"]]}}, **made}
    return found


def as_lines(rows: list[dict[str, Any]]) -> str:
    def short(metric: str, figures: dict[str, list[float]]) -> str:
        return ", ".join(("" if key == metric else f"{key} ") + f"{value[0]:.3g}" for key, value in figures.items())

    lines = []
    for row in rows:
        measured = "; ".join(f"{name}: {short(row['metric'], value)}" for name, value in row["measured"].items()) or "not trained yet"
        floor = "; ".join(f"{name} {short(row['metric'], value)}" for name, value in row["floor"].items()) or "-"
        measured += "" if row["weights"] else " (no weights ship)"
        lines += [f"{row['name']}  {row['what']}", f"    bar       {row['bar']}" + (f" (published: {row['published']})" if row["published"] else ""),
                  f"    measured  {row['metric']}: {measured}", f"    floor     {floor}",
                  *(f"    command   {words}" for words in commands_of(row, "  ")),
                  *([f"    taught by {row['taught_by']}"] if row["taught_by"] else [])]
    return "\n".join(lines) + "\n"


def commands_of(row: dict[str, Any], gap: str, quote: str = "") -> list[str]:
    """Each command once, with its date; where there are several, after the parts that it made."""
    made: dict[tuple[str, str], list[str]] = {}
    for name, (command, date) in row["commands"].items():
        made.setdefault((command, date), []).append(name)
    told = made or {(row["command"], row["date"]): []}
    return [(f"{'; '.join(names)}: " if len(told) > 1 else "") + f"{quote}{command}{quote}" + (gap + date if date else "")
            for (command, date), names in told.items()]


def as_table(rows: list[dict[str, Any]]) -> str:
    """The table of docs/heads.md; bold is a floor's figure that is better than the head's."""
    def cell(metric: str, figures: dict[str, list[float]], bold: set[str]) -> str:
        def told(value: list[float]) -> str:
            return f"{value[0]:.3g}" + (f" [{value[1]:.3g}, {value[2]:.3g}]" if len(value) > 2 else "")

        words = [("" if key == metric else f"{key} ") + told(value) for key, value in figures.items()]
        return "; ".join(f"**{w}**" if key in bold else w for w, key in zip(words, figures, strict=True))

    lines = ["| head | bar | published | figure | measured | floor | command and date |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        better: dict[str, set[str]] = {}
        for lost in row["floor_better"]:
            for title in (lost["method"], f"{lost['method']}, {lost['part']}"):
                better.setdefault(title, set()).add(lost["figure"])
        measured = "<br>".join(f"{name}: {cell(row['metric'], value, set())}" for name, value in row["measured"].items()) or "not trained yet"
        measured += "" if row["weights"] else "<br>no weights ship"
        floor = "<br>".join(f"{title}: {cell(row['metric'], value, better.get(title, set()))}" for title, value in row["floor"].items()) or "-"
        lines.append(f"| `{row['name']}`: {row['what']} | {row['bar']} | {row['published'] or '-'} | {row['metric']} | {measured} | {floor} | "
                     f"{'<br>'.join(commands_of(row, ' ', '`'))} |")
    return "\n".join(lines) + "\n"


def as_short_table(rows: list[dict[str, Any]]) -> str:
    """The table of docs/models.md: of each row the figure that it goes by alone, beside its first floor's."""
    def told(figures: dict[str, dict[str, list[float]]], metric: str) -> list[str]:
        return [f"{title}: {value[metric][0]:.3g}" for title, value in figures.items() if metric in value]

    lines = ["| head | bar | figure | measured | first floor |", "|---|---|---|---|---|"]
    for row in rows:
        measured = "<br>".join(told(row["measured"], row["metric"])) or "-"
        floor = next(iter(told(row["floor"], row["metric"])), "-")
        lines.append(f"| `{row['name']}` | {row['bar']} | {row['metric']} | {measured}{'' if row['weights'] else '; no weights ship'} | {floor} |")
    return "\n".join(lines) + "\n"


def run_head(name: str, inputs: list[str], out: Path, failed: list[str], device: str = "cpu", folder: Path | None = None, draws: int = 0,
             explain: bool = False) -> Iterator[dict[str, Any]]:
    """One line of results a patient; maps are written below `out`, as DICOM too where DICOM came in.

    A patient that cannot be read or written is named on standard error and in `failed`, and the rest done.
    Raises InputError for an unknown head or inputs that are not its own, ModelError for its weights.
    """
    from vision.apply_head import HeadModel

    model = HeadModel.load(name, folder, device)
    for label, path, opened in patients(model.head, inputs):
        try:
            yield one_patient(model, label, path, opened, out / label, draws, explain)
        except WetreadError as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed.append(str(path))


def one_patient(model: Any, label: str, path: Path, opened: Opened, place: Path, draws: int, explain: bool) -> dict[str, Any]:
    given, numbers = opened()
    answer = model.apply(given, numbers, draws, explain)
    first = next(iter(given.values()), None)
    line = {"input": label, "head": model.head.name, "model": model.config["version"], "measures": answer.measures, "notes": answer.notes}
    try:
        place.mkdir(parents=True, exist_ok=True)
        line["files"] = write_maps(answer, first, place)
        if first is not None and is_dicom(path):
            line["files"] += write_dicom(model, answer, first, path, place)
        (place / "result.json").write_text(json.dumps(line, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"{place} cannot be written ({error.strerror}); make room or give another --out") from None
    return line


def patients(head: Any, inputs: list[str]) -> list[tuple[str, Path, Opened]]:
    """(label, where from, what opens it) of each patient: a head of one input takes one file a patient, any other all its inputs of one."""
    named = []
    for text in inputs:
        name, given, rest = text.partition("=")
        named.append((name, Path(rest)) if given and not Path(text).exists() else ("", Path(text)))
    if strange := [name for name, _ in named if name and name not in head.inputs]:
        raise InputError(f"{strange[0]} is no input of {head.name}, expected {', '.join(head.inputs) or 'a file without a name'}; "
                         "give each as NAME=FILE")
    if head.task in ("volumes", "rebuild"):
        return labelled((path, lambda path=path: ({}, numbers_of(path))) for _, path in named)
    if len(head.inputs) == 1:
        return labelled((path, lambda path=path: one_channel(head, path)) for _, path in named)
    if len(named) == 1 and not named[0][0] and named[0][1].suffix != ".npz":
        return labelled([(named[0][1], lambda: (by_description(head, open_study(named[0][1])), {}))])
    if len(named) != len(head.inputs):
        raise InputError(f"{head.name} takes {len(head.inputs)} inputs ({', '.join(head.inputs)}), {len(named)} are given; give each as NAME=FILE")
    names = [name or head.inputs[i] for i, (name, _) in enumerate(named)]
    if len(set(names)) < len(names):
        raise InputError(f"{head.name} is given {', '.join(names)}, expected each of {', '.join(head.inputs)} once; give each as NAME=FILE")
    return labelled([(named[0][1], lambda: ({name: channel(path)[0] for name, (_, path) in zip(names, named, strict=True)}, {}))])


def labelled(found: Iterable[tuple[Path, Opened]]) -> list[tuple[str, Path, Opened]]:
    """Files of one name from two folders get folders of their own."""
    seen: dict[str, int] = {}
    rows = []
    for path, opened in found:
        label = label_of(path)
        seen[label] = seen.get(label, 0) + 1
        rows.append((label if seen[label] == 1 else f"{label}_{seen[label]}", path, opened))
    return rows


def one_channel(head: Any, path: Path) -> tuple[dict[str, Volume], dict[str, Any]]:
    volume, numbers = channel(path, series=head.task == "series" or head.inputs[0] == "DIFFUSION")
    return {head.inputs[0]: volume}, numbers


def channel(path: Path, series: bool = False) -> tuple[Volume, dict[str, Any]]:
    """A volume from DICOM, NIfTI, a picture, or .npz (pixels, spacing_mm, and what else the head asks for)."""
    if not path.exists():
        raise ImageError(f"{path} does not exist; give a file or folder that does")
    if path.suffix == ".npz":
        numbers = numbers_of(path)
        if "pixels" not in numbers:
            raise InputError(f"{path.name} holds {', '.join(numbers)}, expected pixels (slices, rows, columns) "
                             "or (n, slices, rows, columns); save the array under that name")
        pixels = np.asarray(numbers.pop("pixels"), np.float32)
        if pixels.ndim not in (3, 4):
            raise InputError(f"pixels in {path.name} have {pixels.ndim} axes, expected 3 or 4: (slices, rows, columns) or (n, slices, rows, columns)")
        spacing = tuple(float(v) for v in numbers.pop("spacing_mm", (1.0, 1.0, 1.0)))
        ct = str(numbers.pop("modality", "")) == "CT"
        return Volume(pixels, spacing, None, modality="CT" if ct else "MR", units="HU" if ct else ""), numbers  # type: ignore[arg-type]
    volumes = (read_nifti(path, series=True) if series and path.name.lower().endswith((".nii", ".nii.gz")) else open_study(path)).volumes
    if len(volumes) != 1:
        raise InputError(f"{path.name} holds {len(volumes)} series, expected one; give the folder of one series")
    return volumes[0], {}


def numbers_of(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise ImageError(f"{path.name} is no readable {path.suffix or 'file'} ({type(error).__name__}); give .npz arrays or a JSON object") from None


def by_description(head: Any, study: Study) -> dict[str, Volume]:
    """Series of a study by the channel names in their descriptions, the longest name first, so that T1CE is not taken for T1."""
    left, found = list(study.volumes), {}
    for name in sorted(head.inputs, key=len, reverse=True):
        own = [v for v in left if name.lower() in v.sequence.lower().replace(" ", "").replace("_", "")]
        if len(own) != 1:
            raise InputError(f"{len(own)} series of the study are called {name}, expected one; give each as NAME=FOLDER")
        found[name] = own[0]
        left.remove(own[0])
    return found


def write_maps(answer: Any, like: Volume | None, place: Path) -> list[str]:
    from data.head_images import write_nifti

    affine = like.affine if like is not None else None
    if affine is None and like is not None and like.spacing_mm:
        affine = np.diag([*like.spacing_mm[::-1], 1.0])
    files = []
    for kind, maps in (("", answer.masks), ("", answer.images), ("_uncertainty", answer.uncertainty), ("_heat", answer.heat)):
        for name, values in maps.items():
            files.append(f"{name.replace(' ', '_')}{kind}.nii.gz")
            write_nifti(place / files[-1], values, affine)
    for name, values in answer.heat.items() if like is not None else ():
        from vision.head_pictures import plot_heat
        from vision.heads.channels import WINDOWS

        files.append(f"{name.replace(' ', '_')}_heat.png")
        plot_heat(like.pixels, values, name, place / files[-1], WINDOWS[0] if like.units == "HU" else None)
    return files


def write_dicom(model: Any, answer: Any, first: Volume, path: Path, place: Path) -> list[str]:
    """Masks as one SEG, every other map as a Parametric Map; the names of the files."""
    from api.dicom.parametric import write_parametric_map
    from api.dicom.seg import write_segmentation
    from vision.heads.channels import UNIT_NAMES

    name, version, files = model.head.name, model.config["version"], []
    if any(mask.any() for mask in answer.masks.values()):
        write_segmentation(first, answer.masks, path, place / f"{name}.dcm", name, version)
        files.append(f"{name}.dcm")
    probability = "1" if answer.masks else ""
    maps = [(output, values, UNIT_NAMES.get(output, "1" if model.head.task == "series" else ""), output, True)
            for output, values in answer.images.items()]
    maps += [(f"{output}_uncertainty", values, UNIT_NAMES.get(output, probability), f"{output}, standard deviation", False)
             for output, values in answer.uncertainty.items()]
    maps += [(f"{output}_heat", values, "1", f"{output}, fall of its probability", False) for output, values in answer.heat.items()]
    for label, values, unit, meaning, anatomy in maps:
        files.append(f"{label.replace(' ', '_')}.dcm")
        write_parametric_map(first, values, path, place / files[-1], meaning, unit, name, version, anatomy)
    return files


def is_dicom(path: Path) -> bool:
    return path.is_dir() or not path.name.lower().endswith((".nii", ".nii.gz", ".npz", ".png", ".jpg", ".jpeg", ".json"))


def label_of(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return next((name.removesuffix(end) for end in (".nii", ".npz", ".json", ".png", ".jpg", ".jpeg", ".dcm") if name.endswith(end)), name)
