"""What an engine that died leaves behind does not keep the next one from starting."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.sandbox.host import dockerd

_WAITS = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def pid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dockerd, "private_directory", lambda: tmp_path)
    path = tmp_path / "exec/containerd/containerd.pid"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[psutil.Popen]:
    """Start a process that is ours or (parameter False) whose command says nothing of us."""
    ours = [f"{tmp_path}/exec/containerd/containerd.toml"] if request.param else []
    started = psutil.Popen(
        [sys.executable, "-c", _WAITS, *ours], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    started.stdout.readline()
    yield started
    started.kill()
    started.communicate()


@pytest.mark.parametrize("process", [True], indirect=True)
def test_a_containerd_that_nobody_collects_yet_is_ended_and_forgotten(
    pid_file: Path, process: psutil.Popen
) -> None:
    pid_file.write_text(str(process.pid))
    dockerd._end_containerd()
    assert process.status() == psutil.STATUS_ZOMBIE, "only its parent, this test, collects it"
    assert not pid_file.exists()
    pid_file.write_text(str(process.pid))
    dockerd._end_containerd()
    assert not pid_file.exists()


@pytest.mark.parametrize("process", [False], indirect=True)
def test_another_process_that_got_its_number_is_left_alone(
    pid_file: Path, process: psutil.Popen
) -> None:
    pid_file.write_text(str(process.pid))
    dockerd._end_containerd()
    assert process.is_running()
    assert process.status() != psutil.STATUS_ZOMBIE
    assert not pid_file.exists()


@pytest.mark.parametrize("content", [None, "", "999999999"])
def test_where_none_is_left_nothing_happens(pid_file: Path, content: str | None) -> None:
    if content is not None:
        pid_file.write_text(content)
    dockerd._end_containerd()
    assert not pid_file.exists()


@pytest.fixture
def mounted_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(dockerd, "private_directory", lambda: tmp_path / "run")
    monkeypatch.setattr(dockerd, "SANDBOX", tmp_path)
    data = tmp_path / "docker"
    data.mkdir()
    (data / "image").touch()
    bind = ["mount", "--bind", str(data), str(data)]
    if os.geteuid() != 0 or subprocess.run(bind, check=False).returncode != 0:
        pytest.skip("a mount needs root and the right to mount")
    yield data
    subprocess.run(["umount", "--lazy", str(data)], check=False, capture_output=True)


def test_its_mount_of_its_data_is_undone_and_the_data_kept(mounted_data: Path) -> None:
    assert f" {mounted_data} " in Path("/proc/mounts").read_text()
    dockerd.stop_private(remove_data=False)
    assert f" {mounted_data} " not in Path("/proc/mounts").read_text()
    assert (mounted_data / "image").exists()
