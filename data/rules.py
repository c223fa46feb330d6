"""The safety rules: one TOML block each, read and checked; nlp.safety applies them."""
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.errors import BookError
from data.records import Severity

RULES_PATH = Path(__file__).parent / "rules.toml"
SEVERITIES = ("stop", "warn", "inform")
KEYS = {"flag", "severity", "source", "message", "action", "modality", "contrast", "terms", "not_before", "not_after"}


@dataclass(frozen=True, eq=False)      # one object a rule, read once: compared by identity, which hashes at once
class Rule:
    id: str
    flag: str
    severity: Severity
    source: str
    message: str
    action: str
    modality: str                       # "", MR or LP: the rule speaks only when that is clicked or suggested
    contrast: str                       # "", gadolinium or iodinated, likewise
    pattern: re.Pattern[str] | None     # over lower-cased text
    terms: tuple[str, ...] = ()         # what pattern was made from
    not_before: re.Pattern[str] | None = None   # just before a match: no hazard ("candidate for")
    not_after: re.Pattern[str] | None = None    # just after it, likewise ("work-up")


@lru_cache
def read_rules(path: Path = RULES_PATH) -> dict[str, Rule]:
    """Rules by flag; raises BookError naming file, block and key."""
    try:
        blocks = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BookError(f"{path} cannot be read as TOML: {error}; correct the file there") from None
    rules: dict[str, Rule] = {}
    for key, block in blocks.items():
        where = f"{path}: block [{key}]"
        for name in block.keys() - KEYS:
            raise BookError(f"{where}: key {name} is not known; the keys are {', '.join(sorted(KEYS))}")
        for name in ("flag", "severity", "source", "message", "action"):
            if not isinstance(block.get(name), str) or not block[name].strip():
                raise BookError(f"{where}: key {name} is missing or empty; every rule states it")
        if block["severity"] not in SEVERITIES:
            raise BookError(f"{where}: key severity is {block['severity']!r}, expected one of {', '.join(SEVERITIES)}")
        if block["flag"] in rules:
            raise BookError(f"{where}: key flag {block['flag']!r} has a rule already; join the two")
        try:
            pattern = compiled(block, "terms", r"\b(?:{})(?!\w)")
            not_before = compiled(block, "not_before", r"(?<!\w)(?:{})[ ,:/('\"-]*$")
            not_after = compiled(block, "not_after", r"[ ,:/)('\"-]*(?:{})(?!\w)")
        except re.error as error:
            raise BookError(f"{where}: terms, not_before or not_after holds no regular expression ({error}); correct the key") from None
        rules[block["flag"]] = Rule(key, block["flag"], block["severity"], block["source"], block["message"], block["action"],
                                    block.get("modality", ""), block.get("contrast", ""), pattern,
                                    tuple(block.get("terms", ())), not_before, not_after)
    return rules


def compiled(block: dict[str, Any], key: str, frame: str) -> re.Pattern[str] | None:
    """The list under `key` as one pattern within `frame`, or None when it is empty."""
    return re.compile(frame.replace("{}", by_first_letter(block[key]))) if block.get(key) else None


@lru_cache(maxsize=8)
def any_term(rules: tuple[Rule, ...]) -> re.Pattern[str]:
    """Where a term of any rule begins: one pass over a long text instead of one a rule."""
    return re.compile(r"\b(?=(?:" + by_first_letter([term for rule in rules for term in rule.terms]) + r")(?!\w))")


STARTS_WITH_DIGIT = re.compile(r"\^?\(?(\\d(?![?*])|\[\d|\d(?![?*]))")


def by_first_letter(terms: Iterable[str]) -> str:
    """One pattern for all terms, grouped so that a word is tried only against the terms of its first letter."""
    groups: dict[str, list[str]] = {}
    for term in dict.fromkeys(one for each in terms for one in opened(each)):
        if "a" <= term[:1] <= "z" and term[1:2] not in ("?", "*", "+", "{", "|") and len(alternatives(term)) == 1:
            groups.setdefault(term[0], []).append(term[1:])
        else:
            groups.setdefault(r"(?=\d)" if STARTS_WITH_DIGIT.match(term) else "", []).append(term)
    return "|".join(f"{first}(?:{'|'.join(group)})" for first, group in sorted(groups.items(), reverse=True))


def opened(term: str) -> list[str]:
    """(a|b) c -> a c, b c; (a )?b -> a b, b."""
    if not term.startswith("(") or term.startswith("(?"):
        return [term]
    depth, end = 1, 1
    while depth:
        depth += {"(": 1, ")": -1}.get(term[end], 0)
        end += 1
    rest = term[end:]
    if rest[:1] in ("*", "+", "{"):
        return [term]
    heads = alternatives(term[1:end - 1]) + ([""] if rest[:1] == "?" else [])
    return [one for head in heads for one in opened(head + rest.removeprefix("?"))]


def alternatives(term: str) -> list[str]:
    """Split at each | that stands outside brackets."""
    parts, depth = [""], 0
    for c in term:
        depth += {"(": 1, ")": -1}.get(c, 0)
        if c == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return parts
