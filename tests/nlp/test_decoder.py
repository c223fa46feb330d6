from random import Random

import torch

from data.records import Finding
from nlp.assertions import says
from nlp.decoder import DecoderConfig, ReportDecoder
from nlp.sentences import NOUNS, fill, group_findings, paraphrase
from nlp.tokenizer import Tokenizer


def finding(code, present=True, **facts):
    return Finding(id="f1", code=code, label=NOUNS[code][0], present=present, probability=0.9, **facts)


def test_every_paraphrase_filled_from_its_graph_reads_back_as_that_graph():
    chance, seen = Random(0), set()
    for code in NOUNS:
        for side in (None, "left", "right"):
            for band in ("state", "hedge"):
                size = {"size_mm": 6.5} if code == "midline_shift" else {"volume_ml": 20.0}
                for facts in ({}, size):
                    one = finding(code, side=side, band=band, **facts)
                    for _ in range(30):
                        text = fill(paraphrase([one], chance), one)
                        seen.add(text)
                        assert says(text, [one]), text
        for _ in range(20):
            absent = [finding(code, False), finding("skull_fracture" if code != "skull_fracture" else "mass_effect", False)]
            assert says(paraphrase(absent, chance), absent)
    assert len(seen) > 500


def test_a_general_haemorrhage_is_not_said_beside_its_type_and_what_is_omitted_is_not_said():
    groups = group_findings([finding("intracranial_haemorrhage"), finding("subdural_haemorrhage"), finding("mass_effect", False),
                             finding("skull_fracture", False, band="omit"), finding("midline_shift", False)])
    assert [[f.code for f in group] for group in groups] == [["subdural_haemorrhage"], ["mass_effect", "midline_shift"]]


def test_words_survive_the_tokenizer_and_slots_are_one_token():
    tokenizer = Tokenizer.of(["<side> subdural haematoma, <number> mL."])
    assert tokenizer.decode(tokenizer.encode("<side> subdural haematoma, <number> ml.")) == "<side> subdural haematoma, <number> ml."
    assert len(tokenizer.encode("<side> <number>")) == 4


def test_a_decoder_taught_a_handful_of_sentences_writes_them_and_side_and_number_are_copied():
    torch.manual_seed(0)
    left, none = finding("subdural_haemorrhage", side="left", volume_ml=12.0), finding("mass_effect", False)
    texts = ["<side> subdural haematoma, <number> ml.", "no mass effect."]
    decoder = ReportDecoder(DecoderConfig(Tokenizer.of(texts).words, tuple(NOUNS), width=32, heads=2, layers=1))
    facts = decoder.facts([[left], [none]])
    rows = [decoder.tokenizer.encode(text) for text in texts]
    words = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    optimiser = torch.optim.Adam(decoder.parameters(), 3e-3)
    decoder.train()
    for _ in range(120):
        loss = torch.nn.functional.cross_entropy(decoder(words[:, :-1], facts).flatten(0, 1), words[:, 1:].flatten(), ignore_index=0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    decoder.eval()
    other = finding("subdural_haemorrhage", side="right", volume_ml=3.5)
    (first, sure), (second, _) = decoder.write([[other], [none]])
    assert fill(first, other) == "Right subdural haematoma, 3.5 mL." and second == "No mass effect." and sure > 0.8
