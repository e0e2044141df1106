#!/usr/bin/env python3
"""Unpacks and packs uploads for the hub: the one process with the rights that this needs.

It runs as root with the few capabilities that keep owners, modes, set-id bits and device nodes, in
a container that holds none of the hub's secrets. front.py sends it the hub's commands over a unix
socket, whose owner is the hub's uid. Strangers' files are unpacked into a folder of the packer's
own and packed from there, so the hub never sees them: no link in an upload leads it anywhere, and
nothing has to be given back to it. Whatever needs no rights runs as the hub's uid.

Commands, as 0-hub gives them (src/hub/flist.py): `tar -xpf ARCHIVE -C FOLDER`, `zflist putdir
FOLDER /`, any other zflist command. FOLDER is a workspace of the hub. Each archive is unpacked into
a new folder of a random name, so that no upload can reach into another's by a link that it left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MAX_REQUEST_BYTES = 1 << 20
README_BYTES = 1 << 20
READMES = (".README.md", ".README")  # 0-hub: src/hub/flist.py, readme()
# What a command takes of the hub's environment (0-flist: zflist/zflist.c); LD_PRELOAD is not of it.
PASSED = ("ZFLIST_MNT", "ZFLIST_JSON", "ZFLIST_PROGRESS")
REFUSED = 77  # EX_NOPERM of sysexits.h
ENDED = 70  # EX_SOFTWARE
PARALLEL = 2
_POLL_SECONDS = 0.5


class RefusedError(Exception):
    """A command that the hub has no reason to send; `str()` says why."""


class EndedError(Exception):
    """A tool that was ended before it could say how it went, by want of memory for one."""


@dataclass(frozen=True)
class Config:
    """Where things are.

    workdir: the hub's. area: the packer's own folder for what is unpacked. uid: the hub's.
    backend: JSON of 0-db with its password, for zflist. tools: name to absolute path.
    """

    socket: Path
    workdir: Path
    area: Path
    uid: int
    backend: str
    tools: dict[str, str]


@dataclass(frozen=True)
class Request:
    """A command of the hub, and where its output goes (file descriptors)."""

    tool: str
    arguments: list[str]
    environment: dict[str, str]
    output: int
    errors: int


class Packer:
    """Carries out requests; each in a thread of its own."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._slots = threading.BoundedSemaphore(PARALLEL)
        self._lock = threading.Lock()
        self._unpacked: dict[str, Path] = {}  # by the hub's workspace

    def carry_out(self, request: Request, caller: socket.socket) -> int:
        """Return the exit status; ends the command when the caller goes.

        Raises RefusedError and EndedError.
        """
        if request.tool == "ping":
            return 0
        if request.tool == "tar":
            with self._slots:
                return self._unpack(request, caller)
        if request.tool != "zflist":
            raise RefusedError(f"no such tool: {request.tool}")
        if request.arguments[:1] == ["putdir"]:
            with self._slots:
                return self._pack(request, caller)
        return self._run(request, [self._config.tools["zflist"], *request.arguments], caller)

    def _unpack(self, request: Request, caller: socket.socket) -> int:
        match request.arguments:
            case ["-xpf", name, "-C", place]:
                workspace, archive = self._workspace(place), self._opened(name)
            case _:
                raise RefusedError("tar only unpacks: -xpf ARCHIVE -C FOLDER")
        useless: Path | None = None
        try:
            useless = folder = Path(tempfile.mkdtemp(dir=self._config.area))
            command = [self._config.tools["tar"], "-xpf", f"/proc/self/fd/{archive}"]
            status = self._run(
                request, [*command, "-C", str(folder)], caller, rights=True, keep=(archive,)
            )
            # 0-hub goes on whatever tar says; what came only in part is not packed: see _pack.
            if status == 0:
                useless = self._exchange(workspace, folder)
            return status
        finally:
            os.close(archive)
            if useless is not None:
                self._remove(useless)

    def _pack(self, request: Request, caller: socket.socket) -> int:
        match request.arguments:
            case ["putdir", place, "/"]:
                workspace = self._workspace(place)
            case _:
                raise RefusedError("putdir only packs: FOLDER /")
        folder = self._exchange(workspace, None)
        if folder is None:
            raise RefusedError("the upload is no archive that tar unpacks whole")
        command = [self._config.tools["zflist"], "putdir", str(folder), "/"]
        try:
            status = self._run(request, command, caller, rights=True)
            self._hand_readme(folder, Path(workspace))
        finally:
            self._remove(folder)
        return status

    def _workspace(self, folder: str) -> str:
        path = Path(folder)
        if path.parent != self._config.workdir / "temp" or path.name in {"", ".", ".."}:
            raise RefusedError(f"{folder} is no workspace of the hub")
        return str(path)

    def _exchange(self, workspace: str, folder: Path | None) -> Path | None:
        """Note what was unpacked for a workspace; return what was noted before."""
        with self._lock:
            former = self._unpacked.pop(workspace, None)
            if folder is not None:
                self._unpacked[workspace] = folder
            return former

    def _opened(self, archive: str) -> int:
        """Open an uploaded archive: a regular file of the hub's, by no link."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(archive, flags)
        except OSError as error:
            raise RefusedError(f"{archive}: {error.strerror}") from None
        status = os.fstat(descriptor)
        real = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
        if not stat.S_ISREG(status.st_mode) or self._config.workdir not in real.parents:
            os.close(descriptor)
            raise RefusedError(f"{archive} is no file of the hub's work folder")
        return descriptor

    def _hand_readme(self, folder: Path, workspace: Path) -> None:
        """Copy the upload's readme to the workspace, where the hub looks for it; no link of it."""
        for name in READMES:
            with contextlib.suppress(OSError):
                source = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                with os.fdopen(source, "rb") as file:
                    if stat.S_ISREG(os.fstat(source).st_mode):
                        self._write_as_hub(workspace / name, file.read(README_BYTES))

    def _write_as_hub(self, path: Path, content: bytes) -> None:
        # The hub may have made a FIFO of that name: bounded, by a process that may end it.
        subprocess.run(
            [self._config.tools["timeout"], "10", self._config.tools["tee"], str(path)],
            input=content,
            stdout=subprocess.DEVNULL,
            user=self._config.uid,
            group=self._config.uid,
            extra_groups=[],
            check=False,
        )

    def _remove(self, folder: Path) -> None:
        # rm, not shutil: a tree may be deeper than Python's recursion.
        subprocess.run([self._config.tools["rm"], "-rf", "--", str(folder)], check=True)

    def clear(self) -> None:
        """Remove what an earlier packer left in its folder."""
        for folder in self._config.area.iterdir():
            self._remove(folder)

    def _run(
        self,
        request: Request,
        command: list[str],
        caller: socket.socket,
        *,
        rights: bool = False,
        keep: tuple[int, ...] = (),
    ) -> int:
        """Run a command: with the packer's rights and 0-db's password, or as the hub's uid."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        environment |= {
            name: request.environment[name] for name in PASSED if name in request.environment
        }
        if rights:
            environment["ZFLIST_BACKEND"] = self._config.backend
        uid = None if rights else self._config.uid
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=request.output,
            stderr=request.errors,
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            pass_fds=keep,
        ) as process:
            status = _status(process, caller, uid)
        if status < 0:
            raise EndedError(f"{request.tool} was ended by {signal.Signals(-status).name}")
        return status


def _status(process: subprocess.Popen[bytes], caller: socket.socket, uid: int | None) -> int:
    """Wait for the end of a process of `uid`; end it when the caller goes away."""
    while True:
        try:
            return process.wait(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if _gone(caller):
                _end(process, uid)


def _gone(caller: socket.socket) -> bool:
    try:
        return not caller.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _end(process: subprocess.Popen[bytes], uid: int | None) -> None:
    if uid is None:
        process.kill()
        return
    # Root without CAP_KILL ends nobody else's processes; their own user does.
    command = ["/bin/sh", "-c", f"kill -KILL {process.pid}"]
    subprocess.run(command, user=uid, group=uid, extra_groups=[], check=False)


class _Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        started = time.monotonic()
        _, descriptors, _, _ = socket.recv_fds(self.request, 1, 2)
        try:
            status, words = self._answer(descriptors)
            if words != "ping":  # the health check's, every few seconds
                seconds = time.monotonic() - started
                print(f"[+] {words}: status {status}, {seconds:.1f} s", flush=True)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        with contextlib.suppress(OSError):
            self.request.sendall(b"%d\n" % status)

    def _answer(self, descriptors: list[int]) -> tuple[int, str]:
        with self.request.makefile("rb") as file:
            line = file.readline(MAX_REQUEST_BYTES)
        try:
            fields = json.loads(line)
            request = Request(
                str(fields["tool"]),
                [str(word) for word in fields["arguments"]],
                {str(name): str(value) for name, value in fields["environment"].items()},
                *descriptors,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return REFUSED, "refused: not a request"
        words = " ".join([request.tool, *request.arguments[:1]])
        try:
            return self.server.packer.carry_out(request, self.request), words
        except RefusedError as error:
            _tell(request, f"packer: {error}\n")
            return REFUSED, f"refused: {error}"
        except EndedError as error:
            _tell(request, f"packer: {error}\n")
            return ENDED, f"{words}: {error}"


def _tell(request: Request, sentence: str) -> None:
    """Say it on both outputs: 0-hub takes a zflist that puts out nothing for one that succeeded."""
    for descriptor in (request.output, request.errors):
        with contextlib.suppress(OSError):
            os.write(descriptor, sentence.encode())


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens on the packer's socket, which only the hub's uid can open."""

    daemon_threads = True

    def __init__(self, config: Config) -> None:
        config.socket.unlink(missing_ok=True)
        self.packer = Packer(config)
        self.packer.clear()
        # The hub owns the folder: nothing may be done to what it could put in the socket's place.
        former = os.umask(0o177)
        try:
            super().__init__(str(config.socket), _Handler)
        finally:
            os.umask(former)
        os.chown(config.socket, config.uid, config.uid, follow_symlinks=False)


def configured(environment: dict[str, str]) -> Config:
    """Read the container's environment; the password is in a file that only root reads."""
    backend = json.loads(environment["GRIDHUB_BACKEND"])
    backend["password"] = Path(environment["GRIDHUB_PASSWORD_FILE"]).read_text().strip()
    tools = {name: shutil.which(name) or "" for name in ("tar", "zflist", "rm", "tee", "timeout")}
    missing = sorted(name for name, path in tools.items() if not path)
    if missing:
        raise RefusedError(f"the hub's image has no {', '.join(missing)}")
    return Config(
        socket=Path(environment["GRIDHUB_PACKER"]),
        workdir=Path("/workdir"),
        area=Path("/packing"),
        uid=int(environment["GRIDHUB_HUB_UID"]),
        backend=json.dumps(backend),
        tools=tools,
    )


def main() -> int:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with Server(configured(dict(os.environ))) as server:
            print(f"[+] packer listening on {server.server_address}", flush=True)
            server.serve_forever()
    except (RefusedError, OSError, KeyError, ValueError) as error:
        print(f"[-] packer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
