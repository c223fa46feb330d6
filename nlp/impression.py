"""The impression from the findings graph: most urgent first, numbered, the order's question answered, compared only with what was measured."""
import re
from collections.abc import Sequence
from dataclasses import dataclass

from data.findings import FINDINGS
from data.records import Finding
from nlp.assertions import Assertion, read_all
from nlp.grammar import spelling_of
from nlp.report_checks import kin, label, questions, words
from nlp.report_pipe import codes
from nlp.sentences import NOTHING, TOGETHER_MAX, group_findings, number, render, render_absent

LATER = 10**6           # minutes: after every finding that has a limit of time
# a change within what measuring twice differs by is none: a share of the earlier measurement, or so much. Outlines are 10 % (CT) to 20 % (MR) off.
SAME_ML, SAME_MM, SAME_COUNT = (0.2, 1.0), (0.1, 2.0), (0.2, 1.0)
QUESTIONS_MAX = 4
KNOWN = re.compile(r"\b(?:known|previous|prior|old)\b[^.;,?]*$", re.I)      # told, not asked

SIDE, CLAUSE_END = re.compile(r"\b(?:left|right|lt|rt|l|r)\b", re.I), re.compile(r"[,;:.?!\n]")
EITHER = re.compile(r"\b(?:bilateral\w*|both|either|left\W+(?:or\W+|and\W+)?right|right\W+(?:or\W+|and\W+)?left)\b", re.I)

# a question mark before a name ("? bleed", "fall ?bleed"), or behind it, or behind the list that it stands in ("ICH, SDH or fracture?")
MARK_BEFORE = re.compile(r"(?:(?<!\w)\?|\?(?=\w))[^,;:.?!\n]*$")
MARK_BEHIND = re.compile(r"(?:[^,;:.?!\n]*|[^;:.?!\n]*\bor\b[^,;:.?!\n]*)(?:(?<=\S)\?(?!\w)|\?\s*$)")
ASKING = re.compile(r"\b(?:any|(?:is|are) there|exclud\w*|rule out|r/o|look\w* for|evidence of|query|possibl\w+|suspect\w*|concern\w*|"
                    r"assess\w* for|evaluat\w+ for)\b", re.I)
# in the words beside a name: it is told, and something else of it is asked
OF_SOMETHING_ELSE = re.compile(
    r"\b(?:gr[oe]w\w*|larg\w*|small\w*|bigger|wors\w*|better|chang\w*|stable|unchanged|resol\w*|residu\w*|recur\w*|increas\w*|decreas\w*|"
    r"expan\w*|progress\w*|evol\w*|improv\w*|new|size|extent|causes?|why|source|interval|follow\w*|f/?u|evacuat\w*|drain\w*|clip\w*|coil\w*|"
    r"resect\w*|surg\w*|post[- ]?op\w*|s/p|recent\w*|last|ago|treated|mother|father|brother|sister|family|disorder|diathesis|tendency)\b", re.I)
AFTER = re.compile(r"\b(?:after|since|following|post)\s+(?:(?:a|an|the|his|her|left|right|old)\s+){0,2}$", re.I)
OTHER_BONE = re.compile(r"\b(?:facial|face|nasal|nose|orbit\w*|mandib\w*|jaw|zygom\w*|maxill\w*|dental|tooth|rib|ribs|hip|femur|wrist|arm|leg|"
                        r"humer\w*|clavic\w*|pelvi\w*|ankle|tibia\w*|radius|hand|spin\w*|vertebra\w*|neck|cervical|c-spine|odontoid)\b", re.I)


@dataclass(frozen=True)
class Said:
    """One sentence of the impression, and the findings it rests on."""

    text: str
    findings: tuple[str, ...] = ()
    confidence: float = 1.0


def compose_impression(findings: Sequence[Finding], order_text: str = "") -> list[Said]:
    """Sentences of the impression; a normal result only on its own evidence, and "yes" or "no" only from the graph."""
    groups = group_findings(findings)
    asked = asked_codes(order_text)
    present = sorted((group[0] for group in groups if group[0].present), key=urgency)
    sides = asked_sides(order_text)
    places = asked_places(order_text)
    named = asked_by_name(order_text)
    yes = [is_named(f, named) and f.band != "hedge" and on_the_side_asked(f, sides) and in_the_place_asked(f, places) for f in present]
    rows = [Said(("Yes: " if agreed else "") + lowered(compared(f), agreed) + other_side(f, present, sides), (f.id,), f.probability)
            for f, agreed in zip(present, yes, strict=True)]
    rows += gone(findings)
    answers = [answer(code, findings) for code in asked if not any(code in kin(f.code) for f in present)]
    rows += dict.fromkeys(answers)
    absent = [f for group in groups for f in group if not f.present]
    if not present and not any(row.text.startswith("No ") for row in rows) and (absent or not rows):
        rows += nothing_found(absent)
    spelt = spelling_of(order_text)
    return [Said((f"{i}. " if len(rows) > 1 else "") + spelt(row.text), row.findings, row.confidence) for i, row in enumerate(rows, 1)]


def urgency(finding: Finding) -> tuple[int, bool, float]:
    row = FINDINGS.get(finding.code)
    return (row.communicate_minutes if row and row.communicate_minutes else LATER), finding.band == "hedge", -finding.probability


def lowered(text: str, inside: bool) -> str:
    return text[:1].lower() + text[1:] if inside and text[1:2].islower() else text


def is_named(finding: Finding, named: Sequence[Assertion]) -> bool:
    """A haematoma answers for a haemorrhage, not the other way round; no age answers for an old one."""
    return any(a.code in (finding.code, FINDINGS[finding.code].parent if finding.code in FINDINGS else "")
               and a.acuity in ("", "acute", finding.acuity) for a in named)


# ---------------------------------------------------------------- the order's question

def asked_sides(order_text: str) -> list[tuple[str, str]]:
    """(code, left or right) of what the order names on a side, known or asked; a weakness beside it has a side of its own."""
    found = []
    for a in read_all(order_text).assertions:
        before, after = CLAUSE_END.split(order_text[:a.start])[-1], CLAUSE_END.split(order_text[a.end:])[0]
        near = SIDE.findall(before)[-1:] or SIDE.findall(after)[:1]
        side = {"l": "left", "r": "right"}[near[0][0].lower()] if near else None
        if a.polarity != "absent" and side and (a.side == side or (a.side == "bilateral" and not EITHER.search(f"{before} {after}"))):
            found.append((a.code, side))
    return found


def asked_places(order_text: str) -> list[tuple[str, str]]:
    """(code, region) of what the order names in a part of the brain."""
    return [(a.code, region) for a in read_all(order_text).assertions if a.polarity != "absent" for region in a.region.split(", ") if region]


def in_the_place_asked(finding: Finding, places: Sequence[tuple[str, str]]) -> bool:
    """A finding in another part of the brain than the one asked about, or in none that is known, answers no question with yes."""
    named = {region for code, region in places if code in kin(finding.code)}
    return not named or bool(named & set(finding.region.split(", ")))


def on_the_side_asked(finding: Finding, sides: Sequence[tuple[str, str]]) -> bool:
    """A finding on the other side than the one asked about answers no question with yes."""
    named = {side for code, side in sides if code in kin(finding.code)}
    return not named or finding.side not in ("left", "right") or finding.side in named


def other_side(finding: Finding, present: Sequence[Finding], sides: Sequence[tuple[str, str]]) -> str:
    """A sentence behind a finding of which nothing lies on the side that the order names.

    It denies nothing: the graph has a side for what is there, and none for what is not. It names no finding, so it reads back as none.
    """
    named = [(code, side) for code, side in sides if code in kin(finding.code)]
    if on_the_side_asked(finding, sides) or any(code in kin(other.code) and on_the_side_asked(other, [(code, side)])
                                                for code, side in named for other in present):
        return ""
    first, then = ("To", "to") if finding.code == "midline_shift" else ("On", "on")
    return f" {first} the {finding.side}, not {then} the {named[0][1]} that the order names."


def asked_codes(order_text: str) -> list[str]:
    """What the order names as a question, then what its words ask for without naming it; codes of data/findings.toml."""
    if not order_text.strip():
        return []
    named = [a.code for a in read_all(order_text).assertions if a.context != "past" and a.polarity != "absent" and not codes().get(a.code)
             and not told_as_known(order_text, a)]
    meant = [wanted[0] for name, wanted in questions().items() if words("question", name).search(order_text)]
    known = [code for code in dict.fromkeys(named + meant) if code in FINDINGS]
    return [code for code in known if not any(FINDINGS[other].parent == code for other in known)][:QUESTIONS_MAX]


def asked_by_name(order_text: str) -> list[Assertion]:
    """The findings whose presence the order asks about: by a question mark on them, "r/o", "any", "suspected" and the like.

    What is told (a sign, a fall, a bleed of last week), what is asked of something else (its growth, its cause) and what lies in another bone is not.
    """
    return [a for a in read_all(order_text).assertions if a.context != "past" and a.polarity != "absent" and not codes().get(a.code)
            and not told_as_known(order_text, a) and is_asked(order_text, a)]


def told_as_known(order_text: str, a: Assertion) -> bool:
    """Whether the words before a name tell it as known; "old infarct?" asks for an old one."""
    found = KNOWN.search(order_text[:a.start])
    return found is not None and not (a.code == "chronic_infarct" and not re.search(r"\bknown\b", found[0], re.I) and is_asked(order_text, a))


def is_asked(order_text: str, a: Assertion) -> bool:
    before, after = CLAUSE_END.split(order_text[:a.start])[-1], CLAUSE_END.split(order_text[a.end:])[0]
    clause = f"{before} {order_text[a.start:a.end]} {after}"
    if OF_SOMETHING_ELSE.search(clause) or AFTER.search(before) or (a.code == "skull_fracture" and OTHER_BONE.search(clause)):
        return False
    return (a.context == "asked" or a.polarity == "possible" or bool(ASKING.search(before)) or bool(MARK_BEFORE.search(order_text[:a.start]))
            or bool(MARK_BEHIND.match(order_text, a.end)))


def answer(code: str, findings: Sequence[Finding]) -> Said:
    """What the graph says of a finding that is not stated present: no, or that it cannot be excluded."""
    own = next((f for f in findings if f.code == code), None)
    parent = next((f for f in findings if f.code == FINDINGS[code].parent), None)
    for finding in (own, parent):
        if finding is not None and not finding.present and finding.band == "state":
            return Said(render_absent([finding]), (finding.id,), 1 - finding.probability)
    name = label(code)
    why = "the evidence is not enough" if own is not None else "it was not assessed"
    text = f"{name[0].upper()}{name[1:]} cannot be excluded; {why}."
    return Said(text, (own.id,) if own is not None else (), 0.5 if own is None else max(own.probability, 1 - own.probability))


def nothing_found(absent: Sequence[Finding]) -> list[Said]:
    if not absent:
        return [Said(NOTHING)]
    told = absent[:1] if absent[0].code == "intracranial_haemorrhage" else absent[:TOGETHER_MAX]
    return [Said(render_absent(told), tuple(f.id for f in told), min(1 - f.probability for f in told))]


# ---------------------------------------------------------------- an earlier study

def compared(finding: Finding) -> str:
    """The finding's template, with new, larger, smaller or unchanged where it was measured before in the same unit."""
    text, prior = render(finding), finding.prior
    if prior is None or finding.band == "hedge":
        return text
    since = f" since {day(prior.date)}" if prior.date else ""
    if not prior.present:
        return f"{text[:-1]}, new{since}."
    changes = []
    for now, before, unit, (share, least) in ((finding.volume_ml, prior.volume_ml, " mL", SAME_ML), (finding.size_mm, prior.size_mm, " mm", SAME_MM),
                                              (finding.count, prior.count, "", SAME_COUNT)):
        if now is not None and before is not None:
            change = "unchanged" if abs(now - before) <= max(least, share * before) else "larger" if now > before else "smaller"
            changes.append((change, before, unit))
    changed = [row for row in changes if row[0] != "unchanged"]
    if not changes or len({change for change, _, _ in changed}) > 1:        # one measure grew, the other shrank: that is no change of one thing
        return text
    change, before, unit = (changed or changes)[0]
    if unit:
        return f"{text[:-1]}, {change}{since} (previously {number(before)}{unit})."
    grown = {"larger": "increased in number", "smaller": "decreased in number"}.get(change, change)
    return f"{text[:-1]}, {grown}{since} (previously {number(before)})."


def gone(findings: Sequence[Finding]) -> list[Said]:
    """What was there and now has its own evidence of absence."""
    rows = [f for f in findings if not f.present and f.band == "state" and f.prior is not None and f.prior.present]
    return [Said(f"{f.label[0].upper()}{f.label[1:]} {'have' if f.label.endswith('s') else 'has'} resolved"
                 + (f" since {day(f.prior.date)}" if f.prior and f.prior.date else "") + ".", (f.id,), 1 - f.probability) for f in rows]


def day(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:8]}"
