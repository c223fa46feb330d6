"""What two texts say differently: facts gone, facts new, and facts with another polarity, side, number, severity or comparison."""
import re
from collections import Counter
from dataclasses import dataclass

from data.findings import FINDINGS
from nlp.assertions import NOT_NOW, Assertion, Loose, read_all
from nlp.report_words import IMPLIED

Fact = tuple[str, ...]
SCALES = sorted({row.scale for row in FINDINGS.values() if row.scale})
SCALED = re.compile(rf"\b({'|'.join(SCALES)})(?:\s+(?:grade|score|scale))?[\s:=]*(\d|i{{1,3}}\b)", re.I)
# which attribute of two mentions of one finding differs; the first that does names the change
COMPARED = ("polarity", "side", "size", "severity", "comparison", "count", "region", "acuity")


@dataclass(frozen=True)
class Change:
    """`before` and `after` are what stood and what stands, None when the finding is only in one of the texts."""

    kind: str           # dropped, added, or one of COMPARED
    before: Assertion | Loose | None
    after: Assertion | Loose | None


def facts(text: str) -> Counter[Fact]:
    """What the text says of these images, as a bag: order, layout and wording do not count."""
    return Counter(fact_of(row) for row in rows_of(text))


def rows_of(text: str) -> list[Assertion | Loose]:
    """What is said of these images; a grade on a scale ("Fazekas 2") is a row of its own, as the reader takes its scale for a name alone."""
    read = read_all(text)
    told = [(start, end) for name, start, end in read.sections if name in NOT_NOW]
    return [*(a for a in read.assertions if a.context == "now"), *read.loose,
            *(Loose("severity", " ".join(m.groups()).lower(), *m.span()) for m in SCALED.finditer(text)
              if not any(start <= m.start() < end for start, end in told))]


def fact_of(row: Assertion | Loose) -> Fact:
    if isinstance(row, Loose):
        return ("loose", row.kind, row.value)
    return (row.code, *(str(value_of(row, name)) for name in COMPARED))


def value_of(row: Assertion, name: str) -> object:
    if name == "side":
        return (row.side, row.more)
    if name == "size":
        return (tuple(sorted(round(value, 2) for value in row.sizes_mm)), None if row.volume_ml is None else round(row.volume_ml, 2))
    if name == "acuity":        # acute is what haemorrhages and infarcts are when nothing else is said
        return "" if row.acuity == "acute" else row.acuity
    if name == "region":
        return ", ".join(region for region in row.region.split(", ") if region not in IMPLIED.get(row.code, ()))
    return getattr(row, name)


def changes(before: str, after: str) -> list[Change]:
    """Every fact of one text that has no equal in the other, the two mentions of a changed finding together."""
    gone, come = unpaired(before, after), unpaired(after, before)
    found = []
    for row in list(gone):
        likest = [other for other in come if isinstance(row, Assertion) and isinstance(other, Assertion) and other.code == row.code]
        if likest and isinstance(row, Assertion):
            other = min(likest, key=lambda a: sum(value_of(a, name) != value_of(row, name) for name in COMPARED))
            gone.remove(row)
            come.remove(other)
            found.append(Change(next(name for name in COMPARED if value_of(row, name) != value_of(other, name)), row, other))
    return found + [Change("dropped", row, None) for row in gone] + [Change("added", None, row) for row in come]


def unpaired(text: str, other: str) -> list[Assertion | Loose]:
    """Rows of `text` that are left when equal facts of `other` are taken away."""
    left = facts(other)
    found: list[Assertion | Loose] = []
    for row in rows_of(text):
        fact = fact_of(row)
        if left[fact]:
            left[fact] -= 1
        else:
            found.append(row)
    return found
