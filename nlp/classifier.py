"""The order classifier: transformer, linear model and nearest labelled orders score the known protocols, a ranker joins them with the book.

A protocol that was never trained on is scored by its text in the book alone, so that one added to the book is suggested at once.
"""
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from tokenizers import Tokenizer
from torch import Tensor, nn

from data.book import Book
from data.errors import ModelError
from data.model_files import SCALE, load_model
from data.records import Order
from nlp.clicked import MODALITY, clicked_contrast
from nlp.encoder import encoder_of, mean_over, quantised
from nlp.features import READ_MAX, WIDTH, WORD, Seen, counts_of, pieces_of, place, vectors_of
from nlp.normalise import normalise
from nlp.retrieval import Retrieval

TOKENS_MAX = 112        # a long paste loses its tail; an order is some 50
MANY = 16               # orders from which on they are read by several threads
CONTRASTS = ("none", "with", "without_and_with")
OTHERS = len(CONTRASTS) + 1     # what is told beside the protocols: contrast, urgency
CHILD = re.compile(r"\b(ped|paed\w*|pediat\w*|child\w*|neonat\w*|infant\w*|abuse|baby|fetal)", re.I)
# one row a feature of (order, protocol); the first three are learned, the others need no training and serve a new protocol too
FEATURES = ("transformer", "words", "neighbours", "book, text and click", "book, text", "book, click", "modality agrees", "contrast agrees",
            "child for child", "adult for child")
LEARNED = 3


# ---------------------------------------------------------------- what is read

def sentence_of(order: Order) -> str:
    """The order as the transformer reads it: text, click, person, priors."""
    who = [age_words(order.age_years), {"F": "female", "M": "male"}.get(order.patient.sex, ""), order.priority.lower(), order.setting]
    if order.facts.pregnant:
        who.append("pregnant")
    if order.facts.egfr is not None and order.facts.egfr < 30:
        who.append("low egfr")
    if order.facts.allergies:
        who.append("allergy " + ", ".join(order.facts.allergies))
    if order.facts.implants:
        who.append("implant " + ", ".join(order.facts.implants))
    return f"{order.text[:READ_MAX]} [SEP] {order.ordered_exam} [SEP] {' '.join(filter(None, who))} [SEP] {'; '.join(order.priors)[:150]}"


def age_words(age: float | None) -> str:
    return "" if age is None else f"{age:g} year old" if age >= 2 else f"{age * 12:.0f} month old"


# ---------------------------------------------------------------- the models

class Net(nn.Module):
    """A text encoder, mean-pooled, with a head each for protocol, contrast and urgency."""

    def __init__(self, config: dict[str, Any], protocols: int) -> None:
        super().__init__()
        self.body = encoder_of(config)
        self.head = nn.Linear(self.body.width, protocols + OTHERS)
        self.drop = nn.Dropout(0.2)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:       # (B, T) both -> (B, protocols + 4)
        return self.answers(self.body(ids, mask), mask)

    def answers(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return self.head(self.drop(mean_over(hidden, mask)) * 4)                # mean-pooled states are small


class Reader:
    """Tokenizer and Net: orders to logits (orders, protocols + 4)."""

    def __init__(self, net: Net, tokenizer: Tokenizer, device: str = "cpu") -> None:
        self.net, self.tokenizer, self.device = net.to(device).eval(), tokenizer, device
        tokenizer.no_padding()
        tokenizer.enable_truncation(TOKENS_MAX)

    @classmethod
    def read(cls, config: dict[str, Any], stored: dict[str, NDArray[Any]], tokenizer: Tokenizer, protocols: int, device: str = "cpu") -> "Reader":
        net = Net(config, protocols)
        net.load_state_dict({name.removeprefix("net."): torch.from_numpy(values) for name, values in stored.items() if name.startswith("net.")})
        return cls(quantised(net) if device == "cpu" else net, tokenizer, device)

    def tokens(self, orders: list[Order]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch([sentence_of(order) for order in orders])]

    def __call__(self, orders: list[Order]) -> NDArray[np.float32]:
        # int8 on the CPU scales its activations by batch: one order at a time, so that none is changed by its neighbours (and none is padded)
        batch = 1 if self.device == "cpu" else 32
        tokens = self.tokens(orders)
        by_length = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))    # short texts do not wait on long ones
        found = np.zeros((len(tokens), self.net.head.out_features), np.float32)

        @torch.inference_mode()
        def read(rows: list[int]) -> None:
            ids, mask = padded([tokens[i] for i in rows])
            found[rows] = self.net(ids.to(self.device), None if mask is None else mask.to(self.device)).float().cpu().numpy()

        parts = [by_length[start:start + batch] for start in range(0, len(tokens), batch)]
        if self.device == "cpu" and len(parts) > MANY:
            with ThreadPoolExecutor(os.cpu_count()) as threads:     # torch lets go of Python's lock, and one short order fills one core alone
                list(threads.map(read, parts))
        else:
            for rows in parts:
                read(rows)
        return found


def padded(tokens: list[list[int]]) -> tuple[Tensor, Tensor | None]:
    """(B, T) ids and, where some are shorter, (B, T) which are words."""
    if len({len(one) for one in tokens}) == 1:
        return torch.tensor(tokens), None
    ids = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(tokens):
        ids[row, :len(one)] = torch.tensor(one)
        mask[row, :len(one)] = 1
    return ids, mask


@dataclass(frozen=True)
class Linear:
    """Linear support vector machines over words, pairs and pieces: each protocol against the rest, then contrast, then urgency."""

    rarity: NDArray[np.float32]     # (WIDTH,)
    weight: NDArray[np.int8]        # (WIDTH, protocols + OTHERS)
    scale: NDArray[np.float32]      # (protocols + OTHERS,)
    bias: NDArray[np.float32]       # (protocols + OTHERS,)

    def __call__(self, vectors: csr_matrix) -> NDArray[np.float32]:
        """(orders, protocols + OTHERS) margins."""
        found = np.empty((vectors.shape[0], len(self.bias)), np.float32)
        for row, (start, end) in enumerate(zip(vectors.indptr[:-1], vectors.indptr[1:], strict=True)):
            found[row] = vectors.data[start:end] @ self.weight[vectors.indices[start:end]].astype(np.float32)
        return found * self.scale + self.bias

    @classmethod
    def read(cls, stored: dict[str, NDArray[Any]]) -> "Linear":
        return cls(stored["rarity"].astype(np.float32), np.ascontiguousarray(stored["weight"].T), stored["weight" + SCALE].ravel(),
                   stored["bias"].astype(np.float32))


class Neighbours:
    """The labelled orders most like an order, and what they were protocolled as."""

    NEAREST, SHARPNESS, FLOOR = 60, 4, 0.003
    CLOSE = 8           # of the nearest, those whose urgency counts

    def __init__(self, vectors: csr_matrix, shares: NDArray[np.float32], urgent: NDArray[np.float32], ids: list[str]) -> None:
        # (labelled, 2**17), (labelled, protocols), (labelled,)
        self.vectors, self.shares, self.urgent, self.ids = vectors, shares, urgent, ids
        self._across = vectors.T.tocsr()

    def __call__(self, vectors: csr_matrix) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int_]]:
        """(orders, protocols) log shares among the nearest, (orders,) share of urgent ones, (orders, nearest) which they are, best first."""
        likeness = (vectors @ self._across).toarray()
        most = min(self.NEAREST, likeness.shape[1])
        near = np.argpartition(-likeness, most - 1, axis=1)[:, :most]
        near = np.take_along_axis(near, np.argsort(-np.take_along_axis(likeness, near, 1), axis=1, kind="stable"), 1)
        close = np.take_along_axis(likeness, near, 1)
        weight = (close / np.maximum(close[:, :1], 1e-6)) ** self.SHARPNESS
        share = np.einsum("on,onp->op", weight, self.shares[near])
        shares = np.log(share / np.maximum(share.sum(1, keepdims=True), 1e-9) + self.FLOOR).astype(np.float32)
        return shares, self.urgent[near[:, :self.CLOSE]].mean(1), near

    def stored(self) -> dict[str, NDArray[Any]]:
        scale = 255 / max(float(self.vectors.data.max()), 1e-9)
        return {"near.values": np.rint(self.vectors.data * scale).astype(np.uint8), "near.scale": np.array([scale], np.float32),
                "near.indices": self.vectors.indices.astype(np.int32), "near.indptr": self.vectors.indptr.astype(np.int32),
                "near.shares": np.rint(self.shares * 5).astype(np.uint8), "near.urgent": self.urgent.astype(np.uint8),
                "near.ids": np.frombuffer("\n".join(self.ids).encode(), np.uint8)}

    @classmethod
    def read(cls, stored: dict[str, NDArray[Any]]) -> "Neighbours":
        values = stored["near.values"].astype(np.float32) / stored["near.scale"][0]
        vectors = csr_matrix((values, stored["near.indices"], stored["near.indptr"]), shape=(len(stored["near.indptr"]) - 1, WIDTH))
        shares, urgent = stored["near.shares"].astype(np.float32) / 5, stored["near.urgent"].astype(np.float32)
        return cls(vectors, shares, urgent, bytes(stored["near.ids"]).decode().split("\n"))


@dataclass(frozen=True)
class Ranker:
    """Few weights, fitted on authors that neither model saw; each score is a weighted sum, so each can be looked into."""

    weight: NDArray[np.float32]         # (len(FEATURES),)
    new_weight: NDArray[np.float32]     # for a protocol never trained on: without the learned features, an offset last

    def __call__(self, features: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(orders, protocols of the book) logits from (orders, protocols of the book, FEATURES)."""
        found = features @ self.weight
        found[:, ~known] = features[:, ~known, LEARNED:] @ self.new_weight[:-1] + self.new_weight[-1]
        return found


def logsum(x: NDArray[np.float32]) -> NDArray[np.float32]:
    top = x.max(1, keepdims=True)
    return top + np.log(np.exp(x - top).sum(1, keepdims=True))


# ---------------------------------------------------------------- features

class BookView:
    """A book as the classifier sees it; made once a book."""

    def __init__(self, book: Book, protocols: tuple[str, ...]) -> None:
        self.retrieval = Retrieval(book)
        self.protocols = [book.protocols[name] for name in self.retrieval.protocols]
        at = {name: i for i, name in enumerate(protocols)}
        self.known = np.array([p.id in at for p in self.protocols])
        self.columns = np.array([at[p.id] for p in self.protocols if p.id in at], int)
        self.modalities = [set(p.modality.split("/")) for p in self.protocols]
        self.asks = np.array([[p.contrast == name for name in CONTRASTS] for p in self.protocols], np.float32)
        self.child = np.array([bool(CHILD.search(f"{p.id.replace('_', ' ')} {p.name}")) for p in self.protocols], float)

    def agreement(self, click: str) -> NDArray[np.float32]:
        """(2, protocols of the book): does the clicked modality agree, does the contrast; 1, -1, or 0 where the click does not say."""
        said, contrast = {name for name, pattern in MODALITY.items() if pattern.search(click)}, clicked_contrast(click)
        none = np.zeros(len(self.protocols), np.float32)
        return np.stack([np.where([bool(said & one) for one in self.modalities], 1.0, -1.0) if said else none,
                         np.where((self.asks[:, 0] == 1) == (contrast == "none"), 1.0, -1.0) if contrast else none]).astype(np.float32)

    def spread(self, values: list[float]) -> NDArray[np.float32]:
        """(protocols of the book,) from one value a protocol trained on; the mean for the others."""
        found = np.full(len(self.protocols), np.mean(values), np.float32)
        found[self.known] = np.array(values, np.float32)[self.columns]
        return found


def features_of(orders: list[Order], seen: list[Seen], view: BookView, said: "Said") -> NDArray[np.float32]:
    """(orders, protocols of the book, FEATURES)."""
    clicks = [order.ordered_exam for order in orders]

    def learned(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        wide = np.zeros((len(orders), len(view.protocols)), np.float32)
        wide[:, view.known] = scores[:, view.columns]
        return wide

    child = np.array([order.age_years is not None and order.age_years < 16 for order in orders], float)[:, None]
    agree = {click: view.agreement(click) for click in set(clicks)}
    net = said.net[:, :-OTHERS]
    by_book = view.retrieval.of_places([row for one in seen for row in (one.text + one.click, one.text, one.click)])
    rows = [learned(net - logsum(net)), learned(said.linear[:, :-OTHERS]), learned(said.neighbours),
            by_book[0::3], by_book[1::3], by_book[2::3],
            np.array([agree[click][0] for click in clicks]), np.array([agree[click][1] for click in clicks]),
            child * view.child, (1 - child) * view.child]
    return np.stack(rows, 2).astype(np.float32)


# ---------------------------------------------------------------- together

@dataclass(frozen=True)
class Said:
    """What the three learned models say of some orders, before the ranker: logits of (orders, protocols trained on)."""

    net: NDArray[np.float32]            # (orders, protocols + OTHERS)
    linear: NDArray[np.float32]         # (orders, protocols + OTHERS)
    neighbours: NDArray[np.float32]     # (orders, protocols)
    near_urgent: NDArray[np.float32]    # (orders,)
    nearest: NDArray[np.int_]           # (orders, NEAREST)

    PARTS = ("net", "linear", "neighbours", "near_urgent", "nearest")

    def take(self, index: NDArray[np.int_]) -> "Said":
        return Said(*(getattr(self, name)[index] for name in self.PARTS))

    @classmethod
    def joined(cls, parts: list["Said"]) -> "Said":
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.PARTS))


@dataclass(frozen=True)
class Models:
    """The three learned models, and the protocols they know."""

    reader: Reader
    linear: Linear
    neighbours: Neighbours
    protocols: tuple[str, ...]

    def __call__(self, orders: list[Order], seen: list[Seen]) -> Said:
        vectors = vectors_of(counts_of([one.all for one in seen]), self.linear.rarity)
        return Said(self.reader(orders), self.linear(vectors), *self.neighbours(vectors))


@dataclass(frozen=True)
class Told:
    """Stands for Models whose answers are known already."""

    said: Said
    protocols: tuple[str, ...]
    linear: Linear
    neighbours: Neighbours

    def __call__(self, orders: list[Order], seen: list[Seen]) -> Said:
        return self.said


@dataclass(frozen=True)
class Predicted:
    probability: NDArray[np.float32]    # (orders, protocols of the book): that each is acceptable; they need not sum to 1
    contrast: NDArray[np.float32]       # (orders, 3) probabilities, CONTRASTS
    urgent: NDArray[np.float32]         # (orders,) probabilities
    nearest: list[tuple[str, ...]]      # ids of the labelled orders most like each


class Classifier:
    """A loaded model; `predict` takes orders in any number and any book."""

    def __init__(self, models: Models | Told, ranker: Ranker, calibration: dict[str, Any], version: str) -> None:
        self.models, self.ranker, self.calibration, self.version = models, ranker, calibration, version
        self.protocols = models.protocols
        self._view: tuple[str, BookView] | None = None

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Classifier":
        """Raises ModelError when the folder is missing, altered or of another version."""
        config, stored = load_model(folder)
        try:
            protocols = tuple(config["protocols"])
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            models = Models(Reader.read(config["encoder"], stored, tokenizer, len(protocols), device), Linear.read(stored), Neighbours.read(stored),
                            protocols)
            return cls(models, Ranker(stored["ranker"], stored["new_ranker"]), config["calibration"], config["version"])
        except Exception as error:      # tokenizers raises bare Exception
            raise ModelError(f"{folder} does not hold an order classifier ({type(error).__name__}); check out the folder again") from None

    def view(self, book: Book) -> BookView:
        if self._view is None or self._view[0] != book.version:
            self._view = book.version, BookView(book, self.protocols)
        return self._view[1]

    def predict(self, orders: list[Order], book: Book) -> Predicted:
        view, seen = self.view(book), [Seen(order) for order in orders]
        said = self.models(orders, seen)
        share = shares(self.ranker(features_of(orders, seen, view, said), view.known))
        urgent = urgency_of(urgency_features(orders, share, view, said, self.calibration["urgent_rates"]), self.calibration)
        return Predicted(acceptable_of(share, self.calibration), contrast_of(contrast_features(share, view, said), self.calibration), urgent,
                         [tuple(self.models.neighbours.ids[i] for i in row[:3]) for row in said.nearest])

    def words_for(self, order: Order, protocol: str, most: int = 5) -> list[tuple[int, int]]:
        """Spans of the order's text whose words speak most for a protocol in the linear model, best first."""
        if protocol not in self.protocols:
            return []
        plain, linear = normalise(order.text[:READ_MAX]), self.models.linear
        words = list(WORD.finditer(plain.text))[:400]
        if not words:
            return []
        places = [[place(small := match[0].lower()), *pieces_of(small)] for match in words]
        at = np.array([p for row in places for p in row])
        worth = linear.weight[at, self.protocols.index(protocol)] * linear.rarity[at]
        gain = np.add.reduceat(worth, np.cumsum([0, *map(len, places[:-1])]))
        best = [i for i in np.argsort(-gain)[:most] if gain[i] > 0.25 * gain.max() > 0]
        return [plain.original(*words[i].span()) for i in best]


# ---------------------------------------------------------------- from scores to probabilities

URGENCY = ("STAT", "URGENT", "of the likely protocols", "of the nearest orders", "of the words", "of the transformer")
TEXT = 2                # the features from here on are the text's alone
TEXT_WEIGHT = 0.5       # of the text's own verdict: an order clicked as routine can be urgent all the same


def shares(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.exp(logits - logsum(logits))


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return 1 / (1 + np.exp(-x))


def log_odds(p: NDArray[np.float32]) -> NDArray[np.float32]:
    p = p.clip(1e-5, 1 - 1e-5)
    return np.log(p / (1 - p))


def acceptable_of(share: NDArray[np.float32], calibration: dict[str, Any]) -> NDArray[np.float32]:
    """The probability that a protocol is acceptable, from its share: where two are, each has a half of it (Platt 1999)."""
    return sigmoid(calibration["slope"] * log_odds(share) + calibration["offset"])


def contrast_features(share: NDArray[np.float32], view: BookView, said: Said) -> NDArray[np.float32]:
    """(orders, 3 contrasts, 3): by the likely protocols, by the words, by the transformer."""
    start = -OTHERS
    net = said.net[:, start:start + 3]
    return np.stack([np.log(share @ view.asks + 1e-3), said.linear[:, start:start + 3], net - logsum(net)], 2)


def contrast_of(features: NDArray[np.float32], calibration: dict[str, Any]) -> NDArray[np.float32]:
    return shares(features @ np.array(calibration["contrast_weights"], np.float32))


def urgency_features(orders: list[Order], share: NDArray[np.float32], view: BookView, said: Said, rates: list[float]) -> NDArray[np.float32]:
    """(orders, URGENCY): priority as clicked, then log odds and margins of the text."""
    expected = log_odds((share @ view.spread(rates)).clip(0.01, 0.99))
    return np.stack([[order.priority == "STAT" for order in orders], [order.priority == "URGENT" for order in orders],
                     expected, said.near_urgent, said.linear[:, -1], said.net[:, -1]], 1).astype(np.float32)


def urgency_of(features: NDArray[np.float32], calibration: dict[str, Any]) -> NDArray[np.float32]:
    """The larger of the probability with the priority, and of TEXT_WEIGHT times that of the text alone."""
    with_priority = features @ np.array(calibration["urgent_weights"], np.float32) + calibration["urgent_offset"]
    text = features[:, TEXT:] @ np.array(calibration["text_weights"], np.float32) + calibration["text_offset"]
    return np.maximum(sigmoid(with_priority), TEXT_WEIGHT * sigmoid(text))
