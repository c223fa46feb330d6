"""Plain sentences for findings: one template a finding, always true to side, number, unit and polarity."""
import re
from collections.abc import Sequence
from random import Random

from data.records import Finding

# what an absent finding is called in a list of negatives; the order is the order in a report
NEGATIVES = {
    "intracranial_haemorrhage": "intracranial haemorrhage", "midline_shift": "midline shift", "mass_effect": "mass effect",
    "skull_fracture": "skull fracture",
}


def render(finding: Finding) -> str:
    """The plain template of one finding, present or absent; a hedged one says possible."""
    noun = finding.label
    if not finding.present:
        return f"No {noun}."
    if finding.code == "midline_shift":
        size = f" of {number(finding.size_mm)} mm" if finding.size_mm is not None else ""
        words = f"midline shift{size}" + (f" to the {finding.side}" if finding.side in ("left", "right") else "")
    else:
        side = {"left": "left ", "right": "right ", "bilateral": "bilateral "}.get(finding.side or "", "")
        count = f"{finding.count} " if finding.count is not None else ""
        size = "".join(f", {number(value)} {unit}" for value, unit in ((finding.size_mm, "mm"), (finding.volume_ml, "mL")) if value is not None)
        words = f"{count}{side}{noun.removesuffix('s') if finding.count == 1 and noun.endswith('bleeds') else noun}{size}"
    return (f"Possible {words}." if finding.band == "hedge" else f"{words[0].upper()}{words[1:]}.")


def render_absent(findings: Sequence[Finding]) -> str:
    """One sentence for several absent findings."""
    names = [NEGATIVES.get(finding.code, finding.label) for finding in findings]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"No {listed}."


def number(value: float) -> str:
    """One decimal, none when it says nothing: 12.0 is 12."""
    return f"{value:.1f}".removesuffix(".0")


# ---------------------------------------------------------------- wording the decoder learns

NOUNS = {
    "intracranial_haemorrhage": ("intracranial haemorrhage", "acute intracranial haemorrhage", "intracranial bleeding"),
    "epidural_haemorrhage": ("epidural haematoma", "extradural haematoma", "epidural haemorrhage"),
    "subdural_haemorrhage": ("subdural haematoma", "subdural haemorrhage", "subdural bleeding"),
    "subarachnoid_haemorrhage": ("subarachnoid haemorrhage", "subarachnoid blood", "subarachnoid bleeding"),
    "intraparenchymal_haemorrhage": ("intraparenchymal haemorrhage", "intracerebral haemorrhage", "parenchymal haematoma"),
    "intraventricular_haemorrhage": ("intraventricular haemorrhage", "intraventricular blood"),
    "midline_shift": ("midline shift", "shift of the midline structures"),
    "mass_effect": ("mass effect",),
    "skull_fracture": ("skull fracture", "calvarial fracture"),
    "acute_infarct": ("acute ischaemic infarct", "acute infarct", "acute infarction"),
    "glioma": ("intra-axial tumour of glioma type", "glioma"),
    "metastasis": ("brain metastases", "cerebral metastases"),
    "meningioma": ("extra-axial tumour of meningioma type", "meningioma"),
    "pituitary_tumour": ("pituitary tumour", "pituitary mass"),
    "flair_lesion": ("FLAIR-hyperintense lesion", "FLAIR hyperintensity"),
    "demyelinating_lesions": ("demyelinating lesions", "demyelinating plaques"),
    "white_matter_disease": ("small-vessel white matter disease", "small-vessel white matter changes"),
    "microbleeds": ("cerebral microbleeds", "microhaemorrhages"),
    "hydrocephalus": ("hydrocephalus",),
    "hippocampal_atrophy": ("hippocampal atrophy", "medial temporal atrophy"),
    "contusion": ("cerebral contusion", "brain contusion"),
    "herniation": ("brain herniation", "cerebral herniation"),
    "ventricular_enlargement": ("ventriculomegaly",),
    "pneumocephalus": ("pneumocephalus",),
    "extra_axial_collection": ("extra-axial collection", "extra-axial fluid collection"),
    "chronic_infarct": ("chronic infarct", "old infarct"),
    "encephalomalacia": ("encephalomalacia",),
    "occlusion": ("arterial occlusion",),
    "thrombosis": ("venous sinus thrombosis", "dural venous sinus thrombosis"),
    "aneurysm": ("intracranial aneurysm", "cerebral aneurysm"),
    "vascular_malformation": ("vascular malformation",),
    "mass": ("intracranial mass",),
    "oedema": ("vasogenic oedema",),
    "enhancement": ("contrast enhancement",),
    "cyst": ("intracranial cyst",),
    "infection": ("intracranial infection",),
    "atrophy": ("global cerebral atrophy", "generalised cerebral atrophy"),
    "sinus_disease": ("paranasal sinus disease",),
    "mastoid_effusion": ("mastoid effusion",),
    "postoperative_change": ("postoperative change",),
    "artefact": ("artefact",),
    "normal_variant": ("normal variant",),
}
# nouns without a singular or an article
PLAIN = (r"metastases|lesions|plaques|changes|disease|microbleeds|microhaemorrhages|hydrocephalus|atrophy|ventriculomegaly|pneumocephalus|"
         r"encephalomalacia|thrombosis|oedema|enhancement|infection|change|herniation")
NO_ARTICLE = re.compile(rf" an? ((?:<side> )?(?:[\w-]+ )*(?:{PLAIN})\b)")
STATED = ("There is a {what}.", "{what} is seen.", "{what} is present.", "Findings of {what}.")
HEDGED = ("Possible {what}.", "There may be a {what}.", "Suspected {what}; correlate clinically.", "Possible {what} is noted.")
ABSENT = ("No {what}.", "There is no {what}.", "No evidence of {what}.", "No {what} is identified.")


def paraphrase(findings: Sequence[Finding], chance: Random) -> str:
    """One of many wordings of one finding, or of several absent ones; <side> and <number> stand where the graph's own words go."""
    if not findings[0].present:
        names = [chance.choice(NOUNS[finding.code]) for finding in findings]
        listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {chance.choice(('or', 'or', 'and'))} {names[-1]}"
        return chance.choice(ABSENT).format(what=listed)
    [one] = findings
    noun, sided, sized = chance.choice(NOUNS[one.code]), has_side(one), measured(one) is not None
    if one.code == "midline_shift":
        what = noun + (" of <number> mm" if sized else "") + (" to the <side>" if sided else "")
    elif sized and chance.random() < 0.5:
        what = ("<side> " if sided else "") + f"{noun} of about <number> mL"
    else:
        what = ("<side> " if sided else "") + noun + (", <number> mL" if sized else "")
    text = chance.choice(HEDGED if one.band == "hedge" else STATED).format(what=what)
    text = text.replace(" a subarachnoid bl", " subarachnoid bl").replace(" a mass effect", " mass effect").replace(" a midline", " midline")
    return NO_ARTICLE.sub(r" \1", text)


def fill(sentence: str, finding: Finding) -> str:
    """Copy the graph's side and number into a sentence's slots."""
    value = measured(finding)
    text = sentence.replace("<side>", finding.side or "").replace("<number>", number(value) if value is not None else "")
    return text[:1].upper() + text[1:].replace(" ml", " mL")


def has_side(finding: Finding) -> bool:
    return finding.side in ("left", "right", "bilateral")


def measured(finding: Finding) -> float | None:
    return finding.size_mm if finding.code == "midline_shift" else finding.volume_ml


def group_findings(findings: Sequence[Finding]) -> list[list[Finding]]:
    """What is stated, sentence by sentence: each present finding alone, the absent ones together, what is omitted nowhere.

    A haemorrhage of a known type says "haemorrhage" already: the general finding joins only when no type is present.
    """
    typed = any(f.present and f.band != "omit" and f.code.endswith("_haemorrhage") and f.code != "intracranial_haemorrhage" for f in findings)
    present = [[f] for f in findings if f.present and f.band != "omit" and not (typed and f.code == "intracranial_haemorrhage")]
    absent = [f for f in findings if not f.present and f.band == "state"]
    return present + ([absent] if absent else [])
