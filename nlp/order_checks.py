"""Flags about the order itself: the click against the question, sides, repeats, missing words."""
import re
from collections.abc import Callable, Iterable

from data.book import Protocol
from data.records import Evidence, Order
from data.rules import Rule
from nlp.clicked import MODALITY, clicked_contrast, contrast_clicked, modalities_of
from nlp.scope import Words, span_of, spans

Rules = dict[str, Rule]
Add = Callable[[str, Iterable[Evidence]], None]

# one letter or word of a side; not "r/o", "b/l", "L spine", "RIGHT handed", "right now", "left the ED"
SIDE = re.compile(r"(?<![\w/.&'-])(left|right|[lr]hs|lt|rt(?= (?!to\b|in\b|for\b|done|comp|fin|and\b|at\b|w)[a-z])|l|r)(?![\w/&'>])(?!\.? ?o\b)"
                  r"(?!-? ?(handed|hander|hand dominant|dominant|spine|sp\b))(?! (now|away|after|before|upper quadrant|heart|the|ama|against|"
                  r"in (situ|place|behind)|work|school|over|with|by|on|untreated)\b)", re.I)
# the last digit of these ICD-10-CM codes is the side: 1 right, 2 left (ear, optic nerve, eye muscles, carotid)
SIDED_CODE = re.compile(r"\b(?:h(?:6\d|7\d|8\d|9[0-5])\.[0-9a]\d{0,2}|h46\.\d|h47\.0\d|h49\.\d|i65\.[02])([123])\b", re.I)
SAME_SIDE = re.compile(r"\b(left|right|lt|rt|l|r) (?:mca|aca|ica|m1|m2|hemispher\w+|cerebral|thalam\w+|basal ganglia|corona radiata|internal capsule|"
                       r"putam\w+)\b[^.;\n]{0,40}?(?<!no )(?<!old )\b(left|right|lt|rt|l|r)[ -]"
                       r"(?:(?:sided?|face|arm|leg|and|/|&|\+)[ /]?){0,5} ?(?:hemi(?:par|pleg)\w+|weak\w*|hemi\b|plegi\w+|numb\w*|drift)", re.I)

WEAK_THEN_LESION = re.compile(r"\b(left|right|l|r)[ -](?:sided )?(?:hemi(?:par|pleg)\w+|arm (?:and|&|\+|/) ?leg weak\w*)\b[^.;\n]{0,40}?"
                              r"\b(left|right|l|r) (?:mca|aca|ica|m1|m2|hemispher\w+) (?:occl\w*|clot|infarct\w*|stroke|territory|"
                              r"hyperdens\w*)", re.I)


def exam(order: Order, protocol: Protocol | None, words: Words, rules: Rules, add: Add) -> None:
    """Flags about the order itself: the click against the question, sides, repeats, missing words."""
    if says_little(words, rules["missing_info"]):
        add("missing_info", [Evidence(order.text[:60], 0, min(60, len(order.text)))])
    if protocol is not None and (wrong := mismatch(order.ordered_exam, protocol)):
        add("ordered_exam_mismatch", [Evidence(f"{order.ordered_exam} against {protocol.id}: {wrong}", field="ordered_exam")])
    add("laterality_conflict", sides_conflict(order.ordered_exam, words, order.priors, rules["laterality_conflict"]))
    low_value = spans(rules["low_value"], words)
    if prior := repeated(order, protocol, words.low, rules["duplicate_recent_exam"], bool(low_value)):
        add("duplicate_recent_exam", [Evidence(prior, field="priors")])
    add("low_value", low_value)


SHORT = 80      # characters; longer texts say something


def says_little(words: Words, vague: Rule) -> bool:
    """A short text of nothing but vague words and symptom codes."""
    if len(words.low.strip()) > SHORT:
        return False
    rest = vague.pattern.sub(" ", words.low) if vague.pattern else words.low
    return not re.search(r"[a-z]\w|\d", rest)


def mismatch(click: str, protocol: Protocol) -> str:
    """modality, contrast or region when the click does not fit the protocol by it; else ""."""
    clicked = modalities_of(click)
    contrast = contrast_clicked(click)
    if clicked and not clicked & set(protocol.modality.split("/")):
        return "modality"
    if contrast and (contrast == "none") != (protocol.contrast == "none") and protocol.id not in EITHER_CONTRAST:
        return "contrast"
    named = next((words for name, words in NAMED.items() if protocol.id.startswith(name)), None)
    if named is not None:
        return "" if not clicked or all(re.search(word, click, re.I) for word in named) else "region"
    return "region" if region_differs(click, protocol) else ""


EITHER_CONTRAST = {"MRA_NECK"}
NAMED = {       # special protocols -> what a click must say to mean them
    "CTA_": (r"cta|angio",), "CTV_HEAD": (r"ctv|veno",), "CT_STROKE_CODE": (r"stroke|code|cta|ctp|perfusion|angio|bat\b",),
    "CT_TRAUMA_HEAD_CSPINE": (r"head|brain|trauma", r"spine|trauma|neck"), "CT_SPINE_W": (r"spine|lumbar",),
    "MR_IAC": (r"ia[cm]|auditory|temporal|\bear|acoustic|cpa|post\w* fossa",), "MR_ORBIT": (r"orbit|optic|eye",),
    "MR_PITUITARY": (r"pituit|sella|orbit",), "MR_VENOGRAM": (r"venogr|mrv|vein|venous",), "MRA_HEAD": (r"mra|angio",), "MRA_NECK": (r"mra|angio",),
    "MR_DISSECTION": (r"dissect|mra|angio",), "MR_VESSEL_WALL": (r"wall|vascul|brain|head",), "MR_AVM": (r"avm|brain|time|twist|tricks|w\b",),
    "MR_TN_CN": (r"nerve|trigem|iac|fiesta|ciss|cn\b|brain",), "MR_SIH": (r"spine|leak|sih", r"brain|leak|sih"), "MR_FETAL": (r"f(o)?etal",),
    "MR_SPECTRO": (r"spectro|mrs|brain|head",), "MR_FUNCTIONAL": (r"func|fmri|dti|language|motor|brain",), "MR_TMJ": (r"tmj|temporomand",),
    "MR_CHIARI": (), "MR_SKULLBASE": (), "MR_SRS_PLAN": (), "MR_POSTOP_48H": (), "MRA_SPINE": (r"mra|angio",),
    "MR_CORD_COMPRESSION": (r"total|whole|entire|complete|full|cord comp|c.*t.*l",), "MR_PED_SPINE": (r"total|whole|entire|full|c.*t.*l",),
    "MR_SPINE_METS": (r"total|whole|entire|complete|full|mets|c.*t.*l",), "MR_SPINE_MS": (r"t[ -]?sp|thor|whole|total|full|spine (ms|w|wo)",),
    "MR_SPINE_INFECTION": (r"spine|lumbar|thoracic|cervical",), "MR_SPINE_TRAUMA": (r"spine|lumbar|thoracic|cervical",),
    "MR_BRACHIAL_PLEXUS": (r"plexus|brachial",), "MR_LS_PLEXUS": (r"plexus|pelvis|sacr",), "PET_AMYLOID": (r"amyloid|tau",), "NM_DATSCAN": (r"dat",),
}


LUMBAR = re.compile(r"\b(mri?|ct|xr) [lc](?=$| (w|wo|w/?wo|w/o|with\w*|s|and|or|stat)\b| ?[+&,])", re.I)     # "MRI L w/wo" is a spine


def sides_conflict(click: str, words: Words, priors: tuple[str, ...], doubt: Rule) -> list[Evidence]:
    """Opposite sides in click, words, codes and priors; or the text doubts its own side; or the weakness lies on the side of the stroke."""
    text = words.original
    said, coded = list(SIDE.finditer(text)), [m for pattern in (SIDED_CODE, SIDED_LIMB_CODE) for m in pattern.finditer(text)]
    clicked = {side(m[1]) for m in CLICKED_SIDE.finditer(LUMBAR.sub(" ", click))}
    in_words, in_codes = {side(m[1]) for m in said}, {side(m[1]) for m in coded} - {"both"}
    against = [m for m in (*said, *coded) if len(clicked) == 1 and side(m[1]) not in {"both", *clicked}]
    if against and 2 * len(against) >= len(said) + len(coded) and (2 * len(against) > len(said) + len(coded) or speaks_of(click, against, text)):
        return [Evidence(click, field="ordered_exam"), span_of(against[0], text)]
    if len(clicked) == 1 and (ours := of_the_click(click, said, text)) and all(side(m[1]) not in {"both", *clicked} for m in ours):
        return [Evidence(click, field="ordered_exam"), span_of(ours[0], text)]
    if len(clicked) == 1 and not said and (other := [p for p in priors if same_part(click, p) and opposite(p, clicked)]):
        return [Evidence(click, field="ordered_exam"), Evidence(other[0], field="priors")]
    if len(in_words) == len(in_codes) == 1 and in_words != in_codes:
        return [span_of(said[0], text), span_of(coded[0], text)]
    if in_words == {"left", "right"} and (doubted := spans(doubt, words)):
        return doubted
    if same := [span_of(m, text) for m in (*SAME_SIDE.finditer(text), *WEAK_THEN_LESION.finditer(text)) if side(m[1]) == side(m[2])]:
        return same
    if wrong := planned_elsewhere(said, text):
        return wrong
    if inside := sides_within(text):
        return inside
    now = sided_nouns(text)
    return [Evidence(prior, field="priors") for prior in priors
            if any(noun in now and len(sides | now[noun]) == 2 and len(now[noun]) == 1 for noun, sides in sided_nouns(prior).items())][:1]


# what a click is about -> what is said of the same part; a stroke's limbs lie on the other side and say nothing about a carotid
PART_OF_CLICK = [(re.compile(click, re.I), re.compile(rf"\b(?:{said})\b", re.I)) for click, said in (
    (r"\bia[mc]s?\b|temporal|\bear\b|mastoid|auditory|acoustic|t-?bone",
     r"ears?|ia[mc]s?|hearing|s?snhl|tinnitus|deaf\w*|otalgia|ot?orrh?\w*|cholesteatoma|mastoid\w*|schwannoma|acoustic|cochlea\w*|pinna|"
     r"postauric\w*|retroauric\w*"),
    (r"orbit|\beye|optic", r"eyes?|orbit\w*|optic|proptosis|ptosis|vision|visual|exophthalm\w*|globe|lid|periorb\w*|onsm|acuity"),
    (r"trigem|\btn\b|\bface|facial|\btmj\b|max\w*|mandib|\bzmc",
     r"face|facial|cheek|v[123]|jaw|tmj|trigem\w*|tgn|tn|zmc|mandib\w*|maxill\w*|tongue|gum"),
    (r"plexus|shoulder|\barm\b|\bhand\b",
     r"arm|hand|shoulder|plexus|upper (?:limb|extremity)|ue|grip|biceps|triceps|deltoid|scapula\w*|winging|flail|brachial"),
    (r"carotid|\bneck\b", r"carotid|ica|cca|cea|bruit|neck|parotid|submandib\w*|tonsil\w*|thyroid|jugular|node|horner\w*|vert\w*"),
    (r"\bleg\b|sciatic|lumbosacral plexus|ls plexus|\bhip\b", r"leg|foot|thigh|calf|sciatica?|hip|buttock"))]
FINE = re.compile(r"\b(normal|fine|ok|okay|clear|unaffected|intact|wnl|good|spared|5/5|nl|unremarkable|strong|full|negative|neg|healthy|"
                  r"better|"
                  r"resolved|gone|recovered)\b|^\W*side\b[^.;,]{0,8}$", re.I)
NOT_THIS = re.compile(r"\b(?:no|not|nothing|nil|denies|without|normal|spared?s?|unlike|old|prior|previous|remote|hx|h/o|s/p)(?: \w+){0,2} (?:on |"
                      r"in |the |of )*$", re.I)
# a click writes RT at its end, and the body part behind it
CLICKED_SIDE = re.compile(r"(?<![\w/.&'])(left|right|[lr]hs|lt|rt|l|r)(?![\w/&'])(?!-? ?(?:spine|sp)\b)", re.I)
# sciatica M54.3x and M54.4x, hemiplegia G81.xx, infarct of one artery I63.x1x, carpal tunnel G56.0x: 1 right, 2 left (G81: 3 right, 4 left)
SIDED_LIMB_CODE = re.compile(r"\b(?:m54\.[34]|g81\.\d|i63\.[0-5][1-4]|g56\.\d|m25\.51|c69\.\d)([1-4])\b(?<!i63\.\d[1-4][34])", re.I)
PROCEDURE = (r"crani\w*|resection|cea|endarterectomy|mvd|biopsy|thrombectomy|gamma knife|srs|gk|micro-?discectomy|foraminotomy|tfesi|esi|injection|"
             r"mastoidectomy|parotidectomy|stapedectomy|tympanoplasty|implant|arthrocentesis|enucleation|decompression|fess|lobectomy|stent|ablation")
PLANNED_SIDE = re.compile(rf"\b(?:for|planned|plan\w*|scheduled|booked|consent\w*|listed|pre-?op|going for|awaiting|posted(?: for| as)?|boarded)"
                          rf"\W{{1,2}}(?:(?!left|right|lt|rt\b)\w+\W){{0,3}}(left|right|lt|rt|l|r)\W(?:\w+[ -]){{0,3}}?(?:{PROCEDURE})\b", re.I)
LIMB = re.compile(r"\b(?:arm|leg|hand|foot|face|facial|droop|hemi\w*|weak\w*|numb\w*|limb|sided?|drift|motor|sensory|homonymous|hh|field|neglect|"
                  r"gaze|eye)\b", re.I)


def about(m: re.Match[str], text: str) -> str:
    """The words beside a side, within its clause: three behind, two before."""
    after = re.split(r"[.;,\n(]", text[m.end():m.end() + 40])[0]
    before = re.split(r"[.;,\n)]", text[max(0, m.start() - 25):m.start()])[-1]
    return " ".join([*before.split()[-2:], *after.split()[:3]])


def passed_over(m: re.Match[str], text: str) -> bool:
    """A side said to be well, or of long ago."""
    clause = SIDE.split(re.split(r"[.;,\n]", text[m.end():m.end() + 40])[0])[0]
    return bool(FINE.search(clause) or NOT_THIS.search(text[max(0, m.start() - 25):m.start()]))


def of_the_click(click: str, said: list[re.Match[str]], text: str) -> list[re.Match[str]]:
    """The sides that the text gives to the clicked part, without those that are well."""
    part = next((said_of for clicked, said_of in PART_OF_CLICK if clicked.search(click)), None)
    return [m for m in said if part.search(about(m, text)) and not passed_over(m, text)] if part else []


def speaks_of(click: str, against: list[re.Match[str]], text: str) -> bool:
    """As many for as against: then the other side must not be said of another part ("L plexus; BB in R orbit")."""
    part = next((said_of for clicked, said_of in PART_OF_CLICK if clicked.search(click)), None)
    others = [said_of for _, said_of in PART_OF_CLICK if said_of is not part]
    return part is None or any(part.search(about(m, text)) or not any(o.search(about(m, text)) for o in others) for m in against)


def same_part(click: str, prior: str) -> bool:
    return any(clicked.search(click) and (clicked.search(prior) or said_of.search(prior)) for clicked, said_of in PART_OF_CLICK)


def opposite(prior: str, clicked: set[str]) -> bool:
    sides = {side(m[1]) for m in SIDE.finditer(prior)}
    return len(sides) == 1 and not sides & {"both", *clicked}


def planned_elsewhere(said: list[re.Match[str]], text: str) -> list[Evidence]:
    """A procedure planned on the one side, and every lesion on the other; limbs do not count, theirs is the other side of a brain."""
    planned = PLANNED_SIDE.search(text)
    if planned is None:
        return []
    rest = [m for m in said if not planned.start() <= m.start() < planned.end() and not LIMB.search(about(m, text)) and not passed_over(m, text)]
    if rest and all(side(m[1]) not in {"both", side(planned[1])} for m in rest):
        return [span_of(planned, text), span_of(rest[0], text)]
    return []


# one complaint on both sides of one text: "R arm weak ... L arm 1/5"; eyes are left out, their two acuities stand in every note
ORGAN = {name: re.compile(rf"\b(?:{pattern})\b", re.I) for name, pattern in {
    "arm": r"arm|hand|upper limb|ue|grip|biceps|thumb", "leg": r"leg|foot|lower limb|le|calf|thigh|sciatica",
    "ear": r"ears?|ia[mc]s?|hearing|s?snhl|tinnitus|deaf\w*|otalgia|cholesteatoma",
    "face": r"facial|cheek|v[123]|trigeminal\w*|tn|ramsay|zmc|tmj|arthrocentesis"}.items()}
BOTH = re.compile(r"\b(bilat\w*|both|b/l|either|each|alternat\w*|other (side|ear|arm|leg)|contra-?lateral\w*|switch\w*|spread\w*|previous\w*|old|"
                  r"prior|"
                  r"recovered|hx|history|years? ago|yrs? ago|hander|ambidextrous|then|also|later)\b|[<>=]", re.I)
WELL = re.compile(r"\b(normal|fine|ok|okay|clear|unaffected|intact|wnl|good|spared|5/5|better|worse|more|less|now|too|nl|unremarkable|strong|"
                  r"residual|"
                  r"chronic|since|\d+ ?db|resolved|gone|(19|20)\d\d)\b", re.I)


CORRECTED = re.compile(r"\b(no|not|sorry|correction|i mean|rather)\W{1,2}(it'?s |the |my )?$", re.I)


def sides_within(text: str) -> list[Evidence]:
    """The same complaint on opposite sides, where neither is said to be well, old or the other one."""
    if BOTH.search(text):
        return []
    sides = list(SIDE.finditer(text))
    for organ in ORGAN.values():
        found: dict[str, re.Match[str]] = {}
        for m, after in zip(sides, [*(s.start() for s in sides[1:]), len(text)], strict=False):
            clause = re.split(r"[.;,\n]", text[m.end():min(after, m.end() + 40)])[0]
            before = re.split(r"[.;,\n]", text[max(0, m.start() - 25):m.start()])[-1]
            near = " ".join(clause.split()[:3])
            if (organ.search(near) or organ.search(" ".join(before.split()[-2:]))) and not WELL.search(clause) and not WELL.search(before):
                found.setdefault(side(m[1]), m)
        if {"left", "right"} <= found.keys():
            first, second = sorted((found["left"], found["right"]), key=lambda m: m.start())
            if second.start() - first.start() > 8 and not CORRECTED.search(text, first.end(), second.start()):
                return [span_of(first, text), span_of(second, text)]
    return []


def sided_nouns(text: str) -> dict[str, set[str]]:
    """What is called left or right: noun -> sides."""
    found: dict[str, set[str]] = {}
    for m in SIDE.finditer(text):
        if noun := NOUN.match(text, m.end()):
            found.setdefault(noun[1].lower(), set()).add(side(m[1]))
    return found


NOUN = re.compile(r"[ -]([a-z]{3,})", re.I)


def side(word: str) -> str:
    return {"l": "left", "2": "left", "r": "right", "1": "right"}.get(word[0].lower(), "both")


AGO = re.compile(r"\b(\d+|an?|few|several|couple|one|two|three|four|five|six)(?: of)? ?"
                 r"(min|mins|minutes?|h|hr|hrs|hours?|d|days?|w|wk|wks|weeks?|mo|mos|months?) (?:ago|earlier|prior|back)\b", re.I)
NOW = re.compile(r"\b(today|yesterday|overnight|tonight|this (?:morning|am|week)|last (?:night|week)|day ?\d|dol ?\d+|"
                 r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?)\b", re.I)
DAY_MONTH = re.compile(r"(?<![\d/])(1[0-2]|[1-9])/(3[01]|[12]?\d)(?![\d/])")
NUMBER = {"a": 1, "an": 1, "few": 3, "several": 5, "couple": 2, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
DAYS = {"m": 0.001, "h": 0.04, "d": 1.0, "w": 7.0}
AGAIN = re.compile(r"\b(again|repeat\w*|re-?request\w*|2nd|(?<!a )second(?= (mri?|ct|dat|scan|look))|redo\w*|re-?scan\w*|another (mri?|ct|scan|look|"
                   r"one)|second opinion)\b")
LYTIC = re.compile(r"\b(24 ?h\w*|tnk|tpa|lytic|vasospasm)\b")
# a reason that the text gives for another look
REASON = re.compile(r"\b(interval|progress(ion|ed|ing|ive)|response|respond\w*|growth|plan(ning|ned)?|nav|navigation|stealth|post-?op\w*|pod|"
                    r"24 ?-?h\w*|"
                    r"s/p (evac\w+|crani\w*|resection|tnk|tpa)|worse\w*|deteriorat\w*|new (deficit|weakness|droop|onset|focal|drift)|declin\w*|"
                    r"gcs (drop\w*|fell|down)|vasospasm|perfusion|pseudo\w*|motion|non-?diagnostic|incomplete|protocol suggested|recommend\w*|"
                    r"dedicated|surveillance|recheck|compare|toxo|safety)\b")
# the same exam is at hand, whatever reason the order gives
DONE_ELSEWHERE = re.compile(r"\bsame (?:exam|study|scan|[ctl]-?spine|brain|head)?(?: ?(?:mri?|ct|exam|study|scan))? (?:was |already )?(?:done |"
                            r"performed )?(?:at|in|here)\b|"
                            r"\bimages? (?:are )?(?:already )?available\b|\b(?:surgeon|ordering|team|md|referrer|clinic) (?:was |is )?unaware\b")
RE_REQUESTED = re.compile(r"\bre-?(request|order|click)\w*")
PLANNED = {"MR_SRS_PLAN", "MR_FUNCTIONAL", "MR_POSTOP_48H", "MR_SPECTRO", "CT_NAV", "MR_BRAIN_INFECTION", "CT_STROKE_CODE"}


def repeated(order: Order, protocol: Protocol | None, text: str, cue: Rule, low_value: bool) -> str:
    """The prior that the click repeats, or "": within ten days when another exam is meant, within six weeks when no reason is given."""
    kind = kind_of(order.ordered_exam)
    if protocol is None or not kind[0]:
        return ""
    meant = kind_of(f"{protocol.id.replace('_', ' ')} {protocol.region}")
    longest = 120 if low_value or AGAIN.search(text) else 42
    for prior in order.priors or told(text):
        days = days_since(prior)
        if days is None or days > longest or not same_kind(kind, kind_of(prior)) or first_contrast(order.ordered_exam, prior):
            continue
        if not same_kind(kind, meant):
            near = days <= 10 or (days <= 14 and AGAIN.search(text))
            if near and protocol.id != "CT_STROKE_CODE" and not LYTIC.search(text):
                return prior
        elif ((protocol.id not in PLANNED or RE_REQUESTED.search(text)) and not (REASON.search(text) and not DONE_ELSEWHERE.search(text))
              and (protocol.contrast == "none" or clicked_contrast(prior) != "none")):
            words = f"{text} {order.ordered_exam} {prior}".lower()
            if days <= 7 or low_value or DONE_ELSEWHERE.search(text) or (cue.pattern and cue.pattern.search(words)):
                return prior
    return ""


TOLD = re.compile(r"\b(?:mri?|ct|cta|mra|scan)\b[^.;\n]{0,60}")


def told(text: str) -> tuple[str, ...]:
    """Earlier exams that only the text tells of, when it asks for another."""
    return tuple(m[0] for m in TOLD.finditer(text) if days_since(m[0]) is not None) if AGAIN.search(text) else ()


def days_since(prior: str) -> float | None:
    """How long ago a prior was, in days; None when it does not say."""
    if m := AGO.search(prior):
        return (NUMBER.get(m[1].lower()) or float(m[1])) * (30.0 if m[2].lower().startswith("mo") else DAYS[m[2][0].lower()])
    if NOW.search(prior):
        return 1.0
    if re.search(r"\blast month\b", prior, re.I):
        return 30.0
    return 8.0 if DAY_MONTH.search(prior) else None     # a day and a month, no year: of late, as a rule


def first_contrast(click: str, prior: str) -> bool:
    """A CT with contrast, or a myelogram, is clicked after one without: no repeat."""
    if "myelo" in click.lower() and "myelo" not in prior.lower():
        return True
    return bool(MODALITY["CT"].search(prior)) and contrast_clicked(click) == "with" and clicked_contrast(prior) != "with"


Kind = tuple[frozenset[str], bool, frozenset[str]]
VESSELS = re.compile(r"\b(cta|mra|ctv|mrv|dsa|angio\w*|venogra\w*|carotids?|duplex)\b", re.I)
PARTS = {name: re.compile(rf"\b({pattern})\b", re.I) for name, pattern in {
    "head": "brain|head|cranial|stroke|h ?[&/] ?n", "neck": "neck|carotids?|vertebral|h ?[&/] ?n", "face": r"face|facial|max\w*|sinus\w*",
    "orbits": "orbits?|eyes?", "ear": "temporal|iacs?|ear|mastoid", "sella": "pituitary|sella", "c": "c[ -]?spine|cervical",
    "t": "t[ -]?spine|thoracic", "l": "ls?[ -]?spine|lumbar|lumbosacral", "spine": "spine|spinal", "striatum": r"dat\w*"}.items()}


def kind_of(words: str) -> Kind:
    """(modalities, vessels or not, parts of the body) named in words."""
    return frozenset(modalities_of(words)), bool(VESSELS.search(words)), frozenset(name for name, pattern in PARTS.items() if pattern.search(words))


def same_kind(one: Kind, two: Kind) -> bool:
    return bool(one[0] & two[0]) and one[1] == two[1] and bool(one[2] & two[2])


REGIONS = {     # what a click says -> words that stand in a protocol's region
    r"\b(brain|head|cranial|stroke)\b": ("brain", "head", "cisterns", "skull base"),
    r"\b(neck|carotid)\b": ("neck", "brachial", "cervical"),
    r"\b(c[ -]?spine|cervical)\b": ("cervical", "whole spine"), r"\b(t[ -]?spine|thoracic)\b": ("thoracic", "thoracolumbar"),
    r"\b(ls?[ -]?spine|lumbar|lumbosacral)\b": ("lumbar", "thoracolumbar", "LS plexus"),
    r"\b(sinus|face|facial|max\w*)\b": ("sinuses", "face", "orbits"),
    r"\borbits?\b": ("orbits", "face"), r"\b(temporal|iac|ear|mastoid)\b": ("temporal bone", "IAC"), r"\b(pituitary|sella)\b": ("sella",),
}


def region_differs(click: str, protocol: Protocol) -> bool:
    said = [regions for pattern, regions in REGIONS.items() if re.search(pattern, click, re.I)]
    return bool(said) and not any(word in protocol.region for regions in said for word in regions)
