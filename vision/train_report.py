"""Teach the decoder to word findings: random graphs, many wordings, every one already known to read back as its graph."""
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from data.errors import ModelError
from data.model_files import MODELS, save_model
from data.records import Finding
from data.simulator import simulate_head_ct
from nlp.assertions import says
from nlp.decoder import DecoderConfig, ReportDecoder
from nlp.sentences import NOUNS, fill, paraphrase
from nlp.tokenizer import PAD, Tokenizer
from vision.findings import FindingModel

VERSION = "report-decoder-1"
BATCH = 64
CODES = tuple(NOUNS)


def main(data: Path | None = None, out: Path | None = None, graphs: int = 20_000, epochs: int | None = None, seed: int = 0, device: str = "cpu",
         resume: bool = False, report: Callable[..., None] = lambda *a, **k: None, base: Path | None = None, studies: int = 8) -> dict[str, Any]:
    """Train and write a model folder; returns the figures on graphs it has not seen.

    Args:
        data: the finding model whose image tokens are attended to, default the shipped one; without it the decoder sees none.
        graphs: sentences an epoch.
        base, resume: not needed, training takes minutes and starts anew.
    """
    out = Path(out or MODELS / "report")
    torch.manual_seed(seed)
    chance, epochs = Random(seed), epochs or 3
    images = image_tokens(Path(data) if data else None, studies, seed, device)
    words = Tokenizer.of(paraphrase(random_group(chance), chance) for _ in range(20_000)).words
    decoder = ReportDecoder(DecoderConfig(words, CODES)).to(device)
    optimiser = torch.optim.AdamW(decoder.parameters(), 1e-3, weight_decay=0.01)
    steps = max(1, epochs * graphs // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    decoder.train()
    for step in range(1, steps + 1):
        groups = [random_group(chance) for _ in range(BATCH)]
        rows = [decoder.tokenizer.encode(paraphrase(group, chance)) for group in groups]
        longest = max(map(len, rows))
        said = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], device=device)
        image = chance.choice(images) if images and chance.random() < 0.8 else None
        tokens = None if image is None else image.to(device).expand(BATCH, -1, -1)
        logits = decoder(said[:, :-1], decoder.facts(groups).to(device), tokens)
        loss = functional.cross_entropy(logits.flatten(0, 1), said[:, 1:].flatten(), ignore_index=PAD)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        rate.step()
        if step % max(1, graphs // BATCH) == 0 or step == steps:
            report(step, steps, loss=float(loss.detach()))
    decoder.eval().cpu()
    figures = faithful(decoder, images, Random(seed + 1), 1000)
    tensors = {name: value.numpy().astype(np.float16) for name, value in decoder.state_dict().items()}
    card = {"name": VERSION, "what": "words the findings of a head CT; side and number are slots copied from the findings graph, and each "
            "sentence is read back before it is used", "trained_on": {"sentences": steps * BATCH,
            "source": "random findings graphs, nlp/sentences.py",
            "image tokens of simulated studies": len(images)}, "seed": seed, "parameters": sum(p.numel() for p in decoder.parameters()),
            "figures": {"unseen random graphs": figures}, "command": f"wetread train report --seed {seed} --epochs {epochs}",
            "limits": "wording only: the graph decides what is said; image tokens are attended to but were paired with graphs at random, "
            "so that they cannot change what is said"}
    save_model(out, tensors, {"version": VERSION, "decoder": asdict(decoder.config)}, card)
    return figures


def image_tokens(folder: Path | None, studies: int, seed: int, device: str) -> list[torch.Tensor]:
    try:
        finder = FindingModel.load(folder, device)
    except ModelError:
        return []
    found = [finder.find(simulate_head_ct(seed + 7000 + i).study) for i in range(studies)]
    return [torch.from_numpy(np.asarray(one.image_tokens, np.float32))[None] for one in found]


def random_group(chance: Random) -> list[Finding]:
    """What one sentence says: one present finding in any of its forms, or one to four absent ones."""
    if chance.random() < 0.3:
        return [Finding("f", code, code, False, 0.05) for code in chance.sample(CODES, chance.randint(1, 4))]
    code = chance.choice(CODES)
    side = chance.choice((None, "left", "right", "bilateral")) if code != "midline_shift" else chance.choice((None, "left", "right"))
    value = round(chance.uniform(0.5, 90), 1) if chance.random() < 0.7 else None
    lengthy = code == "midline_shift"
    sized = code not in ("mass_effect", "skull_fracture", "intracranial_haemorrhage")
    return [Finding("f", code, NOUNS[code][0], True, 0.9, side=side, size_mm=value if lengthy else None,   # type: ignore[arg-type]
                    volume_ml=value if sized and not lengthy else None, band=chance.choice(("state", "state", "hedge")))]


def faithful(decoder: ReportDecoder, images: list[torch.Tensor], chance: Random, count: int) -> dict[str, Any]:
    """How many written sentences read back as exactly their graph, before any template steps in."""
    groups = [random_group(chance) for _ in range(count)]
    image = chance.choice(images) if images else None
    written = [row for start in range(0, count, BATCH) for row in decoder.write(groups[start:start + BATCH], image)]
    texts = [fill(text, group[0]) for (text, _), group in zip(written, groups, strict=True)]
    right = sum(says(text, group) for text, group in zip(texts, groups, strict=True))
    return {"sentences": count, "read back as their graph": right / count, "distinct": len(set(texts))}
