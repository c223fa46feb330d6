"""A second model for the tests of versions: the shipped weights under another name."""
from data.model_files import MODELS, load_model, save_model


def another_model(folder, version):
    config, tensors = load_model(MODELS / "protocol")
    save_model(folder, tensors, config | {"version": version}, {"name": "test", "version": version},
               {"tokenizer.json": (MODELS / "protocol" / "tokenizer.json").read_bytes()})
    return folder
