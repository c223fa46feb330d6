"""Simulated orders with the truth known: an authored order, written again as another hand would."""
import random
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from data.orders import AUTHORED, read_rows

# shorthand and its words, used both ways; a form with two meanings in neuroradiology is left out
SHORT = {"headache": "HA", "with": "w/", "without": "w/o", "status post": "s/p", "history of": "h/o", "rule out": "r/o", "bilateral": "b/l",
         "follow up": "f/u", "patient": "pt", "years": "yrs", "weeks": "wks", "days": "d", "concern for": "c/f", "fracture": "fx",
         "seizure": "sz", "weakness": "wkns", "and": "&", "increased": "incr", "normal": "nl", "surgery": "surg", "yesterday": "yday"}
# what a dictation system hears
HEARD = {"ventricles": "ventrals", "stenosis": "sclerosis of canal", "aphasia": "a phasia", "ataxia": "a taxi a", "dysarthria": "this arthria",
         "papilledema": "papa edema", "cerebellar": "Sarah bellar", "ptosis": "toe sis", "meningioma": "meningy oma"}
ASIDES = ("thanks", "pls call w/ results", "known to our service", "seen at OSH first", "will fax records", "family anxious", "interpreter needed",
          "discussed w/ attending")
DENIALS = ("no fever", "denies trauma", "no weight loss", "no chest pain", "afebrile", "no rash", "no recent travel")
HISTORIES = ("PMH HTN, HLD", "hx appendectomy", "prior smoker", "T2DM diet controlled", "s/p chole 2011", "hypothyroid on LT4", "GERD",
             "OA both knees")
LONE_SIDE = re.compile(r"(?<![\w'])[LlRr](?![\w/])")      # "L facial droop" or a level: such an order keeps its sides
SIDES = {"left": "right", "right": "left", "lt": "rt", "rt": "lt"}


def simulate_orders(n: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the orders JSONL with their labels; the same seed gives the same rows, and no authored order stands twice in a thousand.

    What is changed (manner, abbreviations, typing and dictation errors, both sides swapped, denials and histories that do not matter)
    leaves the labels as they were.
    """
    chance = random.Random(seed)
    rows = authored_rows()
    picked: list[dict[str, Any]] = []
    while len(picked) < n:
        picked += chance.sample(rows, min(len(rows), n - len(picked)))
    return [rewritten(row, chance, f"sim{seed}-{i + 1}") for i, row in enumerate(picked)]


@lru_cache
def authored_rows() -> list[dict[str, Any]]:
    """Those with flags in their labels."""
    rows = [row for path in sorted(AUTHORED.glob("orders_*.jsonl")) for _, row, _ in read_rows(path.read_bytes())]
    return [row for row in rows if row is not None and row["expected_flags"] is not None]


def rewritten(row: dict[str, Any], chance: random.Random, id: str) -> dict[str, Any]:
    text, click = row["order_text"], row["ordered_exam"]
    if chance.random() < 0.4 and not LONE_SIDE.search(text + click):
        text, click = swap_sides(text), swap_sides(click)
    for manner, share in MANNERS:
        if chance.random() < share:
            text = manner(text, chance)
    return {**row, "id": id, "order_text": text, "ordered_exam": click, "authored": row["id"]}


def swap_sides(text: str) -> str:
    """Left for right and right for left; `right-handed` stays."""
    def other(match: re.Match[str]) -> str:
        word = SIDES[match[0].lower()]
        return word.upper() if match[0].isupper() else word.capitalize() if match[0][0].isupper() else word

    return re.sub(r"\b(left|right|lt|rt)\b(?![ -]?hand)", other, text, flags=re.I)


def shorten(text: str, chance: random.Random) -> str:
    return re.sub("|".join(rf"\b{re.escape(word)}\b" for word in SHORT), lambda m: SHORT[m[0].lower()], text, flags=re.I)


def lengthen(text: str, chance: random.Random) -> str:
    words = {short: word for word, short in SHORT.items() if short.isalpha() or "/" in short}
    return re.sub("|".join(rf"(?<![\w/]){re.escape(short)}(?![\w/])" for short in sorted(words, key=len, reverse=True)), lambda m: words[m[0]], text)


def mistype(text: str, chance: random.Random) -> str:
    """Two letters swapped, dropped or doubled in one or two longer words; numbers and short words stay, they carry the meaning."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 6 and word.isalpha()]
    for i in chance.sample(long, min(len(long), chance.randint(1, 2))):
        word, at = words[i], chance.randint(2, len(words[i]) - 3)
        words[i] = chance.choice((word[:at] + word[at + 1] + word[at] + word[at + 2:], word[:at] + word[at + 1:], word[:at] + word[at] + word[at:]))
    return " ".join(words)


def dictate(text: str, chance: random.Random) -> str:
    return re.sub("|".join(HEARD), lambda m: HEARD[m[0].lower()], text, flags=re.I)


def shout(text: str, chance: random.Random) -> str:
    return text.upper()


def distract(text: str, chance: random.Random) -> str:
    extra = chance.choice((DENIALS, HISTORIES, ASIDES))
    return f"{text.rstrip('. ')}. {chance.choice(extra)}" if chance.random() < 0.7 else f"{chance.choice(HISTORIES)}. {text}"


MANNERS: tuple[tuple[Callable[[str, random.Random], str], float], ...] = (
    (shorten, 0.3), (lengthen, 0.3), (mistype, 0.3), (dictate, 0.1), (distract, 0.35), (shout, 0.08),
)
