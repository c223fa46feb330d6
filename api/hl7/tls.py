"""TLS for MLLP in both directions. Source: IHE ATNA (ITI-19), BCP 195."""
import ssl
from pathlib import Path

from api.settings import Destination, MllpListener
from data.errors import InputError

HANDSHAKE_S = 10.0


def server_tls(home: Path, site: MllpListener) -> ssl.SSLContext | None:
    """TLS for a listener with a certificate; with an authority every peer shows a certificate of it (mutual TLS). Files as written, or below HOME."""
    if not site.tls_certificate:
        if site.tls_key or site.tls_authority:
            raise InputError(f"MLLP listener {site.name} names tls_key or tls_authority and no tls_certificate; without one it would speak "
                             "in the clear")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, home, f"MLLP listener {site.name}", site.tls_certificate, site.tls_key, site.tls_authority)
    if site.tls_authority:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(home: Path, destination: Destination) -> ssl.SSLContext | None:
    """TLS for our calls: the receiver's certificate and host name are checked, ours is shown when there is one."""
    if not destination.tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    load(context, home, f"outbox destination {destination.name}", destination.tls_certificate, destination.tls_key, destination.tls_authority)
    if not destination.tls_authority:
        context.load_default_certs()
    return context


def load(context: ssl.SSLContext, home: Path, whose: str, certificate: str, key: str, authority: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if certificate:
            context.load_cert_chain(home / certificate, home / key if key else None)
        if authority:
            context.load_verify_locations(home / authority)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"the TLS files of {whose} cannot be used ({type(error).__name__}); name PEM files that this user can read, the key "
                         "one that fits") from None
