"""The spaCy pipeline of the re-reader: tokens, sentences that survive wrapped lines, and the findings a report names (data/report_terms.toml)."""
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span

DATA = Path(__file__).parent.parent / "data"
TERMS_PATH, CUES_PATH = DATA / "report_terms.toml", DATA / "report_cues.toml"
WRAPPED_MIN = 45        # characters: a shorter line that ends without a full stop was not wrapped, it is an item of its own
ABBREVIATION = re.compile(r"(?:\b(?:approx|ca|vs|dr|mr|mrs|ms|e\.g|i\.e|fig|max|incl|resp|cf|st|appr|lt|rt|dept)|(?<!\w)[a-z])\.$", re.I)
STOP = re.compile(r"[.!?]+[)\"'*]*(?=\s|$)|(?<=[a-z])\.(?=[A-Z][a-z])")
ITEM = re.compile(r"[ \t]*(?:[-*•>#]|\(?\d{1,2}[.)](?=\s)|[A-Za-z][^:\n.]{0,60}:)")
BULLET = re.compile(r"(?<=\s)(?:[•*]|-{1,2}(?=[a-z]))|(?<=[.:;])[ \t]+(?=\d{1,2}[.)] )", re.I)


@Language.component("report_sentences")
def report_sentences(doc: Doc) -> Doc:
    """A full stop, an item of a list, an empty line: not the newline that a printer or HL7 put into the middle of a sentence."""
    ends = set(sentence_ends(doc.text))
    waiting = False
    for token in doc:
        waiting |= any(at in ends for at in range(token.idx - 1, token.idx + 1))
        token.is_sent_start = token.i == 0 or (waiting and not token.is_space)
        waiting &= token.is_space
        waiting |= any(at in ends for at in range(token.idx + 1, token.idx + len(token)))
    return doc


@Language.component("report_findings")
def report_findings(doc: Doc) -> Doc:
    """doc.spans["findings"]: every finding named, its code as label; exact offsets in doc.user_data."""
    found = list(named(doc.text))
    doc.user_data["findings"] = found
    spans = (doc.char_span(start, end, label=code, alignment_mode="expand") for code, start, end in found)
    doc.spans["findings"] = [span for span in spans if isinstance(span, Span)]
    return doc


@lru_cache
def pipe() -> Language:
    pipeline = spacy.blank("en")
    pipeline.add_pipe("report_sentences")
    pipeline.add_pipe("report_findings")
    return pipeline


def sentence_ends(text: str) -> Iterator[int]:
    """Offsets behind which a new sentence begins."""
    for match in STOP.finditer(text):
        if not ABBREVIATION.search(text, max(0, match.start() - 8), match.start() + 1):
            yield match.end()
    for match in BULLET.finditer(text):
        yield match.start()
    line_start = 0
    for match in re.finditer(r"\r\n?|\n", text):
        line = text[line_start:match.start()].strip()
        rest = text[match.end():match.end() + 80]
        follows = rest.lstrip(" \t")
        wrapped = (bool(line) and bool(follows) and follows[0] not in "\r\n" and line[-1] not in ".!?:*" and not ITEM.match(rest)
                   and (follows[0].islower() or len(line) >= WRAPPED_MIN))
        if not wrapped:
            yield match.start()
        line_start = match.end()


def named(text: str) -> Iterator[tuple[str, int, int]]:
    """(code, start, end) of every finding named, in order; of names that overlap the longest."""
    found = sorted((match.start(), -match.end(), code) for code, pattern in terms() for match in pattern.finditer(text))
    last = 0
    best: list[tuple[int, int, str]] = []
    for start, minus_end, code in found:
        if best and start < best[-1][1]:
            if -minus_end - start > best[-1][1] - best[-1][0]:
                best[-1] = (start, -minus_end, code)
            continue
        best.append((start, -minus_end, code))
    for start, end, code in best:
        if start >= last:
            yield code, start, end
            last = end


@lru_cache
def terms() -> tuple[tuple[str, re.Pattern[str]], ...]:
    table = tomllib.loads(TERMS_PATH.read_text())
    parts = dict(table["parts"])
    return tuple((code, pattern_of(filled(term, parts) for term in row["terms"])) for code, row in table["codes"].items())


@lru_cache
def codes() -> dict[str, bool]:
    """Every code that can be read -> whether it only describes another finding."""
    return {code: bool(row.get("quality")) for code, row in tomllib.loads(TERMS_PATH.read_text())["codes"].items()}


@lru_cache
def cues() -> dict[str, dict[str, re.Pattern[str]]]:
    """data/report_cues.toml: block -> name -> pattern."""
    table = tomllib.loads(CUES_PATH.read_text())
    return {block: {name: pattern_of(phrases) for name, phrases in rows.items()} for block, rows in table.items()}


@lru_cache
def section_names() -> dict[str, str]:
    """A heading in lower case -> the section it begins."""
    rows: dict[str, list[str]] = tomllib.loads(CUES_PATH.read_text())["sections"]
    return {phrase: name for name, phrases in rows.items() for phrase in phrases}


def filled(term: str, parts: dict[str, str]) -> str:
    for name, pattern in parts.items():
        term = term.replace("{" + name + "}", pattern)
    return term


def pattern_of(phrases: Iterable[str]) -> re.Pattern[str]:
    """Any of the phrases as whole words; a blank stands for white space or a hyphen, the longer phrase is tried first."""
    whole = "|".join(phrase.replace(" ?", r"(?:\s|-)*").replace(" ", r"(?:\s|-)+") for phrase in sorted(phrases, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{whole})(?!\w)", re.I)
