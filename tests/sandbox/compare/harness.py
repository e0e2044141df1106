"""Running a case under an engine, and what is kept of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.sandbox.compare import normalise
from tests.sandbox.compare.case import Case, Run
from tests.sandbox.engine.passphrase import Crypter

_HERE = Path(__file__).parent
_PASSPHRASE = "comparison"
# Made once for the passphrase above, so that its key is derived once for all cases.
_SALT = "v1:Xz6xaDipkGw=:v1:MkvJzFUWVOUrowu5:inaQbm2T4bxALFXdg9MZnNZ175S+AA=="
_TIMEOUT_SECONDS = 120
_STACK = "dev"
_FOREIGN_LOCK = {
    "pid": 1,
    "username": "somebody",
    "hostname": "elsewhere",
    "timestamp": "2026-01-02T03:04:05Z",
}
Result = dict[str, Any]


@lru_cache
def crypter() -> Crypter:
    """Make the crypter of every case's stack."""
    return Crypter(_PASSPHRASE, _SALT)


class Engine(Protocol):
    """A way to run `pulumi`."""

    def call(self, arguments: list[str], directory: Path, env: dict[str, str]) -> tuple[int, str]:
        """Run a command: exit code and standard output."""


class RealEngine:
    """The `pulumi` on PATH."""

    def __init__(self, executable: str) -> None:
        self._executable = executable

    def version(self) -> str:
        """Tell its release."""
        done = subprocess.run(
            [self._executable, "version"], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    def call(self, arguments: list[str], directory: Path, env: dict[str, str]) -> tuple[int, str]:
        """Run the executable."""
        done = subprocess.run(
            [self._executable, *arguments],
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
        if os.environ.get("COMPARE_VERBOSE"):
            sys.stderr.write(done.stdout + done.stderr)
        return done.returncode, done.stdout


@contextlib.contextmanager
def _surroundings(directory: Path, env: dict[str, str]) -> Iterator[None]:
    former, where = dict(os.environ), Path.cwd()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(where)
        os.environ.clear()
        os.environ.update(former)


class OwnEngine:
    """The sandbox's engine, in this process (so one at a time)."""

    def call(self, arguments: list[str], directory: Path, env: dict[str, str]) -> tuple[int, str]:
        """Run the command line."""
        from tests.sandbox.engine.cli import main

        out, err = io.StringIO(), io.StringIO()
        verbose = os.environ.get("COMPARE_VERBOSE")
        with (
            _surroundings(directory, env),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main(arguments)
        if verbose:
            sys.stderr.write(out.getvalue() + err.getvalue())
        return code, out.getvalue()


def real_pulumi() -> str | None:
    """Find a real `pulumi` on PATH: one that is not the sandbox's own."""
    own = (_HERE.parent / "bin").resolve()
    for entry in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which("pulumi", path=entry)
        if found and Path(found).resolve().parent != own:
            return found
    return None


class Workplace:
    """A case's directories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = root / "project"
        self.store = root / "store"
        self._backend = root / "backend"
        for directory in (self.project, self.store, self._backend, root / "home"):
            directory.mkdir(parents=True)
        shutil.copy(_HERE / "program" / "__main__.py", self.project)
        self.write_project({})
        (self.project / "spec.json").write_text("{}", encoding="utf-8")
        self._seen_calls = 0

    def environment(self) -> dict[str, str]:
        """Compose the environment of every command."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PULUMI_")}
        return {
            **kept,
            "PATH": f"{_HERE / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
            "PULUMI_HOME": str(self.root / "home"),
            "PULUMI_BACKEND_URL": f"file://{self._backend}",
            "PULUMI_CONFIG_PASSPHRASE": _PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "COMPARE_STORE": str(self.store),
        }

    def write_project(self, extra: dict[str, Any]) -> None:
        """Write the project file."""
        document = {
            "name": "cmp",
            "runtime": {"name": "python", "options": {"virtualenv": sys.prefix}},
            **extra,
        }
        (self.project / "Pulumi.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the stack's config; `{"encrypt": text}` stands for a secure value."""

        def encrypted(value: Any) -> Any:
            if isinstance(value, dict) and set(value) == {"encrypt"}:
                return {"secure": crypter().encrypt(value["encrypt"])}
            if isinstance(value, dict):
                return {key: encrypted(element) for key, element in value.items()}
            return value

        document = {"encryptionsalt": _SALT, "config": encrypted(config)}
        path = self.project / f"Pulumi.{_STACK}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def prepare(self, run: Run) -> None:
        """Change what a run wants changed before it."""
        if run.project:
            self.write_project(run.project)
        if run.config is not None:
            self.write_config(run.config)
        if run.spec is not None:
            content = {"resources": list(run.spec.resources), "outputs": run.spec.outputs}
            (self.project / "spec.json").write_text(json.dumps(content), encoding="utf-8")
        for name, properties in run.store.items():
            self._edit(name, properties)

    def _edit(self, name: str, properties: dict[str, Any] | None) -> None:
        path = self.store / f"{name}.json"
        if name.endswith(".lock"):
            path = self._backend / ".pulumi/locks/organization/cmp" / _STACK / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            properties = _FOREIGN_LOCK if properties is not None else None
        if properties is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(json.dumps(properties), encoding="utf-8")

    def calls(self) -> list[str]:
        """Read the plugin calls made since the last look."""
        try:
            lines = (self.store / "calls.log").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        new, self._seen_calls = lines[self._seen_calls :], len(lines)
        return new

    def live(self) -> dict[str, Any]:
        """Read the live resources."""
        return {
            path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(self.store.glob("*.json"))
        }

    def deployment(self) -> dict[str, Any] | None:
        """Read the stack's checkpoint."""
        path = self._backend / ".pulumi/stacks/cmp" / f"{_STACK}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        latest: dict[str, Any] | None = document["checkpoint"].get("latest")
        return latest


_DOCUMENTED = {"up", "preview", "refresh", "destroy"}


def _run_one(engine: Engine, place: Workplace, run: Run) -> Result:
    place.prepare(run)
    arguments = shlex.split(run.command.replace("@root", str(place.root)))
    documented = arguments[0] in _DOCUMENTED
    if documented and "--diff" not in arguments:
        arguments += ["--json"]
        if arguments[0] != "preview" and "--preview-only" not in arguments:
            arguments += ["-f", "--yes"]
        arguments += ["--parallel", "1"] if run.ordered else []
    code, out = engine.call(arguments, place.project, place.environment())
    values = normalise.Values(str(place.root), crypter())
    calls = place.calls()
    result: Result = {"command": run.command, "exit": code}
    if documented and out.startswith('{"sequence"'):
        result |= normalise.events(out, values, ordered=run.ordered)
    elif documented:
        with contextlib.suppress(json.JSONDecodeError):
            result |= normalise.digest(json.loads(out), values)
    elif run.stdout:
        result["stdout"] = normalise.text(out, str(place.root)).strip()
    result["calls"] = calls if run.ordered else sorted(calls)
    result["live"] = place.live()
    result["state"] = normalise.state(place.deployment(), values)
    return result


def run_case(engine: Engine, case: Case) -> list[Result]:
    """Run a case on a fresh stack."""
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        place = Workplace(Path(name).resolve() / "case")
        place.write_config({})
        code, _ = engine.call(["stack", "init", _STACK], place.project, place.environment())
        if code:
            raise RuntimeError(f"{case.name}: stack init ended with {code}")
        return [_run_one(engine, place, run) for run in case.runs]
