"""Referrers' shorthand written out: unicode, SHOUTING, abbreviations, ICD-10 codes, spellings, with offsets back into the original.

The words stand in data/terms.toml, data/ambiguous.toml and data/icd10.toml; what is here says when they count.
"""
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nlp.spelling import repairs

DATA = Path(__file__).parent.parent / "data"
# NFKC leaves these alone, and the terms are written with the plain signs
PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "\u00ad": " ", "\u200b": " "})
SHOUTED_WORDS = 6       # a text in capitals that is shorter than this may be nothing but abbreviations
NEAR = 50               # characters before and behind a short form that decide what it means

Edit = tuple[int, int, str]     # text[start:end] becomes the words


@dataclass(frozen=True)
class Normalised:
    text: str
    offsets: tuple[int, ...]    # for each character of `text`, where what it came from begins in the original; one more for the end
    ends: tuple[int, ...]       # and where that ends

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original that `text[start:end]` came from."""
        return self.offsets[start], max(self.offsets[start], self.ends[end - 1] if end > start else 0)


def normalise(text: str) -> Normalised:
    """Any text, in linear time; the case of a text that is not shouted stays."""
    clean, offsets = plain(text)
    edits = [*codes(clean), *shorthand(clean), *spellings(clean), *repairs(clean)]
    return edited(clean, offsets, sorted(edits), len(text))


def plain(text: str) -> tuple[str, list[int]]:
    """Unicode folded, SHOUTING lowered; and for each character where it stands in the original."""
    if text.isascii():
        clean, offsets = text, list(range(len(text)))
    else:
        characters: list[str] = []
        offsets = []
        for at, letter in enumerate(text):
            folded = letter if letter.isascii() else unicodedata.normalize("NFKC", letter).translate(PLAIN)
            characters += folded
            offsets += [at] * len(folded)
        clean = "".join(characters)
    letters = [c for c in clean if c.isalpha()]
    if len(clean.split()) >= SHOUTED_WORDS and sum(map(str.isupper, letters)) > 0.8 * len(letters):
        clean = "".join(c.lower() if len(c.lower()) == 1 else c for c in clean)
    return clean, offsets


def edited(clean: str, offsets: list[int], edits: Iterable[Edit], length: int) -> Normalised:
    """The edits made, the first of two that overlap; every letter written anew points at the whole of what it stands for."""
    ends = [*offsets, length][1:]       # of characters as they are; a folded letter's parts all end where the next one begins
    for i in range(len(ends) - 2, -1, -1):
        if offsets[i + 1] == offsets[i]:
            ends[i] = ends[i + 1]
    pieces: list[str] = []
    begins: list[int] = []
    stops: list[int] = []
    done = 0
    for start, end, words in edits:
        if start < done:
            continue
        pieces += [clean[done:start], words]
        begins += offsets[done:start] + [offsets[start]] * len(words)
        stops += ends[done:start] + [ends[end - 1]] * len(words)
        done = end
    return Normalised("".join(pieces) + clean[done:], (*begins, *offsets[done:], length), (*stops, *ends[done:]))


# --- abbreviations -------------------------------------------------------------------------------------------------------------

Meanings = tuple[tuple[str, re.Pattern[str] | None], ...]       # None: otherwise


@lru_cache
def read_terms() -> tuple[dict[str, str], dict[str, Meanings], re.Pattern[str]]:
    """Short form -> words; short form -> its meanings with their cues; and one pattern that finds both."""
    blocks = tomllib.loads((DATA / "terms.toml").read_text())
    terms = {short: long for name in blocks if name != "spelling" for short, long in blocks[name].items()}
    ambiguous = {short: tuple((meaning, None if cues == ["otherwise"] else re.compile("|".join(cues))) for meaning, cues in meanings.items())
                 for short, meanings in tomllib.loads((DATA / "ambiguous.toml").read_text()).items()}
    # a slash ends a term by itself: "w/contrast", "c/f" before any letter
    shorts = {short.lower() for short in (*terms, *ambiguous)}
    found = any_of(shorts, lambda short: "" if short.endswith("/") else r"(?![\w/])")
    return terms, ambiguous, re.compile(rf"(?<![\w/]){found}", re.I)


def any_of(words: set[str], after: Callable[[str], str]) -> str:
    """A pattern for any of the words, the longest first, as a tree of their letters: its time doesn't grow with their number."""
    tree: dict[str, dict] = {}
    for word in words:
        branch = tree
        for letter in word:
            branch = branch.setdefault(letter, {})
        branch[""] = {"word": word}     # a word ends here

    def written(branch: dict[str, dict]) -> str:
        ways = [re.escape(letter) + written(below) for letter, below in sorted(branch.items()) if letter]
        if "" in branch:
            ways.append(after(branch[""]["word"]))
        return ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})"

    return written(tree)


def shorthand(clean: str) -> Iterator[Edit]:
    """Abbreviations written out; one with several meanings by its neighbours."""
    terms, ambiguous, pattern = read_terms()
    for match in pattern.finditer(clean):
        short, low = match[0], match[0].lower()
        key = next((key for key in (short, low) if key in terms or key in ambiguous), None)
        if key is None:
            continue
        long = terms.get(key) or meaning(ambiguous[key], clean, match.start(), match.end())
        if long and long != short:
            yield match.start(), match.end(), long + (" " if clean[match.end():match.end() + 1].isalnum() else "")


def meaning(meanings: Meanings, clean: str, start: int, end: int) -> str | None:
    """The first meaning whose cues stand near, or None."""
    near = f"{clean[max(0, start - NEAR):start]}_{clean[end:end + NEAR]}".lower()
    return next((words for words, cues in meanings if cues is None or cues.search(near)), None)


# --- spellings -----------------------------------------------------------------------------------------------------------------

def read_block(name: str) -> dict[str, str]:
    """One block of data/terms.toml."""
    return tomllib.loads((DATA / "terms.toml").read_text())[name]


@lru_cache
def read_spellings() -> tuple[dict[str, str], re.Pattern[str]]:
    table = read_block("spelling")
    return table, re.compile("|".join(table), re.I)


def spellings(clean: str) -> Iterator[Edit]:
    """British stems as the book spells them: haemorrhage, oedema, tumour."""
    table, pattern = read_spellings()
    for match in pattern.finditer(clean):
        stem = table[match[0].lower()]
        yield match.start(), match.end(), stem.upper() if match[0].isupper() else stem


# --- ICD-10 --------------------------------------------------------------------------------------------------------------------

CODE = re.compile(r"(?<![\w./-])(?:[a-tv-z]\d[\dab]\.[\da-z]{1,4}|[A-TV-Z]\d[\dAB][\dA-Z]{0,4})(?![\w/-]|\.\w)", re.I)
# without its dot such a code may be a day, a man's age, a spinal level, a dose interval or a protein: D12, M50, T10, Q12, P16
LOOK_ALIKE = set("BDFLMPQST")
CALLED_CODE = re.compile(r"\b(dx|icd|icd-?10|diag\w*|code)\W{0,3}$", re.I)


@lru_cache
def read_codes() -> dict[str, str]:
    return {code: title for block in tomllib.loads((DATA / "icd10.toml").read_text()).values() for code, title in block.items()}


def codes(clean: str) -> Iterator[Edit]:
    """ICD-10 codes, each with its title behind it."""
    only_codes: bool | None = None
    for match in CODE.finditer(clean):
        code = match[0]
        if "." not in code:
            if code != code.upper():
                continue
            if only_codes is None:
                only_codes = not re.search(r"[^\W\d_]{2}", CODE.sub(" ", clean))
            if code[0] in LOOK_ALIKE and not only_codes and not CALLED_CODE.search(clean, max(0, match.start() - 20), match.start()):
                continue
        if (title := title_of(code)) and not clean.startswith(title, match.end() + 1):      # written out already
            yield match.start(), match.end(), f"{code} {title}"


def title_of(code: str) -> str | None:
    """The title of a code, or of its longest known beginning; one written without its dot must be known to its fourth character."""
    table, dotted = read_codes(), code.upper()
    shortest = 3
    if "." not in dotted and len(dotted) > 3:
        dotted, shortest = f"{dotted[:3]}.{dotted[3:]}", 5
    return next((table[dotted[:n]] for n in range(len(dotted), shortest - 1, -1) if dotted[:n] in table), None)
