"""Whether a word of a rule counts where it stands: not when it is denied, somebody else's, only planned, or taken out."""
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data.records import Evidence
from data.rules import Rule

BEFORE, AFTER = 110, 70         # characters looked at on either side

CUE = (r"no|nil|denies|denied|denying|without|w/o|never had|neg(?:ative)? for|free of|lacks|nor|"
       r"(?:does|did|do|has|have)(?: not|n'?t)(?: have| had)?(?: any)?")
OTHER_NOUN = r"but|has|had|with|because|mri?|ct|contrast|gad\w*|iv"      # a denial of these is none of what stands behind them
# a denial reaches the noun phrase beside it: a hazard wrongly denied is worse than one wrongly shown
DENIED = re.compile(rf"\b(?:{CUE.replace('w/o|', '')})(?: (?:history|hx|h/o) of)?(?: (?!(?:{OTHER_NOUN})\b)(?:a|an|any|\w+)/?){{0,2}}[ /]$|"
                    rf"\bw/o (?:a |an )?$")
# ... and goes on through a list of things of its own kind: "no pacemaker, aneurysm clips, implants or metal"
KIND = (r"any|an?|the|all|other|known|prior|previous|past|current|cardiac|heart|implant\w*|devices?|electronic|electrical|pace\w*|pacers?|ppms?|"
        r"s?-?icds?|"
        r"aicds?|crt\w*|defib\w*|clips?|aneurysm\w*|brain|cerebral|intracranial|cochlear|hearing|inner|ear|aids?|neuro\w*|stim\w*|nerve|spinal|cord|"
        r"vagus|vagal|deep|dbs|vns|scs|metal\w*|frag\w*|foreign|bod(?:y|ies)|fbs?|shrapnel|bullets?|bbs?|pellets?|gunshots?|gsws?|hardware|stents?|"
        r"coils?|shunts?|pumps?|valves?|insulin|infusion|baclofen|joints?|replacements?|prosthe\w*|surger\w*|hx|h/o|history|of|in|on|eyes?|orbit\w*|"
        r"head|weld\w*|grind\w*|injur\w*|piercings?|tattoos?|claustro\w*|anxiety|pregnan\w*|allerg\w*|reactions?|contrast|dye|iodin\w*|gad\w*|"
        r"shellfish|renal|kidney|disease|failure|problems?|issues?|dialysis|diabetes|dm|asthma|anti-?coag\w*|anti-?platelets?|blood|thinners?|"
        r"warfarin|contra-?indications?|to|mri?|for|from|and|or|nor|incl\w*|such|as|e\.?g|magnet\w*|loop|recorders?|retained|surgical|fever|"
        r"weight|loss|trauma|cancer|ca|bleeding")
LIST_DENIED = re.compile(rf"\b(?:{CUE})[ :]+(?!(?:mri?|ct|contrast|gad\w*|iv)\b(?! (?:allerg|react|contra|safety|hazard|issue|"
                         rf"dye)))(?:(?:{KIND})\b(?:(?<=incl)\.)?[ ,/&+()-]+)*$")
# what is denied is something of the device: the device is there
OF_IT = re.compile(r"^[ -](?:clinic|checks?|interrog\w*|cards?|info\w*|issues?|problems?|malf\w*|records?|depend\w*|complicat\w*|dysfunct\w*|alarms?|"
                   r"shocks?|models?|details|documentation|paperwork|reps?|infection|revision|failure|tract|setting)\b")
THERE = re.compile(r"^\W{0,3}(?:(?:in |since )?(?:19|20)\d\d|placed|implanted|in (?:place|situ)|since|dependent|conditional|battery|generator)")

UNSURE = re.compile(r"\b(unsure|unknown|not sure|unclear|whether|if)\b[^.;,\n]{0,20}$")
DENIED_AFTER = re.compile(r"^(?:/[\w-]+){0,3}(?: test| screen(?:ing)?| status)?\W{0,4}(?:was |is |were |has been )?(?:"
                          r"(?:no|none|n|nil|neg|negative|denies|denied|absent|not present|never)(?=\s*(?:$|[.;,/\n|)]))|ruled out|excluded|\(-\))")

TELLS = (r"says?|said|states?|reports?|thinks?|believes?|notes?|noticed|mentions?|confirms?|told|tells|brought|brings|found|saw|filled|phoned|rang|"
         r"(?:he|she|pt|patient|child|kid|baby|who) (?:has|had|is|was|got|wears|carries)(?<!who has)(?<!who had)")
PERSON = (r"mother|father|sister|brother|siblings?|mom|mum|dad|wife|husband|spouse|grand\w+|mg[mf]|pg[mf]|aunt|uncle|cousin|niece|nephew|partner|"
          r"daughter|son|boyfriend|girlfriend|fianc\w+|roommate|neighbou?r|friend|maternal|paternal")
OTHER_PERSON = re.compile(rf"(?<!per )(?<!per his )(?<!per her )(?<!to )\b(?:{PERSON})(?:'?s)?\b(?![^.;\n]*\b(?:{TELLS})\b)[^.;,\n]{{0,25}}$|"
                          rf"\b(?:family|fam|f)[ -]?(?:history|hx)\b(?![^.;\n]*\b(?:he|she|pt|patient)\b)[^.;\n]{{0,60}}$|"
                          rf"\bfh(?:x)?\b[ :][^.;\n]{{0,60}}$")
OTHER_PERSON_WHO = re.compile(rf"\b(?:{PERSON})\b,? who (?:has|had|wears|carries)[^.;,\n]{{0,20}}$|"
                              rf"\b(?:{PERSON})\b[^.;\n]{{0,30}}\b(?:died|dead|passed)\b[^.;\n]{{0,25}}$")
OTHER_PERSON_AFTER = re.compile(rf"^(?: (?:in|by|of) (?:the |his |her |their )?(?:{PERSON})\b|[^.;\n]{{0,45}}\b(?:belongs? to|is|was|were) (?:the |"
                                rf"his |her |their )(?:{PERSON})(?:'s)?\b)")
# "husband ...; he himself has a pacemaker" in an order for a woman
NOT_HIS = re.compile(r"\b(?:he|himself)(?: (?:himself|also|too))*,? (?:has|had|wears|carries|got|uses)(?: (?:an?|the|his|old|new))*\s$")
NOT_HERS = re.compile(r"\b(?:she|herself)(?: (?:herself|also|too))*,? (?:has|had|wears|carries|got|uses)(?: (?:an?|the|her|old|new))*\s$")

# --- a device that is not in yet, or no longer
ARTICLES = (r"(?: (?:for|of|on|about|an?|the|his|her|new|permanent|mri[ -]?(?:conditional|safe)|placement|insertion|implantation|get|have|having|be|"
            r"responsive|deep|spinal|vag(?:us|al)|nerve|cord|brain|sacral|dual|chamber|cardiac|intrathecal|aneurysm|"
            r"bilateral|unilateral|left|right|[lr]|programmable|to|up|out|possible|undergo|receive))*")
PLANNED = re.compile(rf"\b(?:candida\w+|eval\w*|assess\w*|work-?(?:ed|ing)?[ -]?up|referr\w+|listed|scheduled|planned|plan\w*|await\w*|waiting|"
                     rf"consider\w*|"
                     rf"accepted|contemplat\w+|discuss(?:ed|ing)|pre-?op(?:erative)?|pre|before|prior to|pending|needs?|needing|wants?|would like|"
                     rf"would (?:he|she|an?)|"
                     rf"wishes|hop\w+|offered|declin\w+|refus\w+|deferr\w+|turned down|interested in|asks? about|asking about|asked about|"
                     rf"going|booked|due|will|about to|suitab\w+|eligib\w+|future|potential|toward|possible){ARTICLES}[ -]$")
IN_USE = re.compile(r"^[ -]?(?:mri )?(?:checks?(?:ed)?|interrog\w*|re-?program\w*|re-?set|settings?|turn\w*|switch\w*|rep\b|clinic|mode|cards?|"
                    r"clear\w*|device|off\b|adjust\w*|"
                    r"batter\w+|generator|leads?|revis\w*|replac\w*|chang\w*|exchang\w*|explant\w*|remov\w*|malf\w*|tap\w*|infect\w*|depend\w*|"
                    r"magnets?|model|put (?:in|into|to)|in (?:place|situ)|(?:on|in|to) (?:the )?(?:mri?|magnet)\b|placed (?:in|at)?)")
PLANNED_AFTER = re.compile(r"^,?(?: \(?(?:was|is|being|been|placement|implant\w*|insertion|surgery|family|pt|patient|he|she|they|but|parents?|to be|"
                           r"next|trial|leads?|are))*[ (-](?:declin\w*|refus\w*|deferr\w*|cancel\w*|not done|not (?:yet )?(?:placed|implanted)|"
                           r"never placed|considered|discussed|"
                           r"contemplated|offered|recommended|possible(?=\W*$|[.;?])|candida\w+|candidacy|evaluation|eval|work[- ]?up|assess\w*|"
                           r"planning|planned|"
                           r"scheduled|consideration|conference|pending|tomorrow|next (?:week|month)|being (?:considered|discussed|planned)|"
                           r"not needed|needed|may help|an option|plan\b(?! to)|trial next)\b(?! (?:mri?|ct)\b)")
PART = re.compile(r"\b(?:leads?|wires?|generator|battery|magnets?|patch\w*|electrodes?)\b")        # a part taken out leaves the rest
TAKEN_OUT = r"removed|explanted|ex-?planted|extracted|taken out|pulled|came out|decannulated|weaned|all out|leads out"
KEPT = (r"(?![^.;\n]{0,40}\b(?:leads?|wires?|electrodes?|stump|fragments?)\b[^.;\n]{0,20}\b(?:left|remain\w*|retained|in situ|in place|behind|still|"
        r"abandon\w*|capped|not)\b)"
        r"(?![^.;\n]{0,25}\b(?:but|except|abandon\w*|remnants?|re-?placed|re-?implanted|new (?:one|device|system))\b)")
STILL = (r"not|never|can ?not|can'?t|could ?n[o']t|un\w+able|to be|will|needs?|before|until|if|unless|one|generator|battery|magnet|partly|partial\w*|"
         r"half|first|need")
REMOVED_AFTER = re.compile(rf"^(?:(?!\b(?:{STILL})\b)[^.;,\n(]){{0,40}}?(?:[,(] ?(?:(?:which|later|since|then|now|was|has|been|fully|completely|"
                           rf"subsequently|device|entire|"
                           rf"system|generator and leads|everything|all|and|(?:19|20)\d\d) ?)*)?\b(?:{TAKEN_OUT})\b{KEPT}|"
                           rf"^[^.;,\n]{{0,12}}\b(?:failed|ended),? (?:all |leads? )?(?:out|removed|explanted)")
REMOVAL_BEFORE = re.compile(r"(?<!for )(?<!awaiting )(?<!planned )(?<!before )(?<!failed )(?<!needs )\b(?:removal|explant(?:ation)?|extraction|"
                            r"removed|explanted|extracted|ex-?planted|"
                            r"decannulated|weaned) (?:of |from |off |the |her |his |an? |old |prior |entire |complete |his )*$|"
                            r"\b(?:former|ex-)\W?$")

REMOVAL_AFTER = re.compile(rf"^ (?:explant(?:ation)?|removal|extraction)\b(?! (?:planned|failed|next|scheduled|tomorrow|pending|attempt\w*)){KEPT}")
DONE = re.compile(r"\b(?:after|s/p|post|since|following|had|prior|previous|hx of|history of)\b[a-z /-]{0,14}$")


@dataclass(frozen=True)
class Words:
    original: str
    low: str                            # lower-cased, of the same length: offsets hold
    starts: tuple[int, ...] | None      # where a term of some rule begins; None: not looked for
    sex: str = "U"                      # of the patient: another pronoun is another person


IMPLANTED = {"pacemaker_mri", "neurostimulator_mri", "cochlear_implant_mri", "aneurysm_clip_mri", "implant_mri_check", "implant_mri_unsafe"}

# said about a device: itself neither planned nor removed
STATEMENT = re.compile(r"\b(?:mri?|magnets?|scan|unsafe|conditional|compatible)\b")


def lowered(text: str) -> str:
    """Lower case of the same length: a few letters grow when lowered, these stay."""
    low = text.lower()
    return low if len(low) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def spans(rule: Rule, words: Words) -> list[Evidence]:
    """A rule's matches that are neither denied, nor somebody else's, nor ruled out by its own not_before and not_after."""
    return [span_of(m, words.original) for m in matches(rule, words) if stands(rule, words, m.start(), m.end())]


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


# "box ticked in error", "chart wrongly lists": the device, allergy or state is nobody's
BY_MISTAKE = r"in error|by (?:mistake|accident)|erroneous\w*|mistaken\w*|wrongly|incorrect\w*|accidentally"
MISTAKE_AFTER = re.compile(rf"^[^.;\n]{{0,40}}\b(?:tick\w*|check\w*|mark\w*|enter\w*|list\w*|document\w*|chart\w*|flag\w*|select\w*|click\w*|"
                           rf"copied|carried|recorded|added|noted|coded|is|was)\b[^.;\n]{{0,16}}\b(?:{BY_MISTAKE})|"
                           r"^[^.;,\n]{0,24}\b(?:is|was|belongs to|from) (?:an?other|the wrong|a different) (?:pt|patient|chart|mrn|person)")
MISTAKE_BEFORE = re.compile(rf"\b(?:{BY_MISTAKE})(?: (?:tick\w*|check\w*|mark\w*|enter\w*|list\w*|document\w*|chart\w*|flag\w*|coded|says?|said|"
                            r"states?|recorded|as|for|having|has|had|an?|the|with|to have))*\W{0,2}$")


def stands(rule: Rule, words: Words, start: int, end: int) -> bool:
    text = words.low
    before, after = text[max(0, start - BEFORE):start], text[end:end + AFTER]
    if denied(before, after, rule.flag in IMPLANTED):
        return False
    if MISTAKE_AFTER.match(after) or MISTAKE_BEFORE.search(before[-60:]):
        return False
    if OTHER_PERSON.search(before) or OTHER_PERSON_WHO.search(before) or OTHER_PERSON_AFTER.match(after):
        return False
    if (words.sex == "F" and NOT_HIS.search(before)) or (words.sex == "M" and NOT_HERS.search(before)):
        return False
    if rule.flag in IMPLANTED and not STATEMENT.search(text, start, end) and not_in(before, text[start:end], after):
        return False
    return not (rule.not_before and rule.not_before.search(before[-45:])) and not (rule.not_after and rule.not_after.match(after))


def denied(before: str, after: str, device: bool) -> bool:
    """"no X", "no A, B or X", "X: no"."""
    if DENIED_AFTER.match(after) and not UNSURE.search(before[-40:]):
        return True
    if device and OF_IT.match(after):
        return False
    return bool(DENIED.search(before[-45:])) or (bool(LIST_DENIED.search(before)) and not (device and before[-2:] == ", " and THERE.match(after)))


def not_in(before: str, said: str, after: str) -> bool:
    """A device that is planned, declined or taken out; "needs ICD reprogrammed" and "removed but leads remain" are in."""
    near = before[-60:]
    planned = PLANNED.search(near)
    if (planned and not IN_USE.match(after)) or PLANNED_AFTER.match(after):
        return True
    if planned or UNSURE.search(before[-40:]) or PART.search(said):
        return False
    return bool(REMOVED_AFTER.match(after) or REMOVAL_BEFORE.search(near) or (REMOVAL_AFTER.match(after) and DONE.search(near)))


def in_place(text: str, start: int, end: int) -> bool:
    """A device named in a list entry is neither denied, planned nor taken out."""
    before, after = text[:start], text[end:]
    return not (denied(before, after, True) or not_in(before, text[start:end], after))


def stated(rule: Rule, values: tuple[str, ...], field: str) -> list[Evidence]:
    """Values of a metadata list, or of a field, that the rule names."""
    return [Evidence(value, field=field) for value in values if spans(rule, Words(value, lowered(value), None))]


def span_of(m: re.Match[str], original: str) -> Evidence:
    return Evidence(original[m.start():m.end()], m.start(), m.end())
