"""Free text made fit for a log: names, numbers, dates, addresses replaced by tags. It takes out too much rather than too little.

No rule finds every name. A log that can do without the text does without it; this is for where a person must see what an order said.
"""
import re
from collections.abc import Iterable
from functools import lru_cache, partial

from nlp.spelling import FREQUENT, read_words

MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
# every repetition is bounded, so that the time is linear
LETTERS = r"[^\W\d_]{1,30}(?:['’-][^\W\d_]{1,30}){0,3}"             # O'Brien, Al-Hassan
CAPITAL = rf"(?-i:(?:(?:van|von|der|den|ter|de|del|la|le|bin|al|el|di|da|dos)[ ]){{0,2}}(?=[^\W\d_a-zß-öø-ÿ]){LETTERS})"
INITIAL = r"(?-i:[A-Z]\b\.?)"
PERSON = rf"{CAPITAL}(?:[ \t]{{1,2}}(?:{CAPITAL}|{INITIAL})){{0,3}}"
# what follows a cue and is no name
NO_NAME = (r"(?!(?:the|a|an|is|was|has|had|with|and|or|for|to|of|on|in|at|no|not|he|she|they|we|says?|said|states?|reports?|denies|called|wants?|"
           r"aware|requests?|requested|notes?|will|who|per|from|by|needs?|presents?|complains?|recommends?|would|please|pls|mri?|ct|cta|scan|exam|history|hx|"
           r"office|clinic|team|service|consult|note|ok|okay|asks?|asked|thinks?|ordered|saw|seen|did|does|can|may|should|if|as|but|dob|mrn|age|sex|"
           r"dr|drs|mr|mrs|ms|prof|line)\b)")
WORD = rf"{NO_NAME}{LETTERS}"
CREDENTIAL = r"(?-i:M\.?D|D\.?O|R\.?N|N\.?P|PA(?:-C)?|Ph\.?D|MBBS|MBChB|FRCR|FRCS|CRNP|DDS|RT)\b"
ROLE = (r"provider|physician|attending|resident|referr\w{1,5}(?: (?:physician|md|provider|by))?|ordering(?: (?:physician|md|provider))?|pcp|surgeon|"
        r"radiologist|technologist|tech")
RELATIVE = r"mother|father|mom|dad|wife|husband|son|daughter|sister|brother|spouse|partner"
DONE_BY = (r"requested by|ordered by|dictated by|signed by|transcribed by|read by|reported by|interpreted by|approved by|reviewed by|review by|"
           r"performed by|seen by|discussed with|d/w|spoke (?:to|with)|notified|called to|communicated (?:to|with)")
STREET = (r"(?-i:St|Ave|Rd|Dr|Ln|Blvd|Ct|Pl|Way|Ter|Cir|Hwy|Pkwy|ST|AVE|RD|DR|LN|BLVD|PKWY|HWY)\b\.?|"
          r"(?:street|avenue|road|drive|lane|boulevard|court|highway|parkway)\b")

# tag -> pattern, in this order; the group "keep" stays before the tag. "NAME?" is left where every word of it is a clinical one
PATTERNS: tuple[tuple[str, str], ...] = (
    ("URL", r"\b(?:https?://|ftp://|www\.)\S{1,500}"),
    ("EMAIL", r"(?<![\w.+%-])[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}"),
    ("IP", r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])"),
    ("ID", r"(?P<keep>\b(?:mrn|med(?:ical)? ?rec(?:ord)?|acc(?:ession)?|acct|account|csn|fin|har|encounter|visit|patient id|pt id|pid|nhs|ssn|"
           r"social security|health card|hcn|ohip|medicare|medicaid|policy|member id|insurance|licen[cs]e|passport|npi|serial|uid|id)\b\.?"
           r" ?(?:no\.?|number|num|#)? ?[:#=]{0,2} ?)(?:\d{3} \d{3} \d{4}|(?=[\w-]{0,30}\d[\w-]{0,30}\d[\w-]{0,30}\d)[\w-]{3,40})"),
    ("ID", r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)"),
    ("ID", r"(?<![\w.])\d(?:\.\d{1,40}){5,30}"),
    ("DATE", r"(?P<keep>\b(?:dob|d\.o\.b\.?|date of birth|birth ?date)\b[ :=]{0,3})(?=[\w/., -]{0,12}\d)[\w/.,-]{1,12}(?:[ ]\d{1,2},?[ ]\d{2,4})?"),
    ("DATE", r"\b(?:19|20)\d\d[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ]\d\d:\d\d(?::\d\d)?)?\b"),
    ("DATE", r"(?<![\d/.])\d{1,2}([-/.])\d{1,2}\1(?:19|20)?\d\d(?![\d/])"),
    ("DATE", rf"\b{MONTH}\.? ?\d{{1,2}}(?:st|nd|rd|th)?(?:,?[ ]{{1,2}}(?:19|20)\d\d| ?['’]\d\d)?\b(?!:)"),
    ("DATE", rf"\b\d{{1,2}}(?:st|nd|rd|th)?[ -]{MONTH}\b\.?(?:[ ,-]{{1,2}}(?:(?:19|20)?\d\d))?\b"),
    ("DATE", r"\b(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{4}(?:\d\d)?)?\b"),
    ("DATE", r"(?P<keep>\b(?:on|dated|date|since|scan|ct|mri?|seen|from)[ :]{1,2})\d{1,2}/\d{1,2}(?![\d/])"),
    ("PHONE", r"(?<![\w.])(?:\+?\d{1,3}[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]?\d{4}(?: ?(?:x|ext\.?) ?\d{1,6})?(?!\d)"),
    ("PHONE", r"(?<![\w.])\+\d{1,3}(?:[ .-]?\d{2,4}){2,5}\b"),
    ("PHONE", r"(?P<keep>\b(?:phone|tel|telephone|cell|mobile|pager|pgr|beeper|bleep|fax|call(?:back)?(?: me)? at|ext|extension)\b[ .:#@]{0,3})"
              r"\+?[\d(][\d() .-]{2,20}\d"),
    ("ADDRESS", rf"(?<![\w/.-])\d{{1,6}} (?:(?-i:[A-Z][\w'’.-]{{0,20}}|\d{{1,3}}(?:st|nd|rd|th)) ){{1,3}}(?:{STREET})"
                r"(?:,? ?(?:apt|unit|suite|ste|#)\.? ?\w{1,6})?"
                r"(?:,? (?-i:[A-Z][A-Za-z .]{1,25},? [A-Z]{2} \d{5}(?:-\d{4})?))?"),
    ("ADDRESS", r"\bp\.? ?o\.? ?box \d{1,8}"),
    ("ADDRESS", r"(?-i:\b[A-Z][a-z]{1,20}(?: [A-Z][a-z]{1,20})?,? [A-Z]{2}),? \d{5}(?:-\d{4})?\b"),
    ("ADDRESS", r"(?P<keep>\b(?:address|lives at|resides at|addr)\b[ :]{1,3})[^\n.;]{4,60}"),
    ("ADDRESS", r"(?-i:(?<![\w-])(?:[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}|[A-Z]\d[A-Z] \d[A-Z]\d)\b)"),
    ("NAME", rf"(?P<keep>\b(?:dr|drs|doctor|mrs|miss|mx|prof|professor|rev|sir)\b\.? ?){PERSON}"),
    ("NAME?", rf"(?P<keep>(?-i:\b(?:Mr|MR\.|mr\.|Mr\.|Ms|Ms\.|MS\.|Sister|Nurse|nurse)) ?){PERSON}"),
    ("NAME?", rf"(?P<keep>(?-i:\b(?:Mr|mr|Ms|ms)) ){WORD}"),
    ("NAME", rf"(?P<keep>\b(?:dr|doctor|mrs|miss|prof)\b\.? ){WORD}"),
    ("NAME?", rf"(?P<keep>\b(?:patient(?: name)?|pt(?: name)?|(?:full )?name|client|re|regarding|attn|attention|cc|contact|next of kin|nok|guardian|"
              rf"author|(?:{RELATIVE})(?:'s)?(?: name)?(?: is)?|{ROLE}|{DONE_BY}) ?[:=] ?)"
              rf"{WORD}(?:(?: ?, ?| ){WORD})?(?: {INITIAL})?(?: {CAPITAL}){{0,2}}"),
    ("NAME?", rf"(?P<keep>\b(?:patient|pt|per|named|name is|{ROLE}|{RELATIVE}|{DONE_BY}) )(?-i:(?=[A-Z][a-z])){NO_NAME}{PERSON}"),
    ("NAME", rf"(?<!\w){PERSON}(?:,[ ]?|[ ])(?={CREDENTIAL})"),
    ("NAME?", rf"(?<!\w){CAPITAL}, ?{CAPITAL}(?: {INITIAL})?(?![\w/])"),
    ("ID", r"(?<![\w.-])(?=[\w-]{0,30}\d{5})[a-z]{0,5}-?\d{6,30}[\w-]{0,30}"),
    ("ID", r"(?<![\w.-])[a-z]{1,4}-?\d{5,30}(?!\w)"),
)
COMPILED = tuple((tag.rstrip("?"), tag.endswith("?"), re.compile(pattern, re.I | re.M)) for tag, pattern in PATTERNS)


def deidentify(text: str, names: Iterable[str] = ()) -> str:
    """The text with tags for what may tell whose it is: [NAME] [DATE] [PHONE] [ID] [ADDRESS] [EMAIL] [URL] [IP]. Linear time.

    Args:
        names: those known from the order's own fields (patient, referrer), "SMITH^JOHN" or "John Smith"; each part of three letters or more goes.
    """
    parts = {part for name in names for part in re.split(r"[^\w'’-]+", name) if len(part) > 2 and not part.isdigit()}
    if parts:
        text = re.sub(rf"(?<!\w)(?:{'|'.join(sorted(map(re.escape, parts), key=len, reverse=True))})(?!\w)", "[NAME]", text, flags=re.I)
    for tag, doubtful, pattern in COMPILED:
        text = pattern.sub(partial(tagged, tag, doubtful), text)
    return text


def tagged(tag: str, doubtful: bool, match: re.Match[str]) -> str:
    keep = match.groupdict().get("keep") or ""
    if doubtful and all(is_clinical(word) for word in re.findall(r"[^\W\d_]+", match[0][len(keep):])):
        return match[0]
    return f"{keep}[{tag}]{' ' if match[0].endswith(' ') else ''}"


@lru_cache(4096)
def is_clinical(word: str) -> bool:
    """A word that orders often say; also a short form in capitals of up to four letters."""
    return read_words()[0].get(word.lower(), 0) >= FREQUENT or (word.isupper() and len(word) <= 4)
