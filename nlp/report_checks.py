"""The check before signature: what in a radiologist's text does not fit the order, the patient, the draft or itself.

Remarks, never a lock: each has its place, its severity and plain words. `stop` asks to be looked at before signing, `warn` is probably an
oversight, `inform` is worth knowing.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data.records import Finding, Order, Severity, Sex
from nlp.assertions import SIDE, Assertion, read_all
from nlp.sentences import NO_FINDING, NOTHING

DATA = Path(__file__).parent.parent / "data"
SAID = ("findings", "impression")
OPPOSITE = {"left": "right", "right": "left"}
TEN = 0.02  # how near to 10 or 0.1 a ratio is a slipped decimal point
SHIFT_MAX_MM, SIZE_MAX_MM, VOLUME_MAX_ML = 30.0, 200.0, 500.0  # larger than a head holds
AGE_SLACK_YEARS = 1.0
ADULT_YEARS, OLD_YEARS = 18.0, 40.0
AGE = re.compile(
    r"\b(\d{1,3})[\s-]*(year|yr|month|mo|week|day|y/?o\b|yo\b|y\.o)s?\.?[\s-]*(?:old\b|(?=[mf]\b|male|female|man|woman|boy|girl)|(?<=yo)|(?<=y/o)|(?<=y\.o))",
    re.I,
)
NOT_THE_PATIENT = re.compile(r"\s*(?:infarct|stroke|ha?em|bleed|lesion|fractur|injur|surg|scan|stud|exam)", re.I)  # "a 3-week-old infarct"
YEARS = {"month": 1 / 12, "mo": 1 / 12, "week": 1 / 52.2, "day": 1 / 365.25}
OTHER_PERSON = re.compile(r"\b(?:mother|father|sister|brother|family|maternal|paternal|aunt|uncle|donor|husband|wife)\b", re.I)
NO_PRIOR = re.compile(
    r"^\W*(?:none|no(?:t)?\b(?! (?:change|interval|significant)).*|nil|n/?a|unavailable)?\W*(?:available|read|given|provided)?\W*$", re.I | re.S
)
COMPARED = re.compile(
    r"\b(?:compar\w+|prior|previous\w*|unchanged|stable|interval|since|earlier|no longer|new|larger|smaller|increased in|decreased in)\b", re.I
)
PLACEHOLDER = re.compile(r"\[[ _x?]*\]|_{3,}|\*{3,}|\bXX+\b|<[a-z ]+>|\?\?\?+")
NORMAL = re.compile(
    r"\b(?:normal|unremarkable)\b[^.;\n]*\b(?:study|examination|exam|scan|ct|mri|brain|head)\b|^\W*(?:normal|unremarkable)\W*$|"
    r"\b(?:ct|mri|study|examination|scan|brain|head)\b[^.;\n]{0,40}\b(?:is|are|appears?)\s+(?:normal|unremarkable)\b|\bno acute (?:intracranial )?"
    r"(?:abnormalit\w+|findings?|patholog\w+|process\w*)",
    re.I,
)


@dataclass(frozen=True)
class Remark:
    code: str
    severity: Severity
    message: str
    section: str  # "" when it is about the whole report
    start: int  # offsets into that section's text; 0, 0 for the whole
    end: int


@dataclass(frozen=True)
class Asked:
    """What a report is checked against; whatever is unknown stays empty and is not checked."""

    order: Order | None = None
    sex: Sex = "U"
    age_years: float | None = None
    findings: Sequence[Finding] = ()  # of the draft
    draft: Mapping[str, str] | None = None  # the sections as the machine wrote them
    has_prior: bool | None = None  # None: not known


Said = tuple[str, Assertion]  # section, finding


def check_report(sections: Mapping[str, str], asked: Asked = Asked()) -> list[Remark]:
    """Everything worth a second look, gravest first, then as it stands in the report."""
    said = [(name, a) for name in SAID for a in read_all(sections.get(name, "")).assertions if a.context == "now"]
    rows = [
        *empty(sections),
        *placeholders(sections),
        *sex_and_age(sections, asked),
        *sides(sections, said, asked),
        *places(said, asked),
        *against_draft(sections, said, asked),
        *numbers(sections, said, asked),
        *against_impression(sections, said),
        *comparison(sections, said, asked),
        *question(sections, said, asked),
    ]
    order = {name: i for i, name in enumerate(("", "exam", "indication", "technique", "comparison", "findings", "impression"))}
    weight = {"stop": 0, "warn": 1, "inform": 2}
    return sorted(dict.fromkeys(rows), key=lambda r: (weight[r.severity], order.get(r.section, 9), r.start))


@lru_cache
def table() -> dict[str, dict[str, bool]]:
    """data/findings.toml: what may be critical, and of which kind a finding is."""
    rows: dict[str, dict[str, bool]] = tomllib.loads((DATA / "findings.toml").read_text())
    return rows


@lru_cache
def words(block: str, name: str) -> re.Pattern[str]:
    rows = tomllib.loads((DATA / "report_checks.toml").read_text())[block][name]
    return re.compile(rf"\b(?:{'|'.join(rows['words'] if isinstance(rows, dict) else rows)})\b", re.I)


@lru_cache
def questions() -> dict[str, tuple[str, ...]]:
    return {name: tuple(row["findings"]) for name, row in tomllib.loads((DATA / "report_checks.toml").read_text())["question"].items()}


def label(code: str) -> str:
    return str(table().get(code, {}).get("label") or code.replace("_", " "))


def critical(code: str) -> bool:
    return bool(table().get(code, {}).get("critical"))


def kin(code: str) -> set[str]:
    """The code, what it is a kind of, and its kinds: a subdural haematoma answers for a haemorrhage."""
    return {code, parent(code), *(other for other, row in table().items() if row.get("parent") == code)} - {""}


def at(section: str, a: Assertion) -> tuple[str, int, int]:
    return section, a.start, a.end


def there(a: Assertion) -> bool:
    return a.polarity != "absent"


# ---------------------------------------------------------------- one group of remarks each


def empty(sections: Mapping[str, str]) -> Iterable[Remark]:
    for name in SAID:
        text = sections.get(name, "")
        if not text.strip():
            yield Remark("section_empty", "warn", f"The section {name} is empty.", name, 0, 0)
        elif text.strip() in (NO_FINDING, NOTHING):
            yield Remark("section_empty", "warn", f"The section {name} has only the machine's word that it states nothing.", name, 0, len(text))


def placeholders(sections: Mapping[str, str]) -> Iterable[Remark]:
    for name, text in sections.items():
        for match in PLACEHOLDER.finditer(text):
            yield Remark("placeholder", "warn", "A placeholder was left in the text.", name, *match.span())


def sex_and_age(sections: Mapping[str, str], asked: Asked) -> Iterable[Remark]:
    other = {"M": "F", "F": "M"}.get(asked.sex)
    own = {"M": "male", "F": "female"}.get(asked.sex, "")
    for name, text in sections.items():
        if other:
            for block, what in (("sex", "fits the other sex"), ("person", "calls the patient by the other sex")):
                for match in words(block, other).finditer(text):
                    line = text[max(text.rfind(".", 0, match.start()), text.rfind("\n", 0, match.start())) + 1 : match.start()]
                    if not OTHER_PERSON.search(line):
                        yield Remark("sex", "stop", f"“{match[0]}” {what}; the patient is {own}. Is this the right patient?", name, *match.span())
        if asked.age_years is None:
            continue
        for match in AGE.finditer(text):
            years = int(match[1]) * YEARS.get(match[2].lower(), 1.0)  # "y/o" and its like are years
            line = text[max(text.rfind(".", 0, match.start()), text.rfind("\n", 0, match.start())) + 1 : match.end() + 20]
            of_a_finding = NOT_THE_PATIENT.match(text, match.end())
            if abs(years - asked.age_years) > AGE_SLACK_YEARS and not OTHER_PERSON.search(line) and not of_a_finding:
                yield Remark(
                    "age",
                    "stop",
                    f"“{match[0].strip()}”, but the patient is {years_in_words(asked.age_years)}. Is this the right patient?",
                    name,
                    match.start(),
                    match.start() + len(match[0].rstrip()),
                )
        for kind, wrong in (("child", asked.age_years >= ADULT_YEARS), ("old", asked.age_years < OLD_YEARS)):
            for match in words("age", kind).finditer(text) if wrong else ():
                yield Remark("age", "warn", f"“{match[0]}” does not fit a patient of {years_in_words(asked.age_years)}.", name, *match.span())


def years_in_words(years: float) -> str:
    return f"{years:.0f} years" if years >= 2 else f"{years * 12:.0f} months"


def sides(sections: Mapping[str, str], said: list[Said], asked: Asked) -> Iterable[Remark]:
    """Laterality against the order, the draft, and between findings and impression."""
    for code in {a.code for _, a in said}:
        mine = [(name, a) for name, a in said if a.code == code and there(a)]
        seen = {name: {a.side for n, a in mine if n == name and a.side} for name in SAID}
        first, last = seen["findings"], seen["impression"]
        if len(first) == len(last) == 1 and last == {OPPOSITE.get(next(iter(first)) or "", "")}:
            name, a = next((n, a) for n, a in mine if n == "impression" and a.side)
            yield Remark(
                "side_impression", "stop", f"The impression says {label(code)} on the {a.side}, the findings say {next(iter(first))}.", *at(name, a)
            )
        drafted = {f.side for f in asked.findings if f.code == code and f.present and f.band != "omit" and f.side in OPPOSITE}
        if len(drafted) == 1 and code in table():
            side = next(iter(drafted))
            for name, a in mine:
                if a.side == OPPOSITE[side or ""]:
                    yield Remark(
                        "side_draft",
                        "stop",
                        f"{label(code).capitalize()} on the {a.side}; the draft's finding on the images is on the {side}.",
                        *at(name, a),
                    )
    if asked.order is None:
        return
    wanted = [a for a in read_all(asked.order.text).assertions if a.side in OPPOSITE]
    for a in wanted:
        alike = kin(a.code) if a.code in table() else {a.code}      # an order for a bleed, a report of a subdural one
        rows = [(name, b) for name, b in said if b.code in alike and there(b) and b.side]
        if rows and {b.side for _, b in rows} == {OPPOSITE[a.side or ""]}:
            yield Remark(
                "side_order", "stop", f"{label(a.code).capitalize()} on the {rows[0][1].side}; the order speaks of the {a.side}.", *at(*rows[0])
            )
    ordered = {m.lastgroup for m in SIDE.finditer(asked.order.ordered_exam)} & set(OPPOSITE)
    if len(ordered) == 1:
        side = str(next(iter(ordered)))
        for match in SIDE.finditer(sections.get("exam", "")):
            if match.lastgroup == OPPOSITE[side]:
                yield Remark("side_order", "stop", f"The exam is named {match.lastgroup}; ordered was {side}.", "exam", *match.span())


# a name of a place -> the parts of the brain it lies in, as a draft names them; a name that is not here (insula, convexity) contradicts none
PARTS = {
    "frontal": ("frontal",),
    "parietal": ("parietal",),
    "temporal": ("temporal",),
    "hippocampus": ("temporal",),
    "amygdala": ("temporal",),
    "middle cranial fossa": ("temporal",),
    "occipital": ("occipital",),
    "basal ganglia": ("basal ganglia",),
    "putamen": ("basal ganglia",),
    "caudate": ("basal ganglia",),
    "pallidum": ("basal ganglia",),
    "internal capsule": ("basal ganglia",),
    "thalamus": ("thalamus",),
    "cerebellum": ("cerebellum",),
    "brainstem": ("brainstem",),
    "pons": ("brainstem",),
    "midbrain": ("brainstem",),
    "medulla": ("brainstem",),
    "posterior fossa": ("cerebellum", "brainstem"),
}


def parts(region: str) -> set[str]:
    return {part for name in region.split(", ") for part in PARTS.get(name, ())}


def places(said: list[Said], asked: Asked) -> Iterable[Remark]:
    """The part of the brain against the draft, and between findings and impression; none where one part is named by both."""
    drafted = [f for f in asked.findings if f.present and f.band != "omit"]
    for code in {a.code for _, a in said if a.code in table()}:
        mine = {name: [a for n, a in said if n == name and a.code == code and there(a) and parts(a.region)] for name in SAID}
        named = {name: {part for a in rows for part in parts(a.region)} for name, rows in mine.items()}
        if named["findings"] and named["impression"] and not named["findings"] & named["impression"]:
            a = mine["impression"][0]
            text = f"{label(code).capitalize()}: the impression says {a.region}, the findings say {mine['findings'][0].region}."
            yield Remark("region_impression", "warn", text, *at("impression", a))
        # a haematoma of the draft may be called a haemorrhage, where it is the only one
        seen = [f for f in drafted if parent(f.code) == code] or [f for f in drafted if f.code == code]
        known = {part for f in seen for part in parts(f.region)}
        if len({f.code for f in seen}) != 1 or not all(parts(f.region) for f in seen):
            continue
        for name in SAID:
            if named[name] and not named[name] & known:
                a = mine[name][0]
                text = f"{label(code).capitalize()}: the report says {a.region}, the draft's finding on the images is {seen[0].region}."
                yield Remark("region_draft", "warn", text, *at(name, a))


def against_draft(sections: Mapping[str, str], said: list[Said], asked: Asked) -> Iterable[Remark]:
    """Findings of the images that the text denies, leaves out, or adds."""
    if not any(sections.get(name, "").strip() for name in SAID):
        return
    section, normal = reads_as_normal(sections, said)
    denials: dict[tuple[str, int, Severity], Remark] = {}  # words that deny a kind and what it is a kind of get one remark, on the kind
    # the later takes the place of the earlier: kinds come last, and of them the gravest and largest
    for finding in sorted((f for f in asked.findings if f.band != "omit" and f.code in table()), key=gravity):
        rows = [(name, a) for name, a in said if a.code in kin(finding.code) and (there(a) or a.code != parent(finding.code) or reaches(a, finding))]
        own = [(name, a) for name, a in rows if a.code == finding.code]
        told = any(there(a) for _, a in rows)
        denied = [(name, a) for name, a in rows if not there(a) and a.code in (finding.code, parent(finding.code))]
        whole = [(name, a) for name, a in denied if reaches(a, finding)]
        stated: Severity = "stop" if finding.band == "state" else "warn"  # to deny what is only possible is a reader's everyday work
        if finding.present and whole and not told:
            text = f"The draft found {label(finding.code)} on the images; the report says there is none."
            denials[whole[0][0], whole[0][1].start, stated] = Remark("denied_against_draft", stated, text, *at(*whole[0]))
        elif finding.present and own and not any(there(a) for _, a in own) and (whole or not told):  # of a part, or beside another kind
            text = f"The draft found {label(finding.code)} on the images; the report denies it."
            denials[own[0][0], own[0][1].start, "warn"] = Remark("denied_against_draft", "warn", text, *at(*own[0]))
        elif finding.present and not rows and finding.critical and stated == "stop" and normal:
            text = f"The draft found {label(finding.code)} on the images; the report reads as normal."
            denials[section, normal.start(), stated] = Remark("normal_against_draft", stated, text, section, *normal.span())
        elif finding.present and not rows and finding.critical:
            yield Remark("dropped_from_draft", "warn", f"The draft found {label(finding.code)}; the report does not mention it.", "", 0, 0)
        elif not finding.present and (own_stated := [(name, a) for name, a in own if a.polarity == "present"]):
            yield Remark("stated_against_draft", "inform", f"The draft saw no {label(finding.code)}; the report states one.", *at(*own_stated[0]))
    yield from denials.values()


def parent(code: str) -> str:
    return str(table().get(code, {}).get("parent", ""))


def gravity(finding: Finding) -> tuple[bool, int, float, float, float]:
    minutes = int(table()[finding.code].get("communicate_minutes", 10**6))
    return bool(parent(finding.code)), -minutes, finding.volume_ml or 0.0, finding.size_mm or 0.0, finding.probability


def reaches(denial: Assertion, finding: Finding | Assertion) -> bool:
    """Whether a denial is of the whole of a finding: not only of the other side, of a place, of what is new or of another age."""
    on_its_side = denial.side in (None, "bilateral", finding.side) or finding.side == "bilateral"
    of_its_age = denial.acuity in ("", finding.acuity) or {denial.acuity, finding.acuity} <= {"", "acute"}
    return on_its_side and of_its_age and not denial.region and not denial.comparison


def reads_as_normal(sections: Mapping[str, str], said: list[Said]) -> tuple[str, re.Match[str] | None]:
    """The section and the words that call the study normal, where the report states nothing critical."""
    if any(there(a) and critical(a.code) for _, a in said):
        return "", None
    return next(((name, match) for name in SAID if (match := NORMAL.search(sections.get(name, "")))), ("", None))


def numbers(sections: Mapping[str, str], said: list[Said], asked: Asked) -> Iterable[Remark]:
    """A decimal point or a unit that slipped, against the draft's text and findings; and sizes no head holds."""
    known = [(f.code, f.side, f.size_mm, f.volume_ml) for f in asked.findings if f.present and (f.size_mm is not None or f.volume_ml is not None)]
    for name in SAID if asked.draft else ():
        known += [(a.code, a.side, value, None) for a in read_all((asked.draft or {}).get(name, "")).assertions for value in a.sizes_mm]
        known += [(a.code, a.side, None, a.volume_ml) for a in read_all((asked.draft or {}).get(name, "")).assertions if a.volume_ml is not None]
    for name, a in said:
        if not a.size_at:
            continue
        same = [row for row in known if row[0] == a.code]
        rows = [row for row in same if row[1] == a.side or not row[1] or not a.side] or same
        place = (name, *a.size_at)
        text = sections[name][slice(*a.size_at)]
        for mine, theirs, unit in (
            (a.size_mm, [r[2] for r in rows if r[2] is not None], "mm"),
            (a.volume_ml, [r[3] for r in rows if r[3] is not None], "mL"),
        ):
            values = [value for value in theirs if value]
            if mine and values and not any(0.2 < mine / value < 5 for value in values):
                value = min(values, key=lambda v: abs(abs(_tens(mine / v)) - 1))
                if abs(abs(_tens(mine / value)) - 1) < TEN:
                    yield Remark(
                        "number_ten",
                        "stop",
                        f"“{text}” is {'ten times' if mine > value else 'a tenth of'} the {value:g} {unit} of the draft.",
                        *place,
                    )
        if (
            a.size_mm
            and any((r[3] and abs(r[3] - a.size_mm) < 0.05) or (r[3] and abs(r[3] * 10 - a.size_mm) < 0.05) for r in rows)
            and not any(r[2] for r in rows)
        ):
            yield Remark("unit_changed", "stop", f"“{text}” is a length; the draft gives this number in mL.", *place)
        if (
            a.volume_ml
            and any(r[2] and (abs(r[2] - a.volume_ml) < 0.05 or abs(r[2] / 10 - a.volume_ml) < 0.05) for r in rows)
            and not any(r[3] for r in rows)
        ):
            yield Remark("unit_changed", "stop", f"“{text}” is a volume; the draft gives this number as a length.", *place)
        most = SHIFT_MAX_MM if a.code == "midline_shift" else SIZE_MAX_MM
        if (a.size_mm or 0) > most or (a.volume_ml or 0) > VOLUME_MAX_ML:
            yield Remark(
                "implausible", "stop", f"“{text}” is more than a head holds for {label(a.code)}; look at the unit and the decimal point.", *place
            )
    yield from between_sections(sections, said)


def _tens(ratio: float) -> float:
    from math import log10

    return log10(ratio)


def between_sections(sections: Mapping[str, str], said: list[Said]) -> Iterable[Remark]:
    """One finding with two sizes: the findings give one, the impression another."""
    for code in {a.code for _, a in said if a.size_at}:
        sized = {name: [a for n, a in said if n == name and a.code == code and a.size_at and there(a)] for name in SAID}
        if len(sized["findings"]) != 1 or len(sized["impression"]) != 1:
            continue
        [a], [b] = sized["findings"], sized["impression"]
        for mine, theirs, unit in ((a.size_mm, b.size_mm, "mm"), (a.volume_ml, b.volume_ml, "mL")):
            if mine and theirs and abs(mine - theirs) > max(0.5, 0.05 * mine) and b.size_at:
                ten = abs(abs(_tens(theirs / mine)) - 1) < TEN
                yield Remark(
                    "number_impression",
                    "stop" if ten else "warn",
                    f"The findings give {mine:g} {unit} for {label(code)}, the impression {theirs:g} {unit}.",
                    "impression",
                    *b.size_at,
                )


def against_impression(sections: Mapping[str, str], said: list[Said]) -> Iterable[Remark]:
    """Findings that the impression denies, forgets or invents, and findings that contradict each other."""
    if not all(sections.get(name, "").strip() for name in SAID):
        return
    first, last = ([a for n, a in said if n == name and a.code in table()] for name in SAID)
    normal = NORMAL.search(sections["impression"])
    for a in first:
        if a.polarity != "present":
            continue
        same = [b for b in last if b.code == a.code]
        denied = same[:1] if same and not any(there(b) for b in same) else denied_by_its_wider_name(a, last)
        if denied:
            yield Remark(
                "denied_in_impression",
                "stop",
                f"The findings state {label(a.code)}, the impression says there is none.",
                *at("impression", denied[0]),
            )
        elif critical(a.code) and not any(b.code in kin(a.code) and there(b) for b in last):
            if normal:
                yield Remark(
                    "normal_in_impression",
                    "stop",
                    f"The impression reads as normal, but the findings state {label(a.code)}.",
                    "impression",
                    *normal.span(),
                )
            else:
                yield Remark(
                    "missing_in_impression", "warn", f"{label(a.code).capitalize()} is in the findings and not in the impression.", *at("findings", a)
                )
    for b in last:
        if b.polarity != "present":
            continue
        same = [a for a in first if a.code == b.code]
        if (same and not any(there(a) for a in same)) or denied_by_its_wider_name(b, first):
            yield Remark(
                "denied_in_findings", "stop", f"The impression states {label(b.code)}, the findings say there is none.", *at("impression", b)
            )
        elif not any(a.code in kin(b.code) and there(a) for a in first):
            yield Remark(
                "only_in_impression", "warn", f"{label(b.code).capitalize()} is in the impression and not in the findings.", *at("impression", b)
            )
    for rows, name in ((first, "findings"), (last, "impression")):
        for a in rows:
            if a.polarity == "absent" and not a.side and not a.region and not a.comparison and a.acuity in ("", "acute"):
                clash = next(
                    (
                        b
                        for b in rows
                        if b.polarity == "present"
                        and (b.code == a.code or table()[b.code].get("parent") == a.code)
                        and b.acuity in ("", "acute")
                        and not (a.severity or b.comparison == "resolved")
                    ),
                    None,
                )
                if clash:
                    yield Remark(
                        "contradiction",
                        "warn",
                        f"The {name} say both that there is {label(clash.code)} and that there is no {label(a.code)}.",
                        *at(name, a),
                    )


def denied_by_its_wider_name(stated: Assertion, rows: Sequence[Assertion]) -> list[Assertion]:
    """The first denial of what a stated finding is a kind of, in a section that states nothing of that family."""
    if any(there(row) and row.code in kin(stated.code) for row in rows):
        return []
    return [row for row in rows if not there(row) and row.code == parent(stated.code) and reaches(row, stated)][:1]


def comparison(sections: Mapping[str, str], said: list[Said], asked: Asked) -> Iterable[Remark]:
    told = sections.get("comparison", "")
    if asked.has_prior and NO_PRIOR.match(told) and not any(COMPARED.search(sections.get(name, "")) for name in SAID):
        yield Remark(
            "comparison_missing", "warn", "There is an earlier study of this patient; the report compares with none.", "comparison", 0, len(told)
        )
    if asked.has_prior is False and NO_PRIOR.match(told):
        for name, a in said:
            if a.comparison in ("larger", "smaller", "unchanged", "resolved") and a.code in table():
                yield Remark(
                    "comparison_without_prior",
                    "warn",
                    f"{label(a.code).capitalize()} is called {a.comparison}, but no earlier study is known.",
                    *at(name, a),
                )


def question(sections: Mapping[str, str], said: list[Said], asked: Asked) -> Iterable[Remark]:
    """What the order asks for by name, or by a sign that stands for it, and no sentence answers."""
    if asked.order is None or not any(sections.get(name, "").strip() for name in SAID):
        return
    from nlp.report_pipe import codes

    mentioned = {a.code for _, a in said}
    answered = {code for own in mentioned for code in (kin(own) if own in table() else {own})}
    text = asked.order.text
    named: dict[str, str] = {}
    for a in read_all(text).assertions:
        if (
            a.context != "past"
            and a.polarity != "absent"
            and not codes().get(a.code)
            and a.code not in ("abnormality", "postoperative_change", "foreign_body")
        ):
            named.setdefault(a.code, text[a.start : a.end])
    for code, word in named.items():
        if code not in answered and not mentioned & near(code):      # a meningioma is a mass, but no word on a metastasis
            yield Remark(
                "question_unanswered", "warn", f"The order asks about “{word}”; neither findings nor impression answers it.", "impression", 0, 0
            )
    for name, wanted in questions().items():
        match = words("question", name).search(text)
        if match and not answered & set(wanted) and not set(named) & set(wanted):
            yield Remark(
                "question_unanswered", "warn", f"The order tells of “{match[0]}”; the report says nothing of {label(wanted[0])}.", "impression", 0, 0
            )


NEAR = {
    "mass": {"glioma", "metastasis", "meningioma", "pituitary_tumour", "other_tumour", "lesion"},
    "lesion": {"mass", "metastasis", "glioma", "meningioma"},
    "metastasis": {"mass", "lesion"},
    "glioma": {"mass"},
    "meningioma": {"mass"},
    "other_tumour": {"mass"},
    "pituitary_tumour": {"mass"},
    "acute_infarct": {"chronic_infarct", "restricted_diffusion"},
    "demyelinating_lesions": {"white_matter_disease"},
    "hydrocephalus": {"ventricular_enlargement"},
    "thrombosis": {"occlusion"},
    "occlusion": {"thrombosis", "stenosis"},
    "stenosis": {"occlusion"},
}


def near(code: str) -> set[str]:
    return NEAR.get(code, set())
