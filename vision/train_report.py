"""Teach the decoder to word findings: random studies, many wordings, every one already known to read back as its graph."""
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.errors import ModelError
from data.findings import FINDINGS, FindingRow
from data.model_files import MODELS, from_int8, save_model, to_int8
from data.records import Finding
from data.simulator import simulate_head_ct
from nlp.assertions import says
from nlp.decoder import ORDER_MAX, Ask, DecoderConfig, ReportDecoder
from nlp.grammar import american, nouns_of, worded, wording
from nlp.sentences import fill, group_findings, paraphrase
from nlp.tokenizer import END, IDS_MAX, PAD, REGISTERS, Tokenizer
from vision.findings import FindingModel

VERSION = "report-decoder-2"
Lesson = tuple[list[Finding], str, str]     # findings of one sentence, register, words with open slots
DRAWS = 4000            # to find a signed sentence in the grammar
STUDIES, SENTENCES = 8, 4      # of one batch; sentences of one study share its memory
CODES = worded()
REGIONS = ("frontal lobe", "parietal lobe", "temporal lobe", "occipital lobe", "basal ganglia", "thalamus", "cerebellum", "pons", "corpus callosum",
           "posterior fossa", "MCA territory", "convexity")
ORDERS = ("? {noun}", "fall, ? {noun}", "rule out {noun}", "known {noun}, follow-up", "headache and vomiting; {noun}?",
          "{age} year old, {noun} on outside CT",
          "acute confusion on apixaban, {noun}?", "GCS 14 after a fall", "seizure, first", "thunderclap headache", "")


def main(data: Path | None = None, out: Path | None = None, graphs: int = 20_000, epochs: int | None = None, seed: int = 0, device: str = "cpu",
         resume: bool = False, report: Callable[..., None] = lambda *a, **k: None, base: Path | None = None, studies: int = 2,
         pairs: Sequence[tuple[list[Finding], str]] = ()) -> dict[str, Any]:
    """Train and write a model folder; returns the figures on graphs it has not seen.

    Args:
        data: the finding model whose image tokens are attended to, default the shipped one; without it the decoder sees none.
        graphs: sentences an epoch.
        base, resume: not needed, training takes minutes and starts anew.
        pairs: signed sentences with their findings; those that the grammar can say are half of what is taught, so that drafts take on the
            department's way of saying things. What the grammar cannot say is counted: it needs a line in data/report_wording.toml.
    """
    out = Path(out or MODELS / "report")
    torch.manual_seed(seed)
    chance, epochs = Random(seed), epochs or 5
    signed = [found for group, text in pairs if (found := as_lesson(group, text, chance)) is not None]
    images = image_tokens(Path(data) if data else None, studies, seed, device)
    words = Tokenizer.of(vocabulary_texts(chance)).words
    decoder = ReportDecoder(DecoderConfig(words, CODES)).to(device)
    optimiser = torch.optim.AdamW(decoder.parameters(), 1e-3, weight_decay=0.01)
    batch = STUDIES * SENTENCES
    steps = max(1, epochs * graphs // batch)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    decoder.train()
    for step in range(1, steps + 1):
        pieces, facts, orders, owner, said_from = lesson(decoder, chance, signed)
        image = chance.choice(images) if images and chance.random() < 0.8 else None
        shown = None if image is None else image.to(device).expand(STUDIES, -1, -1)
        memory = decoder.remember(facts.to(device), shown, orders.to(device))
        pictures = torch.zeros(STUDIES, 0 if image is None else image.shape[1], dtype=torch.bool)
        hidden = torch.cat([facts[..., 0] == PAD, pictures, orders == PAD], 1)
        logits = decoder(pieces[:, :-1].to(device), memory[owner], hidden[owner].to(device))
        wanted = torch.where(torch.arange(1, pieces.shape[1]) >= said_from[:, None], pieces[:, 1:], PAD)      # the opening is given, never chosen
        loss = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten().to(device), ignore_index=PAD)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        rate.step()
        if step % max(1, graphs // batch) == 0 or step == steps:
            report(step, steps, loss=float(loss.detach()))
    decoder.eval().cpu()
    tensors = to_int8({name: value.numpy() for name, value in decoder.state_dict().items()})
    decoder.load_state_dict({name: torch.from_numpy(value) for name, value in from_int8(tensors).items()})     # measured as it is stored
    figures = faithful(decoder, images, Random(seed + 1), 120)
    if pairs:
        figures["signed sentences"] = {"taught": len(signed), "not in the grammar": len(pairs) - len(signed)}
    card = {"name": VERSION, "what": "words the findings of a study; its words are held by the automaton of nlp/grammar.py; side, number, unit, "
            "count, region and polarity are copied from the findings graph, and each sentence is read back before it is used",
            "trained_on": {"sentences": steps * batch, "source": "random findings graphs, data/report_wording.toml",
                           "image tokens of simulated studies": len(images)},
            "seed": seed, "parameters": sum(p.numel() for p in decoder.parameters()), "pieces": len(words), "codes": len(CODES),
            "figures": {"unseen random graphs": figures}, "command": f"wetread train report --seed {seed} --epochs {epochs} --size {graphs}",
            "limits": "wording only: the graph decides what is said; image tokens are attended to but were paired with graphs at random, "
            "so that they cannot change what is said; of an order it learns the spelling"}
    save_model(out, tensors, {"version": VERSION, "decoder": asdict(decoder.config)}, card)
    return figures


def image_tokens(folder: Path | None, studies: int, seed: int, device: str) -> list[torch.Tensor]:
    if not studies:
        return []
    try:
        finder = FindingModel.load(folder, device)
    except ModelError:
        return []
    found = [finder.find(simulate_head_ct(seed + 7000 + i).study) for i in range(studies)]
    return [torch.from_numpy(np.asarray(one.image_tokens, np.float32))[None] for one in found]


def as_lesson(group: Sequence[Finding], text: str, chance: Random) -> Lesson | None:
    """Register and words with open slots that come out as this text; None when none of DRAWS draws does: the grammar hardly says it so."""
    own = [replace(f, id=f"f{i}") for i, f in enumerate(group)]
    if any(f.code not in CODES for f in own):
        return None
    for k in range(DRAWS):
        register, spelling = REGISTERS[k % len(REGISTERS)], (str, american)[k // len(REGISTERS) % 2]
        words = paraphrase(own, chance, register, spelling)
        if fill(words, own[0]) == text:
            return own, register, words
    return None


def lesson(decoder: ReportDecoder, chance: Random, signed: Sequence[Lesson] = ()) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(B, T) pieces, (S, F, 4) facts, (S, O) order, (B,) which study, (B,) where its own words begin."""
    rows, told, asked, owner, said_from = [], [], [], [], []
    for s in range(STUDIES):
        if signed and s % 2:
            findings, register, words = chance.choice(signed)
            told.append(decoder.facts(findings))
            asked.append(torch.zeros(0, dtype=torch.long))
            opening = decoder.opening(findings, register, {f.id: int(row[0]) for f, row in zip(findings, told[-1], strict=True)})
            rows.append(torch.tensor([*opening, *decoder.tokenizer.encode(words), END]))
            owner.append(s)
            said_from.append(len(opening))
            continue
        findings, order, spelling = random_study(chance)
        told.append(decoder.facts(findings))
        asked.append(torch.tensor(decoder.tokenizer.encode(order, special=False)[:ORDER_MAX], dtype=torch.long))
        ids = {f.id: int(row[0]) for f, row in zip(findings, told[-1], strict=True)}
        groups = group_findings(findings)
        for _ in range(SENTENCES):
            group, register = chance.choice(groups), chance.choice(REGISTERS)
            opening = decoder.opening(group, register, ids)
            rows.append(torch.tensor([*opening, *decoder.tokenizer.encode(paraphrase(group, chance, register, spelling)), END]))
            owner.append(s)
            said_from.append(len(opening))
    padded = torch.nn.utils.rnn.pad_sequence
    return (padded(rows, batch_first=True, padding_value=PAD), padded(told, batch_first=True), padded(asked, batch_first=True, padding_value=PAD),
            torch.tensor(owner), torch.tensor(said_from))


def random_study(chance: Random) -> tuple[list[Finding], str, Callable[[str], str]]:
    """A findings graph, an order's text, and the spelling that its report has: the order's."""
    codes = chance.sample(CODES, chance.randint(2, 14))
    there = chance.randint(0, min(5, len(codes)))
    start = chance.randint(0, IDS_MAX - len(codes)) if chance.random() < 0.3 else 0     # every id piece is met
    findings = [random_finding(f"f{start + i}", code, i < there, chance) for i, code in enumerate(codes)]
    spelling = chance.choice((str, american))
    asked = chance.choice(CODES)
    noun = spelling(chance.choice(nouns_of(asked))[0])
    order = chance.choice(ORDERS).format(noun=noun, age=chance.randint(18, 95))
    return findings, order, american if american(noun) == noun and noun in order and british(noun) != noun else str


def british(text: str) -> str:
    for there, here in wording()["american"].items():
        text = text.replace(here, there)
    return text


def random_finding(code_id: str, code: str, present: bool, chance: Random) -> Finding:
    """A finding with any of the values that data/findings.toml allows it."""
    row = FINDINGS.get(code, FindingRow(code, nouns_of(code)[0][0], side=("left", "right", "bilateral"), volume=True))
    if not present:
        return Finding(code_id, code, row.label, False, 0.05)

    def now_and_then(allowed: bool, share: float) -> bool:
        return allowed and chance.random() < share

    return Finding(code_id, code, row.label, True, 0.9, side=chance.choice((None, *row.side)),      # type: ignore[arg-type]  # the table's sides are those of Side
                   region=chance.choice(REGIONS) if now_and_then(bool(row.side) and code != "midline_shift", 0.3) else "",
                   size_mm=round(chance.uniform(0.5, 90), 1) if now_and_then(row.size, 0.7) else None,
                   volume_ml=round(chance.uniform(0.5, 90), 1) if now_and_then(row.volume, 0.7) else None,
                   count=chance.randint(1, 30) if now_and_then(row.count, 0.7) else None,
                   acuity=chance.choice(row.acuity) if now_and_then(bool(row.acuity), 0.3) else "",
                   grade=chance.choice(row.grade) if now_and_then(bool(row.grade), 0.5) else "", band=chance.choice(("state", "state", "hedge")))


def vocabulary_texts(chance: Random) -> list[str]:
    texts = []
    for _ in range(1500):
        findings, order, spelling = random_study(chance)
        texts += [order, *(paraphrase(group, chance, "", spelling) for group in group_findings(findings))]
    return texts


def faithful(decoder: ReportDecoder, images: list[torch.Tensor], chance: Random, count: int) -> dict[str, Any]:
    """How many written sentences read back as exactly their graph before any template steps in, and how much they differ."""
    studies = [random_study(chance) for _ in range(count)]
    image = chance.choice(images) if images else None
    asks = [Ask(group_findings(findings), image, order, chance.choice(REGISTERS)) for findings, order, _ in studies]
    drawn = [Ask(ask.groups, ask.image_tokens, ask.order_text, ask.register, seed) for seed, ask in enumerate(asks)]
    rows = {"likeliest words": drafts(decoder, asks), "drawn words": drafts(decoder, drawn)}
    differ = [a != b for a, b in zip(rows["likeliest words"], rows["drawn words"], strict=True)]
    graphs = {repr([[replace(f, id="") for f in group] for group in ask.groups]) for ask in asks}
    figures: dict[str, Any] = {"studies": count, "distinct graphs": len(graphs)}
    for name, texts in rows.items():
        pairs = [(text, group) for draft, ask in zip(texts, asks, strict=True) for text, group in zip(draft, ask.groups, strict=True)]
        right = sum(says(text, group) for text, group in pairs)
        figures[name] = {"sentences": len(pairs), "read back as their graph": round(right / len(pairs), 4),
                         "replaced by template": len(pairs) - right,
                         "distinct drafts over distinct graphs": round(len({tuple(draft) for draft in texts}) / len(graphs), 4)}
    return {**figures, "drafts that a draw words otherwise": round(sum(differ) / count, 4)}


def drafts(decoder: ReportDecoder, asks: Sequence[Ask]) -> list[list[str]]:
    return [[fill(text, group[0]) for (text, _), group in zip(written, ask.groups, strict=True)]
            for written, ask in zip(decoder.write_all(asks), asks, strict=True)]
