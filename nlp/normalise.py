"""Referrers' shorthand written out: unicode, SHOUTING and abbreviations, with offsets back into the original."""
import re
import tomllib
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TERMS_PATH = Path(__file__).parent.parent / "data" / "terms.toml"
# NFKC leaves these alone, and the terms are written with the plain signs
PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "\u00ad": " ", "\u200b": " "})
SHOUTED_WORDS = 6       # a text in capitals that is shorter than this may be nothing but abbreviations


@dataclass(frozen=True)
class Normalised:
    text: str
    offsets: tuple[int, ...]        # for each character of `text`, where it stands in the original; one more for the end

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original that `text[start:end]` came from."""
        return self.offsets[start], max(self.offsets[start], self.offsets[end - 1] + 1 if end > start else self.offsets[start])


@lru_cache
def read_terms(path: Path = TERMS_PATH) -> tuple[dict[str, str], re.Pattern[str]]:
    """Abbreviation -> words, and one pattern that finds them; longest first, so that `w/o` is not read as `w/`."""
    table = {short.lower(): long for block in tomllib.loads(path.read_text()).values() for short, long in block.items()}
    # a slash or an equals sign ends a term by itself: "w/contrast", "c/f" before any letter
    shorts = sorted(table, key=len, reverse=True)
    found = "|".join(re.escape(s) + ("" if s[-1] in "/=" else r"(?![\w/])") for s in shorts)
    return table, re.compile(rf"(?<![\w/])(?:{found})", re.I)


def normalise(text: str) -> Normalised:
    """Any text, in linear time; the case of a text that is not shouted stays."""
    characters: list[str] = []
    offsets: list[int] = []
    for at, letter in enumerate(text):
        plain = letter if letter.isascii() else unicodedata.normalize("NFKC", letter).translate(PLAIN)
        characters += plain
        offsets += [at] * len(plain)
    clean = "".join(characters)
    letters = [c for c in clean if c.isalpha()]
    if len(clean.split()) >= SHOUTED_WORDS and sum(map(str.isupper, letters)) > 0.8 * len(letters):
        clean = "".join(c.lower() if len(c.lower()) == 1 else c for c in clean)
    table, pattern = read_terms()
    pieces: list[str] = []
    kept: list[int] = []
    done = 0
    for match in pattern.finditer(clean):
        long = table[match[0].lower()]
        if clean[match.end():match.end() + 1].isalnum():
            long += " "
        pieces += [clean[done:match.start()], long]
        # each letter of the expansion points at the abbreviation's last character, the first at its first
        kept += offsets[done:match.start()] + [offsets[match.start()]] + [offsets[match.end() - 1]] * (len(long) - 1)
        done = match.end()
    return Normalised("".join(pieces) + clean[done:], (*kept, *offsets[done:], len(text)))
