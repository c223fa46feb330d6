"""`wetread draft`: studies from disk to draft lines."""
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.dicom.sr import write_report
from api.prior_studies import check_priors
from data.errors import OutputError, StudyRefused, WetreadError
from data.head_images import write_nifti
from data.images import open_study
from data.records import Draft, Order, PriorStudy, Refusal, Study, Volume, as_json
from vision.reporter import Reporter, modality_of


def draft_lines(paths: list[Path], order: Order | None, device: str, sr: Path | None, failed: list[str],
                decoder: str = "", priors: Sequence[tuple[Path, PriorStudy]] = (), masks: Path | None = None) -> Iterator[dict[str, Any]]:
    """One line a readable study, in the order given; what cannot be read is named on standard error and in `failed`."""
    reporter = Reporter.load(device=device, decoder=decoder)
    if masks is not None and masks.exists() and not masks.is_dir():
        raise OutputError(f"--masks {masks} is a file, expected a folder; name a folder")
    for n, path in enumerate(paths, 1):
        try:
            study = open_study(path)
            check_priors(study, modality_of(study), priors)
            try:
                draft, outlined = reporter.draft(study, order, [prior for _, prior in priors])
                if masks is not None:
                    draft = with_masks(draft, study, outlined, masks, n)
            except StudyRefused as error:
                draft = Draft(study.id, "draft", Refusal(error.reason, str(error)), (), {}, (), {})
            if sr is not None:
                write_report(draft, path, sr)
        except WetreadError as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed.append(str(path))
            continue
        yield {**as_json(draft), "patient_id": study.patient.id, "date": study.date, "file": str(path), "text": plain_text(draft, path)}


def with_masks(draft: Draft, study: Study, masks: Mapping[str, NDArray[np.uint8]], folder: Path, n: int = 1) -> Draft:
    """The draft with its masks written as FOLDER/N_STUDY_NAME.nii.gz, each on the series that its evidence names; raises OutputError.

    Studies of one name are kept apart by `n`, their place in the call, and nothing is written over: it may be another patient's.
    """
    series = {volume.series_uid: volume for volume in study.volumes}
    paths = {}
    for finding in draft.findings:
        for seen in finding.evidence:
            if seen.mask not in {"", *paths} and (volume := series.get(seen.series_uid)) is not None:      # mass effect points to its bleed's mask
                paths[seen.mask] = folder / f"{n}_{re.sub(r'[^A-Za-z0-9._-]', '_', study.id)[:64]}_{seen.mask}.nii.gz"
                write_mask(masks[seen.mask], volume, paths[seen.mask])
    return replace(draft, findings=tuple(
        replace(f, evidence=tuple(replace(seen, mask=str(paths.get(seen.mask, seen.mask))) for seen in f.evidence)) for f in draft.findings))


def write_mask(mask: NDArray[np.uint8], volume: Volume, path: Path) -> None:
    if path.exists():
        raise OutputError(f"--masks {path} is there already and may be another study's; name an empty folder")
    affine = volume.affine
    if affine is None and volume.spacing_mm:
        affine = np.diag([*volume.spacing_mm[::-1], 1.0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, mask, affine)
    except OSError as error:
        raise OutputError(f"--masks {path} cannot be written ({error.strerror}); name a folder with room that you may write to") from None


def plain_text(draft: Draft, path: Path) -> str:
    head = f"STUDY {draft.study} ({path.name}), AI DRAFT, not signed"
    if draft.refused:
        return f"{head}\nNo draft: {draft.refused.reason} [{draft.refused.code}]"
    return "\n".join([head, *(f"{name.upper()}: {words}" for name, words in draft.sections.items() if words)])
