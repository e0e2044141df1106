"""A small image for tests, of this machine's own shell and a few commands: no registry needed."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import docker

COMMANDS = ("sh", "sleep", "cat", "true", "false", "ls", "id")


def _libraries(binary: Path) -> set[Path]:
    """Return the shared libraries of a binary, its loader included."""
    listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False)
    return {Path(match) for match in re.findall(r"(/\S+)", listed.stdout)}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    archive.addfile(entry, io.BytesIO(content))


def root_file_system() -> bytes:
    """Return a tar archive with the commands, what they need, and an /etc for uploads."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        libraries: set[Path] = set()
        for command in COMMANDS:
            found = shutil.which(command)
            if found is None:
                raise FileNotFoundError(f"{command} is not on PATH; install coreutils and dash")
            binary = Path(found).resolve()
            _add(archive, f"bin/{command}", binary.read_bytes())
            libraries |= _libraries(binary)
        for library in sorted(libraries):
            _add(archive, str(library).lstrip("/"), library.resolve().read_bytes())
        _add(archive, "etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    return buffer.getvalue()


def make_image(client: docker.APIClient, repository: str, tag: str) -> str:
    """Import the image under a name and return its id."""
    client.import_image_from_data(root_file_system(), repository=repository, tag=tag)
    return str(client.images(f"{repository}:{tag}", quiet=True)[0])
