"""Which protocol model answers: the shipped one, or a version below HOME that a person promoted; every change is a row, none is forgotten."""
import json
import re
from pathlib import Path
from typing import Any

from api.settings import Settings
from api.store import Store, Tx, now
from data.errors import InputError, ModelError, NotFound, StateError
from data.model_files import MODELS
from data.records import Order

ROLES = ("shown", "shadow")
SHIPPED = "shipped"
TRIAL = Order(id="trial", text="fall from ladder, head injury, suspected intracranial hemorrhage", ordered_exam="CT HEAD WITHOUT CONTRAST")


class ModelSteps:
    store: Store
    settings: Settings

    def models(self) -> dict[str, Any]:
        """Versions at hand with their figures, which is shown and which is in shadow, and who changed that when, newest first."""
        with self.store.read() as tx:
            rows = tx.find("model_uses", order=["-id"])
            use = {role: in_use(tx, role) for role in ROLES}
        folder = models_folder(self.store.home)
        names = sorted(p.name for p in folder.iterdir() if (p / "config.json").is_file() and not p.name.startswith(".")) if folder.is_dir() else []
        return {"shown": use["shown"] or SHIPPED, "shadow": use["shadow"],
                "versions": [{"version": SHIPPED, "model": config_version(MODELS / "protocol"), "figures": {}},
                             *({"version": name, "model": config_version(folder / name), "figures": read_figures(folder / name)} for name in names)],
                "history": [{name: row[name] for name in ("time", "user", "role", "version", "figures")} for row in rows]}

    def promote_model(self, version: str, user: str) -> dict[str, Any]:
        """Let a version answer from the next suggestion on, in every process; suggestions already made keep theirs.

        Raises: NotFound, ModelError when it cannot be loaded and asked, StateError when it answers already.
        """
        version = "" if version == SHIPPED else version
        figures = read_figures(self._tried(version)) if version else {}
        return self._use("shown", version, user, "promote", figures)

    def roll_back_model(self, user: str) -> dict[str, Any]:
        """Let the version answer again that was in use before the present one was promoted; raises StateError when there is none."""
        with self.store.read() as tx:
            stack = promotions(tx)
        if not stack:
            raise StateError("the shipped model is in use and none was promoted over it; there is nothing to roll back")
        before = stack[-2] if len(stack) > 1 else ""
        if before:
            self._tried(before)
        return self._use("shown", before, user, "roll-back", {"rolled_back": stack[-1]})

    def shadow_model(self, version: str, user: str) -> dict[str, Any]:
        """Let a version answer beside the shown one, stored and never shown; "" ends it."""
        figures = read_figures(self._tried(version)) if version else {}
        return self._use("shadow", version, user, "shadow", figures)

    def _use(self, role: str, version: str, user: str, action: str, figures: dict[str, Any]) -> dict[str, Any]:
        name = version or (SHIPPED if role == "shown" else "no model")
        with self.store.write() as tx:
            if in_use(tx, role) == version:
                raise StateError(f"{name} is {role} already; nothing was changed")
            tx.insert("model_uses", role=role, version=version, user=user, time=now(), figures=figures)
            tx.audit(user, action, "model", name)
        return self.models()

    def _tried(self, version: str) -> Path:
        """The folder of a version that was loaded and asked here: one that cannot answer must not be found out by an order."""
        folder = version_folder(self.store.home, version)
        if not folder.is_dir():
            raise NotFound(f"there is no model {version[:80]} below {models_folder(self.store.home)}; wetread model list names them")
        from nlp.suggest import Suggester

        Suggester.load(folder).suggest(TRIAL)
        return folder


def models_folder(home: Path) -> Path:
    return home / "models" / "protocol"


def version_folder(home: Path, version: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]{0,79}", version, re.ASCII):
        raise InputError("VERSION is no name of a model; wetread model list names them")
    return models_folder(home) / version


def in_use(tx: Tx, role: str) -> str:
    """The version of a role; "" is the shipped model (shown), or none (shadow)."""
    rows = tx.find("model_uses", role=role, order=["-id"], limit=1)
    return rows[0]["version"] if rows else ""


def promotions(tx: Tx) -> list[str]:
    """Versions promoted and not rolled back, oldest first."""
    stack: list[str] = []
    for row in tx.find("model_uses", role="shown", order=["id"]):
        if "rolled_back" in (row["figures"] or {}):
            stack.pop()
        else:
            stack.append(row["version"])
    return stack


def folder_in_use(store: Store, role: str) -> Path | None:
    """Where the model of a role lies; None for the shipped one (shown) or none (shadow). Raises ModelError when it is gone."""
    with store.read() as tx:
        version = in_use(tx, role)
    if not version:
        return None
    folder = version_folder(store.home, version)
    if not folder.is_dir():
        raise ModelError(f"{folder} is in use and gone; restore it, or wetread model rollback")
    return folder


def config_version(folder: Path) -> str:
    """What suggestions of this model carry as their model."""
    try:
        return str(json.loads((folder / "config.json").read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_figures(folder: Path) -> dict[str, Any]:
    """What was measured when the version was trained; {} when it was brought here by hand."""
    try:
        found = json.loads((folder / "figures.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
