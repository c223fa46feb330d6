"""The protocol book: one TOML block a protocol; adding a protocol is adding a block."""
import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import BookError

BOOK_PATH = Path(__file__).parent / "protocols"
MODALITIES = ("CT", "MR", "NM", "FL", "FL/CT", "XA", "US", "XR")
CONTRASTS = ("none", "with", "without_and_with")
# class of the contrast agent, and its way in, where a protocol asks for one
CONTRAST_AGENTS = {
    "CT": "iodinated, intravenous", "MR": "gadolinium-based, intravenous", "XA": "iodinated, intra-arterial", "FL": "iodinated, intrathecal",
    "FL/CT": "iodinated, intrathecal", "US": "microbubbles, intravenous", "NM": "iodinated, intravenous", "XR": "iodinated, intravenous",
}


@dataclass(frozen=True)
class Protocol:
    id: str
    name: str
    modality: str
    region: str
    contrast: str
    sequences: tuple[str, ...]      # MR sequences, or phases of a CT
    indications: tuple[str, ...]
    minutes: int
    minutes_source: str
    preparation: tuple[str, ...]
    loinc_code: str                 # LOINC/RSNA Playbook; the nearest exam for special protocols
    loinc_name: str
    loinc_status: str               # confirmed or blank
    tier: str                       # core or extended

    @property
    def contrast_agent(self) -> str:
        """Class and way in of the contrast agent; "" for a protocol without contrast."""
        return "" if self.contrast == "none" else CONTRAST_AGENTS[self.modality]


@dataclass(frozen=True)
class Book:
    protocols: dict[str, Protocol]
    version: str                    # first 12 hex digits of the SHA-256 of the blocks


# key -> type and, where fixed, the values it may take
KEYS: dict[str, tuple[type, tuple[str, ...]]] = {
    "name": (str, ()), "modality": (str, MODALITIES), "region": (str, ()), "contrast": (str, CONTRASTS),
    "sequences": (list, ()), "indications": (list, ()), "minutes": (int, ()), "minutes_source": (str, ()),
    "preparation": (list, ()), "loinc_code": (str, ()), "loinc_name": (str, ()), "loinc_status": (str, ("confirmed", "blank", "")),
    "tier": (str, ("core", "extended")),
}
OPTIONAL = {"minutes_source": "", "preparation": [], "loinc_code": "", "loinc_name": "", "loinc_status": "", "tier": "extended"}


def read_book(path: Path = BOOK_PATH) -> Book:
    """Read every *.toml of a folder, or one file; raises BookError naming file, block and key."""
    files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    if not files:
        raise BookError(f"{path} holds no *.toml; give a folder with protocol blocks")
    protocols: dict[str, Protocol] = {}
    digest = hashlib.sha256()
    for file in files:
        try:
            raw = file.read_bytes()
            blocks = tomllib.loads(raw.decode())
        except OSError as error:
            raise BookError(f"{file} cannot be read ({error.strerror}); put the file back") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BookError(f"{file} is no TOML: {error}; correct the file there") from None
        digest.update(raw)
        for key, block in blocks.items():
            if key in protocols:
                raise BookError(f"{file}: block [{key}] stands twice in the book; rename or remove one")
            protocols[key] = protocol_from(key, block, file)
    return Book(protocols, digest.hexdigest()[:12])


def protocol_from(key: str, block: Any, file: Path) -> Protocol:
    where = f"{file}: block [{key}]"
    if not isinstance(block, dict):
        raise BookError(f"{where} is a {type(block).__name__}; write it as a table of keys under [{key}]")
    for name in block:
        if name not in KEYS:
            raise BookError(f"{where}: key {name} is not known; the keys are {', '.join(KEYS)}")
    values = {}
    for name, (kind, allowed) in KEYS.items():
        if name not in block and name not in OPTIONAL:
            raise BookError(f"{where}: key {name} is missing; add it")
        value = block.get(name, OPTIONAL.get(name))
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BookError(f"{where}: key {name} is a {type(value).__name__}, expected a {kind.__name__}")
        if allowed and value not in allowed:
            raise BookError(f"{where}: key {name} is {value!r}, expected one of {', '.join(filter(None, allowed))}")
        if kind is list:
            if not all(isinstance(item, str) and item.strip() for item in value):
                raise BookError(f"{where}: key {name} holds something that is no text; write a list of texts")
            value = tuple(value)
        elif kind is str and name in ("name", "region") and not value.strip():
            raise BookError(f"{where}: key {name} is empty; fill it in")
        values[name] = value
    if not values["indications"]:
        raise BookError(f"{where}: key indications is empty; an order is matched against it, name at least one")
    if values["minutes"] <= 0:
        raise BookError(f"{where}: key minutes is {values['minutes']}, expected more than 0")
    return Protocol(id=key, **values)
