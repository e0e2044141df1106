"""Kills of the engine or of a provider in the middle of a command, and the repair of the docs."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

import docker
import psutil

from tests.e2e.stack import MirrorStack
from tests.sandbox.pulumi.workspace import PulumiError

Victim: TypeAlias = Literal["engine", "dynamic", "docker"]
# What the process of each provider has on its command line.
_PROVIDERS: Final = {"dynamic": "pulumi.dynamic", "docker": "tests.sandbox.plugins"}
_COMMANDS: Final = ("up", "up --refresh", "refresh", "destroy")
_WEIGHTS: Final = (5, 2, 1, 2)
_MARK: Final = "GRIDHUB_KILLS_STACK"
_LONGEST_DELAY_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.02
# What Docker says of a container that a killed engine made and did not record.
_IN_USE: Final = re.compile(r'container name "?/?([\w.-]+)"? is already in use')
_TAKEN: Final = re.compile(r"network with name ([\w.-]+) already exists")


@dataclass(frozen=True)
class Kill:
    """A kill: of whom, in which command, after how many of its lines and how much time."""

    victim: Victim
    command: str
    lines: int
    delay_seconds: float
    sign: signal.Signals = signal.SIGKILL

    @classmethod
    def drawn(cls, dice: random.Random, number: int) -> "Kill":
        """Draw a stack's kill of this number; the first one cuts its first `up` short.

        The victims take turns; early moments are likelier than late ones.
        """
        return cls(
            victim=("engine", "dynamic", "engine", "docker")[number % 4],
            command=dice.choices(_COMMANDS, _WEIGHTS)[0] if number else "up",
            lines=int(60 * dice.random() ** 1.5),
            delay_seconds=dice.uniform(0, _LONGEST_DELAY_SECONDS),
        )

    def __str__(self) -> str:
        moment = f"{self.delay_seconds:.2f} s after line {self.lines}"
        return f"{self.victim} killed {moment} of pulumi {self.command}"


def started(stack: MirrorStack, command: str) -> "subprocess.Popen[str]":
    """Start a command that changes the stack; its processes carry the stack's mark."""
    stack.write_config()
    workspace = stack.workspace
    flags = ("--yes", "--skip-preview", "--stack", stack.name)
    return subprocess.Popen(
        ["pulumi", "--non-interactive", *command.split(), *flags],
        cwd=workspace.project,
        env={**os.environ, **workspace.variables(), _MARK: stack.name},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def strike(stack: MirrorStack, kill: Kill) -> tuple[bool, str]:
    """Run the command and kill in it; whether anybody was killed, and what was printed."""
    process = started(stack, kill.command)
    output = process.stdout
    assert output is not None
    said = list(islice(output, kill.lines))
    time.sleep(kill.delay_seconds)
    struck = [_sent(kill.sign, victim) for victim in _victims(process, kill.victim)]
    said += output
    process.wait()
    return any(struck), "".join(said)


def _victims(process: "subprocess.Popen[str]", victim: Victim) -> list[psutil.Process]:
    """Return the victim's processes as soon as there are any; none where the command has ended."""
    found: list[psutil.Process] = []
    while process.poll() is None and not found:
        engine = psutil.Process(process.pid)
        found = [engine]
        if victim != "engine":
            children = engine.children(recursive=True)
            found = [child for child in children if _is(child, _PROVIDERS[victim])]
            time.sleep(0 if found else _LOOK_SECONDS)
    return found


def _is(process: psutil.Process, words: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return words in " ".join(process.cmdline())
    return False


def _sent(number: signal.Signals, process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
        return True
    return False


def left_behind(stack: MirrorStack) -> list[psutil.Process]:
    """Return the processes of this stack's commands that still run."""
    found = psutil.process_iter(["environ"])
    return [p for p in found if (p.info["environ"] or {}).get(_MARK) == stack.name]


@contextlib.contextmanager
def ending_what_is_left(stack: MirrorStack) -> Iterator[None]:
    """End what kills of the engine left running, by its own process id, and its lock."""
    try:
        yield
    finally:
        stack.pulumi("cancel", "--yes", check=False)
        for process in left_behind(stack):
            _sent(signal.SIGKILL, process)


def repair(stack: MirrorStack) -> str:
    """Do what docs/operations.md tells an operator; returns which steps were needed."""
    stack.pulumi("cancel", "--yes")
    stack.pulumi("refresh", "--yes", "--skip-preview", "--clear-pending-creates")
    removed: list[str] = []
    for _ in range(10):
        try:
            stack.up()
        except PulumiError as error:
            found = _remove_unrecorded(stack, error.output)
            if not found:
                raise
            removed += found
        else:
            break
    return f"docker rm {removed}" if removed else "nothing more"


def _remove_unrecorded(stack: MirrorStack, said: str) -> list[str]:
    """Remove what Docker names as in the way of a container or network of this stack."""
    with contextlib.closing(stack.client()) as client:
        containers, networks = set(_IN_USE.findall(said)), set(_TAKEN.findall(said))
        for name in containers:
            client.containers.get(name).remove(force=True)
        for name in networks:
            client.networks.get(name).remove()
    return sorted(containers | networks)


def cut_off(stack: MirrorStack) -> list[str]:
    """Return what the state says was under way, such as `creating hub-container`."""
    pending = stack.state()["deployment"].get("pending_operations") or []
    return [f"{op['type']} {op['resource']['urn'].rsplit('::', 1)[1]}" for op in pending]


def untrue(stack: MirrorStack) -> list[str]:
    """Compare the state with the host both ways; a line for everything that is wrong."""
    resources = stack.state()["deployment"].get("resources") or []
    wrong = [f"pending: {operation}" for operation in cut_off(stack)]
    wrong += [
        f"marked {mark}: {resource['urn']}"
        for resource in resources
        for mark in ("delete", "pendingReplacement", "initErrors")
        if resource.get(mark)
    ]
    with contextlib.closing(stack.client()) as client:
        objects = _objects(client, stack)
    recorded = {r["id"]: r["urn"] for r in resources if r["type"] in objects}
    there = {id_: name for found in objects.values() for id_, name in found.items()}
    wrong += [f"not recorded: {there[id_]}" for id_ in there.keys() - recorded.keys()]
    wrong += [f"not there: {recorded[id_]}" for id_ in recorded.keys() - there.keys()]
    return wrong + _files(stack, resources)


def _objects(client: docker.DockerClient, stack: MirrorStack) -> dict[str, dict[str, str]]:
    """Return the stack's containers and networks on the engine, id to name, by type."""
    label: dict[str, str | list[str] | bool] = {"label": f"gridhub.stack={stack.name}"}
    containers = client.containers.list(all=True, filters=label, ignore_removed=True)
    networks = client.networks.list(filters=label)
    return {
        "docker:index/container:Container": {str(c.id): str(c.name) for c in containers},
        "docker:index/network:Network": {str(n.id): str(n.name) for n in networks},
    }


def _files(stack: MirrorStack, resources: list[dict[str, Any]]) -> list[str]:
    """Compare the files that the state knows with those in the folders that only `up` writes."""
    recorded = {
        file["path"] for r in resources for file in (r.get("outputs") or {}).get("written") or []
    }
    specs = {r["outputs"]["job"] for r in resources if "job" in (r.get("outputs") or {})}
    recorded |= {f"sync/{job}/spec/spec.json" for job in specs}
    folders = [stack.root / name for name in ("secrets", "config")]
    folders += (stack.root / "sync").glob("*/spec")
    there = {
        str(path.relative_to(stack.root))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }
    wrong = [f"file not recorded: {path}" for path in sorted(there - recorded)]
    return wrong + [f"file not there: {path}" for path in sorted(recorded - there)]
