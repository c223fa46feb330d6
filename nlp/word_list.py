"""Write data/words.txt, what nlp/spelling.py knows: the domain's words, and the English ones that could be taken for them.

`python -m nlp.word_list`; needs symspellpy and english-words (extras of the developers), whose dictionaries are read.
"""
import re
from collections import Counter
from importlib.resources import files

from english_words import get_english_words_set
from pydicom.sr._concepts_dict import concepts

from data.book import read_book
from data.orders import AUTHORED, read_rows
from nlp.normalise import read_codes, read_terms
from nlp.spelling import FREQUENT, WORDS_PATH, Words, index_of, known, meant

LETTERS = re.compile(r"(?<![a-z])[a-z]{4,20}(?![a-z])")
RARER = 15      # a word that is not English, and this many times rarer than one it resembles, is a misspelling of it


def main() -> None:
    words = word_list(domain_counts(), right_words())
    WORDS_PATH.write_text("".join(f"{word} {count}\n" for word, count in sorted(words.items())))


def domain_counts() -> Counter[str]:
    """How often each word is written in the authored orders f, g, h; a word of the book, the terms or the codes counts as frequent."""
    counts: Counter[str] = Counter()
    for author in "fgh":
        for _, row, _ in read_rows((AUTHORED / f"orders_{author}.jsonl").read_bytes()):
            assert row is not None
            counts.update(LETTERS.findall(" ".join([row["order_text"], row["ordered_exam"], *row["priors"]]).lower()))
    terms, ambiguous, _ = read_terms()
    ours = [f"{protocol.name} {protocol.region} {' '.join(protocol.indications)}" for protocol in read_book().protocols.values()]
    ours += [*terms.values(), *(words for meanings in ambiguous.values() for words, _ in meanings), *read_codes().values()]
    for word in set(LETTERS.findall(" ".join(ours).lower())):
        counts[word] = max(counts[word], FREQUENT)
    return counts


def right_words() -> set[str]:
    """English words (SymSpell's dictionary, and Webster's second of 1934), and those of the SNOMED names that DICOM uses."""
    found = set((files("symspellpy") / "frequency_dictionary_en_82_765.txt").read_text("utf-8-sig").split()[::2])
    found |= get_english_words_set(["web2"], lower=True, alpha=True)
    names = " ".join(name for names in concepts.values() for name in names)
    found |= {word.lower() for word in re.findall(r"[A-Z][a-z]{3,}", names)}
    return {word for word in found if LETTERS.fullmatch(word)}


def word_list(counts: Counter[str], right: set[str]) -> Words:
    """Domain words that are right or frequent and no misspelling of another; then the right words that would be led to one of them."""
    words = {word: count for word, count in counts.items() if word in right or count >= FREQUENT}
    index = index_of(words)
    for word in [word for word in words if word not in right]:
        count = words.pop(word)
        better = None if known(word, words) else meant(word, words, index)
        if better is None or words.get(better, 0) < RARER * count:
            words[word] = count
    index = index_of(words)
    traps = {word: 0 for word in sorted(right) if not known(word, words) and meant(word, words, index)}
    return words | traps


if __name__ == "__main__":
    main()
