"""What test processes that run side by side share: free ports, and turns at the engine."""

import fcntl
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sandbox.host import locks, ports

PROJECT = Path(__file__).parents[3]
RANGE = range(31_900, 31_920)
CLAIMS = f"""
import contextlib, sys
from tests.sandbox.host import ports
ports._RANGE = {RANGE}
claimed = []
with contextlib.suppress(RuntimeError):
    while True:
        claimed.append(ports.free_port())
print(*claimed, flush=True)
sys.stdin.read()
"""
HOLDS = """
import pathlib, sys
from tests.sandbox.host import locks
with locks.held(pathlib.Path(sys.argv[1]), shared=sys.argv[2] == "True"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another(program: str, *arguments: str) -> Iterator[list[str]]:
    """Run a Python program until it says a line, yield its words, and end it as kill -9 does."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()
    finally:
        process.kill()
        process.communicate()


def is_free(path: Path, way: int) -> bool:
    with path.open("ab") as stream:
        try:
            fcntl.flock(stream, way | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_port_is_one_process_s_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_RANGE", RANGE)
    with another(CLAIMS) as claimed:
        assert len(set(claimed)) == len(claimed) > 0
        with pytest.raises(RuntimeError, match="no port of 31900-31919 is free"):
            ports.free_port()
    assert ports.free_port() in RANGE


def test_a_port_is_given_once_and_not_while_somebody_listens() -> None:
    given = [ports.free_port() for _ in range(50)]
    assert len(set(given)) == 50
    with socket.create_server(("127.0.0.1", given[0])):
        assert not ports._nobody_listens(given[0])
    with socket.create_server(("::1", given[1]), family=socket.AF_INET6):
        assert not ports._nobody_listens(given[1])
    assert ports._nobody_listens(given[0])


def test_many_use_the_engine_at_a_time_and_who_ends_it_waits_for_them(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    with another(HOLDS, str(path), "True") as said:
        assert said == ["held"]
        assert is_free(path, fcntl.LOCK_SH)
        assert not is_free(path, fcntl.LOCK_EX)
    with locks.held(path):
        assert not is_free(path, fcntl.LOCK_SH)
    with another(HOLDS, str(path), "False") as said:
        assert said == ["held"]
        assert not is_free(path, fcntl.LOCK_SH)
    assert is_free(path, fcntl.LOCK_EX)
