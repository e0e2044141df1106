"""How the sandbox and the tests call `pulumi`: a project, a backend, and what PATH leads to."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.sandbox.host.dockerd import PROJECT
from tests.sandbox.pulumi import cli

PLUGINS = PROJECT / "tests" / "sandbox" / "plugins" / "bin"
_LANGUAGE_HOST = PROJECT / "tests" / "sandbox" / "pulumi" / "bin"


class PulumiError(RuntimeError):
    """A pulumi command failed; `output` is what it printed on both streams."""

    def __init__(self, command: list[str], code: int, output: str) -> None:
        super().__init__(f"{' '.join(command)} exited with {code}\n{output}")
        self.code = code
        self.output = output


def search_path() -> str:
    """PATH with this Python's scripts first, then the CLI; what stands in for a part comes last.

    Raises CliError where there is no CLI: `cli.ensure` builds it.
    """
    program = cli.find()
    if program is None:
        raise cli.CliError("no Pulumi CLI is here: `python -m tests.sandbox.pulumi` builds it")
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), str(program.parent)]
    if not has_language_host(program):
        path.append(str(_LANGUAGE_HOST))
    return os.pathsep.join([*path, str(PLUGINS)])


def has_language_host(program: Path) -> bool:
    """Tell whether the CLI has the real Python language host beside it, or on PATH."""
    name = "pulumi-language-python"
    return (program.resolve().parent / name).exists() or shutil.which(name) is not None


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
            # Without files of metadata, which a kill can cut off: then nothing reads the state.
            "PULUMI_BACKEND_URL": f"file://{self.backend}?metadata=skip",
            # What the CLI remembers of stacks and plugins stays out of the user's own home.
            "PULUMI_HOME": str(self.backend.with_name(f"{self.backend.name}-home")),
            "PULUMI_CONFIG_PASSPHRASE": self.passphrase,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            # Where this is set, each command compiles the program and the sandbox anew.
            "PYTHONDONTWRITEBYTECODE": "",
            **self.environment,
        }

    def run(self, *arguments: str, check: bool = True, timeout: float = 600) -> str:
        """Run pulumi and return its stdout; raises PulumiError unless check is false."""
        command = ["pulumi", "--non-interactive", *arguments]
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
        command = ["pulumi", "--non-interactive", *arguments]
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
