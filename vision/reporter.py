"""The image path: a study -> findings graph -> sentences, each read again before it is believed -> draft."""
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import ModelError
from data.model_files import MODELS, load_model
from data.records import Draft, Finding, Order, Sentence, Study, Volume
from nlp.assertions import says
from nlp.decoder import DecoderConfig, ReportDecoder
from nlp.sentences import fill, group_findings, render, render_absent
from vision.findings import FindingModel, Findings

SECTIONS = ("exam", "indication", "technique", "comparison", "findings", "impression")


class Reporter:
    """Drafts for non-contrast head CT; without decoder weights every sentence is its plain template."""

    def __init__(self, finder: FindingModel, decoder: ReportDecoder | None, version: str = "", finder_version: str = "") -> None:
        self.finder, self.decoder, self.version, self.finder_version = finder, decoder, version, finder_version

    @classmethod
    def load(cls, folder: Path | None = None, device: str = "cpu") -> "Reporter":
        """Models from `folder`/findings and `folder`/report; raises ModelError when the finding model is missing or altered."""
        folder = folder or MODELS
        finder = FindingModel.load(folder / "findings", device)
        finder_version = str(load_model(folder / "findings")[0].get("version", ""))
        if not (folder / "report").exists():
            return cls(finder, None, finder_version=finder_version)
        decoder, version = load_decoder(folder / "report")
        return cls(finder, decoder.to(device), version, finder_version)

    def draft(self, study: Study, order: Order | None = None) -> tuple[Draft, dict[str, NDArray[np.uint8]]]:
        """A draft and its masks by name, each of the volume's shape; raises StudyRefused with the reason."""
        found = self.finder.find(study)
        volume = study.volumes[found.volume]
        groups = group_findings(found.findings)
        findings, replaced = self.word(groups, found.image_tokens)
        sentences = (
            Sentence("CT head without contrast." if volume.spacing_mm else "Single CT head picture.", "exam"),
            *([Sentence(indication(order, study), "indication")] if order and order.text.strip() else []),
            *(Sentence(text, "technique") for text in technique(volume, found)),
            Sentence("No prior study was read.", "comparison"),
            *findings,
            *impression(groups, findings),
        )
        sections = {name: " ".join(s.text for s in sentences if s.section == name) for name in SECTIONS}
        model = {"findings": self.finder_version, "report": self.version or "templates", "sentences": len(findings), "replaced_by_template": replaced}
        priority = max((f.probability for f in found.findings if f.present and f.critical and f.band != "omit"), default=0.0)
        return Draft(study.id, "draft", None, found.findings, sections, sentences, model, priority), found.masks

    def word(self, groups: list[list[Finding]], image_tokens: NDArray[np.float32]) -> tuple[list[Sentence], int]:
        """One sentence a group; one that does not read back as its group is replaced by the template, and counted."""
        written: dict[int, str] = {}
        if self.decoder is not None:
            known = [i for i, group in enumerate(groups) if all(f.code in self.decoder.config.codes for f in group)]    # learnt by these weights
            rows = self.decoder.write([groups[i] for i in known], torch.from_numpy(np.ascontiguousarray(image_tokens, np.float32))[None])
            written = {i: text for i, (text, _) in zip(known, rows, strict=True)}
        sentences, replaced = [], 0
        for i, group in enumerate(groups):
            ids, sure = tuple(f.id for f in group), min(f.probability if f.present else 1 - f.probability for f in group)
            text = fill(written[i], group[0]) if i in written else ""
            if i in written and says(text, group):
                sentences.append(Sentence(text, "findings", ids, sure, "model"))
                continue
            replaced += i in written
            plain = render(group[0]) if group[0].present else render_absent(group)
            assert says(plain, group), "a template must read back as its finding"
            sentences.append(Sentence(plain, "findings", ids, sure, "template"))
        return sentences, replaced


def impression(groups: list[list[Finding]], findings: list[Sentence]) -> list[Sentence]:
    """The present findings again, the surest first; a normal result only on its own evidence."""
    present = sorted(((s.confidence, s, group[0]) for group, s in zip(groups, findings, strict=True) if group[0].present),
                     key=lambda row: (row[2].band == "hedge", -row[0]))
    if present:
        return [Sentence(render(finding), "impression", sentence.findings, sure, "template") for sure, sentence, finding in present]
    absent = [f for group in groups for f in group if f.code == "intracranial_haemorrhage"]
    if absent:
        return [Sentence(render_absent(absent), "impression", tuple(f.id for f in absent), 1 - absent[0].probability, "template")]
    return [Sentence("No statement on haemorrhage: the evidence is not enough. Read the images.", "impression")]


def indication(order: Order, study: Study) -> str:
    """The order's text; never the words of another patient's order."""
    if order.patient.id and study.patient.id and order.patient.id != study.patient.id:
        return "Not taken over: the order given is for another patient than the images."
    return order.text.strip()


def technique(volume: Volume, found: Findings) -> list[str]:
    rows = []
    if volume.spacing_mm:
        rows.append(f"Read on {len(volume.pixels)} axial slices, {volume.spacing_mm[0]:.1f} mm apart.")
    return rows + [f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(found.notes) if note]


def load_decoder(folder: Path) -> tuple[ReportDecoder, str]:
    config, tensors = load_model(folder)
    try:
        decoder = ReportDecoder(DecoderConfig(**{**config["decoder"], "words": tuple(config["decoder"]["words"]),
                                                 "codes": tuple(config["decoder"]["codes"])}))
        decoder.load_state_dict({name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in tensors.items()})
    except (KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{folder} is no report decoder of this version ({type(error).__name__}); "
                         "train it again with wetread train report") from None
    return decoder.eval(), str(config.get("version", ""))
