"""What a clicked exam says: modalities, contrast."""
import re

LP = re.compile(r"\b(lp|lumbar puncture|myelogra\w*|spinal tap|lumbar tap|tap test|opening pressure|blood patch|cisternogram|"
                r"intrathecal (injection|chemo\w*))\b", re.I)
MODALITY = {"MR": re.compile(r"\b(mri?|mra|mrv|magnetic|fmri|mr)\b", re.I), "CT": re.compile(r"\b(ct|cta|ctv|ctp|cat scan|computed)\b", re.I),
            "XA": re.compile(r"\b(dsa|angiogram|ir|catheter)\b", re.I), "US": re.compile(r"\b(us|ultrasound|doppler|duplex)\b", re.I),
            "XR": re.compile(r"\b(xr|x-?ray|radiograph|\d view|films?)\b", re.I), "FL": LP,
            "NM": re.compile(r"\b(pet|spect|datscan|nuclear|scintigraphy)\b", re.I)}
ALSO = {"CT": re.compile(r"\b(ncct|nchct|ct\w{1,3}|cths?|cats?)\b", re.I), "XR": re.compile(r"\b(shunt|skull) (series|films?)\b", re.I),
        "NM": re.compile(r"\bdat[ -]scan\b", re.I)}
WITH = re.compile(r"\b(w|with|w/|gad|post|contrast|cta|ctv|ctp|enhanced|wwo|w/wo)\b|w ?[&+/] ?wo|w/wo|w and wo", re.I)
WITHOUT = re.compile(r"\b(wo|w/o|without|non-?con\w*|plain)\b", re.I)
NO_AGENT = re.compile(r"\b(?:w/o|wo|without|no|non|plain)\b[ -]?(?:iv )?(?:contrast|con\b|gad\w*|dye)?|\bnon-?con\w*", re.I)
AGENT = re.compile(r"\b(w|with|gad\w*|contrast|dye|cta|ctv|ctp|enhanced|wwo|(ct|cat) (angio|veno|perf)\w*|post[- ]?(con\w*|gad))\b|\bw/(?!o)|"
                   r"\+ ?c\b(?! ?-?spine)", re.I)
WITH_NO_AGENT = re.compile(r"\bw(ith|/)? ?(mrs|spectro\w*|perfusion|dti|sedation|an(a)?es\w*|ga|mra|mrv|cine|thin\w*|flow|recons?|3d|nav\w*|"
                           r"swi|dwi|csf|fiesta|volum\w*|mpr\w*|bone (windows?|alg\w*|recon\w*)|stealth|fiducials?|coronal\w*|sagittal\w*|"
                           r"reformats?|c-?spine|cervical spine|attention|views?|anesthesiologist)\b", re.I)


def modalities_of(words: str) -> set[str]:
    return {name for name, pattern in MODALITY.items() if pattern.search(words)} | {name for name, pattern in ALSO.items() if pattern.search(words)}


def clicked_contrast(click: str) -> str:
    """with, none, or "" when the click does not say."""
    with_, without = bool(WITH.search(re.sub(r"w/o(?!\w)", " ", click))), bool(WITHOUT.search(click))
    return "with" if with_ else "none" if without else ""


def contrast_clicked(click: str) -> str:
    """with, none or "", read more closely than clicked_contrast: "w/o contrast" is none, "with sedation" says nothing."""
    words, stripped = NO_AGENT.subn(" ", WITH_NO_AGENT.sub(" ", click))
    return "with" if AGENT.search(words) else "none" if stripped else ""
