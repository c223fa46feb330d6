"""Runs first in every Python process of a served Wetread under test: it dies, hangs or is slow where the environment says.

WETREAD_TEST_FAULTS: `WHEN MODULE:FUNCTION N FLAG;…` kills the process with SIGKILL before or after the Nth call of a function, once:
the file FLAG tells that it has happened. WETREAD_TEST_MODEL: rules (no learned model: quick), slow:SECONDS, dead (raises), crash (as it loads).
WETREAD_TEST_LEASE_S and WETREAD_TEST_LONGEST_S shorten a lease and the time after which a job is taken to hang; WETREAD_TEST_MEMORY the worker's.
"""
import functools
import importlib.abc
import importlib.machinery
import os
import re
import signal
import sys
import time


def install():
    """Patch what is imported already, and the rest as it is imported."""
    changes = {}
    os.nice = lambda n: 0       # on a busy machine a worker that gives way to all else would hardly run
    for line in filter(None, os.environ.get("WETREAD_TEST_FAULTS", "").split(";")):
        when, place, count, flag = line.split(" ")
        module, function = place.split(":")
        changes.setdefault(module, []).append(functools.partial(deadly, when, function, int(count), flag))
    if model := os.environ.get("WETREAD_TEST_MODEL"):
        changes.setdefault("api.inference", []).append(functools.partial(other_model, model))
        changes.setdefault("api.server", []).append(cold)
    if os.environ.get("WETREAD_TEST_LEASE_S") or os.environ.get("WETREAD_TEST_LONGEST_S"):
        changes.setdefault("api.jobs", []).append(impatient)
    if most := os.environ.get("WETREAD_TEST_MEMORY"):
        changes.setdefault("api.work", []).append(functools.partial(poor, most))
    for name in [name for name in changes if name in sys.modules]:
        for change in changes.pop(name):
            change(sys.modules[name])
    if changes:
        sys.meta_path.insert(0, Finder(changes))


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, changes):
        self.changes = changes

    def find_spec(self, name, path, target=None):
        if name not in self.changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None, f"{name} is not where it was looked for"
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            for change in self.changes[name]:
                change(module)

        spec.loader.exec_module = exec_module
        return spec


def deadly(when, function, count, flag, module):
    *owners, name = function.split(".")
    owner = functools.reduce(getattr, owners, module)
    inner = getattr(owner, name)
    calls = []

    @functools.wraps(inner)
    def wrapped(*args, **kwargs):
        if when == "after":
            result = inner(*args, **kwargs)
        calls.append(1)
        if len(calls) == count:
            try:
                os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return result if when == "after" else inner(*args, **kwargs)

    setattr(owner, name, staticmethod(wrapped) if isinstance(vars(owner).get(name), staticmethod) else wrapped)


def other_model(model, module):
    late = module.LateSuggester

    def load(self):
        if model == "crash":
            os.abort()
        self._loaded = None, rules()

    def suggest(self, order):
        if model == "dead":
            raise RuntimeError("the model is dead")
        if model.startswith("slow:"):
            time.sleep(float(model[5:]))
        if "CRASHES" in order.text:
            os.abort()
        if "HANGS" in order.text:
            re.match(r"(a+)+$", "a" * 60 + "b")     # holds the interpreter's lock
        if "GROWS" in order.text:
            held = []
            while True:
                held.append(bytearray(2**24))
        load(self)
        return self._loaded[1].suggest(order)

    def draft(self, study, order=None, priors=()):
        from data.errors import StudyRefused

        raise StudyRefused("empty", "no study is read in this test")

    late.load, late.suggest = load, suggest
    module.LateReporter.load, module.LateReporter.draft = (lambda self: None), draft


@functools.cache
def rules():
    from data.book import read_book
    from data.records import Order
    from nlp.suggest import Suggester

    made = Suggester(read_book())
    made.suggest(Order(text="headache"))        # the rules are compiled with the first
    return made


def cold(module):
    """No process for CDS Hooks is started ahead."""
    module.warm = lambda *what: None


def impatient(module):
    from dataclasses import replace

    if longest_s := os.environ.get("WETREAD_TEST_LONGEST_S"):
        for name, lane in module.LANES.items():
            module.LANES[name] = replace(lane, longest_s=float(longest_s))
    if lease_s := os.environ.get("WETREAD_TEST_LEASE_S"):
        start = module.Worker.__init__
        module.Worker.__init__ = lambda self, *args, **kwargs: start(self, *args, **{"lease_s": float(lease_s), **kwargs})


def poor(most, module):
    import resource

    module.limit_memory = lambda device: resource.setrlimit(resource.RLIMIT_DATA, (int(most), int(most)))


if any(name.startswith("WETREAD_TEST_") for name in os.environ) and "WETREAD_TEST_LATER" not in os.environ:
    install()
