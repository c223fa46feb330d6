"""A class of a patient from volumes, age and sex: a logistic regression over a fixed list of values, any of which may be missing."""
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from data.errors import InputError

# (name, usual value, usual spread); volumes in mL, shares in thousandths of the intracranial volume. What a patient lacks counts as usual.
VALUES = (("age_years", 72.0, 9.0), ("sex", 0.5, 0.5), ("hippocampus", 6.5, 1.2), ("ventricles", 40.0, 20.0), ("grey matter", 600.0, 70.0),
          ("white matter", 480.0, 60.0), ("CSF", 300.0, 80.0), ("deep nuclei", 40.0, 6.0), ("brain", 1050.0, 110.0), ("intracranial", 1480.0, 150.0),
          ("hippocampus share", 4.4, 0.8), ("ventricles share", 27.0, 13.0), ("grey matter share", 405.0, 40.0), ("CSF share", 200.0, 50.0),
          ("brain share", 710.0, 60.0))


class Clinical(nn.Module):
    """A logistic regression: of thousands of simulated patients on sixteen heads a network learns the heads, and knows a new one less well."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.straight = nn.Linear(2 * len(VALUES), outputs)

    def forward(self, values: Tensor) -> Tensor:                # (B, 2 len(VALUES)) -> (B, outputs) logits
        return self.straight(values)


def with_shares(volumes_ml: Mapping[str, Any]) -> dict[str, Any]:
    """The two hippocampi as one, and volumes as shares of the intracranial one, where both are known."""
    known = dict(volumes_ml)
    sides = [known.get(f"hippocampus {side}") for side in ("right", "left")]
    if "hippocampus" not in known and all(isinstance(v, (int, float)) for v in sides):
        known["hippocampus"] = sum(v for v in sides if v is not None)
    whole = known.get("intracranial")
    if isinstance(whole, (int, float)) and whole > 0:
        known |= {f"{name} share": 1000 * v / whole for name, v in known.items() if isinstance(v, (int, float))}
    return known


def patient_values(numbers: Mapping[str, Any]) -> NDArray[np.float32]:
    """Standardised values, then which of them are known."""
    volumes = with_shares(numbers.get("volumes_ml") or {})
    found = np.zeros((2, len(VALUES)), np.float32)
    for i, (name, usual, spread) in enumerate(VALUES):
        value = volumes.get(name, numbers.get(name))
        if value is None or value == "":
            continue
        if name == "sex":
            value = 1.0 if str(value).upper().startswith("F") else 0.0
        try:
            found[:, i] = (float(value) - usual) / spread, 1.0
        except (TypeError, ValueError):
            raise InputError(f"{name} is no number; send {name} as a number, or leave it out") from None
    if not found[1].any():
        raise InputError(f"none of {', '.join(v[0] for v in VALUES)} is given; send at least one")
    return np.clip(found, -6, 6).ravel()


APART = 8.0                 # times the usual volume, or less than one so many-th of it: a mistake of the unit


def check_values(numbers: Mapping[str, Any]) -> None:
    """Raises InputError for what a patient cannot have: names nobody measures, no numbers, volumes in another unit than mL."""
    volumes, usual = numbers.get("volumes_ml") or {}, {name: value for name, value, _ in VALUES if not name.endswith(" share")}
    if not isinstance(volumes, Mapping):
        raise InputError(f"volumes_ml is a {type(volumes).__name__}, expected an object of names and mL")
    measured = {**{name: value for name, value in usual.items() if name not in ("age_years", "sex")},
                "hippocampus right": usual["hippocampus"] / 2, "hippocampus left": usual["hippocampus"] / 2}
    if unknown := sorted(set(map(str, volumes)) - set(measured)):
        raise InputError(f"volumes_ml names {', '.join(unknown)}, expected some of {', '.join(measured)}")
    for name, value in volumes.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not measured[name] / APART <= value <= measured[name] * APART:
            raise InputError(f"{name} is {value}, expected {measured[name] / APART:.2g} to {measured[name] * APART:.2g} mL; give mL, or leave it out")
    age, sex = numbers.get("age_years"), numbers.get("sex")
    if age not in (None, "") and (not isinstance(age, (int, float)) or not 0 < age < 120):
        raise InputError(f"age_years is {age}, expected a number of years")
    if sex not in (None, "", "F", "M"):
        raise InputError(f"sex is {sex}, expected F or M")
