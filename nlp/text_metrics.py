"""BLEU, ROUGE-L and a METEOR of our own, for comparison with published figures alone: they do not notice a removed negation.

Texts are compared as written: case, decimals and units count, nothing is truncated.
"""
import re
from collections.abc import Sequence

TOKEN = re.compile(r"\d+(?:[.,]\d+)*|\w+|[^\w\s]")      # 3.5 is one word
ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ed", "es", "s", "ly")
STEM_MIN = 4


class AsWritten:
    """A tokenizer for rouge-score, whose own lower-cases and drops what is no ASCII letter or digit."""

    def tokenize(self, text: str) -> list[str]:
        return TOKEN.findall(text)


def text_metrics(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """BLEU-4 of the corpus, the mean ROUGE-L F and the mean METEOR (words and stems, no synonyms), each 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    assert len(texts) == len(references) and texts, "a text and its reference each"
    rouge = RougeScorer(["rougeL"], tokenizer=AsWritten())
    bleu = BLEU(lowercase=False, tokenize="none").corpus_score([spaced(text) for text in texts], [[spaced(text) for text in references]])
    pairs = list(zip(texts, references, strict=True))
    return {"BLEU-4": round(bleu.score / 100, 4), "ROUGE-L": round(sum(rouge.score(b, a)["rougeL"].fmeasure for a, b in pairs) / len(pairs), 4),
            "METEOR-like": round(sum(meteor(a, b) for a, b in pairs) / len(pairs), 4)}


def spaced(text: str) -> str:
    return " ".join(TOKEN.findall(text))


def meteor(text: str, reference: str) -> float:
    """Words, then stems, matched once each from left to right; recall weighs nine times, and each break in the order costs.

    Source: Lavie and Agarwal, METEOR, WMT 2007 (F with alpha 0.9, penalty 0.5 (chunks / matches) cubed); without its synonyms.
    """
    said, wanted = TOKEN.findall(text), TOKEN.findall(reference)
    place: list[int | None] = [None] * len(said)
    free = [True] * len(wanted)
    for form in (str, stem):
        want: dict[str, list[int]] = {}
        for at, word in enumerate(wanted):
            if free[at]:
                want.setdefault(form(word), []).append(at)
        for i, word in enumerate(said):
            if place[i] is None and (rest := want.get(form(word))):
                follows = place[i - 1] + 1 if i and place[i - 1] is not None else -1    # type: ignore[operator]  # asked for in the same line
                at = follows if follows in rest else rest[0]
                rest.remove(at)
                place[i], free[at] = at, False
    matched = [at for at in place if at is not None]
    if not matched:
        return 0.0
    precision, recall = len(matched) / len(said), len(matched) / len(wanted)
    chunks = sum(at is not None and (i == 0 or place[i - 1] is None or place[i - 1] + 1 != at) for i, at in enumerate(place))   # type: ignore[operator]  # likewise
    return 10 * precision * recall / (recall + 9 * precision) * (1 - 0.5 * (chunks / len(matched)) ** 3)


def stem(word: str) -> str:
    """A word without one common ending and a last e; its case stays."""
    return next((word[:-len(end)] for end in ENDINGS if word.endswith(end) and len(word) - len(end) >= STEM_MIN), word).removesuffix("e")
