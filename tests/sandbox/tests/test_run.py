"""What the bench or a run of the tests has started ends with it, also where it is interrupted."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import docker
import psutil
import pytest

from tests.sandbox.host import dockerd, run
from tests.sandbox.host.processes import wait_until

pytestmark = pytest.mark.timeout(300)

BENCH = ("-m", "tests.bench", "--small", "--only", "flists")
TESTS = ("-m", "pytest", "-n", "2", "tests/agent/chunks/test_chunks_interruptions.py")
MIRROR = ("-m", "pytest", "-n", "2", "tests/e2e/test_modes.py", "-k", "standalone")
FAMILY = "GRIDHUB_TEST_FAMILY"
_START_SECONDS = 120
_END_SECONDS = 90


@contextmanager
def running(arguments: tuple[str, ...], folder: Path) -> Iterator[psutil.Popen]:
    """Run a program of this project; all that it starts is killed at the end."""
    family = secrets.token_hex(8)
    (folder / "family").write_text(family)
    with (folder / "output").open("wb") as output:
        process = psutil.Popen(
            [sys.executable, *arguments],
            cwd=dockerd.PROJECT,
            env={**os.environ, FAMILY: family},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        for member in relatives(folder):
            member.kill()
        process.wait()


def relatives(folder: Path) -> list[psutil.Process]:
    """Return the processes of a program and of all that it has started."""
    family = (folder / "family").read_text()
    found = psutil.process_iter(["environ"])
    return [p for p in found if (p.info["environ"] or {}).get(FAMILY) == family]


def marks(folder: Path) -> set[str]:
    """Return the marks of the runs that the program's children belong to."""
    mine = {os.environ.get(run.MARK), None, ""}
    return {p.info["environ"].get(run.MARK) for p in relatives(folder)} - mine


def serving(folder: Path) -> bool:
    for process in relatives(folder):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if "tests.sandbox.services.zdb" in " ".join(process.cmdline()):
                return True
    return False


def files_of(mark: str) -> list[Path]:
    places = (Path("/dev/shm"), Path(os.environ.get("TMPDIR", "/tmp")), Path("/tmp"))
    temporary = [path for place in places for path in place.glob(f"gridhub-run-{mark}-*")]
    return [*temporary, *Path("/srv").glob(f"gridhub-e2e-{mark}*")]


def interrupted(program: psutil.Popen, folder: Path, number: signal.Signals) -> str:
    """Interrupt the program, wait for its end and return its run's mark."""
    (mark,) = marks(folder)
    assert files_of(mark)
    program.send_signal(number)
    try:
        program.wait(_END_SECONDS)
    except psutil.TimeoutExpired:
        pytest.fail((folder / "output").read_text())
    return str(mark)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", [BENCH, TESTS], ids=["bench", "tests"])
def test_an_interrupted_run_leaves_no_process_and_no_file(
    arguments: tuple[str, ...], number: signal.Signals, tmp_path: Path
) -> None:
    with running(arguments, tmp_path) as program:
        wait_until(lambda: serving(tmp_path), "a 0-db", _START_SECONDS, tmp_path / "output")
        mark = interrupted(program, tmp_path, number)
        assert relatives(tmp_path) == []
    assert files_of(mark) == []


@pytest.mark.docker
def test_an_interrupted_run_leaves_nothing_of_a_mirror(tmp_path: Path) -> None:
    engine = dockerd.find()
    assert engine is not None
    with running(MIRROR, tmp_path) as program, closing(docker.DockerClient(engine.url)) as client:

        def deployed() -> bool:
            found = client.containers.list(all=True, ignore_removed=True)
            return any(f"e2e-{mark}" in str(c.name) for mark in marks(tmp_path) for c in found)

        wait_until(deployed, "a container", _START_SECONDS, tmp_path / "output")
        mark = interrupted(program, tmp_path, signal.SIGTERM)
        assert relatives(tmp_path) == []
        assert client.containers.list(all=True, filters={"name": f"e2e-{mark}"}) == []
        assert client.networks.list(names=[f"gridhub-e2e-{mark}"]) == []
    assert files_of(mark) == []
