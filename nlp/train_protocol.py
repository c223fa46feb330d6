"""Train the order classifier: encoder, linear model and neighbours on labelled orders, ranker and calibration on hands that did not teach them."""
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from sklearn.svm import LinearSVC
from tokenizers import Tokenizer

from data.book import read_book
from data.errors import InputError
from data.model_files import save_model, to_int8
from data.orders import Labelled, labelled_from, read_authored, read_rows
from data.records import Order
from nlp.calibrate import fit, urgent_rates
from nlp.classifier import CONTRASTS, FEATURES, Classifier, Linear, Models, Neighbours, Ranker, Reader, Said
from nlp.features import Seen, counts_of, rarity_of, vectors_of
from nlp.tune_encoder import EPOCHS, FROZEN, LAYERS, base_model, tune

HANDS = "abcdeij"       # authors of the shipped material who write as referrers do; the encoder never sees their orders
ALSO = 0.5              # weight of an order as an example of a protocol that is acceptable, not expected
BARE = 2                # one order in so many is learnt a second time by its text alone
KEPT = 64               # features of a labelled order that are kept for finding it again
Report = Callable[..., None]


def main(out: Path, data: list[Path] | None = None, base: str | None = None, epochs: int = EPOCHS, seed: int = 0, device: str = "cpu",
         resume: bool = False, report: Report = lambda *a, **k: None) -> None:
    """Train and save into `out`; exact resume from the encoder's last epoch.

    The encoder learns from the orders that belong to no hand. The linear model and the neighbours are made once without each hand, so that
    ranker, calibration and thresholds are fitted on answers to strangers, and then from all orders, which is what is kept.
    """
    rows, book = read_labelled(data) if data else read_authored(), read_book()
    hands = hands_of(rows)
    protocols = protocols_of(rows)
    reader, tensors, config = learn_encoder([row for row, hand in zip(rows, hands, strict=True) if not hand], protocols, base, epochs, seed, device,
                                            Path(out), resume, report)
    places = Places(rows)
    said = held_out(rows, hands, places, protocols, reader, report)
    mine = [i for i, hand in enumerate(hands) if hand]
    fitted = fit([rows[i] for i in mine], said, protocols, urgent_rates(rows, protocols), book)
    linear, neighbours, more = learn_words(rows, list(range(len(rows))), places, protocols)
    tensors |= more
    publish(assembled(Models(reader, linear, neighbours, protocols), tensors, *fitted), tensors, config, reader.tokenizer, Path(out), {
        "orders": len(rows), "orders of hands held out in turn": len(mine), "hands": "".join(sorted(set(hands) - {""})),
        "epochs": epochs, "seed": seed,
        "command": f"wetread train protocol --epochs {epochs} --seed {seed} --out {Path(out).name}"})


def hands_of(rows: Sequence[Labelled]) -> list[str]:
    """For each order the hand with which it is held out in turn; "" for those that always teach. Without known hands, every fifth order."""
    found = [row.author if row.author in HANDS else "" for row in rows]
    if not any(found) or all(found):
        return ["held" if i % 5 == 0 else "" for i in range(len(rows))]
    return found


def protocols_of(rows: Sequence[Labelled]) -> tuple[str, ...]:
    return tuple(sorted({name for row in rows for name in (row.expected, *row.acceptable)}))


# ---------------------------------------------------------------- the learned models

def learn_encoder(rows: list[Labelled], protocols: tuple[str, ...], base: str | None, epochs: int, seed: int, device: str, out: Path, resume: bool,
                  report: Report) -> tuple[Reader, dict[str, NDArray[Any]], dict[str, Any]]:
    """The encoder as it will be read back (what is measured is what is shipped), its tensors as stored, its configuration."""
    weights, config, tokenizer = base_model(base)
    both = rows + [replace(row, order=bare_order(row.order)) for row in rows[::BARE]]
    net = tune(both, protocols, weights, config, tokenizer, epochs, seed, device, out, resume, report)
    tensors = {f"net.{name}": as_stored(p.detach().cpu().numpy()) for name, p in net.state_dict().items()}
    return Reader.read(config, tensors, tokenizer, len(protocols), device), tensors, config


def as_stored(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float16) if values.dtype == np.float32 else values


def bare_order(order: Order) -> Order:
    """Text, age and sex alone: an order without a click must not be a stranger."""
    return Order(id=order.id, text=order.text, age_years=order.age_years, patient=order.patient)


class Places:
    """Counts of all orders and of their bare copies, found once for all the models made from parts of them."""

    def __init__(self, rows: Sequence[Labelled]) -> None:
        self.seen = [Seen(row.order) for row in rows]
        self.whole = counts_of([one.all for one in self.seen])
        self.bare = counts_of([Seen(bare_order(row.order)).all for row in rows])


def learn_words(rows: Sequence[Labelled], some: list[int], places: Places,
                protocols: tuple[str, ...]) -> tuple[Linear, Neighbours, dict[str, NDArray[Any]]]:
    """Linear model and neighbours from some of the rows, as they will be read back, and their tensors.

    An acceptable protocol is no wrong answer: it counts for its protocol with half the weight of the expected one. Without this,
    acceptable@1 on authors a to c from f to h falls from 0.84 to 0.79 (fifteen fits by a scratch script).
    """
    twice = some[::BARE]
    rarity = rarity_of(places.whole[some])
    whole = vectors_of(places.whole[some], rarity)
    vectors = vstack([whole, vectors_of(places.bare[twice], rarity)]).tocsr()
    teach = [rows[i] for i in (*some, *twice)]
    asked = [(np.array([row.expected == name for row in teach]), np.array([name in row.acceptable for row in teach])) for name in protocols]
    asked += [(np.array([row.contrast == name for row in teach]), np.zeros(len(teach), bool)) for name in CONTRASTS]
    asked += [(np.array([row.urgent for row in teach]), np.zeros(len(teach), bool))]
    weight, bias = np.zeros((len(asked), vectors.shape[1]), np.float32), np.full(len(asked), -1.0, np.float32)

    def learn(i: int) -> None:
        expected, also = asked[i]
        if 0 < (expected | also).sum() < len(teach):
            machine = LinearSVC(C=0.5, random_state=0).fit(vectors, expected | also, sample_weight=np.where(also & ~expected, ALSO, 1.0))
            weight[i], bias[i] = machine.coef_[0], machine.intercept_[0]

    with ThreadPoolExecutor(2) as threads:      # the fit lets go of Python's lock
        list(threads.map(learn, range(len(asked))))
    tensors = to_int8({"weight": weight}) | {"rarity": rarity.astype(np.float16), "bias": bias}
    tensors |= remember([rows[i] for i in some], whole, protocols).stored()
    return Linear.read(tensors), Neighbours.read(tensors), tensors


def remember(rows: list[Labelled], vectors: csr_matrix, protocols: tuple[str, ...]) -> Neighbours:
    """The labelled orders by their strongest features; an acceptable protocol counts less than the expected one."""
    kept = vectors.copy()
    for start, end in zip(kept.indptr[:-1], kept.indptr[1:], strict=True):
        if end - start > KEPT:
            values = kept.data[start:end]
            values[values < np.partition(values, end - start - KEPT)[end - start - KEPT]] = 0
    kept.eliminate_zeros()
    shares = np.zeros((len(rows), len(protocols)), np.float32)
    for i, row in enumerate(rows):
        shares[i, [protocols.index(name) for name in row.acceptable]] = 0.4
        shares[i, protocols.index(row.expected)] = 1
    return Neighbours(kept, shares, np.array([row.urgent for row in rows], np.float32), [row.order.id or str(i) for i, row in enumerate(rows)])


def held_out(rows: Sequence[Labelled], hands: Sequence[str], places: Places, protocols: tuple[str, ...], reader: Reader,
             report: Report = lambda *a, **k: None) -> Said:
    """What the models say of each hand's orders without having learnt from that hand; rows in the order of those that belong to one."""
    mine = [i for i, hand in enumerate(hands) if hand]
    at = {i: row for row, i in enumerate(mine)}
    parts: list[tuple[list[int], Said]] = []
    names = sorted(set(hands) - {""})
    for done, hand in enumerate(names):
        test = [i for i in mine if hands[i] == hand]
        linear, neighbours, _ = learn_words(rows, apart(rows, places, [i for i in range(len(rows)) if hands[i] != hand], test), places, protocols)
        parts.append((test, Models(reader, linear, neighbours, protocols)([rows[i].order for i in test], [places.seen[i] for i in test])))
        report(done + 1, len(names), stage="each hand held out")
    order = np.argsort([at[i] for test, _ in parts for i in test])
    return Said.joined([said for _, said in parts]).take(order)


ALIKE = 0.8             # cosine of two orders that are the same one written twice


def apart(rows: Sequence[Labelled], places: Places, some: list[int], test: list[int]) -> list[int]:
    """Those of `some` that are not nearly the text of a test order: a text on both sides would be learnt by heart."""
    rarity = rarity_of(places.whole[some])
    across = vectors_of(counts_of([places.seen[i].text for i in test]), rarity).T.tocsr()
    near = vectors_of(counts_of([places.seen[i].text for i in some]), rarity) @ across
    likeness = np.asarray(near.max(1).todense()).ravel() / 2
    return [i for i, alike in zip(some, likeness, strict=True) if alike < ALIKE]


def assembled(models: Models, tensors: dict[str, NDArray[Any]], ranker: Ranker, calibration: dict[str, Any]) -> Classifier:
    digest = hashlib.sha256(b"".join(t.tobytes() for t in (*tensors.values(), ranker.weight, ranker.new_weight))).hexdigest()[:8]
    return Classifier(models, ranker, calibration, f"protocol-{digest}")


def publish(classifier: Classifier, tensors: dict[str, NDArray[Any]], encoder: dict[str, Any], tokenizer: Tokenizer, out: Path,
            about: dict[str, Any]) -> None:
    config = {"encoder": encoder, "protocols": list(classifier.protocols), "calibration": classifier.calibration, "version": classifier.version}
    card = {"name": "order classifier", "version": classifier.version, "features": list(FEATURES), "weights": classifier.ranker.weight.tolist(),
            "base": f"all-MiniLM-L6-v2 (Apache-2.0), the first {LAYERS} layers, those above the {FROZEN}nd fine-tuned",
            "data": "authored orders, no real patients, no radiologist has checked the labels", **about}
    stored = {**tensors, "ranker": classifier.ranker.weight, "new_ranker": classifier.ranker.new_weight}
    save_model(out, stored, config, card, {"tokenizer.json": tokenizer.to_str().encode()})
    (out / "checkpoint.safetensors").unlink(missing_ok=True)


def read_labelled(paths: list[Path]) -> list[Labelled]:
    found = []
    for path in paths:
        for number, row, error in read_rows(path.read_bytes()):
            if row is None or "expected_protocol" not in row:
                raise InputError(f"{path}:{number}: {error or 'expected_protocol is missing'}; see data/authored_orders/README.md")
            found.append(labelled_from({"acceptable_protocols": [], "expected_contrast": "none", "expected_flags": [], "urgent": False,
                                        **row}, path.stem[-1]))
    return found
