"""A proxy between two peers that does what networks do: splits, delays, stalls, cuts, and goes silent."""
import contextlib
import random
import socket
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
                count = [0]
                for here, there in ((near, far), (far, near)):
                    here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pass, args=(here, there, manner, count), daemon=True).start()

    def _pass(self, here, there, manner, count):
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                for at in range(0, len(data), manner["pieces"]):
                    piece = data[at:at + manner["pieces"]]
                    count[0] += len(piece)
                    if manner["silent_after"] is not None and count[0] > manner["silent_after"]:
                        time.sleep(3600)
                    if manner["cut_after"] is not None and count[0] > manner["cut_after"]:
                        for end in (here, there):       # RST, in the middle of whatever it was
                            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                            end.close()
                        return
                    time.sleep(manner["delay_s"])
                    there.sendall(piece)
        with contextlib.suppress(OSError):
            there.shutdown(socket.SHUT_WR)

    def close(self):
        self.server.close()
