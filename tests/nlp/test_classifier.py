"""The classifier, trained on a handful of orders from a tiny random BERT: what is shipped is what was measured."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel

from data.book import BOOK_PATH, read_book
from data.errors import InputError, ModelError
from data.orders import order_from_json, read_authored
from data.records import Order
from nlp import train_protocol
from nlp.classifier import Classifier, Linear, Ranker, counts_of, sentence_of, urgency_of
from nlp.suggest import Suggester

ROWS = [row for row in read_authored() if row.author in "ad"][::12]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Hugging Face folder with a BERT of two layers and a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator([row.order.text for row in ROWS],
                                  trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 64, "hidden_act": "gelu", "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = BertModel(BertConfig(**config), add_pooling_layer=False)
    save_file({name: p.contiguous() for name, p in model.state_dict().items()}, folder / "model.safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """(the classifier as it left training, the same read from its folder)."""
    out = tmp_path_factory.mktemp("model")
    learn, held = train_protocol.split(ROWS, None)
    models_, tensors, bert = train_protocol.learn_models(learn, base, 2, 0, "cpu", out, False, lambda *a, **k: None)
    fitted = train_protocol.fit(held, models_([row.order for row in held]), models_.protocols,
                                train_protocol.urgent_rates(learn, models_.protocols), read_book())
    classifier = train_protocol.assembled(models_, tensors, *fitted)
    train_protocol.publish(classifier, tensors, bert, out, {})
    return classifier, Classifier.load(out)


def test_what_is_loaded_answers_as_what_was_trained(trained):
    orders = [row.order for row in ROWS[:6]]
    one, other = (c.predict(orders, read_book()) for c in trained)
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
    np.testing.assert_allclose(one.contrast.sum(1), 1, atol=1e-5)
    assert ((one.urgent > 0) & (one.urgent < 1)).all()


def test_an_order_is_not_changed_by_its_neighbours(trained):
    orders = [row.order for row in ROWS[:6]]
    together = trained[1].predict(orders, read_book()).logits
    alone = np.concatenate([trained[1].predict([order], read_book()).logits for order in orders])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_protocol_added_to_the_book_is_suggested_by_a_trained_model(trained, tmp_path):
    for path in BOOK_PATH.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "mine.toml").write_text('[CT_MUMMY]\nname = "CT of an Egyptian mummy"\nmodality = "CT"\nregion = "head to toe"\ncontrast = "none"\n'
                                        'sequences = ["helical 0.6 mm"]\n'
                                        'indications = ["archaeology of a mummy", "sarcophagus content"]\nminutes = 40\n')
    suggester = Suggester(read_book(tmp_path), trained[1])
    found = suggester.suggest(Order(text="museum asks what is in the sarcophagus, mummy of unknown age", ordered_exam="CT mummy"))
    assert "CT_MUMMY" in [r.protocol for r in found.ranked[:3]] and found.disposition != "auto"


def test_evidence_of_a_trained_model_points_into_the_text(trained):
    for row in ROWS[:10]:
        for evidence in Suggester(read_book(), trained[1]).suggest(row.order).evidence:
            assert evidence.start < 0 or row.order.text[evidence.start:evidence.end] == evidence.text


@pytest.mark.parametrize("text", ["", "HA", "\x00\x01\xff" * 50, "头痛三天", "x " * 25_000, "🧠" * 300])
def test_a_trained_model_answers_any_text(trained, text):
    found = Suggester(read_book(), trained[1]).suggest(Order(text=text))
    assert found.ranked and found.contrast in ("none", "with", "without_and_with") and found.model == trained[1].version


def test_a_run_that_was_broken_off_ends_as_one_that_was_not(base, tmp_path):
    learn = ROWS[::3]

    protocols = tuple(sorted({name for row in learn for name in (row.expected, *row.acceptable)}))

    def net_of(out, epochs, resume=False, stop_after=None):
        def report(step, of, **figures):
            if stop_after is not None and figures.get("epoch") == stop_after:
                raise KeyboardInterrupt

        weights, config, tokenizer = train_protocol.base_model(base)
        return train_protocol.tune(learn, protocols, weights, config, tokenizer, epochs, 3, "cpu", out, resume, report).state_dict()

    whole = net_of(tmp_path / "whole", 3)
    with pytest.raises(KeyboardInterrupt):
        net_of(tmp_path / "broken", 3, stop_after=2)
    resumed = net_of(tmp_path / "broken", 3, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(InputError, match="epochs"):
        net_of(tmp_path / "whole", 4, resume=True)


def test_no_order_of_a_held_out_author_is_learnt():
    learn, held = train_protocol.split(ROWS, "d")
    assert {row.author for row in held} == {"d"} and {row.author for row in learn} == {"a"}
    twin = replace(held[0], author="a")
    assert len(train_protocol.split([*learn, *held, twin], "d")[0]) == len(learn)


def test_metadata_stands_in_the_sentence():
    order = order_from_json({"order_text": "fall", "ordered_exam": "CT head", "age": 0.5, "sex": "F", "pregnant": None, "egfr": 12,
                             "implants": ["VP shunt"], "priors": ["MR yesterday"], "priority": "STAT"})
    sentence = sentence_of(order)
    for word in ("fall", "CT head", "6 month old", "female", "stat", "low egfr", "VP shunt", "MR yesterday"):
        assert word in sentence


def test_the_linear_model_weighs_words_and_pieces_alike():
    counts = counts_of([Order(text="headache"), Order(text="headache " * 50 + "and much else besides")])
    linear = Linear(np.ones(counts.shape[1], np.float32), np.zeros((counts.shape[1], 1), np.float32), np.zeros(1, np.float32))
    vectors = linear.vectors(counts)
    np.testing.assert_allclose(np.sqrt(vectors.multiply(vectors).sum(1)), 2**0.5, rtol=1e-5)


def test_a_new_protocol_gains_by_its_text_alone():
    ranker = Ranker(np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], np.float32), np.array([1, 0, 0, 0, 0, 0, 0], np.float32))
    features = np.zeros((1, 3, 10), np.float32)
    features[0, 0, 0], features[0, 2, 3] = 1, 5
    known = np.array([True, True, False])
    assert ranker(features, known)[0].argmax() == 2 and ranker(features, np.array([True] * 3))[0].argmax() == 0


def test_the_nearest_labelled_orders_are_named(trained):
    row = next(row for row in ROWS if row.author == "a")
    found = Suggester(read_book(), trained[1]).suggest(row.order)
    assert found.nearest[0] == row.order.id and len(found.nearest) == 3


def test_urgent_words_count_under_a_routine_click():
    calibration = {"urgent_weights": [2.0, 1.0, 1.0], "urgent_offset": -3.0, "text_weights": [1.0, 3.0], "text_offset": -1.0}
    calm, alarming, clicked = urgency_of(np.array([[0, 0, -3, 0], [0, 0, 1, 1], [1, 0, 1, 1]], np.float32), calibration)
    assert calm < 0.1 and 0.4 < alarming <= 0.5 and clicked >= alarming


def test_a_folder_of_something_else_is_refused_in_words(tmp_path):
    from data.model_files import save_model

    save_model(tmp_path, {"x": np.zeros(2, np.float32)}, {"version": "other"}, {})
    with pytest.raises(ModelError, match="order classifier"):
        Classifier.load(tmp_path)
