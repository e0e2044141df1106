"""A packer that runs."""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_tools import packer
from tests.hub_tools.place import HUB_UID, PASSWORD, SOURCES, ZFLIST, Place


@pytest.fixture
def root() -> Iterator[Path]:
    # Passable for the hub's uid, which pytest's own temporary folders are not.
    with tempfile.TemporaryDirectory(prefix="gridhub-hub-tools-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def place(root: Path) -> Iterator[Place]:
    (root / "bin").mkdir()
    for tool in ("tar", "zflist"):
        shutil.copy(SOURCES / "front.py", root / "bin" / tool)
    real = root / "real-zflist"
    real.write_text(ZFLIST)
    real.chmod(0o755)
    workdir, area, users = root / "workdir", root / "packing", root / "public" / "users"
    (users / "alice").mkdir(parents=True)
    workdir.mkdir()
    os.chown(workdir, HUB_UID, HUB_UID)
    area.mkdir(mode=0o700)
    (area / "left-behind").mkdir()
    config = packer.Config(
        socket=workdir / "packer.sock",
        workdir=workdir,
        area=area,
        uid=HUB_UID,
        backend=json.dumps({"host": "zdb", "password": PASSWORD}),
        tools={
            "zflist": str(real),
            **{name: f"/usr/bin/{name}" for name in ("tar", "rm", "tee", "timeout", "python3")},
        },
        users=users,
    )
    with packer.Server(config) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Place(config, root)
        finally:
            server.shutdown()
            thread.join()
