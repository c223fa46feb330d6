"""Which findings raise an alert, and from what probability; data/findings.toml says how soon a person must have taken note of each."""
from data.findings import FINDINGS, FindingRow

# below the bands that state or hedge a finding (vision/findings.py): an alert asks a person to look, it states nothing.
# `wetread evaluate report` prints the recall and the false alarms of this and other thresholds
ALERT_PROBABILITY = 0.2
# a shift alerts as mass effect, and only where it is said: below that too many heads without one would (docs/models.md)
# a fracture was learnt from simulated ones alone (docs/models.md): it is called possible in the draft, and rings no bell before real ones were read
NO_ALERT = ("midline_shift", "skull_fracture")


def critical_findings() -> dict[str, FindingRow]:
    return {code: row for code, row in FINDINGS.items() if row.critical and code not in NO_ALERT}
