"""A suggestion within a deadline: the model when it is quick enough, else book and rules, else none. Nothing here blocks an order."""
import asyncio
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from data.records import Order, Suggestion

log = logging.getLogger("wetread.cds")

RULES_S = 0.09                          # kept back for book and rules when the model is late
WAITING_MAX = 16                        # questions to one suggester; more could not be answered in time
KNOWN_MAX = 512                         # answers kept: order-sign asks again what order-select asked
TRY_EVERY_S = 1.0                       # one that was too slow is tried again
IDLE = float("inf")


class Prompt:
    """Both suggesters may be None, slow, hung or raise."""

    def __init__(self, model: Any, rules: Any) -> None:
        self.model, self.rules = Asker(model), Asker(rules, last=True)

    async def suggest(self, order: Order, until: float) -> Suggestion | None:
        """The best answer that can be had until then (time.monotonic; its `model` is "" when the rules gave it), or None; never raises."""
        order = replace(order, id="")
        return await self.model.ask(order, until - RULES_S) or await self.rules.ask(order, until)


@dataclass
class Question:
    order: Order
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Suggestion | None]
    dropped: bool = False               # nobody waits any more


class Asker:
    """One thread that asks one suggester, one question at a time, the newest first: under load it is the one still in time.

    Who cannot be answered in time is told so at once, unless nobody stands behind (`last`).
    """

    def __init__(self, suggester: Any, last: bool = False) -> None:
        self.suggester, self._last = suggester, last
        self._waiting: list[Question] = []
        self._come = threading.Condition()
        self._known: OrderedDict[Order, Suggestion] = OrderedDict()
        self._busy_since, self._usual_s = IDLE, 0.0         # since when the present question is asked; what an answer takes, of late
        self._tried = -IDLE
        self._thread: threading.Thread | None = None

    async def ask(self, order: Order, until: float) -> Suggestion | None:
        if self.suggester is None:
            return None
        if (known := self._known.get(order)) is not None:
            return known
        # a model that still loads, hangs, or has too many before us, is not waited for: the rules get the time
        wait_s = until - time.monotonic()
        late = not self._last and (not getattr(self.suggester, "ready", True) or self._expected_s() > wait_s)
        if late and (self._busy_since != IDLE or time.monotonic() - self._tried < TRY_EVERY_S):
            return None
        self._tried = time.monotonic()
        loop = asyncio.get_running_loop()
        question = Question(order, loop, loop.create_future())
        self._put(question)
        try:
            return await asyncio.wait_for(question.answer, 0 if late else max(0.0, wait_s))
        except TimeoutError:
            question.dropped = not late     # an idle one still answers now and then: it loads by that, and shows that it is quick again
            return None

    def _expected_s(self) -> float:
        """How long a new question would wait for its answer."""
        busy_s = 0.0 if self._busy_since == IDLE else time.monotonic() - self._busy_since
        return max(self._usual_s, busy_s) + (len(self._waiting) + (busy_s > 0)) * self._usual_s

    def _put(self, question: Question) -> None:
        with self._come:
            self._waiting = [*[other for other in self._waiting if not other.dropped][1 - WAITING_MAX:], question]
            self._come.notify()
        if self._thread is None:
            # a daemon: a model that hangs must not keep the service from ending
            self._thread = threading.Thread(target=self._work, daemon=True, name="cds-suggestions")
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._come:
                self._come.wait_for(lambda: self._waiting)
                question = self._waiting.pop()
            if question.dropped:
                continue
            self._busy_since = time.monotonic()
            found = self._answer(question.order)
            self._usual_s += 0.2 * (min(1.0, time.monotonic() - self._busy_since) - self._usual_s)
            self._busy_since = IDLE
            try:
                question.loop.call_soon_threadsafe(tell, question.answer, found)
            except RuntimeError:
                log.info("a suggestion came after its listener had gone")

    def _answer(self, order: Order) -> Suggestion | None:
        if (known := self._known.get(order)) is not None:
            return known
        try:
            found = self._known[order] = self.suggester.suggest(order)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
            return found
        except Exception as error:
            log.error("no suggestion for a CDS call: %s", getattr(error, "code", type(error).__name__))
            return None


def tell(answer: asyncio.Future[Suggestion | None], found: Suggestion | None) -> None:
    if not answer.done():
        answer.set_result(found)


class LateRules:
    """Book and rules without a model, in this process, loaded on first use."""

    def __init__(self) -> None:
        self._loaded: Any = None

    def suggest(self, order: Order) -> Suggestion:
        if self._loaded is None:
            from nlp.suggest import Suggester

            self._loaded = Suggester.load(model=False)
        return self._loaded.suggest(order)
