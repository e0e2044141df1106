#!/usr/bin/env python3
"""Unpacks and packs uploads for the hub, and opens flists: where strangers' bytes are handled.

It runs as root with the few capabilities that keep owners, modes, set-id bits and device nodes, in
a container that holds none of the hub's secrets. front.py sends it the hub's commands over a unix
socket, whose owner is the hub's uid. Strangers' files are unpacked into a folder of the packer's
own and packed from there, so the hub never sees them: no link in an upload leads it anywhere, and
nothing has to be given back to it. Whatever needs no rights runs as the hub's uid, bounded, and is
the first to die where memory ends. An upload that reaches outside of itself, and an archive that is
none, are refused before zflist sees them (archives.py).

Commands, as 0-hub gives them (src/hub/flist.py): `tar -xpf ARCHIVE -C FOLDER`, `zflist putdir
FOLDER /`, `zflist open FLIST` and `merge FLIST`, `zflist commit FLIST`, any other zflist command.
FOLDER is a workspace of the hub. Each archive is unpacked into a new folder of a random name, so
that no upload can reach into another's by a link that it left. A mirror's packer has no password of
0-db and packs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from hub_tools import archives
from hub_tools.said import said

MAX_REQUEST_BYTES = 1 << 20
README_BYTES = 1 << 20
READMES = (".README.md", ".README")  # 0-hub: src/hub/flist.py, readme()
# What a command takes of the hub's environment (0-flist: zflist/zflist.c); LD_PRELOAD is not of it.
PASSED = ("ZFLIST_MNT", "ZFLIST_JSON", "ZFLIST_PROGRESS")
REFUSED = archives.REFUSED
ENDED = 70  # EX_SOFTWARE
PARALLEL = 2
_POLL_SECONDS = 0.5
_LEAST_INODES = 10_000
_FULL = "unpacked, the upload does not fit on the mirror's disk"
_REASON = 300
# GNU tar takes the start of such a name away and goes on (tar: src/names.c, safer_name_suffix).
_OF_TAR = re.compile(r"^\S*\btar: ")
_STRIPPED = "Removing leading `"
# A crash leaves no memory behind; an endless flist ends; zflist dies before the packer does.
_BOUNDED = (
    'ulimit -c 0; ulimit -t "$1"; ulimit -v "$2"; shift 2; '
    'echo 1000 > /proc/self/oom_score_adj; exec "$@"'
)
_READING_SECONDS = "600"  # of processor time
_REBUILDING_KIB = "524288"
_UNLIMITED = "unlimited"
_TOOLS = ("tar", "zflist", "rm", "tee", "timeout", "python3")


class RefusedError(Exception):
    """A command that the hub has no reason to send; `str()` says why."""


class EndedError(Exception):
    """A tool that was ended before it could say how it went, by want of memory for one."""


@dataclass(frozen=True)
class Config:
    """Where things are.

    workdir: the hub's. area: the packer's own folder for what is unpacked. uid: the hub's.
    backend: JSON of 0-db with its password, for zflist; None: nothing is packed. tools: name to
    absolute path. users: where the hub publishes. floor_bytes: what an upload leaves free of the
    disk, which is the whole mirror's; as the jobs' freeSpaceFloorBytes.
    """

    socket: Path
    workdir: Path
    area: Path
    uid: int
    backend: str | None = field(repr=False)
    tools: dict[str, str]
    users: Path = Path("/public/users")
    floor_bytes: int = 1 << 30


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
        # By the hub's workspace; or why the upload for it is refused.
        self._unpacked: dict[str, Path | str] = {}

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
        zflist = self._config.tools["zflist"]
        match request.arguments:
            case ["putdir", *_]:
                with self._slots:
                    return self._pack(request, caller)
            case ["open" | "merge" as verb, flist]:
                return self._open(request, caller, verb, flist)
            case ["metadata", "readme", "--import", readme]:
                with self._opened(readme, self._config.workdir / "temp", os.O_NOFOLLOW) as file:
                    words = ["metadata", "readme", "--import", _path_of(file)]
                    return self._run(request, [zflist, *words], caller, keep=(file,))
            case ["commit", flist] if not self._publishes(flist):
                raise RefusedError(f"{flist} is in no repository")
        return self._run(request, [zflist, *request.arguments], caller)

    def _unpack(self, request: Request, caller: socket.socket) -> int:
        match request.arguments:
            case ["-xpf", name, "-C", place]:
                workspace = self._workspace(place)
            case _:
                raise RefusedError("tar only unpacks: -xpf ARCHIVE -C FOLDER")
        useless: Path | str | None = None
        try:
            with self._opened(name, self._config.workdir, os.O_NOFOLLOW) as archive:
                useless = folder = Path(tempfile.mkdtemp(dir=self._config.area))
                command = [self._config.tools["tar"], "-xpf", _path_of(archive), "-C", str(folder)]
                status, full = ENDED, False
                with said(request.errors) as heard:
                    telling = replace(request, errors=heard.pipe)
                    try:
                        status = self._run(
                            telling, command, caller, rights=True, keep=(archive,), grows=True
                        )
                    except EndedError:
                        full = self._is_full()
                        if not full:
                            raise
            # 0-hub goes on whatever tar says: what is refused is not packed, see _pack.
            refusal = _FULL if full else _refusal(status, heard.words, folder)
            useless = self._exchange(workspace, refusal or folder)
            if refusal is None:
                return status
            self._remove(folder)
            self._forget(name)
            raise RefusedError(refusal)
        finally:
            if isinstance(useless, Path):
                self._remove(useless)

    def _pack(self, request: Request, caller: socket.socket) -> int:
        match request.arguments:
            case ["putdir", place, "/"]:
                workspace = self._workspace(place)
            case _:
                raise RefusedError("putdir only packs: FOLDER /")
        folder = self._exchange(workspace, None)
        if not isinstance(folder, Path):
            raise RefusedError(folder or "nothing was unpacked for it: see the packer's log")
        command = [self._config.tools["zflist"], "putdir", str(folder), "/"]
        try:
            status = self._run(request, command, caller, rights=True)
            self._hand_readme(folder, Path(workspace))
        finally:
            self._remove(folder)
        return status

    def _open(self, request: Request, caller: socket.socket, verb: str, name: str) -> int:
        """Have zflist open a flist, or merge it: an archive of our own making with its database."""
        config, place = self._config, Path(name)
        uploads = config.workdir / "distfiles"
        root = uploads if place.parent == uploads else config.users
        with self._opened(name, root) as source, tempfile.TemporaryFile(dir=config.area) as made:
            own = made.fileno()
            os.fchown(own, config.uid, config.uid)
            command = [config.tools["python3"], "-I", "-c", _SOURCE, str(source), str(own)]
            with said(request.errors) as heard:
                telling = replace(request, output=heard.pipe)
                kept = (source, own)
                status = self._run(telling, command, caller, keep=kept, kib=_REBUILDING_KIB)
            if status != 0:
                if root == uploads:
                    self._forget(name)
                raise RefusedError(f"{archives.shown(place.name)} is no flist: {heard.words}")
            words = [config.tools["zflist"], verb, _path_of(own)]
            return self._run(request, words, caller, keep=(own,))

    def _publishes(self, flist: str) -> bool:
        path = Path(flist)
        own = path.parent.parent == self._config.users and path.parent.name != ".."
        return own and path.name.endswith(".flist")

    def _workspace(self, folder: str) -> str:
        path = Path(folder)
        if path.parent != self._config.workdir / "temp" or path.name in {"", ".", ".."}:
            raise RefusedError(f"{folder} is no workspace of the hub")
        return str(path)

    def _exchange(self, workspace: str, result: Path | str | None) -> Path | str | None:
        """Note what was unpacked for a workspace; return what was noted before."""
        with self._lock:
            former = self._unpacked.pop(workspace, None)
            if result is not None:
                self._unpacked[workspace] = result
            return former

    @contextlib.contextmanager
    def _opened(self, name: str, root: Path, flags: int = 0) -> Iterator[int]:
        """Open a file that the hub names: a regular one that really is below a folder of its."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
        except OSError as error:
            raise RefusedError(f"{name}: {error.strerror}") from None
        try:
            real = Path(os.readlink(_path_of(descriptor)))  # noqa: PTH115
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or root not in real.parents:
                raise RefusedError(f"{name} is no file of {root}")
            yield descriptor
        finally:
            os.close(descriptor)

    def _forget(self, upload: str) -> None:
        """Remove an upload that was refused: the hub does not come to do it."""
        self._as_hub(["rm", "-f", "--", upload])

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
        self._as_hub(["timeout", "10", self._config.tools["tee"], str(path)], content)

    def _as_hub(self, command: list[str], content: bytes = b"") -> None:
        subprocess.run(
            [self._config.tools[command[0]], *command[1:]],
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
        kib: str = _UNLIMITED,
        grows: bool = False,
    ) -> int:
        """Run a command: with the packer's rights and 0-db's password, or as the hub's uid.

        keep: descriptors that it inherits. kib: the memory that it may have. grows: it ends when it
        has filled the disk.
        """
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        environment |= {
            name: request.environment[name] for name in PASSED if name in request.environment
        }
        if rights:
            if self._config.backend is None:
                raise RefusedError("a mirror packs nothing")
            environment["ZFLIST_BACKEND"] = self._config.backend
        uid = None if rights else self._config.uid
        bounds = [_UNLIMITED if rights else _READING_SECONDS, kib]
        with subprocess.Popen(
            ["/bin/sh", "-c", _BOUNDED, "sh", *bounds, *command],
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
            status = _status(process, caller, uid, self._is_full if grows else None)
        if status < 0:
            raise EndedError(f"{request.tool} was ended by {signal.Signals(-status).name}")
        return status

    def _is_full(self) -> bool:
        disk = os.statvfs(self._config.area)
        # Some file systems have inodes without a number to them.
        no_names = disk.f_files > 0 and disk.f_favail < _LEAST_INODES
        return no_names or disk.f_bavail * disk.f_frsize < self._config.floor_bytes


_SOURCE = Path(archives.__file__).read_text()


def _path_of(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _refusal(status: int, words: str, folder: Path) -> str | None:
    """Why an upload is not packed: what came only in part, and what reaches outside of itself."""
    # tar calls itself by its path; gzip, which it starts, by its name.
    spoken = [line for line in words.splitlines() if line]  # gzip begins with a blank one
    lines = [_OF_TAR.sub("", line)[:_REASON] for line in spoken] or ["it says nothing"]
    if status != 0:
        return f"the upload is no archive that tar unpacks whole: {lines[0]}"
    outside = next((line for line in lines if line.startswith(_STRIPPED)), None)
    if outside is None:
        try:
            archives.check_upload(str(folder))
        except archives.RefusedError as error:
            outside = str(error)
    return None if outside is None else f"the upload reaches outside of itself: {outside}"


def _status(
    process: subprocess.Popen[bytes],
    caller: socket.socket,
    uid: int | None,
    enough: Callable[[], bool] | None,
) -> int:
    """Wait for the end of a process of `uid`; end it when the caller goes away, or at `enough`."""
    while True:
        try:
            return process.wait(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if _gone(caller) or (enough is not None and enough()):
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
            _tell(request, f"packer: refused: {error}\n")
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
    packs = "GRIDHUB_PASSWORD_FILE" in environment
    if packs:
        backend["password"] = Path(environment["GRIDHUB_PASSWORD_FILE"]).read_text().strip()
    tools = {name: shutil.which(name) or "" for name in _TOOLS}
    missing = sorted(name for name, path in tools.items() if not path)
    if missing:
        raise RefusedError(f"the hub's image has no {', '.join(missing)}")
    return Config(
        socket=Path(environment["GRIDHUB_PACKER"]),
        workdir=Path("/workdir"),
        area=Path("/packing"),
        uid=int(environment["GRIDHUB_HUB_UID"]),
        backend=json.dumps(backend) if packs else None,
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
