"""The words beside a finding in a report: sizes, severity, acuity, regions, change since a prior, count."""
import re

from nlp.report_pipe import cues

VALUE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:[.,·]\d+)?|(?<![\d.])[.·]\d+)"
UNIT = r"(?:mm|millimet(?:re|er)s?|cm|centimet(?:re|er)s?|ml|cc|millilit(?:re|er)s?|cm3|cm³|cubic\s+cent\w+)"
SIZE = re.compile(rf"(?<![\w.])({VALUE})((?:\s*(?:mm|cm)?\s*(?:x|×|by|-|–|to)\s*{VALUE})*)\s*-?({UNIT})(?![\w³])", re.I)
VALUE_UNIT = re.compile(rf"({VALUE})\s*(mm|cm)?", re.I)
COUNT = re.compile(r"(?<![\w.-])(?P<n>\d{1,3}|an?|one|single|solitary|two|three|four|five|six|seven|eight|nine|ten)\s+(?:[\w-]+\s+){0,3}$", re.I)
COUNTS = {"one": 1, "single": 1, "solitary": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
# regions that the name of a finding has in it already
IMPLIED = {"hippocampal_atrophy": {"hippocampus", "temporal"}, "skull_fracture": {"calvarium", "skull base"}, "pituitary_tumour": {"sella"}}
SMALL_VESSEL = re.compile(r"(?:small|large)[\s-]+vessels?\b", re.I)


def measure(size: re.Match[str]) -> tuple[list[float], list[float]]:
    """Values in mm, values in mL; decimals are kept, "1,200" is a thousand, "1,2" is not."""
    unit = size[3].lower()
    grown = re.search(r"\bto\b", size[2]) and re.search(r"\bfrom\s+$", size.string[: size.start()], re.I)  # "from 14 mm to 9 mm"
    rows = [(number_of(m[1]), (m[2] or unit).lower()) for m in VALUE_UNIT.finditer(size[0][: size.start(3) - size.start()])][-1 if grown else 0 :]
    if unit == "mm" or unit.startswith("millim") or unit == "cm" or unit.startswith("cent"):
        return [round(value * (1 if own.startswith(("mm", "millim")) else 10), 6) for value, own in rows], []
    return [], [value for value, _ in rows]


def number_of(words: str) -> float:
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", words):
        return float(words.replace(",", ""))
    return float(words.replace(",", ".").replace("·", "."))


def last_of(sentence: str, block: str, seg: tuple[int, int]) -> str:
    found = [(m.end(), m.end() - m.start(), name) for name, pattern in cues()[block].items() for m in pattern.finditer(sentence, *seg)]
    return max(found)[2] if found else ""


def behind_of(sentence: str, block: str, start: int, end: int) -> str:
    """ "... is acute", ", acute" """
    head = re.compile(r"[\s,(]*(?:(?:is|are|appears?|remains?|was)\s+)?(?:\w+ly\s+)?", re.I).match(sentence, start, end)
    at = head.end() if head else start
    return next((name for name, pattern in cues()[block].items() if pattern.match(sentence, at, end)), "")


def graded(sentence: str, before: tuple[int, int], term: tuple[int, int], after: tuple[int, int]) -> tuple[str, int | None]:
    found = [
        (m.end(), m.start(), name)
        for name, pattern in cues()["severity"].items()
        for m in pattern.finditer(sentence, before[0], term[1])
        if not SMALL_VESSEL.match(sentence, m.start())
    ]
    if found:
        _, at, name = max(found)
        return name, at
    head = re.compile(r"[\s,(:]*(?:(?:is|are|appears?|remains?|was)\s+)?(?:\w+ly\s+(?=\w))?", re.I).match(sentence, *after)
    for at in {head.end() if head else after[0], after[0] + len(sentence[slice(*after)]) - len(sentence[slice(*after)].lstrip(" ,(:"))}:
        for name, pattern in cues()["severity"].items():
            if pattern.match(sentence, at, after[1]):
                return name, at
    return "", None


def regions(sentence: str, before: tuple[int, int], term: tuple[int, int], after: tuple[int, int]) -> str:
    """Named regions of the words beside the term, those before it first, else those behind."""
    found = regions_in(sentence, (before[0], term[1])) or regions_in(sentence, after)
    return ", ".join(found)


def regions_in(sentence: str, seg: tuple[int, int]) -> list[str]:
    return sorted({name for name, pattern in cues()["regions"].items() if pattern.search(sentence.replace("-", " "), *seg)})


def compared(
    sentence: str, before: tuple[int, int], term: tuple[int, int], after: tuple[int, int], clause: tuple[int, int], terms_of_clause: int
) -> str:
    segs = [(before[0], term[0]), after] if terms_of_clause > 1 else [clause]
    for name, pattern in cues()["comparison"].items():
        if any(pattern.search(sentence, *seg) for seg in segs):
            return name
    return ""


def counted(sentence: str, before: tuple[int, int], a: int) -> int | None:
    match = COUNT.search(sentence[before[0] : a])
    if not match or match["n"].lower() in ("a", "an") or SIZE.search(sentence[before[0] : a]):
        return None
    return COUNTS.get(match["n"].lower()) or int(match["n"])
