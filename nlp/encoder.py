"""The text encoder: a BERT (Devlin 2019) of few layers, written out so that one short order costs milliseconds; int8 on the CPU."""
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Words(nn.Module):
    """Word vectors as int8 with one scale a row: they are never trained, and float would take four times the memory."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(words, width, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(words, 1))

    def forward(self, ids: Tensor) -> Tensor:               # (B, T) -> (B, T, width)
        return self.weight[ids].float() * self.scale[ids]


class Layer(nn.Module):
    """Attention and feed-forward, normalised after each."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.ask = nn.Linear(width, 3 * width)              # query, key and value in one
        self.gather = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, config["intermediate_size"]), nn.Linear(config["intermediate_size"], width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, config.get("layer_norm_eps", 1e-12)) for _ in range(2))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:        # (B, T, width), (B, 1, 1, T) True where there is a word
        batch, length, width = x.shape
        q, k, v = self.ask(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(batch, length, width)
        x = self.norms[0](x + self.drop(self.gather(seen)))
        return self.norms[1](x + self.drop(self.narrow(nn.functional.gelu(self.widen(x)))))


class Encoder(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.width = width = config["hidden_size"]
        self.words = Words(config["vocab_size"], width)
        self.places = nn.Embedding(config["max_position_embeddings"], width)
        self.norm = nn.LayerNorm(width, config.get("layer_norm_eps", 1e-12))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T) ids and, where some are padded, (B, T) mask -> (B, T, width)."""
        return self.upper(self.lower(ids, mask, 0), mask, 0)

    def lower(self, ids: Tensor, mask: Tensor | None, layers: int) -> Tensor:
        """What the words and the first `layers` make of it."""
        x = self.norm(self.words(ids) + self.places.weight[:ids.shape[1]])
        for layer in self.layers[:layers]:
            x = layer(x, wide(mask))
        return x

    def upper(self, x: Tensor, mask: Tensor | None, start: int) -> Tensor:
        for layer in self.layers[start:]:
            x = layer(x, wide(mask))
        return x


class Other(nn.Module):
    """Any other text encoder of Hugging Face transformers, by its own configuration."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel  # seconds to import; the shipped model does without

        self.model = AutoModel.from_config(AutoConfig.for_model(**config))
        self.width = int(self.model.config.hidden_size)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.model(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask).last_hidden_state
        return hidden


def encoder_of(config: dict[str, Any]) -> Encoder | Other:
    return Encoder(config) if config["model_type"] == "bert" else Other(config)


def wide(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None, :].bool()


def mean_over(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T, width) -> (B, width) over the words alone."""
    if mask is None:
        return hidden.mean(1)
    weight = mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def from_bert(weights: dict[str, NDArray[np.float32]], config: dict[str, Any]) -> dict[str, Tensor]:
    """The state of an Encoder from the tensors of a Hugging Face BERT; layers beyond the configured ones are left out."""
    given = {name.removeprefix("bert."): values for name, values in weights.items()}
    words = given["embeddings.word_embeddings.weight"]
    scale = np.maximum(np.abs(words).max(1, keepdims=True) / 127, 1e-20).astype(np.float32)
    places = given["embeddings.position_embeddings.weight"] + given["embeddings.token_type_embeddings.weight"][0]
    found: dict[str, NDArray[Any]] = {
        "words.weight": np.rint(words / scale).astype(np.int8), "words.scale": scale, "places.weight": places[:config["max_position_embeddings"]],
        "norm.weight": given["embeddings.LayerNorm.weight"], "norm.bias": given["embeddings.LayerNorm.bias"]}
    for i in range(config["num_hidden_layers"]):
        old, new = f"encoder.layer.{i}.", f"layers.{i}."
        for end in ("weight", "bias"):
            found[f"{new}ask.{end}"] = np.concatenate([given[f"{old}attention.self.{part}.{end}"] for part in ("query", "key", "value")])
            for ours, theirs in (("gather", "attention.output.dense"), ("widen", "intermediate.dense"), ("narrow", "output.dense"),
                                 ("norms.0", "attention.output.LayerNorm"), ("norms.1", "output.LayerNorm")):
                found[f"{new}{ours}.{end}"] = given[f"{old}{theirs}.{end}"]
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()}


def quantised(net: nn.Module) -> nn.Module:
    """The linear layers in int8 for the CPU."""
    warnings.filterwarnings("ignore", message=".*torch.ao.quantization|.*torch.quantize_per_tensor", module="torch.ao")
    quantised_net: nn.Module = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    return quantised_net
