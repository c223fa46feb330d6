"""Misspelt words led back to the one word of the domain that they can only be.

data/words.txt holds the words; `python -m nlp.word_list` writes it anew.
"""
import re
from bisect import bisect
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path

WORDS_PATH = Path(__file__).parent.parent / "data" / "words.txt"
# in lower case: a word with a capital may be a name or a brand
WORD = re.compile(r"(?<![\w'/.@-])[a-z]{5,20}(?![\w'/@-])")
LONG = 9                # letters from which more than one edit is allowed: of vowels, h, doubled letters, or of their order
FREQUENT = 5            # a word written this often in the authored orders is a target
DOMINANT = 4            # times more frequent than the next candidate, where there are two forms of one word
ENDINGS = ("s", "es", "d", "ed", "ing", "ly", "er", "al", "ic", "y")

Words = dict[str, int]
Index = dict[str, list[str]]


# one is never led to another: macroadenoma is no misspelling of microadenoma
PREFIXES = re.compile("hyper|hypo|macro|micro|inter|intra|infra|supra|sub|"
                      "pre|post|peri|para|endo|exo|uni|bi|tri|quadri|poly|ab|ad|anti|ante|un|in|non")


@lru_cache
def read_words() -> tuple[Words, Index, list[str]]:
    """Known word -> how often it is written (0: a right word that resembles one of the domain); the targets' index; the words in order."""
    words = {word: int(count) for word, count in (line.split() for line in WORDS_PATH.read_text().splitlines())}
    return words, index_of(words), sorted(words)


def index_of(words: Words) -> Index:
    """What a target and its misspellings have in common -> the targets."""
    index: Index = {}
    for word, count in words.items():
        if count >= FREQUENT and len(word) >= 5:
            for rest in remains(word):
                index.setdefault(rest, []).append(word)
    return index


def remains(word: str) -> set[str]:
    """The word, what is left of it when one letter is taken out; of a long one also its frame and its letters."""
    found = {word[:i] + word[i + 1:] for i in range(len(word))}
    return found | {word, *(keys_of(word) if len(word) >= LONG else ())}


def keys_of(word: str) -> tuple[str, str]:
    """Its frame, consonants without h, each once in a row, as they sound; and its letters, sorted."""
    sounds = word.replace("ph", "f").translate(SOUNDS)
    return "=" + "".join(letter for letter, _ in groupby(sounds)), "+" + "".join(sorted(word))


SOUNDS = str.maketrans({**dict.fromkeys("aeiouyh", ""), "q": "k", "c": "k", "z": "s"})


@lru_cache(4096)
def repair(word: str) -> str | None:
    """The only domain word that a word (lower case) can be a misspelling of; None for known words and doubtful ones."""
    words, index, in_order = read_words()
    cut_short = in_order[bisect(in_order, word) % len(in_order)].startswith(word)       # "recurr", "adenoca"
    return None if cut_short or known(word, words) else meant(word, words, index)


def known(word: str, words: Words) -> bool:
    """Right as it is: a word, a form of one."""
    return (len(word) < 5 or word in words or f"{word}s" in words
            or any(word.endswith(end) and word.removesuffix(end) in words for end in ENDINGS))


def meant(word: str, words: Words, index: Index) -> str | None:
    """The one target that is nearest; where forms of one word are equally near, the one far more frequent. The first letter must hold."""
    targets = {target for rest in remains(word) for target in index.get(rest, ()) if target in words and target[0] == word[0]}
    near = sorted((edits(word, target), -words[target], target) for target in targets)
    if not near:
        return None
    distance, count, best = near[0]
    rivals = [row for row in near[1:] if row[0] == distance]
    if distance > 1 and (distance > 3 or len(word) < LONG or not set(keys_of(word)) & set(keys_of(best))):
        return None
    if (prefix := PREFIXES.match(word)) and not best.startswith(prefix[0]):
        return None
    return best if all(alike(best, row[2]) and count <= DOMINANT * row[1] for row in rivals) else None


def alike(one: str, two: str) -> bool:
    """Forms of one word: they differ in their last two letters at most."""
    same = max(len(one), len(two)) - 2
    return one[:same] == two[:same]


def edits(one: str, two: str) -> int:
    """Letters put in, taken out or exchanged, and neighbours swapped, that lead from one word to the other."""
    last: list[int] = []
    before: list[int] = []
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        last, before, row = before, row, [i]
        for j, b in enumerate(two, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == two[j - 2] and one[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def repairs(text: str) -> Iterator[tuple[int, int, str]]:
    """Spans of a text that are misspelt, with the words meant."""
    for match in WORD.finditer(text):
        if word := repair(match[0]):
            yield match.start(), match.end(), word
