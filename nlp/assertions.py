"""Reads report text back into findings: what is said present, possible or absent, where, how large, and how it changed since a prior.

Rules over data/report_terms.toml and data/report_cues.toml on the sentences of nlp.report_pipe; no model.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from data.records import Finding, Side
from nlp.report_pipe import codes, cues, pipe, section_names
from nlp.report_words import IMPLIED, SIZE, behind_of, compared, counted, graded, last_of, measure, regions, regions_in

Polarity = Literal["present", "possible", "absent"]
Certainty = Literal["certain", "likely", "possible"]
Context = Literal["now", "past", "asked"]  # of these images; told as history; only asked for or recommended
NOT_NOW: dict[str, Context] = {"exam": "asked", "indication": "asked", "technique": "asked", "comparison": "past", "recommendation": "asked"}

BOTH = (
    r"bilateral(?:ly)?|both|bihemispheric|(?:left|right)[\s-]+(?:and|&)[\s-]+(?:left|right)|"
    r"(?P<more>left|right|l|r)(?:-sided)?\s*(?:>{1,3}|(?:is\s+)?(?:greater|more|worse|larger|more\s+\w+)\s+than)\s*(?:the\s+)?(?:left|right|l|r)"
)
SIDE = re.compile(rf"\b(?:(?P<both>{BOTH})|(?P<left>left(?:[\s-]+sided)?)|(?P<right>right(?:[\s-]+sided)?))\b(?![\s-]+(?:handed|dominant|now))", re.I)
SHORT_SIDE = re.compile(r"(?<![\w/])(?:(?P<left>L|Lt|LT)|(?P<right>R|Rt|RT))\b\.?(?=[\s-]+[A-Za-z])(?![\s-]+(?:spine|[A-Z]\d))")
WHERETO = re.compile(
    r"\b(?:(?:from\s+)?(?:the\s+)?(?:left|right)[\s-]+to[\s-]+(?:the\s+)?(?P<a>left|right)|(?P<b>left|right)[\s-]*wards?|"
    r"to(?:wards?)?\s+the\s+(?P<c>left|right)|(?P<d>left|right))\b",
    re.I,
)
PREPOSITION = re.compile(
    r"\b(?:in|of|on|at|to|within|along|over|involving|overlying|affecting|throughout|from|into|near|adjacent|about|under|"
    r"lateral|towards?|centered|centred|bilaterally)\b",
    re.I,
)
ADJACENT = re.compile(r"[\s,:(*-]*$")
JOIN = re.compile(r",|\band\b|\bor\b|\bwith\b|\bnor\b|\bplus\b|/|\b(?:is|are|was|were)\b", re.I)
ARTICLE = r"(?:an?|the|there|this|these)"
GRADED = (
    r"(?:stable|unchanged|mild(?:ly)?|moderate|severe|marked|minimal|slight|small(?!\W+vessel)|large|old|chronic|remote|new|residual|associated|age|"
    r"prominent|multiple|several|scattered)"
)
TURN = re.compile(
    rf"[;)]|\b(?:but|however|although|though|while|whereas|except(?:ing)?|otherwise)\b|\b(?:other|apart|aside)\s+(?:than|from)\b|"
    rf"\bwith\s+the\s+exception\b|\s[-–—]\s|—|,\s*(?:and\s+)?(?=there\b)|\band\s+(?=there\b|{ARTICLE}\b|no\b|without\b|{GRADED}\b)|"
    rf",\s*(?:and\s+|with\s+)?(?=(?:no|without|{ARTICLE})\b)|\bwith\s+(?={ARTICLE}\b|{GRADED}\b)|\bwithout\b",
    re.I,
)
SOFT = re.compile(rf",\s*(?:and\s+|with\s+)?(?={GRADED}\b)", re.I)  # ends a denial unless the list goes on to an "or"
OR = re.compile(r"\b(?:or|nor)\b", re.I)
VERB = re.compile(r"\b(?:is|are|was|were|demonstrates?|shows?|reveals?|with|has|have|measur\w+)\b", re.I)
HEADING = re.compile(r"(?m)^[ \t*#>•-]*(?:\d{1,2}[.)][ \t]*)?(?P<name>[A-Za-z][^:\n.;?]{0,60}?)[ \t*]*:[ \t*]*(?P<rest>[^\n\r]*)")
SENTENCE_LIKE = re.compile(r"\b(?:is|are|was|there|no|not|shows?|demonstrates?|reveals?|measuring|seen|noted|with|of)\b", re.I)
NOTHING_SAID = re.compile(
    r"\W*(?:none|no|nil|absent|negative|normal|unremarkable|not\s+(?:present|seen|identified|visible)|clear|-ve)\W*(?:seen|present|identified)?\W*$",
    re.I,
)
SAID_SHORT = re.compile(rf"\W*(?:yes|present|positive|[<>~]?\d+|left|right|bilateral|both|{GRADED}|possible|probable|trace|tiny|acute)\b", re.I)
# "Within the left parietal lobe, there is a mass": the place is the mass's
PLACE_FIRST = re.compile(r"(?:\W*[\w/ &]{1,40}:)?\W*(?:with)?in\s+(?:the\s+)?(?:[\w/-]+\s+){0,6}[\w/-]+$", re.I)
OF_THE_LAST = re.compile(r"\W*(?:it|this|these|they|the\s+(?:largest|larger|biggest)|measur\w+|maximum|max|size|volume|dimensions?)\b", re.I)
# of an earlier study: no size of the finding now
PRIOR_SIZE = re.compile(
    r"\b(?:previous(?:ly)?|prior(?:ly)?|formerly|earlier|compared\s+(?:to|with)|versus|vs\.?)\s*(?:(?:was|it|measur\w+|about|of|approximately)\s+)*$",
    re.I,
)
SPINE = re.compile(r"\b(?:vertebra\w*|spin(?:e|al|ous)|lamina\w*|pedicles?|(?:c|t|l)\d{1,2})\b", re.I)


@dataclass(frozen=True)
class Assertion:
    """One finding named once; `start` and `end` are its name's offsets in the text."""

    code: str
    polarity: Polarity
    side: Side | None
    size_mm: float | None  # the largest of those given
    volume_ml: float | None
    start: int
    end: int
    certainty: Certainty = "certain"
    region: str = ""  # several joined by ", "
    severity: str = ""  # minimal, mild, moderate, severe
    acuity: str = ""  # acute, subacute, chronic, acute_on_chronic
    comparison: str = ""  # new, larger, smaller, unchanged, resolved
    count: int | None = None
    sizes_mm: tuple[float, ...] = ()
    more: str = ""  # of a bilateral finding the side with more
    context: Context = "now"
    section: str = ""
    size_at: tuple[int, int] | None = None  # offsets of the size
    side_at: tuple[int, int] | None = None


@dataclass(frozen=True)
class Loose:
    """A side, number, denial or severity that belongs to no finding known by name."""

    kind: Literal["side", "number", "denied", "severity"]
    value: str
    start: int
    end: int


@dataclass(frozen=True)
class Read:
    assertions: tuple[Assertion, ...]
    loose: tuple[Loose, ...]
    sections: tuple[tuple[str, int, int], ...]
    sentences: tuple[tuple[int, int], ...]


def read_report(text: str) -> list[Assertion]:
    """Every finding named in the text, in order."""
    return list(read_all(text).assertions)


@lru_cache(maxsize=64)
def read_all(text: str) -> Read:
    """The findings of a text, what else it says in numbers and sides, its sections and sentences."""
    doc = pipe()(text)
    found_sections = sections(text)
    skipped, denied = headed(text, doc.user_data["findings"])
    found: list[Assertion] = []
    loose: list[Loose] = []
    sentences = []
    for sentence in doc.sents:
        start, end = sentence.start_char, sentence.end_char
        sentences.append((start, end))
        terms = [term for term in doc.user_data["findings"] if start <= term[1] < end and term not in skipped]
        read, left = read_sentence(text, start, end, terms, denied)
        section = next((name for name, a, b in reversed(found_sections) if a <= start < b), "")
        context = NOT_NOW.get(section)
        if not terms:
            left = of_the_last(found, left, text, start, end)
        found += [replace(a, section=section, context=context or a.context) for a in read]
        if context is None:
            loose += left
    return Read(tuple(found), tuple(loose), found_sections, tuple(sentences))


def of_the_last(found: list[Assertion], loose: list[Loose], text: str, start: int, end: int) -> list[Loose]:
    """ "It measures 4.5 x 3 cm": a number of a sentence that names nothing belongs to the finding before, if that has none."""
    numbers = [row for row in loose if row.kind == "number"]
    if not (numbers and found and found[-1].size_at is None and found[-1].polarity != "absent" and OF_THE_LAST.match(text, start, end)):
        return loose
    size = SIZE.match(text, numbers[0].start)
    assert size, "a loose number is a size"
    millimetres, millilitres = measure(size)
    found[-1] = replace(
        found[-1], size_mm=max(millimetres, default=None), volume_ml=max(millilitres, default=None), sizes_mm=tuple(millimetres), size_at=size.span()
    )
    return [row for row in loose if row is not numbers[0]]


# ---------------------------------------------------------------- sections and headings


@lru_cache
def section_heading() -> tuple[re.Pattern[str], dict[str, str]]:
    names = section_names()
    any_name = "|".join(sorted((re.escape(name).replace(r"\ ", r"\s+") for name in names), key=len, reverse=True))
    pattern = rf"(?:^|(?<=[\n\r]))[ \t*#>_-]*(?P<a>{any_name})[ \t*_]*(?::|(?=[\r\n])|$)|(?<=[.;:])[ \t]+(?P<b>{any_name})[ \t]*:"
    return re.compile(pattern, re.I), names


def sections(text: str) -> tuple[tuple[str, int, int], ...]:
    """(name, start, end) by the headings; a history without a findings heading behind it ends with its paragraph."""
    pattern, names = section_heading()
    heads = []
    for match in pattern.finditer(text):
        word = match["a"] or match["b"]
        if match["b"] and not word[0].isupper():
            continue
        heads.append((match.start(), match.end(), names[re.sub(r"\s+", " ", word.lower())]))
    reported = {name for _, _, name in heads} & {"findings", "impression"}
    rows = [("exam" if reported else "", 0, heads[0][0] if heads else len(text))]  # what stands before is the name of the exam
    for i, (start, body, name) in enumerate(heads):
        end = heads[i + 1][0] if i + 1 < len(heads) else len(text)
        later = {head[2] for head in heads[i + 1 :]}
        if name in NOT_NOW and not later & {"findings", "impression"}:
            paragraph = re.compile(r"\S[^\n]*?(?:[.!?]\s*[\r\n]|[\r\n]\s*[\r\n])").search(text, body)
            if paragraph and paragraph.end() < end:
                rows += [(name, start, paragraph.end()), ("", paragraph.end(), end)]
                continue
        rows.append((name, start, end))
    return tuple(row for row in rows if row[1] < row[2])


def headed(text: str, terms: Sequence[tuple[str, int, int]]) -> tuple[set[tuple[str, int, int]], set[tuple[str, int, int]]]:
    """Terms that are only headings ("MASS EFFECT:" with nothing or a sentence behind it), and those that a word behind denies."""
    skipped: set[tuple[str, int, int]] = set()
    denied: set[tuple[str, int, int]] = set()
    for match in HEADING.finditer(text):
        inside = [term for term in terms if match.start("name") <= term[1] and term[2] <= match.end("name")]
        if not inside or SENTENCE_LIKE.search(match["name"]):
            continue
        own = any(match.start("rest") <= start < match.end("rest") and code != "normal" for code, start, _ in terms)
        if NOTHING_SAID.match(match["rest"]):
            denied.update(inside)
            skipped.update(term for term in terms if term[0] == "normal" and match.start("rest") <= term[1] < match.end("rest"))
        elif own or not SAID_SHORT.match(match["rest"]):
            skipped.update(inside)
    return skipped, denied


# ---------------------------------------------------------------- one sentence


def read_sentence(
    text: str, start: int, end: int, terms: list[tuple[str, int, int]], denied: set[tuple[str, int, int]]
) -> tuple[list[Assertion], list[Loose]]:
    """Findings of one sentence and what in it belongs to none."""
    sentence = text[start:end]
    here = [(code, a - start, b - start) for code, a, b in terms]
    marks = cue_spans(sentence, here)
    turns = [0, *(m.start() for m in TURN.finditer(sentence) if not within(m, here) and not PLACE_FIRST.match(sentence[: m.start()])), len(sentence)]
    sizes = list(SIZE.finditer(sentence))
    owner = owners(sentence, here, sizes, codes())
    found: list[Assertion] = []
    used: set[int] = set()  # offsets of sides, numbers, denials and severities that belong to a finding
    for i, (code, a, b) in enumerate(here):
        clause = max(t for t in turns if t <= a), min([t for t in turns if t >= b] or [len(sentence)])
        before, after = beside(sentence, here, i, clause, codes())
        polarity, certainty, context = meant(sentence, code, a, b, clause, marks, used)
        if terms[i] in denied:
            polarity, certainty = "absent", "certain"
        side, more, side_at = side_of(sentence, code, before, (a, b), after, used)
        own = [size for j, size in enumerate(sizes) if owner.get(j) == i]
        used.update(size.start() for size in own)
        millimetres = tuple(value for size in own for value in measure(size)[0])
        millilitres = [value for size in own for value in measure(size)[1]]
        acuity = last_of(sentence, "acuity", (before[0], b)) or behind_of(sentence, "acuity", b, after[1])
        severity, severity_at = graded(sentence, before, (a, b), after)
        if severity_at is not None:
            used.add(severity_at)
        found.append(
            Assertion(
                recoded(code, acuity, sentence, a, b),
                polarity,
                side,
                max(millimetres, default=None),
                max(millilitres, default=None),
                start + a,
                start + b,
                certainty,
                regions(sentence, before, (a, b), after),
                "" if polarity == "absent" else severity,
                acuity,
                compared(sentence, before, (a, b), after, clause, len([1 for t in here if clause[0] <= t[1] < clause[1]])),
                counted(sentence, before, a),
                millimetres,
                more,
                context,
                size_at=(start + own[0].start(), start + own[0].end()) if own else None,
                side_at=(start + side_at[0], start + side_at[1]) if side_at else None,
            )
        )
    return found, loose_of(sentence, start, sizes, marks, used, here)


def within(match: re.Match[str], terms: list[tuple[str, int, int]]) -> bool:
    return any(a < match.end() and match.start() < b for _, a, b in terms)


Marks = dict[str, list[tuple[int, int]]]


def cue_spans(sentence: str, terms: list[tuple[str, int, int]]) -> Marks:
    table = cues()
    none = [m.span() for m in table["denied"]["none"].finditer(sentence)]
    inside = [(a, b) for _, a, b in terms]

    def spans(block: str, name: str, but: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [m.span() for m in table[block][name].finditer(sentence) if not any(a < m.end() and m.start() < b for a, b in but)]

    behind = spans("denied", "behind", none + inside)
    return {
        "denied": spans("denied", "before", none + inside + behind),
        "denied behind": behind,
        "doubted": spans("doubted", "before", inside),
        "doubted behind": spans("doubted", "behind", inside),
        "unlikely": spans("doubted", "unlikely", inside),
        "past": spans("past", "before", inside),
        "asked": spans("asked", "before", inside),
    }


def meant(sentence: str, code: str, a: int, b: int, clause: tuple[int, int], marks: Marks, used: set[int]) -> tuple[Polarity, Certainty, Context]:
    """Polarity, certainty and context of the term at a..b, from the cues that reach it."""

    def forward(name: str) -> tuple[int, int] | None:
        for cue in reversed(marks[name]):
            if clause[0] <= cue[0] and cue[1] <= a and reaches(sentence, cue[1], a, clause[1], name):
                return cue
        return None

    def backward(name: str) -> tuple[int, int] | None:
        for cue in marks[name]:
            if b <= cue[0] and cue[1] <= max(clause[1], b) and len(sentence[b : cue[0]].split()) <= 12 and not VERB.search(sentence, b, cue[0]):
                return cue
        return None

    prefixed = re.search(r"\bnon[\s-]?$", sentence[:a], re.I) or re.match(r"non[\s-]?", sentence[a:b], re.I)
    denied = forward("denied") or backward("denied behind")
    unlikely = backward("unlikely")
    doubted = forward("doubted") or backward("doubted behind")
    context: Context = "asked" if forward("asked") else "past" if forward("past") and code != "postoperative_change" else "now"
    for cue in (denied, unlikely, doubted):
        if cue:
            used.add(cue[0])
    if prefixed or denied:
        hesitant = denied and re.search(r"\b(?:definite|convincing|obvious|clear|appreciable|gross)\b", sentence[denied[1] : a], re.I)
        return "absent", "likely" if hesitant else "certain", context
    if unlikely:
        return "absent", "likely", context
    if doubted:
        likely = re.search(r"likely|probabl|presum|favou?r", sentence[doubted[0] : doubted[1]], re.I)
        return "possible", "likely" if likely else "possible", context
    return "present", "certain", context


def reaches(sentence: str, cue_end: int, term: int, clause_end: int, name: str) -> bool:
    """Whether a cue goes on to the term: over a list, not over a graded finding behind a comma, a doubt not over a comma."""
    between = sentence[cue_end:term]
    soft = SOFT.search(between)
    if name == "denied":
        return not (soft and not OR.search(sentence, cue_end, clause_end)) and not re.search(r":", between)
    if soft or len(between.split()) > 14:
        return False
    return "," not in between or bool(OR.search(sentence, cue_end, clause_end))


def beside(
    sentence: str, terms: list[tuple[str, int, int]], i: int, clause: tuple[int, int], quality: dict[str, bool]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The words before and behind a term that are its own, not its neighbours'; adjectives that are findings too are stepped over."""
    a, b = terms[i][1:]
    at = i
    while (
        at > 0
        and terms[at - 1][2] > clause[0]
        and len(sentence[terms[at - 1][2] : terms[at][1]].split()) <= 2
        and not JOIN.search(sentence, terms[at - 1][2], terms[at][1])
        and not PREPOSITION.search(sentence, terms[at - 1][2], terms[at][1])
    ):
        at -= 1
    first = terms[at][1]
    left = max([clause[0], *(t[2] for t in terms[:at] if t[2] <= first)])
    if left > clause[0]:
        joins = [m.end() for m in JOIN.finditer(sentence, left, first)]
        left = joins[-1] if joins else first if PREPOSITION.search(sentence, left, first) else left
    nexts = [t for t in terms[i + 1 :] if t[1] < clause[1] and (quality.get(terms[i][0]) or not quality.get(t[0]))]
    right = clause[1]
    if nexts:
        right = nexts[0][1]
        joins = [m.start() for m in JOIN.finditer(sentence, b, right)]
        right = joins[-1] if joins else b if not PREPOSITION.search(sentence, b, right) else right
    return (left, a), (b, max(b, right))


def side_of(
    sentence: str, code: str, before: tuple[int, int], term: tuple[int, int], after: tuple[int, int], used: set[int]
) -> tuple[Side | None, str, tuple[int, int] | None]:
    """Side, the side with more, and where it stands; of a shift the side it goes to."""
    if code in ("midline_shift", "displacement"):
        ways = [m for seg in (before, term, after) for m in WHERETO.finditer(sentence, *seg)]
        if code == "midline_shift" and ways:
            best = max(ways, key=lambda m: bool(m["a"] or m["b"] or m["c"]))
            used.update(m.start() for m in ways)
            return (best["a"] or best["b"] or best["c"] or best["d"]).lower(), "", best.span()  # type: ignore[return-value]  # the pattern's sides are those of Side
    rows = [m for m in sides(sentence, before[0], term[1])]
    if not rows:
        rows = [
            m
            for m in sides(sentence, *after)
            if ADJACENT.match(sentence[after[0] : m.start()]) or PREPOSITION.search(sentence, after[0], m.start()) or "ly" in m[0]
        ]
    if not rows:
        return None, "", None
    used.update(m.start() for m in rows)
    kinds = {"bilateral" if m.groupdict().get("both") else "left" if m["left"] else "right" for m in rows}
    more = next(({"l": "left", "r": "right"}[m["more"][0].lower()] for m in rows if m.groupdict().get("more")), "")
    side: Side = "bilateral" if len(kinds) > 1 or "bilateral" in kinds else "left" if "left" in kinds else "right"
    return side, more, (rows[0].start(), rows[-1].end())


def sides(sentence: str, start: int, end: int) -> list[re.Match[str]]:
    return sorted([*SIDE.finditer(sentence, start, end), *SHORT_SIDE.finditer(sentence, start, end)], key=lambda m: m.start())


def owners(sentence: str, terms: list[tuple[str, int, int]], sizes: list[re.Match[str]], quality: dict[str, bool]) -> dict[int, int]:
    """Size -> term: the one right behind it ("4 mm midline shift"), else the nearest before, else the next; a quality only if alone."""
    found: dict[int, int] = {}
    nouns = [i for i, term in enumerate(terms) if not quality.get(term[0])] or list(range(len(terms)))
    for j, size in enumerate(sizes):
        if PRIOR_SIZE.search(sentence, 0, size.start()):
            continue
        behind = [i for i in nouns if terms[i][1] >= size.end()]
        ahead = [i for i in nouns if terms[i][2] <= size.start()]
        if (
            behind
            and re.fullmatch(r"\s*(?:of\s+)?(?:[\w/-]+\s+){0,4}", sentence[size.end() : terms[behind[0]][1]])
            and not JOIN.search(sentence, size.end(), terms[behind[0]][1])
        ):
            found[j] = behind[0]
        elif ahead:
            found[j] = ahead[-1]
        elif behind:
            found[j] = behind[0]
    return found


def recoded(code: str, acuity: str, sentence: str, a: int, b: int) -> str:
    """Where the words beside a term decide which finding it is."""
    if code == "acute_infarct" and acuity == "chronic":
        return "chronic_infarct"
    if code == "chronic_infarct" and acuity in ("acute", "subacute"):
        return "acute_infarct"
    if code == "skull_fracture" and sentence[a:b].lower().startswith("fracture") and SPINE.search(sentence):
        return "spine_fracture"
    return code


def loose_of(sentence: str, start: int, sizes: list[re.Match[str]], marks: Marks, used: set[int], terms: list[tuple[str, int, int]]) -> list[Loose]:
    """What a changed word would change although no finding claims it."""
    rows = [Loose("number", f"{measure(size)}", start + size.start(), start + size.end()) for size in sizes if size.start() not in used]
    rows += [
        Loose("side", "both" if m.groupdict().get("both") else "left" if m["left"] else "right", start + m.start(), start + m.end())
        for m in sides(sentence, 0, len(sentence))
        if m.start() not in used
    ]
    rows += [Loose("denied", "", start + a, start + b) for name in ("denied", "denied behind") for a, b in marks[name] if a not in used]
    inside = [(a, b) for _, a, b in terms]
    rows += [
        Loose("severity", name, start + m.start(), start + m.end())
        for name, pattern in cues()["severity"].items()
        for m in pattern.finditer(sentence)
        if m.start() not in used and not any(a <= m.start() < b for a, b in inside)
    ]
    return rows


def says(text: str, findings: Iterable[Finding]) -> bool:
    """Whether the text states exactly these findings: no more, no less, same polarity, side, region, number and count."""
    findings, mentions = list(findings), read_report(text)
    named = regions_in(text, (0, len(text)))
    own = {name for a in mentions for name in (*regions_in(text, (a.start, a.end)), *IMPLIED.get(a.code, ()))}     # regions in names of findings
    placed = {f.code: regions_in(f.region, (0, len(f.region))) for f in findings if f.present and f.region}
    intended = [
        (
            f.code,
            "absent" if not f.present else "possible" if f.band == "hedge" else "present",
            f.side if f.present and f.side in ("left", "right", "bilateral") else None,
            round(f.size_mm, 1) if f.present and f.size_mm is not None else None,
            round(f.volume_ml, 1) if f.present and f.volume_ml is not None else None,
            f.count if f.present else None,
            placed.get(f.code, []),
        )
        for f in findings
    ]
    read: list[tuple[object, ...]] = []
    for a in mentions:
        first = next((row for row in read if row[:2] == (a.code, a.polarity)), None)
        if first and (a.size_mm, a.volume_ml, a.count) == (None,) * 3 and (not a.side or first[2] in (None, a.side)):
            read[read.index(first)] = (*first[:2], first[2] or a.side, *first[3:])      # named again by its scale: "atrophy on the left, MTA 2"
            continue
        places = [name for name in named if name not in own or name in placed.get(a.code, [])]
        read.append((a.code, a.polarity, a.side, a.size_mm, a.volume_ml, a.count, places))
    return sorted(intended, key=str) == sorted(read, key=str)
