"""How the sandbox and the tests call `pulumi`: the real one where it is on PATH, else ours."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.sandbox.host.dockerd import PROJECT

STAND_INS = PROJECT / "tests" / "sandbox" / "bin"
LANGUAGE_HOST = PROJECT / "tests" / "sandbox" / "pulumi" / "bin"


class PulumiError(RuntimeError):
    """A pulumi command failed; `output` is what it printed on both streams."""

    def __init__(self, command: list[str], code: int, output: str) -> None:
        super().__init__(f"{' '.join(command)} exited with {code}\n{output}")
        self.code = code
        self.output = output


def search_path() -> str:
    """PATH with this Python's scripts first and the stand-ins last: the real ones win."""
    scripts = str(Path(sys.executable).parent)
    return os.pathsep.join([scripts, os.environ.get("PATH", ""), str(LANGUAGE_HOST), str(STAND_INS)])


def which() -> str:
    """Path of the `pulumi` that will run."""
    return shutil.which("pulumi", path=search_path()) or str(STAND_INS / "pulumi")


def is_real() -> bool:
    """Tell whether the real Pulumi CLI will run."""
    return Path(which()).parent != STAND_INS


@dataclass(frozen=True)
class Workspace:
    """A project directory with its own backend; every call takes its stack by --stack."""

    project: Path
    backend: Path
    passphrase: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def variables(self) -> dict[str, str]:
        """Only what a shell needs on top of its own environment."""
        return {
            "PATH": search_path(),
            "PULUMI_BACKEND_URL": f"file://{self.backend}",
            "PULUMI_CONFIG_PASSPHRASE": self.passphrase,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            **self.environment,
        }

    def run(self, *arguments: str, check: bool = True, timeout: float = 600) -> str:
        """Run pulumi and return its stdout; raises PulumiError unless check is false."""
        command = [which(), "--non-interactive", *arguments]
        self.backend.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            command,
            cwd=self.project,
            env={**os.environ, **self.variables()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise PulumiError(command, done.returncode, done.stdout + done.stderr)
        return done.stdout if check else done.stdout + done.stderr

    def lines(self, *arguments: str) -> Iterator[str]:
        """Run pulumi and yield its output line by line as it comes; raises PulumiError."""
        command = [which(), "--non-interactive", *arguments]
        self.backend.mkdir(parents=True, exist_ok=True)
        said: list[str] = []
        with subprocess.Popen(
            command,
            cwd=self.project,
            env={**os.environ, **self.variables()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for line in process.stdout or ():
                said.append(line)
                yield line.rstrip("\n")
        if process.returncode != 0:
            raise PulumiError(command, process.returncode, "".join(said[-50:]))
