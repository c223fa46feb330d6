"""Report templates: the fields of a report's findings by protocol (data/report_templates.toml)."""
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data.errors import BookError

PATH = Path(__file__).parent / "report_templates.toml"
KEYS = {"title", "modality", "protocols", "fields"}


@dataclass(frozen=True)
class Field:
    name: str
    codes: tuple[str, ...]      # findings whose sentences belong here


@dataclass(frozen=True)
class ReportTemplate:
    id: str
    title: str
    modality: str               # DICOM Modality
    protocols: tuple[str, ...]
    fields: tuple[Field, ...]


@cache
def read_report_templates(path: Path = PATH) -> dict[str, ReportTemplate]:
    """Every template by id; raises BookError naming the block and key."""
    try:
        blocks = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise BookError(f"{path.name} is no TOML ({error}); correct it") from None
    found = {}
    for id, block in blocks.items():
        if set(block) != KEYS:
            raise BookError(f"{path.name} [{id}] has {', '.join(sorted(block))}, expected {', '.join(sorted(KEYS))}")
        try:
            fields = tuple(Field(row["name"], tuple(row["codes"])) for row in block["fields"])
        except (KeyError, TypeError) as error:
            raise BookError(f"{path.name} [{id}] fields are malformed, expected each as {{ name, codes }} ({type(error).__name__})") from None
        found[id] = ReportTemplate(id, block["title"], block["modality"], tuple(block["protocols"]), fields)
    return found


def template_for(protocol: str, modality: str = "") -> ReportTemplate | None:
    """The template that names the protocol, else the first of the modality, else none."""
    templates = read_report_templates().values()
    named = next((one for one in templates if protocol and protocol in one.protocols), None)
    return named or next((one for one in templates if one.modality == modality), None)
