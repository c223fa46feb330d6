"""Triage: a replayed reading day, read first in, first out, and by what the head CT model says; no images, a simulation of the queue."""
import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from data.errors import InputError
from data.model_files import MODELS, read_file
from vision.metrics import with_interval

DAYS = 200
HOURS, STUDIES_AN_HOUR = 10.0, 9.0
READING_MINUTES, SPREAD = 5.6, 0.5      # median, and spread of its logarithm: a reader is busy some nine tenths of the day
CRITICAL = 0.08                         # share of the studies
FLAG_RATE = 0.1                         # of the uncritical ones that are flagged too


@dataclass(frozen=True)
class Day:
    arrival_min: NDArray[np.float64]
    reading_min: NDArray[np.float64]
    critical: NDArray[np.bool_]
    flagged: NDArray[np.bool_]


def simulate_day(rng: np.random.Generator, auc: float) -> Day:
    """Poisson arrivals; scores of critical and other studies are two normal distributions as far apart as the AUC says."""
    arrival = np.cumsum(rng.exponential(60 / STUDIES_AN_HOUR, int(HOURS * STUDIES_AN_HOUR * 1.5)))
    arrival = arrival[arrival < HOURS * 60]
    critical = rng.uniform(size=len(arrival)) < CRITICAL
    score = rng.normal(size=len(arrival)) + critical * np.sqrt(2) * norm.ppf(auc)
    return Day(arrival, READING_MINUTES * np.exp(rng.normal(0, SPREAD, len(arrival))), critical, score > norm.ppf(1 - FLAG_RATE))


def waits(day: Day, urgent: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Minutes from arrival to the end of the reading, one reader, the urgent ones first, else in the order of arrival; no reading is broken off."""
    queue: list[tuple[bool, int]] = []
    done, now, coming = np.zeros(len(day.arrival_min)), 0.0, 0
    while coming < len(done) or queue:
        if not queue:
            now = max(now, float(day.arrival_min[coming]))
        while coming < len(done) and day.arrival_min[coming] <= now:
            heapq.heappush(queue, (not urgent[coming], coming))
            coming += 1
        _, i = heapq.heappop(queue)
        now += float(day.reading_min[i])
        done[i] = now
    return done - day.arrival_min


def main(name: str = "triage", data: Path | None = None, out: Path | None = None, size: int | None = None, seed: int = 0, device: str = "cpu",
         date: str = "", report: Callable[..., None] = lambda *a, **k: None, auc: float | None = None, **unused: Any) -> dict[str, Any]:
    """Minutes that a critical study waits less than first in, first out; over `size` days, with the AUC of the shipped head CT model."""
    days = size or DAYS
    if days < 2:
        raise InputError(f"--size is {days}, expected 2 or more days")
    auc = auc or measured_auc()
    rows = []
    for i in range(days):
        day = simulate_day(np.random.default_rng([seed, i]), auc)
        if not day.critical.any():
            continue
        nobody = np.zeros(len(day.critical), bool)
        ways = {"first in, first out": nobody, "flagged first": day.flagged, "perfect flags": day.critical}
        rows.append({f"{way} {who}": float(waits(day, urgent)[kept].mean()) for way, urgent in ways.items()
                     for who, kept in (("critical", day.critical), ("other", ~day.critical))})
        report(i + 1, days, phase="days")

    def mean(key: str) -> list[float]:
        return with_interval(rows, lambda drawn: float(np.mean([row[key] for row in drawn])), 2)

    def saved(way: str) -> list[float]:
        return with_interval(rows, lambda drawn: float(np.mean([r["first in, first out critical"] - r[f"{way} critical"] for r in drawn])), 2)

    measured = {"minutes_saved": saved("flagged first"), **{key.replace(",", "").replace(" ", "_") + "_min": mean(key) for key in rows[0]}}
    floors = {"first in, first out": {"minutes_saved": [0.0]}, "perfect flags": {"minutes_saved": saved("perfect flags")}}
    assumed = {"auc": auc, "studies an hour": STUDIES_AN_HOUR, "critical": CRITICAL, "flagged of the others": FLAG_RATE,
               "median reading, min": READING_MINUTES}
    figures = {"head": name, "date": date, "command": f"wetread evaluate {name}", "metric": "minutes_saved",
               "simulated": {"cases": days, "head": measured, "floors": floors, "assumed": assumed}}
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def measured_auc() -> float:
    """Of any haemorrhage on simulated studies, from the head CT model's card."""
    card = json.loads(read_file(MODELS / "findings" / "card.json"))
    return float(card["figures"]["simulated"]["findings"]["intracranial_haemorrhage"]["auc"])
