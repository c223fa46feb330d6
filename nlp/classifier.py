"""The order classifier: a small transformer reads order and protocol book, and a trained ranker scores each pair of the two."""
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import HashingVectorizer
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from data.book import Book, Protocol
from data.errors import ModelError
from data.model_files import from_int8, load_model
from data.records import Order
from nlp.normalise import normalise
from nlp.retrieval import Retrieval
from nlp.safety import MODALITY, clicked_contrast

TOKENS_MAX = 128        # a long paste loses its tail; a reason for study is some 40
READ_MAX = 4000         # characters
CHILD = re.compile(r"\b(ped|paed\w*|pediat\w*|child\w*|neonat\w*|infant\w*|abuse|baby)", re.I)
FEATURES = ("book, text and click", "book, text", "book, click", "nearest indication", "click to name", "text to name", "modality agrees",
            "contrast agrees", "child for child", "adult for child", "learned")


class Encoder:
    """MiniLM: texts to unit vectors (texts, 384)."""

    def __init__(self, weights: dict[str, NDArray[np.float32]], config: dict[str, Any], tokenizer: Tokenizer, device: str = "cpu") -> None:
        self.config, self.tokenizer, self.device = config, tokenizer, device
        self.model = BertModel(BertConfig(**config), add_pooling_layer=False).eval()
        self.model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
        self.model.to(device)
        tokenizer.no_padding()
        tokenizer.enable_truncation(TOKENS_MAX)

    @torch.inference_mode()
    def __call__(self, texts: list[str], batch: int = 32) -> NDArray[np.float32]:
        encoded = [self.tokenizer.encode(text).ids for text in texts]
        by_length = sorted(range(len(texts)), key=lambda i: len(encoded[i]))    # short texts do not wait on long ones
        found = np.zeros((len(texts), self.config["hidden_size"]), np.float32)
        for start in range(0, len(texts), batch):
            rows = by_length[start:start + batch]
            ids = torch.zeros(len(rows), max(len(encoded[i]) for i in rows), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for at, i in enumerate(rows):
                ids[at, :len(encoded[i])] = torch.tensor(encoded[i])
                mask[at, :len(encoded[i])] = 1
            hidden = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).last_hidden_state.float().cpu()
            weight = mask[..., None].float()
            found[rows] = torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1).numpy()
        return found


@dataclass(frozen=True)
class Ranker:
    """What training fits; each score is a weighted sum, so each can be looked into."""

    protocols: tuple[str, ...]              # those it was trained on
    head: NDArray[np.float32]               # (order features, protocols + 1): the learned feature, and urgency in the last column
    mean: NDArray[np.float32]               # (len(FEATURES),)
    spread: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]               # (protocols,)
    new_weight: NDArray[np.float32]         # for a protocol never trained on: fitted without bias and without the learned feature


class BookView:
    """A book as the classifier sees it; made once a book."""

    def __init__(self, book: Book, encoder: Encoder) -> None:
        self.retrieval = Retrieval(book)
        self.protocols = [book.protocols[name] for name in self.retrieval.protocols]
        self.indications = encoder([text for p in self.protocols for text in p.indications])
        self.starts = np.cumsum([0] + [len(p.indications) for p in self.protocols[:-1]])
        self.names = encoder([p.name for p in self.protocols])
        self.child = np.array([bool(CHILD.search(f"{p.id.replace('_', ' ')} {p.name}")) for p in self.protocols], float)


def pair_features(orders: list[Order], view: BookView, encoder: Encoder) -> tuple[NDArray[np.float32], csr_matrix]:
    """(orders, protocols, FEATURES) with the learned one 0, and (orders, features) for the head."""
    texts = [normalise(order.text[:READ_MAX]).text for order in orders]
    clicks = [normalise(order.ordered_exam).text or "none" for order in orders]
    text, click = encoder(texts), encoder(clicks)

    def by_book(lines: list[str]) -> NDArray[np.float64]:
        return view.retrieval.scores([Order(text=line) for line in lines])

    child = np.array([order.age_years is not None and order.age_years < 16 for order in orders], float)[:, None]
    features = [by_book([f"{c} {t}" for c, t in zip(clicks, texts, strict=True)]), by_book(texts), by_book(clicks),
                np.maximum.reduceat(text @ view.indications.T, view.starts, axis=1), click @ view.names.T, text @ view.names.T,
                np.array([[agrees(order.ordered_exam, p) for p in view.protocols] for order in orders]),
                np.array([[contrast_agrees(order.ordered_exam, p) for p in view.protocols] for order in orders]),
                child * view.child, (1 - child) * view.child, np.zeros((len(orders), len(view.protocols)))]
    words = [f"{c} . {t} . {o.setting}" for c, t, o in zip(clicks, texts, orders, strict=True)]
    parts = [csr_matrix(np.hstack([text, click, np.array([person(o) for o in orders])])),
             HashingVectorizer(ngram_range=(1, 2), n_features=2**13).transform(words),
             HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=2**13).transform(words)]
    return np.stack(features, 2).astype(np.float32), hstack(parts).tocsr().astype(np.float32)


def person(order: Order) -> list[float]:
    age = 50.0 if order.age_years is None else order.age_years
    return [0.3 * x for x in (age < 3, age < 16, age > 65, order.patient.sex == "F", order.priority == "STAT", order.priority == "URGENT",
                              order.facts.pregnant is True, bool(order.facts.implants), 1.0)]


def agrees(click: str, protocol: Protocol) -> float:
    said = {name for name, pattern in MODALITY.items() if pattern.search(click)}
    return float(bool(said & set(protocol.modality.split("/")))) if said else -1.0


def contrast_agrees(click: str, protocol: Protocol) -> float:
    said = clicked_contrast(click)
    return float((said == "none") == (protocol.contrast == "none")) if said else -1.0


def logits_of(ranker: Ranker, features: NDArray[np.float32], learned: NDArray[np.float32], at: list[int]) -> NDArray[np.float32]:
    """(orders, protocols of the book) from pair features; `at` is the column of the ranker for each protocol of the book, -1 when new."""
    known = np.array([i >= 0 for i in at])
    columns = np.array([i for i in at if i >= 0], int)
    features = features.copy()
    features[:, known, -1] = learned[:, columns]
    scaled = (features - ranker.mean) / ranker.spread
    found = np.zeros(features.shape[:2], np.float32)
    found[:, known] = scaled[:, known] @ ranker.weight + ranker.bias[columns]
    if not known.all():
        # both are log-odds over the known protocols; what a new one gains over them by its text alone, it gains here
        plain = scaled[..., :-1] @ ranker.new_weight
        found[:, ~known] = plain[:, ~known] + (logsum(found[:, known]) - logsum(plain[:, known])) if known.any() else plain[:, ~known]
    return found


def logsum(x: NDArray[np.float32]) -> NDArray[np.float32]:
    top = x.max(1, keepdims=True)
    return top + np.log(np.exp(x - top).sum(1, keepdims=True))


class Classifier:
    """A loaded model; `predict` takes orders in any number and any book."""

    def __init__(self, encoder: Encoder, ranker: Ranker, calibration: dict[str, float], version: str) -> None:
        self.encoder, self.ranker, self.calibration, self.version = encoder, ranker, calibration, version
        self._view: tuple[str, BookView, list[int]] | None = None

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Classifier":
        config, stored = load_model(folder)
        try:
            values = from_int8(stored)
            weights = {name.removeprefix("encoder."): v for name, v in values.items() if name.startswith("encoder.")}
            encoder = Encoder(weights, config["bert"], Tokenizer.from_file(str(folder / "tokenizer.json")), device)
            ranker = Ranker(tuple(config["protocols"]), *(values[name] for name in RANKER))
            return cls(encoder, ranker, config["calibration"], config["version"])
        except Exception as error:      # tokenizers raises bare Exception
            raise ModelError(f"{folder} does not hold an order classifier ({type(error).__name__}); check out the folder again") from None

    def predict(self, orders: list[Order], book: Book) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(orders, protocols in sorted order) calibrated logits, and (orders,) probabilities of urgency."""
        if self._view is None or self._view[0] != book.version:
            at = {name: i for i, name in enumerate(self.ranker.protocols)}
            view = BookView(book, self.encoder)
            self._view = book.version, view, [at.get(p.id, -1) for p in view.protocols]
        _, view, columns = self._view
        features, own = pair_features(orders, view, self.encoder)
        learned = own @ self.ranker.head
        urgent = 1 / (1 + np.exp(-(learned[:, -1] * self.calibration["urgent_slope"] + self.calibration["urgent_offset"])))
        return logits_of(self.ranker, features, learned[:, :-1], columns) / self.calibration["temperature"], urgent


RANKER = ("head", "mean", "spread", "weight", "bias", "new_weight")
