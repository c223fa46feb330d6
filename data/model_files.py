"""Model folders: config.json, model.safetensors, card.json with SHA-256 sums; never pickle."""
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from data.errors import ModelError

MODELS = Path(__file__).parent / "models"
SCALE = ".scale"        # an int8 matrix `name` has its float16 row scales under `name.scale`


def save_model(folder: Path, tensors: dict[str, NDArray[Any]], config: dict[str, Any], card: dict[str, Any],
               extra: dict[str, bytes] | None = None) -> None:
    """Write a model whole: all files under temporary names first: a full disk leaves the model that was there; `extra` holds a tokenizer, say."""
    folder.mkdir(parents=True, exist_ok=True)
    # save() writes the memory as it lies, and a channels-last tensor lies in another order than its shape says
    plain = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    files = {"config.json": (json.dumps(config, indent=1) + "\n").encode(), "model.safetensors": save(plain), **(extra or {})}
    sums = {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()}
    files["card.json"] = (json.dumps({**card, "sha256": sums}, indent=1) + "\n").encode()
    partial = {name: folder / (name + ".part") for name in files}
    try:
        for name, raw in files.items():
            with partial[name].open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        for path in partial.values():
            path.unlink(missing_ok=True)
        raise
    for name, path in partial.items():      # the card with the sums comes last
        os.replace(path, folder / name)


def load_model(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """(config, tensors); raises ModelError when a file is missing or its sum is not the card's.

    The card must hold a sum for config.json and model.safetensors; any other file it names (a tokenizer) is checked too.
    """
    try:
        card = json.loads(read_file(folder / "card.json"))
        sums = dict(card["sha256"])
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{folder}/card.json is broken or names no sums; check out the model folder again") from None
    raw = {}
    for name in sorted({"config.json", "model.safetensors", *sums}):
        raw[name] = read_file(folder / name)
        found = hashlib.sha256(raw[name]).hexdigest()
        if found != sums.get(name):
            raise ModelError(f"{folder / name} was altered: its SHA-256 is {found[:12]}…, the card says {str(sums.get(name))[:12]}…; "
                             "check out the model folder again")
    try:
        return json.loads(raw["config.json"]), load(raw["model.safetensors"])
    except (ValueError, SafetensorError):
        raise ModelError(f"{folder} holds a broken config or weights file; check out the model folder again") from None


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check out the model folder again, or train one with "
                         "`wetread train`") from None


def to_int8(tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Store large matrices as int8 with one scale a row (symmetric), everything else as float16."""
    stored: dict[str, NDArray[Any]] = {}
    for name, values in tensors.items():
        if values.ndim == 2 and values.size >= 6_000:
            # float32: half floats have no small ones, and a row of zeros must not divide by zero
            scale = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127, 1e-20).astype(np.float32)
            stored[name] = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
            stored[name + SCALE] = scale
        else:
            stored[name] = values.astype(np.float16)
    return stored


def rows(values: NDArray[Any]) -> NDArray[Any]:
    """Kernels as they are stored: one row an output."""
    return values.reshape(len(values), -1) if values.ndim > 2 else values


def from_int8(stored: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Undo `to_int8`, up to rounding."""
    return {name: values.astype(np.float32) * stored[name + SCALE].astype(np.float32) if values.dtype == np.int8
            else values.astype(np.float32)
            for name, values in stored.items() if not name.endswith(SCALE)}
