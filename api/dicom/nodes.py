"""Associations with the DICOM nodes of the settings, and TLS for both directions. Source: PS3.15 annex B (BCP 195)."""
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pynetdicom import AE

from api.settings import Node, Settings
from data.errors import InputError, StoreError

CONNECT_S, ANSWER_S = 10.0, 60.0


def node_of(settings: Settings, ae_title: str) -> Node | None:
    return next((node for node in settings.dicom_nodes if node.ae_title == ae_title), None)


@contextmanager
def associated(settings: Settings, node: Node, contexts: Iterable[tuple[str, list[str]]], roles: Iterable[Any] = (),
               handlers: Iterable[Any] = ()) -> Iterator[Any]:
    """An association with `node` for (abstract syntax, transfer syntaxes) pairs; raises StoreError when it takes none."""
    ae = AE(ae_title=settings.ae_title)
    ae.connection_timeout, ae.acse_timeout, ae.dimse_timeout, ae.network_timeout = CONNECT_S, CONNECT_S, ANSWER_S, ANSWER_S
    for abstract, syntaxes in contexts:
        ae.add_requested_context(abstract, syntaxes)
    association = ae.associate(node.host, node.port, ae_title=node.ae_title, ext_neg=list(roles), evt_handlers=list(handlers),
                               tls_args=(client_tls(settings), node.host) if node.tls else None)
    if not association.is_established:
        raise StoreError(f"{node.ae_title} at {node.host}:{node.port} took no association; start it, or check its list of peers")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """TLS for the listener when a certificate is set; with an authority every peer shows a certificate of it."""
    if not settings.dicom_tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, settings)
    if settings.dicom_tls_authority:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(settings: Settings) -> ssl.SSLContext:
    """TLS for our calls: the peer's certificate and host name are checked, ours is shown when there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    load(context, settings)
    if not settings.dicom_tls_authority:
        context.load_default_certs()
    return context


def load(context: ssl.SSLContext, settings: Settings) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if settings.dicom_tls_certificate:
            context.load_cert_chain(below(settings, settings.dicom_tls_certificate),
                                    below(settings, settings.dicom_tls_key) if settings.dicom_tls_key else None)
        if settings.dicom_tls_authority:
            context.load_verify_locations(below(settings, settings.dicom_tls_authority))
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"dicom_tls_certificate, dicom_tls_key or dicom_tls_authority cannot be used ({type(error).__name__}); "
                         "name PEM files that this user can read, the key one that fits") from None


def below(settings: Settings, path: str) -> Path:
    """A path as written, or below HOME."""
    return settings.home / path
