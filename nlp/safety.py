"""Safety flags: rules with sources over metadata and text. No model decides here, and none can overrule it.

The words of a rule stand in data/rules.toml; what is here says when they count. nlp.scope reads denials, other persons and devices that are
planned or taken out, nlp.kidney the kidneys, nlp.clicked the click, nlp.order_checks the flags about the order itself.
"""
import re
from collections.abc import Callable, Iterable

from data.book import Protocol
from data.records import Evidence, Flag, Order
from data.rules import Rule, any_term, read_rules
from nlp.clicked import LP, MODALITY, clicked_contrast, contrast_clicked, modalities_of
from nlp.kidney import read_kidneys
from nlp.order_checks import exam
from nlp.scope import DENIED, Words, in_place, lowered, span_of, spans, stated

__all__ = ["MODALITY", "check", "clicked_contrast", "contrast_clicked"]

Rules = dict[str, Rule]
Add = Callable[[str, Iterable[Evidence]], None]


def check(order: Order, protocol: Protocol | None, rules: Rules | None = None) -> tuple[Flag, ...]:
    """All flags of an order, given the protocol that leads (None when nothing is suggested); evidence in original offsets."""
    rules = rules or read_rules()
    low = lowered(order.text)
    begins = any_term(tuple(rule for code, rule in rules.items() if code != "missing_info"))
    words = Words(order.text, low, tuple(m.start() for m in begins.finditer(low)), order.patient.sex)
    asked = wanted(order, protocol)
    if weighs_mr(protocol, low):
        asked.add("MR")
    found: list[Flag] = []

    def add(code: str, evidence: Iterable[Evidence]) -> None:
        rule, evidence = rules.get(code), tuple(evidence)[:4]
        if rule is not None and evidence and {rule.modality, rule.contrast} <= {"", *asked}:
            found.append(Flag(code, rule.severity, rule.id, rule.source, rule.message, rule.action, evidence))

    devices(order, words, asked, rules, add)
    add("anticoagulation_lp", spans(rules["anticoagulation_lp"], words) if "LP" in asked else ())
    reactions(order, words, asked, rules, add)
    kidney(order, words, asked, rules, add)
    pregnancy(order, protocol, words, asked, rules, add)
    people(order, protocol, words, asked, rules, add)
    exam(order, protocol, words, rules, add)
    return tuple(found)


def wanted(order: Order, protocol: Protocol | None) -> set[str]:
    """What is clicked or suggested: modalities, contrast agents, LP, ionising."""
    click = order.ordered_exam
    asked = modalities_of(click)
    with_agent = contrast_clicked(click) == "with"
    if with_agent and "MR" in asked:
        asked.add("gadolinium")
    if ("XA" in asked and not LP.search(click)) or re.search(r"myelo\b|myelogr", click, re.I) or (with_agent and "CT" in asked):     # not LP by IR
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


# --- implants, metal, claustrophobia -------------------------------------------------------------------------------------------

DEVICES = ("pacemaker_mri", "neurostimulator_mri", "cochlear_implant_mri", "aneurysm_clip_mri", "metal_fragment_mri", "implant_mri_check")
ASKS_MR = re.compile(r"\b(?<!prior )(?<!previous )(?<!last )(?<!old )(?<!recent )(?<!outside )(?:mri|mra|mrv|magnet)\b"
                     r"(?! (?:brain |head |spine |c-?spine )?(?:in )?(?:(?:19|20)\d\d|\d+ (?:d|days?|wks?|weeks?|mos?|months?|y|yrs?|years?) ago|"
                     r"last (?:week|month|year)|"
                     r"yesterday|showed|shows|normal|neg\w*|was (?!refused|denied|declined)|report))|"
                     r"\b(?:not |non-? ?|un)?conditional(?! on| upon)\b|\bmr[ -]?(?:safe|unsafe|compatible|safety)\b|"
                     r"\b(?:scream\w*|panic\w*|claustro\w*)\b[^.;\n]{0,30}\b(?:scanner|tube|bore|tunnel)\b")
FIXED_VALVE = re.compile(r"\b(fixed|non-?programmable|delta valve|delta fixed|(low|medium|high)[ -]pressure)\b")
EYES_CLEARED = re.compile(
    r"(?<!until )(?<!once )(?<!when )(?<!need )(?<!needs )(?<!before )(?<!if )\b(?:(?:no|denies(?: any)?|never(?: had)?(?: an?| any)?) (?:eye|"
    r"metal(?:lic)?|orbital?|ocular) (?:\w+ ?)?(?:injur\w+|exposure|fragments?|fb|foreign)|"
    r"\b(?:orbits?|orbital|eye)(?: (?:xr|x-?rays?|films?|radiographs?|ct|screening|plain|series))*(?: (?:were|are|was|is|done|today|last \w+|"
    r"this \w+|both|all|read|\d{4}))*"
    r"[ :,-]{1,3}(?:clear(?:ed)?|neg(?:ative)?|normal|ok\b|no (?:metal\w*|fb|foreign|frag\w*|radio-?opaque))|"
    r"\b(?:clear|negative|normal|neg) (?:orbits?|orbital|eye) ?(?:xr|x-?rays?|films?|radiographs?|ct)|cleared (?:for|by) (?:mri?|orbit\w*|x-?ray)|"
    r"screening (?:films?|x-?rays?|ct|orbits?) (?:were |was )?(?:clear|neg)\w*|no (?:metal|fb|fragments?|foreign bod\w+) (?:on|in|"
    r"seen on) (?:the )?(?:orbit\w*|eye|xr|x-?ray|films?|ct))")
ALL_OUT = re.compile(r"\bno (?:retained|residual|remaining|leftover) (?:\w+ )?(?:metal\w*|frag\w*|bullet\w*|shrapnel|fb|foreign|pellets?|pieces)|"
                     r"\b(?:all|completely) (?:frag\w* |metal |pieces |pellets )?(?:were |was )?(?:removed|taken out)\b|\bthrough[- ](?:and|&|"
                     r"n)[- ]through\b")
TRADE = re.compile(r"weld|grind|machinist|lathe|work|boiler|foundry|tool|fabricat|sheet|shop|hammer|eye|globe|orbit|cornea|slag|\bo[sdu]\b")
# unsafe by name, whatever is said of it
NAMED_UNSAFE = re.compile(
    r"(?<!nothing )(?<!no )(abandon|capped|orphan|fractur|broken|retained|remnant|cut|epicardial|transvenous|temporary|tvp|patch)|"
    r"left (in|behind)|extraction|vad|heart ?(mate|ware)|artificial heart|impella|ecmo|iabp|balloon|swan|pa cath|expander|port\b|mcgee|ferro|riata|"
    r"capsule|pillcam|"
    r"drake|mayfield|scoville|housepian|vari-?angle|mcfadden|sundt|kapp|heifetz|steel|\b(implant|device|card|vendor|maker|rep)\b|unsafe device|"
    r"do not scan|do-not-scan")


SAID_UNSAFE = re.compile(r"unsafe|incompatib|not (?:mri?[ -])?(?:safe|compatible)")
NOW_CONDITIONAL = re.compile(r"\b(?:confirm\w*|now|is|are|all|but|actually|"
                             r"both)\b[^.;\n]{0,20}(?<!not )(?<!non-)(?<!non )\b(?:mri?[ -])?conditional\b")
INSTEAD_OF_MR = re.compile(r"contraindicated|unsafe", re.I)


# the whole system is out, and none has come in its stead
DEVICE_OUT = re.compile(r"\b(?:generator|device|system|pacer|pacemaker|icd|ppm|stimulator|battery|ipg|vns|scs|dbs)\b[^.;\n]{0,16}(?:and|&|\+|with|"
                        r"plus)"
                        r" (?:all |both |the |its |old )*(?:leads?|wires?|electrodes?) (?:(?:were|was|all|both|fully|completely|since|been) )*"
                        r"(?:extracted|removed|explanted|taken out|out)\b|"
                        r"\b(?:complete|full|total|entire) (?:(?:system|device|lead|hardware|generator) )*(?:extraction|explant\w*|removal)\b"
                        r"(?! (?:planned|pending|next|scheduled|failed|advised))")
DEVICE_AGAIN = re.compile(r"(?<!no )(?<!not )(?<!never )\b(?:new (?:device|system|generator|pacer|pacemaker|icd|ppm|leads?|one)|re-?implant\w*|"
                          r"re-?placed|"
                          r"replacement|now has|currently has|leadless|micra|upgrad\w+|other side|contralateral|abandon\w*|remain\w*|left (?:in|"
                          r"behind)|"
                          r"still in|fragment|stump|remnant|until|pending|await\w*|scheduled|planned|to be|will be|candidate|declin\w*|refus\w*|"
                          r"(?:for|needs?|requires?|before) (?:full|complete|total|entire))\b")
OF_ANY_DEVICE = re.compile(r"\b(?:implant|device)\b.*\bcard\b")
# a film clears nothing that came after it
SINCE_CLEARED = re.compile(r"\b(?:new|another|fresh|again|since (?:then|that|the film|film)|after (?:that|the) (?:film|x-?ray|xr|"
                           r"scan))\b[^.;\n]{0,30}"
                           r"\b(?:sliver|splinter|frag\w*|fleck|speck|chip|shard|metal|fb|foreign|eye|exposure|injur\w*)|"
                           r"\b(?:eye|metal|sliver|fb|frag\w*)\b[^.;\n]{0,30}\b(?:since (?:then|that)|after (?:that|the) (?:film|x-?ray|xr))\b")
# "no MRI" for another reason than the device
OTHER_REASON = re.compile(r"\b(?:claustro\w*|panic\w*|anxi\w*|scared|weight|bmi|obes\w*|girth|too (?:big|large|heavy)|(?:d/t|due to|because of|2/2|"
                          r"from) (?:\w+ )?pain|lie (?:flat|still)|"
                          r"orthopn\w*|"
                          r"insur\w*|auth\w*|denied by (?:ins|evicore)|schedul\w*|avail\w*|broken|down|closed|after hours|overnight|slot|wait\w*|"
                          r"unstable|too sick|pregnan\w*|transport|cost|prefers?|wants ct|(?:pt|patient|she|he|family|parents?) (?:refus|"
                          r"declin)\w*)\b")


def other_reason(text: str, evidence: Evidence) -> bool:
    """A refusal of MR that is explained in the same clause by the patient, the room or the payer."""
    if SAID_UNSAFE.search(evidence.text.lower()) or re.search(r"condition|magnet|rep\b|card|vendor", evidence.text.lower()):
        return False
    before = re.split(r"[.;,\n]", text[max(0, evidence.start - 40):evidence.start])[-1]
    after = re.split(r"[.;\n]", text[evidence.end:evidence.end + 40])[0]
    said = OTHER_REASON.search(after) or OTHER_REASON.search(before) or OTHER_REASON.search(evidence.text.lower())
    return bool(said) and not re.search(r"\b(?:unsafe|device|leads?|stim\w*|pac\w*|scs|dbs|vns|implant\w*|conditional|icd|clip|per|clinic|"
                                        r"card|letter|reps?|told|safety|maker|vendor|surgeon|cardiology|ep)\b", before + after)


# in the implant list these words stand alone
LISTED_DEVICE = {"pacemaker_mri": re.compile(r"\b(?:crt|pm|ppm|icd)\b"), "neurostimulator_mri": re.compile(r"\b(?:rns|scs|dbs|vns|stim)\b"),
                 "cochlear_implant_mri": re.compile(r"\b(?:cis?|cochlear)\b(?! osia| baha)")}
OWN_STOP = ("pacemaker_mri", "aneurysm_clip_mri", "metal_fragment_mri")
OTHER_DEVICES = ("neurostimulator_mri", "cochlear_implant_mri", "implant_mri_check")


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
    for code, alone in LISTED_DEVICE.items():
        values = [(value, alone.search(value.lower())) for value in order.facts.implants]
        found[code] += [Evidence(value, field="implants") for value, m in values if m and in_place(value.lower(), m.start(), m.end())]
    for code in (*DEVICES[:5], "claustrophobia"):
        found[code] += stated(rules[code], order.priors, "priors")
    everything = " | ".join((words.low, *(value.lower() for value in (*order.facts.implants, *order.priors))))

    def keep(code: str, wanted: Callable[[str], object]) -> None:
        found[code] = [e for e in found[code] if wanted(e.text.lower())]

    if DEVICE_OUT.search(words.low) and not DEVICE_AGAIN.search(words.low):
        for code in OWN_STOP[:1] + OTHER_DEVICES[:1]:       # the whole system came out: what the text tells of it is history
            found[code] = [e for e in found[code] if e.field == "implants"]
    if any(found[code] for code in DEVICES[:4]):            # "card lost" is said of the device that has a flag of its own
        keep("implant_mri_check", lambda said: not OF_ANY_DEVICE.search(said))
    if found["implant_mri_check"] and FIXED_VALVE.search(everything):       # a valve without a magnet needs no look-up
        keep("implant_mri_check", lambda said: "shunt" not in said and "vp" not in said)
    if found["metal_fragment_mri"]:
        if EYES_CLEARED.search(everything) and not SINCE_CLEARED.search(words.low):         # films clear the eyes, and a trade alone is no fragment
            keep("metal_fragment_mri", lambda said: not TRADE.search(said))
        if ALL_OUT.search(everything):
            keep("metal_fragment_mri", TRADE.search)
    # "not conditional" is said of a device. A plain pacemaker (ACR 2024: some are scanned on a pathway), a clip of unknown make and a fragment
    # have their own stop flags; and "no MRI at this site" speaks of none
    named = {value for code in OWN_STOP for value in stated(rules[code], order.facts.implants, "implants")}
    others = [value for value in order.facts.implants if value not in {e.text for e in named}]
    if not (others or any(found[code] for code in OTHER_DEVICES)) or NOW_CONDITIONAL.search(words.low):
        own = any(found[code] for code in OWN_STOP)
        keep("implant_mri_unsafe", lambda said: NAMED_UNSAFE.search(said) or (own and SAID_UNSAFE.search(said)))
    found["implant_mri_unsafe"] = [e for e in found["implant_mri_unsafe"]
                                   if e.field or NAMED_UNSAFE.search(e.text.lower()) or not other_reason(words.low, e)]
    if found["implant_mri_unsafe"]:     # already known to be unsafe: nothing to look up for the same device
        unsafe = {e.text.lower() for e in found["implant_mri_unsafe"]}
        keep("implant_mri_check", lambda said: not any(said in other or other in said for other in unsafe) and "stap" not in said)
    for code, evidence in found.items():
        add(code, evidence)


# --- contrast and kidneys ------------------------------------------------------------------------------------------------------

# words that speak of an allergy wherever they stand in the sentence
REACTION = re.compile(
    r"\b(allerg\w*|hives|urticaria\w*|welts|anaphyla\w*|reaction|reacted|reacts|rxn|rash|bronchospasm|itch\w*|angioedema|"
    r"epi(nephrine|pen)|premed\w*(?! not)|pre-?treat\w*|sjs|intoleran\w*|adverse|broke out|breaks out|breakthrough|steroid prep|pred(nisone)? prep|"
    r"(13|12)[ -]?(h|hr|hour) prep|(needs|requires|with|had) (a )?prep|blotch\w*|wheal\w*|closed up|code (blue|called)|coded|made (her|him|me|"
    r"pt) (sick|ill)|"
    r"(can ?not|can'?t|told (to avoid|not to have|never)|must not) (have|get|receive|take|avoid))\b")
# words that are as often the complaint: they count only when tied to the agent
SYMPTOM = re.compile(
    r"\b(wheez\w*|ed[ae]ema|laryng\w*|throat|swelling|swelled|swollen|swells?|lips?|vomit\w*|threw up|sneez\w*|cardiac arrest|arrest\w*|intubated|"
    r"tubed|hypotensi\w+|"
    r"syncop\w+|passed out|breath\w*|sob|collaps\w*|blew up|crashed|puffy|epi|flush\w*|bp drop\w*|tongue|seiz\w+|chok\w*|stridor|desat\w*|nausea)\b")
LINK_AFTER = re.compile(r"[^\w.;\n]*(?:(?:dye|contrast|agent|media|medium|injection|in|at|the|a|an|last|with|gave|gives|causes?|caused|made|makes|"
                        r"her|him|pt|me|his|"
                        r"was|and|then|face|facial|severe|bad|mild|got|gets|developed|felt|feels|started|had|years?|yrs|ago|mild|some|to|swell|have|"
                        r"she|he|"
                        r"ct|mri?|scan|cath|\d{1,4}|iv)\b[^\w.;\n]*){0,9}")
LINK_BEFORE = re.compile(r"[^\w.;\n]*(?:(?:w|with|from|after|to|following|during|on|post|by|when|given|iv|ct|the|last|mri?|due|and|all|over|up|any|"
                         r"received|getting|"
                         r"gets|prior|her|his|got|\d{1,4}|in|because|of|reaction|breathe)\b[^\w.;\n]*){0,7}")
EXAM_WITH = re.compile(r"\b(?:ct\w?|mri?|scan|neck|head|brain|face|orbits?|study|spine|chest|abd\w*|angio\w*|exam|order\w*|needs?|want\w*|please|"
                       r"give|get|do|repeat)\b[ a-z,]{0,12}"
                       r"\b(?:with|w/?|iv)\W*$")
NO_REACTION = re.compile(r"\b(no|nkda|nka|denies|without( any)?|never( had)?|tolerated|0|did ?n[o']t|not) [^.;\n]{0,20}$")
CULPRIT = re.compile(r"\b(\w+cillin|pcn|amox\w*|augmentin|sulfa\w*|bactrim|lamotrigine|lamictal|phenytoin|dilantin|carbamazepine|keppra|codeine|"
                     r"morphine|opioids?|"
                     r"nsaids?|ibuprofen|aspirin|asa|latex|nuts?|peanuts?|eggs?|bees?|ceph\w*|cef\w*|keflex|vanc\w*|cipro\w*|\w+mycin|\w+floxacin|"
                     r"tape|adhesive|nickel|"
                     r"shellfish|shrimp|seafood|crab|fish|iodine prep|betadine|povidone|lisinopril|\w+pril|statins?|cats?|dogs?|dust|pollen|"
                     r"strawberr\w+|kiwi|soy|milk|gluten|chlorhexidine|bandaids?)\b")
TOLERATED_BEFORE = re.compile(r"\b(?:tolerat\w+|fine|ok(?:ay)?|well|no (?:problem|issue|trouble|reaction|rxn)s?|without (?:reaction|problem|issue|"
                              r"incident)s?|never reacted|safe)"
                              r"(?: (?:with|to|w/|w|from|on|after|for))?(?: (?:iv|the|prior|ct|mri?|any|her|his|last|previous|since|x\d))*\W*$")
TOLERATED_AFTER = re.compile(r"^\W*(?:(?:dye|contrast|agents?|x ?\d|in|\d{4}|before|since|last|year|month|was|is|were|well|given|scans?|has|been|"
                             r"and|all|ct|mri?|fine|then)\b\W*){0,6}"
                             r"(?:tolerat\w+|fine|ok(?:ay)?|safe|no (?:problem|issue|trouble|reaction|rxn)s?|without (?:reaction|problem|issue|"
                             r"incident|premed)\w*|uneventful\w*|"
                             r"ruled out|de-?labell?ed)\b(?![^.;\n]{0,30}(?:premed|prep\b|pred|steroid|benadryl|diphenhydr))")
# in the allergy list these words stand alone
LISTED_CONTRAST = re.compile(r"\b(contrast|(?<!food )(?<!hair )(?<!red )(?<!yellow )(?<!blue )dye)\b")
NEAR = 60


def reactions(order: Order, words: Words, asked: set[str], rules: Rules, add: Add) -> None:
    """Earlier reactions to the agent that is asked, in the allergy list or in one sentence with the agent."""
    gadolinium, iodinated = rules["contrast_allergy_gadolinium"], rules["contrast_allergy_iodinated"]
    for agent, rule, other in (("iodinated", iodinated, gadolinium), ("gadolinium", gadolinium, iodinated)):
        if agent not in asked:
            continue
        evidence = stated(rule, order.facts.allergies, "allergies")
        if agent == "iodinated":
            listed = [(value, LISTED_CONTRAST.search(value.lower())) for value in order.facts.allergies]
            evidence += [Evidence(value, field="allergies") for value, m in listed if m and not DENIED.search(value.lower()[:m.start()])]
            evidence = [e for e in evidence if not gadolinium.pattern or not gadolinium.pattern.search(e.text.lower())
                        or re.search(r"iodin|\bct\b", e.text.lower())]
        evidence = [e for e in evidence if not TOLERATED_AFTER.search(" " + e.text.lower()) and "tolerat" not in e.text.lower()]
        add(rule.flag, evidence + [e for e in spans(rule, words) if reacted(words.low, e.start, e.end, other)])


def reacted(text: str, start: int, end: int, other: Rule) -> bool:
    """A reaction to this agent, and to no other, that is not denied, in the same sentence."""
    before = re.split(r"[.;\n](?=\s|$)", text[max(0, start - NEAR):start])[-1]
    after = re.split(r"[.;\n](?=\s|$)", text[end:end + NEAR])[0]
    said, near = text[start:end], before + text[start:end] + after
    first, last = len(before), len(before) + len(said)
    named = bool(REACTION.search(said))
    if TOLERATED_BEFORE.search(before) or (not named and TOLERATED_AFTER.match(after)):
        return False
    for m in REACTION.finditer(near):
        if NO_REACTION.search(near[:m.start()]):
            continue
        between = near[m.end():first] if m.end() <= first else near[last:m.start()] if m.start() >= last else ""
        if other.pattern and (mid := other.pattern.search(between)) and not re.search(r"\b(?:and|both|or|plus)\W*$|[&/+]\W*$", between[mid.end():]):
            continue
        gap = len(between)
        if any(min(abs(c.start() - m.end()), abs(m.start() - c.end())) < gap for c in CULPRIT.finditer(near)):
            continue
        return True
    for m in SYMPTOM.finditer(near):
        if NO_REACTION.search(near[:m.start()]):
            continue
        if m.start() >= last and LINK_AFTER.fullmatch(near[last:m.start()]):
            return True
        if m.end() <= first and LINK_BEFORE.fullmatch(near[m.end():first]) and not EXAM_WITH.search(before[m.end():]):
            return True
    return False


RECOVERED = re.compile(r"\b(?:egfr|gfr|cr\w*|renal function|kidneys?|aki)\b[^.;\n]{0,30}\b(?:back to|recovered|resolved|normali[sz]ed|back up)\b|"
                       r"\bresolved aki\b")
TRANSPLANTED = re.compile(r"\b(?:renal|kidney) (?:transplant|tx|allograft)\b|\bs/p (?:ddrt|lrrt|lurt|ddkt|lrkt)\b")


def kidney(order: Order, words: Words, asked: set[str], rules: Rules, add: Add) -> None:
    """Low eGFR, dialysis, acute injury, and metformin with any of them."""
    if not asked & {"iodinated", "gadolinium"}:
        return
    kidneys = read_kidneys(words.low, words.original, order.facts.egfr, age_of(order, words.low), order.patient.sex)
    dialysis = spans(rules["egfr_low_for_gadolinium"], words)
    if dialysis and kidneys.well and not kidneys.low and TRANSPLANTED.search(words.low):
        dialysis = []                   # the transplant works: dialysis is history
    acute = spans(rules["egfr_low_for_iodinated"], words) + list(kidneys.acute)
    low = list(kidneys.low)
    if kidneys.well and not low and RECOVERED.search(words.low):
        dialysis, acute = [], []
    add("egfr_low_for_gadolinium", low + dialysis)
    add("egfr_low_for_iodinated", low + dialysis + ([] if kidneys.well else acute))      # the flag follows the eGFR where it is known
    drug = spans(rules["metformin"], words)
    if drug and (low or dialysis or acute):
        add("metformin", drug + low + dialysis + acute)


# --- the patient ---------------------------------------------------------------------------------------------------------------

CHILDBIRTH_OVER = re.compile(r"\b(post-? ?partum|ppd ?#?\d+|delivered(?! (by|to|via (ems|ambul)|from|here))|miscarr\w*|abortion|(spontaneous(ly)?|"
                             r"therapeutic(ally)?|elective(ly)?) abort\w*|termination of preg\w*|ectopic( preg\w*)?(?! (beat|rhythm|atrial|pitu|"
                             r"neuro|post|thyroid|acth|lens|kidney|foc|tissue))|breast-?feeding|lactating|"
                             r"nursing (her|a|the)|"
                             r"s/p (c-?section|lscs|svd|nsvd|delivery|cs|tab|sab|d&c|top)|stillb\w+|"
                             r"(days?|weeks?|wks?|months?|mo) (after|post|since|s/p) (delivery|c-?section|birth|svd|lscs))\b")
DELIVERED = re.compile(r"\bpost-? ?partum|\bppd ?#?\d|\bpost-?natal\b")
# a positive test overtaken by bleeding: she may be or not
BLED_SINCE = re.compile(r"\b(?:test|upt|hcg)\b[^.;\n]{0,30}(?:\bpos\w*|\+)[^.;\n]{0,30}\b(?:then|since|after)\b[^.;\n]{0,14}\b"
                        r"(?:bled|passed (?:clots?|tissue)|period came)\b")
NOT_PREGNANT = re.compile(r"\b(preg\w*|hcg|upt|urine preg)( test\w*)?(?![^.;,\n]{0,30}\b(pos|pend|if|not|until|"
                          r"unless))[^.;,\n]{0,30}\bneg(ative)?\b|\b(preg\w*|b?-?hcg|upt|icon|beta|urine preg)( test| screen| status)?( is| was|"
                          r" today| came back)*\W{0,3}(neg|-ve|-(?=[ .,;)]|$)|excluded|ruled out|denied)|"
                          r"\b(b-?|beta ?-?)?hcg ?(of |is |was |level )?(<|less than|under) ?\d|\bbeta ?(<|less than) ?\d|"
                          r"neg(ative)? (urine |serum |beta |quant\w* |poc |blood |stat )*(b-?|β-?|beta-?)?(hcg|upt|icon|preg\w*)|not pregnant|"
                          r"non-?(pregnant|gravid)|can ?(not|'t) be pregnant|hcg (undetect\w*|not detected)|preg\w* ?[:?-] ?(no|n|neg\w*)\b|"
                          r"no uterus|denies (being |possibility of )?preg\w*|"
                          r"no (chance|possibility|way) (of|she'?s|she is|to be) preg\w*|"
                          r"hysterectomy|\bhyst\b|\btah\b|\btl?h[- ]?bso|\bt[lv]h\b|tubal (?!ectopic|preg|reversal)|tubal(?=\W*$|[.,;)])|\bbtl\b|"
                          r"tubes (tied|removed|out|clipped)|\bessure\b|post-? ?meno\w*|(?<!peri)(?<!peri-)(?<!pre)(?<!pre-)(?<!not )meno-?pausal|"
                          r"salpingectom|ovarian (failure|insufficiency)|"
                          r"\bpoi\b|steril[iy]s?z?ed|"
                          r"oophorectom|(?<!peri)(?<!peri-)(?<!pre)(?<!pre-)menopause|pre-?pubert\w*|pre-?pubescent|tanner (1|i)\b|(no|"
                          r"without) (menarche|menses yet|periods yet)|menarche (not|yet)|(born|assigned) male|\bmtf\b|trans (woman|female)|"
                          r"transgender (woman|female)|premenarch\w*|pre-?menarch\w*|not yet menstruat\w*|before menarche|"
                          r"bso\b|turner'?s? syndrome|m[uü]llerian agenesis|mrkh|"
                          r"(on her period|menses (now|today)|currently menstruating|menstruating (now|today)|menses started (today|yesterday)|(day|"
                          r"d) [1-7] of (menses|period|cycle)|"
                          r"lmp (was )?(today|yesterday|last week|\d+ ?d(ays?)? ago|this week))")
LONG_MR_YEARS = (0.25, 7.0)     # 3 months to 6 years: rarely still for a long MR
LONG_MR_MINUTES = 20
AWAKE = re.compile(r"(?<!not )(?<!isn't )(?<!poorly )(?<!barely )(?<!can't do )(?<!cannot do )(?<!failed )(?<!fail )(?<!won't do )"
                   r"(?<!won't stay )(?<!n't manage )\b(cooperat\w+|goggles|(holds?|lies?|lays?|stays?|sits?|keeps?) (very )?still|child life|"
                   r"mock scanner|"
                   r"awake(?! attempt (failed|unsuccess))|(non|un)-?sedated|natural sleep|swaddl\w*|bundl\w* (and|&|n) feed|bottle (and|&|n) (wrap|"
                   r"bundle)|papoose|"
                   r"vac-?(pac|fix)|no (meds|anes\w*|sed)|w/o (sedation|ga|anes\w*|meds)|(sedation|ga|anesthesia) (is )?(not|isn'?t) (needed|"
                   r"required)|"
                   r"feed[ -]?(and|&|n|\+)[ -]?(wrap|sleep|swaddle)|(no|without) (sedation|ga|anesthesia)|"
                   r"sedation (declined|refused)|(avoid|refuse)\w* (sedation|anesthesia|ga))\b")
HEAVY_KG = 158      # 350 lb, the limit of many older tables
WEIGHT = re.compile(r"(?<![\d.])(\d{3})(?:\.\d+)?\s*(kgs?|kilos?|kilograms?|lbs?|pounds|#)(?!\w)(?! (bar|deadlift|squat|bench|press|weights?|load|"
                    r"beam))|"
                    r"(?<![\d.])(\d\d)( ?stone| st)\b(?!\.)|\b(?:weighs|weight|wt)[ :=]{1,2}(\d{3})(?! ?(?:kg|kilo|lb|pound|#|g\b|gm|\d|\.))")
LIFTED = re.compile(r"\b(lift\w*|deadlift\w*|squat\w*|bench\w*|press\w*|crush\w*|fell on|pinned|struck|carry\w*|lost|loss of|loses|moving|"
                    r"dropped|down|was|from)\b[^.;\n]{0,18}$")


def pregnancy(order: Order, protocol: Protocol | None, words: Words, asked: set[str], rules: Rules, add: Add) -> None:
    age, sex, known = age_of(order, words.low), order.patient.sex, order.facts.pregnant
    if known:
        add("pregnancy", [Evidence("pregnant", field="pregnant")])
    if known or sex == "M" or not (age is None or 10 <= age <= 55):
        return
    over = bool(NOT_PREGNANT.search(words.low) or CHILDBIRTH_OVER.search(words.low))
    said = spans(rules["pregnancy"], words) + stated(rules["pregnancy"], (order.ordered_exam,), "ordered_exam")
    if DELIVERED.search(words.low) or BLED_SINCE.search(words.low):
        said = []
    elif over:                                                      # then only a count of weeks says that she is
        said = [e for e in said if re.search(r"\d", e.text)]
    add("pregnancy", said)
    over = over and not BLED_SINCE.search(words.low)
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


# how an order opens: 74M, 74 yo man, 18 mo girl
OPENING = re.compile(r"\W{0,3}(\d{1,3}) ?-?(?:(y)(?:rs?|ears?|o)?|(mo)(?:s|nths?)?)?(?:[ -/]?o(?:ld)?\b)?[ -]?"
                     r"(?:(m|male|man|boy|gentleman)|f|female|woman|girl|lady)\b")


def another_person(order: Order) -> bool:
    """Whether the text opens with another age or sex than the metadata: perhaps the order is in the wrong patient's record."""
    m = OPENING.match(order.text[:60].lower())
    if m is None:
        return False
    if order.patient.sex in ("F", "M") and (order.patient.sex == "M") != bool(m[4]):
        return True
    ages = [int(m[1]) / 12] if m[3] else [int(m[1])] if m[2] or m[4] != "m" else [int(m[1]), int(m[1]) / 12]      # 18m may be a man or an infant
    return order.age_years is not None and all(abs(age - order.age_years) > max(1.5, 0.1 * order.age_years) for age in ages)


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
             if kilograms(m) >= HEAVY_KG and not LIFTED.search(words.low[max(0, m.start() - 40):m.start()])]
    if order.facts.weight_kg and order.facts.weight_kg >= HEAVY_KG:
        heavy.append(Evidence(f"{order.facts.weight_kg:g} kg", field="weight_kg"))
    add("weight_limit", heavy + spans(rules["weight_limit"], words))


def kilograms(m: re.Match[str]) -> float:
    """A match of WEIGHT in kg; a bare number of 353 or more is read as pounds, a smaller one as nothing."""
    if m[4]:
        return int(m[4]) * 6.35
    if m[6]:
        return int(m[6]) * 0.4536
    return int(m[1]) * (1 if m[2].startswith("k") else 0.4536)
