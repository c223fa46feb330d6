"""The image path: a study -> findings graph -> sentences, each read again before it is believed -> draft."""
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InputError, ModelError
from data.model_files import MODELS, load_model
from data.records import Draft, Finding, Order, Sentence, Study, Volume
from nlp.assertions import says
from nlp.decoder import DecoderConfig, ReportDecoder
from nlp.decoder_hf import PREFIX, HuggingFaceDecoder
from nlp.impression import compose_impression
from nlp.sentences import fill, group_findings, render, render_absent
from vision.findings import FindingModel, Findings

SECTIONS = ("exam", "indication", "technique", "comparison", "findings", "impression")


class Reporter:
    """Drafts for non-contrast head CT; without decoder weights every sentence is its plain template."""

    def __init__(self, finder: FindingModel, decoder: ReportDecoder | HuggingFaceDecoder | None, version: str = "", finder_version: str = "") -> None:
        self.finder, self.decoder, self.version, self.finder_version = finder, decoder, version, finder_version

    @classmethod
    def load(cls, folder: Path | None = None, device: str = "cpu", decoder: str = "") -> "Reporter":
        """Models from `folder`/findings and `folder`/report; raises ModelError when the finding model is missing or altered."""
        folder = folder or MODELS
        finder = FindingModel.load(folder / "findings", device)
        finder_version = str(load_model(folder / "findings")[0].get("version", ""))
        if decoder:
            if not decoder.startswith(PREFIX):
                raise InputError(f"--decoder is '{decoder}', expected hf:FOLDER, the folder of a Hugging Face causal model on disk")
            own = HuggingFaceDecoder.load(Path(decoder.removeprefix(PREFIX)))
            return cls(finder, own.to(device), decoder, finder_version)
        if not (folder / "report").exists():
            return cls(finder, None, finder_version=finder_version)
        shipped, version = load_decoder(folder / "report")
        return cls(finder, on(shipped, device), version, finder_version)

    def draft(self, study: Study, order: Order | None = None,
              seed: int | None = None) -> tuple[Draft, dict[str, NDArray[np.uint8]]]:
        """A draft and its masks by name, each of the volume's shape; raises StudyRefused with the reason."""
        found = self.finder.find(study)
        volume = study.volumes[found.volume]
        groups = group_findings(found.findings)
        findings, replaced = self.word(groups, found.image_tokens, asked_text(order, study), seed)
        sentences = (
            Sentence("CT head without contrast." if volume.spacing_mm else "Single CT head picture.", "exam"),
            *([Sentence(indication(order, study), "indication")] if order and order.text.strip() else []),
            *(Sentence(text, "technique") for text in technique(volume, found)),
            Sentence("No prior study was read.", "comparison"),
            *findings,
            *impression(groups, asked_text(order, study)),
        )
        sections = {name: " ".join(s.text for s in sentences if s.section == name) for name in SECTIONS}
        model = {"findings": self.finder_version, "report": self.version or "templates", "sentences": len(findings), "replaced_by_template": replaced}
        priority = max((f.probability for f in found.findings if f.present and f.critical and f.band != "omit"), default=0.0)
        return Draft(study.id, "draft", None, found.findings, sections, sentences, model, priority), found.masks

    def word(self, groups: list[list[Finding]], image_tokens: NDArray[np.float32], order_text: str = "",
             seed: int | None = None) -> tuple[list[Sentence], int]:
        """One sentence a group; one that does not read back as its group is replaced by the template, and counted.

        Another seed draws other words for the same facts.
        """
        written: dict[int, str] = {}
        if self.decoder is not None:
            known = [i for i, group in enumerate(groups) if all(f.code in self.decoder.config.codes for f in group)]    # learnt by these weights
            rows = self.decoder.write([groups[i] for i in known], torch.from_numpy(np.ascontiguousarray(image_tokens, np.float32))[None],
                                      order_text, seed)
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


def impression(groups: list[list[Finding]], order_text: str = "") -> list[Sentence]:
    said = compose_impression([finding for group in groups for finding in group], order_text)
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
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder} is no report decoder of this version ({type(error).__name__}); "
                         "train it again with wetread train report") from None
    return decoder.eval(), str(config.get("version", ""))


def on(decoder: ReportDecoder, device: str) -> ReportDecoder:
    """In bf16 on a GPU; on the CPU as it is: at this width int8 saves nothing."""
    return decoder.to(device, torch.bfloat16) if device.startswith("cuda") else decoder
