"""A misspelt word is led to the one word of the domain that it can be; all else stays."""
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp import spelling
from nlp.normalise import normalise
from nlp.spelling import edits, repair, repairs


@pytest.mark.parametrize(("typed", "meant"), [
    ("siezure", "seizure"), ("headahce", "headache"), ("menigioma", "meningioma"), ("weakenss", "weakness"), ("pitutary", "pituitary"),
    ("hemmorhage", "hemorrhage"), ("glioblastma", "glioblastoma"), ("hypertesion", "hypertension"), ("hypotesion", "hypotension"),
    ("cholestatoma", "cholesteatoma"), ("foerhead", "forehead"),
])
def test_a_misspelt_word_is_led_to_the_domain_word(typed, meant):
    assert repair(typed) == meant
    assert meant in normalise(f"80F with {typed} since fall").text


@pytest.mark.parametrize("word", ["afebrile", "atypical", "microadenoma", "macroadenoma", "hypodense", "asterixis", "carcinoid",
                                  "nephrologist",
                                  "globus",
                                  "adenoca", "recurr", "bronch", "postictal", "lobulated", "keppra", "abscess", "unsteady", "abduction", "adduction"])
def test_a_right_word_stays_whatever_it_resembles(word):
    assert repair(word) is None


@pytest.mark.parametrize("text", ["Dr Siezure called", "see Hedache Clinic", "x.headahce@y.org", "M1-headahce", "12345 678"])
def test_names_numbers_and_addresses_are_left_alone(text):
    assert list(repairs(text)) == []


def test_evidence_leads_back_to_the_word_as_it_was_typed():
    found = normalise("new siezure today")
    at = found.text.index("seizure")
    assert found.original(at, at + 7) == (4, 11)


@given(st.text("abch", max_size=6), st.text("abch", max_size=6))
def test_edits_are_a_distance(one, two):
    assert edits(one, two) == edits(two, one) and (edits(one, two) == 0) == (one == two)
    assert edits(one, two) <= max(len(one), len(two))


def test_a_swap_of_neighbours_is_one_edit():
    assert edits("seizure", "siezure") == 1


@settings(deadline=None)
@given(st.text("abcdeinorst ", max_size=400))
def test_a_word_is_compared_with_few_others(text):
    """Work is bounded by the index, not by the length of the list of words."""
    _, index, _ = spelling.read_words()
    for word in set(text.split()):
        if 5 <= len(word) <= 20:
            assert sum(len(index.get(rest, ())) for rest in spelling.remains(word)) < 250


def test_the_list_of_words_is_what_its_program_writes():
    """For words with one first letter: no other has a say in them."""
    pytest.importorskip("symspellpy")
    word_list = pytest.importorskip("nlp.word_list")
    counts = Counter({word: count for word, count in word_list.domain_counts().items() if word[0] == "g"})
    right = {word for word in word_list.right_words() if word[0] == "g"}
    assert word_list.word_list(counts, right) == {word: count for word, count in spelling.read_words()[0].items() if word[0] == "g"}
