"""A department's own model is believed only as far as its sentence reads back."""
import numpy as np
import pytest
import torch

from data.errors import InputError, ModelError
from data.findings import FINDINGS
from data.records import Finding
from nlp.decoder_hf import HuggingFaceDecoder, keeps_contract, prompt
from vision.reporter import Reporter


def finding(code, present=True, **facts):
    return Finding("f1", code, FINDINGS[code].label, present, 0.9 if present else 0.1, **facts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("gpt2")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(["There is a <side> subdural haematoma.\nOrder: Findings: present"] * 3,
                                  trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<end>"]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<end>").save_pretrained(path)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=120, n_embd=16, n_layer=1, n_head=2, n_positions=256)).save_pretrained(path)
    return path


def test_a_model_of_random_weights_is_overruled_by_the_template_and_counted(folder):
    reporter = Reporter(None, HuggingFaceDecoder.load(folder))
    groups = [[finding("subdural_haemorrhage", side="left", volume_ml=12.0)], [finding("mass_effect", False)]]
    sentences, replaced = reporter.word(groups, np.zeros((1, 128), np.float32), "? bleed")
    assert [s.text for s in sentences] == ["Left subdural haematoma, 12 mL.", "No mass effect."] and replaced == 2
    assert {s.provenance for s in sentences} == {"template"}


def test_a_sentence_that_keeps_the_contract_is_taken(folder, monkeypatch):
    decoder = HuggingFaceDecoder.load(folder)
    monkeypatch.setattr(decoder.tokenizer, "decode", lambda *a, **k: " A <side> subdural haematoma of <volume>.\nmore")
    group = [finding("subdural_haemorrhage", side="left", volume_ml=12.0)]
    [sentence], replaced = Reporter(None, decoder).word([group], np.zeros((1, 128), np.float32))
    assert sentence.text == "A left subdural haematoma of 12 mL." and sentence.provenance == "model" and replaced == 0


@pytest.mark.parametrize("text", [
    "A left subdural haematoma of <volume>.", "A <side> subdural haematoma of 12 mL.", "A <side> subdural haematoma.",
    "A large <side> subdural haematoma of <volume>.", "A new <side> subdural haematoma of <volume>.",
    "A chronic <side> subdural haematoma of <volume>.",
    "A <side> frontal subdural haematoma of <volume>.", "A <side> subdural haematoma of <volume> without fracture on the right.", ""])
def test_side_number_grade_age_and_place_of_its_own_break_the_contract(text):
    assert not keeps_contract(text, [finding("subdural_haemorrhage", side="left", volume_ml=12.0)])


def test_the_model_is_not_told_the_side_or_the_number():
    told = prompt([finding("subdural_haemorrhage", side="left", volume_ml=12.5)], "fall", "full")
    assert "left" not in told and "12.5" not in told and "<side>" in told and "present" in told


def test_a_folder_without_a_model_and_another_prefix_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        HuggingFaceDecoder.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        HuggingFaceDecoder.load(tmp_path)
    with pytest.raises(InputError, match="hf:FOLDER"):
        Reporter.load(decoder="gpt2")
