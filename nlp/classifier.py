"""The order classifier: a small BERT encoder, mean-pooled, with one linear head each for protocol, contrast and urgency."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from data.errors import ModelError
from data.model_files import from_int8, load_model
from data.records import Order

CONTRASTS = ("none", "with", "without_and_with")
TOKENS_MAX = 128        # the clicked exam and the patient come first, so a long paste loses its tail only


@dataclass(frozen=True)
class Prediction:
    protocol: np.ndarray    # (protocols,) logits divided by the temperature
    contrast: np.ndarray    # (3,) probabilities
    urgent: float           # probability


class OrderModel(nn.Module):
    def __init__(self, config: BertConfig, protocols: int) -> None:
        super().__init__()
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.drop = nn.Dropout(0.1)
        self.protocol = nn.Linear(config.hidden_size, protocols)
        self.contrast = nn.Linear(config.hidden_size, len(CONTRASTS))
        self.urgent = nn.Linear(config.hidden_size, 1)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:     # (B, T), (B, T)
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state    # (B, T, H)
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = self.drop((hidden * weight).sum(1) / weight.sum(1).clamp(min=1))
        return self.protocol(pooled), self.contrast(pooled), self.urgent(pooled).squeeze(-1)


class Classifier:
    """A loaded model with its tokenizer; `predict` takes orders in any number."""

    def __init__(self, model: OrderModel, tokenizer: Tokenizer, protocols: list[str], temperature: float, version: str,
                 device: str = "cpu", path: dict[str, float] | None = None) -> None:
        self.model, self.tokenizer, self.protocols = model.eval().to(device), tokenizer, protocols
        self.temperature, self.version, self.device = temperature, version, device
        self.path = path or {}      # calibration of the whole text path: see nlp.train_protocol.calibrate

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Classifier":
        config, stored = load_model(folder)
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            model = OrderModel(BertConfig(**config["bert"]), len(config["protocols"]))
            model.load_state_dict({name: torch.from_numpy(values) for name, values in from_int8(stored).items()})
        except Exception as error:      # tokenizers raises bare Exception
            raise ModelError(f"{folder} does not hold an order classifier ({type(error).__name__}); check out the folder again") from None
        return cls(model, limit(tokenizer), config["protocols"], config["temperature"], config["version"], device,
                   config.get("path"))

    @torch.inference_mode()
    def predict(self, orders: list[Order], batch: int = 16) -> list[Prediction]:
        """One prediction an order; sorted by length inside, so that short orders do not wait on long ones."""
        encoded = [self.tokenizer.encode(line_of(order)).ids for order in orders]
        by_length = sorted(range(len(orders)), key=lambda i: len(encoded[i]))
        found: dict[int, Prediction] = {}
        for start in range(0, len(orders), batch):
            rows = by_length[start:start + batch]
            ids, mask = pad([encoded[i] for i in rows])
            protocol, contrast, urgent = self.model(ids.to(self.device), mask.to(self.device))
            protocol = (protocol / self.temperature).float().cpu().numpy()
            contrast, urgent = contrast.softmax(-1).float().cpu().numpy(), urgent.sigmoid().float().cpu().numpy()
            for at, i in enumerate(rows):
                found[i] = Prediction(protocol[at], contrast[at], float(urgent[at]))
        return [found[i] for i in range(len(orders))]


def line_of(order: Order) -> str:
    """What the encoder reads: the click and the patient, then the text."""
    age = "" if order.age_years is None else f"{order.age_years:g} y"
    return f"{order.ordered_exam} | {order.setting} {order.priority} {age} {order.patient.sex} | {order.text[:4000]}"


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, :len(row)] = torch.tensor(row)
        mask[i, :len(row)] = 1
    return ids, mask


def limit(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS_MAX)
    return tokenizer


def bert_config(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a Hugging Face config that rebuild the encoder."""
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
            "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id")
    return {key: config[key] for key in keys if key in config}
