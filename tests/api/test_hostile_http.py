"""HTTP made to hurt, over a real socket: heads and bodies without end, too large, too deep or stalled are refused, and the next is served."""
import contextlib
import json
import shutil
import socket
import threading
import time

import pytest

from api import http_limits
from api.app import create_app
from api.http_limits import HEAD_MAX_BYTES, http_server
from api.routes import studies
from api.settings import Settings
from api.store import Store
from api.workflow import Desk


@pytest.fixture
def port(sqlite_template, tmp_path):
    """A server as `wetread serve` runs it; every test ends with a request that is served."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(sqlite_template, home / "wetread.db")
    store = Store.open("", home, upgrade=False)
    settings = Settings(home=home, cds_jwt=False)
    server = http_server(create_app(Desk(store, settings), settings), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    number = server.servers[0].sockets[0].getsockname()[1]
    yield number
    assert ask(number, b"GET /health HTTP/1.1\r\n")[0] == 200
    server.should_exit = True
    thread.join(10)
    store.close()


def ask(port, head, body=b"", wait_s=30):
    """(status, what came) of a request's head, without its Host, and a body."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.settimeout(wait_s)
        line.sendall(head + b"Host: 127.0.0.1\r\nConnection: close\r\n\r\n" + body)
        return answered(line)


def answered(line):
    """The status, and all that comes until the server closes; (0, b"") when it says nothing."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while piece := line.recv(65536):
            said += piece
    return (int(said.split(b" ", 2)[1]) if said else 0), said


def refused(found, status, *words):
    assert found[0] == status, found
    assert b"[E109]" in found[1] and b"Traceback" not in found[1]
    for word in words:
        assert word in found[1]


POST = b"POST /v1/protocols/suggest HTTP/1.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("address", ["/v1/protocols/suggest", "/v1/orders", "/fhir/ServiceRequest", "/cds-services/wetread-order-sign", "/login"])
def test_a_body_of_300_megabytes_is_refused_by_its_announcement(port, address):
    head = f"POST {address} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 314572800\r\n"
    refused(ask(port, head.encode(), b"{"), 413, b"larger than")


def test_a_body_that_does_not_say_its_length_is_refused_once_it_is_too_long(port):
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.settimeout(30)
        line.sendall(POST + b"Host: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(17):
            line.sendall(piece)
        assert line.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_body_that_stops_is_given_up(port, monkeypatch):
    monkeypatch.setattr(http_limits, "BODY_WAIT_S", 0.2)
    refused(ask(port, POST + b"Content-Length: 100\r\n", b'{"text":'), 408, b"too slowly")


def test_an_upload_that_stops_is_given_up(port, monkeypatch):
    monkeypatch.setattr(http_limits, "BODY_WAIT_S", 0.2)
    head = b"POST /v1/studies HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 10000\r\n"
    refused(ask(port, head, b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nabc'), 408, b"too slowly")


def test_a_body_that_drips_is_given_up(port, monkeypatch):
    monkeypatch.setattr(http_limits, "BODY_SLOW_S", 0.3)
    monkeypatch.setattr(http_limits, "BODY_MIN_BYTES_PER_S", 10**9)
    assert drip(port, POST + b"Host: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n") == 408


def test_a_head_that_drips_or_never_comes_is_given_up(port, monkeypatch):
    monkeypatch.setattr(http_limits, "HEAD_WAIT_S", 0.3)
    assert drip(port, POST) == 0
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.settimeout(30)
        assert answered(line) == (0, b"")


def test_what_drips_on_after_its_answer_is_given_up(port, monkeypatch):
    monkeypatch.setattr(http_limits, "REST_WAIT_S", 0.3)
    assert drip(port, POST + b"Host: 127.0.0.1\r\nContent-Length: 300000000\r\n\r\n", until_closed=True) == 413


def drip(port, head, until_closed=False):
    """Send `head`, then a letter now and then; the status that comes, 0 when the line is closed without one. Fails when neither happens."""
    status = 0
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(head)
        line.settimeout(0.05)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                line.sendall(b"x")
                said = line.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return status
            if not said:
                return status
            status = int(said.split(b" ", 2)[1])
            if not until_closed:
                return status
    raise AssertionError("neither answered nor closed")


@pytest.mark.parametrize("head", [b"GET /health HTTP/1.1\r\nX: ", b"GET /" + b"a" * 100, b"GET /health HTTP/1.1\r\n"])
def test_a_head_without_end_is_refused(port, head):
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.settimeout(30)
        more = b"A: b\r\n" * 1000 if head.endswith(b"\n") else b"a" * 6000
        with contextlib.suppress(ConnectionError):
            line.sendall(head)
            for _ in range(5 * HEAD_MAX_BYTES // len(more)):
                line.sendall(more)
        said = answered(line)
        assert said[0] in (0, 400)      # 0: the end of the line overtook the answer


@pytest.mark.parametrize("address", ["/v1/protocols/suggest", "/v1/orders", "/fhir/ServiceRequest", "/cds-services/wetread-order-sign"])
@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'{"text": "\\ud800"}', b"\xff\xfe{}",
                                  b'{"text": 1' + b"0" * 9000 + b"}", b'{"text": NaN}', b'{"text": 1e999}', b"null", b'"', b'{"a":1,' * 30_000])
def test_json_that_is_too_deep_or_none_is_refused_in_words(port, address, body):
    status, said = ask(port, f"POST {address} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode(), body)
    assert status in (400, 422), said
    assert b"E109" in said and b"Traceback" not in said


def form(parts, boundary=b"b"):
    return b"".join(b'--' + boundary + b'\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + part + b"\r\n" for part in parts) \
        + b"--" + boundary + b"--\r\n"


def upload(port, body, kind=b"multipart/form-data; boundary=b", address=b"/v1/studies"):
    return ask(port, b"POST " + address + b" HTTP/1.1\r\nContent-Type: " + kind + b"\r\nContent-Length: %d\r\n" % len(body), body)


def test_a_form_of_too_many_parts_is_refused(port, monkeypatch):
    monkeypatch.setattr(studies, "FILES_MAX", 50)
    refused(upload(port, form([b""] * 51)), 413, b"more than 50 parts")
    plain = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n' * 51 + b"--b--\r\n"
    refused(upload(port, plain), 413, b"more than 50 parts")


def test_a_part_that_is_too_large_is_refused(port, monkeypatch):
    monkeypatch.setattr(studies, "INSTANCE_MAX_BYTES", 100_000)
    refused(upload(port, form([b"x" * 200_000])), 413, b"100000 bytes")


@pytest.mark.parametrize("body, kind", [
    (b"--b\r\n" + b"X: y\r\n" * 100_000, b"multipart/form-data; boundary=b"), (b"--b\r\nX: " + b"y" * 100_000, b"multipart/form-data; boundary=b"),
    (b"--b" * 100_000, b"multipart/form-data; boundary=b"), (form([b"x"])[:-10], b"multipart/form-data; boundary=b"),
    (form([b"x"]), b"multipart/form-data; boundary=" + b"q" * 30_000)])
def test_a_multipart_body_that_is_none_is_refused(port, body, kind):
    found = upload(port, body, kind)
    refused(found, found[0])
    assert found[0] in (400, 422)


def test_a_search_form_of_a_million_fields_is_refused(port):
    body = b"a&" * 500_000
    head = b"POST /fhir/ServiceRequest/_search HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n"
    status, said = ask(port, head % len(body), body)
    assert status == 400 and json.loads(said.partition(b"\r\n\r\n")[2])["resourceType"] == "OperationOutcome"
