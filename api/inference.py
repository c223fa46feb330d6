"""The models, loaded on first use: a listener never waits for them, and a model that cannot load is said so once."""
from threading import Lock
from typing import TYPE_CHECKING, Any

from data.records import Draft, Order, Study, Suggestion

if TYPE_CHECKING:
    from nlp.suggest import Suggester
    from vision.reporter import Reporter


class LateSuggester:
    """Stands for `nlp.suggest.Suggester` until the first order needs it."""

    def __init__(self, device: str = "auto") -> None:
        self._device, self._lock = device, Lock()
        self._loaded: Suggester | None = None

    def suggest(self, order: Order) -> Suggestion:
        with self._lock:
            if self._loaded is None:
                from nlp.suggest import Suggester

                self._loaded = Suggester.load(device=torch_device(self._device))
            return self._loaded.suggest(order)


class LateReporter:
    """Stands for `vision.reporter.Reporter` until the first study needs it."""

    def __init__(self, device: str = "auto") -> None:
        self._device, self._lock = device, Lock()
        self._loaded: Reporter | None = None

    def draft(self, study: Study, order: Order | None = None) -> tuple[Draft, dict[str, Any]]:
        with self._lock:
            if self._loaded is None:
                from vision.reporter import Reporter

                self._loaded = Reporter.load(device=torch_device(self._device))
            return self._loaded.draft(study, order)


def torch_device(device: str) -> str:
    """`auto` becomes cuda when there is a GPU, else cpu."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
