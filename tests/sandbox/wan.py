"""A wide-area network on one machine: a TCP relay that delays, limits, cuts and hangs.

In a test:  with Relay(("127.0.0.1", 9900), Link(rtt_seconds=0.03)) as relay: … relay.address …
By hand:    python -m tests.sandbox.wan --target 127.0.0.1:9900 --rtt-ms 30

It adds delay without throttling: bytes go from socket to pipe to socket without being copied
(splice), at most every half millisecond while there is delay, so that a second of it costs little
of the core it shares with the measured.
"""

import argparse
import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, Literal, Self, TypeAlias

Address: TypeAlias = tuple[str, int]
Direction: TypeAlias = Literal["down", "up"]

_PIECE_BYTES: Final = 1 << 20
# What a pipe may hold without privileges (pipe(7)); in flight per direction and connection.
_PIPE_BYTES: Final = 1 << 20
_SPLICED: Final = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_TICK_SECONDS: Final = 0.001
# Where nothing else limits what is in flight, the pipe does.
_UNLIMITED_BYTES: Final = 256 << 20
_LONGEST_QUEUE_SECONDS: Final = 0.05
# How long one connection may have a shared link before it is another's turn.
_TURN_SECONDS: Final = 0.005
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Link:
    """What the network between client and target is like.

    rtt_seconds: added to a round trip, half in each direction. bandwidth_bytes_per_second: of each
    direction, shared by all connections. window_bytes: what one connection may have in flight.
    forgets_seconds: after so long without a byte a connection hangs, as behind NAT.
    """

    rtt_seconds: float = 0.0
    bandwidth_bytes_per_second: float | None = None
    window_bytes: int | None = None
    forgets_seconds: float | None = None


@dataclass(frozen=True)
class Fault:
    """What happens to a connection once `after_bytes` of one direction have passed.

    kind: truncate (orderly end), reset (RST to both), hang (open, nothing passes any more).
    direction: down is target to client. times: to how many connections it happens.
    """

    kind: Literal["truncate", "reset", "hang"]
    after_bytes: int = 0
    direction: Direction = "down"
    times: int = 1


@dataclass(eq=False)
class _Pipe:
    """One direction of one connection: bytes on their way, in a pipe, each part with its due time.

    full: the pipe takes no more, although there is something to take.
    """

    source: socket.socket
    sink: socket.socket
    direction: Direction
    queue: deque[tuple[float, int]] = field(default_factory=deque)
    queued_bytes: int = 0
    acknowledgements: deque[tuple[float, int]] = field(default_factory=deque)
    in_flight_bytes: int = 0
    passed_bytes: int = 0
    open_at: float = 0.0
    ended: bool = False
    closed: bool = False
    full: bool = False

    def __post_init__(self) -> None:
        self.out_end, self.in_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.in_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def take(self, most: int) -> int | None:
        """Move bytes from the source into the pipe; 0 at the end, None when none can be moved."""
        try:
            return os.splice(self.source.fileno(), self.in_end, most, flags=_SPLICED)
        except BlockingIOError:
            waiting = fcntl.ioctl(self.source, termios.FIONREAD, bytes(4))
            self.full = bool(self.queue) and waiting != bytes(4)
            return None

    def give(self, most: int) -> int:
        """Move bytes from the pipe to the sink; raises BlockingIOError when it takes none."""
        sent = os.splice(self.out_end, self.sink.fileno(), most, flags=_SPLICED)
        self.full = False
        return sent

    def close(self) -> None:
        """Let go of the pipe."""
        os.close(self.in_end)
        os.close(self.out_end)


class _Connection:
    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        self.client = client
        self.target = target
        self.up = _Pipe(client, target, "up")
        self.down = _Pipe(target, client, "down")
        self.hung = False
        self.moved_at = time.monotonic()

    @property
    def due_at(self) -> float | None:
        """When something is to be done though no socket tells (monotonic); None: never."""
        if self.hung:
            return None
        times = [pipe.queue[0][0] for pipe in self.pipes if pipe.queue]
        times += [pipe.acknowledgements[0][0] for pipe in self.pipes if pipe.acknowledgements]
        return min(times, default=None)

    @property
    def pipes(self) -> tuple[_Pipe, _Pipe]:
        return self.up, self.down

    def close(self, *, reset: bool = False) -> None:
        for pipe in self.pipes:
            pipe.close()
        for end in (self.client, self.target):
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Relay:
    """A relay on a thread of its own; a context manager. `link` and `fault` may be set any time.

    target: where connections go to. listen: where they come from (port 0: any free one).
    """

    def __init__(
        self, target: Address, link: Link | None = None, listen: Address = ("127.0.0.1", 0)
    ) -> None:
        self.target = target
        self.link = link or Link()
        self.fault: Fault | None = None
        self.refusing = False
        self.accepted = 0
        self.forgotten = 0
        self._link_free_at: dict[Direction, float] = {"up": 0.0, "down": 0.0}
        # Where the link is full, the first of these may send first; who filled it goes last.
        self._connections: dict[_Connection, None] = {}
        # Those of which something is on its way.
        self._busy: set[_Connection] = set()
        self._commands: deque[str] = deque()
        self._listener = socket.create_server(listen, family=_family(listen[0]), backlog=128)
        self._listener.setblocking(False)
        self.address: Address = self._listener.getsockname()[:2]
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.serve, name="wan", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """End the relay and every connection through it."""
        self._stopping.set()
        self._wake()

    def reset_all(self) -> None:
        """Reset every connection that there is now."""
        self._command("reset")

    def hang_all(self) -> None:
        """Let every connection that there is now hang: it stays open, nothing passes."""
        self._command("hang")

    def _command(self, command: str) -> None:
        self._commands.append(command)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"!")

    def serve(self) -> None:
        """Relay until stop(); what the thread runs."""
        try:
            while not self._stopping.is_set():
                self._turn()
        finally:
            for connection in list(self._connections):
                connection.close(reset=True)
            for end in (self._listener, self._wake_reader, self._wake_writer):
                end.close()
            self._selector.close()

    def _turn(self) -> None:
        now = time.monotonic()
        events = self._selector.select(self._patience(now))
        now = time.monotonic()
        ready: set[_Connection] = set()
        for key, _ in events:
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake_reader:
                self._obey()
            else:
                ready.add(key.data)
        for connection in self._to_move(ready, now):
            self._move(connection, now)
        if events and self.link.rtt_seconds > 0:
            time.sleep(_TICK_SECONDS)

    def _to_move(self, ready: set[_Connection], now: float) -> list[_Connection]:
        """Return what to look at: all where the link's bandwidth or a fault ties them together."""
        if self.link.bandwidth_bytes_per_second is not None or self.fault is not None:
            return list(self._connections)
        due = {one for one in self._busy if (at := one.due_at) is not None and at <= now}
        return [one for one in ready | due if one in self._connections]

    def _patience(self, now: float) -> float | None:
        """Seconds until something is due though no socket tells; None: nothing is."""
        due = [at for one in self._busy if (at := one.due_at) is not None]
        return max(_TICK_SECONDS, min(due) - now) if due else None

    def _obey(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)
        while self._commands:
            command = self._commands.popleft()
            for connection in list(self._connections):
                if command == "reset":
                    self._drop(connection, reset=True)
                else:
                    connection.hung = True
                    self._watch(connection)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        self.accepted += 1
        try:
            if self.refusing:
                raise ConnectionRefusedError
            target = socket.create_connection(self.target, 5)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        for end in (client, target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(client, target)
        # TCP's handshake: a client may send only a round trip after it began to connect.
        connection.up.open_at = time.monotonic() + self.link.rtt_seconds
        self._connections[connection] = None
        for end in (client, target):
            self._selector.register(end, selectors.EVENT_READ, connection)

    def _move(self, connection: _Connection, now: float) -> None:
        idle_seconds = now - connection.moved_at
        if self.link.forgets_seconds is not None and idle_seconds > self.link.forgets_seconds:
            self.forgotten += not connection.hung
            connection.hung = True
            self._watch(connection)
        if connection.hung:
            return
        connection.moved_at = now
        try:
            for pipe in connection.pipes:
                if self._take_in(pipe, now):
                    self._connections[connection] = self._connections.pop(connection)
                self._give_out(connection, pipe, now)
                if connection.hung or connection not in self._connections:
                    return
        except OSError:
            self._drop(connection, reset=True)
            return
        if connection.up.closed and connection.down.closed:
            self._drop(connection, reset=False)
            return
        self._watch(connection)

    def _room(self, pipe: _Pipe, now: float) -> int:
        while pipe.acknowledgements and pipe.acknowledgements[0][0] <= now:
            pipe.in_flight_bytes -= pipe.acknowledgements.popleft()[1]
        if self.link.bandwidth_bytes_per_second is not None:
            queue_seconds = self._link_free_at[pipe.direction] - now
            if queue_seconds > _LONGEST_QUEUE_SECONDS:
                return 0
        return (self.link.window_bytes or _UNLIMITED_BYTES) - pipe.in_flight_bytes

    def _take_in(self, pipe: _Pipe, now: float) -> bool:
        """Take what there is room for, of a link that is shared no more than its turn's part.

        Returns whether the link has no room left by it.
        """
        bandwidth = self.link.bandwidth_bytes_per_second
        part = _PIECE_BYTES if bandwidth is None else int(bandwidth * _TURN_SECONDS) + 1
        while not pipe.ended and (room := self._room(pipe, now)) > 0:
            count = pipe.take(min(room, part, _PIECE_BYTES))
            if count is None:
                return False
            if count == 0:
                pipe.ended = True
                return False
            pipe.queue.append((self._due(pipe, count, now), count))
            pipe.queued_bytes += count
            pipe.in_flight_bytes += count
            if bandwidth is not None:
                return self._room(pipe, now) == 0
        return False

    def _due(self, pipe: _Pipe, count: int, now: float) -> float:
        sent_at = max(now, pipe.open_at)
        if self.link.bandwidth_bytes_per_second is not None:
            started_at = max(sent_at, self._link_free_at[pipe.direction])
            sent_at = started_at + count / self.link.bandwidth_bytes_per_second
            self._link_free_at[pipe.direction] = sent_at
        return sent_at + self.link.rtt_seconds / 2

    def _give_out(self, connection: _Connection, pipe: _Pipe, now: float) -> None:
        while pipe.queue and pipe.queue[0][0] <= now:
            due, count = pipe.queue[0]
            allowed = self._allowed(pipe, count)
            if allowed == 0:
                self._apply_fault(connection)
                return
            try:
                sent = pipe.give(allowed)
            except BlockingIOError:
                return
            pipe.passed_bytes += sent
            pipe.queued_bytes -= sent
            pipe.acknowledgements.append((now + self.link.rtt_seconds / 2, sent))
            if sent < count:
                pipe.queue[0] = (due, count - sent)
            else:
                pipe.queue.popleft()
        if pipe.ended and not pipe.queue and not pipe.closed:
            pipe.closed = True
            with contextlib.suppress(OSError):
                pipe.sink.shutdown(socket.SHUT_WR)

    def _allowed(self, pipe: _Pipe, count: int) -> int:
        fault = self.fault
        if fault is None or fault.direction != pipe.direction:
            return count
        return max(0, min(count, fault.after_bytes - pipe.passed_bytes))

    def _apply_fault(self, connection: _Connection) -> None:
        fault = self.fault
        if fault is None:
            return
        left = fault.times - 1
        self.fault = (
            Fault(fault.kind, fault.after_bytes, fault.direction, left) if left > 0 else None
        )
        if fault.kind == "hang":
            connection.hung = True
            self._watch(connection)
        else:
            self._drop(connection, reset=fault.kind == "reset")

    def _watch(self, connection: _Connection) -> None:
        """Ask the selector for just what can be acted on, so that the loop never spins."""
        now = time.monotonic()
        if connection.due_at is None:
            self._busy.discard(connection)
        else:
            self._busy.add(connection)
        for end, incoming, outgoing in (
            (connection.client, connection.up, connection.down),
            (connection.target, connection.down, connection.up),
        ):
            wanted = 0
            if not connection.hung:
                if not (incoming.ended or incoming.full) and self._room(incoming, now) > 0:
                    wanted |= selectors.EVENT_READ
                if outgoing.queue and outgoing.queue[0][0] <= now:
                    wanted |= selectors.EVENT_WRITE
            self._set_events(connection, end, wanted)

    def _set_events(self, connection: _Connection, end: socket.socket, wanted: int) -> None:
        known = self._selector.get_map().get(end)
        if known is None and wanted:
            self._selector.register(end, wanted, connection)
        elif known is not None and not wanted:
            self._selector.unregister(end)
        elif known is not None and known.events != wanted:
            self._selector.modify(end, wanted, connection)

    def _drop(self, connection: _Connection, *, reset: bool) -> None:
        for end in (connection.client, connection.target):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
        connection.close(reset=reset)
        self._connections.pop(connection, None)
        self._busy.discard(connection)


@contextlib.contextmanager
def relay_process(target: Address, link: Link) -> Iterator[Address]:
    """Run a relay as a process of its own (for benches: no share of our interpreter lock)."""
    command = [sys.executable, "-m", "tests.sandbox.wan", "--target", f"{target[0]}:{target[1]}"]
    command += ["--rtt-ms", str(link.rtt_seconds * 1000)]
    if link.bandwidth_bytes_per_second is not None:
        command += ["--bandwidth", str(link.bandwidth_bytes_per_second)]
    if link.window_bytes is not None:
        command += ["--window", str(link.window_bytes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None:
            raise RuntimeError("the relay has no output")
        told = json.loads(process.stdout.readline())
        yield told["host"], told["port"]
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> None:
    """Relay until SIGTERM or SIGINT; the first line of output tells where, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox.wan", description=__doc__)
    parser.add_argument("--target", type=_address, required=True, help="host:port, [v6]:port")
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 0))
    parser.add_argument("--rtt-ms", type=float, default=0)
    parser.add_argument("--bandwidth", type=float, help="bytes per second of each direction")
    parser.add_argument("--window", type=int, help="bytes in flight of one connection")
    arguments = parser.parse_args()
    link = Link(arguments.rtt_ms / 1000, arguments.bandwidth, arguments.window)
    relay = Relay(arguments.target, link, arguments.listen)

    def end(_number: int, _frame: FrameType | None) -> None:
        relay.stop()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    host, port = relay.address
    print(json.dumps({"host": host, "port": port, "pid": os.getpid()}), flush=True)
    relay.serve()


if __name__ == "__main__":
    main()
