"""The classifier, trained on a handful of orders from a tiny random BERT: what is shipped is what was measured."""
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, BertConfig, BertModel

from data.book import BOOK_PATH, read_book
from data.errors import InputError, ModelError
from data.model_files import load_model, save_model
from data.orders import Labelled, order_from_json, read_authored
from data.records import Order
from nlp import local_training, train_protocol, tune_encoder
from nlp.classifier import FEATURES, LEARNED, Classifier, Ranker, padded, sentence_of, urgency_of
from nlp.encoder import Encoder, mean_over
from nlp.features import HALF, counts_of, places_of, vectors_of
from nlp.suggest import Suggester

AUTHORED = read_authored()
HANDS = [row for row in AUTHORED if row.author in "ad"][::12]
ROWS = [*HANDS, *[row for row in AUTHORED if row.author == "f"][::90]]


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
    config = {"model_type": "bert", "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 64, "hidden_act": "gelu", "type_vocab_size": 2,
              "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = BertModel(BertConfig(**{k: v for k, v in config.items() if k != "model_type"}), add_pooling_layer=False)
    save_file({name: p.contiguous() for name, p in model.state_dict().items()}, folder / "model.safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """(the classifier as it left training, the same read from its folder, the folder)."""
    out, kept = tmp_path_factory.mktemp("model"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_protocol, "read_authored", lambda: ROWS)
        assemble = train_protocol.assembled
        patch.setattr(train_protocol, "assembled", lambda *given: kept.append(assemble(*given)) or kept[0])
        train_protocol.main(out, base=base, epochs=2)
    return kept[0], Classifier.load(out), out


def test_what_is_loaded_answers_as_what_was_trained(trained):
    orders = [row.order for row in ROWS[:6]]
    one, other = (c.predict(orders, read_book()) for c in trained[:2])
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-4)
    np.testing.assert_allclose(one.contrast.sum(1), 1, atol=1e-5)
    assert ((one.urgent > 0) & (one.urgent < 1)).all()


def test_an_order_is_not_changed_by_its_neighbours(trained):
    orders = [row.order for row in ROWS[:6]]
    together = trained[1].predict(orders, read_book()).probability
    alone = np.concatenate([trained[1].predict([order], read_book()).probability for order in orders])
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

        weights, config, tokenizer = tune_encoder.base_model(base)
        return tune_encoder.tune(learn, protocols, weights, config, tokenizer, epochs, 3, "cpu", out, resume, report).state_dict()

    whole = net_of(tmp_path / "whole", 3)
    with pytest.raises(KeyboardInterrupt):
        net_of(tmp_path / "broken", 3, stop_after=2)
    resumed = net_of(tmp_path / "broken", 3, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(InputError, match="epochs"):
        net_of(tmp_path / "whole", 4, resume=True)


def test_a_hand_is_held_out_from_the_models_that_answer_for_it(monkeypatch):
    taught = []

    def learn_words(rows, some, places, protocols):
        taught.append({rows[i].author for i in some})
        raise KeyboardInterrupt

    monkeypatch.setattr(train_protocol, "learn_words", learn_words)
    hands = train_protocol.hands_of(ROWS)
    assert {hand for hand in hands if hand} == {"a", "d"} and hands.count("") == sum(row.author == "f" for row in ROWS)
    for hand in "ad":
        only = [one if one == hand else "" for one in hands]
        with pytest.raises(KeyboardInterrupt):
            train_protocol.held_out(ROWS, only, train_protocol.Places(ROWS), (), None)
    assert taught == [{"d", "f"}, {"a", "f"}]


def test_a_text_that_stands_on_both_sides_is_learnt_on_neither():
    twin = replace(HANDS[0], author="f", order=replace(HANDS[0].order, text=HANDS[0].order.text + " pls"))
    rows = [*HANDS, twin]
    test = [0]
    assert train_protocol.apart(rows, train_protocol.Places(rows), list(range(1, len(rows))), test) == list(range(1, len(rows) - 1))


def test_own_material_of_one_author_is_held_out_by_every_fifth_order():
    hands = train_protocol.hands_of([row for row in ROWS if row.author == "f"])
    assert set(hands) == {"held", ""} and hands[0] == hands[5] == "held"


def test_metadata_stands_in_the_sentence():
    order = order_from_json({"order_text": "fall", "ordered_exam": "CT head", "age": 0.5, "sex": "F", "pregnant": None, "egfr": 12,
                             "implants": ["VP shunt"], "priors": ["MR yesterday"], "priority": "STAT"})
    sentence = sentence_of(order)
    for word in ("fall", "CT head", "6 month old", "female", "stat", "low egfr", "VP shunt", "MR yesterday"):
        assert word in sentence


def test_words_and_pieces_weigh_alike():
    counts = counts_of([places_of("headache"), places_of("headache " * 50 + "and much else besides")])
    vectors = vectors_of(counts, np.ones(counts.shape[1], np.float32))
    half = vectors.multiply(vectors)
    np.testing.assert_allclose(half[:, :HALF].sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(half[:, HALF:].sum(1), 1, rtol=1e-5)


def test_a_new_protocol_is_weighed_by_its_text_alone():
    ranker = Ranker(np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], np.float32), np.array([1, 0, 0, 0, 0, 0, 0, -1], np.float32))
    features = np.zeros((1, 3, 10), np.float32)
    features[0, 0, 0], features[0, 2, 0], features[0, 2, 3] = 1, 99, 5
    assert ranker(features, np.array([True, True, False])).tolist() == [[1, 0, 4]]


def test_an_acceptable_protocol_is_no_counterexample():
    """Half of the orders about dizziness expect A, half B, and each accepts the other: an order about dizziness speaks for both."""
    rows = [Labelled(Order(id=str(i), text=text), "f", expected, (expected, *also), "none", (), False)
            for i, (text, expected, also) in enumerate([("dizzy since monday", "A", ("B",)), ("dizzy since tuesday", "B", ("A",)),
                                                        ("lump in the neck", "C", ())] * 6)]
    linear, _, _ = train_protocol.learn_words(rows, list(range(len(rows))), train_protocol.Places(rows), ("A", "B", "C"))
    margins = linear(vectors_of(counts_of([places_of("dizzy since friday")]), linear.rarity))[0]
    assert margins[0] > 0.3 and margins[1] > 0.3 and margins[2] < 0


def test_the_encoder_answers_as_the_one_it_was_made_from(base):
    weights, config, tokenizer = tune_encoder.base_model(base)
    ours = Encoder(config)
    ours.load_state_dict(weights)
    theirs = AutoModel.from_pretrained(base, add_pooling_layer=False).eval()
    ids, mask = padded([tokenizer.encode(text).ids for text in ("headache", "weakness of the left arm since this morning")])
    with torch.inference_mode():
        one, other = ours.eval()(ids, mask), theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        np.testing.assert_allclose(mean_over(one, mask), mean_over(other, mask), atol=0.02)     # the word vectors are int8
        alone = ours(ids[1:])
    np.testing.assert_allclose(mean_over(one, mask)[1], mean_over(alone, None)[0], atol=1e-4)


def test_another_kind_of_encoder_from_transformers_can_be_trained(base, tmp_path):
    from transformers import DistilBertConfig, DistilBertModel

    folder = tmp_path / "distil"
    tokenizer = Tokenizer.from_file(base + "/tokenizer.json")
    DistilBertModel(DistilBertConfig(vocab_size=tokenizer.get_vocab_size(), dim=32, n_layers=1, n_heads=2, hidden_dim=64)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    protocols = train_protocol.protocols_of(ROWS)
    reader, _, config = train_protocol.learn_encoder(ROWS[:12], protocols, str(folder), 1, 0, "cpu", tmp_path / "out", False,
                                                     lambda *a, **k: None)
    assert config["model_type"] == "distilbert" and reader([ROWS[0].order]).shape == (1, len(protocols) + 4)


def test_a_base_that_is_no_encoder_is_refused_in_words(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        tune_encoder.base_model(str(tmp_path))


def test_the_nearest_labelled_orders_are_named(trained):
    row = next(row for row in ROWS if row.author == "a")
    found = Suggester(read_book(), trained[1]).suggest(row.order)
    assert found.nearest[0] == row.order.id and len(found.nearest) == 3


def test_urgent_words_count_under_a_routine_click():
    calibration = {"urgent_weights": [2.0, 1.0, 1.0, 0, 0, 0], "urgent_offset": -3.0, "text_weights": [1.0, 3.0, 0, 0], "text_offset": -1.0}
    calm, alarming, clicked = urgency_of(np.array([[0, 0, -3, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0]], np.float32), calibration)
    assert calm < 0.1 and 0.4 < alarming <= 0.5 and clicked >= alarming


def test_a_departments_own_habit_is_learnt_from_its_orders(trained, tmp_path, monkeypatch):
    """Here "dizzy" is protocolled as a protocol of their own; the shipped model knows neither."""
    monkeypatch.setattr(local_training, "read_authored", lambda: ROWS)
    folder = tmp_path / "shipped"
    shutil.copytree(trained[2], folder)
    config, stored = load_model(folder)     # a ranker of a handful of orders heeds nothing; the shipped one heeds the words
    stored["ranker"] = np.array([1 if name == "words" else 0 for name in FEATURES], np.float32)
    stored["new_ranker"] = np.array([0] * (len(FEATURES) - LEARNED) + [-9], np.float32)
    save_model(folder, stored, config, {}, {"tokenizer.json": (folder / "tokenizer.json").read_bytes()})
    protocols = list(read_book().protocols)
    unknown = next(name for name in protocols if name not in trained[1].protocols)
    words = ["dizzy", "giddy", "vertigo", "unsteady", "spinning", "light-headed", "swaying", "reeling"]
    texts = [f"{words[i % 8]} since {i} days, after {words[i // 8]} spell" for i in range(24)]
    local = [Labelled(Order(id=f"l{i}", text=text), "x", unknown, (unknown,), "none", None, False) for i, text in enumerate(texts)]
    out = tmp_path / "model"
    figures = local_training.train_local(local, folder, out)
    assert figures["orders"] == 24 and figures["candidate"]["acceptable@1"][0] > figures["current"]["acceptable@1"][0] + 0.5
    found = Suggester(read_book(), Classifier.load(out)).suggest(Order(text="unsteady and giddy since 40 days"))
    assert found.ranked[0].protocol == unknown


def test_a_folder_of_something_else_is_refused_in_words(tmp_path):
    from data.model_files import save_model

    save_model(tmp_path, {"x": np.zeros(2, np.float32)}, {"version": "other"}, {})
    with pytest.raises(ModelError, match="order classifier"):
        Classifier.load(tmp_path)
