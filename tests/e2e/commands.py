"""What an operator does with `gridhub` while a mirror runs, tried on a stack that is up."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any, TypeAlias

import psutil

from cli.stack import StackOnHost
from sync.contract import layout
from sync.providers.host.commands import until_stdin_ends
from tests.e2e.stack import MirrorStack
from tests.program.declared import PROJECT
from tests.sandbox.host.processes import wait_until

GRIDHUB = str(PROJECT / "cli" / "gridhub")
SECONDS = 60
Check: TypeAlias = Callable[[MirrorStack], None]


def gridhub(stack: MirrorStack, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `gridhub` for a stack, in its project's folder."""
    return subprocess.run(
        [GRIDHUB, command, "--stack", stack.name, *words],
        cwd=stack.workspace.project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def the_status_is_what_the_host_shows(stack: MirrorStack) -> None:
    """Check that it is healthy, with every container and the jobs' records."""
    asked = gridhub(stack, "status", "--json")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    services: dict[str, Any] = json.loads(asked.stdout)["services"]
    assert set(services) == set(stack.containers())
    assert services["kernels"]["record"]["done"]["items"] == stack.record("kernels").done.items
    drawn = gridhub(stack, "status")
    assert drawn.returncode == 0
    assert "in sync" in drawn.stdout


def what_is_wrong_is_named_and_repaired(stack: MirrorStack) -> None:
    """Check that a flipped byte is found by verify, and made right by repair alone."""
    kernels = stack.root / layout.KERNELS
    kernel = next(path for path in sorted(kernels.iterdir()) if path.is_file())
    content, seen = kernel.read_bytes(), kernel.stat()
    kernel.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(kernel, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    for words in (("verify", "kernels"), ("repair", "kernels", "--dry-run")):
        found = gridhub(stack, *words)
        assert found.returncode == 1, found.stdout + found.stderr
        assert kernel.name in found.stdout
        assert kernel.read_bytes() != content
    refused = gridhub(stack, "repair", "kernels")
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert kernel.read_bytes() != content
    repaired = gridhub(stack, "repair", "kernels", "--yes")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert kernel.read_bytes() == content
    assert gridhub(stack, "verify", "kernels", "--offline").returncode == 0


def ctrl_c_ends_the_logs_here_and_on_the_host(stack: MirrorStack) -> None:
    """Check that all logs come, and that nobody follows one any more after Ctrl-C."""
    ended = gridhub(stack, "logs", "--no-follow", "--tail", "3")
    assert ended.returncode == 0, ended.stderr
    expected = set(stack.containers())
    assert {line.split(" | ")[0].strip() for line in ended.stdout.splitlines()} == expected
    follow = [GRIDHUB, "logs", "--stack", stack.name, "--tail", "3"]
    with subprocess.Popen(
        follow, cwd=stack.workspace.project, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(lambda: _followed(stack) == len(expected), "all logs", SECONDS)
            assert process.stdout is not None
            assert " | " in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
    wait_until(lambda: _followed(stack) == 0, "the end of all logs", SECONDS)


def _followed(stack: MirrorStack) -> int:
    """Return how many processes of this machine, which is the host too, follow a log of it."""
    found = 0
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        ours = words[-1].startswith(f"gridhub-{stack.name}-")
        found += words[0] == "docker" and "logs" in words and ours
    return found


def what_is_cut_off_ends_in_the_container(stack: MirrorStack) -> None:
    """Check that a verify or repair that is ended here does not run on over there."""
    with contextlib.chdir(stack.workspace.project):
        mirror = StackOnHost.of(stack.name)
    words = until_stdin_ends("sleep", "1234")
    argv = mirror.host.docker("exec", "--interactive", mirror.containers()["kernels"], *words)
    with mirror.host.start(argv):
        wait_until(lambda: _sleeps(stack), "the command", SECONDS)
    wait_until(lambda: not _sleeps(stack), "its end", SECONDS)


def _sleeps(stack: MirrorStack) -> bool:
    return "sleep 1234" in str(stack.containers()["kernels"].top()["Processes"])
