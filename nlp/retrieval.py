"""Match an order against the text of each protocol in the book: TF-IDF over words and word pieces, no training."""
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer

from data.book import Book, Protocol
from data.records import Order
from nlp.normalise import normalise

MODALITY_WORDS = {"MR": "MR MRI magnetic resonance", "CT": "CT", "US": "US ultrasound doppler", "XA": "DSA angiogram IR catheter",
                  "NM": "PET SPECT nuclear", "FL": "LP lumbar puncture fluoroscopy", "FL/CT": "myelogram CT fluoroscopy", "XR": "XR x-ray radiograph"}


class Retrieval:
    def __init__(self, book: Book) -> None:
        self.protocols = sorted(book.protocols)
        texts = [protocol_text(book.protocols[key]) for key in self.protocols]
        self._words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, stop_words="english").fit(texts)
        self._pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True).fit(texts)
        self._table = self._vectors(texts)

    def scores(self, orders: list[Order]) -> NDArray[np.float64]:
        """(orders, protocols) cosine similarities, 0 to 1, columns in the order of `protocols`."""
        texts = [f"{normalise(order.ordered_exam).text} {normalise(order.text[:4000]).text}" for order in orders]
        return np.asarray((self._vectors(texts) @ self._table.T).todense())

    def _vectors(self, texts: list[str]):
        # halves of equal weight keep the product a cosine
        return hstack([self._words.transform(texts), self._pieces.transform(texts)]).tocsr() * 0.5**0.5


def protocol_text(protocol: Protocol) -> str:
    """Its words as `normalise` writes an order's, so that they meet."""
    return normalise(" ".join([protocol.name, MODALITY_WORDS.get(protocol.modality, ""), protocol.region, *protocol.indications])).text
