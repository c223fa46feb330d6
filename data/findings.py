"""data/findings.toml as records: what each finding may be said to be, how urgent it is, and which head looks for it."""
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import BookError

PATH = Path(__file__).parent / "findings.toml"


@dataclass(frozen=True)
class FindingRow:
    """One finding. The tuples are the values allowed, empty where the finding has no such value; `head` is by DICOM Modality."""

    code: str
    label: str
    parent: str = ""
    radlex: str = ""
    modalities: tuple[str, ...] = ()
    critical: bool = False
    communicate_minutes: int | None = None
    side: tuple[str, ...] = ()
    acuity: tuple[str, ...] = ()
    grade: tuple[str, ...] = ()
    scale: str = ""                     # of the grade: Fazekas, MTA, GCA
    kind: tuple[str, ...] = ()
    volume: bool = False                # mL
    size: bool = False                  # mm
    count: bool = False
    head: dict[str, str] = field(default_factory=dict)


def read_findings(path: Path = PATH) -> dict[str, FindingRow]:
    """Every finding by code, in the order of a report; raises BookError naming the block and key."""
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise BookError(f"{path.name} is no TOML ({error}); correct it") from None
    rows = {}
    for code, block in table.items():
        if unknown := sorted(set(block) - set(FindingRow.__dataclass_fields__)):
            raise BookError(f"{path.name} [{code}] has '{unknown[0]}', expected {', '.join(FindingRow.__dataclass_fields__)}; correct or remove it")
        if bool(block.get("critical")) != bool(block.get("communicate_minutes")):
            raise BookError(f"{path.name} [{code}] needs critical and communicate_minutes together; give both or neither")
        if block.get("parent", code) not in table:
            raise BookError(f"{path.name} [{code}] has the parent '{block['parent']}', which is no block; correct it")
        rows[code] = FindingRow(code, **{key: tuple(value) if isinstance(value, list) else value for key, value in block.items()})
    return rows


FINDINGS = read_findings()
