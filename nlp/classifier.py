"""The order classifier: transformer, linear model and nearest labelled orders score the known protocols, a ranker joins them with the book.

A protocol that was never trained on is scored by its text in the book alone, so that one added to the book is suggested at once.
"""
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import HashingVectorizer
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from data.book import Book, Protocol
from data.errors import ModelError
from data.model_files import from_int8, load_model
from data.records import Order
from nlp.normalise import normalise
from nlp.retrieval import Retrieval
from nlp.safety import MODALITY, clicked_contrast

TOKENS_MAX = 112        # a long paste loses its tail; an order is some 50
READ_MAX = 4000         # characters
CONTRASTS = ("none", "with", "without_and_with")
CHILD = re.compile(r"\b(ped|paed\w*|pediat\w*|child\w*|neonat\w*|infant\w*|abuse|baby|fetal)", re.I)
# one row a feature of (order, protocol); the first three are learned, the others need no training and serve a new protocol too
FEATURES = ("transformer", "words", "neighbours", "book, text and click", "book, text", "book, click", "modality agrees", "contrast agrees",
            "child for child", "adult for child")
LEARNED = 3
UNCLICKED = 1 / 3       # how much the transformer counts where no exam was clicked: it learnt from orders that had one
WORD = re.compile(r"\b\w[\w/+&-]*\b")
WORDS = HashingVectorizer(ngram_range=(1, 2), n_features=2**16, alternate_sign=False, norm=None, token_pattern=r"(?u)\b\w[\w/+&-]*\b")
PIECES = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=2**16, alternate_sign=False, norm=None)


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


def words_of(order: Order) -> str:
    """The order as the linear model reads it: shorthand written out, the click's words apart from the text's."""
    age = order.age_years
    band = "" if age is None else "age_" + next((name for limit, name in AGES if age < limit), "old")
    click = " ".join("click_" + word for word in normalise(order.ordered_exam).text.lower().split())
    flags = [band, f"sex_{order.patient.sex}", f"priority_{order.priority}", "set_" + order.setting.replace(" ", "_"),
             "pregnant_yes" if order.facts.pregnant else "", "egfr_low" if order.facts.egfr is not None and order.facts.egfr < 30 else ""]
    more = " ".join(["implant " + text for text in order.facts.implants] + ["prior " + text for text in order.priors])
    return f"{click} {' '.join(flags)} {normalise(order.text[:READ_MAX]).text} {more}"


AGES = ((1, "infant"), (6, "toddler"), (16, "child"), (45, "young"), (70, "middle"))


def counts_of(orders: list[Order]) -> csr_matrix:
    """(orders, 2**17) sublinear counts of words, word pairs and word pieces."""
    texts = [words_of(order) for order in orders]
    found = hstack([WORDS.transform(texts), PIECES.transform(texts)]).tocsr().astype(np.float32)
    found.data = 1 + np.log(found.data)
    return found


# ---------------------------------------------------------------- the models

class Net(nn.Module):
    """MiniLM (or another BERT), mean-pooled, with a head each for protocol, contrast and urgency (the last two steady its training)."""

    def __init__(self, config: dict[str, Any], protocols: int) -> None:
        super().__init__()
        self.bert = BertModel(BertConfig(**config), add_pooling_layer=False)
        self.head = nn.Linear(config["hidden_size"], protocols + len(CONTRASTS) + 1)
        self.drop = nn.Dropout(0.2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:             # (B, T) both
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        return self.head(self.drop(pooled) * 4)                         # (B, protocols + 4): mean-pooled states are small


class Reader:
    """Tokenizer and Net: orders to logits (orders, protocols + 4)."""

    def __init__(self, net: Net, tokenizer: Tokenizer, device: str = "cpu") -> None:
        self.net, self.tokenizer, self.device = net.to(device).eval(), tokenizer, device
        tokenizer.no_padding()
        tokenizer.enable_truncation(TOKENS_MAX)

    def tokens(self, orders: list[Order]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch([sentence_of(order) for order in orders])]

    @torch.inference_mode()
    def __call__(self, orders: list[Order]) -> NDArray[np.float32]:
        # int8 on the CPU scales its activations by batch: one order at a time, so that none is changed by its neighbours (and none is padded)
        batch = 1 if self.device == "cpu" else 32
        tokens = self.tokens(orders)
        by_length = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))    # short texts do not wait on long ones
        found = np.zeros((len(tokens), self.net.head.out_features), np.float32)
        for start in range(0, len(tokens), batch):
            rows = by_length[start:start + batch]
            ids, mask = padded([tokens[i] for i in rows])
            found[rows] = self.net(ids.to(self.device), mask.to(self.device)).float().cpu().numpy()
        return found


def padded(tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(tokens):
        ids[row, :len(one)] = torch.tensor(one)
        mask[row, :len(one)] = 1
    return ids, mask


@dataclass(frozen=True)
class Linear:
    """A linear support vector machine over words, one protocol against the rest."""

    idf: NDArray[np.float32]        # (2**17,)
    weight: NDArray[np.float32]     # (2**17, protocols)
    bias: NDArray[np.float32]       # (protocols,)

    def __call__(self, counts: csr_matrix) -> NDArray[np.float32]:
        return np.asarray(self.vectors(counts) @ self.weight + self.bias, np.float32)

    def vectors(self, counts: csr_matrix) -> csr_matrix:
        """Words and pieces each of length 1, so that neither outweighs the other."""
        weighted = counts.multiply(self.idf).tocsr()
        half = weighted.shape[1] // 2
        parts = [weighted[:, :half], weighted[:, half:]]
        return hstack([part.multiply(1 / np.maximum(np.sqrt(part.multiply(part).sum(1)), 1e-9)) for part in parts]).tocsr()


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
    def read(cls, stored: dict[str, NDArray[Any]], width: int) -> "Neighbours":
        values = stored["near.values"].astype(np.float32) / stored["near.scale"][0]
        vectors = csr_matrix((values, stored["near.indices"], stored["near.indptr"]), shape=(len(stored["near.indptr"]) - 1, width))
        shares, urgent = stored["near.shares"].astype(np.float32) / 5, stored["near.urgent"].astype(np.float32)
        return cls(vectors, shares, urgent, bytes(stored["near.ids"]).decode().split("\n"))


@dataclass(frozen=True)
class Ranker:
    """Few weights, fitted on authors that neither model saw; each score is a weighted sum, so each can be looked into."""

    weight: NDArray[np.float32]         # (len(FEATURES),)
    new_weight: NDArray[np.float32]     # without the learned ones, for a protocol never trained on

    def __call__(self, features: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(orders, protocols of the book) logits from (orders, protocols of the book, FEATURES)."""
        found = features @ self.weight
        if not known.all():
            # both are log-odds over the known protocols; what a new one gains over them by its text alone, it gains here
            plain = features[..., LEARNED:] @ self.new_weight
            base = logsum(found[:, known]) - logsum(plain[:, known]) if known.any() else 0.0
            found[:, ~known] = plain[:, ~known] + base
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
        self.child = np.array([bool(CHILD.search(f"{p.id.replace('_', ' ')} {p.name}")) for p in self.protocols], float)

    def spread(self, values: list[float]) -> NDArray[np.float32]:
        """(protocols of the book,) from one value a protocol trained on; the mean for the others."""
        found = np.full(len(self.protocols), np.mean(values), np.float32)
        found[self.known] = np.array(values, np.float32)[self.columns]
        return found


def features_of(orders: list[Order], view: BookView, said: "Said") -> NDArray[np.float32]:
    """(orders, protocols of the book, FEATURES)."""
    clicks = [order.ordered_exam for order in orders]
    texts = [normalise(order.text[:READ_MAX]).text for order in orders]

    def by_book(lines: list[str]) -> NDArray[np.float64]:
        return view.retrieval.scores([Order(text=line) for line in lines])

    def learned(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        wide = np.zeros((len(orders), len(view.protocols)), np.float32)
        wide[:, view.known] = scores[:, view.columns]
        return wide

    child = np.array([order.age_years is not None and order.age_years < 16 for order in orders], float)[:, None]
    agree = {click: np.array([[how(click, p) for p in view.protocols] for how in (agrees, contrast_agrees)]) for click in set(clicks)}
    trust = np.array([1.0 if click else UNCLICKED for click in clicks], np.float32)[:, None]
    net = said.net[:, :said.linear.shape[1]]
    rows = [learned((net - logsum(net)) * trust), learned(said.linear), learned(said.neighbours),
            by_book([f"{c} {t}" for c, t in zip(clicks, texts, strict=True)]), by_book(texts), by_book(clicks),
            np.array([agree[click][0] for click in clicks]), np.array([agree[click][1] for click in clicks]),
            child * view.child, (1 - child) * view.child]
    return np.stack(rows, 2).astype(np.float32)


def agrees(click: str, protocol: Protocol) -> float:
    said = {name for name, pattern in MODALITY.items() if pattern.search(click)}
    return (1.0 if said & set(protocol.modality.split("/")) else -1.0) if said else 0.0


def contrast_agrees(click: str, protocol: Protocol) -> float:
    said = clicked_contrast(click)
    return (1.0 if (said == "none") == (protocol.contrast == "none") else -1.0) if said else 0.0


# ---------------------------------------------------------------- together

@dataclass(frozen=True)
class Said:
    """What the three learned models say of some orders, before the ranker: logits of (orders, protocols trained on)."""

    net: NDArray[np.float32]            # (orders, protocols + 4): contrast and urgency behind
    linear: NDArray[np.float32]
    neighbours: NDArray[np.float32]
    near_urgent: NDArray[np.float32]    # (orders,)
    nearest: NDArray[np.int_]           # (orders, NEAREST)

    def take(self, index: NDArray[np.int_]) -> "Said":
        return Said(*(getattr(self, name)[index] for name in ("net", "linear", "neighbours", "near_urgent", "nearest")))


@dataclass(frozen=True)
class Models:
    """The three learned models, and the protocols they know."""

    reader: Reader
    linear: Linear
    neighbours: Neighbours
    protocols: tuple[str, ...]

    def __call__(self, orders: list[Order]) -> Said:
        counts = counts_of(orders)
        return Said(self.reader(orders), self.linear(counts), *self.neighbours(self.linear.vectors(counts)))


@dataclass(frozen=True)
class Predicted:
    logits: NDArray[np.float32]         # (orders, protocols of the book), calibrated
    contrast: NDArray[np.float32]       # (orders, 3) probabilities, CONTRASTS
    urgent: NDArray[np.float32]         # (orders,) probabilities
    nearest: list[tuple[str, ...]]      # ids of the labelled orders most like each


class Classifier:
    """A loaded model; `predict` takes orders in any number and any book."""

    def __init__(self, models: Models, ranker: Ranker, calibration: dict[str, Any], version: str) -> None:
        self.models, self.ranker, self.calibration, self.version = models, ranker, calibration, version
        self.protocols = models.protocols
        self._view: tuple[str, BookView] | None = None

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Classifier":
        """Raises ModelError when the folder is missing, altered or of another version."""
        config, stored = load_model(folder)
        try:
            values = from_int8(stored)
            protocols = tuple(config["protocols"])
            net = Net(config["bert"], len(protocols))
            net.load_state_dict({name.removeprefix("net."): torch.from_numpy(v) for name, v in values.items() if name.startswith("net.")})
            if device == "cpu":
                net = quantised(net)
            linear = Linear(values["idf"], np.ascontiguousarray(values["weight"].T), values["bias"])
            models = Models(Reader(net, Tokenizer.from_file(str(folder / "tokenizer.json")), device), linear,
                            Neighbours.read(stored, len(linear.idf)), protocols)
            return cls(models, Ranker(values["ranker"], values["new_ranker"]), config["calibration"], config["version"])
        except Exception as error:      # tokenizers raises bare Exception
            raise ModelError(f"{folder} does not hold an order classifier ({type(error).__name__}); check out the folder again") from None

    def view(self, book: Book) -> BookView:
        if self._view is None or self._view[0] != book.version:
            self._view = book.version, BookView(book, self.protocols)
        return self._view[1]

    def predict(self, orders: list[Order], book: Book) -> Predicted:
        view, said, known = self.view(book), self.models(orders), len(self.protocols)
        logits = self.ranker(features_of(orders, view, said), view.known) / self.calibration["temperature"]
        chance = np.exp(logits - logsum(logits))
        asks = np.stack([chance[:, [p.contrast == name for p in view.protocols]].sum(1) for name in CONTRASTS], 1)
        head = np.exp(said.net[:, known:known + 3] - logsum(said.net[:, known:known + 3]))
        share = self.calibration["contrast_share"]
        urgent = urgency_of(urgency_features(orders, chance, view.spread(self.calibration["urgent_rates"]), said), self.calibration)
        return Predicted(logits, share * head + (1 - share) * asks, urgent,
                         [tuple(self.models.neighbours.ids[i] for i in row[:3]) for row in said.nearest])

    def words_for(self, order: Order, protocol: str, most: int = 5) -> list[tuple[int, int]]:
        """Spans of the order's text whose words speak most for a protocol in the linear model, best first."""
        if protocol not in self.protocols:
            return []
        plain, linear = normalise(order.text[:READ_MAX]), self.models.linear
        found = list(WORD.finditer(plain.text))[:400]
        if not found:
            return []
        words = [match[0] for match in found]
        counts = hstack([WORDS.transform(words), PIECES.transform(words)]).tocsr()
        gain = np.asarray(counts @ (linear.weight[:, self.protocols.index(protocol)] * linear.idf)).ravel()
        best = [i for i in np.argsort(-gain)[:most] if gain[i] > 0.25 * gain.max() > 0]
        return [plain.original(*found[i].span()) for i in best]


URGENCY = ("STAT", "URGENT", "of the likely protocols", "of the nearest orders")
TEXT = 2                # the features from here on are the text's alone
TEXT_WEIGHT = 0.5       # of the text's own verdict: an order clicked as routine can be urgent all the same


def urgency_features(orders: list[Order], chance: NDArray[np.float32], rates: NDArray[np.float32], said: Said) -> NDArray[np.float32]:
    """(orders, URGENCY): priority as clicked, log odds of urgency by the likely protocols' `rates`, share of urgent ones among the nearest."""
    expected = (chance @ rates).clip(0.01, 0.99)
    return np.stack([[order.priority == "STAT" for order in orders], [order.priority == "URGENT" for order in orders],
                     np.log(expected / (1 - expected)), said.near_urgent], 1).astype(np.float32)


def urgency_of(features: NDArray[np.float32], calibration: dict[str, Any]) -> NDArray[np.float32]:
    """The larger of the probability with the priority, and of TEXT_WEIGHT times that of the text alone."""
    with_priority = features[:, :TEXT + 1] @ calibration["urgent_weights"] + calibration["urgent_offset"]
    text = features[:, TEXT:] @ calibration["text_weights"] + calibration["text_offset"]
    return np.maximum(1 / (1 + np.exp(-with_priority)), TEXT_WEIGHT / (1 + np.exp(-text)))


def quantised(net: Net) -> Net:
    """The transformer's linear layers in int8 for the CPU."""
    warnings.filterwarnings("ignore", message=".*torch.ao.quantization|.*torch.quantize_per_tensor", module="torch.ao")
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
