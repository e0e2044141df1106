"""The master stand-in as a process: what a person at the sandbox uses."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.sandbox.host.ports import free_port
from tests.sandbox.tests.servers import ended, started

PROJECT = Path(__file__).parents[3]
MODULE = [sys.executable, "-m", "tests.sandbox.upstream"]


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    hub, control = free_port(), free_port()
    options = ["--hub-port", str(hub), "--control-port", str(control), "--empty"]
    process = started([*MODULE, "serve", *options], control, PROJECT)
    yield hub, control
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(10) == 0
    finally:
        ended(process)


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*MODULE, *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )


def _edit(ports: tuple[int, int], name: str, *arguments: str) -> str:
    done = _run("edit", name, "--control", f"http://127.0.0.1:{ports[1]}", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _show(ports: tuple[int, int]) -> Any:
    done = _run("show", "--control", f"http://127.0.0.1:{ports[1]}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _post(ports: tuple[int, int], edit: str, /, **fields: object) -> None:
    answer = requests.post(f"http://127.0.0.1:{ports[1]}/{edit}", json=fields, timeout=10)
    assert answer.status_code == 200, answer.text


def test_edits_reach_those_who_are_served(ports: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    flist = ("--repository", "bob", "--name", "x.flist")
    assert "bob/x.flist is packed from" in _edit(ports, "add-flist", *flist)
    hub = f"http://127.0.0.1:{ports[0]}"
    first = requests.get(f"{hub}/bob/x.flist.md5", timeout=10).text
    _edit(ports, "change-flist", *flist, "--source", str(tmp_path))
    assert requests.get(f"{hub}/bob/x.flist.md5", timeout=10).text != first
    assert _show(ports)["sources"]["bob/x.flist"] == str(tmp_path)


def test_every_kind_of_edit_is_made(ports: tuple[int, int]) -> None:
    _post(ports, "add-flist", repository="dave", name="y.flist")
    _post(ports, "set-link", repository="dave", name="l.flist", target="y.flist")
    _post(ports, "add-kernel", name="k.efi", bytes=1000)
    _post(ports, "set-net-link", mode="prod", kernel="k.efi")
    _post(ports, "rename-repository", repository="dave", to="carol")
    _post(ports, "delete-flist", repository="carol", name="l.flist")
    shown = requests.get(f"http://127.0.0.1:{ports[1]}/", timeout=10).json()
    assert "carol/y.flist" in shown["flists"]
    assert (shown["kernels"], shown["net_links"]) == (["k.efi"], {"prod": "k.efi"})
    _post(ports, "fault", kind="status", times=1)
    hub = f"http://127.0.0.1:{ports[0]}"
    assert requests.get(hub, timeout=10).status_code == 500
    assert requests.get(hub, timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("edit", "fields", "reason"),
    [
        ("set-net-link", {"mode": "prod", "kernel": "none.efi"}, "no kernel none.efi"),
        ("delete-kernel", {"name": "none.efi"}, "there is no 'none.efi'"),
        ("delete-kernel", {}, "missing: name"),
        ("delete-kernel", {"name": "x", "more": 1}, "unknown: more"),
        ("drop-chunk", {"key": "xyz"}, "non-hexadecimal"),
        ("add-flist", {"repository": "r", "name": "f", "source": "/none"}, "No such file"),
    ],
)
def test_edits_that_can_not_be_made_say_why(
    ports: tuple[int, int], edit: str, fields: dict[str, Any], reason: str
) -> None:
    answer = requests.post(f"http://127.0.0.1:{ports[1]}/{edit}", json=fields, timeout=10)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_a_master_that_is_not_there_is_named() -> None:
    done = _run("edit", "add-kernel", "--control", "http://127.0.0.1:1", "--name", "k.efi")
    assert done.returncode == 1
    assert "no master's control at http://127.0.0.1:1" in done.stdout
