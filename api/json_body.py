"""JSON from outside: its depth and count are settled before it is parsed, so that a small body cannot cost much."""
import json
import re
from typing import Any

from data.errors import InputError

DEPTH_MAX = 50
COUNT_MAX = 500_000         # brackets
TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.S)         # also one that is not ended, lest each quote in it be tried anew
NO_BRACKET = bytes(c for c in range(256) if c not in b"[]{}")
SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(raw: bytes) -> Any:
    """A UTF-8 JSON text; raises InputError for what is none, too deep, too many parts, or holds NaN or half a character."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("the body is not UTF-8; send JSON as UTF-8") from None
    brackets = TEXTS.sub(b"", raw).translate(None, NO_BRACKET)
    if len(brackets) > COUNT_MAX:
        raise InputError(f"the body has more than {COUNT_MAX // 2} objects and arrays; send less at a time")
    if depth(brackets) > DEPTH_MAX:
        raise InputError(f"the body is nested more than {DEPTH_MAX} deep; send it flatter")
    try:
        found = json.loads(text, parse_constant=no_number, parse_float=finite)
    except (ValueError, RecursionError):
        raise InputError("the body is no JSON; send one JSON object") from None
    if "\\u" in text and SURROGATE.search(json.dumps(found, ensure_ascii=False)):
        raise InputError("the body holds half a character (a lone surrogate); send JSON as UTF-8")
    return found


def depth(brackets: bytes) -> int:
    deepest = now = 0
    for bracket in brackets:
        now += 1 if bracket in b"[{" else -1
        deepest = max(deepest, now)
        if deepest > DEPTH_MAX:
            break
    return deepest


def finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def no_number(name: str) -> Any:
    raise ValueError(name)
