"""The models, loaded on first use: a listener never waits for them, and a model that cannot load is said so once."""
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from data.records import Draft, Order, PriorStudy, Study, Suggestion

if TYPE_CHECKING:
    from nlp.suggest import Suggester
    from vision.reporter import Reporter


def shipped() -> Path | None:
    return None


class LateSuggester:
    """Stands for `nlp.suggest.Suggester` until an order needs it; `folder` is asked each time, so that a promotion needs no restart."""

    def __init__(self, device: str = "auto", folder: Callable[[], Path | None] = shipped) -> None:
        self._device, self._folder, self._lock = device, folder, Lock()
        self._loaded: tuple[Path | None, Suggester] | None = None

    @property
    def loaded(self) -> bool:
        return self._loaded is not None

    def load(self) -> None:
        self.suggest(Order(text="headache"))    # the rules are compiled with the first

    def suggest(self, order: Order) -> Suggestion:
        with self._lock:
            return self._at_hand().suggest(order)

    def _at_hand(self) -> "Suggester":
        folder = self._folder()
        if self._loaded is None or self._loaded[0] != folder:
            from nlp.suggest import Suggester

            self._loaded = None         # the old one goes first: two at once are a gigabyte
            self._loaded = folder, Suggester.load(folder, device=torch_device(self._device))
        return self._loaded[1]


class LateReporter:
    """Stands for `vision.reporter.Reporter` until the first study needs it."""

    def __init__(self, device: str = "auto") -> None:
        self._device, self._lock = device, Lock()
        self._loaded: Reporter | None = None

    @property
    def loaded(self) -> bool:
        return self._loaded is not None

    def load(self) -> None:
        with self._lock:
            self._at_hand()

    def draft(self, study: Study, order: Order | None = None, priors: Sequence[PriorStudy] = ()) -> tuple[Draft, dict[str, Any]]:
        with self._lock:
            return self._at_hand().draft(study, order, priors)

    def _at_hand(self) -> "Reporter":
        if self._loaded is None:
            from vision.reporter import Reporter

            self._loaded = Reporter.load(device=torch_device(self._device))
        return self._loaded


def torch_device(device: str) -> str:
    """`auto` becomes cuda when there is a GPU, else cpu."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
