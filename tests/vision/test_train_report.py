"""Signed sentences become lessons of the decoder that words findings."""
from random import Random

import pytest

from data.records import Finding
from nlp.decoder import DecoderConfig, ReportDecoder
from nlp.sentences import fill, paraphrase
from nlp.tokenizer import END, Tokenizer
from vision.train_report import CODES, as_lesson, lesson, main, vocabulary_texts

BLEED = Finding("f7", "subdural_haemorrhage", "subdural haematoma", True, 0.9, side="left", volume_ml=12.0)
CLEAR = Finding("f2", "skull_fracture", "skull fracture", False, 0.02)


def said(finding, seed=0, register="full"):
    return fill(paraphrase([finding], Random(seed), register), finding)


@pytest.mark.parametrize("finding", [BLEED, CLEAR])
def test_a_sentence_of_the_grammar_is_found_in_it_with_its_slots_open(finding):
    text = said(finding)
    group, _, words = as_lesson([finding], text, Random(1))
    assert fill(words, group[0]) == text and group[0].code == finding.code
    assert "12" not in words and "left" not in words


def test_a_sentence_that_the_grammar_has_not_teaches_nothing():
    assert as_lesson([CLEAR], "The skull is in one piece, as far as I can see.", Random(0)) is None
    assert as_lesson([Finding("f1", "unheard_of", "unheard of", True, 0.9)], "Unheard of.", Random(0)) is None


def test_half_of_what_is_taught_are_the_signed_sentences():
    decoder = ReportDecoder(DecoderConfig(Tokenizer.of(vocabulary_texts(Random(0))).words, CODES, width=16, heads=2, layers=1, inner=16))
    group, register, words = as_lesson([CLEAR], said(CLEAR), Random(1))
    rows, facts, _, owner, begins = lesson(decoder, Random(2), [(group, register, words)])
    own = [*decoder.tokenizer.encode(words), END]
    taught = [i for i in range(len(rows)) if rows[i, begins[i]:begins[i] + len(own)].tolist() == own]
    assert {int(owner[i]) for i in taught} >= {1, 3, 5, 7} and len(facts) == 8


def test_signed_sentences_that_cannot_be_taught_are_counted(tmp_path):
    pairs = [([CLEAR], said(CLEAR)), ([CLEAR], "Skull: nothing wrong with it, says the boss.")]
    figures = main(out=tmp_path, graphs=32, epochs=1, studies=0, pairs=pairs)
    assert figures["signed sentences"] == {"taught": 1, "not in the grammar": 1}
