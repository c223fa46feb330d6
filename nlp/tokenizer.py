"""Word pieces of report sentences: every text comes back byte for byte, digits and signs stand alone, slots are one piece each."""
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

REGISTERS = ("terse", "full", "structured")
POLARITIES = ("present", "possible", "absent")
SLOTS = ("<side>", "<size>", "<volume>", "<count>", "<region>", "<acuity>", "<grade>")
IDS_MAX = 48            # findings of one study that have an id piece of their own
IDS = tuple(f"<f{i + 1}>" for i in range(IDS_MAX))
PAD, START, END = range(3)
SPECIAL = ("<pad>", "<start>", "<end>", *(f"<{name}>" for name in (*REGISTERS, *POLARITIES)), *SLOTS, *IDS)
BYTES = tuple(chr(i) for i in range(256))
# what a piece may reach over: a word with the blank before it; never two digits, never a digit and its sign
CHUNK = re.compile(r" ?[^\W\d_]+|.", re.S)
SLOTTED = re.compile("(" + "|".join(SPECIAL) + ")")


class Tokenizer:
    """`words` is the whole vocabulary in order, kept as JSON with the model: special pieces, 256 bytes (as Latin-1), learnt pieces."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        if not {*SPECIAL, *BYTES} <= set(self.words):
            raise ValueError("a vocabulary holds every special piece and every byte")
        self.numbers = {word: i for i, word in enumerate(self.words)}
        self.special = {word: i for word, i in self.numbers.items() if word in SPECIAL}
        self.longest = max((len(word) for word in self.words), default=1)

    @classmethod
    def of(cls, texts: Iterable[str], size: int = 760) -> "Tokenizer":
        """Byte pairs joined by how often they meet, up to `size` pieces in all (Sennrich 2016)."""
        return cls((*SPECIAL, *BYTES, *merged(texts, size - len(SPECIAL) - len(BYTES))))

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The longest piece first; with `special` off, "<side>" is six plain letters and signs (text from outside)."""
        found: list[int] = []
        for part in SLOTTED.split(text) if special else [text]:
            if special and part in self.special:
                found.append(self.special[part])
                continue
            for chunk in CHUNK.findall(part):
                found += self.spell(chunk.encode("utf-8", "surrogatepass").decode("latin-1"))
        return found

    def spell(self, chunk: str) -> Iterator[int]:
        at = 0
        while at < len(chunk):
            for end in range(min(len(chunk), at + self.longest), at, -1):
                number = self.numbers.get(chunk[at:end])
                if number is not None:
                    yield number
                    at = end
                    break

    def decode(self, numbers: Iterable[int], shown: Iterable[str] = SLOTS) -> str:
        """The text of the pieces; of the special ones those in `shown` alone. Raises UnicodeDecodeError where bytes make no letter."""
        kept = set(shown)
        words = (self.words[n] for n in numbers)
        text = "".join(word for word in words if word not in self.special or word in kept)
        return text.encode("latin-1").decode("utf-8", "surrogatepass")


def merged(texts: Iterable[str], count: int) -> list[str]:
    """The `count` pieces that joining the commonest neighbours gives, first joined first."""
    words = Counter(chunk.encode().decode("latin-1") for text in texts for part in SLOTTED.split(text) if part not in SPECIAL
                    for chunk in CHUNK.findall(part))
    spelt = {word: list(word) for word in words if len(word) > 1}
    pieces: dict[str, None] = {}
    while len(pieces) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, letters in spelt.items():
            for pair in pairwise(letters):
                pairs[pair] += words[word]
        if not pairs:
            break
        (a, b), _ = min(pairs.items(), key=lambda row: (-row[1], row[0]))
        pieces[a + b] = None
        for word, letters in spelt.items():
            if a in letters:
                spelt[word] = joined(letters, a, b)
    return list(pieces)


def joined(letters: list[str], a: str, b: str) -> list[str]:
    row: list[str] = []
    for letter in letters:
        if row and row[-1] == a and letter == b:
            row[-1] = a + b
        else:
            row.append(letter)
    return row
