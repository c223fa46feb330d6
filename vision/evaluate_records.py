"""Drafts of somebody's studies beside the reports that were written on them."""
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from data.dicom import read_study
from data.errors import ImageError, InputError, SeriesError, StudyRefused
from data.images import PICTURES, open_study
from data.records import Finding, Study
from data.report_studies import StudyRecord, read_studies, split_by_patient
from data.simulator import LABELS
from nlp.assertions import NOT_NOW, read_report, sections
from nlp.sentences import render
from nlp.text_metrics import text_metrics
from vision.report_scores import CONSTANT, haemorrhage_table, score, shuffled
from vision.reporter import Reporter


def on_records(reporter: Reporter, folder: Path, studies: int, seed: int, report: Callable[..., None]) -> dict[str, Any]:
    """The test studies of a folder (else those of its val split): what their reports state against what the drafts state.

    A study that is refused says nothing, in every row; the truth is what the re-reader finds in the reference, no more.
    Raises: InputError when there is nothing to measure on.
    """
    records, left_out = split_by_patient(read_studies(folder))
    split = next((name for name in ("test", "val") if any(row.split == name for row in records)), None)
    if split is None:
        raise InputError(f"--data {folder} has neither a test nor a val study left; {left_out} were left out")
    mine = [row for row in records if row.split == split]
    mine = Random(seed).sample(mine, min(studies, len(mine)))
    texts, outcomes = [], Counter()
    for i, row in enumerate(mine):
        text, outcome = drafted(reporter, row)
        texts.append(text)
        outcomes[outcome] += 1
        report(i + 1, len(mine), phase="studies")
    truths = [findings_of(row.text) for row in mine]
    codes = sorted({f.code for truth in truths for f in truth} | {a.code for text in texts for a in read_report(text)})
    rows = {"drafts": texts, "constant report": [CONSTANT] * len(mine), "shuffled images": shuffled(texts, seed),
            "true labels": [" ".join(render(f) for f in truth) for truth in truths]}
    references = [said_now(row.text) for row in mine]
    splits = Counter(row.split for row in records)
    return {"source": mine[0].source, "split": split, "studies": len(mine), "seed": seed, "codes": codes, "splits": dict(splits),
            "left out so that nothing leaks": left_out, "outcomes": dict(outcomes.most_common()),
            **{name: score(said, truths, codes) for name, said in rows.items()},
            "haemorrhage": {name: haemorrhage_table(said, truths) for name, said in rows.items()},
            "distinct drafts": len({text for text in texts if text}),
            "text metrics": {name: text_metrics(said, references) for name, said in rows.items()}}


def drafted(reporter: Reporter, row: StudyRecord) -> tuple[str, str]:
    """(what the draft says, "drafted") or ("", why there is none)."""
    try:
        sections_of = reporter.draft(study_of(row))[0].sections
    except StudyRefused as refused:
        return "", f"refused: {refused.reason}"
    except (ImageError, SeriesError) as error:
        return "", f"not readable: {error.code}"
    return " ".join(filter(None, (sections_of["findings"], sections_of["impression"]))), "drafted"


def study_of(row: StudyRecord) -> Study:
    """All images of one record as one study; several pictures are so many volumes of it."""
    if len(row.images) == 1:
        return open_study(row.images[0])
    if any(path.suffix.lower() in (*PICTURES, ".gz", ".nii") for path in row.images):
        return Study(row.id, tuple(volume for path in row.images for volume in open_study(path).volumes))
    return read_study(list(row.images))


def findings_of(text: str) -> tuple[Finding, ...]:
    """What a report states, as a graph: its present and possible findings, the last mention of each."""
    said = {a.code: a for a in read_report(text) if a.context == "now"}
    return tuple(Finding(f"r{i}", code, LABELS.get(code, code.replace("_", " ")), a.polarity != "absent", 0.5 if a.polarity == "possible" else 1.0,
                         a.side, size_mm=a.size_mm, volume_ml=a.volume_ml, band="hedge" if a.polarity == "possible" else "state")
                 for i, (code, a) in enumerate(said.items()))


def said_now(text: str) -> str:
    """The reference without its history, technique and headings of them: findings and impression as written."""
    parts: Sequence[tuple[str, int, int]] = sections(text)
    return "\n".join(text[start:end].strip() for name, start, end in parts if name not in NOT_NOW).strip() or text
