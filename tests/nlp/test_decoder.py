"""The decoder: the same words with a cache, in any company, from any seed the same facts."""
from random import Random

import pytest
import torch

from data.findings import FINDINGS
from data.records import Finding
from nlp.assertions import says
from nlp.decoder import Ask, Batch, DecoderConfig, Memory, ReportDecoder
from nlp.grammar import worded
from nlp.sentences import fill, group_findings, paraphrase
from nlp.tokenizer import END, PAD, Tokenizer
from vision.train_report import random_study, vocabulary_texts


def finding(code, present=True, id="f1", **facts):
    return Finding(id=id, code=code, label=FINDINGS[code].label, present=present, probability=0.9, **facts)


@pytest.fixture(scope="module")
def untaught():
    torch.manual_seed(0)
    chance = Random(0)
    words = Tokenizer.of([text for _ in range(40) for text in (paraphrase([finding(chance.choice(list(FINDINGS)))], chance),)], 420).words
    return ReportDecoder(DecoderConfig(words, worded(), width=32, heads=2, layers=2, inner=64, image_channels=8)).eval()


def asks(seeds, count=4):
    chance = Random(7)
    rows = []
    for i in range(count):
        findings, order, _ = random_study(chance)
        image = torch.randn(1, 3 + i, 8, generator=torch.Generator().manual_seed(i)) if i % 2 else None
        rows.append(Ask(group_findings(findings), image, order, "full", None if seeds is None else seeds + i))
    return rows


@pytest.mark.parametrize("seeds", [None, 5])
def test_a_sentence_is_the_same_alone_and_among_eight(untaught, seeds):
    given = asks(seeds)
    assert sum(len(ask.groups) for ask in given) > 8        # so that finished rows leave and waiting ones enter
    together = untaught.write_all(given, rows=8)
    alone = [untaught.write_all([ask], rows=1)[0] for ask in given]
    assert [[text for text, _ in study] for study in together] == [[text for text, _ in study] for study in alone]


def test_the_cache_gives_the_words_that_reading_everything_again_gives(untaught):
    torch.manual_seed(1)
    memory = torch.randn(1, 6, 32)
    pairs = [layer.told(memory) for layer in untaught.layers]
    batch = Batch(untaught, 8)
    batch.tell_of([Memory([k[0] for k, _ in pairs], [v[0] for _, v in pairs], {})] * 8)
    rows = [[1 + i] for i in range(8)]
    for at in range(20):
        cached = batch.advance([row[-1] for row in rows], [at] * 8)
        with torch.inference_mode():
            again = untaught(torch.tensor(rows), memory.expand(8, -1, -1))[:, -1]
        torch.testing.assert_close(cached, again, atol=1e-4, rtol=1e-4)
        assert cached.argmax(-1).tolist() == again.argmax(-1).tolist()
        for row, piece in zip(rows, cached.argmax(-1).tolist(), strict=True):
            row.append(piece)


def test_an_untaught_decoder_writes_only_sentences_that_read_back(untaught):
    for ask, written in zip(given := asks(11, 6), untaught.write_all(given), strict=True):
        for group, (text, _) in zip(ask.groups, written, strict=True):
            assert says(fill(text, group[0]), group), text


def test_weights_that_shout_a_denial_are_not_heard(untaught):
    """Every piece of "no", "not" and "right" is made the likeliest by far: the present left haematoma is still stated, on its side."""
    loud = ReportDecoder(untaught.config).eval()
    loud.load_state_dict(untaught.state_dict())
    with torch.no_grad():
        for word in (" no", "No", " not", " right", " absent", "7"):
            loud.answer.bias[loud.tokenizer.encode(word)] += 100
    left = [finding("subdural_haemorrhage", side="left", volume_ml=3.5)]
    [(text, _)] = loud.write([left])
    assert says(fill(text, left[0]), left) and "3.5 mL" in fill(text, left[0])


def test_another_seed_says_the_same_facts_in_other_words(untaught):
    groups = [[finding("subdural_haemorrhage", side="left", volume_ml=3.5)], [finding("midline_shift", id="f2", side="right", size_mm=6.0)],
              [finding("mass_effect", False, id="f3"), finding("skull_fracture", False, id="f4")]]
    drafts = {tuple(fill(text, group[0]) for (text, _), group in zip(untaught.write(groups, seed=seed), groups, strict=True)) for seed in range(5)}
    assert len(drafts) == 5
    assert all(says(text, group) for draft in drafts for text, group in zip(draft, groups, strict=True))
    assert untaught.write(groups, seed=3) == untaught.write(groups, seed=3)


def test_int8_says_the_same_facts(untaught):
    small = ReportDecoder(untaught.config)
    small.load_state_dict(untaught.state_dict())
    given = asks(None, 2)
    for ask, written in zip(given, small.int8().write_all(given), strict=True):
        assert all(says(fill(text, group[0]), group) for group, (text, _) in zip(ask.groups, written, strict=True))


def test_image_tokens_of_another_encoder_are_left_out(untaught):
    groups = [[finding("mass_effect", side="left")]]
    assert untaught.write(groups, torch.zeros(1, 1, 1)) == untaught.write(groups)


def test_a_study_of_more_findings_than_ids_and_one_of_none(untaught):
    many = [finding(code, False, id=f"f{i}") for i, code in enumerate([*FINDINGS, *list(FINDINGS)[:12]])]
    groups = group_findings(many)
    assert all(text for text, _ in untaught.write(groups)) and untaught.write([]) == [] and untaught.write_all([]) == []


def test_a_decoder_taught_a_handful_of_sentences_writes_them():
    torch.manual_seed(0)
    group = [finding("subdural_haemorrhage", side="left", volume_ml=12.0)]
    wanted = "The study shows a <side> subdural haematoma with a volume of <volume>."
    decoder = ReportDecoder(DecoderConfig(Tokenizer.of([wanted] * 2, 400).words, worded(), width=32, heads=2, layers=1, inner=64))
    ids = {"f1": decoder.tokenizer.numbers["<f1>"]}
    opening = decoder.opening(group, "full", ids)
    pieces = torch.tensor([[*opening, *decoder.tokenizer.encode(wanted), END]])
    optimiser = torch.optim.Adam(decoder.parameters(), 3e-3)
    for _ in range(80):
        memory = decoder.remember(decoder.facts(group)[None], None, None)
        loss = torch.nn.functional.cross_entropy(decoder(pieces[:, :-1], memory)[0, len(opening) - 1:], pieces[0, len(opening):], ignore_index=PAD)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    other = [finding("subdural_haemorrhage", side="right", volume_ml=3.5)]
    [(text, sure)] = decoder.eval().write([other])
    assert fill(text, other[0]) == "The study shows a right subdural haematoma with a volume of 3.5 mL." and sure > 0.8


def test_a_general_haemorrhage_is_not_said_beside_its_type_and_what_is_omitted_is_not_said():
    groups = group_findings([finding("intracranial_haemorrhage"), finding("subdural_haemorrhage"), finding("mass_effect", False),
                             finding("skull_fracture", False, band="omit"), finding("midline_shift", False)])
    assert [[f.code for f in group] for group in groups] == [["subdural_haemorrhage"], ["mass_effect", "midline_shift"]]


def test_the_words_beside_a_slot_agree_with_what_is_copied():
    one, many = finding("microbleeds", count=1), finding("microbleeds", count=3)
    assert fill("There are <count> cerebral microbleeds.", one) == "There is 1 cerebral microbleed."
    assert fill("There are <count> cerebral microbleeds.", many) == "There are 3 cerebral microbleeds."
    assert fill("An sulcal effacement, a arterial occlusion.", finding("occlusion")) == "A sulcal effacement, an arterial occlusion."
    mass = finding("mass", size_mm=8.0, side="bilateral")
    assert fill("A <size> mass.", mass) == "An 8 mm mass." and fill("A <side> mass.", mass) == "Bilateral mass."
    assert len(vocabulary_texts(Random(0))) > 3000 and random_study(Random(0))[0]
