"""Attribute matching of queries and the answers to them: one set of rules for worklist, Query/Retrieve and QIDO-RS. Source: PS3.4 C.2.2.2."""
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

WILD = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")     # VRs in which * and ? stand for others (C.2.2.2.4)
TEXT = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")                       # VRs that Specific Character Set governs (PS3.5 6.1.2.2)
NO_KEYS = ("SpecificCharacterSet", "TimezoneOffsetFromUTC", "QueryRetrieveLevel")
# character sets without code extensions that an answer may keep from its question (PS3.3 C.12.1.1.2)
PLAIN_SETS = ("ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 144", "ISO_IR 127", "ISO_IR 126", "ISO_IR 138", "ISO_IR 148",
              "ISO_IR 203", "ISO_IR 166", "GB18030", "GBK")


def matches(query: Dataset, item: Dataset, spans: Iterable[tuple[str, str]] = ()) -> bool:
    """Whether `item` fulfils every key of `query`.

    `spans`: pairs of a date and a time keyword whose ranges are one span from the first date's time to the last date's (table K.6-1);
    elsewhere date and time are compared each for itself.
    """
    joined = set()
    for date, time in spans:
        if "-" in text(query, date) and "-" in text(query, time):
            joined |= {date, time}
            if not in_span(text(query, date), text(query, time), text(item, date), text(item, time)):
                return False
    for key in query:
        if key.keyword in NO_KEYS or key.keyword in joined or key.tag.is_private:
            continue
        if key.VR == "SQ":
            asked = key.value[0] if key.value else None
            rows = item[key.tag].value if key.tag in item else []
            if asked is not None and any(holds(part) for part in asked) and not any(matches(asked, one, spans) for one in rows):
                return False
        elif holds(key) and not element_matches(key, item.get(key.tag)):
            return False
    return True


def answer(query: Dataset, item: Dataset) -> Dataset:
    """The attributes of `item` that `query` asks for, empty where the item says nothing; its character set is chosen by with_character_set."""
    found = Dataset()
    for key in query:
        if key.keyword in NO_KEYS or key.tag.is_private:
            continue
        known = item.get(key.tag)
        if key.VR != "SQ":
            found.add(known if known is not None else DataElement(key.tag, key.VR, None))
        elif known is None:
            found.add(DataElement(key.tag, "SQ", []))
        else:
            asked = key.value[0] if key.value and len(key.value[0]) else None
            # an item that came another way round than asked is no answer (C.2.2.2.6)
            rows = [one for one in known.value if asked is None or matches(asked, one)] or list(known.value)
            found.add(DataElement(key.tag, "SQ", [one if asked is None else answer(asked, one) for one in rows]))
    return found


def with_character_set(found: Dataset, asked: str | list[str] | None) -> Dataset:
    """Name the character set: none for ASCII, the asker's when it holds every character, else UTF-8, so that no letter is ever lost."""
    words = "".join(texts(found))
    found.pop("SpecificCharacterSet", None)
    if not words.isascii():
        named = "" if asked is None else str(asked) if isinstance(asked, str) else "\\".join(map(str, asked))
        found.SpecificCharacterSet = named if named in PLAIN_SETS and can_hold(words, named) else "ISO_IR 192"
    return found


def can_hold(words: str, character_set: str) -> bool:
    try:
        words.encode(python_encoding[character_set])
    except (UnicodeEncodeError, KeyError):
        return False
    return True


def texts(dataset: Dataset) -> Iterable[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from texts(item)
        elif element.VR in TEXT:
            yield from map(str, values(element))


def holds(element: DataElement) -> bool:
    """Whether a key narrows anything: zero length is universal matching (C.2.2.2.3)."""
    if element.VR == "SQ":
        return any(holds(part) for item in element.value for part in item)
    return any(str(value) not in ("", "*") for value in values(element))


def values(element: DataElement | None) -> list[Any]:
    if element is None or element.value is None or element.value == "":
        return []
    value = element.value
    return list(value) if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else [value]


def text(dataset: Dataset, keyword: str) -> str:
    found = values(dataset[keyword]) if keyword in dataset else []
    return str(found[0]).strip() if found else ""


def element_matches(key: DataElement, element: DataElement | None) -> bool:
    found = [str(value) for value in values(element)]
    return any(value_matches(key.VR, str(asked), one) for asked in values(key) for one in found)


def value_matches(vr: str, asked: str, value: str) -> bool:
    """One value against one key: a range, a wild card or the value itself; a person's name without regard to case."""
    asked, value = asked.strip(), value.strip()
    if vr in ("DA", "TM", "DT"):
        return in_range(vr, asked, value)
    if vr == "PN":
        groups = [value, *value.split("=")] if "=" not in asked else [value]
        return any(pattern(trimmed(asked).casefold()).fullmatch(trimmed(group).casefold()) is not None for group in groups)
    if vr in WILD:
        return pattern(asked).fullmatch(value) is not None
    return asked == value


@lru_cache(maxsize=1024)
def pattern(asked: str) -> re.Pattern[str]:
    """A key with wild cards as a regular expression; what stands between two * is sought once, from the left, so that no key takes long."""
    first, *rest = ("".join("." if letter == "?" else re.escape(letter) for letter in part) for part in re.split(r"\*+", asked))
    between = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return re.compile(first + between + (f".*{rest[-1]}" if rest else ""), re.DOTALL)


def trimmed(name: str) -> str:
    """Trailing empty components say nothing (PS3.5 6.2.1.1)."""
    return "=".join(group.rstrip("^ ") for group in name.split("=")).rstrip("=")


def in_range(vr: str, asked: str, value: str) -> bool:
    """C.2.2.2.5: A-B, A- and -B include their ends; a time that is less exact stands for its whole hour or minute."""
    if not value:
        return False
    digits = plain(value)
    if "-" not in asked or (vr == "DT" and re.fullmatch(r"\d{4,}(\.\d+)?[-+]\d{4}", asked)):
        return digits.startswith(plain(asked)) if vr != "DA" else digits == plain(asked)
    low, _, high = asked.partition("-")
    return (not low or digits.ljust(20, "0") >= plain(low).ljust(20, "0")) and (not high or digits.ljust(20, "0") <= plain(high).ljust(20, "9"))


def in_span(dates: str, times: str, date: str, time: str) -> bool:
    (first, _, last), (begin, _, end) = dates.partition("-"), times.partition("-")
    at = plain(date) + plain(time).ljust(12, "0")
    after = not first or at >= plain(first) + plain(begin).ljust(12, "0")
    return bool(date) and after and (not last or at <= plain(last) + plain(end).ljust(12, "9"))


def plain(value: str) -> str:
    """Digits alone: 2026.11.24 and 08:00 are older ways to write a date and a time."""
    return re.sub(r"[^0-9]", "", value)
