"""Safety flags: rules with sources over metadata and text. No model decides here, and none can overrule it."""
import re
from collections.abc import Iterable

from data.book import Protocol
from data.records import Evidence, Flag, Order
from data.rules import Rule, read_rules

# a denial reaches the noun phrase beside it and no further: a hazard wrongly denied is worse than one wrongly shown
NEGATED = re.compile(r"\b(no|denies|denied|without|never had|neg(ative)? for|free of|no (history|hx|h/o) of|does not have|doesn'?t have)"
                     r"( (?!but\b|has\b|had\b|with\b|because\b|mri?\b|ct\b)(a|an|any|\w+)[,/]?){0,2}[ /]$")
DENIED_AFTER = re.compile(r"^ ?(test )?(was |is |were |has been |since )?(neg(ative)?(?= *($|[.;,\n]))|removed|explanted|ruled out|excluded)\b")
UNSURE = re.compile(r"\b(unsure|unknown|not sure|unclear|whether|if)\b[^.;\n]{0,20}$")
REACTION = re.compile(
    r"\b(allerg\w*|hives|urticaria\w*|anaphyla\w*|reaction|rxn|rash|wheez\w*|bronchospasm|itch\w*|angioedema|"
    r"throat|swelling|swelled|epi(nephrine)?|vomit\w*|premed\w*)\b")
FAMILY = re.compile(r"\b(mother|father|sister|brother|mom|dad|wife|husband|grand\w+|aunt|uncle|cousin|partner|family)\b[^.;\n]{0,25}$")
# "eGFR 60 -> 18": the last value of a run; a number followed by / is a date
KIDNEY = re.compile(r"\be?gfr\b[^\d.;\n]{0,12}(?:\d{1,3} ?-?> ?)?(\d{1,3})(?![\d/])(?! ?-?>)")
DIALYSIS = re.compile(r"\b(dialysis|esrd|hemodialysis|haemodialysis|ckd ?(stage )?5|on hd|hd (m|t)\w*|peritoneal dialysis|capd|anuric)\b")
ACUTE_KIDNEY = re.compile(r"\b(aki|acute kidney injury|acute renal failure|arf|cr(eat\w*)? (rising|doubled|climbing))\b")
WEIGHT = re.compile(r"\b(\d{3})\s*(kg|kilos?|lbs?|pounds)\b")
SIDE = re.compile(r"\b(left|right|lt|rt|l|r)\b", re.I)
LP = re.compile(r"\b(lp|lumbar puncture|myelo\w*|spinal tap|opening pressure)\b", re.I)
RECENT = re.compile(
    r"\b(today|yesterday|(\d+|few|several|couple( of)?) ?(h|hrs?|hours?|d|days?) ago|"
    r"this (morning|am|week)|last (night|week)|overnight)\b", re.I)
MODALITY = {"MR": re.compile(r"\b(mri?|mra|mrv|magnetic|fmri|mr)\b", re.I), "CT": re.compile(r"\b(ct|cta|ctv|ctp|cat scan|computed)\b", re.I),
            "XA": re.compile(r"\b(dsa|angiogram|ir|catheter)\b", re.I), "US": re.compile(r"\b(us|ultrasound|doppler|duplex)\b", re.I),
            "XR": re.compile(r"\b(xr|x-?ray|radiograph|\d view|films?)\b", re.I), "FL": LP,
            "NM": re.compile(r"\b(pet|spect|datscan|nuclear|scintigraphy)\b", re.I)}
WITH = re.compile(r"\b(w|with|w/|gad|post|contrast|cta|ctv|ctp|enhanced|wwo|w/wo)\b|w ?[&+/] ?wo|w/wo|w and wo", re.I)
WITHOUT = re.compile(r"\b(wo|w/o|without|non-?con\w*|plain)\b", re.I)
LONG_MR_YEARS = (0.25, 7.0)     # 3 months to 6 years: rarely still for a long MR


def check(order: Order, protocol: Protocol | None, rules: dict[str, Rule] | None = None) -> tuple[Flag, ...]:
    """All flags of an order, given the protocol that leads (None when nothing is suggested); evidence in original offsets."""
    rules = rules or read_rules()
    text = order.text.lower()
    if len(text) != len(order.text):            # a few letters change length when lowered; offsets must hold
        text = "".join(c.lower() if len(c.lower()) == 1 else c for c in order.text)
    asked = wanted(order, protocol)
    found: list[Flag] = []

    def add(code: str, evidence: Iterable[Evidence]) -> None:
        rule = rules.get(code)
        if rule is not None:
            found.append(Flag(code, rule.severity, rule.id, rule.source, rule.message, rule.action, tuple(evidence)[:4]))

    for code, rule in rules.items():
        if rule.pattern is None or code in SPECIAL:
            continue
        if (rule.modality and rule.modality not in asked) or (rule.contrast and rule.contrast not in asked):
            continue
        evidence = [*stated(rule, order.facts.implants, "implants"), *spans(rule.pattern, text, order.text)]
        if evidence:
            add(code, evidence)
    for code, agent in (("contrast_allergy_iodinated", "iodinated"), ("contrast_allergy_gadolinium", "gadolinium")):
        evidence = [Evidence(a, field="allergies") for a in order.facts.allergies if rules[code].pattern.search(a.lower())]
        evidence += [e for e in spans(rules[code].pattern, text, order.text) if REACTION.search(text[max(0, e.start - 40):e.end + 40])]
        if evidence and agent in asked:
            add(code, evidence)
    kidney(order, text, asked, rules, add)
    people(order, protocol, text, asked, rules, add)
    exam(order, protocol, text, asked, rules, add)
    return tuple(found)


SPECIAL = {"contrast_allergy_iodinated", "contrast_allergy_gadolinium", "metformin", "pregnancy", "low_value", "anesthesia_sedation"}


def wanted(order: Order, protocol: Protocol | None) -> set[str]:
    """What is clicked or suggested: modalities, contrast agents, LP, ionising."""
    click, asked = order.ordered_exam, set()
    for name, pattern in MODALITY.items():
        if pattern.search(click):
            asked.add(name)
    click_contrast = clicked_contrast(click)
    contrast = (protocol is not None and protocol.contrast != "none") or click_contrast == "with"
    modalities = set(asked)
    if protocol is not None:
        modalities |= set(protocol.modality.split("/"))
    if contrast:
        suggested = protocol is not None and protocol.modality == "MR" and protocol.contrast != "none"
        if suggested or ("MR" in asked and click_contrast == "with"):
            asked.add("gadolinium")
        if modalities & {"CT", "XA", "FL"} and ((protocol and protocol.modality != "MR" and protocol.contrast != "none")
                                                or (asked & {"CT", "XA"} and click_contrast == "with")):
            asked.add("iodinated")
    if protocol is not None and (protocol.modality in ("FL", "FL/CT") or protocol.modality == "XA"):
        asked.add("iodinated" if protocol.modality != "FL" else "FL")
    if LP.search(click) or (protocol is not None and protocol.modality in ("FL", "FL/CT")):
        asked.add("LP")
    asked |= modalities
    if asked & {"CT", "XA", "FL", "NM", "XR"}:
        asked.add("ionising")
    return asked


def clicked_contrast(click: str) -> str:
    """with, none, or "" when the click does not say."""
    with_, without = bool(WITH.search(re.sub(r"w/o(?!\w)", " ", click))), bool(WITHOUT.search(click))
    return "with" if with_ else "none" if without else ""


def kidney(order: Order, text: str, asked: set[str], rules: dict[str, Rule], add) -> None:
    # metadata and text may disagree; the worse of the two counts
    evidence = []
    egfr = order.facts.egfr
    if egfr is not None and egfr < 30:
        evidence.append(Evidence(f"eGFR {egfr:g}", field="egfr"))
    evidence += [Evidence(order.text[m.start():m.end()], m.start(), m.end()) for m in KIDNEY.finditer(text) if int(m[1]) < 30]
    dialysis, acute = spans(DIALYSIS, text, order.text), spans(ACUTE_KIDNEY, text, order.text)
    low = evidence + dialysis
    if low and "gadolinium" in asked:
        add("egfr_low_for_gadolinium", low)
    if (low or acute) and "iodinated" in asked:
        add("egfr_low_for_iodinated", low + acute)
    drug = spans(rules["metformin"].pattern, text, order.text)
    if drug and (evidence or acute) and "iodinated" in asked:
        add("metformin", drug + evidence + acute)


def people(order: Order, protocol: Protocol | None, text: str, asked: set[str], rules: dict[str, Rule], add) -> None:
    age, sex = order.age_years, order.patient.sex
    said = [e for e in spans(rules["pregnancy"].pattern, text, order.text)
            if not re.match(r"\W*(test|hcg|status)?\W*(neg|unknown)", text[e.end:e.end + 25])]
    denied = re.search(r"\b(preg\w*|hcg|upt)( test)?( is| was)? ?(neg|-)|not pregnant|hysterectomy|tubal|btl\b|post-?menopaus", text)
    fertile = sex != "M" and (age is None or 10 <= age <= 55)
    if order.facts.pregnant or (said and fertile):
        add("pregnancy", [Evidence("pregnant", field="pregnant")] if order.facts.pregnant else said)
    elif order.facts.pregnant is None and sex == "F" and age is not None and 12 <= age <= 50 and asked & {"ionising", "gadolinium"} and not denied:
        add("pregnancy_status_unknown", [Evidence("pregnancy status not given", field="pregnant")])
    if age is not None and age < 18 and "CT" in asked:
        add("radiation_child", [Evidence(f"age {age:g}", field="age_years")])
    sedation = spans(rules["anesthesia_sedation"].pattern, text, order.text) + [
        Evidence(m[0], field="ordered_exam") for m in rules["anesthesia_sedation"].pattern.finditer(order.ordered_exam.lower())]
    long_mr = protocol is not None and protocol.modality == "MR" and protocol.minutes >= 15
    if not sedation and long_mr and age is not None and LONG_MR_YEARS[0] <= age < LONG_MR_YEARS[1]:
        sedation = [Evidence(f"age {age:g}, MR of {protocol.minutes} minutes", field="age_years")]
    if sedation:
        add("anesthesia_sedation", sedation)
    heavy = [Evidence(order.text[m.start():m.end()], m.start(), m.end()) for m in WEIGHT.finditer(text)
             if int(m[1]) * (1 if m[2].startswith("k") else 0.4536) >= 160]
    if order.facts.weight_kg and order.facts.weight_kg >= 160:
        heavy.append(Evidence(f"{order.facts.weight_kg:g} kg", field="weight_kg"))
    if heavy:
        add("weight_limit", heavy)


def exam(order: Order, protocol: Protocol | None, text: str, asked: set[str], rules: dict[str, Rule], add) -> None:
    """Flags about the order itself: the click against the question, sides, repeats, missing words."""
    words = re.findall(r"[a-z]{2,}", text)
    if len(words) < 3:
        add("missing_info", [Evidence(order.text[:60], 0, min(60, len(order.text)))])
    if protocol is not None and order.ordered_exam:
        clicked = {name for name, pattern in MODALITY.items() if pattern.search(order.ordered_exam)}
        contrast = clicked_contrast(order.ordered_exam)
        wrong = []
        if clicked and not clicked & set(protocol.modality.split("/")):
            wrong.append("modality")
        elif contrast and (contrast == "none") != (protocol.contrast == "none"):
            wrong.append("contrast")
        elif region_differs(order.ordered_exam, protocol):
            wrong.append("region")
        if wrong:
            add("ordered_exam_mismatch", [Evidence(f"{order.ordered_exam} against {protocol.id}: {wrong[0]}", field="ordered_exam")])
    click_sides = {m[1][0].lower() for m in SIDE.finditer(order.ordered_exam)}
    text_sides = {m[1][0].lower() for m in SIDE.finditer(order.text)}
    if len(click_sides) == 1 and len(text_sides) == 1 and click_sides != text_sides:
        add("laterality_conflict", [Evidence(order.ordered_exam, field="ordered_exam")])
    for prior in order.priors:
        same = any(MODALITY[name].search(prior) for name in asked & set(MODALITY)) and protocol is not None and not region_differs(prior, protocol)
        if same and RECENT.search(prior) and re.search(r"\b(repeat|again|wants another|re-?scan)\b", text + order.ordered_exam.lower()):
            add("duplicate_recent_exam", [Evidence(prior, field="priors")])
            break
    rule = rules["low_value"]
    if hits := spans(rule.pattern, text, order.text):
        add("low_value", hits)


REGIONS = {     # what a click says -> words that stand in a protocol's region
    r"\b(brain|head|cranial|stroke)\b": ("brain", "head", "sella", "IAC", "orbits", "vessels", "veins", "cisterns", "skull base"),
    r"\b(neck|carotid)\b": ("neck", "brachial", "cervical"),
    r"\bc(ervical)?[ -]?spine\b": ("cervical", "spine"), r"\bt(horacic)?[ -]?spine\b": ("thoracic", "thoracolumbar", "spine"),
    r"\bl(umbar)?[ -]?spine\b": ("lumbar", "thoracolumbar", "spine", "LS plexus"), r"\b(sinus|face|facial)\b": ("sinuses", "face"),
    r"\borbits?\b": ("orbits",), r"\b(temporal|iac)\b": ("temporal bone", "IAC"), r"\b(pituitary|sella)\b": ("sella",),
}


def region_differs(click: str, protocol: Protocol) -> bool:
    said = [regions for pattern, regions in REGIONS.items() if re.search(pattern, click, re.I)]
    return bool(said) and not any(word in protocol.region for regions in said for word in regions)


def stated(rule: Rule, values: tuple[str, ...], field: str) -> list[Evidence]:
    return [Evidence(value, field=field) for value in values if rule.pattern and rule.pattern.search(value.lower())]


def spans(pattern: re.Pattern[str], text: str, original: str) -> list[Evidence]:
    """Matches that are neither denied nor somebody else's."""
    return [Evidence(original[m.start():m.end()], m.start(), m.end()) for m in pattern.finditer(text)
            if not NEGATED.search(text[max(0, m.start() - 45):m.start()])
            and not (DENIED_AFTER.search(text[m.end():m.end() + 40]) and not UNSURE.search(text[max(0, m.start() - 40):m.start()]))
            and not FAMILY.search(text[max(0, m.start() - 40):m.start()])]
