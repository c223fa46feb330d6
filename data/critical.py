"""Which findings raise an alert, from what probability, and how soon a person must have taken note of it."""
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PATH = Path(__file__).parent / "findings.toml"
# below the bands that state or hedge a finding (vision/findings.py): an alert asks a person to look, it states nothing.
# `wetread evaluate report` prints the recall and the false alarms of this and other thresholds
ALERT_PROBABILITY = 0.2
# of no use as an alarm: its probability hardly differs between studies with and without (docs/models.md); what pushes has an alert of its own
NO_ALERT = ("midline_shift",)
MINUTES = 60                    # where the table gives no communicate_minutes


@dataclass(frozen=True)
class Critical:
    code: str
    minutes: int
    parent: str = ""            # of what it is a kind: an alert for the kind stands for both


@cache
def critical_findings(path: Path = PATH) -> dict[str, Critical]:
    """The rows of data/findings.toml marked critical, but for those of NO_ALERT."""
    rows = tomllib.loads(path.read_text())
    return {code: Critical(code, int(row.get("communicate_minutes", MINUTES)), row.get("parent", ""))
            for code, row in rows.items() if row.get("critical") and code not in NO_ALERT}
