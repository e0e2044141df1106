"""The stand-in docker plugin as a process: its port, its end, unreachable hosts, ssh."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sandbox.host.processes import pid_has_ended
from tests.sandbox.plugins.client import PluginCallError, PluginProcess
from tests.sandbox.plugins.values import UNKNOWN

ROOT = Path(__file__).parents[3]
PLUGIN = str(ROOT / "tests/sandbox/plugins/bin/pulumi-resource-docker")
CONTAINER = "docker:index/container:Container"
NETWORK = "docker:index/network:Network"
WAIT_SECONDS = 20

# Stands for ssh: notes how it was called and connects to the test's own Engine.
FAKE_SSH = """#!/bin/sh
printf '%s\\n' "$@" > "{log}"
exec "{docker}" -H "{host}" system dial-stdio
"""
REFUSING_SSH = """#!/bin/sh
echo 'ssh: connect to host mirror.example.org port 22: Connection refused' >&2
exit 255
"""


def write_ssh(directory: Path, text: str) -> dict[str, str]:
    """Put a command named ssh first on PATH and return that environment."""
    directory.mkdir(exist_ok=True)
    command = directory / "ssh"
    command.write_text(text)
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}


def ended(pid: int) -> bool:
    """Wait until a process is gone, for a bounded time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if pid_has_ended(pid):
            return True
        time.sleep(0.1)
    return False


def test_the_plugin_ends_with_the_engine_that_started_it() -> None:
    """The engine here is a process that starts a plugin and is then killed outright."""
    starter = (
        "import subprocess, sys, time\n"
        "plugin = subprocess.Popen([sys.argv[1], '127.0.0.1:1'], stdout=subprocess.PIPE)\n"
        "port = plugin.stdout.readline().decode().strip()\n"
        "print(plugin.pid, port, flush=True)\n"
        "time.sleep(60)\n"
    )
    engine = subprocess.Popen(
        [sys.executable, "-c", starter, PLUGIN], stdout=subprocess.PIPE, text=True
    )
    try:
        assert engine.stdout is not None
        pid, port = map(int, engine.stdout.readline().split())
        assert port > 0
        engine.send_signal(signal.SIGKILL)
        engine.wait(WAIT_SECONDS)
        assert ended(pid)
    finally:
        engine.kill()
        engine.wait(WAIT_SECONDS)
        if engine.stdout:
            engine.stdout.close()


def test_a_local_daemon_must_answer_when_the_provider_is_configured(tmp_path: Path) -> None:
    with (
        PluginProcess([PLUGIN], "docker") as plugin,
        pytest.raises(PluginCallError, match="failed to connect to any docker daemon"),
    ):
        plugin.configure({"host": f"unix://{tmp_path}/none.sock"})


def test_a_plain_preview_over_ssh_needs_no_host_and_a_change_says_why_it_fails(
    tmp_path: Path,
) -> None:
    environment = write_ssh(tmp_path / "bin", REFUSING_SSH)
    with PluginProcess([PLUGIN], "docker", environment) as plugin:
        plugin.configure({"host": "ssh://root@mirror.example.org:22"})
        network = plugin.check(NETWORK, {"name": "n"})
        previewed = plugin.create(NETWORK, network, preview=True)
        assert previewed.properties["id"] is UNKNOWN
        assert previewed.properties["name"] == "n"
        with pytest.raises(PluginCallError) as failed:
            plugin.create(NETWORK, network)
    message = str(failed.value)
    assert "failed to create Docker client: Error pinging Docker server" in message
    assert "ssh://root@mirror.example.org:22 is reachable" in message
    assert "has exited with exit status 255" in message
    assert "Connection refused" in message


def test_an_address_without_a_machine_is_refused() -> None:
    with PluginProcess([PLUGIN], "docker") as plugin:
        plugin.configure({"host": "ssh://"})
        with pytest.raises(PluginCallError, match="names no machine"):
            plugin.create(NETWORK, plugin.check(NETWORK, {"name": "n"}))


@pytest.mark.docker
def test_everything_works_through_ssh_with_the_operators_options(tmp_path: Path) -> None:
    docker_command = shutil.which("docker")
    if docker_command is None:
        pytest.skip("the docker command is not on PATH; it carries the connection behind ssh")
    log = tmp_path / "argv"
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    fake = FAKE_SSH.format(log=log, docker=docker_command, host=host)
    environment = write_ssh(tmp_path / "bin", fake)
    name = f"gridhub-plugin-ssh-{os.getpid()}"
    options = '["-i","/keys/mirror","-o","UserKnownHostsFile=/keys/known_hosts"]'
    with PluginProcess([PLUGIN], "docker", environment) as plugin:
        plugin.configure({"host": "ssh://hub@203.0.113.9:2222", "sshOpts": options})
        inputs = plugin.check(NETWORK, {"name": name})
        made = plugin.create(NETWORK, inputs)
        try:
            seen = plugin.read(NETWORK, made.id, made.properties, inputs)
            assert seen.id == made.id
            assert not plugin.diff(NETWORK, made.id, seen.properties, inputs).changes
        finally:
            plugin.delete(NETWORK, made.id, made.properties)
        assert plugin.read(NETWORK, made.id, made.properties, inputs).id == ""
    assert log.read_text().split("\n")[:-1] == [
        *("-l", "hub", "-p", "2222", "-i", "/keys/mirror"),
        *("-o", "UserKnownHostsFile=/keys/known_hosts", "-o", "ConnectTimeout=30", "-T"),
        *("--", "203.0.113.9", "docker", "system", "dial-stdio"),
    ]
