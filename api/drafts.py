"""`wetread draft`: studies from disk to draft lines."""
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from api.dicom.sr import write_report
from api.prior_studies import check_priors
from data.errors import StudyRefused, WetreadError
from data.images import open_study
from data.records import Draft, Order, PriorStudy, Refusal, as_json
from vision.reporter import Reporter, modality_of


def draft_lines(paths: list[Path], order: Order | None, device: str, sr: Path | None, failed: list[str],
                decoder: str = "", priors: Sequence[tuple[Path, PriorStudy]] = ()) -> Iterator[dict[str, Any]]:
    """One line a readable study, in the order given; what cannot be read is named on standard error and in `failed`."""
    reporter = Reporter.load(device=device, decoder=decoder)
    for path in paths:
        try:
            study = open_study(path)
            check_priors(study, modality_of(study), priors)
            try:
                draft, _ = reporter.draft(study, order, [prior for _, prior in priors])
            except StudyRefused as error:
                draft = Draft(study.id, "draft", Refusal(error.reason, str(error)), (), {}, (), {})
            if sr is not None:
                write_report(draft, path, sr)
        except WetreadError as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed.append(str(path))
            continue
        yield {**as_json(draft), "patient_id": study.patient.id, "date": study.date, "file": str(path), "text": plain_text(draft, path)}


def plain_text(draft: Draft, path: Path) -> str:
    head = f"STUDY {draft.study} ({path.name}), AI DRAFT, not signed"
    if draft.refused:
        return f"{head}\nNo draft: {draft.refused.reason} [{draft.refused.code}]"
    return "\n".join([head, *(f"{name.upper()}: {words}" for name, words in draft.sections.items() if words)])
