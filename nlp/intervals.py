"""Times in an order, as approximate days before it: "3 wks ago", "x 2 days", "since 2019", "POD 2", "LKW 0830"."""
import re
from dataclasses import dataclass
from datetime import date

DAYS = {"s": 0.0, "mi": 0.001, "h": 1 / 24, "d": 1.0, "w": 7.0, "mo": 30.4, "y": 365.25}
NUMBERS = {"a": 1.0, "an": 1.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0, "six": 6.0, "seven": 7.0, "eight": 8.0,
           "nine": 9.0, "ten": 10.0, "couple": 2.0, "few": 3.0, "several": 5.0, "many": 10.0}
WORDS = {"today": 0.0, "tonight": 0.0, "this morning": 0.2, "this am": 0.2, "this afternoon": 0.1, "this evening": 0.1, "just now": 0.0,
         "acutely": 0.2, "overnight": 0.5, "last night": 0.5, "yesterday": 1.0, "yest": 1.0, "this week": 3.0, "last week": 7.0, "this month": 15.0,
         "last month": 30.4, "last year": 365.25, "childhood": 7300.0, "birth": 7300.0, "since birth": 7300.0}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

UNIT = r"(s(?:ecs?|econds?)|mi(?:ns?|nutes?)|h(?:rs?|ours?)?|d(?:ays?)?|w(?:ks?|eeks?)?|mo(?:s|n|nths?|ths)?|m(?= ago| prior)|mths?|y(?:rs?|ears?)?)"
NUMBER = r"(\d{1,3}(?:\.\d)?(?: ?(?:-|to) ?\d{1,3})?|an?|one|two|three|four|five|six|seven|eight|nine|ten|(?:a )?(?:couple|few)(?: of)?|several|many)"
SPAN = re.compile(rf"(?<![\w/.])(?:(x|for|over|past|last|the last|the past|within|times|since) ?)?{NUMBER}[ -]?{UNIT}(?![\w/])\.?"
                  r"(?:[ -]?(ago|prior|earlier|back|before|post|after|out|s/p|p/|now|of|hx|history|duration))?", re.I)
THEN = re.compile(r"(ago|prior|earlier|back|before|post|after|out|s/p|p/)$", re.I)
# an age, a dose's rhythm, a plan, a pregnancy, the scan's own rhythm: no time before the order
NOT_BEFORE = re.compile(r"(?:\b(?:every|each|q|in|next|within the next|another|per|age|aged|until|after|at|born)|@) ?$", re.I)
NOT_AFTER = re.compile(r"[ -]?(?:old|o\b|/o|of age|pregnan\w*|gestation\w*|ga\b|ega\b|iup|gravid|pma\b|fetus|twin|f\b|m\b|male|female|infant|"
                       r"follow|f/u|surveil\w*|check|scan|film|interval|recall|course)", re.I)
OPERATED = re.compile(r"\b(?:pod|post-?op(?:erative)? day|day)(?: ?# ?| )?(\d{1,3})\b(?! ?/)|\bpod#?(\d{1,3})\b", re.I)
LAST_WELL = re.compile(r"\b(?:lkw|lkn|lsn|lsw|last (?:known|seen) (?:well|normal))"
                       r"(?:(?: (?:was|at|time))*[ :@~]*(?:\d{1,2}:?\d\d(?: ?(?:am|pm|h))?|\d{1,2} ?(?:am|pm)))?", re.I)
RELATIVE = re.compile(rf"\b({'|'.join(sorted(map(re.escape, WORDS), key=len, reverse=True))})\b", re.I)
WEEKDAY = re.compile(r"\b(?:since|on|last) (?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b", re.I)
DATE = re.compile(r"(?<![\w/.])(?:(\d{1,2})/(\d{1,2})/(\d{2}|\d{4})|(\d{4})-(\d\d)-(\d\d)|"
                  rf"(?:({'|'.join(MONTHS)})[a-z]*\.? ?|(\d{{1,2}})/)?"
                  r"((?:19[4-9]|20[0-4])\d))(?![\w/.-]*\d)", re.I)


@dataclass(frozen=True)
class Interval:
    text: str
    start: int
    end: int
    days: float | None      # before the order; None: a date, and the order's own is not known
    lasting: bool           # since then, up to now: "x 3 days", "since 2019"; else at that time


def intervals(text: str, ordered: date | None = None) -> tuple[Interval, ...]:
    """In the order of the text, none over another."""
    found = [*spans(text)]
    found += [(m, float(m[1] or m[2])) for m in OPERATED.finditer(text)]
    found += [(m, 0.5) for m in LAST_WELL.finditer(text)]       # a clock time is of today or of last night
    found += [(m, WORDS[m[1].lower()]) for m in RELATIVE.finditer(text)]
    found += [(m, 3.5) for m in WEEKDAY.finditer(text)]
    found += [(m, days_since(m, ordered)) for m in DATE.finditer(text)]
    kept: list[Interval] = []
    for match, days in sorted(found, key=lambda row: (row[0].start(), -row[0].end())):
        if not kept or match.start() >= kept[-1].end:
            before = text[max(0, match.start() - 6):match.start()].lower()
            lasting = before.endswith("since ") or match[0].lower().startswith("since ") or (match.re is SPAN and not THEN.search(match[0]))
            kept.append(Interval(match[0], match.start(), match.end(), days, lasting))
    return tuple(kept)


def spans(text: str) -> list[tuple[re.Match[str], float | None]]:
    """A number and a unit: how long ago, or for how long."""
    found: list[tuple[re.Match[str], float | None]] = []
    for match in SPAN.finditer(text):
        lead, number, unit, tail = match.groups()
        if not (lead or tail) and (NOT_BEFORE.search(text, max(0, match.start() - 20), match.start()) or NOT_AFTER.match(text, match.end())):
            continue
        if number.isalpha() and not (lead or tail):     # "a day unit", "one week": an article says no time by itself
            continue
        low = unit.lower()
        per_unit = DAYS[low[:2] if low[:2] in DAYS else "mo" if low[0] == "m" else low[0]]
        found.append((match, round(amount(number) * per_unit, 3)))
    return found


def amount(number: str) -> float:
    """Of "2-3" the mean; of "a few" three."""
    digits = re.findall(r"\d+(?:\.\d)?", number)
    if digits:
        return sum(map(float, digits)) / len(digits)
    return next((NUMBERS[word] for word in reversed(number.lower().replace(" of", "").split()) if word in NUMBERS), 1.0)


def days_since(match: re.Match[str], ordered: date | None) -> float | None:
    """Days from a date, or from the middle of a month or a year, to the order."""
    if ordered is None:
        return None
    month, day, year, iso_year, iso_month, iso_day, named, numbered, alone = match.groups()
    try:
        if year:
            then = date(int(year) + (0 if len(year) == 4 else 2000 if int(year) <= ordered.year % 100 else 1900), int(month), int(day))
        elif iso_year:
            then = date(int(iso_year), int(iso_month), int(iso_day))
        elif named or numbered:
            then = date(int(alone), MONTHS.index(named.lower()) + 1 if named else int(numbered), 15)
        else:
            then = date(int(alone), 7, 1)
    except ValueError:      # 14/13/2020
        return None
    return float(max(0, (ordered - then).days))
