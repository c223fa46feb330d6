"""The image path: a study -> findings graph -> sentences, each read again before it is believed -> draft."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InputError, ModelError, StudyRefused
from data.findings import FINDINGS
from data.model_files import MODELS, from_int8, load_model
from data.records import Draft, Finding, Order, PriorStudy, Sentence, Study
from nlp.assertions import says
from nlp.decoder import DecoderConfig, ReportDecoder
from nlp.decoder_hf import PREFIX, HuggingFaceDecoder
from nlp.grammar import spelling_of
from nlp.impression import compose_impression, day
from nlp.sentences import NO_FINDING, fill, group_findings, number, render, render_absent
from vision.findings import FindingModel, Findings, why_not
from vision.mr_findings import MrFindingModel
from vision.mr_series import choose, role_of
from vision.priors import not_told_again, those_of, with_priors

SECTIONS = ("exam", "indication", "technique", "comparison", "findings", "impression")


class Reporter:
    """Drafts for non-contrast head CT and for head MR; without decoder weights every sentence is its plain template."""

    def __init__(self, finder: FindingModel, decoder: ReportDecoder | HuggingFaceDecoder | None, version: str = "",
                 finder_version: str = "", mr: MrFindingModel | None = None) -> None:
        self.finder, self.decoder, self.version, self.finder_version, self.mr = finder, decoder, version, finder_version, mr

    @classmethod
    def load(cls, folder: Path | None = None, device: str = "cpu", decoder: str = "") -> "Reporter":
        """Models from `folder`/findings, /report, /mr_findings and the shipped heads; raises ModelError when the CT model is missing or altered."""
        folder = folder or MODELS
        finder = FindingModel.load(folder / "findings", device)
        finder_version = str(load_model(folder / "findings")[0].get("version", ""))
        mr = MrFindingModel.load(folder / "mr_findings", device) if (folder / "mr_findings").exists() else None
        if decoder:
            if not decoder.startswith(PREFIX):
                raise InputError(f"--decoder is '{decoder}', expected hf:FOLDER, the folder of a Hugging Face causal model on disk")
            own = HuggingFaceDecoder.load(Path(decoder.removeprefix(PREFIX)))
            return cls(finder, own.to(device), decoder, finder_version, mr)
        if not (folder / "report").exists():
            return cls(finder, None, finder_version=finder_version, mr=mr)
        shipped, version = load_decoder(folder / "report")
        return cls(finder, shipped.to(device), version, finder_version, mr)

    def draft(self, study: Study, order: Order | None = None, priors: Sequence[PriorStudy] = (),
              seed: int | None = None) -> tuple[Draft, dict[str, NDArray[np.uint8]]]:
        """A draft and its masks by name, each on the series that its evidence names; raises StudyRefused with the reason."""
        modality = modality_of(study)
        found = self.find(study, modality)
        graph = with_priors(found.findings, study, modality, priors)
        groups = group_findings(graph)
        asked = asked_text(order, study)
        findings, replaced = self.word(groups, found.image_tokens, asked, seed)
        sentences = (
            Sentence(exam(study, found, modality), "exam"),
            *([Sentence(indication(order, study), "indication")] if order and order.text.strip() else []),
            *(Sentence(spelling_of(asked)(text), "technique") for text in technique(study, found, modality)),
            Sentence(comparison(graph, those_of(study, modality, priors)), "comparison"),
            *(findings or [Sentence(NO_FINDING, "findings")]),
            *impression(graph, asked),
        )
        sections = {name: " ".join(s.text for s in sentences if s.section == name) for name in SECTIONS}
        version = self.mr.version if modality == "MR" and self.mr else self.finder_version
        model = {"findings": version, "report": self.version or "templates", "sentences": len(findings), "replaced_by_template": replaced,
                 "not_assessed": list(found.not_assessed)}
        priority = max((f.probability for f in graph if f.present and f.critical and f.band != "omit"), default=0.0)
        return Draft(study.id, "draft", None, graph, sections, sentences, model, priority, modality), found.masks

    def find(self, study: Study, modality: str) -> Findings:
        if modality == "CT":
            return self.finder.find(study)
        if self.mr is None:
            raise StudyRefused("modality", "the study is MR, and no calibration for head MR is installed; send non-contrast head CT")
        return self.mr.find(study)

    def word(self, groups: list[list[Finding]], image_tokens: NDArray[np.float32], order_text: str = "",
             seed: int | None = None) -> tuple[list[Sentence], int]:
        """One sentence a group, spelt as the order is; one that does not read back as its group is replaced by the template, and counted.

        Another seed draws other words for the same facts.
        """
        written: dict[int, str] = {}
        if self.decoder is not None:
            known = [i for i, group in enumerate(groups) if all(f.code in self.decoder.config.codes for f in group)]    # learnt by these weights
            rows = self.decoder.write([groups[i] for i in known], torch.from_numpy(np.ascontiguousarray(image_tokens, np.float32))[None],
                                      order_text, seed)
            written = {i: text for i, (text, _) in zip(known, rows, strict=True)}
        sentences, replaced, spelt = [], 0, spelling_of(order_text)
        for i, group in enumerate(groups):
            ids, sure = tuple(f.id for f in group), min(f.probability if f.present else 1 - f.probability for f in group)
            text = spelt(fill(written[i], group[0])) if i in written else ""
            if i in written and says(text, group):
                sentences.append(Sentence(text, "findings", ids, sure, "model"))
                continue
            replaced += i in written
            plain = spelt(render(group[0]) if group[0].present else render_absent(group))
            assert says(plain, group), "a template must read back as its finding"
            sentences.append(Sentence(plain, "findings", ids, sure, "template"))
        return sentences, replaced


def impression(findings: Sequence[Finding], order_text: str = "") -> list[Sentence]:
    said = compose_impression(findings, order_text)
    return [Sentence(row.text, "impression", row.findings, row.confidence, "template") for row in said]


def asked_text(order: Order | None, study: Study) -> str:
    """The order's words, unless it is another patient's."""
    return "" if order is None or not same_patient(order, study) else order.text.strip()


def same_patient(order: Order, study: Study) -> bool:
    return not order.patient.id or not study.patient.id or order.patient.id == study.patient.id


def indication(order: Order, study: Study) -> str:
    """The order's text; never the words of another patient's order."""
    if not same_patient(order, study):
        return "Not taken over: the order given is for another patient than the images."
    return order.text.strip()


def modality_of(study: Study) -> str:
    """CT or MR: whichever has a series that can be read, CT first; with neither, MR where any sequence of head MR is known."""
    ct = [volume for volume in study.volumes if volume.units == "HU" or volume.modality == "CT"]
    if any(why_not(volume) is None for volume in ct):
        return "CT"
    return "MR" if any(volume.modality == "MR" or role_of(volume) for volume in study.volumes if volume not in ct) else "CT"


def exam(study: Study, found: Findings, modality: str) -> str:
    if modality == "MR":
        series = choose(study.volumes)[0]
        before = "without and with" if len(series) > 1 else "with"
        return f"MRI brain {before if 'T1CE' in series else 'without'} contrast."
    return "CT head without contrast." if study.volumes[found.volume].spacing_mm else "Single CT head picture."


def comparison(graph: Sequence[Finding], priors: Sequence[PriorStudy]) -> str:
    """The earlier studies that a finding was measured in, newest first, whose measurements they are, and what of the newest nothing tells now."""
    if not priors:
        return "No prior study was read."
    signed = {prior.study for prior in priors if prior.signed}
    used = sorted({(f.prior.date, f.prior.study in signed) for f in graph if f.prior is not None}, reverse=True)
    studies = [f"{day(date)} (measured by AI, {'report signed' if by_person else 'not signed'})" for date, by_person in used]
    newest = priors[0]
    first = f"Study of {' and '.join(studies)}." if studies else f"Study of {day(newest.date)}: nothing of it was measured here."
    lost = not_told_again(newest, graph)
    names = ", ".join(" ".join(filter(None, (f.side, f.label))) + (f" ({number(f.volume_ml)} mL)" if f.volume_ml else "") for f in lost)
    return f"{first} Stated on {day(newest.date)} and neither found nor denied here: {names}." if lost else first


def technique(study: Study, found: Findings, modality: str) -> list[str]:
    """The series that were read, what the reader did to them, and what nobody looked for."""
    rows = []
    if modality == "MR":
        for role, i in choose(study.volumes)[0].items():
            volume = study.volumes[i]
            assert volume.spacing_mm is not None
            rows.append(f"{role}: {len(volume.pixels)} {volume.orientation} slices, {volume.spacing_mm[0]:.1f} mm apart.")
        if tesla := study.volumes[found.volume].tags.get("MagneticFieldStrength", ""):
            rows.append(f"{tesla} T.")
    elif (volume := study.volumes[found.volume]).spacing_mm:
        rows.append(f"Read on {len(volume.pixels)} axial slices, {volume.spacing_mm[0]:.1f} mm apart.")
    rows += [f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in dict.fromkeys(found.notes) if note]
    looked_for = {finding.code for finding in found.findings}
    names = [FINDINGS[code].label for code in found.not_assessed if code in looked_for]
    rows += [f"Looked for, undecided: {', '.join(names)}."] if names else []
    # the others stand by name in the draft's model.not_assessed
    return rows + (["Nothing else was looked for."] if len(names) < len(found.not_assessed) else [])


def load_decoder(folder: Path) -> tuple[ReportDecoder, str]:
    config, tensors = load_model(folder)
    try:
        decoder = ReportDecoder(DecoderConfig(**{**config["decoder"], "words": tuple(config["decoder"]["words"]),
                                                 "codes": tuple(config["decoder"]["codes"])}))
        decoder.load_state_dict({name: torch.from_numpy(value) for name, value in from_int8(tensors).items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder} is no report decoder of this version ({type(error).__name__}); "
                         "train it again with wetread train report") from None
    return decoder.eval(), str(config.get("version", ""))
