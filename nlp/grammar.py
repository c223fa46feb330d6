"""The sentences that may be said of a group of findings, as an automaton made from data/report_wording.toml.

Whatever walks it, a taught decoder, an untaught one or a throw of dice, names the group's findings alone, with their polarity, and uses each
slot that the graph has exactly once; a side or a number is never spelt, it stands in its slot.
"""
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from data.findings import FINDINGS
from data.records import Finding
from nlp.report_pipe import cues
from nlp.tokenizer import REGISTERS, SLOTS, Tokenizer

PATH = Path(__file__).parent.parent / "data" / "report_wording.toml"
AGED = re.compile(r"\b(?:acute|recent|old|chronic)\b")
AMERICAN = re.compile(r"\b(?:hemorrhag|hematom|edema|ischemi|tumors?\b)", re.I)
ELEMENT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Shape:
    """What of a group decides which sentences say it."""

    codes: tuple[str, ...]
    polarity: str                       # present, possible, absent
    slots: tuple[str, ...] = ()
    bilateral: bool = False


@dataclass(frozen=True)
class Place:
    """Where in a sentence one stands."""

    plan: tuple[str, ...]
    at: int
    slots: frozenset[str]               # still to be said
    codes: tuple[str, ...]              # still to be named
    order: int = 0                      # slots before the noun keep their order
    started: bool = False
    owes: str = ""                      # the kind of noun that an article or a verb said before it asks for: one, not one, many, not many
    kinds: frozenset[str] = frozenset()     # of the nouns named


Move = tuple[str, "Place | None"]       # a phrase, and what stands behind it; None: the sentence has ended


@lru_cache
def wording() -> dict[str, Any]:
    return tomllib.loads(PATH.read_text())


@lru_cache
def nouns_of(code: str) -> tuple[tuple[str, str, bool], ...]:
    """(name, kind, whether only with an age slot); kind is one, many or mass."""
    rows = []
    for text in wording()["nouns"][code]:
        aged, text = text.startswith("~"), text.removeprefix("~")
        kind = "many" if text.startswith("+") else "one" if re.match(r"an? ", text) else "mass"
        rows.append((re.sub(r"^(?:\+|an? )", "", text), kind, aged))
    return tuple(rows)


def worded() -> tuple[str, ...]:
    """Every code that can be put into words."""
    return tuple(wording()["nouns"])


@lru_cache
def american(text: str) -> str:
    for british, there in wording()["american"].items():
        text = text.replace(british, there).replace(british.capitalize(), there.capitalize())
    return text


@lru_cache
def british(text: str) -> str:
    """The names of findings as the table spells them; words of no name stay ("hem" alone would change a hemisphere)."""
    there, words = british_words()
    return words.sub(lambda m: there[m[0]], text)


@lru_cache
def british_words() -> tuple[dict[str, str], re.Pattern[str]]:
    """American word, without its plural's s -> British word, of every name; and what matches them."""
    names = {word.removesuffix("s") for code in worded() for name, _, _ in nouns_of(code) for word in name.split()}
    rows = {american(form): form for word in names for form in (word, word.capitalize()) if american(form) != form}
    return rows, re.compile(rf"\b(?:{'|'.join(sorted(rows))})(?=s?\b)")


def spelling_of(order_text: str) -> Callable[[str], str]:
    """How a draft is spelt: American where the order is and has no British word, else British."""
    return american if AMERICAN.search(order_text) and american(order_text) == order_text else british


# ---------------------------------------------------------------- what a group is

@lru_cache
def region_pattern() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern.pattern})" for pattern in cues()["regions"].values()), re.I)


def slots_of(finding: Finding) -> tuple[str, ...]:
    """Slots whose words this finding has."""
    if not finding.present:
        return ()
    has = {"<side>": finding.side in (("left", "right") if finding.code == "midline_shift" else ("left", "right", "bilateral")),
           "<size>": finding.size_mm is not None, "<volume>": finding.volume_ml is not None, "<count>": finding.count is not None,
           "<region>": bool(finding.region) and region_pattern().search(finding.region) is not None, "<acuity>": bool(finding.acuity),
           "<grade>": bool(finding.grade) and graded(finding)}
    return tuple(slot for slot in SLOTS if has[slot])


def graded(finding: Finding) -> bool:
    """Whether its grade is told: a doubtful finding has none on a scale, "possible atrophy, GCA 2" would state one for certain."""
    row = FINDINGS.get(finding.code)
    return row is not None and bool(row.grade) and not (row.scale and finding.band == "hedge")


def polarity_of(finding: Finding) -> str:
    return "absent" if not finding.present else "possible" if finding.band == "hedge" else "present"


def shape_of(group: Sequence[Finding]) -> Shape:
    [polarity] = {polarity_of(finding) for finding in group}
    assert polarity == "absent" or len(group) == 1, "a finding that is there has a sentence of its own"
    return Shape(tuple(f.code for f in group), polarity, slots_of(group[0]), group[0].side == "bilateral")


# ---------------------------------------------------------------- the automaton of phrases

class Grammar:
    """The sentences of one shape in one register; with `names` (code -> name, kind) only those that agree with these names."""

    def __init__(self, shape: Shape, register: str, names: dict[str, tuple[str, str]] | None = None) -> None:
        self.shape, self.names = shape, names
        self.known: dict[Place, list[Move]] = {}
        plans = wording()["plans"][shape.polarity]
        for name in (register, *REGISTERS):         # a register without a sentence for this shape lends another's
            self.starts = [place for text in plans[name] if self.moves(place := Place(elements(text), 0, frozenset(shape.slots), shape.codes))]
            if self.starts:
                self.register = name
                break

    def moves(self, place: Place) -> list[Move]:
        """What may be said next: only phrases from which the sentence can still be finished with all that it owes."""
        if place not in self.known:
            self.known[place] = [(phrase, then) for phrase, then in self.phrases(place) if then is None or self.moves(then)]
        return self.known[place]

    def phrases(self, place: Place) -> Iterator[Move]:
        if place.at == len(place.plan):
            if not place.slots and not place.codes:
                yield "", None
            return
        element = place.plan[place.at]
        on = replace(place, at=place.at + 1, order=0, started=True)
        make: Callable[[Place, Place], Iterator[Move]] | None = getattr(self, f"_{element[1:-1]}", None) if element[0] == "{" else None
        if make is None:
            yield begin(element, place), on
        else:
            yield from make(place, on)

    def skip(self, place: Place) -> Iterator[Move]:
        return self.phrases(replace(place, at=place.at + 1, order=0))

    def _is(self, place: Place, on: Place) -> Iterator[Move]:
        kinds = {kind for _, kind in self.names.values()} if self.names else set()
        if place.codes and self.names:              # "there are no metastases or mass effect": it agrees with the first one named
            kinds = {self.names[place.codes[0]][1]}
        for verb, many in ((" is", False), (" are", True)):
            if self.names is None and place.codes:
                yield begin(verb, place), replace(on, owes="many" if many else "not many")
            elif many == ((kinds or place.kinds) == {"many"}):
                yield begin(verb, place), on

    def _a(self, place: Place, on: Place) -> Iterator[Move]:
        if self.names is None:
            free = "<count>" in self.shape.slots or self.shape.bilateral        # "three masses", "bilateral masses": no article, see fill
            bare = place if free or place.owes == "many" else replace(place, owes="not one")
            if place.owes != "many":
                yield from ((begin(text, place), replace(on, owes=place.owes if free else "one")) for text in (" a", " an"))
            yield from self.skip(bare)
            return
        [(name, kind)] = [self.names[code] for code in place.codes]
        for phrase, _ in self.skip(place):
            if kind == "one" and not phrase.lstrip().startswith("<count>") and not (self.shape.bilateral and phrase.lstrip().startswith("<side>")):
                article = " an" if phrase.lstrip().lower() == name.lower() and name[0].lower() in "aeiou" else " a"
                yield begin(article, place), replace(on, order=-1)
                break
        else:
            yield from self.skip(place)

    def _before(self, place: Place, on: Place) -> Iterator[Move]:
        for i, (slot, row) in enumerate(self.slots(), 1):
            if slot in place.slots and i > place.order and not (slot == "<size>" and "<count>" in self.shape.slots):
                for phrase in row.get("before", ()):
                    yield begin(" " + phrase, place), replace(place, slots=place.slots - {slot}, order=i, started=True)
        yield from self.skip(place)

    def _after(self, place: Place, on: Place, but: tuple[str, ...] = ("\n",)) -> Iterator[Move]:
        for i, (slot, row) in enumerate(self.slots(), 1):
            if slot in place.slots and i > place.order and not (slot == "<side>" and self.shape.bilateral):
                for phrase in row.get("after", ()):
                    if not phrase.startswith(but if slot != "<volume>" or "<size>" not in self.shape.slots else (*but, " of")) and (
                            ")" not in phrase or place.slots == {slot}):
                        yield phrase, replace(place, slots=place.slots - {slot}, order=i)
        yield from self.skip(place)

    def _of(self, place: Place, on: Place) -> Iterator[Move]:
        # the re-reader, as a person, takes "of 12 mL cannot be excluded" as one, and "measuring 12 mL cannot be excluded" for a slip
        return self._after(place, on, (",", " (", " measuring", " with"))

    def _behind(self, place: Place, on: Place) -> Iterator[Move]:
        return self._after(place, on, (" of",))

    def _list(self, place: Place, on: Place) -> Iterator[Move]:
        first = place.order == 0
        left = [(slot, row) for slot, row in self.slots() if slot in place.slots]
        head = ("<side>", "<size>", "<volume>")
        left.sort(key=lambda one: not (one[1].get("list") or ("",))[0].startswith(head))    # "thalamus" alone behind a colon would say nothing
        if not left and not first:
            yield from self.skip(place)
        elif not left and self.shape.polarity == "present":
            yield " present", on
        elif left:
            slot, row = left[0]
            for phrase in row.get("list", ()):
                plain = first and not phrase.startswith(head)
                if plain and self.shape.polarity != "present":
                    continue
                yield (" present, " if plain else " " if first else ", ") + phrase, replace(place, slots=place.slots - {slot}, order=1)

    def _noun(self, place: Place, on: Place) -> Iterator[Move]:
        if len(place.codes) == 1:
            heading = place.plan[place.at + 1].startswith(":")      # "fracture of the skull: none" is no heading
            yield from ((begin(" " + name, place), replace(on, codes=(), owes="", kinds=place.kinds | {kind}))
                        for name, kind in self.called(place.codes[0]) if fits(kind, place.owes) and not (heading and " of " in name))

    def _nouns(self, place: Place, on: Place) -> Iterator[Move]:
        last = len(place.codes) == 1
        joint = " " if place.order == 0 else " or " if last else ", "     # never "and": "no oedema and old infarct" may state the infarct
        for name, kind in self.called(place.codes[0]):
            if fits(kind, place.owes):
                there = replace(on if last else place, codes=place.codes[1:], owes="", kinds=place.kinds | {kind})
                yield begin(joint + name, place), there if last else replace(there, order=1, started=True)

    def slots(self) -> list[tuple[str, dict[str, Any]]]:
        rows = wording()["slots"]
        return [(f"<{name}>", row.get("of", {}).get(self.shape.codes[0], row)) for name, row in rows.items()]

    def called(self, code: str) -> list[tuple[str, str]]:
        """Names and their kinds."""
        if self.names is not None:
            return [self.names[code]]
        return sorted({(spelt, kind) for name, kind in names_of(code, self.shape) for spelt in (name, american(name))})


def fits(kind: str, owed: str) -> bool:
    return not owed or (kind == owed.removeprefix("not ")) != owed.startswith("not ")


def names_of(code: str, shape: Shape) -> list[tuple[str, str]]:
    """(name, kind) of a finding: none that says how old it is where the graph says something else or nothing."""
    aged = "<acuity>" in shape.slots
    rows = []
    for name, kind, only_aged in nouns_of(code):
        told = bool(AGED.search(name))
        if shape.polarity == "absent" or (code.startswith(("acute", "chronic")) and not aged):
            fits = not only_aged
        else:
            fits = not told and (aged or not only_aged)
        if fits:
            rows.append((name, kind))
    return rows or [(name, kind) for name, kind, _ in nouns_of(code)]


@lru_cache
def elements(plan: str) -> tuple[str, ...]:
    """A plan in parts: {names}, and words with the blank before them."""
    parts: list[str] = []
    for i, part in enumerate(ELEMENT.split(plan)):
        if i % 2:
            parts.append("{" + part + "}")
        elif part.strip():
            text = part.strip()
            parts.append(text if text[0] in ".;:," else " " + text)
    return tuple(parts)


def begin(phrase: str, place: Place) -> str:
    """A large letter, and no blank, where the sentence begins."""
    if place.started:
        return phrase
    text = phrase.lstrip()
    return text[:1].upper() + text[1:]


@lru_cache(maxsize=4096)
def grammar(shape: Shape, register: str) -> Grammar:
    return Grammar(shape, register)


def compose(group: Sequence[Finding], register: str, chance: Random, spelling: Callable[[str], str] = str) -> str:
    """One sentence by chance, in good English: names are chosen first, the words agree with them; slots stand open."""
    shape = shape_of(group)
    for _ in range(20):         # some names have no sentence in a register that others have: "shift of the midline" is no heading
        names = {code: (spelling(name), kind) for code in shape.codes for name, kind in [chance.choice(names_of(code, shape))]}
        rules = Grammar(shape, register, names)
        if rules.register == grammar(shape, register).register:
            break
    place: Place | None = chance.choice(rules.starts)
    text = ""
    while place is not None:
        phrase, place = chance.choice(rules.moves(place))
        text += phrase
    return text


# ---------------------------------------------------------------- the automaton of word pieces

Node = dict[int, Any]
THEN = -1               # key of a node where a phrase is complete: the places behind it


class Automaton:
    """A grammar in word pieces. A position is a tuple of nodes: the same pieces can be the beginning of several phrases."""

    def __init__(self, rules: Grammar, tokenizer: Tokenizer) -> None:
        self.rules, self.tokenizer = rules, tokenizer
        self.tries: dict[Place, Node] = {}
        self.allowed_at: dict[tuple[int, ...], tuple[list[int], bool]] = {}
        self.start = tuple(self.trie(place) for place in rules.starts)

    def trie(self, place: Place) -> Node:
        if place not in self.tries:
            root: Node = {}
            for phrase, then in self.rules.moves(place):
                node = root
                for piece in self.tokenizer.encode(phrase):
                    node = node.setdefault(piece, {})
                node.setdefault(THEN, []).append(then)
            self.tries[place] = root
        return self.tries[place]

    def closed(self, nodes: tuple[Node, ...]) -> tuple[tuple[Node, ...], bool]:
        """Nodes that go on, those behind complete phrases too, and whether the sentence may end here."""
        found: dict[int, Node] = {}
        waiting, ended = list(nodes), False
        while waiting:
            node = waiting.pop()
            if id(node) in found:
                continue
            found[id(node)] = node
            for then in node.get(THEN, ()):
                if then is None:
                    ended = True
                else:
                    waiting.append(self.trie(then))
        return tuple(found.values()), ended

    def allowed(self, position: tuple[Node, ...]) -> tuple[list[int], bool]:
        """Pieces that may come next, and whether the sentence may end."""
        key = tuple(map(id, position))
        if key not in self.allowed_at:
            nodes, ended = self.closed(position)
            self.allowed_at[key] = sorted({piece for node in nodes for piece in node if piece != THEN}), ended
        return self.allowed_at[key]

    def go(self, position: tuple[Node, ...], piece: int) -> tuple[Node, ...]:
        return tuple(node[piece] for node in self.closed(position)[0] if piece in node)
