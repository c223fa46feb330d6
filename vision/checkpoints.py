"""Checkpoints of a training: whole or not at all, and a full disk is a coded error; what it ran on."""
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from data.errors import ModelError, OutputError


def device_words(device: str) -> str:
    """For a model's card."""
    return f"{torch.cuda.get_device_name(device)}, bfloat16" if device.startswith("cuda") else "CPU"


def write_whole(path: Path, raw: bytes) -> None:
    """Under another name first, on the disk before it takes its own; what stood there stays until then."""
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written ({error.strerror}); make room or give another --out, then go on with --resume") from None


def keep(path: Path, modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer], best: dict[str, Tensor],
         facts: dict[str, Any]) -> None:
    tensors = {f"{part}/{name}": value for part, module in modules.items() for name, value in module.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for part, optimiser in optimisers.items():
        for i, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser {part}/{i}/{name}": torch.as_tensor(value) for name, value in state.items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_whole(path, save(plain, {"facts": json.dumps(facts)}))


def restore(path: Path, modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Modules and optimisers as they were; (best weights so far, facts). Raises ModelError for a checkpoint of another net."""
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
        for part, module in modules.items():
            module.load_state_dict(under(tensors, f"{part}/"))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path} is no checkpoint of this training ({type(error).__name__}); train it anew without --resume") from None
    for part, optimiser in optimisers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in under(tensors, f"optimiser {part}/").items():
            i, key = name.split("/")
            state.setdefault(int(i), {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return under(tensors, "best/"), facts


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)}
