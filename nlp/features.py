"""An order as counts of words, word pairs and word pieces, each at the place that its checksum names (Weinberger 2009): no vocabulary to keep."""
import re
from functools import lru_cache
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from data.records import Order
from nlp.normalise import normalise

HALF = 2**16            # places for words and pairs, as many again for pieces
WIDTH = 2 * HALF
PIECE = range(3, 6)     # letters
READ_MAX = 4000         # characters of an order's text
WORD = re.compile(r"\b\w[\w/+&-]*\b")
AGES = ((1, "infant"), (6, "toddler"), (16, "child"), (45, "young"), (70, "middle"))


def places_of(text: str) -> list[int]:
    """Where each word, pair and piece of a text counts; in linear time."""
    small = text.lower()
    words = WORD.findall(small)
    found = [place(word) for word in words] + [crc32(f"{one} {other}".encode()) % HALF for one, other in pairwise(words)]
    for token in small.split():
        found += pieces_of(token)
    return found


@lru_cache(100_000)
def place(word: str) -> int:
    return crc32(word.encode()) % HALF


@lru_cache(100_000)
def pieces_of(token: str) -> tuple[int, ...]:
    """Places of the runs of letters inside a token; a space stands before and behind it."""
    wide = f" {token[:80]} "
    return tuple(HALF + crc32(wide[i:i + n].encode()) % HALF for n in PIECE for i in range(max(1, len(wide) - n + 1)))


def counts_of(rows: list[list[int]]) -> csr_matrix:
    """(rows, WIDTH) sublinear counts of the places given."""
    places = [np.unique(np.array(row, np.int32), return_counts=True) for row in rows]
    ends = np.cumsum([0, *(len(at) for at, _ in places)])
    values = np.concatenate([counts for _, counts in places] or [np.zeros(0)]).astype(np.float32)
    columns = np.concatenate([at for at, _ in places] or [np.zeros(0, np.int32)])
    return csr_matrix((1 + np.log(values), columns, ends), shape=(len(rows), WIDTH), copy=False)


def rarity_of(counts: csr_matrix) -> NDArray[np.float32]:
    """(WIDTH,) inverse document frequencies; 0 where nothing was ever seen."""
    seen = np.bincount(counts.indices, minlength=WIDTH)
    return np.where(seen > 0, np.log((1 + counts.shape[0]) / (1 + seen)) + 1, 0).astype(np.float32)


def vectors_of(counts: csr_matrix, rarity: NDArray[np.float32]) -> csr_matrix:
    """Words and pieces each of length 1, so that neither outweighs the other."""
    values = counts.data * rarity[counts.indices]
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr)) * 2 + (counts.indices >= HALF)
    length = np.sqrt(np.bincount(rows, values**2, minlength=2 * counts.shape[0]))
    return csr_matrix((values / np.maximum(length, 1e-9)[rows], counts.indices, counts.indptr), shape=counts.shape, dtype=np.float32)


class Seen:
    """The places of an order's parts, found once for all that count them."""

    def __init__(self, order: Order) -> None:
        self.text = places_of(normalise(order.text[:READ_MAX]).text)
        self.click = places_of(normalise(order.ordered_exam).text)
        self.rest = places_of(rest_of(order))

    @property
    def all(self) -> list[int]:
        return self.text + self.rest


def rest_of(order: Order) -> str:
    """What is known beside the text, in words that do not mix with its own; the click's are marked as such."""
    age = order.age_years
    band = "" if age is None else "age_" + next((name for limit, name in AGES if age < limit), "old")
    click = " ".join("click_" + word for word in normalise(order.ordered_exam).text.lower().split())
    known = [band, f"sex_{order.patient.sex}", f"priority_{order.priority}", "set_" + order.setting.replace(" ", "_"),
             "pregnant_yes" if order.facts.pregnant else "", "egfr_low" if order.facts.egfr is not None and order.facts.egfr < 30 else ""]
    more = ["implant " + text for text in order.facts.implants] + ["prior " + text for text in order.priors]
    return " ".join(filter(None, (click, *known, *more)))
