"""Reads report sentences back into findings: what is said present, possible or absent, on which side, how large."""
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from data.records import Finding, Side

Polarity = Literal["present", "possible", "absent"]

# longest first: a "subdural haematoma" is no plain "haematoma"
BLEED = r"(?:ha?emorrhages?|ha?ematomas?|bleed(?:ing|s)?|blood)"
TERMS: dict[str, str] = {
    "subdural_haemorrhage": rf"subdural(?:\s+{BLEED})?|\bsdh\b",
    "epidural_haemorrhage": rf"(?:epidural|extradural)(?:\s+{BLEED})?|\bedh\b",
    "subarachnoid_haemorrhage": rf"subarachnoid(?:\s+{BLEED})?|\bsah\b",
    "intraventricular_haemorrhage": rf"intraventricular(?:\s+{BLEED})?|\bivh\b",
    "intraparenchymal_haemorrhage": rf"(?:intra)?(?:parenchymal|cerebral|axial)\s+{BLEED}|\biph\b",
    "intracranial_haemorrhage": rf"(?:acute\s+)?(?:intracranial\s+)?{BLEED}|\bich\b",
    "midline_shift": r"midline\s+shift|shift\s+of\s+(?:the\s+)?midline(?:\s+structures)?",
    "mass_effect": r"mass\s+effect",
    "skull_fracture": r"(?:skull|calvarial)\s+fractures?|fractures?\s+of\s+the\s+(?:skull|calvarium)|\bfractures?",
}
TERM = re.compile("|".join(f"(?P<{code}>{pattern})" for code, pattern in TERMS.items()), re.I)
DENIAL = re.compile(r"\b(?:no|without|negative\s+for|absence\s+of|free\s+of|not\s+seen|is\s+not|ruled\s+out|excluded)\b", re.I)
DENIED = re.compile(r"\s*(?:is|are|was|were)?\s*(?:not\s+seen|excluded|ruled\s+out|absent)", re.I)
DOUBT = re.compile(r"\b(?:possibl[ey]|probabl[ey]|likely|suspected|suspicious|questionable|may|might|equivocal|cannot\s+(?:be\s+)?exclude\w*)\b",
                   re.I)
TURN = re.compile(r"\b(?:but|however|although|except)\b|;", re.I)
SIDE = re.compile(r"\b(left|right|bilateral)\b", re.I)
SIZE = re.compile(r"(\d+(?:[.,]\d+)?)\s*(mm|cm|ml|cc|millilit(?:re|er)s?)\b", re.I)
SENTENCE = re.compile(r"(?<!\d)[.!?](?=\s|$)|(?<=\d)\.(?=\s|$)|\n+")


@dataclass(frozen=True)
class Assertion:
    code: str
    polarity: Polarity
    side: Side | None
    size_mm: float | None
    volume_ml: float | None
    start: int
    end: int


def read_report(text: str) -> list[Assertion]:
    """Every finding named in the text, in order."""
    found, start = [], 0
    for end in [*(match.end() for match in SENTENCE.finditer(text)), len(text)]:
        clause_start = start
        for stop in [*(start + match.start() for match in TURN.finditer(text[start:end])), end]:
            found += read_clause(text, clause_start, stop)
            clause_start = stop
        start = end
    return found


def read_clause(text: str, start: int, end: int) -> list[Assertion]:
    """Findings of one clause: a denial reaches every finding after it, a side and a size the one beside them."""
    clause = text[start:end]
    terms = list(TERM.finditer(clause))
    found = []
    for i, term in enumerate(terms):
        before = clause[terms[i - 1].end() if i else 0:term.start()]
        after = clause[term.end():terms[i + 1].start() if i + 1 < len(terms) else len(clause)]
        denied = DENIAL.search(clause[:term.start()]) or DENIED.match(after)
        doubted = DOUBT.search(clause[:term.start()]) or DOUBT.search(after)
        polarity: Polarity = "absent" if denied else "possible" if doubted else "present"
        side = SIDE.search(before) or SIDE.search(after)
        size = SIZE.search(after) or SIZE.search(before)
        millimetres, millilitres = measure(size) if size else (None, None)
        found.append(Assertion(term.lastgroup or "", polarity, side[1].lower() if side else None,  # type: ignore[arg-type]
                               millimetres, millilitres, start + term.start(), start + term.end()))
    return found


def measure(size: re.Match[str]) -> tuple[float | None, float | None]:
    value, unit = float(size[1].replace(",", ".")), size[2].lower()
    if unit in ("mm", "cm"):
        return value * (10 if unit == "cm" else 1), None
    return None, value


def says(text: str, findings: Iterable[Finding]) -> bool:
    """Whether the text states exactly these findings: no more, no less, same polarity, side and number."""
    intended = [(f.code, "absent" if not f.present else "possible" if f.band == "hedge" else "present",
                 f.side if f.present and f.side in ("left", "right", "bilateral") else None,
                 round(f.size_mm, 1) if f.present and f.size_mm is not None else None,
                 round(f.volume_ml, 1) if f.present and f.volume_ml is not None else None) for f in findings]
    read = [(a.code, a.polarity, a.side, a.size_mm, a.volume_ml) for a in read_report(text)]
    return sorted(intended, key=str) == sorted(read, key=str)
