"""Measure CDS Hooks on a running server: `python -m api.bench_cds http://127.0.0.1:8080`; prints one line of JSON.

Every call is another authored order (so that no kept answer flatters), on connections that stay open, as an EHR's.
"""
import argparse
import http.client
import json
import threading
import time
import uuid
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from data.orders import read_authored
from data.records import Order

SERVICE = "wetread-order-sign"
SEX = {"M": "male", "F": "female"}


def hook_call(order: Order, number: int) -> dict[str, Any]:
    request = {"resourceType": "ServiceRequest", "id": f"sr{number}", "status": "draft", "intent": "order", "subject": {"reference": "Patient/p1"},
               "category": [{"coding": [{"system": "http://snomed.info/sct", "code": "363679005", "display": "Imaging"}]}],
               "code": {"text": order.ordered_exam or "MR BRAIN"}, "priority": {"STAT": "stat", "URGENT": "urgent"}.get(order.priority, "routine"),
               "reasonCode": [{"text": f"{order.text} ({number})"}]}
    return {"hook": "order-sign", "hookInstance": str(uuid.uuid4()),
            "context": {"userId": "Practitioner/1", "patientId": "p1", "draftOrders": {
                "resourceType": "Bundle", "type": "collection", "entry": [{"resource": request}]}},
            "prefetch": {"patient": {"resourceType": "Patient", "id": "p1", "birthDate": "1960-01-01",
                                     "gender": SEX.get(order.patient.sex, "unknown")},
                         "egfr": None, "body": None, "allergies": None, "implants": None, "conditions": None, "priors": None}}


def measure(url: str, clients: int, calls: int, token: str = "", floor: bool = False) -> dict[str, Any]:
    """`calls` calls by each of `clients` at once; milliseconds as the client sees them."""
    orders = [labelled.order for labelled in read_authored()]
    times: list[float] = []
    seen = {"200": 0, "with_cards": 0, "by_model": 0, "other": 0}
    lock = threading.Lock()
    place = urlsplit(url)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port or 80, timeout=30)
        for i in range(calls):
            n = number * calls + i
            body = json.dumps(hook_call(orders[n % len(orders)], n)).encode()
            began = time.perf_counter()
            connection.request(*("GET", "/health") if floor else ("POST", f"/cds-services/{SERVICE}", body, headers))
            answer = connection.getresponse()
            raw = answer.read()
            took = time.perf_counter() - began
            cards = json.loads(raw).get("cards", []) if answer.status == 200 else []
            with lock:
                times.append(took * 1000)
                seen["200" if answer.status == 200 else "other"] += 1
                seen["with_cards"] += bool(cards)
                seen["by_model"] += any("probability" in card["detail"] for card in cards)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    per_s = len(times) / (time.perf_counter() - began)
    at = {f"p{share}_ms": round(times[min(len(times) - 1, len(times) * share // 100)], 1) for share in (50, 95, 99)}
    return {"clients": clients, "calls": len(times), **at, "max_ms": round(times[-1], 1), "per_s": round(per_s, 1), **seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--calls", type=int, default=50, help="by each client")
    parser.add_argument("--warm", type=float, default=30.0, help="seconds to let the model load after the first call")
    parser.add_argument("--token", default="", help="API key, where the server asks for one")
    given = parser.parse_args()
    try:
        urlopen(f"{given.url}/health", timeout=10).close()
    except (OSError, ValueError):
        raise SystemExit(f"nothing answers at {given.url}; start it with wetread serve") from None
    first = measure(given.url, 1, 1, given.token)       # starts the model
    time.sleep(given.warm)
    measure(given.url, 1, 5, given.token)
    # what these clients get from this server on this machine just now for an address that does next to nothing
    floor = measure(given.url, given.clients, given.calls, given.token, floor=True)
    print(json.dumps({"floor": {name: floor[name] for name in ("p50_ms", "p99_ms", "per_s")}, "first_call_ms": first["max_ms"],
                      **measure(given.url, given.clients, given.calls, given.token)}))


if __name__ == "__main__":
    main()
