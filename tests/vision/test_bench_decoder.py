import torch

from vision import bench_decoder
from vision.bench_decoder import BARS, R2Gen


def test_every_bar_is_held_against_a_figure_of_the_same_run(monkeypatch):
    for name, value in {"WIDTH": 16, "HEADS": 2, "LAYERS": 1, "INNER": 16, "IMAGE": 5}.items():
        monkeypatch.setattr(bench_decoder, name, value)
    figures = bench_decoder.bench_decoder(tokens=3, repeats=1)
    assert set(figures["kept"]) == set(BARS) == set(figures["bars"]) and all(figures[name] > 0 for name in BARS)


def test_memory_is_that_of_a_process_with_one_side_alone():
    [figures] = bench_decoder.peak_memory(tokens=2, sides=("int8",)).values()
    assert 100 < figures["peak MB"] < 1200 and 0 < figures["above the libraries, MB"] < 200


def test_r2gens_words_depend_on_the_image(monkeypatch):
    for name, value in {"WIDTH": 16, "HEADS": 2, "LAYERS": 1, "INNER": 16}.items():
        monkeypatch.setattr(bench_decoder, name, value)
    torch.manual_seed(0)
    model, words = R2Gen().eval(), torch.ones(1, 2, dtype=torch.long)
    a, b = (model(words, torch.randn(1, 4, 16)) for _ in range(2))
    assert a.shape == (1, 760) and not torch.allclose(a, b)
