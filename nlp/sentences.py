"""Sentences for findings: the plain template, always true to side, number, unit and polarity; slots filled from the graph; what is said together."""
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random

from data.findings import FINDINGS
from data.records import Finding
from nlp.grammar import american, compose, nouns_of, slots_of, worded, wording
from nlp.tokenizer import REGISTERS

NOUNS = {code: tuple(name for name, _, _ in nouns_of(code)) for code in worded() if code in FINDINGS}
TOGETHER_MAX = 6        # absent findings in one sentence
# where nothing is stated or denied: of the findings section, of the impression
NO_FINDING = "No finding is stated: the evidence decides nothing of what was looked for (see technique). Read the images."
NOTHING = "No statement: the evidence is not enough. Read the images."
LOBES = ("frontal", "parietal", "temporal", "occipital")
# what lies on the brain lies in no lobe: a subdural haematoma in the frontal region
ON_THE_BRAIN = ("epidural_haemorrhage", "subdural_haemorrhage", "subarachnoid_haemorrhage", "extra_axial_collection")
SIDED = re.compile(r"\b(?:left|right|bilateral|both)\s+", re.I)


def render(finding: Finding) -> str:
    """The plain template of one finding, present or absent; a hedged one says possible."""
    noun = finding.label
    if not finding.present:
        return f"No {noun}."
    slots = slots_of(finding)
    place = f" in the {value_of(finding, '<region>')}" if "<region>" in slots else ""
    if finding.code == "midline_shift":
        size = f" of {number(finding.size_mm)} mm" if finding.size_mm is not None else ""
        words = f"midline shift{size}" + (f" to the {finding.side}" if "<side>" in slots else "")
    else:
        scaled = "<grade>" in slots and bool(FINDINGS[finding.code].scale)
        before = "".join(f"{value_of(finding, slot)} " for slot in ("<count>", "<grade>", "<acuity>", "<side>")
                         if slot in slots and not (slot == "<grade>" and scaled))
        size = "".join(f", {value_of(finding, slot)}" for slot in ("<size>", "<volume>") if slot in slots) + (
            f" ({value_of(finding, '<grade>')})" if scaled else "")
        words = before + (singular(noun) if finding.count == 1 else plural(noun) if finding.count is not None else noun) + place + size
    return f"Possible {words}." if finding.band == "hedge" else f"{words[0].upper()}{words[1:]}."


def render_absent(findings: Sequence[Finding]) -> str:
    """One sentence for several absent findings."""
    names = [finding.label for finding in findings]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"No {listed}."


def number(value: float) -> str:
    """One decimal, none when it says nothing: 12.0 is 12."""
    return f"{value:.1f}".removesuffix(".0")


def paraphrase(findings: Sequence[Finding], chance: Random, register: str = "", spelling: Callable[[str], str] | None = None) -> str:
    """One of many wordings of one finding, or of several absent ones; slots stand where the graph's own words go."""
    return compose(findings, register or chance.choice(REGISTERS), chance, spelling or chance.choice((str, str, american)))


# ---------------------------------------------------------------- slots

def fill(sentence: str, finding: Finding) -> str:
    """Copy the graph's own words into a sentence's slots; the words beside them agree with what was copied."""
    text = sentence
    for slot in slots_of(finding):
        text = re.sub(rf"\b([Aa])n? {slot}", lambda m, slot=slot: article(m[1], finding, slot), text)      # type: ignore[misc]  # mypy cannot type a lambda's default
        text = text.replace(slot, value_of(finding, slot))
    if finding.present:
        text = agreeing(text, finding) if finding.count is not None else agreeing_with_noun(text, finding)
    text = re.sub(r"\b([Aa])n? (?=([A-Za-z]))", lambda m: m[1] + ("n " if m[2].lower() in "aeiou" else " "), text)
    text = text[:1].upper() + text[1:]
    return re.sub(r"(?<=\w)\.\.$", ".", text)


def article(letter: str, finding: Finding, slot: str) -> str:
    value = value_of(finding, slot)
    if slot == "<count>" or value == "bilateral":
        return slot
    vowel = re.match(r"[aeiou]|8|1[18](?!\d)", value)
    return f"{letter}{'n' if vowel else ''} {slot}"


def agreeing(text: str, finding: Finding) -> str:
    """One microbleed is, three microbleeds are."""
    one = finding.count == 1
    for noun in sorted(wording_names(finding.code), key=len, reverse=True):
        text, found = re.subn(rf"\b{re.escape(noun)}\b", singular(noun) if one else plural(noun), text, flags=re.I)
        if found:
            break
    return VERB.sub(" is" if one else " are", text)


VERB = re.compile(r"(?<=\w)(?<!\bfindings) (?:is|are)(?= )", re.I)        # "findings are suspicious for a cyst" whatever they are


def agreeing_with_noun(text: str, finding: Finding) -> str:
    """Blood products are, mass effect is and takes no article: a taught decoder now and then says otherwise."""
    known = nouns_of(finding.code) if finding.code in wording()["nouns"] else ()
    for spelt, kind in sorted(((spelt, kind) for name, kind, _ in known for spelt in (name, american(name))), key=lambda row: -len(row[0])):
        if re.search(rf"\b{re.escape(spelt)}\b", text, re.I):
            text = VERB.sub(" are" if kind == "many" else " is", text)
            if kind != "one":
                text = re.sub(rf"\b(?:a|an) (?=(?:[\w-]+ ){{0,2}}{re.escape(spelt)}\b)", "", text, flags=re.I)
            break
    return text


@lru_cache
def wording_names(code: str) -> frozenset[str]:
    return frozenset(spelt for name, _, _ in nouns_of(code) for spelt in (name, american(name))) if code in wording()["nouns"] else frozenset()


def singular(noun: str) -> str:
    if noun.endswith("metastases"):
        return noun.removesuffix("es") + "is"
    return noun.removesuffix("s") if re.search(r"(?:bleeds|rhages|lesions|plaques|changes)$", noun) else noun


def plural(noun: str) -> str:
    return noun if noun.endswith(("s", "disease", "effect")) and not noun.endswith("mass") else noun + ("es" if noun.endswith("s") else "s")


def value_of(finding: Finding, slot: str) -> str:
    """The graph's own words for a slot that this finding has."""
    if slot == "<side>":
        return finding.side or ""
    if slot == "<size>":
        return f"{number(finding.size_mm or 0.0)} mm"
    if slot == "<volume>":
        return f"{number(finding.volume_ml or 0.0)} mL"
    if slot == "<count>":
        return str(finding.count)
    if slot == "<grade>":
        return f"{FINDINGS[finding.code].scale} {finding.grade}".strip()
    if slot == "<acuity>":
        return finding.acuity.replace("_", " ")
    assert slot == "<region>", slot
    return place_of(finding)


def place_of(finding: Finding) -> str:
    """A region, or several with commas, in words: frontal lobe, frontal and parietal lobes, thalamus and basal ganglia."""
    places = SIDED.sub("", finding.region).split(", ")      # the side has its own slot
    kind = "region" if finding.code in ON_THE_BRAIN else "lobe"
    if all(place.lower() in LOBES for place in places):
        return f"{listed(places)} {kind}{'s' if len(places) > 1 or finding.side == 'bilateral' else ''}"
    return listed([f"{place} {kind}" if place.lower() in LOBES else place for place in places])


def listed(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def has_side(finding: Finding) -> bool:
    return finding.side in ("left", "right", "bilateral")


def measured(finding: Finding) -> float | None:
    return finding.size_mm if finding.code == "midline_shift" else finding.volume_ml


# ---------------------------------------------------------------- what is said together

def group_findings(findings: Sequence[Finding]) -> list[list[Finding]]:
    """What is stated, sentence by sentence: each present finding alone, the absent ones a few together, what is omitted nowhere.

    A haemorrhage of a known type says "haemorrhage" already: the general finding joins only when no type is present, or none for sure of what is.
    """
    sure = any(f.code == "intracranial_haemorrhage" and f.present and f.band == "state" for f in findings)
    typed = any(f.present and (f.band == "state" or (f.band == "hedge" and not sure)) and f.code.endswith("_haemorrhage")
                and f.code != "intracranial_haemorrhage" for f in findings)
    present = [[f] for f in findings if f.present and f.band != "omit" and not (typed and f.code == "intracranial_haemorrhage")]
    absent = [f for f in findings if not f.present and f.band == "state"]
    return present + [absent[start:start + TOGETHER_MAX] for start in range(0, len(absent), TOGETHER_MAX)]
