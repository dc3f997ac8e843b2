"""A TCP proxy on loopback that can go silent, or swallow one answer; while its server is away it refuses."""

import contextlib
import socket
import threading

CHUNK = 65_536


class TcpProxy:
    """Forwards to `port`. `requests` counts the chunks that came from clients, `connections` sockets."""

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self.requests = 0
        self._silent = threading.Event()
        self._swallow = []
        self._trips = []
        self._sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def go_silent(self):
        """A black hole: connections open and stay, nothing comes through in either direction."""
        self._silent.set()

    def heal(self):
        """Let everything through again; connections from the silence are reset."""
        self._silent.clear()
        self.reset()

    def swallow(self, marker, times=1):
        """Let the next request with `marker` reach the server, then reset instead of passing the answer."""
        self._swallow += [marker] * times

    def trip(self, marker, act, *, answered):
        """Call `act` at the next request with `marker`, before it reaches the server or once it is answered.

        Nothing of this request's answer goes through; `act` is called from a thread of the proxy.
        """
        self._trips.append((marker, act, answered))

    def disarm(self):
        """Forget what was to be swallowed or tripped over."""
        self._swallow.clear()
        self._trips.clear()

    def reset(self):
        """Reset every connection."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:  # the server is away: so is the proxy, until it is back
                client.close()
                continue
            server.settimeout(None)
            self._sockets = [sock for sock in self._sockets if sock.fileno() >= 0] + [client, server]
            armed = []
            threading.Thread(target=self._up, args=(client, server, armed), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server, armed), daemon=True).start()

    def _up(self, client, server, armed):
        with client, contextlib.suppress(OSError):
            while data := client.recv(CHUNK):
                self.requests += 1
                if self._silent.is_set():
                    continue
                if self._trips and self._trips[0][0] in data:
                    _, act, answered = self._trips.pop(0)
                    if not answered:
                        act()
                        break
                    armed.append(act)
                elif self._swallow and self._swallow[0] in data:
                    self._swallow.pop(0)
                    armed.append(None)
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _down(self, client, server, armed):
        with server, contextlib.suppress(OSError):
            while data := server.recv(CHUNK):
                if armed:
                    act = armed.pop()
                    if act is not None:
                        act()
                    break
                if not self._silent.is_set():
                    client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
