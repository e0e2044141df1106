"""The 0-db stand-in on sockets: one thread, one selector, replies in order, TCP_NODELAY."""

import contextlib
import fcntl
import selectors
import socket
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from tests.sandbox.services.zdb.commands import Commands
from tests.sandbox.services.zdb.namespace import Namespace
from tests.sandbox.services.zdb.resp import (
    BUFFER_BYTES,
    Command,
    Fetch,
    Parser,
    ProtocolError,
    Request,
    Sets,
)
from tests.sandbox.services.zdb.rights import session
from tests.sandbox.services.zdb.store import Store

_READ_BYTES: Final = 1 << 20
_IDLE_SECONDS: Final = 0.2
_STALLED_SECONDS: Final = 0.005
_SEND_BUFFERS: Final = 256
_ORPHANED: Final = b"-Your active namespace is not available anymore (probably removed).\r\n"

# A fault: given the bytes that are about to go to a client, what goes instead;
# None resets the connection.
Disturbance = Callable[[bytes], bytes | None]


def _waiting_bytes(sock: socket.socket) -> int:
    """Return how many bytes lie in a socket unread; -1 when its peer has left."""
    try:
        if sock.recv(1, socket.MSG_PEEK) == b"":
            return -1
    except BlockingIOError:
        return 0
    found = fcntl.ioctl(sock, termios.FIONREAD, bytes(4))
    return int.from_bytes(found, sys.byteorder)


class _Client:
    def __init__(self, sock: socket.socket, store: Store) -> None:
        self.socket = sock
        self.session = session(store)
        self.parser = Parser()
        self.out: deque[memoryview] = deque()
        self.writing = False
        self.stalled_bytes: int | None = None  # waiting in the socket when it was left alone


class ZdbServer:
    """Serves a store on one address; in a thread (`start`) or in this one (`serve`).

    requests: how often each command came ("?": unknown ones). disturb: a fault applied to whatever
    is sent. hang: while set, nothing is read or answered. stalls: set it before `start` to read as
    zdbd does, 8 KiB at a time: where that ends exactly where a request ends, what is still in the
    socket is left there until more bytes come. Several times slower with large payloads.
    """

    def __init__(self, store: Store, address: str = "127.0.0.1", port: int = 0) -> None:
        self.store = store
        self.commands = Commands(store)
        self.requests = self.commands.requests
        self.disturb: Disturbance | None = None
        self.hang = threading.Event()
        self.stalls = False
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server(
            (address, port), family=family, dualstack_ipv6=address == "::", backlog=128
        )
        self.address, self.port = address, int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._clients: dict[socket.socket, _Client] = {}
        self._wake_in, self._wake_out = socket.socketpair()
        self._announced: deque[tuple[str, Namespace]] = deque()
        self._stopping = False
        self._thread: threading.Thread | None = None

    # -- life --------------------------------------------------------------------------------

    def start(self) -> "ZdbServer":
        """Serve in a thread of its own."""
        self._thread = threading.Thread(target=self.serve, name="zdb", daemon=True)
        self._thread.start()
        return self

    def end(self) -> None:
        """Make `serve` return; safe in a signal handler."""
        self._stopping = True
        self.wake()

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self.end()
        if self._thread is not None:
            self._thread.join(10)

    @property
    def serves(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Make the loop look around; safe in a signal handler and from any thread."""
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")

    def drop_connections(self) -> None:
        """Reset every connection, as a restart of the server would."""
        for client in list(self._clients.values()):
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Serve until `stop`."""
        self._listener.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self.store.watchers.append(self._announce)
        try:
            while not self._stopping:
                self._turn()
        finally:
            self.store.watchers.remove(self._announce)
            self._close_all()

    def _close_all(self) -> None:
        for client in list(self._clients.values()):
            self._close(client)
        self._listener.close()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    # -- the loop ----------------------------------------------------------------------------

    def _turn(self) -> None:
        stalled = [c for c in self._clients.values() if c.stalled_bytes is not None]
        for client in stalled:
            self._resume(client)
        for key, mask in self._selector.select(_STALLED_SECONDS if stalled else _IDLE_SECONDS):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake_in:
                with contextlib.suppress(BlockingIOError):
                    self._wake_in.recv(4096)
            else:
                self._serve_client(key.data, mask)
        while self._announced:
            command, namespace = self._announced.popleft()
            self._notify(command, namespace, None)
        self._expire_waits()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = _Client(sock, self.store)
            self._clients[sock] = client
            self.commands.clients += 1
            self._selector.register(sock, selectors.EVENT_READ, client)

    def _serve_client(self, client: _Client, mask: int) -> None:
        if self.hang.is_set():
            time.sleep(0.01)
            return
        try:
            if mask & selectors.EVENT_WRITE:
                self._send(client)
            if mask & selectors.EVENT_READ:
                self._read(client)
        except OSError:
            self._close(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.socket.recv(BUFFER_BYTES if self.stalls else _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close(client)
            return
        full = self.stalls and len(data) == BUFFER_BYTES  # a shorter read has emptied the socket
        left = _waiting_bytes(client.socket) if full else 0
        try:
            for request in client.parser.feed(data):
                with self.store.lock:
                    self._answer(client, request)
                if client.session.closing:
                    break
        except ProtocolError as error:
            if text := str(error):
                self._say(client, f"-{text}\r\n".encode())
            client.session.closing = client.session.closing or error.fatal
        self._send(client)
        if client.session.closing and client.socket in self._clients:
            self._close(client)
        elif left > 0 and client.parser.between_requests:
            client.stalled_bytes = left
            self._watch(client)

    def _resume(self, client: _Client) -> None:
        if _waiting_bytes(client.socket) != client.stalled_bytes:
            client.stalled_bytes = None
            self._watch(client)

    def _watch(self, client: _Client) -> None:
        """Tell the selector what matters of a client now."""
        reads = selectors.EVENT_READ if client.stalled_bytes is None else 0
        events = reads | (selectors.EVENT_WRITE if client.writing else 0)
        known = client.socket in self._selector.get_map()
        if events and known:
            self._selector.modify(client.socket, events, client)
        elif events:
            self._selector.register(client.socket, events, client)
        elif known:
            self._selector.unregister(client.socket)

    def _answer(self, client: _Client, request: Request) -> None:
        session = client.session
        if self.commands.orphaned(session):
            self._say(client, _ORPHANED)
            session.closing = True
        elif isinstance(request, Command):
            self._say(client, self.commands.run(session, request.arguments))
        elif isinstance(request, Fetch):
            self._say(client, self.commands.fetch(session, request.keys))
        elif isinstance(request, Sets):
            self._say(client, self.commands.sets(session, request.writes))
        if session.executed is not None:
            self._notify(session.executed, session.namespace, client)

    # -- sending -----------------------------------------------------------------------------

    def _say(self, client: _Client, data: bytes) -> None:
        if self.disturb is not None:
            changed = self.disturb(data)
            if changed is None:
                client.session.closing = True
                return
            data = changed
        if data:
            client.out.append(memoryview(data))

    def _send(self, client: _Client) -> None:
        out = client.out
        try:
            while out:
                sent = client.socket.sendmsg(islice(out, _SEND_BUFFERS))
                while out and sent >= len(out[0]):
                    sent -= len(out.popleft())
                if sent:
                    out[0] = out[0][sent:]
        except BlockingIOError:
            pass
        if bool(out) != client.writing:
            client.writing = bool(out)
            self._watch(client)

    def _close(self, client: _Client) -> None:
        if self._clients.pop(client.socket, None) is not None:
            if client.socket in self._selector.get_map():
                self._selector.unregister(client.socket)
            client.socket.close()

    # -- WAIT --------------------------------------------------------------------------------

    def _announce(self, command: str, namespace: Namespace) -> None:
        self._announced.append((command, namespace))
        self.wake()

    def _notify(self, command: str, namespace: Namespace, author: _Client | None) -> None:
        for client in list(self._clients.values()):
            waiting = client.session.waiting_for
            if waiting is None or client is author or client.session.namespace is not namespace:
                continue
            if waiting in {command, "*"}:
                self._end_wait(client, f"+{command}\r\n".encode())

    def _expire_waits(self) -> None:
        now = time.monotonic()
        for client in list(self._clients.values()):
            if client.session.waiting_for is not None and client.session.waiting_until <= now:
                self._end_wait(client, b"-Timeout\r\n")

    def _end_wait(self, client: _Client, reply: bytes) -> None:
        client.session.waiting_for = None
        self._say(client, reply)
        try:
            self._send(client)
        except OSError:
            self._close(client)
