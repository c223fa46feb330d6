"""The text path: an order becomes ranked protocols, a contrast decision, flags, urgency and a disposition."""
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.book import Book, Protocol, read_book
from data.errors import ModelError
from data.model_files import MODELS
from data.records import Contrast, Disposition, Evidence, Flag, Order, Ranked, Suggestion
from nlp.instructions import without_instructions
from nlp.retrieval import Retrieval
from nlp.safety import another_person, check

RETRIEVAL_SHARPNESS = 30.0      # logits per unit of cosine when there is no model: chosen on the authored orders
SHOWN = 10
SMALL_WORDS = {"and", "with", "the", "for", "without", "line", "first"}
ALWAYS_REVIEW = {"pregnancy", "implant_mri_unsafe", "duplicate_recent_exam", "low_value"}
CONTRASTS: tuple[Contrast, ...] = ("none", "with", "without_and_with")
FOREIGN = re.compile(r"\b(und|mit|der|das|seit|auf|nicht|bei|verdacht|oder|nach|heute|schmerzen|patientin?|de|la|el|los|por|desde|una|dolor|"
                     r"sospecha|del|paciente|le|les|des|avec|depuis|pour|une|dans|douleur|della|dopo|"
                     r"sospetto|met|voor|het|een|sinds|og|med|czy|nie)\b", re.I)
# hazards that the rules read in English alone
FOREIGN_HAZARD = re.compile(r"schrittmacher|schwanger|niereninsuff|kontrastmittel|stimulateur|enceinte\b|insuffisance rénale|marcapasos|"
                            r"embarazad|insuficiencia renal|alergia|gravidanza|incinta|zwanger|allergisch|nierfalen", re.I)
ENGLISH = re.compile(r"\b(the|and|with|for|of|to|no|on|in|at|is|was|after|since|has|not|a|pain|pt|hx|eval|left|right)\b", re.I)
LIKELY, HAZARD = 5, 0.25
WORDS_MIN = 3           # an order of fewer is a code or a word
OF_THE_ORDER = {"ordered_exam_mismatch", "low_value", "missing_info", "laterality_conflict", "duplicate_recent_exam"}   # the leader's alone
# a subarachnoid haemorrhage until shown otherwise, whatever else the order says. ACEP clinical policy on headache 2019 (Ann Emerg Med 74:e41)
ALWAYS_URGENT = re.compile(r"(?<!no )(?<!not )(?<!denies )(?<!without )\b(thunderclap|worst headache of (his|her|my|their|the) life)\b", re.I)
RED_FLAGS = re.compile(
    r"\b(stat|emergen\w*|acute(ly)?|sudden(ly)?|neck stiff\w*|worst h(ead)?ache?|thunderclap|lkw|last known well|code stroke|nihss|aphasi\w*|gcs"
    r"|blown pupil|"
    r"herniat\w*|unresponsive|obtunded|drows\w*|trauma|mvc|saddle|retention|cord compression|abscess|meningitis|status epilepticus|"
    r"non-accidental|papill?o?edema|vision loss|bleed|haemorrhage|hemorrhage|dissection|stroke)\b", re.I)


class Suggester:
    """Book, rules and, when there is one, the trained classifier; without it retrieval and rules still answer."""

    def __init__(self, book: Book, classifier: Any = None) -> None:
        self.book, self.classifier = book, classifier
        self.config: dict[str, Any] = classifier.calibration if classifier else {}
        self.retrieval = Retrieval(book)
        self.protocols = self.retrieval.protocols

    @classmethod
    def load(cls, folder: Path | None = None, device: str = "cpu", book: Book | None = None, model: bool = True) -> "Suggester":
        """The shipped model, or another `folder`; where there is none, or with `model=False`, book and rules answer alone."""
        book = book or read_book()
        folder = folder or MODELS / "protocol"
        if not model or not folder.exists():
            return cls(book)
        from nlp.classifier import Classifier  # torch and transformers take seconds to import

        classifier = Classifier.load(folder, device)
        if not {"slope", "conformal_threshold", "urgent_threshold"} <= classifier.calibration.keys():
            raise ModelError(f"{folder}/config.json has no calibration; train again with `wetread train protocol`")
        return cls(book, classifier)

    def suggest(self, order: Order) -> Suggestion:
        return self.suggest_many([order])[0]

    def suggest_many(self, orders: list[Order]) -> list[Suggestion]:
        """One suggestion an order, in the order given; any text is answered, none raises."""
        if not orders:
            return []
        orders = [replace(order, text=without_instructions(order.text)) for order in orders]
        if self.classifier is None:
            logits = self.retrieval.scores(orders) * RETRIEVAL_SHARPNESS
            chance = np.exp(logits - logits.max(1, keepdims=True))
            chance /= chance.sum(1, keepdims=True)
            return [self._one(order, chance[i], red_flag_probability(order), None, ()) for i, order in enumerate(orders)]
        found = self.classifier.predict(orders, self.book)
        return [self._one(order, found.probability[i], float(found.urgent[i]), CONTRASTS[int(found.contrast[i].argmax())], found.nearest[i])
                for i, order in enumerate(orders)]

    def _one(self, order: Order, probability: NDArray[np.floating], urgent: float, contrast: Contrast | None,
             nearest: tuple[str, ...]) -> Suggestion:
        by_rank = np.argsort(-probability, kind="stable")
        top = self.book.protocols[self.protocols[by_rank[0]]]
        flags = flags_of(order, [(self.book.protocols[self.protocols[i]], float(probability[i])) for i in by_rank[:LIKELY]])
        chosen = [i for i in by_rank if probability[i] >= self.config.get("conformal_threshold", 0.01)] or [by_rank[0]]
        # a contrast decision that the order's own words contradict is a person's
        sure = probability[by_rank[0]] >= self.config.get("automatic", {}).get(top.id, 2.0) and contrast == top.contrast
        disposition, question = dispose(flags, order, bool(sure))
        matched, spans = indications(order, top.indications)
        if self.classifier is not None:
            words = self.classifier.words_for(order, top.id)
            spans = [Evidence(order.text[start:end], start, end) for start, end in sorted(words)]
        return Suggestion(
            ranked=tuple(Ranked(self.protocols[i], round(float(probability[i]), 4)) for i in by_rank[:SHOWN]),
            set=tuple(self.protocols[i] for i in chosen),
            contrast=top.contrast,      # type: ignore[arg-type]    # the book's reader allows these three alone
            flags=flags,
            urgent=urgent >= self.config.get("urgent_threshold", 0.5) or bool(ALWAYS_URGENT.search(order.text)),
            urgent_probability=round(urgent, 4),
            disposition=disposition,
            question=question,
            evidence=tuple(spans) + tuple(e for flag in flags for e in flag.evidence if e.start >= 0),
            indications=matched,
            nearest=nearest,
            model=self.classifier.version if self.classifier else "",
            book=self.book.version,
        )


def flags_of(order: Order, likely: list[tuple[Protocol, float]]) -> tuple[Flag, ...]:
    """Flags given the leading protocol, and hazards of the next ones where HAZARD of the probability raises them: another of the set may be taken."""
    found = check(order, likely[0][0])
    have, total = {flag.code for flag in found} | OF_THE_ORDER, sum(p for _, p in likely)
    raised: dict[str, tuple[float, Flag]] = {}
    for protocol, p in likely[1:]:
        if p >= 0.02:
            for flag in check(order, protocol):
                if flag.code not in have:
                    raised[flag.code] = (raised.get(flag.code, (0.0, flag))[0] + p, flag)
    return found + tuple(flag for p, flag in raised.values() if p >= HAZARD * total)


def dispose(flags: tuple[Flag, ...], order: Order, sure: bool) -> tuple[Disposition, str]:
    """Automatic only when the protocol's measured threshold is reached, nothing on ALWAYS_REVIEW is there, no flag of a hazard says stop or warn,
    and the order says who the patient is and more than a code."""
    codes = {flag.code for flag in flags}
    if foreign(order.text):
        return "needs-information", "The order is not in English and was not understood: flags may be missing. What is the clinical question?"
    if "missing_info" in codes:
        return "needs-information", "What is the clinical question: symptoms, their side and since when?"
    if another_person(order):
        return "needs-information", "The text speaks of another age or sex than the record. Is this the right patient?"
    if "laterality_conflict" in codes:
        return "needs-information", "Which side is meant? The clicked exam and the text disagree."
    if any(flag.code == "implant_mri_check" and flag.severity == "warn" for flag in flags):
        return "needs-information", "Which make and model is the implant?"
    child_asleep = "anesthesia_sedation" in codes and order.age_years is not None and order.age_years < 16
    known = order.age_years is not None and order.patient.sex in ("F", "M") and len(order.text.split()) >= WORDS_MIN
    hazard = any(flag.severity != "inform" and flag.code != "ordered_exam_mismatch" for flag in flags)
    if sure and known and not child_asleep and not codes & ALWAYS_REVIEW and not hazard:
        return "auto", ""
    return "review", ""


def foreign(text: str) -> bool:
    """Another language: its small words outnumber the English ones, a hazard is named in it, or most letters are of another script."""
    some = text[:2000]
    letters = [c for c in some if c.isalpha()]
    if letters and sum(not c.isascii() and ord(c) > 0x2ff for c in letters) > 0.5 * len(letters):
        return True
    if FOREIGN_HAZARD.search(some):
        return True
    theirs = len(FOREIGN.findall(some))
    return theirs >= 2 and theirs > 2 * len(ENGLISH.findall(some))


def red_flag_probability(order: Order) -> float:
    """Without a model: priority and red-flag words, a logistic score by hand."""
    hits = len({m[0].lower() for m in RED_FLAGS.finditer(order.text)})
    score = -1.3 + 1.0 * min(hits, 3) + {"STAT": 1.6, "URGENT": 0.6, "ROUTINE": -0.6}[order.priority]
    return 1 / (1 + math.exp(-score))


def indications(order: Order, known: tuple[str, ...]) -> tuple[tuple[str, ...], list[Evidence]]:
    """Indications of the book whose words stand in the order, and where."""
    matched, spans = [], []
    text = order.text[:20_000]
    for indication in known:
        words = [w for w in re.findall(r"[A-Za-z][A-Za-z-]{2,}", indication) if w.lower() not in SMALL_WORDS]
        hits = [m for w in words if (m := re.search(rf"\b{re.escape(w)}", text, re.I))]
        if words and len(hits) * 2 >= len(words):
            matched.append(indication)
            spans += [Evidence(m[0], m.start(), m.end()) for m in hits]
    return tuple(matched), spans
