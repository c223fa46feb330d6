"""What the decoder costs at the published shape of R2Gen, in CPU seconds and memory, beside Hugging Face and R2Gen's own way of writing.

The Hugging Face side is a VisionEncoderDecoderModel of random weights: a GPT-2 with cross-attention of the same shape as the decoder's, behind a
ViT of one layer. As on the other sides, no picture is encoded: `generate` is given the image tokens as the encoder's answer.
"""
import copy
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nlp.decoder import Batch, DecoderConfig, Memory, ReportDecoder
from nlp.tokenizer import BYTES, SPECIAL

# R2Gen (Chen 2020) as published for IU X-ray: 3 layers, 512 wide, 8 heads, 512 inner, 3 memory slots, beam 3, 60 words of 760, 2 x 49 image tokens
WIDTH, HEADS, LAYERS, INNER, WORDS, IMAGE, BEAM, SLOTS = 512, 8, 3, 512, 760, 98, 3, 3
BARS = {"fp32 CPU s": 0.4, "int8 CPU s": 0.25, "share of Hugging Face": 1 / 2, "share of R2Gen's loop": 1 / 20, "int8 batch 8 tokens a CPU s": 800}


@torch.inference_mode()
def bench_decoder(tokens: int = 60, repeats: int = 5, seed: int = 0) -> dict[str, Any]:
    """One study, one thread, random weights, `tokens` words with no word forbidden; medians of process CPU seconds (R2Gen's loop: one run)."""
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = own()
        small = copy.deepcopy(plain).int8()
        image = torch.randn(1, IMAGE, WIDTH)
        theirs, r2gen = hugging_face(tokens), R2Gen().eval()
        figures: dict[str, Any] = {
            "tokens": tokens,
            "fp32 CPU s": timed(lambda: free(plain, image, 1, tokens), repeats),
            "int8 CPU s": timed(lambda: free(small, image, 1, tokens), repeats),
            "Hugging Face CPU s": timed(lambda: theirs(image), repeats),
            "R2Gen's loop CPU s": timed(lambda: r2gen.beam(image, tokens), 1, warm=False),
            "fp32 batch 8 tokens a CPU s": round(8 * tokens / timed(lambda: free(plain, image, 8, tokens), repeats)),
            "int8 batch 8 tokens a CPU s": round(8 * tokens / timed(lambda: free(small, image, 8, tokens), repeats)),
        }
    finally:
        torch.set_num_threads(threads)
    figures["share of Hugging Face"] = round(figures["fp32 CPU s"] / figures["Hugging Face CPU s"], 3)
    figures["share of R2Gen's loop"] = round(figures["fp32 CPU s"] / figures["R2Gen's loop CPU s"], 4)
    figures["bars"] = BARS
    figures["kept"] = {name: figures[name] >= bar if "tokens a" in name else figures[name] <= bar for name, bar in BARS.items()}
    return figures


# ---------------------------------------------------------------- memory: each side alone in a process

SIDES: dict[str, Callable[[int], Callable[[Tensor], object]]] = {
    "fp32": lambda tokens: writer(own(), tokens),
    "int8": lambda tokens: writer(own().int8(), tokens),
    "Hugging Face": lambda tokens: hugging_face(tokens),
    "R2Gen's loop": lambda tokens: loop(R2Gen().eval(), tokens),
}


def peak_memory(tokens: int = 60, sides: Sequence[str] = tuple(SIDES)) -> dict[str, dict[str, float]]:
    """MB resident at most while a process that holds one side alone writes with it, and what of that is not Python and the libraries."""
    root = Path(__file__).parent.parent
    figures = {}
    for name in sides:
        code = "import sys; from vision.bench_decoder import run_alone; run_alone(sys.argv[1], int(sys.argv[2]))"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, name, str(tokens)], capture_output=True, text=True, check=True, cwd=root,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        figures[name] = json.loads(done.stdout.splitlines()[-1])
    return figures


@torch.inference_mode()
def run_alone(name: str, tokens: int) -> None:
    """Print, as JSON, the largest resident memory of this process while it writes, in MB, and how much of it the model and its writing take."""
    torch.set_num_threads(1)
    if name == "Hugging Face":
        import transformers.models.gpt2.modeling_gpt2
        import transformers.models.vision_encoder_decoder.modeling_vision_encoder_decoder
        import transformers.models.vit.modeling_vit  # noqa: F401  # imported before memory is read: libraries are not the side's
    gc.collect()
    before = resident_mb("VmRSS")
    write = SIDES[name](tokens)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")       # the peak so far is forgotten: int8 is made from fp32
    write(torch.randn(1, IMAGE, WIDTH))
    print(json.dumps({"peak MB": round(resident_mb("VmHWM")), "above the libraries, MB": round(resident_mb("VmHWM") - before, 1)}))


def resident_mb(key: str) -> float:
    """From /proc: getrusage counts, of a child, what its parent held at the start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key))) / 1024


def own() -> ReportDecoder:
    words = (*SPECIAL, *BYTES, *(f"w{i}" for i in range(WORDS - len(SPECIAL) - len(BYTES))))
    return ReportDecoder(DecoderConfig(words, ("f",), WIDTH, HEADS, LAYERS, INNER, WIDTH)).eval()


def writer(decoder: ReportDecoder, tokens: int) -> Callable[[Tensor], object]:
    return lambda image: free(decoder, image, 1, tokens)


def loop(model: "R2Gen", tokens: int) -> Callable[[Tensor], object]:
    return lambda image: model.beam(image, tokens)


# ---------------------------------------------------------------- speed

def timed(work: Callable[[], object], repeats: int, warm: bool = True) -> float:
    if warm:
        work()
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return round(median(seconds), 4)


def free(decoder: ReportDecoder, image: Tensor, rows: int, tokens: int) -> Tensor:
    """The likeliest piece each time, whatever it is; the image's keys and values once for all rows."""
    pairs = [layer.told(decoder.image(image)) for layer in decoder.layers]      # type: ignore[operator]  # a ModuleList holds Modules
    memory = Memory([keys[0] for keys, _ in pairs], [values[0] for _, values in pairs], {})
    batch = Batch(decoder, rows)
    batch.tell_of([memory] * rows)
    pieces, written = [1] * rows, []
    for at in range(tokens):
        logits = batch.advance(pieces, [at] * rows)
        assert logits is not None
        pieces = logits.argmax(-1).tolist()
        written.append(pieces)
    return torch.tensor(written)


def hugging_face(tokens: int) -> Callable[[Tensor], object]:
    """`generate` with its cache of a VisionEncoderDecoderModel whose decoder has the same shape; the image tokens stand for its encoder's answer."""
    from transformers import GPT2Config, GPT2LMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel
    from transformers.modeling_outputs import BaseModelOutput

    config = GPT2Config(vocab_size=WORDS, n_positions=128, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=INNER, add_cross_attention=True,
                        bos_token_id=1, eos_token_id=None, pad_token_id=0)
    # two pictures of 7 x 7 patches beside each other: as many image tokens as R2Gen has, and its first one
    encoder = ViTModel(ViTConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=INNER, image_size=(112, 224),
                                 patch_size=16, num_channels=1), add_pooling_layer=False)
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=GPT2LMHeadModel(config)).eval()
    for name, value in {"decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}.items():
        setattr(model.generation_config, name, value)
    return lambda image: model.generate(encoder_outputs=BaseModelOutput(last_hidden_state=image), max_new_tokens=tokens, min_new_tokens=tokens,
                                        do_sample=False, use_cache=True)


# ---------------------------------------------------------------- R2Gen's way: relational memory, memory-driven norms, no cache, beam 3

class R2Gen(nn.Module):
    """The decoder of Chen et al. 2020, written anew from the paper; every step runs all words so far through all layers, for every beam."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.answer = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.encode = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, batch_first=True, norm_first=True), LAYERS,
                                            enable_nested_tensor=False)
        self.memory = RelationalMemory()
        self.layers = nn.ModuleList(MemoryLayer() for _ in range(LAYERS))

    def forward(self, words: Tensor, image: Tensor) -> Tensor:
        states, length = self.word(words), words.shape[1]
        told = self.memory(states)
        later = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
        for layer in self.layers:
            states = layer(states, image, told, later)
        return self.answer(states[:, -1])

    def beam(self, image: Tensor, tokens: int) -> Tensor:
        seen = self.encode(image).expand(BEAM, -1, -1)
        words, sums = torch.ones(BEAM, 1, dtype=torch.long), torch.zeros(BEAM)
        for _ in range(tokens):
            scores = sums[:, None] + functional.log_softmax(self(words, seen), -1)
            sums, best = scores.flatten().topk(BEAM)
            words = torch.cat([words[best // WORDS], (best % WORDS)[:, None]], 1)
        return words[0]


class RelationalMemory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.from_word, self.from_memory = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, states: Tensor) -> Tensor:        # (B, T, width) -> (B, T, slots * width)
        memory = torch.eye(SLOTS, WIDTH).expand(len(states), -1, -1)
        rows = []
        for word in states.unbind(1):
            both = torch.cat([memory, word[:, None]], 1)
            new = memory + self.attend(memory, both, both, need_weights=False)[0]
            new = new + self.inner(new)
            take, keep = (self.from_word(word)[:, None] + self.from_memory(torch.tanh(memory))).chunk(2, -1)
            memory = torch.sigmoid(take) * torch.tanh(new) + torch.sigmoid(keep) * memory
            rows.append(memory.flatten(1))
        return torch.stack(rows, 1)


class MemoryLayer(nn.Module):
    """Self-attention, attention to the image, two linear layers; each norm is shifted by the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.image = (nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(2))
        self.inner = nn.Sequential(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        def told() -> nn.Module:
            return nn.Sequential(nn.Linear(SLOTS * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

        self.scales, self.shifts = (nn.ModuleList(told() for _ in range(3)) for _ in range(2))

    def forward(self, states: Tensor, image: Tensor, told: Tensor, later: Tensor) -> Tensor:
        def norm(i: int, x: Tensor) -> Tensor:
            return self.norms[i](x) * (1 + self.scales[i](told)) + self.shifts[i](told)

        x = norm(0, states)
        states = states + self.own(x, x, x, attn_mask=later, need_weights=False)[0]
        states = states + self.image(norm(1, states), image, image, need_weights=False)[0]
        return states + self.inner(norm(2, states))
