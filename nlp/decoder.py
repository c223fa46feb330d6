"""The transformer decoder that words a finding: it attends to finding tokens and image tokens, and leaves side and number as slots."""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.records import Finding
from nlp.sentences import has_side, measured
from nlp.tokenizer import END, PAD, START, Tokenizer

POLARITIES = ("present", "possible", "absent")
WORDS_MAX = 40
FINDINGS_MAX = 9


@dataclass(frozen=True)
class DecoderConfig:
    words: tuple[str, ...]
    codes: tuple[str, ...]
    width: int = 96
    heads: int = 4
    layers: int = 2
    image_channels: int = 128


class ReportDecoder(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config, self.tokenizer = config, Tokenizer(config.words)
        width = config.width
        self.word = nn.Embedding(len(config.words), width, padding_idx=PAD)
        self.place = nn.Embedding(WORDS_MAX, width)
        # a finding token is the sum of its facts: code, polarity, whether it has a side, whether it has a number
        self.code = nn.Embedding(len(config.codes) + 1, width, padding_idx=0)
        self.polarity = nn.Embedding(len(POLARITIES), width)
        self.sided, self.sized = nn.Embedding(2, width), nn.Embedding(2, width)
        self.image = nn.Linear(config.image_channels, width)
        layer = nn.TransformerDecoderLayer(width, config.heads, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, config.layers, nn.LayerNorm(width))
        self.answer = nn.Linear(width, len(config.words))

    def facts(self, groups: Sequence[Sequence[Finding]]) -> Tensor:     # (B, FINDINGS_MAX, 4)
        """Findings of each sentence as numbers; side and number themselves are not told, only that they are there."""
        rows = torch.zeros(len(groups), FINDINGS_MAX, 4, dtype=torch.long)
        for i, group in enumerate(groups):
            for j, finding in enumerate(group[:FINDINGS_MAX]):
                polarity = POLARITIES.index("absent" if not finding.present else "possible" if finding.band == "hedge" else "present")
                rows[i, j] = torch.tensor([self.config.codes.index(finding.code) + 1, polarity, finding.present and has_side(finding),
                                           finding.present and measured(finding) is not None])
        return rows

    def forward(self, words: Tensor, facts: Tensor, image_tokens: Tensor | None = None) -> Tensor:
        """(B, T) words, (B, F, 4) facts, (B, N, image_channels) -> (B, T, vocabulary) logits."""
        code, polarity, sided, sized = facts.unbind(-1)
        memory = self.code(code) + self.polarity(polarity) + self.sided(sided) + self.sized(sized)
        hidden = code == 0
        if image_tokens is not None:
            memory = torch.cat([memory, self.image(image_tokens)], 1)
            hidden = torch.cat([hidden, hidden.new_zeros(image_tokens.shape[:2])], 1)
        length = words.shape[1]
        later = torch.triu(torch.ones(length, length, dtype=torch.bool, device=words.device), 1)
        states = self.word(words) + self.place(torch.arange(length, device=words.device))
        return self.answer(self.layers(states, memory, tgt_mask=later, memory_key_padding_mask=hidden))

    @torch.inference_mode()
    def write(self, groups: Sequence[Sequence[Finding]], image_tokens: Tensor | None = None) -> list[tuple[str, float]]:
        """The likeliest next word each time, to END: (sentence with slots, mean probability of its words) for each group."""
        if not groups:
            return []
        device = self.answer.weight.device
        facts = self.facts(groups).to(device)
        image = None if image_tokens is None else image_tokens.to(device).expand(len(groups), -1, -1)
        words = torch.full((len(groups), 1), START, device=device)
        chances = []
        for _ in range(WORDS_MAX - 1):
            best = torch.softmax(self(words, facts, image)[:, -1], -1).max(-1)
            ended = (words == END).any(1)
            chances.append(torch.where(ended, torch.nan, best.values))
            words = torch.cat([words, torch.where(ended, PAD, best.indices)[:, None]], 1)
            if (words == END).any(1).all():
                break
        sure = torch.stack(chances, 1).nanmean(1)
        return [(self.tokenizer.decode(row.tolist()), float(p)) for row, p in zip(words, sure, strict=True)]
