"""A packer that runs, over a stand-in for zflist that tells how it was started."""

import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hub_tools import front, packer

HUB_UID = 10005
PASSWORD = "canary-password"
SOURCES = Path(front.__file__).parent

# Stands for zflist: tells how it was started, and of a folder to pack what is in it. In shell, as
# the hub's uid need not be able to read the Python that runs the tests.
ZFLIST = """#!/bin/sh
[ "$1" = sleep ] && exec sleep 61.25
[ "$1" = killed ] && kill -KILL $$
echo "uid $(id -u)"
echo "groups $(id -G)"
for word in "$@"; do echo "argument $word"; done
env | sed 's/^/environment /'
if [ "$1" = putdir ]; then
    find "$2" -mindepth 1 -exec stat -c 'entry %f %u %g %t %T %n' {} ';'
fi
if [ "$1" = open ] || [ "$1" = merge ]; then
    tar -tzf "$2" | sed 's/^/member /'
fi
"""


@dataclass
class Told:
    """What the stand-in for zflist saw; entries: path to (mode, uid, gid, device numbers).

    members: of the archive that it opened.
    """

    uid: int = -1
    groups: str = ""
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    entries: dict[str, tuple[int, int, int, tuple[int, int]]] = field(default_factory=dict)
    members: list[str] = field(default_factory=list)

    def take(self, line: str, area: Path) -> None:
        kind, _, rest = line.partition(" ")
        if kind == "uid":
            self.uid = int(rest)
        elif kind == "groups":
            self.groups = rest
        elif kind == "argument":
            self.arguments.append(rest)
        elif kind == "member":
            self.members.append(rest)
        elif kind == "environment":
            name, _, value = rest.partition("=")
            self.environment[name] = value
        else:
            mode, uid, gid, major, minor, path = rest.split(" ", 5)
            device = (int(major, 16), int(minor, 16))
            name = "/".join(Path(path).relative_to(area).parts[1:])
            self.entries[name] = (int(mode, 16), int(uid), int(gid), device)


@dataclass(frozen=True)
class Place:
    """A packer that runs, with its folders."""

    config: packer.Config
    root: Path

    @property
    def workspace(self) -> Path:
        """A workspace of the hub, as 0-hub makes one for an upload."""
        folder = self.config.workdir / "temp" / "workspace-1"
        if not folder.exists():
            folder.mkdir(parents=True)
            os.chown(folder, HUB_UID, HUB_UID)
        return folder

    def upload(self, name: str, content: bytes) -> Path:
        """Save an upload as 0-hub does."""
        path = self.config.workdir / "distfiles" / name
        path.parent.mkdir(exist_ok=True)
        os.chown(path.parent, HUB_UID, HUB_UID)
        path.write_bytes(content)
        return path

    def call(
        self, tool: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a tool as the hub does: by the front's name for it."""
        return subprocess.run(
            [sys.executable, "-S", str(self.root / "bin" / tool), *arguments],
            env={"GRIDHUB_PACKER": str(self.config.socket), **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def told(self, *arguments: str, **environment: str) -> Told:
        """Return what the stand-in for zflist saw."""
        done = self.call("zflist", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        told = Told()
        for line in done.stdout.splitlines():
            told.take(line, self.config.area)
        return told

    def unpacked(self, archive: bytes) -> None:
        """Unpack an uploaded archive into the workspace."""
        upload = self.config.workdir / "upload.tar.gz"
        upload.write_bytes(archive)
        done = self.call("tar", "-xpf", str(upload), "-C", str(self.workspace))
        assert done.returncode == 0, done.stderr


def archived(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def hubs_error(text: str) -> ValueError:
    """Return what 0-hub raises for such an output (src/hub/flist.py, execute)."""
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads(text.strip())
    return raised.value
