"""What an earlier study of the same patient measured, beside the findings of this one."""
from collections.abc import Sequence
from dataclasses import replace

from data.findings import FINDINGS
from data.records import Finding, Prior, PriorStudy, Study


def with_priors(findings: Sequence[Finding], study: Study, modality: str, priors: Sequence[PriorStudy]) -> tuple[Finding, ...]:
    """Each finding with the latest earlier measurement of the same finding on the same side, by the same modality.

    A prior of another or no patient, of the same day or later, or without its date counts for nothing.
    """
    own = those_of(study, modality, priors)
    return tuple(replace(f, prior=next((seen for p in own if (seen := measured_in(p, f)) is not None), None)) for f in findings)


def those_of(study: Study, modality: str, priors: Sequence[PriorStudy]) -> list[PriorStudy]:
    """The priors that count, newest first."""
    return sorted((p for p in priors if study.patient.id and p.patient_id == study.patient.id and p.study != study.id and p.date and study.date
                   and p.date < study.date and p.modality in ("", modality)), key=lambda p: p.date, reverse=True)


def not_told_again(prior: PriorStudy, findings: Sequence[Finding]) -> list[Finding]:
    """What an earlier study stated, and these findings neither have on that side nor deny; what denies a haemorrhage denies each kind of it."""
    told = [f for f in findings if f.band != "omit"]
    denied = {f.code for f in told if not f.present}
    lost = [old for old in prior.findings if old.present and old.band == "state" and not denied & {old.code, parent_of(old.code)}
            and not any(f.present and old.code in (f.code, parent_of(f.code)) and sides_meet(f.side, old.side) for f in told)]
    kinds = {parent_of(old.code) for old in lost}
    return [old for old in lost if old.code not in kinds]          # its kinds name it


def parent_of(code: str) -> str:
    return FINDINGS[code].parent if code in FINDINGS else ""


def sides_meet(one: str | None, other: str | None) -> bool:
    return one == other or not {one, other} <= {"left", "right"}


def measured_in(prior: PriorStudy, finding: Finding) -> Prior | None:
    """The finding in an earlier study: what is present on the same side, or that it was seen to be absent; None when not told.

    What denies a haemorrhage denies each kind of it; a kind that was there answers for the haemorrhage. What was only possible cannot have resolved.
    """
    told = [f for f in prior.findings if f.band == "state" or (f.band == "hedge" and finding.present)]
    same = [f for f in told if f.code == finding.code]
    parent = parent_of(finding.code)
    there = [f for f in same if f.present and (finding.side is None or f.side is None or f.side == finding.side)]
    if there:
        one = max(there, key=lambda f: (f.side == finding.side, f.probability))
        if one.band == "hedge":
            return Prior(prior.study, prior.date)       # how much there was of what was only possible is not known
        if finding.side is None and finding.code in FINDINGS and FINDINGS[finding.code].side:
            return Prior(prior.study, prior.date, True, count=one.count)        # on which side is not known: it may be another one
        return Prior(prior.study, prior.date, True, one.size_mm, one.volume_ml, one.count)
    if any(f.present and parent_of(f.code) == finding.code for f in told):
        return Prior(prior.study, prior.date)
    if any(not f.present and f.band == "state" for f in told if f.code in (finding.code, parent)):
        return Prior(prior.study, prior.date, present=False)
    return None
