"""Safety flags: rules with sources over metadata and text. No model decides here, and none can overrule it.

The words of a rule stand in data/rules.toml; what is here says when they count.
"""
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from data.book import Protocol
from data.records import Evidence, Flag, Order
from data.rules import Rule, any_term, read_rules

Rules = dict[str, Rule]
Add = Callable[[str, Iterable[Evidence]], None]

# a denial reaches the noun phrase beside it and no further: a hazard wrongly denied is worse than one wrongly shown
NEGATED = re.compile(r"\b(no|denies|denied|without|never had|neg(ative)? for|free of|no (history|hx|h/o) of|does not have|doesn'?t have)"
                     r"( (?!but\b|has\b|had\b|with\b|because\b|mri?\b|ct\b|contrast\b|gad\b)(a|an|any|\w+)/?){0,2}[ /]$|"
                     r"\b(no|denies) (pace\w*|icd|implants?|devices?|metal|hardware|clips?|stents?|allerg\w*|stimulators?)"
                     r"(,? (or |nor |and )?[\w-]+){0,4}[, /]+$")
DENIED_AFTER = re.compile(r"^ ?(test )?(was |is |were |has been |since )?(neg(ative)?(?= *($|[.;,\n]))|removed|explanted|ruled out|excluded)\b")
UNSURE = re.compile(r"\b(unsure|unknown|not sure|unclear|whether|if)\b[^.;\n]{0,20}$")
FAMILY = re.compile(r"\b(mother|father|sister|brother|mom|dad|wife|husband|grand\w+|aunt|uncle|cousin|partner|family)\b"
                    r"(?![^.;\n]*\b(says?|said|states?|reports?|thinks?|believes?|notes?|mentions?|confirms?|told|tells|brought|he|she|his|pt|"
                    r"patient|child|kid)\b)"
                    r"[^.;\n]{0,25}$")

LP = re.compile(r"\b(lp|lumbar puncture|myelogra\w*|spinal tap|lumbar tap|tap test|opening pressure|blood patch|cisternogram|"
                r"intrathecal (injection|chemo\w*))\b", re.I)
MODALITY = {"MR": re.compile(r"\b(mri?|mra|mrv|magnetic|fmri|mr)\b", re.I), "CT": re.compile(r"\b(ct|cta|ctv|ctp|cat scan|computed)\b", re.I),
            "XA": re.compile(r"\b(dsa|angiogram|ir|catheter)\b", re.I), "US": re.compile(r"\b(us|ultrasound|doppler|duplex)\b", re.I),
            "XR": re.compile(r"\b(xr|x-?ray|radiograph|\d view|films?)\b", re.I), "FL": LP,
            "NM": re.compile(r"\b(pet|spect|datscan|nuclear|scintigraphy)\b", re.I)}
ALSO = {"CT": re.compile(r"\b(ncct|nchct|ct\w{1,3}|cths?|cats?)\b", re.I), "XR": re.compile(r"\b(shunt|skull) (series|films?)\b", re.I),
        "NM": re.compile(r"\bdat[ -]scan\b", re.I)}
WITH = re.compile(r"\b(w|with|w/|gad|post|contrast|cta|ctv|ctp|enhanced|wwo|w/wo)\b|w ?[&+/] ?wo|w/wo|w and wo", re.I)
WITHOUT = re.compile(r"\b(wo|w/o|without|non-?con\w*|plain)\b", re.I)
NO_AGENT = re.compile(r"\b(?:w/o|wo|without|no|non|plain)\b[ -]?(?:iv )?(?:contrast|con\b|gad\w*|dye)?|\bnon-?con\w*", re.I)
AGENT = re.compile(r"\b(w|with|gad\w*|contrast|dye|cta|ctv|ctp|enhanced|wwo|(ct|cat) (angio|veno|perf)\w*|post[- ]?(con\w*|gad))\b|\bw/(?!o)|"
                   r"\+ ?c\b(?! ?-?spine)", re.I)
WITH_NO_AGENT = re.compile(r"\bw(ith|/)? ?(mrs|spectro\w*|perfusion|dti|sedation|an(a)?es\w*|ga|mra|mrv|cine|thin\w*|flow|recons?|3d|nav\w*|"
                           r"swi|dwi|csf|fiesta|volum\w*)\b", re.I)


@dataclass(frozen=True)
class Words:
    original: str
    low: str                            # lower-cased, of the same length: offsets hold
    starts: tuple[int, ...] | None      # where a term of some rule begins; None: not looked for


def check(order: Order, protocol: Protocol | None, rules: Rules | None = None) -> tuple[Flag, ...]:
    """All flags of an order, given the protocol that leads (None when nothing is suggested); evidence in original offsets."""
    rules = rules or read_rules()
    low = lowered(order.text)
    begins = any_term(tuple(rule for code, rule in rules.items() if code != "missing_info"))
    words = Words(order.text, low, tuple(m.start() for m in begins.finditer(low)))
    asked = wanted(order, protocol)
    if weighs_mr(protocol, low):
        asked.add("MR")
    found: list[Flag] = []

    def add(code: str, evidence: Iterable[Evidence]) -> None:
        rule, evidence = rules.get(code), tuple(evidence)[:4]
        if rule is not None and evidence and {rule.modality, rule.contrast} <= {"", *asked}:
            found.append(Flag(code, rule.severity, rule.id, rule.source, rule.message, rule.action, evidence))

    devices(order, words, asked, rules, add)
    add("anticoagulation_lp", spans(rules["anticoagulation_lp"], words))
    reactions(order, words, asked, rules, add)
    kidney(order, words, asked, rules, add)
    pregnancy(order, words, asked, rules, add)
    people(order, protocol, words, asked, rules, add)
    exam(order, protocol, words, rules, add)
    return tuple(found)


def lowered(text: str) -> str:
    """Lower case of the same length: a few letters grow when lowered, these stay."""
    low = text.lower()
    return low if len(low) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def wanted(order: Order, protocol: Protocol | None) -> set[str]:
    """What is clicked or suggested: modalities, contrast agents, LP, ionising."""
    click = order.ordered_exam
    asked = modalities_of(click)
    with_agent = contrast_clicked(click) == "with"
    if with_agent and "MR" in asked:
        asked.add("gadolinium")
    if "XA" in asked or "myelo" in click.lower() or (with_agent and "CT" in asked):
        asked.add("iodinated")
    if protocol is not None:
        if protocol.contrast != "none":
            asked.add("gadolinium" if protocol.modality == "MR" else "iodinated")
        if protocol.modality in ("FL", "FL/CT"):
            asked.add("LP")
        asked |= set(protocol.modality.split("/"))
    if LP.search(click):
        asked.add("LP")
    if asked & {"CT", "XA", "FL", "NM", "XR"}:
        asked.add("ionising")
    return asked


def modalities_of(words: str) -> set[str]:
    return {name for name, pattern in MODALITY.items() if pattern.search(words)} | {name for name, pattern in ALSO.items() if pattern.search(words)}


def clicked_contrast(click: str) -> str:
    """with, none, or "" when the click does not say."""
    with_, without = bool(WITH.search(re.sub(r"w/o(?!\w)", " ", click))), bool(WITHOUT.search(click))
    return "with" if with_ else "none" if without else ""


def contrast_clicked(click: str) -> str:
    """with, none or "", read more closely than clicked_contrast: "w/o contrast" is none, "with sedation" says nothing."""
    words, stripped = NO_AGENT.subn(" ", WITH_NO_AGENT.sub(" ", click))
    return "with" if AGENT.search(words) else "none" if stripped else ""


# --- implants, metal, claustrophobia -------------------------------------------------------------------------------------------

DEVICES = ("pacemaker_mri", "neurostimulator_mri", "cochlear_implant_mri", "aneurysm_clip_mri", "metal_fragment_mri", "implant_mri_check")
ASKS_MR = re.compile(r"\b(mri|mra|mrv|magnet|(not |non-? ?|un)?conditional(?! on| upon)|mr[ -]?(safe|unsafe|compatible|safety))\b|"
                     r"\b(scream\w*|panic\w*|claustro\w*)\b[^.;\n]{0,30}\b(scanner|tube|bore|tunnel)\b")
FIXED_VALVE = re.compile(r"\b(fixed|non-?programmable|delta valve|delta fixed|(low|medium|high)[ -]pressure)\b")
UNKNOWN_CLIP = re.compile(r"\b(unknown|unk|not known|unidentified|never located|no documentation|can'?t (find|get)|(pre|before)[- ]?19[89]\d|"
                          r"no (papers|card|records?|op ?note|implant card|idea))\b|\b(type|make|model|brand|kind)\b ?(is |was )?\?")
EYES_CLEARED = re.compile(r"no (eye|metal|orbital?|ocular) (\w+ ?)?(injur\w+|exposure|fragments?)|orbits? (were |are )?(clear(ed)?|neg(ative)?)\b|"
                          r"cleared (for|by) mri?|screening (films?|x-?rays?|ct) (clear|neg)\w*")
TRADE = re.compile(r"weld|grind|machinist|lathe|work|boiler|foundry|tool|fabricat|sheet")
# unsafe by name, whatever is said of it
NAMED_UNSAFE = re.compile(
    r"(?<!nothing )(?<!no )(abandon|capped|orphan|fractur|broken|retained|remnant|cut|epicardial|transvenous|temporary|tvp|patch)|"
    r"left (in|behind)|extraction|vad|heart ?(mate|ware)|artificial heart|impella|ecmo|iabp|balloon|swan|pa cath|expander|port|mcgee|ferro|riata")


PATHWAY = re.compile(r"\bpathway\b|non-?conditional (mri )?(program|protocol|workflow)|"
                     r"\b(ep|cardiology|cards|device clinic|mri? safety|radiology)\b[a-z ]{0,16}\b(approved|cleared|ok'?d|agrees|oks)\b")
INSTEAD_OF_MR = re.compile(r"contraindicated|unsafe", re.I)


def weighs_mr(protocol: Protocol | None, text: str) -> bool:
    """The text weighs an MR, or what is suggested replaces one: then an implant counts although CT is clicked and suggested."""
    replaces = protocol is not None and any(INSTEAD_OF_MR.search(indication) for indication in protocol.indications)
    return replaces or bool(ASKS_MR.search(text))


def devices(order: Order, words: Words, asked: set[str], rules: Rules, add: Add) -> None:
    """Implants, metal and claustrophobia, when an MR is clicked, suggested, weighed or replaced."""
    if "MR" not in asked:
        return
    found = {code: [*stated(rules[code], order.facts.implants, "implants"), *spans(rules[code], words)]
             for code in (*DEVICES, "implant_mri_unsafe", "claustrophobia")}
    for code in (*DEVICES[:5], "claustrophobia"):
        found[code] += stated(rules[code], order.priors, "priors")
    everything = " | ".join((words.low, *(value.lower() for value in order.facts.implants)))

    def keep(code: str, wanted: Callable[[str], object]) -> None:
        found[code] = [e for e in found[code] if wanted(e.text.lower())]

    if found["implant_mri_check"] and FIXED_VALVE.search(everything):       # a valve without a magnet needs no look-up
        keep("implant_mri_check", lambda said: "shunt" not in said and "vp" not in said)
    if found["metal_fragment_mri"] and EYES_CLEARED.search(words.low):      # a trade alone is no fragment
        keep("metal_fragment_mri", lambda said: not TRADE.search(said))
    if not order.facts.implants and not any(found[code] for code in DEVICES):
        keep("implant_mri_unsafe", NAMED_UNSAFE.search)         # "no MRI at this site" speaks of no device
    elif found["pacemaker_mri"] and PATHWAY.search(words.low):   # ACR 2024: without abandoned leads it may be scanned on a pathway
        keep("implant_mri_unsafe", NAMED_UNSAFE.search)
    if found["aneurysm_clip_mri"] and UNKNOWN_CLIP.search(everything):
        found["implant_mri_unsafe"] += found["aneurysm_clip_mri"]
    for code, evidence in found.items():
        add(code, evidence)


# --- contrast and kidneys ------------------------------------------------------------------------------------------------------

REACTION = re.compile(
    r"\b(allerg\w*|hives|urticaria\w*|welts|anaphyla\w*|reaction|reacted|rxn|rash|wheez\w*|bronchospasm|itch\w*|angioedema|ed[ae]ema|"
    r"laryng\w*|throat|swelling|swelled|swollen|lips|epi(nephrine|pen)?|vomit\w*|sneez\w*|premed\w*(?! not)|pre-?treat\w*|coded|cardiac arrest|"
    r"intubated|tubed|sjs|intoleran\w*|adverse|hypotensi\w+|syncop\w+|passed out|breathing|sob|"
    r"broke out|could ?n[o']t breathe|collaps\w*|blew up|closed up|crashed|reacts|breakthrough|steroid prep|pred prep|puffy|blotch\w*)\b")
NO_REACTION = re.compile(r"\b(no|nkda|denies|without( any)?|never( had)?|tolerated|0) [^.;\n]{0,20}$")
# in the allergy list these words stand alone
LISTED_CONTRAST = re.compile(r"\b(contrast|(?<!food )(?<!hair )(?<!red )(?<!yellow )(?<!blue )dye)\b")
# "eGFR 60 -> 18": the last value of a run; a number followed by / is a date, "EGFR 19del" and "EGFR exon 20" are a gene
KIDNEY = re.compile(r"\b(?:e?gfr|crcl)\b(?!\W*(?:exon|ex\d|[lt]\d|mut))[^\d.;\n]{0,12}(?:\d{1,3} ?(?:-?>|→|to) ?)?(\d{1,3})"
                    r"(?![\d/]|\w| ?(?:-?>|→|to \d)| ?(?:del|ins|mut|exon|weeks|months|years|days|d ago|wks))")
OLD_VALUE = re.compile(r"\W{0,3}(?:in |from |back in |on )?(?:(?:19|20)\d\d|last year|(?:\d+|several|few|two|three) (?:years?|yrs?|y) ago)|"
                       r"\W{0,3}(?:before|pre-?)\W?(?:the )?transplant")


NOW_HIGHER = re.compile(r"[^.;\n]{0,20}\b(?:now|today|currently|repeat|recheck)\D{0,8}(?:[3-9]\d|1\d\d)\b")


def reactions(order: Order, words: Words, asked: set[str], rules: Rules, add: Add) -> None:
    """Earlier reactions to the agent that is asked, in the allergy list or in one sentence with the agent."""
    gadolinium = rules["contrast_allergy_gadolinium"]
    for agent in ("iodinated", "gadolinium"):
        if agent not in asked:
            continue
        code = f"contrast_allergy_{agent}"
        evidence = stated(rules[code], order.facts.allergies, "allergies")
        if agent == "iodinated":
            listed = [(value, LISTED_CONTRAST.search(value.lower())) for value in order.facts.allergies]
            evidence += [Evidence(value, field="allergies") for value, m in listed if m and not NEGATED.search(value.lower()[:m.start()])]
            evidence = [e for e in evidence if not gadolinium.pattern or not gadolinium.pattern.search(e.text.lower())]
        add(code, evidence + [e for e in spans(rules[code], words) if reacted(words.low, e.start, e.end)])


def reacted(text: str, start: int, end: int) -> bool:
    """A reaction that is not denied stands within 45 characters and the same sentence."""
    before = re.split(r"[.;\n](?=\s|$)", text[max(0, start - 45):start])[-1]
    after = re.split(r"[.;\n](?=\s|$)", text[end:end + 45])[0]
    near = before + text[start:end] + after
    return any(not NO_REACTION.search(near[:m.start()]) for m in REACTION.finditer(near))


def kidney(order: Order, words: Words, asked: set[str], rules: Rules, add: Add) -> None:
    """Metadata and text may disagree: the worse of the two counts, but an old value in the text gives way to the metadata."""
    if not asked & {"iodinated", "gadolinium"}:
        return
    egfr, low = order.facts.egfr, []
    if egfr is not None and egfr < 30:
        low.append(Evidence(f"eGFR {egfr:g}", field="egfr"))
    low += [span_of(m, words.original) for m in KIDNEY.finditer(words.low)
            if int(m[1]) < 30 and not NOW_HIGHER.match(words.low, m.end()) and not (egfr is not None and OLD_VALUE.match(words.low, m.end()))]
    dialysis = spans(rules["egfr_low_for_gadolinium"], words)
    acute = spans(rules["egfr_low_for_iodinated"], words)
    add("egfr_low_for_gadolinium", low + dialysis)
    add("egfr_low_for_iodinated", low + dialysis + acute)
    drug = spans(rules["metformin"], words)
    if drug and (low or dialysis or acute):
        add("metformin", drug + low + dialysis + acute)


# --- the patient ---------------------------------------------------------------------------------------------------------------

CHILDBIRTH_OVER = re.compile(r"\b(post-? ?partum|ppd ?#?\d+|delivered|miscarr\w*|abort(ion|ed)|termination|ectopic|breast-?feeding|lactating|"
                             r"s/p (c-?section|svd|nsvd|delivery|cs|tab|sab|d&c)|"
                             r"(days?|weeks?|wks?|months?|mo) (after|post|since) (delivery|c-?section|birth|svd))\b")
NOT_PREGNANT = re.compile(r"\b(preg\w*|hcg|upt|icon)( test| screen| status)?( is| was| today)*\W{0,3}(neg|-(?=[ .,;)]|$))|"
                          r"neg(ative)? (urine |serum |beta )?(hcg|upt|preg\w*)|not pregnant|hysterectomy|tubal|btl\b|post-?menopaus|"
                          r"oophorectom|menopause|no uterus|premenarch\w*|vasectomy|\biud\b|nexplanon|bso\b|turner syndrome|"
                          r"(on her period|menses (now|today)|currently menstruating|lmp (today|yesterday|last week|\d+ ?d(ays?)? ago|this week))")
LONG_MR_YEARS = (0.25, 7.0)     # 3 months to 6 years: rarely still for a long MR
LONG_MR_MINUTES = 20
AWAKE = re.compile(r"\b(cooperat\w+|goggles|holds still|lies still|child life|mock scanner|awake|non-?sedated|"
                   r"feed[ -]?(and|&|n|\+)[ -]?(wrap|sleep|swaddle)|(no|without) (sedation|ga|anesthesia)|"
                   r"sedation (declined|refused)|(avoid|refuse)\w* (sedation|anesthesia|ga))\b")
HEAVY_KG = 160
WEIGHT = re.compile(r"(?<![\d.])(\d{3})\s*(kgs?|kilos?|kilograms?|lbs?|pounds|#)(?!\w)(?! (bar|deadlift|squat|bench|press|weights?|load|beam))")
LIFTED = re.compile(r"\b(lift\w*|deadlift\w*|squat\w*|bench\w*|press\w*|crush\w*|fell on|pinned|struck|carry\w*|lost|loss of|loses|moving|"
                    r"dropped)\b[^.;\n]{0,18}$")


def pregnancy(order: Order, words: Words, asked: set[str], rules: Rules, add: Add) -> None:
    age, sex, known = age_of(order, words.low), order.patient.sex, order.facts.pregnant
    if known:
        add("pregnancy", [Evidence("pregnant", field="pregnant")])
    if known or sex == "M" or not (age is None or 10 <= age <= 55):
        return
    over = bool(NOT_PREGNANT.search(words.low))
    said = spans(rules["pregnancy"], words)
    over = over or bool(CHILDBIRTH_OVER.search(words.low))
    if over:                                                        # then only a count of weeks says that she is
        said = [e for e in said if re.search(r"\d", e.text)]
    add("pregnancy", said)
    if not said and known is None and sex == "F" and age is not None and 12 <= age <= 50 and asked & {"ionising", "gadolinium"} and not over:
        add("pregnancy_status_unknown", [Evidence("pregnancy status not given", field="pregnant")])


SAID_AGE = re.compile(r"\b(\d{1,3}) ?-?(?:(y)(?:rs?|ears?)?|(m)(?:o|os|onths?)?|(w)(?:k|ks|eeks?)?|(d)(?:ays?)?)[ -]?"
                      r"(?:/?o(?:ld)?\b|(?=[mf]\b|boy|girl|male|female|infant|man|woman))")
NEWBORN = re.compile(r"\b(neonate|newborn|dol ?\d|preterm|term infant)\b")


def age_of(order: Order, text: str) -> float | None:
    """Years: from the metadata, else the first age that the text says, else None."""
    if order.age_years is not None:
        return order.age_years
    if m := SAID_AGE.search(text):
        return int(m[1]) / (1 if m[2] else 12 if m[3] else 52 if m[4] else 365)
    return 0.0 if NEWBORN.search(text) else None


def people(order: Order, protocol: Protocol | None, words: Words, asked: set[str], rules: Rules, add: Add) -> None:
    """Children, sedation and weight."""
    age, click, rule = age_of(order, words.low), order.ordered_exam, rules["anesthesia_sedation"]
    if age is not None and age < 18 and "CT" in asked:
        add("radiation_child", [Evidence(f"age {age:g}", field="age_years")])
    sedation = spans(rule, words) + stated(rule, (click,), "ordered_exam")
    minutes = protocol.minutes if protocol is not None and protocol.modality == "MR" else 0
    if minutes >= LONG_MR_MINUTES and age is not None and LONG_MR_YEARS[0] <= age < LONG_MR_YEARS[1] and not AWAKE.search(words.low):
        sedation.append(Evidence(f"age {age:g}, MR of {minutes} minutes", field="age_years"))
    add("anesthesia_sedation", sedation)
    heavy = [span_of(m, words.original) for m in WEIGHT.finditer(words.low)
             if int(m[1]) * (1 if m[2].startswith("k") else 0.4536) >= HEAVY_KG and not LIFTED.search(words.low[max(0, m.start() - 40):m.start()])]
    if order.facts.weight_kg and order.facts.weight_kg >= HEAVY_KG:
        heavy.append(Evidence(f"{order.facts.weight_kg:g} kg", field="weight_kg"))
    add("weight_limit", heavy + spans(rules["weight_limit"], words))


# --- the order itself ----------------------------------------------------------------------------------------------------------

# one letter or word of a side; not "r/o", "b/l", "L spine", "RIGHT handed", "right now", "left the ED"
SIDE = re.compile(r"(?<![\w/.&'-])(left|right|lt|rt(?= (?!to\b|in\b|for\b|done|comp|fin|and\b|at\b|w)[a-z])|l|r)(?![\w/&'>])(?!\.? ?o\b)"
                  r"(?!-? ?(handed|hander|hand dominant|dominant|spine|sp\b))(?! (now|away|after|before|upper quadrant|heart|the|ama|against|"
                  r"in (situ|place|behind)|work|school|over|with|by|on|untreated)\b)", re.I)
# the last digit of these ICD-10-CM codes is the side: 1 right, 2 left (ear, optic nerve, eye muscles, carotid)
SIDED_CODE = re.compile(r"\b(?:h(?:6\d|7\d|8\d|9[0-5])\.[0-9a]\d{0,2}|h46\.\d|h47\.0\d|h49\.\d|i65\.[02])([123])\b", re.I)
SAME_SIDE = re.compile(r"\b(left|right|l|r) (?:mca|aca|ica|m1|m2|hemispher\w+|cerebral)\b[^.;\n]{0,40}?\b(left|right|l|r)[ -]"
                       r"(?:sided )?(?:hemi(?:par|pleg)\w+|weakness|arm weak\w*|leg weak\w*)", re.I)


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


def sides_conflict(click: str, words: Words, priors: tuple[str, ...], doubt: Rule) -> list[Evidence]:
    """Opposite sides in click, words, codes and priors; or the text doubts its own side; or the weakness lies on the side of the stroke."""
    text = words.original
    said, coded = list(SIDE.finditer(text)), list(SIDED_CODE.finditer(text))
    clicked = {side(m[1]) for m in SIDE.finditer(click)}
    in_words, in_codes = {side(m[1]) for m in said}, {side(m[1]) for m in coded} - {"both"}
    against = [m for m in (*said, *coded) if len(clicked) == 1 and side(m[1]) not in {"both", *clicked}]
    if against and 2 * len(against) >= len(said) + len(coded):
        return [Evidence(click, field="ordered_exam"), span_of(against[0], text)]
    if len(in_words) == len(in_codes) == 1 and in_words != in_codes:
        return [span_of(said[0], text), span_of(coded[0], text)]
    if in_words == {"left", "right"} and (doubted := spans(doubt, words)):
        return doubted
    if same := [span_of(m, text) for m in SAME_SIDE.finditer(text) if side(m[1]) == side(m[2])]:
        return same
    now = sided_nouns(text)
    return [Evidence(prior, field="priors") for prior in priors
            if any(noun in now and len(sides | now[noun]) == 2 and len(now[noun]) == 1 for noun, sides in sided_nouns(prior).items())][:1]


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
AGAIN = re.compile(r"\b(again|repeat\w*|redo\w*|re-?scan\w*|another (mri?|ct|scan|look|one)|second opinion)\b")
LYTIC = re.compile(r"\b(24 ?h\w*|tnk|tpa|lytic|vasospasm)\b")
# a reason that the text gives for another look
REASON = re.compile(r"\b(interval|progress(ion|ed|ing|ive)|response|respond\w*|growth|plan(ning|ned)?|nav|navigation|stealth|post-?op\w*|pod|24 ?h|"
                    r"s/p (evac\w+|crani\w*|resection|tnk|tpa)|worse\w*|deteriorat\w*|new (deficit|weakness|droop|onset|focal|drift)|declin\w*|"
                    r"gcs (drop\w*|fell|down)|vasospasm|perfusion|pseudo\w*|motion|non-?diagnostic|incomplete|protocol suggested|recommend\w*|"
                    r"dedicated|surveillance|recheck|compare|toxo|safety)\b")
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
        elif protocol.id not in PLANNED and (protocol.contrast == "none" or clicked_contrast(prior) != "none") and not REASON.search(text):
            words = f"{text} {order.ordered_exam} {prior}".lower()
            if days <= 7 or low_value or (cue.pattern and cue.pattern.search(words)):
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
    """A CT with contrast is clicked after one without: no repeat."""
    return bool(MODALITY["CT"].search(prior)) and contrast_clicked(click) == "with" and clicked_contrast(prior) != "with"


Kind = tuple[frozenset[str], bool, frozenset[str]]
VESSELS = re.compile(r"\b(cta|mra|ctv|mrv|dsa|angio\w*|venogra\w*|carotids?|duplex)\b", re.I)
PARTS = {name: re.compile(rf"\b({pattern})\b", re.I) for name, pattern in {
    "head": "brain|head|cranial|stroke|h ?[&/] ?n", "neck": "neck|carotids?|vertebral|h ?[&/] ?n", "face": r"face|facial|max\w*|sinus\w*",
    "orbits": "orbits?|eyes?", "ear": "temporal|iacs?|ear|mastoid", "sella": "pituitary|sella", "c": "c[ -]?spine|cervical",
    "t": "t[ -]?spine|thoracic", "l": "ls?[ -]?spine|lumbar|lumbosacral", "spine": "spine|spinal"}.items()}


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


# --- evidence ------------------------------------------------------------------------------------------------------------------

def spans(rule: Rule, words: Words) -> list[Evidence]:
    """A rule's matches that are neither denied, nor somebody else's, nor ruled out by its own not_before and not_after."""
    return [span_of(m, words.original) for m in matches(rule, words) if stands(rule, words.low, m.start(), m.end())]


def matches(rule: Rule, words: Words) -> Iterator[re.Match[str]]:
    if rule.pattern is None:
        return
    if words.starts is None:
        yield from rule.pattern.finditer(words.low)
        return
    end = 0
    for start in words.starts:
        if start >= end and (m := rule.pattern.match(words.low, start)):
            end = m.end()
            yield m


def stands(rule: Rule, text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 45):start], text[end:end + 60]
    if NEGATED.search(before) or FAMILY.search(before[-40:]):
        return False
    if DENIED_AFTER.search(after) and not UNSURE.search(before[-40:]):
        return False
    return not (rule.not_before and rule.not_before.search(before)) and not (rule.not_after and rule.not_after.match(after))


def stated(rule: Rule, values: tuple[str, ...], field: str) -> list[Evidence]:
    """Values of a metadata list, or of a field, that the rule names."""
    return [Evidence(value, field=field) for value in values if spans(rule, Words(value, lowered(value), None))]


def span_of(m: re.Match[str], original: str) -> Evidence:
    return Evidence(original[m.start():m.end()], m.start(), m.end())
