"""The association acceptor with limits: who may wait, how long a PDU may take, how much a message may hold; pynetdicom itself sets none."""
import logging
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from api.dicom.intake import MAX_BYTES

log = logging.getLogger("wetread.dicom")
PDU_MAX_BYTES = 131072              # what we announce
PDU_LIMIT_BYTES = 2**20             # what we take: an association request may be long
PDU_WAIT_S = 60.0                   # for a whole PDU, however its bytes drip in
HANDSHAKE_S = 10.0                  # of TLS
COMMAND_MAX_BYTES = 65536
IDENTIFIER_MAX_BYTES = 16 * 2**20   # a query, a step or a commitment of 100,000 instances
UNSERVED_MAX = 16                   # messages sent ahead of their answers
STRANGERS_MAX = 5                   # connections at once of peers that may not speak; each is still told so
BACKLOG = 64


class TooMuch(OSError):
    """A peer sends more than we take; pynetdicom ends an association at an OSError."""


def receive(line: socket.socket, nr_bytes: int) -> bytearray:
    """Read `nr_bytes`; fewer when the peer left. In pieces as large as they come: pynetdicom's own 4 kB pieces take longer than the disk."""
    if nr_bytes > PDU_LIMIT_BYTES:
        log.warning("E106 a PDU of %d bytes refused, at most %d are taken; association ended", nr_bytes, PDU_LIMIT_BYTES)
        raise TooMuch("PDU")
    data, filled, until = bytearray(nr_bytes), 0, time.monotonic() + PDU_WAIT_S
    with memoryview(data) as view:
        while filled < nr_bytes:
            got = line.recv_into(view[filled:])
            if not got:
                break
            filled += got
            if filled < nr_bytes and time.monotonic() > until:
                log.warning("E106 a PDU took longer than %.0f s; association ended", PDU_WAIT_S)
                raise TooMuch("time")
    del data[filled:]
    return data


class LimitedMessages(DIMSEServiceProvider):
    """Messages are put together in memory, so that they must end before it does."""

    def receive_primitive(self, primitive: Any) -> None:
        message = self.message
        if message is not None:
            command, held = message.encoded_command_set.tell(), message.data_set.tell() if message.data_set else 0
            most = MAX_BYTES if isinstance(message, C_STORE_RQ) else IDENTIFIER_MAX_BYTES
            if command > COMMAND_MAX_BYTES or held > most:
                self.end(f"a DICOM message of more than {most} bytes")
                return
        if self.msg_queue.qsize() > UNSERVED_MAX:
            self.end(f"more than {UNSERVED_MAX} messages ahead of their answers")
            return
        try:
            super().receive_primitive(primitive)
        except Exception as error:      # a command set is decoded here, in the thread that serves the line
            self.end(f"a command set that cannot be read ({type(error).__name__})")

    def end(self, why: str) -> None:
        log.warning("E106 %s refused; association ended", why)
        self.message = None
        self.dul.event_queue.put("Evt19")       # an invalid PDU: A-ABORT


class LimitedHandler(RequestHandler):
    def handle(self) -> None:
        if hasattr(self.request, "do_handshake"):       # here and not in accept(), which one silent peer would hold for all
            self.request.settimeout(HANDSHAKE_S)
            self.request.do_handshake()
        self.request.settimeout(PDU_WAIT_S)             # a peer that stops in the middle of a PDU, or takes no answers
        super().handle()

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.dul.socket.recv = partial(receive, self.request)        # type: ignore[method-assign,union-attr]  # pynetdicom has no other place for it
        association.dimse = LimitedMessages(association)
        return association


class LimitedServer(ThreadedAssociationServer):
    request_queue_size = BACKLOG
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        line, address = self.socket.accept()
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.ssl_context:
            line = self.ssl_context.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
        return line, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        allowed: Callable[[str], bool] = self.allowed
        if allowed(client_address[0]):
            return True
        waiting = sum(not allowed(str(association.requestor.address)) for association in self.active_associations)
        if waiting >= STRANGERS_MAX:
            log.warning("E112 connection refused: %d peers that are not in dicom_peers are connected", waiting)
        return waiting < STRANGERS_MAX

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.warning("a DICOM connection from %s ended before it began", client_address[0])


def start(ae: AE, address: tuple[str, int], handlers: list[Any], secure: Any, allowed: Callable[[str], bool]) -> LimitedServer:
    """Listen in threads of its own; raises OSError when the port cannot be had."""
    server = ae.make_server(address, ssl_context=secure, evt_handlers=handlers, server_class=LimitedServer, request_handler=LimitedHandler)
    server.allowed = allowed
    threading.Thread(target=server.serve_forever, name=f"AcceptorServer@{address[1]}", daemon=True).start()
    ae._servers.append(server)          # where its own shutdown() looks
    return server
