"""A day of a radiology department as events with their times: what the RIS, the scanners and the radiologists do. Simulated, and said so."""
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from api.demo import ESCAPES, order_message
from data.simulated_orders import simulate_orders

DAY_S = 86_400
# orders an hour, midnight to midnight, as shares of the busiest
HOURS = (2, 2, 1, 1, 1, 2, 4, 7, 10, 10, 9, 9, 7, 8, 9, 9, 8, 6, 5, 4, 4, 3, 3, 2)
CANCELLED, CHANGED, MERGED, REPEATED, EARLY_CANCEL, ACCEPTED = 0.06, 0.04, 0.015, 0.02, 0.1, 0.5     # shares of the orders; of the cancels


@dataclass(frozen=True)
class Event:
    at_s: float                 # seconds of the day
    what: str                   # message, study, accept
    order: int                  # its number
    raw: bytes = b""


@dataclass
class Plan:
    """What will happen, and what must be true at the end of it."""

    events: list[Event] = field(default_factory=list)
    placer_numbers: list[str] = field(default_factory=list)
    accessions: list[str] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)       # who the order must belong to when the day is over
    examined_as: list[str] = field(default_factory=list)    # the patient identifier that the scanner was given
    cancelled: set[int] = field(default_factory=set)
    changed: dict[int, str] = field(default_factory=dict)   # words that the order must hold
    merged: set[int] = field(default_factory=set)
    studies: list[int] = field(default_factory=list)        # the orders they belong to


def plan_day(orders: int, studies: int, seed: int, day: datetime) -> Plan:
    chance = random.Random(seed)
    plan = Plan()
    for number, (row, at_s) in enumerate(zip(simulate_orders(orders, seed), sorted(arrivals(orders, chance)), strict=True)):
        one_order(plan, row, number, at_s, seed, day, chance)
    examined = sorted(set(range(orders)) - plan.cancelled)
    plan.studies = sorted(chance.sample(examined, min(studies, len(examined))))
    for number in plan.studies:
        ordered = next(event.at_s for event in plan.events if event.order == number)
        plan.events.append(Event(min(DAY_S - 1.0, ordered + chance.uniform(1800, 10_800)), "study", number))
    plan.events.sort(key=lambda event: event.at_s)
    return plan


def arrivals(count: int, chance: random.Random) -> Iterator[float]:
    for hour in chance.choices(range(24), HOURS, k=count):
        yield min(DAY_S * 0.97, 3600 * (hour + chance.random()))


def one_order(plan: Plan, row: dict[str, Any], number: int, at_s: float, seed: int, day: datetime, chance: random.Random) -> None:
    """An order and what becomes of it: sent twice, changed, cancelled (a few before they come), its patient merged, accepted."""
    when = day + timedelta(seconds=at_s)
    patient, accession = f"DAY{seed:04d}P{number:05d}", f"DAY{seed:04d}A{number:05d}"
    raw = order_message({**row, "patient_id": patient, "accession_number": accession}, number, when, seed)
    control = raw.split(b"|", 10)[9].decode()
    plan.placer_numbers.append(f"PL{control}")
    plan.accessions.append(accession)
    plan.patients.append(patient)
    plan.examined_as.append(patient)

    def later(low_s: float, high_s: float) -> float:
        return min(DAY_S * 0.98, at_s + chance.uniform(low_s, high_s))

    def add(at: float, message: bytes) -> None:
        plan.events.append(Event(at, "message", number, message))

    add(at_s, raw)
    if chance.random() < REPEATED:
        add(later(1, 600), raw)
    fate = chance.random()
    if fate < CANCELLED:
        plan.cancelled.add(number)
        after = later(60, 7200)
        early = chance.random() < EARLY_CANCEL      # overtakes its order on the way; its event time is later all the same
        add(max(0.0, at_s - 30) if early else after, event_message("CA", control, patient, day + timedelta(seconds=after), accession))
    elif fate < CANCELLED + CHANGED:
        words = "now also fever and neck stiffness"
        plan.changed[number] = words
        after = later(60, 3600)
        add(after, event_message("XO", control, patient, day + timedelta(seconds=after), accession,
                                 f"{row['order_text']}. {words}", row.get("ordered_exam") or ""))
    elif fate < CANCELLED + CHANGED + ACCEPTED:
        plan.events.append(Event(later(300, 3600), "accept", number))
    if chance.random() < MERGED:
        plan.merged.add(number)
        plan.patients[number] = f"DAY{seed:04d}S{number:05d}"
        after = later(60, 7200)
        add(after, merge_message(control, patient, plan.patients[number], day + timedelta(seconds=after)))


def event_message(control: str, placer: str, patient: str, when: datetime, accession: str, text: str = "", exam: str = "") -> bytes:
    """ORM^O01 that cancels (ORC-1 CA) or changes (XO) the order."""
    stamp = when.strftime("%Y%m%d%H%M%S")
    return "\r".join([
        f"MSH|^~\\&|SIMRIS|DEMO|WETREAD|RADIOLOGY|{stamp}||ORM^O01^ORM_O01|{placer}{control}|T|2.5.1|||||||UNICODE UTF-8",
        f"PID|1||{patient}^^^DEMO^MR||SIMULATED^PATIENT",
        f"ORC|{control}|PL{placer}|||{'CA' if control == 'CA' else 'SC'}||||{stamp}",
        f"OBR|1|PL{placer}||{'^' + exam.translate(ESCAPES)}||||||||||||||{accession}|||||||||||||^{text.translate(ESCAPES)}", ""]).encode()


def merge_message(control: str, old: str, new: str, when: datetime) -> bytes:
    """ADT^A40: the old patient identifier is merged into the new."""
    stamp = when.strftime("%Y%m%d%H%M%S")
    return "\r".join([
        f"MSH|^~\\&|SIMRIS|DEMO|WETREAD|RADIOLOGY|{stamp}||ADT^A40^ADT_A39|{control}MRG|T|2.5.1|||||||UNICODE UTF-8",
        f"EVN|A40|{stamp}", f"PID|1||{new}^^^DEMO^MR||SIMULATED^PATIENT", f"MRG|{old}^^^DEMO^MR", ""]).encode()
