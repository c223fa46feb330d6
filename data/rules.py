"""The safety rules: one TOML block each, read and checked; nlp.safety applies them."""
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data.errors import BookError

RULES_PATH = Path(__file__).parent / "rules.toml"
SEVERITIES = ("stop", "warn", "inform")
KEYS = {"flag", "severity", "source", "message", "action", "modality", "contrast", "terms"}


@dataclass(frozen=True)
class Rule:
    id: str
    flag: str
    severity: str
    source: str
    message: str
    action: str
    modality: str                       # "", MR or LP: the rule speaks only when that is clicked or suggested
    contrast: str                       # "", gadolinium or iodinated, likewise
    pattern: re.Pattern[str] | None     # over lower-cased text


@lru_cache
def read_rules(path: Path = RULES_PATH) -> dict[str, Rule]:
    """Rules by flag; raises BookError naming file, block and key."""
    try:
        blocks = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BookError(f"{path} cannot be read as TOML: {error}") from None
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
            pattern = re.compile(r"\b(?:" + "|".join(block["terms"]) + r")(?!\w)") if block.get("terms") else None
        except re.error as error:
            raise BookError(f"{where}: key terms holds no regular expression ({error})") from None
        rules[block["flag"]] = Rule(key, block["flag"], block["severity"], block["source"], block["message"], block["action"],
                                    block.get("modality", ""), block.get("contrast", ""), pattern)
    return rules
