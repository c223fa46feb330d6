"""Several MLLP listeners, each with its site's settings: TLS, mutual TLS, limits, times, and what the connections page knows of them."""
import asyncio
import contextlib
import shutil
import ssl
import subprocess

import pytest

from api.hl7.mllp import Listener
from api.hl7.sender import Connection, Unreachable
from api.hl7.tls import client_tls, server_tls
from api.settings import Destination, MllpListener, read_settings
from api.store import Store
from data.errors import InputError

ORDER = b"MSH|^~\\&|RIS|H|W|R|20261124||ORM^O01|%s|P|2.5.1\rPID|||7||N^N\rORC|NW|P1\rOBR|1|P1||X^MRI^L|||||||||headache\r"


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """An authority with a server's and a client's certificate, and a stranger that signed itself; the folder that holds them."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "stranger"):
        openssl(*new, "-x509", "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-addext",
                "subjectAltName=IP:127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "ris"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out", f"{name}.pem",
                "-extfile", "names")
    return folder


def listening(tmp_path, use, *sites, **settings):
    """Start every listener, run `use(listeners, store)`, stop them; what `use` returned and the kept messages."""
    async def run():
        given = read_settings(tmp_path, mllp=0, mllp_listeners=sites, **settings)
        store = Store.open(given.db, given.home)
        listeners = [Listener(store, given, site) for site in given.listeners]
        for listener in listeners:
            await listener.start()
        try:
            found = await use(listeners)
        finally:
            for listener in listeners:
                await listener.stop()
            rows = store.messages()
            store.close()
        return found, rows

    return asyncio.run(run())


async def ask(port, raw, tls=None):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1" if tls else None)
    writer.write(b"\x0b" + raw + b"\x1c\r")
    try:
        return await asyncio.wait_for(reader.readuntil(b"\x1c\r"), 20)
    finally:
        writer.close()


def trusting(pki, certificate="", authority="ca"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pki / f"{authority}.pem")
    if certificate:
        context.load_cert_chain(pki / f"{certificate}.pem", pki / f"{certificate}.key")
    return context


def test_each_site_is_kept_under_its_name_and_speaks_as_it_is_set(tmp_path, pki):
    secure = MllpListener("clinic", 0, tls_certificate=str(pki / "server.pem"), tls_key=str(pki / "server.key"))

    async def use(listeners):
        plain = await ask(listeners[0].port, ORDER % b"C1")
        over_tls = await ask(listeners[1].port, ORDER % b"C2", trusting(pki))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(listeners[1].port, ORDER % b"C3")                     # in the clear, to a port that speaks TLS alone
        return plain, over_tls

    (plain, over_tls), rows = listening(tmp_path, use, secure)
    assert b"MSA|AA|C1" in plain and b"MSA|AA|C2" in over_tls
    assert sorted((row["control_id"], row["listener"]) for row in rows) == [("C1", "main"), ("C2", "clinic")]


def test_mutual_tls_takes_only_peers_of_its_authority_and_names_them(tmp_path, pki):
    site = MllpListener("clinic", 0, tls_certificate=str(pki / "server.pem"), tls_key=str(pki / "server.key"), tls_authority=str(pki / "ca.pem"))

    async def use(listeners):
        for certificate in ("", "stranger"):
            with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
                await ask(listeners[1].port, ORDER % b"C1", trusting(pki, certificate))
        answer = await ask(listeners[1].port, ORDER % b"C2", trusting(pki, "ris"))
        report = listeners[1].report()
        return answer, report["tls"], {row["certificate"] for row in report["open"] + report["closed"]}

    (answer, spoken, names), rows = listening(tmp_path, use, site)
    assert b"MSA|AA|C2" in answer and (spoken, names) == ("mutual TLS", {"ris"}) and len(rows) == 1


def test_our_sender_checks_the_receivers_certificate_and_shows_its_own(tmp_path, pki):
    site = MllpListener("clinic", 0, tls_certificate=str(pki / "server.pem"), tls_key=str(pki / "server.key"), tls_authority=str(pki / "ca.pem"))

    async def use(listeners):
        def send(authority, certificate):
            to = Destination("ris", "127.0.0.1", listeners[1].port, True, str(pki / f"{authority}.pem"), str(pki / f"{certificate}.pem"),
                             str(pki / f"{certificate}.key"))
            line = Connection(to, client_tls(tmp_path, to), answer_s=10)
            try:
                return [line.exchange(ORDER % name, name.decode())[0] for name in (b"W1", b"W2")]
            finally:
                line.close()

        with pytest.raises(Unreachable):
            await asyncio.to_thread(send, "stranger", "ris")
        return await asyncio.to_thread(send, "ca", "ris")

    assert listening(tmp_path, use, site)[0] == ["AA", "AA"]


@pytest.mark.parametrize("site", [MllpListener("a", 0, tls_certificate="no.pem"), MllpListener("a", 0, tls_authority="ca.pem")])
def test_TLS_that_cannot_be_is_a_coded_error_and_never_a_port_in_the_clear(tmp_path, site):
    with pytest.raises(InputError, match="E109"):
        server_tls(tmp_path, site)


def test_one_connection_too_many_is_closed_and_the_others_stay(tmp_path):
    async def use(listeners):
        held = [await asyncio.open_connection("127.0.0.1", listeners[1].port) for _ in range(2)]
        while len(listeners[1].open) < 2:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", listeners[1].port)
        refused = await asyncio.wait_for(reader.read(), 20)
        held[0][1].write(b"\x0b" + ORDER % b"C1" + b"\x1c\r")
        answer = await asyncio.wait_for(held[0][0].readuntil(b"\x1c\r"), 20)
        for _, other in [*held, (reader, writer)]:
            other.close()
        return refused, answer, [row["why_closed"] for row in listeners[1].report()["closed"]]

    (refused, answer, why), _ = listening(tmp_path, use, MllpListener("small", 0, connections_max=2))
    assert refused == b"" and b"MSA|AA|C1" in answer and why == ["too many connections"]


def test_half_a_frame_and_then_nothing_is_closed_and_silence_between_frames_is_not(tmp_path):
    async def use(listeners):
        quiet, half = [await asyncio.open_connection("127.0.0.1", listeners[1].port) for _ in range(2)]
        half[1].write(b"\x0bMSH|^~")
        ended = await asyncio.wait_for(half[0].read(), 20)
        quiet[1].write(b"\x0b" + ORDER % b"C1" + b"\x1c\r")
        answer = await asyncio.wait_for(quiet[0].readuntil(b"\x1c\r"), 20)
        half[1].close()
        quiet[1].close()
        return ended, answer, [row["why_closed"] for row in listeners[1].report()["closed"]]

    (ended, answer, why), rows = listening(tmp_path, use, MllpListener("strict", 0, half_frame_s=0.05))
    assert ended == b"" and b"MSA|AA|C1" in answer and why == ["half a frame and then nothing"] and len(rows) == 1


def test_the_report_counts_what_is_not_as_MLLP_has_it_and_says_nothing_of_a_patient(tmp_path):
    async def use(listeners):
        reader, writer = await asyncio.open_connection("127.0.0.1", listeners[0].port)
        order = ORDER % b"C1"
        writer.write(b"noise\x0bMSH|^~\\&|broken off\x0b" + order + b"\x1c" + b"\x0b" + order.replace(b"C1", b"C2") + b"\x1c\r")
        writer.write(b"\x0bgarbage\x1c\r")
        for _ in range(3):
            await asyncio.wait_for(reader.readuntil(b"\x1c\r"), 20)
        [row] = listeners[0].report()["open"]
        writer.close()
        return row

    row, _ = listening(tmp_path, use)
    assert (row["frames"], row["broken_off"], row["without_return"], row["answered"]) == (3, 1, 1, {"AA": 2, "AR": 1})
    assert row["noise_bytes"] > 5 and "N^N" not in repr(row) and row["last_frame"] and not row["half_frame"]


def test_a_sites_character_set_holds_where_a_message_names_none(tmp_path):
    raw = (ORDER % b"C1").replace(b"N^N", "Łukasz^Ż".encode("iso8859_2"))

    async def use(listeners):
        return await ask(listeners[0].port, raw)

    from api.workflow import Desk
    from tests.api.test_workflow import work

    answer, _ = listening(tmp_path, use, mllp_charset="8859/2")
    settings = read_settings(tmp_path, mllp_charset="8859/2")
    store = Store.open(settings.db, settings.home)
    with contextlib.closing(store):
        desk = Desk(store, settings)
        work(desk)
        assert b"MSA|AA" in answer and desk.order("P1")["order"]["patient"]["name"] == "Łukasz^Ż"


@pytest.mark.parametrize("rows", [[{"name": "a"}], [{"name": "main", "port": 1}], [{"name": "a", "port": 1}, {"name": "a", "port": 2}],
                                  [{"name": "a", "port": 1, "time_zone": "Mars/Base"}], [{"name": "a", "port": 1, "charset": "KLINGON"}],
                                  [{"name": "a", "port": 1, "colour": "red"}], [{"name": "a", "port": 1, "connections_max": 0}], "a=1"])
def test_a_malformed_listener_is_said_with_its_cure(tmp_path, rows):
    with pytest.raises(InputError, match="mllp_listeners"):
        read_settings(tmp_path, mllp_listeners=rows)
