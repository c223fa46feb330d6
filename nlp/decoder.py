"""The transformer decoder that words findings: findings, image and order as memory, one sentence a group, its words held by nlp.grammar.

A sentence is START, a register, then for each finding of its group an id piece and a polarity piece copied from the graph, then words. The
ids name rows of the memory, so that all sentences of a study share one memory and its keys and values are computed once.
"""
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.records import Finding
from nlp.encoder import quantised
from nlp.grammar import Automaton, Shape, grammar, polarity_of, shape_of, slots_of
from nlp.tokenizer import END, IDS, IDS_MAX, PAD, POLARITIES, SLOTS, START, Tokenizer

PIECES_MAX = 128        # of a sentence, its opening included
ORDER_MAX = 48          # pieces of the order's text that are read
ROWS = 16               # sentences written at once


@dataclass(frozen=True)
class DecoderConfig:
    words: tuple[str, ...]
    codes: tuple[str, ...]
    width: int = 96
    heads: int = 4
    layers: int = 2
    inner: int = 384
    image_channels: int = 128


@dataclass(frozen=True)
class Ask:
    """One study to be worded: groups, each a sentence; seed None takes the likeliest words, else words are drawn."""

    groups: Sequence[Sequence[Finding]]
    image_tokens: Tensor | None = None      # (1, N, image_channels)
    order_text: str = ""
    register: str = "full"
    seed: int | None = None


@dataclass
class Memory:
    """What all sentences of one study attend to: keys and values of each layer (heads, M, width / heads)."""

    keys: list[Tensor]
    values: list[Tensor]
    ids: dict[str, int]                     # finding id -> number of its id piece


@dataclass
class Row:
    """One sentence being written."""

    ask: int
    group: int
    memory: Memory
    automaton: Automaton
    pieces: list[int]
    position: Any
    chance: torch.Generator | None
    sure: list[float] = field(default_factory=list)
    opening: int = 0
    at: int = 0                             # pieces already read


class ReportDecoder(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config, self.tokenizer = config, Tokenizer(config.words)
        width = config.width
        self.word = nn.Embedding(len(config.words), width, padding_idx=PAD)
        self.place = nn.Embedding(PIECES_MAX, width)
        # a finding in memory is the sum of its facts; the id is the same piece that opens its sentence
        self.code = nn.Embedding(len(config.codes) + 1, width, padding_idx=0)
        self.polarity = nn.Embedding(len(POLARITIES), width)
        self.slots = nn.Embedding(2 ** (len(SLOTS) + 1), width)
        self.image = nn.Linear(config.image_channels, width)
        self.order = nn.Embedding(ORDER_MAX, width)
        self.layers = nn.ModuleList(Layer(width, config.heads, config.inner) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.answer = nn.Linear(width, len(config.words))

    # ------------------------------------------------ what is attended to

    def facts(self, findings: Sequence[Finding]) -> Tensor:     # (F, 4): id piece, code, polarity, which slots there are
        rows = torch.zeros(min(len(findings), IDS_MAX), 4, dtype=torch.long)
        for i, finding in enumerate(findings[:IDS_MAX]):
            known = self.config.codes.index(finding.code) + 1 if finding.code in self.config.codes else 0
            has = slots_of(finding)
            bits = sum(2**j for j, slot in enumerate(SLOTS) if slot in has) + 2 ** len(SLOTS) * (finding.side == "bilateral")
            rows[i] = torch.tensor([self.tokenizer.numbers[IDS[i]], known, POLARITIES.index(polarity_of(finding)), bits])
        return rows

    def remember(self, facts: Tensor, image_tokens: Tensor | None, order: Tensor | None) -> Tensor:
        """(B, F, 4), (B, N, image_channels), (B, O) -> (B, F + N + O, width); facts and order padded with zeros."""
        ids, code, polarity, slots = facts.unbind(-1)
        parts = [self.word(ids) + self.code(code) + self.polarity(polarity) + self.slots(slots)]
        if image_tokens is not None:
            parts.append(self.image(image_tokens.to(self.image.weight.dtype if isinstance(self.image, nn.Linear) else torch.float32)))
        if order is not None and order.shape[1]:
            parts.append(self.word(order) + self.order(torch.arange(order.shape[1], device=order.device)))
        return torch.cat(parts, 1)

    def forward(self, pieces: Tensor, memory: Tensor, hidden: Tensor | None = None) -> Tensor:
        """All pieces at once, for teaching: (B, T), (B, M, width), (B, M) true where padded -> (B, T, vocabulary) logits."""
        states = self.word(pieces) + self.place(torch.arange(pieces.shape[1], device=pieces.device))
        seen = None if hidden is None else ~hidden[:, None, None]
        for layer in self.layers:
            keys, values = layer.told(memory)
            states = layer(states, keys, values, seen)
        return self.answer(self.norm(states))

    # ------------------------------------------------ writing

    def write(self, groups: Sequence[Sequence[Finding]], image_tokens: Tensor | None = None, order_text: str = "", seed: int | None = None,
              register: str = "full") -> list[tuple[str, float]]:
        """Sentences of one study, slots open: (sentence, mean probability of its words) for each group; "" where none fits into PIECES_MAX."""
        return self.write_all([Ask(groups, image_tokens, order_text, register, seed)])[0]

    @torch.inference_mode()
    def write_all(self, asks: Sequence[Ask], rows: int = ROWS) -> list[list[tuple[str, float]]]:
        """Sentences of many studies, up to `rows` at once: a finished one leaves, a waiting one takes its place."""
        found: list[list[tuple[str, float]]] = [[("", 0.0)] * len(ask.groups) for ask in asks]
        waiting = deque((i, j) for i, ask in enumerate(asks) for j in range(len(ask.groups)))
        batch = Batch(self, min(rows, len(waiting)))
        memories: dict[int, Memory] = {}
        while waiting or batch.rows:
            while waiting and len(batch.rows) < batch.size:
                i, j = waiting.popleft()
                if i not in memories:
                    memories[i] = self.memory(asks[i])
                batch.enter(self.begin(asks[i], i, j, memories[i]))
            for row in batch.step():
                if row.pieces[-1] == END:
                    text = self.tokenizer.decode(row.pieces[row.opening:])
                    found[row.ask][row.group] = text, sum(row.sure) / max(len(row.sure), 1)
        return found

    @torch.inference_mode()
    def memory(self, ask: Ask) -> Memory:
        """Keys and values of one study, for every layer, once."""
        device = self.place.weight.device
        findings = list({f.id: f for group in ask.groups for f in group}.values())
        order = torch.tensor([self.tokenizer.encode(ask.order_text, special=False)[:ORDER_MAX]], dtype=torch.long, device=device)
        # head MR is read by other encoders than head CT: their tokens have another width and were never taught
        known = ask.image_tokens is not None and ask.image_tokens.shape[-1] == self.config.image_channels
        image = ask.image_tokens.to(device) if known and ask.image_tokens is not None else None
        remembered = self.remember(self.facts(findings)[None].to(device), image, order)
        pairs = [layer.told(remembered) for layer in self.layers]
        ids = {f.id: self.tokenizer.numbers[IDS[i]] for i, f in enumerate(findings[:IDS_MAX])}
        return Memory([keys[0] for keys, _ in pairs], [values[0] for _, values in pairs], ids)

    def begin(self, ask: Ask, i: int, j: int, memory: Memory) -> Row:
        group = ask.groups[j]
        rules = automaton(self.config.words, shape_of(group), ask.register)
        opening = self.opening(group, ask.register, memory.ids)
        chance = None if ask.seed is None else torch.Generator().manual_seed(ask.seed * 1009 + j)
        return Row(i, j, memory, rules, opening, rules.start, chance, opening=len(opening))

    def opening(self, group: Sequence[Finding], register: str, ids: dict[str, int]) -> list[int]:
        numbers = self.tokenizer.numbers
        heads = [piece for f in group for piece in (ids.get(f.id, numbers[IDS[-1]]), numbers[f"<{polarity_of(f)}>"])]
        return [START, numbers[f"<{register}>"], *heads]

    def choose(self, row: Row, logits: Tensor) -> int:
        """The next piece of a sentence, among those that its automaton allows; END when that is the choice, PAD when it grew too long."""
        allowed, may_end = row.automaton.allowed(row.position)
        options = [*allowed, END] if may_end else allowed
        if len(row.pieces) >= PIECES_MAX - 1 and not may_end:
            return PAD
        if len(options) == 1:
            return options[0]
        scores = logits[options].float()
        chances = torch.softmax(scores, 0)
        if row.chance is not None:      # a draw from the softmax (Gumbel), from the sentence's own dice: its neighbours do not change it
            scores = scores - torch.log(-torch.log(torch.rand(len(self.config.words), generator=row.chance)[options].clamp(1e-9, 1 - 1e-7)))
        best = int(scores.argmax())
        row.sure.append(float(chances[best]))
        return options[best]

    def int8(self) -> "ReportDecoder":
        """The linear layers in int8 (CPU)."""
        return quantised(self).eval()       # type: ignore[return-value]  # the same module, its layers exchanged


class Batch:
    """Rows that are written together, and their cache: the keys and values of the pieces read, (size, heads, PIECES_MAX, width / heads) a layer."""

    def __init__(self, decoder: ReportDecoder, size: int) -> None:
        config, self.decoder, self.size = decoder.config, decoder, size
        shape = (max(size, 1), config.heads, PIECES_MAX, config.width // config.heads)
        self.device, kind = decoder.place.weight.device, decoder.place.weight.dtype
        self.keys = [torch.zeros(shape, device=self.device, dtype=kind) for _ in range(config.layers)]
        self.values = [torch.zeros_like(one) for one in self.keys]
        self.rows: list[Row] = []
        self.told: list[tuple[Tensor, Tensor]] = []
        self.seen: Tensor | None = None

    def enter(self, row: Row) -> None:
        self.rows.append(row)
        self.told = []

    def leave(self, i: int) -> None:
        """The last row takes the place of the one that leaves."""
        last = len(self.rows) - 1
        if i != last:
            at = self.rows[last].at
            for cache in (*self.keys, *self.values):
                cache[i, :, :at] = cache[last, :, :at]
        self.rows[i] = self.rows[last]
        self.rows.pop()
        self.told = []

    def tell(self) -> None:
        """Keys and values of the rows' studies side by side: one study is shared as it is, several are padded to the longest."""
        self.tell_of([row.memory for row in self.rows])

    def tell_of(self, studies: list[Memory]) -> None:
        layers = range(len(self.keys))
        if all(one is studies[0] for one in studies):
            count = len(studies)
            self.told = [(studies[0].keys[n][None].expand(count, -1, -1, -1), studies[0].values[n][None].expand(count, -1, -1, -1)) for n in layers]
            self.seen = None
            return
        longest = max(one.keys[0].shape[1] for one in studies)

        def stack(parts: list[Tensor]) -> Tensor:
            return torch.stack([functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])

        self.told = [(stack([one.keys[n] for one in studies]), stack([one.values[n] for one in studies])) for n in layers]
        lengths = torch.tensor([one.keys[0].shape[1] for one in studies], device=self.device)
        self.seen = (torch.arange(longest, device=self.device) < lengths[:, None])[:, None, None]

    def step(self) -> list[Row]:
        """Read one more piece in every row and add the next where it is not given; the rows that are done, taken out."""
        logits = self.advance([row.pieces[row.at] for row in self.rows], [row.at for row in self.rows],
                              any(row.at + 1 == len(row.pieces) for row in self.rows))
        done = []
        for i in reversed(range(len(self.rows))):
            row = self.rows[i]
            row.at += 1
            if row.at == len(row.pieces):
                assert logits is not None
                piece = self.decoder.choose(row, logits[i])
                row.pieces.append(piece)
                if piece in (END, PAD):
                    self.leave(i)
                    done.append(row)
                else:
                    row.position = row.automaton.go(row.position, piece)
        return done

    def advance(self, pieces: list[int], places: list[int], answer: bool = True) -> Tensor | None:
        """One piece a row through all layers -> (rows, vocabulary) logits on the CPU, None when nobody asks for them."""
        decoder, count, length = self.decoder, len(pieces), max(places) + 1
        if not self.told:
            self.tell()
        at = torch.tensor(places, device=self.device)
        rows = torch.arange(count, device=self.device)
        states = (decoder.word(torch.tensor(pieces, device=self.device)) + decoder.place(at))[:, None]
        even = min(places) + 1 == length
        seen = None if even else (torch.arange(length, device=self.device) <= at[:, None])[:, None, None]
        for n, layer in enumerate(decoder.layers):
            query, key, value = layer.asked(states)
            if even:
                self.keys[n][:count, :, length - 1], self.values[n][:count, :, length - 1] = key[:, :, 0], value[:, :, 0]
            else:
                self.keys[n][rows, :, at], self.values[n][rows, :, at] = key[:, :, 0], value[:, :, 0]
            states = states + layer.heard(attend(query, self.keys[n][:count, :, :length], self.values[n][:count, :, :length], seen))
            states = layer.rest(states, *self.told[n], self.seen)
        return decoder.answer(decoder.norm(states[:, 0])).float().cpu() if answer else None


class Layer(nn.Module):
    """Pre-norm: attention to the pieces before, to the memory, then two linear layers."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_self, self.norm_memory, self.norm_inner = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_in, self.self_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.memory_query, self.memory_in, self.memory_out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.inner_in, self.inner_out = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(0.1)

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:       # (B, T, parts * width) -> parts x (B, heads, T, width / heads)
        batch, length, _ = x.shape
        return x.view(batch, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def told(self, memory: Tensor) -> tuple[Tensor, ...]:
        return self.split(self.memory_in(memory), 2)

    def asked(self, states: Tensor) -> tuple[Tensor, ...]:
        return self.split(self.self_in(self.norm_self(states)), 3)

    def heard(self, mixed: Tensor) -> Tensor:                           # (B, heads, T, width / heads) -> (B, T, width)
        return self.dropout(self.self_out(mixed.transpose(1, 2).flatten(2)))

    def rest(self, states: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        [query] = self.split(self.memory_query(self.norm_memory(states)), 1)
        states = states + self.dropout(self.memory_out(attend(query, keys, values, seen).transpose(1, 2).flatten(2)))
        return states + self.dropout(self.inner_out(functional.gelu(self.inner_in(self.norm_inner(states)))))

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        query, key, value = self.asked(states)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.rest(states + self.heard(mixed), keys, values, seen)


def attend(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    return functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen)


@lru_cache(maxsize=2048)
def automaton(words: tuple[str, ...], shape: Shape, register: str) -> Automaton:
    return Automaton(grammar(shape, register), tokenizer_of(words))


@lru_cache(maxsize=4)
def tokenizer_of(words: tuple[str, ...]) -> Tokenizer:
    return Tokenizer(words)

