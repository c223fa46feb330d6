"""How an order means what it mentions: its sections, and for any span whether it is denied, past, of the family, in doubt; its side; its time.

The cues stand in data/reading.toml. Rules over spaCy's English tokens; no model, no training. A scope ends rather too early than too late.
"""
from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from nlp.intervals import Interval, intervals
from nlp.normalise import read_block, read_codes

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.matcher import PhraseMatcher
    from spacy.tokens import Doc

CUES_PATH = Path(__file__).parent.parent / "data" / "reading.toml"
Span = tuple[int, int]   # of tokens
HOW = ("negated", "historical", "family", "uncertain")
REACH = {"negated": 6, "historical": 6, "family": 10, "uncertain": 6}      # tokens forward from a cue
BACK = 4                # tokens backward from a cue that stands behind
SIDE_REACH = 4          # tokens between a side and what it is the side of
LONG_PAST_DAYS = 365.0
RECENT_DAYS = 30.0      # what happened within these is no history, even behind "s/p"
NOT_ASKED = {"past", "family", "social", "medication", "allergies"}     # sections that tell of other things than the present question


@dataclass(frozen=True)
class Section:
    name: str           # a key of [sections]; "" before the first heading
    start: int
    end: int


@dataclass(frozen=True)
class Mention:
    """What is said of a span; a device put in long ago is historical too, and still there."""

    text: str
    start: int
    end: int
    section: str
    negated: bool = False
    historical: bool = False
    family: bool = False
    uncertain: bool = False
    side: str = ""              # left, right, bilateral
    days: float | None = None   # approximate, before the order

    @property
    def present(self) -> bool:
        """Of the patient, now, and not denied; it may be in doubt."""
        return not (self.negated or self.historical or self.family)


@dataclass(frozen=True)
class Reading:
    text: str
    sections: tuple[Section, ...]
    intervals: tuple[Interval, ...]
    starts: tuple[int, ...]                 # of the tokens
    phrases: tuple[int, ...]                # of each token, the number of its phrase: to the next comma, "but" or end of sentence
    scopes: dict[str, bytearray]            # HOW -> for each token 1 where a cue reaches
    sides: dict[int, str]                   # token -> side
    found: tuple[tuple[int, int], ...]      # spans of known abbreviations, diseases and symptoms

    @cached_property
    def mentions(self) -> tuple[Mention, ...]:
        return tuple(self.about(start, end) for start, end in self.found)

    def about(self, start: int, end: int) -> Mention:
        """How `text[start:end]`, whatever it is, is meant."""
        section = self.section_at(start)
        if not self.starts:
            return Mention(self.text[start:end], start, end, section)
        first, last = self._token(start), self._token(max(start, end - 1))
        said = {how: any(self.scopes[how][first:last + 1]) for how in HOW}
        time = self._time(first, last)
        days = time.days if time else None
        said["historical"] |= section == "past" or (time is not None and not time.lasting and (time.days or 0) > LONG_PAST_DAYS)
        said["family"] |= section == "family"
        return Mention(self.text[start:end], start, end, section, **said, side=self._side(first, last), days=days)

    def section_at(self, at: int) -> str:
        return self.sections[max(0, bisect_right(self._section_starts, at) - 1)].name

    def question(self) -> tuple[tuple[int, int], ...]:
        """The spans that tell of the present question: no past, no family, neither drugs nor allergies."""
        spans: list[tuple[int, int]] = []
        for i, start in enumerate(self.starts):
            end = self.starts[i + 1] if i + 1 < len(self.starts) else len(self.text)
            if self.scopes["family"][i] or self.scopes["historical"][i] or self.section_at(start) in NOT_ASKED:
                continue
            if spans and spans[-1][1] == start:
                spans[-1] = spans[-1][0], end
            else:
                spans.append((start, end))
        return tuple(spans)

    @cached_property
    def _section_starts(self) -> list[int]:
        return [section.start for section in self.sections]

    @cached_property
    def _times(self) -> dict[int, list[tuple[int, Interval]]]:
        """Phrase -> (token, time) of the times in it."""
        found: dict[int, list[tuple[int, Interval]]] = {}
        for interval in self.intervals:
            if interval.days is not None and self.starts:
                token = self._token(interval.start)
                found.setdefault(self.phrases[token], []).append((token, interval))
        return found

    def _token(self, at: int) -> int:
        return max(0, bisect_right(self.starts, at) - 1)

    def _side(self, first: int, last: int) -> str:
        """The side before it, else the one behind it ("weakness of the left arm"), in the same phrase."""
        near = [*range(last, max(-1, first - SIDE_REACH - 1), -1), *range(last + 1, min(last + SIDE_REACH + 1, len(self.starts)))]
        return next((self.sides[at] for at in near if at in self.sides and self.phrases[at] == self.phrases[first]), "")

    def _time(self, first: int, last: int) -> Interval | None:
        """The time that stands nearest in the same phrase."""
        times = self._times.get(self.phrases[first], ())
        return min(times, key=lambda time: min(abs(time[0] - first), abs(time[0] - last)))[1] if times else None


@lru_cache
def pipe() -> Language:
    """spaCy's English tokenizer; imported here, because it takes a second."""
    import spacy

    return spacy.blank("en")


@lru_cache
def read_cues() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads(CUES_PATH.read_text())


# blocks of data/terms.toml that name diseases; the others are words of another kind
DISEASES = ("vascular", "injury", "neurology", "ear_nose_throat", "eye", "spine", "cancer", "child")


@lru_cache
def matcher() -> PhraseMatcher:
    """Finds cues, ends, sides and what may be mentioned, by their names "negated before", "ends words", "sides left", "mention"."""
    from spacy.matcher import PhraseMatcher

    found = PhraseMatcher(pipe().vocab, attr="LOWER")
    for block in (*HOW, "ends", "sides"):
        for kind, phrases in read_cues()[block].items():
            found.add(f"{block} {kind}", [pipe().make_doc(phrase) for phrase in phrases])
    names = {*read_cues()["mentions"]["symptoms"], *diseases()}
    found.add("mention", [pipe().make_doc(name) for name in sorted(names)])
    return found


@lru_cache
def capitals() -> PhraseMatcher:
    """Finds the short forms that are mentions in capitals alone."""
    from spacy.matcher import PhraseMatcher

    found = PhraseMatcher(pipe().vocab)
    found.add("mention", [pipe().make_doc(short) for short in read_cues()["mentions"]["capitals"]])
    return found


def diseases() -> Iterator[str]:
    """Short and long forms, and what the codes stand for."""
    for name in DISEASES:
        for short, long in read_block(name).items():
            yield from (short, long) if len(short) > 2 else (long,)
    yield from (title.split(", ")[0] for title in read_codes().values())


def read(text: str, ordered: date | None = None) -> Reading:
    """Any text, in linear time. Dates and years become days only where the order's own date is given."""
    doc = pipe().make_doc(text)
    matches: dict[str, list[Span]] = {}
    for key, first, end in (*matcher()(doc), *capitals()(doc)):
        matches.setdefault(doc.vocab.strings[key], []).append((first, end))
    found_sections, times = sections(text), intervals(text, ordered)
    clauses = sentences(doc, found_sections)
    ends = bytearray(len(doc))
    for first, _ in (*matches.get("ends words", ()), *matches.get("ends marks", ())):
        ends[first] = 1
    phrases = parts(doc, clauses)
    scopes = scoped(matches, doc, clauses, ends)
    starts = tuple(token.idx for token in doc)
    recent = {phrases[bisect_right(starts, time.start) - 1] for time in times if time.days is not None and time.days < RECENT_DAYS}
    for at, phrase in enumerate(phrases):
        if phrase in recent:        # "s/p fall today"
            scopes["historical"][at] = 0
    sides = {end - 1: name for name in ("left", "right", "bilateral") for first, end in matches.get(f"sides {name}", ())
             if is_side(doc, first, end)}
    found = tuple((doc[first].idx, doc[end - 1].idx + len(doc[end - 1])) for first, end in longest(matches.get("mention", [])))
    return Reading(text, found_sections, times, starts, phrases, scopes, sides, found)


STOPPED = {"vs.", "dr.", "mr.", "mrs.", "ms.", "st.", "no.", "e.g.", "i.e.", "approx.", "r.", "l."}


@lru_cache
def heading() -> tuple[re.Pattern[str], dict[str, str]]:
    names = {phrase: name for name, phrases in read_cues()["sections"].items() for phrase in phrases}
    any_name = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    # at the beginning of a line or of a sentence, and marked as a heading
    return re.compile(rf"(?:^|(?<=[\n.;|]))[ \t*#>-]*({any_name})[ \t]*(?::|-(?= )|=(?= ))", re.I | re.M), names


def sections(text: str) -> tuple[Section, ...]:
    """Of a pasted note, by its headings; what stands before the first has no name."""
    pattern, names = heading()
    heads = [(match.start(1), names[match[1].lower()]) for match in pattern.finditer(text)]
    if not heads or heads[0][0] > 0:
        heads.insert(0, (0, ""))
    return tuple(Section(name, start, heads[i + 1][0] if i + 1 < len(heads) else len(text)) for i, (start, name) in enumerate(heads))


def sentences(doc: Doc, found: tuple[Section, ...]) -> tuple[int, ...]:
    """Of each token, the number of its sentence; a section ends one too."""
    numbers: list[int] = []
    number, heads = 0, iter([*(section.start for section in found[1:]), len(doc.text) + 1])
    head = next(heads)
    for token in doc:
        while token.idx >= head:
            number, head = number + 1, next(heads)
        numbers.append(number)
        # the tokenizer leaves a full stop on some words: an end behind "d.", none behind "vs."
        if token.text in (".", ";", "!") or "\n" in token.text or (token.text.endswith(".") and token.lower_ not in STOPPED):
            number += 1
    return tuple(numbers)


def parts(doc: Doc, clauses: tuple[int, ...]) -> tuple[int, ...]:
    """Of each token, the number of its phrase."""
    numbers: list[int] = []
    number = 0
    for at, token in enumerate(doc):
        if at and (clauses[at] != clauses[at - 1] or token.lower_ in (",", "but", "however", "except", "although", "though")):
            number += 1
        numbers.append(number)
    return tuple(numbers)


def scoped(matches: dict[str, list[Span]], doc: Doc, clauses: tuple[int, ...], ends: bytearray) -> dict[str, bytearray]:
    """HOW -> for each token 1 where a cue of this kind reaches; a cue within a longer one ("hx of" in "family hx of") is none."""
    scopes = {how: bytearray(len(doc)) for how in HOW}
    tells = {first for first, _ in matches.get("family tells", ())}
    kept = set(longest([span for how in HOW for span in matches.get(f"{how} before", ())]))
    for how in HOW:
        for first, end in kept & set(matches.get(f"{how} before", ())):
            if how == "family" and any(at in tells for at in range(end, min(end + 3, len(doc)))):
                continue
            if doc[first].text in ("VS", "V"):      # vestibular schwannoma, a trigeminal branch: no "versus"
                continue
            reached = list(forward(how, end, doc, clauses, ends))
            if how in ("family", "historical"):     # the relative, and the word "history", are no part of the question either
                reached += range(first, end)
            for at in reached:
                scopes[how][at] = 1
        for first, end in longest(matches.get(f"{how} after", [])):
            if doc[end - 1].lower_ in ("no", "none") and end < len(doc) and clauses[end] == clauses[first] and doc[end].text not in ",;.":
                continue            # "LOC no, amnesia yes", but "headache no better"
            for at in range(first - 1, max(-1, first - 1 - BACK), -1):
                if clauses[at] != clauses[first] or doc[at].text in ",;" or ends[at]:
                    break
                scopes[how][at] = 1
    return scopes


def forward(how: str, start: int, doc: Doc, clauses: tuple[int, ...], ends: bytearray) -> Iterator[int]:
    """The tokens behind a cue that it reaches: to an end, over commas only where the list goes on to an "or" or a "nor"."""
    for at in range(start, min(start + REACH[how], len(doc))):
        if clauses[at] != clauses[max(0, start - 1)] or (ends[at] and at > start):
            return
        if doc[at].text in (",", "/") and not list_goes_on(doc, at, clauses):
            return
        yield at


def list_goes_on(doc: Doc, comma: int, clauses: tuple[int, ...]) -> bool:
    """ "no fever, chills or rash": short items up to the "or"."""
    since = 0
    for at in range(comma + 1, min(comma + 9, len(doc))):
        word = doc[at].lower_
        if clauses[at] != clauses[comma] or doc[at].like_num or since > 2:
            return False
        if word in ("or", "nor", "/"):
            return True
        since = 0 if word == "," else since + 1
    return doc[comma].text == "/"


def longest(found: list[Span]) -> list[Span]:
    """Of spans that overlap, the longest that begins first."""
    kept: list[Span] = []
    for first, end in sorted(found, key=lambda span: (span[0], -span[1])):
        if not kept or first >= kept[-1][1]:
            kept.append((first, end))
    return kept


def is_side(doc: Doc, first: int, end: int) -> bool:
    """No "L spine", "2 L", "left the ED", "right handed", "by R"."""
    word, after = doc[first].text, doc[end].lower_ if end < len(doc) else ""
    before = doc[first - 1] if first else None
    if word in ("l", "r") or after in ("handed", "spine", "hand-dominant", "dominant", "now", "away", "after"):
        return False
    if word == "L" and before is not None and before.like_num:
        return False
    if word.lower() in ("os", "od") and not word.isupper():
        return False
    return not (word.lower() == "left" and after in ("the", "ama", "against", "work", "school", "without", "before"))
