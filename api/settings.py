"""Settings: defaults, then HOME/settings.toml, then WETREAD_* of the environment, then what the command line gave."""
import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from data.errors import InputError


@dataclass(frozen=True)
class Destination:
    """An MLLP receiver of results."""

    name: str
    host: str
    port: int
    tls: bool = False
    tls_authority: str = ""                     # PEM files: whose certificates are trusted, else the system's; and our own
    tls_certificate: str = ""
    tls_key: str = ""


@dataclass(frozen=True)
class MllpListener:
    """A port that takes HL7 messages, and what holds for the site that sends there."""

    name: str
    port: int
    host: str = ""                              # "" is the host of all
    peers: tuple[str, ...] = ()
    tls_certificate: str = ""                   # PEM files: with a certificate and its key it speaks TLS alone
    tls_key: str = ""
    tls_authority: str = ""                     # whose certificates are trusted; every peer must then show one
    connections_max: int = 64
    idle_s: float = 3600.0                      # a feed may be silent at night
    half_frame_s: float = 60.0                  # a half frame may not
    time_zone: str = "UTC"                      # of its times without an offset
    charset: str = ""                           # of its messages with an empty MSH-18, by HL7 table 0211
    assigning_authority: str = ""               # PID-3.4 of our patients: identifiers that name another one are not read; "" reads all


@dataclass(frozen=True)
class Node:
    """A DICOM application entity that we call: a PACS, or a scanner that is told of a storage commitment."""

    ae_title: str
    host: str
    port: int
    results: tuple[str, ...] = ()               # of SR, SEG, KO: what is sent there when a report leaves
    priors: str = ""                            # move or get: how a patient's earlier studies are fetched from there
    tls: bool = False


@dataclass(frozen=True)
class CdsClient:
    """An EHR that may call the CDS Hooks services with its own tokens."""

    issuer: str                 # iss of its tokens
    jwks: str                   # its JWK Set: an https URL, or a file


@dataclass(frozen=True)
class FhirServer:
    """A FHIR server that may be asked for what a prefetch left out."""

    url: str                    # base URL
    client_id: str = ""         # SMART Backend Services: with these three we sign in ourselves
    key: str = ""               # file of the private key, JWK or PEM
    token_url: str = ""


@dataclass(frozen=True)
class Settings:
    home: Path
    db: str = ""                                # "" becomes the SQLite file in home
    host: str = "127.0.0.1"
    http: int = 8080
    mllp: int = 2575
    dicom: int = 11112
    device: str = "auto"                        # auto, cpu or cuda
    quiet_period_s: float = 5.0                 # without a new instance, after which a study is complete
    outbox: tuple[Destination, ...] = ()
    alert_destination: str = ""                 # of the outbox, which is told of alerts that nobody acknowledged in time; "" tells none
    mllp_peers: tuple[str, ...] = ()            # addresses or networks; loopback always may speak
    mllp_tls_certificate: str = ""              # as in MllpListener, for the port `mllp`
    mllp_tls_key: str = ""
    mllp_tls_authority: str = ""
    mllp_time_zone: str = "UTC"
    mllp_charset: str = ""
    mllp_assigning_authority: str = ""
    mllp_listeners: tuple[MllpListener, ...] = ()       # more ports
    dicom_peers: tuple[str, ...] = ()
    ae_title: str = "WETREAD"
    dicom_nodes: tuple[Node, ...] = ()
    dicom_tls_certificate: str = ""             # PEM files: with a certificate and its key the listener speaks TLS alone
    dicom_tls_key: str = ""
    dicom_tls_authority: str = ""               # whose certificates are trusted; the listener then asks every peer for one
    automation: bool = False                    # accept a suggestion with disposition auto without a person
    public_url: str = ""                        # how others reach us, https://wetread.hospital; "" becomes http://host:port
    cds_clients: tuple[CdsClient, ...] = ()
    cds_jwt: bool = True                        # False, on loopback only: CDS Hooks without tokens
    cds_origins: tuple[str, ...] = ()           # browser-based CDS clients, https://ehr.hospital
    fhir_servers: tuple[FhirServer, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "home", Path(self.home).absolute())
        if not self.db:
            object.__setattr__(self, "db", f"sqlite:///{self.home / 'wetread.db'}")
        object.__setattr__(self, "public_url", (self.public_url or f"http://{self.host}:{self.http}").rstrip("/"))
        if self.alert_destination and self.alert_destination not in {row.name for row in self.outbox}:
            raise InputError(f"setting alert_destination is '{self.alert_destination}', which is no name in outbox; name one of it, or leave it out")
        if not self.cds_jwt and self.api_key_required:
            raise InputError(f"setting cds_jwt is false and host is {self.host}; CDS Hooks without tokens are for loopback only")

    @property
    def listeners(self) -> tuple[MllpListener, ...]:
        """Every MLLP port, the one called `main` first."""
        main = MllpListener("main", self.mllp, self.host, self.mllp_peers, self.mllp_tls_certificate, self.mllp_tls_key,
                            self.mllp_tls_authority, time_zone=self.mllp_time_zone, charset=self.mllp_charset,
                            assigning_authority=self.mllp_assigning_authority)
        return (main, *(replace(row, host=row.host or self.host) for row in self.mllp_listeners))

    def site(self, name: str) -> MllpListener:
        """The listener of that name; a message of one that is gone is read as the main one's."""
        return next((row for row in self.listeners if row.name == name), self.listeners[0])

    @property
    def api_key_required(self) -> bool:
        """Beyond loopback, HTTP needs an API key or a signed-in person."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


def read_settings(home: Path | str, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings of one home; raises InputError naming what is unknown or malformed. An override of None is no override."""
    home = Path(home)
    values: dict[str, Any] = {}
    for where, given in ((str(home / "settings.toml"), from_file(home / "settings.toml")),
                         ("the environment", from_environment(os.environ if environ is None else environ)),
                         ("the command line", {key: value for key, value in overrides.items() if value is not None})):
        unknown = sorted(set(given) - set(SETTINGS))
        if unknown:
            raise InputError(f"{where}: setting {', '.join(unknown)} is not known; the settings are {', '.join(SETTINGS)}")
        for key, value in given.items():
            try:
                values[key] = SETTINGS[key](value)
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{where}: setting {key} is malformed ({type(error).__name__}); {CURES[SETTINGS[key]]}") from None
    return Settings(home, **values)


def may_speak(peer: str, peers: tuple[str, ...]) -> bool:
    """Loopback always may; others when an address or network of the allow-list holds them."""
    address = ipaddress.ip_address(peer)
    return address.is_loopback or any(address in ipaddress.ip_network(row, strict=False) for row in peers)


def from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give it to the user {os.getuid()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}; write KEY = VALUE lines as in docs/reference.md") from None


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """WETREAD_QUIET_PERIOD_S=2 ...; HOME, WORKER and PASSWORD are read elsewhere, other names are left alone."""
    names = {f"WETREAD_{key.upper()}": key for key in SETTINGS}
    return {key: environ[name] for name, key in names.items() if name in environ}


def port(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or not 0 <= number < 65536:
        raise ValueError
    return number


def seconds(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not 0 <= number <= 86400:
        raise ValueError
    return number


def words(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def device(value: Any) -> str:
    if value not in ("auto", "cpu", "cuda"):
        raise ValueError
    return value


def switch(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
    if not isinstance(value, bool):
        raise TypeError
    return value


def peers(value: Any) -> tuple[str, ...]:
    rows = tuple(value.split(",") if isinstance(value, str) else value)
    for row in rows:
        ipaddress.ip_network(row, strict=False)
    return rows


def destinations(value: Any) -> tuple[Destination, ...]:
    """Destination objects, {name, host, port, tls, tls_authority, tls_certificate, tls_key} tables, or NAME=HOST:PORT,... as text."""
    rows = []
    for row in (filter(None, value.split(",")) if isinstance(value, str) else value):
        if isinstance(row, str):
            name, _, rest = row.partition("=")
            host, _, number = rest.rpartition(":")
            row = {"name": name, "host": host, "port": number}
        if not isinstance(row, Destination):
            if set(row) - {f.name for f in fields(Destination)}:
                raise ValueError
            files = {name: words(row.get(name, "")) for name in ("tls_authority", "tls_certificate", "tls_key")}
            row = Destination(words(row["name"]), words(row["host"]), port(row["port"]), switch(row.get("tls", False)), **files)
        if not row.name or not row.host:
            raise ValueError
        rows.append(row)
    if len({row.name for row in rows}) != len(rows):
        raise ValueError
    return tuple(rows)


def mllp_listeners(value: Any) -> tuple[MllpListener, ...]:
    """Tables with the fields of MllpListener, name and port at least; each name and port once."""
    if isinstance(value, str):
        raise TypeError
    kinds: dict[str, Callable[[Any], Any]] = {
        "name": words, "port": port, "host": words, "peers": peers, "tls_certificate": words, "tls_key": words, "tls_authority": words,
        "connections_max": count, "idle_s": seconds, "half_frame_s": seconds, "time_zone": time_zone, "charset": charset,
        "assigning_authority": words}
    rows = tuple(row if isinstance(row, MllpListener) else MllpListener(**{key: kinds[key](text) for key, text in row.items()}) for row in value)
    names = ["main", *(row.name for row in rows)]
    ports = [row.port for row in rows if row.port]
    if not all(names) or len(set(names)) != len(names) or len(set(ports)) != len(ports):
        raise ValueError
    return rows


def time_zone(value: Any) -> str:
    try:
        ZoneInfo(words(value))
    except (ZoneInfoNotFoundError, OSError):
        raise ValueError from None
    return value


def charset(value: Any) -> str:
    from api.hl7.reader import CHARSETS

    if words(value) not in CHARSETS:
        raise ValueError
    return value


def count(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or not 0 < number <= 10_000:
        raise ValueError
    return number


def nodes(value: Any) -> tuple[Node, ...]:
    """Tables {ae_title, host, port, results, priors, tls}, each AE title once."""
    if isinstance(value, str):
        raise TypeError
    rows = []
    for row in value:
        if not isinstance(row, Node):
            unknown = set(row) - {f.name for f in fields(Node)}
            results = tuple(row.get("results", ()))
            if unknown or not set(results) <= {"SR", "SEG", "KO"} or row.get("priors", "") not in ("", "move", "get"):
                raise ValueError
            row = Node(words(row["ae_title"]).strip(), words(row["host"]), port(row["port"]), results, row.get("priors", ""),
                       switch(row.get("tls", False)))
        if not row.host or not 0 < len(row.ae_title) <= 16:
            raise ValueError
        rows.append(row)
    if len({row.ae_title for row in rows}) != len(rows):
        raise ValueError
    return tuple(rows)


def web_address(value: Any) -> str:
    """An https URL; plain http only to this machine, because patient data and tokens go there."""
    try:
        parts = urlsplit(words(value))
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.fragment or parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError from None
    if parts.scheme == "http" and not local:
        raise ValueError
    return value.rstrip("/")


def public_address(value: Any) -> str:
    parts = urlsplit(words(value))
    if value and (parts.scheme not in ("https", "http") or not parts.hostname):
        raise ValueError
    return value.rstrip("/")


def origins(value: Any) -> tuple[str, ...]:
    rows = tuple(row.strip().rstrip("/").lower() for row in (filter(None, value.split(",")) if isinstance(value, str) else value))
    for row in rows:
        parts = urlsplit(words(row))
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.path or parts.query:
            raise ValueError
    return rows


def cds_clients(value: Any) -> tuple[CdsClient, ...]:
    """CdsClient objects, {issuer, jwks} tables, or ISSUER=JWKS,... as text."""
    rows = []
    for row in (filter(None, value.split(",")) if isinstance(value, str) else value):
        if isinstance(row, str):
            issuer, _, jwks = row.partition("=")
            row = {"issuer": issuer, "jwks": jwks}
        if not isinstance(row, CdsClient):
            row = CdsClient(words(row["issuer"]), words(row["jwks"]))
        if not row.issuer or not row.jwks:
            raise ValueError
        if "://" in row.jwks:
            web_address(row.jwks)
        rows.append(row)
    return tuple(rows)


def fhir_servers(value: Any) -> tuple[FhirServer, ...]:
    """FhirServer objects, tables, or URL,... as text."""
    rows = []
    for row in (filter(None, value.split(",")) if isinstance(value, str) else value):
        if isinstance(row, str):
            row = {"url": row}
        if not isinstance(row, FhirServer):
            row = FhirServer(**{key: words(text) for key, text in row.items()})
        row = replace(row, url=web_address(row.url))
        if (row.client_id or row.key or row.token_url) and not (row.client_id and row.key and web_address(row.token_url)):
            raise ValueError
        rows.append(row)
    return tuple(rows)


SETTINGS: dict[str, Callable[[Any], Any]] = {
    "db": words, "host": words, "http": port, "mllp": port, "dicom": port, "device": device, "quiet_period_s": seconds,
    "outbox": destinations, "alert_destination": words, "mllp_peers": peers, "mllp_tls_certificate": words, "mllp_tls_key": words,
    "mllp_tls_authority": words, "mllp_time_zone": time_zone, "mllp_charset": charset, "mllp_assigning_authority": words,
    "mllp_listeners": mllp_listeners,
    "dicom_peers": peers, "ae_title": words, "automation": switch,
    "dicom_nodes": nodes, "dicom_tls_certificate": words, "dicom_tls_key": words, "dicom_tls_authority": words,
    "public_url": public_address, "cds_clients": cds_clients, "cds_jwt": switch, "cds_origins": origins, "fhir_servers": fhir_servers,
}
CURES = {
    words: "write a text", port: "write a number from 0 to 65535", device: "write auto, cpu or cuda",
    seconds: "write seconds from 0 to 86400", switch: "write true or false",
    peers: "write a list of addresses or networks, [\"10.1.2.0/24\"]",
    nodes: "write [[dicom_nodes]] tables in HOME/settings.toml with ae_title, host, port, and where wanted results = [\"SR\", \"SEG\", \"KO\"], "
           "priors = \"move\" or \"get\", tls = true; each ae_title once, of at most 16 characters",
    mllp_listeners: "write [[mllp_listeners]] tables in HOME/settings.toml with name and port, and where wanted host, peers, tls_certificate, "
                    "tls_key, tls_authority, connections_max, idle_s, half_frame_s, time_zone, charset, assigning_authority; each name and port "
                    "once, none called main",
    time_zone: "write a zone of the IANA list, Europe/Berlin", charset: "write a character set of HL7 table 0211, 8859/1 or UNICODE UTF-8",
    destinations: "write tables {name, host, port} with different names, where wanted tls = true, tls_authority, "
                  "tls_certificate, tls_key; or NAME=HOST:PORT in the environment",
    public_address: "write https://HOST", origins: "write a list of origins, [\"https://ehr.hospital\"]",
    cds_clients: "write tables {issuer, jwks}, jwks an https URL or a file; ISSUER=JWKS in the environment",
    fhir_servers: "write tables {url}, or {url, client_id, key, token_url}; https, or http on this machine",
}
assert set(SETTINGS) == {f.name for f in fields(Settings)} - {"home"}
