"""Spoils a report on purpose, one error of one kind at a time, or words it differently without changing what it says.

Works on the words alone and knows nothing of the reader (nlp/assertions.py) that is measured with it.
"""

import itertools
import re
import textwrap
from collections.abc import Callable, Sequence
from random import Random

from data.findings import FINDINGS

SENTENCE = re.compile(r"(?<=[.!?])[\s*]+(?=[A-Z0-9*•(-])")
DENIAL = re.compile(r"\b(?:no|not|without|nor|neither|none|absence|negative|free of|absent|unremarkable|normal|patent|intact|preserved)\b", re.I)
NAMED = re.compile(
    r"ha?emorrh|ha?ematoma|infarct|stroke|\bmass|lesion|tumou?r|o?edema|shift|efface|enhanc|atroph|hydroceph|aneurysm|fractur|thicken|hyperintens|"
    r"hypointens|hypodens|hyperdens|attenuation|stenos|cyst|calcifi|abscess|herniat|collection|opacif|dilat|enlarg|metaboli|occlusi|thromb|"
    r"signal|ischemi|compress|displac|diffusion|necro|invasion|swelling|erosion|lytic|malacia|contusion|sinusitis|asymmetr|meningioma|glioma",
    re.I,
)
# no finding of the images, though it names one
ADVICE = re.compile(r"recommend|advis|correlat|follow-?up|consider|warrant|obtained|performed|underwent|may be (?:useful|helpful|beneficial)", re.I)
BODY = re.compile(r"(?im)^\W*(?:findings|finding|report|observations|impression|conclusion)\W*(?::|$)")
TAIL = re.compile(r"(?im)^\W*(?:dictated by|requested by|note:|let me know|electronically|this document|pending review).*", re.S)
FULL_STOP = re.compile(r"[.!?]\s*$")


def body_of(text: str) -> tuple[int, int]:
    """The part that reports: behind the first heading of findings or impression, before the signature."""
    head = BODY.search(text)
    start = head.start() if head else 0
    tail = TAIL.search(text, start)
    return start, tail.start() if tail else len(text)


def sentences_of(text: str) -> list[tuple[int, int]]:
    start, end = body_of(text)
    cuts = [start, *(m.end() for m in SENTENCE.finditer(text, start, end)), end]
    return [(a, b) for a, b in itertools.pairwise(cuts) if text[a:b].strip()]


def one_of(pattern: re.Pattern[str], text: str, chance: Random) -> re.Match[str] | None:
    found = list(pattern.finditer(text, *body_of(text)))
    return chance.choice(found) if found else None


def replaced(text: str, match: re.Match[str], words: str) -> str:
    words = words[:1].upper() + words[1:] if match[0][:1].isupper() and words else words
    return text[: match.start()] + words + text[match.end() :]


DENIALS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\bno (?:definite |convincing )?(?:evidence|signs?) (?:of|for)\b(?! (?:prior|previous))", re.I), "evidence of"),
    (re.compile(r"\bthere (?:is|are) no\b(?! (?:longer|doubt|comparison|prior|previous|change|significant change))", re.I), "there is"),
    (
        re.compile(
            r"(?<!there is )(?<!there are )\bno\b(?! (?:longer|doubt|comparison|prior|previous|change|significant change|interval|further|"
            r"evidence|signs?|"
            r"convincing|definite))",
            re.I,
        ),
        "",
    ),
    (re.compile(r"\bwithout\b(?: (?:any |definite )?evidence of)?(?! (?:change|contrast|intravenous|iv|and with|significant change))", re.I), "with"),
    (re.compile(r"\b(is|are|was|were) not (?=(?:seen|identified|present|noted|detected|visualized|observed|evident|appreciated)\b)", re.I), r"\1 "),
    (re.compile(r"\bdoes not (?=enhance|demonstrate|restrict|extend|cross|involve)", re.I), "does "),
)


def negation_removed(text: str, chance: Random, others: Sequence[str]) -> str | None:
    found = [(m, words) for pattern, words in DENIALS for m in pattern.finditer(text, *body_of(text))]
    if not found:
        return None
    match, words = chance.choice(found)
    spoilt = replaced(text, match, match.expand(words))
    return re.sub(r"(?<=\S)  +", " ", spoilt) if not words else spoilt


SIDES = re.compile(r"\b(left|right)\b(?!-to-|-handed| to (?:left|right)| and (?:left|right)| greater| than)", re.I)


def side_swapped(text: str, chance: Random, others: Sequence[str]) -> str | None:
    found = [
        m
        for m in SIDES.finditer(text, *body_of(text))
        if not re.search(r"(?:left|right)(?:-to-| to | and | than | greater than (?:the )?)$", text[: m.start()], re.I)
    ]
    if not found:
        return None
    match = chance.choice(found)
    other = {"left": "right", "right": "left"}[match[1].lower()]
    return replaced(text, match, other.upper() if match[0].isupper() else other)


SEVERITIES = {
    "mild": "severe",
    "mildly": "severely",
    "severe": "mild",
    "severely": "mildly",
    "small": "large",
    "large": "small",
    "minimal": "marked",
    "marked": "mild",
    "markedly": "mildly",
    "moderate": "minimal",
    "moderately": "minimally",
    "slight": "severe",
    "subtle": "marked",
    "extensive": "minimal",
    "tiny": "large",
    "pronounced": "slight",
    "minimally": "markedly",
    "massive": "small",
}
SEVERITY = re.compile(rf"\b({'|'.join(SEVERITIES)})\b(?![ -]+(?:vessel|to|bowel|part))", re.I)


def severity_changed(text: str, chance: Random, others: Sequence[str]) -> str | None:
    found = [m for a, b in sentences_of(text) for m in SEVERITY.finditer(text, a, b) if not DENIAL.search(text, a, m.start())]
    if not found:
        return None
    match = chance.choice(found)
    return replaced(text, match, SEVERITIES[match[1].lower()])


# what a draft says of severity: more often a grade on a scale or an age than a word
GRADE = re.compile(rf"\b(?:{'|'.join(sorted({row.scale for row in FINDINGS.values() if row.scale}))}) (\d)\b")
AGES = {"hyperacute": "chronic", "acute": "chronic", "subacute": "chronic", "chronic": "acute"}
AGE = re.compile(rf"\b({'|'.join(AGES)})\b", re.I)


def grade_changed(text: str, chance: Random, others: Sequence[str]) -> str | None:
    """Another word of severity, another grade (Fazekas 1 for 3, 3 for 1), or another age (chronic for acute)."""
    found = [m for a, b in sentences_of(text) for pattern in (SEVERITY, GRADE, AGE) for m in pattern.finditer(text, a, b)
             if not DENIAL.search(text, a, m.start())]
    if not found:
        return None
    match = chance.choice(found)
    if match.re is GRADE:
        return f"{text[:match.start(1)]}{3 if match[1] < '2' else 1}{text[match.end(1):]}"
    return replaced(text, match, {**SEVERITIES, **AGES}[match[1].lower()])


NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?=(?:\s*[x×]\s*\d+(?:\.\d+)?)*\s*-?(?:mm|cm|ml|cc)\b)", re.I)


def number_times_ten(text: str, chance: Random, others: Sequence[str]) -> str | None:
    match = one_of(NUMBER, text, chance)
    return replaced(text, match, f"{round(float(match[1]) * 10, 3):g}") if match else None


def positive_sentences(text: str) -> list[tuple[int, int]]:
    return [(a, b) for a, b in sentences_of(text) if NAMED.search(text, a, b) and not DENIAL.search(text, a, b) and not ADVICE.search(text, a, b)
            and len(text[a:b].split()) >= 4]


def finding_dropped(text: str, chance: Random, others: Sequence[str]) -> str | None:
    found = positive_sentences(text)
    if not found or len(sentences_of(text)) < 2:
        return None
    a, b = chance.choice(found)
    heading = re.match(r"\W*[A-Z][A-Z &/]+:\W*", text[a:b])
    a += heading.end() if heading else 0
    return text[:a] + text[b:]


def finding_added(text: str, chance: Random, others: Sequence[str]) -> str | None:
    """A positive sentence of another report."""
    for other in chance.sample(list(others), min(len(others), 12)):
        found = [
            other[a:b].strip()
            for a, b in positive_sentences(other)
            if FULL_STOP.search(other[a:b]) and len(other[a:b]) < 300 and not re.match(r"\W*[\w &/]+:", other[a:b])
        ]
        spans = sentences_of(text)
        if other != text and found and spans:
            at = chance.choice(spans)[1]
            sentence = re.sub(r"\s+", " ", chance.choice(found))
            return f"{text[:at].rstrip()} {sentence} {text[at:]}" if FULL_STOP.search(text[:at]) else f"{text[:at].rstrip()}. {sentence} {text[at:]}"
    return None


# ---------------------------------------------------------------- the same in other words

SWAPS: tuple[tuple[str, ...], ...] = (  # any of a row may stand for another
    ("hemorrhage", "haemorrhage"),
    ("hematoma", "haematoma"),
    ("edema", "oedema"),
    ("tumor", "tumour"),
    ("ischemic", "ischaemic"),
    ("infarct", "infarction"),
    ("is seen", "is noted", "is identified", "is present"),
    ("are seen", "are noted", "are identified", "are present"),
    ("demonstrates", "shows", "reveals"),
    ("demonstrate", "show", "reveal"),
    ("consistent with", "compatible with", "in keeping with"),
    ("unremarkable", "normal"),
    ("likely", "probably"),
    ("approximately", "about", "roughly"),
    ("secondary to", "due to"),
    ("suggestive of", "suspicious for"),
    ("within the", "in the"),
    ("cannot be excluded", "is not excluded"),
    ("marked", "severe"),
    ("mL", "ml", "cc"),
    ("no evidence of", "no sign of", "no"),
    ("without evidence of", "without"),
    ("there is no", "no"),
    ("observed", "appreciated"),
    ("surrounding", "perilesional"),
    ("intracranial hemorrhage", "intracranial bleed"),
    ("measuring", "which measures"),
    ("study", "examination"),
    ("prominent", "pronounced"),
)
REMARKS = ("Clinical correlation is recommended.", "Thank you for the referral.", "Images were reviewed in three planes.")


def swapped(text: str, chance: Random) -> str:
    start, end = body_of(text)
    row = chance.choice([row for row in SWAPS if any(re.search(rf"\b{re.escape(w)}\b", text[start:end], re.I) for w in row)] or [("", "")])
    if not row[0]:
        return text
    found = list(
        re.finditer(rf"\b(?:{'|'.join(map(re.escape, sorted(row, key=len, reverse=True)))})\b(?! (?:\w+ )?(?:change|longer))", text[start:end], re.I)
    )
    if not found:
        return text
    match = chance.choice(found)
    word = chance.choice([w for w in row if w.lower() != match[0].lower()])
    word = word[:1].upper() + word[1:] if match[0][:1].isupper() else word
    return text[: start + match.start()] + word + text[start + match.end() :]


def other_unit(text: str, chance: Random) -> str:
    match = one_of(re.compile(r"(?<![\w.x×] )(?<![\w.])(\d+(?:\.\d+)?) ?(mm|cm)\b(?! ?[x×])"), text, chance)
    if not match or re.search(r"[x×-]\s*$", text[: match.start()]):
        return text
    value = float(match[1])
    words = f"{round(value * 10, 3):g} mm" if match[2] == "cm" else f"{round(value / 10, 3):g} cm"
    return text[: match.start()] + words + text[match.end() :]


def other_order(text: str, chance: Random) -> str:
    """Two neighbouring whole sentences change places; one that points back to the other stays."""
    spans = sentences_of(text)
    whole = re.compile(
        r"(?!(?:\W*(?:it|this|these|they|both|the (?:largest|larger|mass|lesion)|additionally|however|although|overall|no other|also|further)\b))"
        r"[A-Z][^:]*[.]\s*$",
        re.I | re.S,
    )
    pairs = [
        (a, b, c, d)
        for (a, b), (c, d) in itertools.pairwise(spans)
        if whole.match(text[a:b]) and whole.match(text[c:d]) and "\n\n" not in text[a:d]
    ]
    if not pairs:
        return text
    a, b, c, d = chance.choice(pairs)
    first, second = text[a:b].rstrip(), text[c:d].rstrip()
    return text[:a] + second + text[a:b][len(first) :] + first + text[c:d][len(second) :] + text[d:]


THERE_IS = re.compile(r"(?<=[.:] )There (is|are) ((?:an? )?[A-Za-z0-9 .-]{3,60}?) (?:seen |noted )?((?:in|within) the [a-z -]{3,50})(?=\.(?:\s|$))")
NO_EVIDENCE = re.compile(
    r"(?<=[.:] )(?:There is no|No) (?:evidence of )?([A-Za-z -]{4,60}?)(?: (?:is|are) (?:seen|identified|noted|present|observed))?(?=\.(?:\s|$))"
)
MEASURING = re.compile(
    r"(?<=[.:] )(?:An?|The) ([a-z -]{4,60}?)(?:,)? (?:measures|measuring|which measures) (?:approximately )?(\d[\d. x]* (?:cm|mm))(?=\.(?:\s|$))"
)


def other_sentence(text: str, chance: Random) -> str:
    """ "There is A in the B." as "In the B, there is A." or "A is seen in the B."; "No A." as "A is not seen." """
    match = one_of(THERE_IS, text, chance)
    if match:
        verb, what, where = match.groups()
        words = chance.choice(
            (
                f"{where[0].upper()}{where[1:]} there {verb} {what}",
                f"{what[0].upper()}{what[1:]} {verb} seen {where}",
                f"{what[0].upper()}{what[1:]} {where}",
                f"{where.split(' ', 1)[1].capitalize()} shows {what}",
            )
        )
        return text[: match.start()] + words + text[match.end() :]
    match = one_of(NO_EVIDENCE, text, chance)
    if match and " or " not in match[1] and " and " not in match[1]:
        what = match[1]
        words = chance.choice(
            (
                f"{what[0].upper()}{what[1:]} is not seen",
                f"Negative for {what}",
                f"Absence of {what}",
                f"No {what} is identified",
                f"There is no {what}",
            )
        )
        return text[: match.start()] + words + text[match.end() :]
    match = one_of(MEASURING, text, chance)
    return text[: match.start()] + f"There is a {match[2].strip()} {match[1]}" + text[match.end() :] if match else text


def other_list(text: str, chance: Random) -> str:
    match = one_of(re.compile(r"\bno (?:acute )?([a-z ]{4,30}), ([a-z ]{4,30}),? or ([a-z ]{4,30})(?=[.])"), text, chance)
    return text if not match else text[: match.start(1)] + f"{match[2]}, {match[1]}, or {match[3]}" + text[match.end() :]


def other_layout(text: str, chance: Random) -> str:
    start, end = body_of(text)
    way = chance.randrange(4)
    if way == 0:
        return re.sub(r"\r?\n", "\r\n", text)
    if way == 1:
        return text[:start] + text[start:end].upper() + text[end:]
    if way == 2:
        return text[:end].rstrip() + "\n" + chance.choice(REMARKS) + "\n" + text[end:]
    blocks = re.split(r"(\n\s*\n)", text[start:end])
    return (
        text[:start]
        + "".join(
            block if "\n" in block.strip("\n") or ":" in block else "\n".join(textwrap.wrap(block, 72, break_on_hyphens=False)) or block
            for block in blocks
        )
        + text[end:]
    )


def harmless_paraphrase(text: str, chance: Random, others: Sequence[str]) -> str | None:
    """Three to five rewordings that leave every fact as it is."""
    said = text
    for _ in range(chance.randint(3, 5)):
        said = chance.choice((swapped, swapped, other_sentence, other_sentence, other_unit, other_order, other_list, other_layout))(said, chance)
    return said if said != text else None


KINDS: dict[str, Callable[[str, Random, Sequence[str]], str | None]] = {
    "negation removed": negation_removed,
    "side swapped": side_swapped,
    "severity changed": severity_changed,
    "number x10": number_times_ten,
    "finding dropped": finding_dropped,
    "finding added": finding_added,
    "harmless paraphrase": harmless_paraphrase,
}
