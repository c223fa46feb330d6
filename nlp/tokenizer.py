"""Words of draft sentences as numbers; side and number are slots that the graph fills, never words of the model."""
import re
from collections.abc import Iterable

SIDE, NUMBER = "<side>", "<number>"
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>", SIDE, NUMBER)
PAD, START, END, UNKNOWN = range(4)
WORD = re.compile(r"<\w+>|\w+(?:-\w+)*|[^\w\s]")


class Tokenizer:
    """Lower-cased words and punctuation; `words` is the whole vocabulary in order, kept as JSON with the model."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self.numbers = {word: i for i, word in enumerate(self.words)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Tokenizer":
        return cls((*SPECIAL, *sorted({word for text in texts for word in split(text)} - set(SPECIAL))))

    def encode(self, text: str) -> list[int]:
        """Between START and END."""
        return [START, *(self.numbers.get(word, UNKNOWN) for word in split(text)), END]

    def decode(self, numbers: Iterable[int]) -> str:
        """A sentence: no blank before punctuation, the first letter large."""
        text = " ".join(self.words[n] for n in numbers if n not in (PAD, START, END))
        text = re.sub(r"\s+([.,;:)])", r"\1", text)
        return text[:1].upper() + text[1:]


def split(text: str) -> list[str]:
    return WORD.findall(text.lower())
