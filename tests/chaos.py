"""A proxy between two peers that does what networks do: splits, delays, stalls, cuts, and goes silent."""
import contextlib
import random
import select
import socket
import struct
import threading
import time


class Chaos:
    """Listens, and passes on to `target` what comes, in the manner `how(random)` gives for each connection.

    pieces: bytes a piece; delay_s before each; cut_after: bytes after which both sides are reset; silent_after: bytes after which
    nothing passes any more, in neither direction, and neither side is told (a half-open peer).
    """

    def __init__(self, target, how, seed=3):
        self.target, self.how, self.random = target, how, random.Random(seed)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.server.accept()
                self.connections += 1
                manner = {"pieces": 65536, "delay_s": 0.0, "cut_after": None, "silent_after": None, **self.how(self.random)}
                try:
                    far = socket.create_connection(("127.0.0.1", self.target), 5)
                except OSError:
                    near.close()
                    continue
                threading.Thread(target=self._pass, args=(near, far, manner), daemon=True).start()

    def _pass(self, near, far, manner):
        """One thread for both directions: a socket that another thread waits on is not reset when it is closed."""
        passed, other = 0, {near: far, far: near}
        open_ends = {near, far}
        with near, far, contextlib.suppress(OSError):
            for end in other:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while open_ends:
                for here in select.select(list(open_ends), [], [])[0]:
                    data = here.recv(65536)
                    if not data:
                        open_ends.remove(here)
                        other[here].shutdown(socket.SHUT_WR)
                    for at in range(0, len(data), manner["pieces"]):
                        piece = data[at:at + manner["pieces"]]
                        passed += len(piece)
                        if manner["silent_after"] is not None and passed > manner["silent_after"]:
                            time.sleep(3600)
                        if manner["cut_after"] is not None and passed > manner["cut_after"]:
                            for end in other:           # RST, in the middle of whatever it was
                                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                            return
                        time.sleep(manner["delay_s"])
                        other[here].sendall(piece)

    def close(self):
        self.server.close()
