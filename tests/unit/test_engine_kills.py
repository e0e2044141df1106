"""Kills of the sandbox's engine and of its providers at random moments leave a true state."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_PULUMI = _ROOT / "tests/sandbox/bin/pulumi"
_PROGRAM = _ROOT / "tests/sandbox/compare/program/__main__.py"
_PLUGINS = _ROOT / "tests/sandbox/compare/bin"
_STOP_SECONDS = 60
_LINGER_SECONDS = 0.08
_COMMANDS = (
    ["up", "-f", "--yes"],
    ["up", "-f", "--yes", "--refresh"],
    ["refresh", "-f", "--yes"],
    ["destroy", "-f", "--yes"],
)
_WEIGHTS = (5, 2, 1, 2)


def _thing(name: str, version: int, **props: Any) -> dict[str, Any]:
    asked = {"adopt": True, "v": version, "lingerSeconds": _LINGER_SECONDS, **props}
    return {"kind": "thing", "name": name, "props": asked}


def _specs() -> list[dict[str, Any]]:
    """Two programs: from one to the other there is every kind of step."""
    first = [
        _thing("same", 1),
        _thing("updated", 1, w=1),
        _thing("replaced", 1, replaceOn=["v"], needs={"$ref": ["updated", "computed"]}),
        _thing("first-deleted", 1, replaceOn=["v"], dbr=True),
        _thing("removed", 1, needs={"$ref": ["first-deleted", "computed"]}, replaceOn=["needs"]),
        {"kind": "dynamic", "name": "dynamic", "props": {"label": "dynamic", "v": 1}},
    ]
    second = [
        _thing("same", 1),
        _thing("updated", 1, w=2),
        _thing("replaced", 2, replaceOn=["v"], needs={"$ref": ["updated", "computed"]}),
        _thing("first-deleted", 2, replaceOn=["v"], dbr=True),
        _thing("added", 1, needs={"$ref": ["replaced", "computed"]}),
        {"kind": "dynamic", "name": "dynamic", "props": {"label": "dynamic", "v": 2}},
    ]
    return [{"resources": first, "outputs": {}}, {"resources": second, "outputs": {}}]


class Stack:
    """A stack whose resources are files."""

    def __init__(self, root: Path) -> None:
        self.project, self.store = root / "project", root / "store"
        self._backend = root / "backend"
        for directory in (self.project, self.store, self._backend):
            directory.mkdir()
        (self.project / "__main__.py").write_text(_PROGRAM.read_text("utf-8"), "utf-8")
        runtime = {"name": "python", "options": {"virtualenv": sys.prefix}}
        document = {"name": "kills", "runtime": runtime}
        (self.project / "Pulumi.yaml").write_text(yaml.safe_dump(document), "utf-8")
        self._env = {
            **os.environ,
            "PATH": f"{_PLUGINS}{os.pathsep}{os.environ['PATH']}",
            "PULUMI_HOME": str(root / "home"),
            "PULUMI_BACKEND_URL": f"file://{self._backend}",
            "PULUMI_CONFIG_PASSPHRASE": "kills",
            "COMPARE_STORE": str(self.store),
        }
        self.finish("stack", "init", "dev")

    def declare(self, spec: dict[str, Any]) -> None:
        (self.project / "spec.json").write_text(json.dumps(spec), "utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(_PULUMI), *arguments],
            cwd=self.project,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, *arguments: str) -> str:
        process = self.start(*arguments)
        out, _ = process.communicate(timeout=_STOP_SECONDS)
        assert process.returncode == 0, f"pulumi {' '.join(arguments)}:\n{out}"
        return out

    def checkpoint(self) -> dict[str, Any]:
        text = (self._backend / ".pulumi/stacks/kills/dev.json").read_text("utf-8")
        latest: dict[str, Any] = json.loads(text)["checkpoint"].get("latest") or {}
        return latest

    def recorded(self) -> set[str]:
        """List the ids of the state's live resources."""
        resources = self.checkpoint().get("resources") or []
        kinds = ("compare:index:Thing", "pulumi-python:dynamic:Resource")
        return {r["id"] for r in resources if r["type"] in kinds}

    def live(self) -> set[str]:
        return {path.stem for path in self.store.glob("*.json")}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    yield made
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("COMPARE_STORE") == str(made.store):
            process.kill()


def _victims(engine: psutil.Process, kind: str) -> list[psutil.Process]:
    if kind == "engine":
        return [engine]
    providers = []
    for child in engine.children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "compare.plugin" in command or "dynamic_host" in command:
            providers.append(child)
    return providers


def _kill(process: subprocess.Popen[str], kind: str, delay_seconds: float) -> str:
    """Wait for a moment of the run, kill, and wait for the run's end; what it printed."""
    try:
        out, _ = process.communicate(timeout=delay_seconds)
    except subprocess.TimeoutExpired:
        engine = psutil.Process(process.pid)
        children = engine.children(recursive=True)
        for victim in _victims(engine, kind):
            victim.kill()
        if kind == "engine":
            psutil.wait_procs(children, timeout=_STOP_SECONDS)
        out, _ = process.communicate(timeout=_STOP_SECONDS)
    return out


def _rounds(stack: Stack, seed: int, kills: int) -> None:
    dice = random.Random(seed)
    specs = _specs()
    stack.declare(specs[0])
    stack.finish("up", "-f", "--yes")
    for number in range(kills):
        command = dice.choices(_COMMANDS, _WEIGHTS)[0]
        if command[0] == "up":
            stack.declare(specs[(number + 1) % 2])
        kind = dice.choice(("engine", "provider"))
        printed = _kill(stack.start(*command), kind, dice.uniform(0.3, 2.2))
        told = f"seed {seed}, kill {number} ({kind} during {' '.join(command)}):\n{printed}"
        assert isinstance(stack.checkpoint(), dict), told
        stack.finish("stack", "export", "--show-secrets")
        stack.finish("cancel", "--yes")
        stack.finish("up", "-f", "--yes")
        assert stack.recorded() == stack.live(), told
        resources = stack.checkpoint()["resources"]
        assert not [r["urn"] for r in resources if r.get("delete")], told
    stack.finish("destroy", "-f", "--yes")
    assert stack.live() == set()
    assert not stack.checkpoint().get("resources")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_random_moments_the_next_up_finishes_and_orphans_nothing(
    stack: Stack, seed: int
) -> None:
    _rounds(stack, seed, kills=4)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 105))
def test_fifty_kills(stack: Stack, seed: int) -> None:
    _rounds(stack, seed, kills=10)
