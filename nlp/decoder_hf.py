"""A department's own Hugging Face causal model behind the decoder's contract: it words a group with slots, and is believed where it reads back."""
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from data.errors import ModelError
from data.records import Finding
from nlp.assertions import SIDE, read_all
from nlp.grammar import polarity_of, slots_of, worded
from nlp.report_words import regions_in
from nlp.sentences import fill, render
from nlp.tokenizer import SLOTS

NEW_PIECES = 60
PREFIX = "hf:"


class HuggingFaceDecoder:
    """`write` as ReportDecoder has it; "" stands for a sentence that broke the contract (a side or number outside its slot, words that add facts)."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.config = SimpleNamespace(codes=worded())

    @classmethod
    def load(cls, folder: Path) -> "HuggingFaceDecoder":
        """From a folder on disk, safetensors only, no code of the model's own; raises ModelError."""
        if not (folder / "config.json").is_file():
            raise ModelError(f"--decoder {PREFIX}{folder} holds no config.json; give the folder of a Hugging Face causal model on disk")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_safetensors=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ModelError(f"--decoder {PREFIX}{folder} cannot be loaded as a causal model with safetensors ({type(error).__name__}); "
                             "save it with save_pretrained(folder)") from None
        return cls(model, tokenizer)

    def to(self, device: str) -> "HuggingFaceDecoder":
        self.model.to(device)
        return self

    @torch.inference_mode()
    def write(self, groups: Sequence[Sequence[Finding]], image_tokens: Tensor | None = None, order_text: str = "", seed: int | None = None,
              register: str = "full") -> list[tuple[str, float]]:
        """(sentence with slots, mean probability of its pieces) for each group; the images are not shown to it."""
        return [self.one(group, order_text, None if seed is None else seed * 1009 + i, register) for i, group in enumerate(groups)]

    def one(self, group: Sequence[Finding], order_text: str, seed: int | None, register: str) -> tuple[str, float]:
        given = self.tokenizer(prompt(group, order_text, register), return_tensors="pt").to(self.model.device)
        given.pop("token_type_ids", None)
        if seed is not None:
            torch.manual_seed(seed)
        found = self.model.generate(**given, max_new_tokens=NEW_PIECES, do_sample=seed is not None, return_dict_in_generate=True, output_logits=True,
                                    pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0)
        new = found.sequences[0, given["input_ids"].shape[1]:]
        chances = [float(torch.softmax(row[0].float(), 0)[piece]) for row, piece in zip(found.logits, new, strict=False)]
        text = self.tokenizer.decode(new, skip_special_tokens=True).strip().split("\n")[0].strip()
        return (text if keeps_contract(text, group) else ""), sum(chances) / max(len(chances), 1)


def prompt(group: Sequence[Finding], order_text: str, register: str) -> str:
    """What the model is given: name, polarity and slots of each finding, never the side or number itself."""
    rows = [f"- {finding.label}: {'; '.join([polarity_of(finding), *slots_of(finding)])}" for finding in group]
    return "\n".join([f"Order: {' '.join(order_text.split())}", f"Style: {register}", "Findings:", *rows, "Sentence:"])


def keeps_contract(text: str, group: Sequence[Finding]) -> bool:
    """Every slot of the graph once and no other, no side or digit beside them, and no region, grade, age or change that the graph has not."""
    if not text or any(text.count(slot) != (slot in slots_of(group[0])) for slot in SLOTS):
        return False
    bare = re.sub("|".join(SLOTS), "", text)
    if re.search(r"\d", bare) or SIDE.search(bare):
        return False
    read = read_all(fill(text, group[0]))
    plain = " ".join(render(finding) for finding in group)
    mine = read_all(plain).assertions
    regions = set(regions_in(plain, (0, len(plain))))
    severities, ages = ({getattr(a, name) for a in mine} | {""} for name in ("severity", "acuity"))
    return not read.loose and all(not a.comparison and set(filter(None, a.region.split(", "))) <= regions and a.severity in severities
                                  and a.acuity in ages for a in read.assertions)
