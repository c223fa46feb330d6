"""What became of each sentence of a draft at the signature: kept, edited or deleted; figures of that over time and by finding."""
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher
from typing import Any

from api.store import Store, Tx, now

MACHINE = ("model", "template")
READ = ("findings", "impression")       # the sections that are learnt from and counted
ALIKE = 0.4             # share of words in common from which a signed sentence is an edit of a drafted one
WEEKS = 26
WORD = re.compile(r"\d+(?:\.\d+)?|\w+")


class SentenceSteps:
    store: Store

    def sentence_figures(self, weeks: int = WEEKS) -> dict[str, Any]:
        """By week and by finding: reports signed, sentences kept, edited and deleted, words changed."""
        start = (datetime.now(UTC) - timedelta(weeks=weeks)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        columns = ("draft_id", "codes", "outcome", "distance", "provenance", "model", "time")
        with self.store.read() as tx:
            rows = list(tx.since("sentence_outcomes", "time", start, columns))
        weekly: dict[str, list[dict[str, Any]]] = {}
        by_code: dict[str, list[dict[str, Any]]] = {}
        by_model: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            year, week, _ = datetime.fromisoformat(row["time"]).isocalendar()
            weekly.setdefault(f"{year}-W{week:02d}", []).append(row)
            by_model.setdefault(row["model"] or "unknown", []).append(row)
            for code in row["codes"] or ("no finding",):
                by_code.setdefault(code, []).append(row)
        return {"weeks": [{"week": week, **counted(found)} for week, found in sorted(weekly.items())],
                "findings": [{"code": code, **counted(found)} for code, found in sorted(by_code.items())],
                "models": [{"model": model, **counted(found)} for model, found in sorted(by_model.items())], "all": counted(rows)}


def counted(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares are None without sentences; `unchanged` is the share of reports that were signed as they were drafted."""
    total = len(rows)
    found: dict[str, Any] = {"reports": len({row["draft_id"] for row in rows}), "sentences": total}
    changed = {row["draft_id"] for row in rows if row["outcome"] != "keep"}
    for outcome in ("keep", "edit", "delete"):
        found[outcome] = sum(row["outcome"] == outcome for row in rows)
    return {**found, "accepted": share(found["keep"], total), "distance": round(sum(row["distance"] for row in rows) / total, 4) if total else None,
            "unchanged": share(found["reports"] - len(changed), found["reports"])}


def share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def keep_outcomes(tx: Tx, draft_id: str, version: int, signed: dict[str, Any], user: str) -> None:
    """In the transaction of a signature or amendment; what an earlier signature left of the draft is replaced."""
    first = tx.find("draft_versions", draft_id=draft_id, order=["version"], limit=1)
    written = first[0]["record"] if first else signed
    code_of = {finding["id"]: finding["code"] for finding in written["findings"]}
    model = str(written["model"].get("report", ""))[:100]
    tx.remove("sentence_outcomes", draft_id=draft_id)
    for number, (sentence, after) in enumerate(outcomes(written["sentences"], signed["sentences"])):
        gone = distance(sentence["text"], after)
        tx.insert("sentence_outcomes", draft_id=draft_id, version=version, number=number, section=sentence["section"],
                  codes=sorted({code_of[id] for id in sentence["findings"] if id in code_of}), provenance=sentence["provenance"],
                  outcome="keep" if not gone else "edit" if after else "delete", distance=gone, written=sentence["text"], signed=after,
                  model=model, user=user, time=now())


def outcomes(written: Sequence[dict[str, Any]], signed: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """(drafted sentence, the signed sentence it became or "") of findings and impression, each signed sentence taken once, the likest first."""
    drafted = [s for s in written if s["section"] in READ and s["provenance"] in MACHINE]
    free = [s for s in signed if s["section"] in READ]
    became: dict[int, str] = {}
    for i, sentence in enumerate(drafted):
        same = next((s for s in free if s["section"] == sentence["section"] and s["text"] == sentence["text"]), None)
        if same is not None:
            free.remove(same)
            became[i] = same["text"]
    pairs = sorted(((likeness(sentence["text"], other["text"]), i, k) for i, sentence in enumerate(drafted) if i not in became
                    for k, other in enumerate(free) if other["section"] == sentence["section"]), key=lambda pair: (-pair[0], pair[1], pair[2]))
    taken: set[int] = set()
    for alike, i, k in pairs:
        if alike >= ALIKE and i not in became and k not in taken:
            taken.add(k)
            became[i] = free[k]["text"]
    return [(sentence, became.get(i, "")) for i, sentence in enumerate(drafted)]


def likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, WORD.findall(one.lower()), WORD.findall(other.lower()), autojunk=False).ratio()


def distance(one: str, other: str) -> float:
    """Words inserted, deleted or replaced (Levenshtein) over the words of the longer text; 0 the same, 1 nothing left."""
    a, b = one.split(), other.split()
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, there in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != there))
    return round(row[-1] / max(len(a), len(b), 1), 4)
