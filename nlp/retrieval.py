"""Match an order against the text of each protocol in the book: TF-IDF over words and word pieces, no training."""
import numpy as np
from numpy.typing import NDArray

from data.book import Book, Protocol
from data.records import Order
from nlp.features import READ_MAX, counts_of, places_of, rarity_of, vectors_of
from nlp.normalise import normalise

MODALITY_WORDS = {"MR": "MR MRI magnetic resonance", "CT": "CT", "US": "US ultrasound doppler", "XA": "DSA angiogram IR catheter",
                  "NM": "PET SPECT nuclear", "FL": "LP lumbar puncture fluoroscopy", "FL/CT": "myelogram CT fluoroscopy", "XR": "XR x-ray radiograph"}
SMALL = {"of", "and", "or", "with", "without", "the", "for", "in", "to", "a", "an", "no", "not", "from", "by", "on", "after", "before"}


class Retrieval:
    def __init__(self, book: Book) -> None:
        self.protocols = sorted(book.protocols)
        counts = counts_of([places_of(plain(normalise(protocol_text(book.protocols[key])).text)) for key in self.protocols])
        self._rarity = rarity_of(counts)
        self._across = vectors_of(counts, self._rarity).T.tocsr()

    def scores(self, orders: list[Order]) -> NDArray[np.float32]:
        """(orders, protocols) cosine similarities, 0 to 1, columns in the order of `protocols`."""
        return self.of_places([places_of(normalise(order.ordered_exam).text) + places_of(plain(normalise(order.text[:READ_MAX]).text))
                               for order in orders])

    def of_places(self, rows: list[list[int]]) -> NDArray[np.float32]:
        """The same of texts whose words, pairs and pieces were found already."""
        # halves of equal weight keep the product a cosine
        return np.asarray((vectors_of(counts_of(rows), self._rarity) @ self._across).toarray() / 2, np.float32)


def plain(text: str) -> str:
    return " ".join(word for word in text.split() if word.lower() not in SMALL)


def protocol_text(protocol: Protocol) -> str:
    """Its words as `normalise` writes an order's, so that they meet."""
    return normalise(" ".join([protocol.name, MODALITY_WORDS.get(protocol.modality, ""), protocol.region, *protocol.indications])).text
