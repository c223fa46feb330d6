"""Learning from signatures: signed sentences as wordings of their findings, signed reports as studies to measure on. All of it stays below HOME."""
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from api.draft_steps import SECTIONS, SIGNED
from api.report_steps import finding_from
from api.result_steps import OURS
from api.sentence_steps import MACHINE, READ
from api.store import Store, Tx
from data.errors import InputError
from data.records import Finding

SENTENCES_MIN = 50      # fewer wordings teach nothing
Pair = tuple[list[Finding], str]


def taught(store: Store) -> tuple[list[Pair], dict[str, int]]:
    """Kept and edited sentences with the findings they were written for, and what was left out and why.

    A sentence is taught only when the re-reader finds exactly its findings in it, and when nothing in it had to be made unrecognisable.
    """
    from nlp.assertions import says
    from nlp.deidentify import deidentify

    left_out = {"deleted": 0, "does not read back as its finding": 0, "names somebody": 0, "said the same as another": 0}
    pairs: dict[tuple[str, str], Pair] = {}
    with store.read() as tx:
        for row, drafted, names in signed_sentences(tx):
            text = row["signed"]
            group = [finding_from(finding) for finding in drafted]
            key = (text, repr([(f.code, f.present, f.band, f.side, f.size_mm, f.volume_ml, f.count) for f in group]))
            if row["outcome"] == "delete":
                left_out["deleted"] += 1
            elif not group or not says(text, group):
                left_out["does not read back as its finding"] += 1
            elif deidentify(text, names) != text:
                left_out["names somebody"] += 1
            elif key in pairs:
                left_out["said the same as another"] += 1
            else:
                pairs[key] = group, text
    return list(pairs.values()), left_out


def signed_sentences(tx: Tx) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], list[str]]]:
    """(row of sentence_outcomes, findings of the drafted sentence, names of the patient), draft by draft."""
    for draft_id in sorted({row["draft_id"] for row in tx.find("sentence_outcomes", columns=("draft_id",))}):
        record = tx.find("draft_versions", draft_id=draft_id, order=["version"], limit=1)[0]["record"]
        drafted = [s for s in record["sentences"] if s["section"] in READ and s["provenance"] in MACHINE]
        found = {finding["id"]: finding for finding in record["findings"]}
        names = names_of(tx, draft_id)
        for row in tx.find("sentence_outcomes", draft_id=draft_id, order=["number"]):
            yield row, [found[id] for id in drafted[row["number"]]["findings"] if id in found], names


def names_of(tx: Tx, draft_id: str) -> list[str]:
    draft = tx.one("drafts", id=draft_id)
    assert draft is not None
    study = tx.one("studies", id=draft["study_id"])
    assert study is not None
    order = tx.one("orders", id=study["order_id"]) if study["order_id"] else None
    people = [study["patient"].get("name", "")] + ([order["record"]["patient"]["name"], order["record"]["referrer"]] if order else [])
    return [part for name in people for part in name.replace("^", " ").split() if part]


def export(store: Store) -> tuple[Path, dict[str, Any]]:
    """Write HOME/learning/sentences.jsonl, readable by its owner alone; (the file, how many and what was left out)."""
    pairs, left_out = taught(store)
    path = write_lines(store.home, "sentences.jsonl", ({"text": text, "findings": [asdict(f) for f in group]} for group, text in pairs))
    return path, {"sentences": len(pairs), "left out": {why: count for why, count in left_out.items() if count}}


def export_reports(store: Store) -> Path:
    """Write HOME/learning/reports.jsonl: signed reports without names, with the images they are of; data/report_studies.py reads it."""
    from nlp.deidentify import deidentify

    rows = []
    with store.read() as tx:
        for draft in tx.find("drafts", status=list(SIGNED), order=["id"]):
            study = tx.one("studies", id=draft["study_id"])
            assert study is not None
            names, sections = names_of(tx, draft["id"]), draft["record"]["sections"]
            text = "\n\n".join(f"{name.upper()}: {deidentify(sections[name], names)}" for name in SECTIONS if sections.get(name, "").strip())
            kept = tx.find("instances", study_id=study["id"], superseded=False, order=["id"])
            images = [row["path"] for row in kept if row["source"] != OURS]
            patient = hashlib.sha256(f"{store.home}:{study['patient_id'] or study['id']}".encode()).hexdigest()[:16]
            rows.append({"id": draft["id"], "patient": patient, "text": text, "images": images})
    return write_lines(store.home, "reports.jsonl", iter(rows))


def write_lines(home: Path, name: str, rows: Iterator[dict[str, Any]]) -> Path:
    folder = home / "learning"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, partial = folder / name, folder / f"{name}.part"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    os.replace(partial, path)
    return path


def train_from_signatures(store: Store, report: Callable[..., None]) -> dict[str, Any]:
    """Export, and teach a decoder of its own the signed sentences besides the shipped wordings; its figures and folder.

    Raises: InputError when there are too few sentences.
    """
    path, exported = export(store)
    if exported["sentences"] < SENTENCES_MIN:
        raise InputError(f"the store has {exported['sentences']} sentences to learn from, at least {SENTENCES_MIN} are needed; sign more drafts")
    train = import_module("vision.train_report").main
    out = store.home / "models" / "report" / f"local-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    figures = train(out=out, pairs=taught(store)[0], report=report)
    return {"exported": exported, "folder": str(out), "figures": figures}
