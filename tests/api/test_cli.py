"""The command line as a person uses it: real processes, exit codes, standard error."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

WETREAD = [sys.executable, "-m", "api.cli"]
ROOT = Path(__file__).parent.parent.parent


def run(*words, **options):
    return subprocess.run([*WETREAD, *map(str, words)], capture_output=True, text=True, cwd=ROOT, timeout=180, **options)


def test_protocol_answers_a_text_with_every_field_of_the_design():
    done = run("protocol", "--text", "fall from ladder, head trauma, GCS 13, suspected intracranial hemorrhage", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert {"id", "ranked", "set", "contrast", "flags", "urgent", "disposition", "evidence"} <= set(row)
    assert row["urgent"] and row["ranked"][0]["protocol"].startswith("CT")


def test_a_bad_row_is_named_and_the_others_are_done(tmp_path):
    (tmp_path / "orders.jsonl").write_text('{"id": "1", "order_text": "MS follow up, MRI brain"}\nnot json\n{"id": "3"}\n')
    done = run("protocol", tmp_path / "orders.jsonl", "--device", "cpu", "--out", tmp_path / "out.jsonl")
    assert done.returncode == 1
    assert "orders.jsonl:2" in done.stderr and "orders.jsonl:3" in done.stderr and "order_text" in done.stderr
    assert "Traceback" not in done.stderr
    assert [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["1"]


@pytest.mark.parametrize("words, said", [
    (["protocol"], "--text"),
    (["protocol", "--text", "x", "--device", "abacus"], "abacus"),
])
def test_wrong_use_is_exit_code_2_and_says_what_is_right(words, said):
    done = run(*words)
    assert done.returncode == 2 and said in done.stderr


@pytest.mark.parametrize("words, said", [
    (["protocol"], "--text"), (["protocol", "--txt", "x"], "--txt"), (["serve", "--http", "many"], "--http"), (["train", "protocol"], "--out"),
    (["send", "x.hl7"], "--mllp"), (["nonsense"], "nonsense"), (["simulate", "heads", "--out", "x"], "heads"),
])
def test_every_wrong_use_carries_its_code(words, said):
    done = run(*words)
    assert done.returncode == 2 and done.stderr.startswith("[E109] ") and said in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_model_is_named_before_anything_else_is_asked_for():
    done = run("train", "foo")
    assert done.returncode == 1 and "[E109]" in done.stderr and "'foo'" in done.stderr and "--out" not in done.stderr


def test_an_empty_folder_and_a_missing_file_are_named_when_sent(tmp_path):
    (tmp_path / "empty").mkdir()
    done = run("send", "--dicom", "127.0.0.1:1", tmp_path / "empty", tmp_path / "none.dcm")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{tmp_path / 'empty'}: [E109]" in done.stderr and f"{tmp_path / 'none.dcm'}: [E106]" in done.stderr


def test_help_and_no_command_say_what_there_is():
    assert run("--help").returncode == 0 and "protocol" in run("--help").stdout
    assert run("model").returncode == 2 and "promote" in run("model").stdout


def test_a_missing_file_is_a_coded_error_and_no_traceback(tmp_path):
    done = run("protocol", tmp_path / "none.hl7")
    assert done.returncode == 1 and "[E109]" in done.stderr and "Traceback" not in done.stderr


DRAFT, PROTOCOL = ("draft", "none", "--order"), ("protocol",)


@pytest.mark.parametrize(("words", "text"), [
    (DRAFT, "Fall, on apixaban. ?bleed\n"), (PROTOCOL, "Fall, on apixaban. ?bleed\n"), (DRAFT, '{\n  "order_text": "fall"\n}\n'),
    (DRAFT, "PID|1||7\nOBR|1\n"), (DRAFT, "\n \n"),
])
def test_an_order_of_no_known_form_is_told_both_that_are_taken(words, text, tmp_path):
    (tmp_path / "order.txt").write_text(text)
    done = run(*words, tmp_path / "order.txt", "--device", "cpu")
    assert done.returncode == 1 and done.stderr.startswith(f"[E109] {tmp_path / 'order.txt'}") and len(done.stderr.splitlines()) == 1
    assert "order_text" in done.stderr and "HL7 v2" in done.stderr


def test_training_never_overwrites_the_shipped_model():
    done = run("train", "protocol", "--out", "data/models/protocol")
    assert done.returncode == 1 and "shipped" in done.stderr


def test_hl7_orders_are_suggested_for_and_a_refused_one_is_named(tmp_path):
    head = "MSH|^~\\&|R|H|W|R|20260101||ORM^O01|{}|P|2.5.1\rPID|||7\rORC|{}|P{}\rOBR|1|P{}||X^MRI BRAIN^L||||||||{}\r"
    (tmp_path / "day.hl7").write_bytes((head.format(1, "NW", 1, 1, "|MS, new relapse") + head.format(2, "QQ", 2, 2, "|x")).encode())
    done = run("protocol", tmp_path / "day.hl7", "--device", "cpu")
    assert done.returncode == 1 and "[E104] ORC-1" in done.stderr and len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("words, said", [
    (["train", "protocol", "--out", "x", "--batch", "4"], "--batch has no meaning for protocol"),
    (["train", "findings", "--out", "x", "--real"], "--real has no meaning for findings"),
    (["train", "report", "--from-store", "--batch", "4"], "--batch has no meaning beside --from-store"),
    (["train", "flair_lesions", "--out", "x", "--batch", "0"], "--batch"),
    (["train", "flair_lesions", "--out", "x", "--minutes", "0"], "--minutes is 0"),
    (["train", "microbleeds", "--out", "x", "--frozen"], "give --base"),
    (["train", "findings", "--out", "x", "--frozen"], "give --base"),
    (["train", "findings", "--out", "x", "--minutes", "0"], "--minutes is 0"),
])
def test_an_option_that_a_training_has_no_use_for_is_refused(words, said, tmp_path):
    done = run(*(tmp_path / word if word == "x" else word for word in words))
    assert done.returncode in (1, 2) and said in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "x").exists()
