"""Kidney function as an order tells it: eGFR, creatinine, dialysis and acute injury, with what is old apart from what holds now."""
import re
from dataclasses import dataclass

from data.records import Evidence

LOW = 30.0              # mL/min/1.73 m2: ACR Manual on Contrast Media 2024
UMOL_PER_MG_DL = 88.4   # creatinine
RISE = 1.5              # times the baseline: acute kidney injury (KDIGO 2012)
USUAL_AGE = 60.0        # years, where the order gives none

FILL = (r"(?:[ :=~<>≈()*,'’-]|\b(?:is|was|of|at|now|today'?s?|this (?:am|morning|week)|yesterday|last|only|just|about|around|approx\w*|roughly|down|"
        r"fell|"
        r"dropped|has|currently|current|latest|most|recent|on|labs?|came|back|calculated|estimated|est|by|ckd-?epi(?: 20\d\d)?|mdrd|low|poor|to|up|"
        r"from|"
        r"value|level|result|best|worst|serum|random|admission|admit|here|peaked|rose|risen|bumped|jumped|climbed|in|"
        r"(?:(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*)(?: (?:19|20)\d\d)?|(?:19|20)\d\d|"
        r"\d{1,2}/\d{1,2}(?:/\d{2,4})?)(?![\w/])){0,14}?")
ARROW = r" ?(?:-+>|→|>{2,}|\bto\b|\.\.) ?"
# "eGFR 60 -> 18": the last value of a run; "EGFR 19del" and "EGFR exon 20" are a gene
EGFR = re.compile(rf"\b(?:e?gfr|crcl|cr ?clearance|creatinine clearance)\b(?!\W*(?:exon|ex\d|[ltgs]\d|mut|wild|pos|\+|neg|inhib|tki)){FILL}"
                  rf"(?:\d{{1,3}}(?:\.\d+)?{ARROW})*(?<![\d.])(\d{{1,3}})(?:\.\d+)?(?![\d/]|\w|\.\d| ?(?:-+>|→|to \d)| ?(?:del|ins|mut|exon|weeks|"
                  rf"months|years|"
                  r"days|d ago|wks|wk|mm|cm))")
CREATININE = re.compile(rf"(?<![/\w-])(?<!cho )(?<!naa )(?:s?cr|creat(?:inine)?)\b(?! ?-?(?:kinase|clearance)){FILL}"
                        rf"((?:\d{{1,4}}(?:\.\d+)?{ARROW})*)(?<![\d.])(\d{{1,4}}(?:\.\d+)?)(?![\d/]|\w*/\d|\.\d| ?(?:-+>|→))"
                        r" ?(mg/dl|mg|umol\S*|µmol\S*|μmol\S*|mcmol\S*)?(?! ?(?:y(?:rs?|ears?|o)?|m(?:o|os|onths?)?|w(?:ks?|eeks?)?|d(?:ays?)?|"
                        r"h(?:rs?|ours?)?|%|mm|cm|x|st|nd|rd|th|"
                        r"cycles?|courses?)\b)")
# "CR 2 cycles": a complete response
RESPONSE = re.compile(r"(?! (?:today|now|this|on|and|with|hold|gad|contrast|egfr|baseline|from|k\b|bun)) ?[a-z]")
BASELINE = re.compile(r"[^.;\n\d]{0,14}\b(?:baseline|b/l|bl|from|was|usual\w*|prior|previously)\b\D{0,8}(\d{1,3}(?:\.\d+)?)")
NOW = r"(?:now|today|currently|back (?:down |up )?to|down to|improved to|settled at|recovered to|repeat|recheck)"
BETTER = re.compile(rf"[^.;\n]{{0,60}}?(?:\b{NOW}(?: (?:at|is|up|down|to))*[ :=~]{{1,3}}(\d{{1,3}}(?:\.\d+)?)(?! ?(?:y|m|f|w|d|h|/)\w*\b)|"
                    rf"\b(\d{{1,3}}(?:\.\d+)?) {NOW}\b(?! \d))")
OLD = re.compile(r"\b(?:19|20)\d\d\b|\blast year\b|\b(?:\d+|an?|several|few|two|three|four|five|ten|many) (?:years?|yrs?|y) (?:ago|back)\b|"
                 r"\b(?:before|pre-?|until|prior to)\W?(?:the |her |his )?transplant|"
                 r"\bold (?=e?gfr|cr)|\b(?:previous|prior|remote) (?=e?gfr|cr)")
PASSED = re.compile(r"\b(?:dipped|nadir|was|were|recover\w*|resolv\w*|transient\w*|at (?:diagnosis|presentation)|on admission|peak\w*|then)\b")
HEIGHT = re.compile(r"\b(?:height|ht|length)\D{0,4}(\d{2,3}) ?cm|\b(\d{2,3}) ?cm (?:tall|long)\b")


@dataclass(frozen=True)
class Kidneys:
    low: tuple[Evidence, ...]       # eGFR under 30, stated or from creatinine
    acute: tuple[Evidence, ...]     # creatinine at 1.5 times the baseline or more
    well: bool                      # a present eGFR of 30 or more is stated


def read_kidneys(text: str, original: str, egfr: float | None, age_years: float | None, sex: str) -> Kidneys:
    """Metadata and text may disagree: the worse of the two counts, but an old value in the text gives way to a present one.

    Args: text, lower-cased; original, of the same length; egfr of the metadata, mL/min/1.73 m2.
    """
    known_well = egfr is not None and egfr >= LOW
    low = [Evidence(f"eGFR {egfr:g}", field="egfr")] if egfr is not None and egfr < LOW else []
    values, old = [], []
    for m in EGFR.finditer(text):
        better = BETTER.match(text, m.end())
        value = float(better[1] or better[2]) if better and float(better[1] or better[2]) >= LOW else float(m[1])
        passed = known_well and PASSED.search(text[max(0, m.start() - 40):m.end() + 40])
        (old if not better and (passed or is_old(text, m.start(), m.end())) else values).append((value, span(m, original)))
    counted = values or ([] if egfr is not None else old)
    low += [evidence for value, evidence in counted if value < LOW]
    acute: list[Evidence] = []
    for m in CREATININE.finditer(text):
        read = creatinine(m, text)
        if read is None or is_old(text, m.start(), m.end()):
            continue
        now, before = read
        if before and now >= RISE * before and now > 1.3:
            acute.append(span(m, original))
        estimate = egfr_from(now, age_years, sex, height_cm(text, age_years))
        known = min([value for value, _ in values] + ([egfr] if egfr is not None else []), default=None)
        if estimate < LOW and (known is None or estimate < 0.6 * known):       # a rounding apart is no contradiction
            low.append(span(m, original))
    return Kidneys(tuple(low), tuple(acute), (egfr is not None and egfr >= LOW) or any(value >= LOW for value, _ in values))


def is_old(text: str, start: int, end: int) -> bool:
    """A year, "last year" or "n years ago" in the same sentence, close by."""
    before = re.split(r"[.;,\n]", text[max(0, start - 22):start])[-1]
    after = re.split(r"[.;\n]|, (?=now|today)", text[end:end + 28])[0]
    return bool(OLD.search(before + text[start:end] + after))


def creatinine(m: re.Match[str], text: str) -> tuple[float, float | None] | None:
    """(now, baseline or None) in mg/dL; None where the number is none of creatinine."""
    value, unit = float(m[2]), m[3] or ""
    run = [float(x) for x in re.findall(r"\d{1,4}(?:\.\d+)?", m[1] or "")]
    micro = "mol" in unit or (not unit and value >= 30)
    bare = "." not in m[2] and not unit and not micro and not m[0].startswith("creat")
    if bare and RESPONSE.match(text, m.end()):
        return None
    before = run[0] if run else None
    if better := BETTER.match(text, m.end()):
        return float(better[1] or better[2]) / (UMOL_PER_MG_DL if micro else 1), None
    if before is None and (base := BASELINE.match(text, m.end())):
        before = float(base[1])
    scale = UMOL_PER_MG_DL if micro else 1.0
    now, before = value / scale, before / scale if before is not None else None
    return (now, before) if 0.1 <= now <= 25 else None


def egfr_from(creatinine_mg_dl: float, age_years: float | None, sex: str, height_cm: float) -> float:
    """mL/min/1.73 m2 by CKD-EPI 2021 (Inker, NEJM 2021), under 18 by bedside Schwartz (2009); unknown sex is read as female, the lower."""
    age = USUAL_AGE if age_years is None else age_years
    if age < 18:
        return 0.413 * height_cm / creatinine_mg_dl
    male = sex == "M"
    ratio = creatinine_mg_dl / (0.9 if male else 0.7)
    return 142 * min(ratio, 1.0) ** (-0.302 if male else -0.241) * max(ratio, 1.0) ** -1.2 * 0.9938 ** age * (1.0 if male else 1.012)


def height_cm(text: str, age_years: float | None) -> float:
    """The height that the text gives, else the usual one of a child of that age (Weech)."""
    if m := HEIGHT.search(text):
        return float(m[1] or m[2])
    age = age_years or 0.0
    return 50 + 25 * age if age < 1 else min(77 + 6 * age, 165.0)


def span(m: re.Match[str], original: str) -> Evidence:
    return Evidence(original[m.start():m.end()], m.start(), m.end())
