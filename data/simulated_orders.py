"""Simulated orders with the truth known: a patient, an indication out of the protocol book, a clicked exam, hazards now and then."""
import random
from typing import Any

from data.book import Protocol, read_book

OPENINGS = ("", "", "?", "r/o ", "query ", "eval for ", "concern for ", "f/u ")
CONTEXTS = ("", "", "known HTN.", "hx of breast ca.", "on apixaban.", "seen by neurology yesterday.", "no prior imaging here.",
            "symptoms 3 days, worse today.")
SETTINGS = ("ED", "inpatient", "outpatient", "ICU")
IMPLANTS = ("pacemaker, model unknown", "cerebral aneurysm clip, 1994", "cochlear implant", "programmable VP shunt")
ALLERGIES = ("iodinated contrast: hives", "gadolinium: anaphylaxis", "penicillin")
WRONG_CLICK = 0.25      # the clicked exam is evidence, never trusted: about this share of simulated orders clicks another


def simulate_orders(n: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the orders JSONL with `expected_protocol` beside them; the same seed gives the same rows."""
    chance = random.Random(seed)
    protocols = sorted(read_book().protocols.values(), key=lambda protocol: protocol.id)
    protocols = [protocol for protocol in protocols if protocol.indications]
    return [simulate_order(chance, chance.choice(protocols), protocols, f"sim{seed}-{i + 1}") for i in range(n)]


def simulate_order(chance: random.Random, protocol: Protocol, protocols: list[Protocol], id: str) -> dict[str, Any]:
    sex, age = chance.choice("MF"), chance.randint(18, 91)
    contrast, magnet = protocol.contrast != "none", protocol.modality == "MR"
    words = chance.choice(OPENINGS) + chance.choice(protocol.indications)
    spoken = f"{age}{sex} {words}" if chance.random() < 0.4 else words
    clicked = chance.choice(protocols).name if chance.random() < WRONG_CLICK else protocol.name
    kidneys = contrast and chance.random() < 0.6
    return {
        "id": id, "setting": chance.choice(SETTINGS), "order_text": f"{spoken}. {chance.choice(CONTEXTS)}".strip(), "ordered_exam": clicked,
        "age": age, "sex": sex, "egfr": chance.choice((18, 27, 41, 62, 88, 97)) if kidneys else None,
        "allergies": [chance.choice(ALLERGIES)] if chance.random() < 0.15 else [],
        "implants": [chance.choice(IMPLANTS)] if magnet and chance.random() < 0.2 else [],
        "pregnant": True if sex == "F" and age < 46 and chance.random() < 0.15 else None,
        "priors": [], "priority": chance.choice(("STAT", "URGENT", "ROUTINE", "ROUTINE")), "expected_protocol": protocol.id,
    }
