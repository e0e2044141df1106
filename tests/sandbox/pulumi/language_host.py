"""The Python language host of the Pulumi CLI: the one part of it that no package registry serves.

Protocol: `pulumi/language.proto`. The CLI starts `pulumi-language-python`, reads the port from its
first line and calls it on loopback. A program runs with the interpreter of the project's option
`virtualenv`, else with ours, by the real `pulumi-language-python-exec` that lies beside the CLI;
what it prints goes through this process's streams.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent import futures
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2
from typing_extensions import override

from tests.sandbox.plugins import process

_EXECUTOR = "pulumi-language-python-exec"
# The executor's exit code for a failure that it has shown already.
_SHOWN = 32
_WORKERS = 4


def virtualenv(info: Any) -> Path | None:
    """Return the virtual environment that a project's runtime options name."""
    name = MessageToDict(info.options).get("virtualenv")
    return Path(info.root_directory, name) if name else None


def python_of(info: Any) -> Path:
    """Return where the program's interpreter belongs."""
    place = virtualenv(info)
    return place / "bin" / "python" if place else Path(sys.executable)


def interpreter(info: Any) -> str:
    """Return the program's interpreter; raises FileNotFoundError where it is not there."""
    python = python_of(info)
    if not python.exists():
        place = python.parent.parent
        raise FileNotFoundError(f"{place} is no virtual environment; `pulumi install` makes it")
    return str(python)


def without_us(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment as the CLI had it: the program's path must not lead to the sandbox."""
    path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {**environment, "PYTHONPATH": os.pathsep.join(path[1:])}


def packages(info: Any) -> list[Distribution]:
    """Return what a program can import."""
    place = virtualenv(info)
    if place is None:
        return list(distributions())
    return list(distributions(path=list(map(str, place.glob("lib/python3*/site-packages")))))


def plugins(info: Any) -> Iterator[Any]:
    """Find the plugins that the program's packages want (their pulumi-plugin.json)."""
    for package in packages(info):
        for file in package.files or ():
            if file.name != "pulumi-plugin.json":
                continue
            told = json.loads(file.read_text())
            if told.get("resource"):
                version = told.get("version") or package.version
                yield plugin_pb2.PackageDependency(
                    name=told["name"], kind="resource", version=version, server=told.get("server")
                )


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """Serves one CLI; the names of its methods are the protocol's. engine: its address."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._programs: list[subprocess.Popen[bytes]] = []

    @override
    def Handshake(self, request: Any, context: Any) -> Any:
        """Agree; where the engine answers is on the command line."""
        return language_pb2.LanguageHandshakeResponse()

    @override
    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        """Tell a version; there is none but the SDK's."""
        return plugin_pb2.PluginInfo()

    @override
    def GetRequiredPackages(self, request: Any, context: Any) -> Any:
        """List the plugins that the program needs."""
        return language_pb2.GetRequiredPackagesResponse(packages=plugins(request.info))

    @override
    def RuntimeOptionsPrompts(self, request: Any, context: Any) -> Any:
        """Ask nothing of who makes a new project."""
        return language_pb2.RuntimeOptionsResponse()

    @override
    def About(self, request: Any, context: Any) -> Any:
        """Tell the interpreter, for `pulumi about`."""
        place = virtualenv(request.info)
        python = place / "bin" / "python" if place else Path(sys.executable)
        return language_pb2.AboutResponse(executable=str(python), version=platform.python_version())

    @override
    def GetProgramDependencies(self, request: Any, context: Any) -> Any:
        """List the program's packages, for `pulumi about`."""
        found = (
            language_pb2.DependencyInfo(name=package.name, version=package.version)
            for package in packages(request.info)
        )
        return language_pb2.GetProgramDependenciesResponse(dependencies=found)

    @override
    def InstallDependencies(self, request: Any, context: Any) -> Iterator[Any]:
        """Make the virtual environment and install requirements.txt into it, as `pip` does."""
        place = virtualenv(request.info)
        commands = [[sys.executable, "-m", "venv", str(place)]] if place else []
        if Path(request.directory, "requirements.txt").exists():
            commands.append(
                [str(python_of(request.info)), "-m", "pip", "install", "-r", "requirements.txt"]
            )
        for command in commands:
            with subprocess.Popen(
                command, cwd=request.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ) as running:
                for line in running.stdout or ():
                    yield language_pb2.InstallDependenciesResponse(stdout=line)
            if running.returncode:
                context.abort(grpc.StatusCode.INTERNAL, f"{' '.join(command)} failed")

    @override
    def Run(self, request: Any, context: Any) -> Any:
        """Run the program to its end."""
        try:
            command = self._command(request)
        except FileNotFoundError as error:
            return language_pb2.RunResponse(error=str(error))
        environment = {
            **without_us(os.environ),
            "PULUMI_CONFIG": json.dumps(dict(request.config)),
            "PULUMI_CONFIG_SECRET_KEYS": json.dumps(list(request.configSecretKeys)),
        }
        program = subprocess.Popen(command, cwd=request.pwd, env=environment)
        self._programs.append(program)
        code = program.wait()
        if code in (0, _SHOWN):
            return language_pb2.RunResponse(bail=code == _SHOWN)
        return language_pb2.RunResponse(error=f"Program exited with non-zero exit code: {code}")

    def _command(self, request: Any) -> list[str]:
        executor = shutil.which(_EXECUTOR)
        if executor is None:
            raise FileNotFoundError(f"no {_EXECUTOR} on PATH; it belongs beside the Pulumi CLI")
        options = {
            "monitor": request.monitor_address,
            "engine": self._engine,
            "project": request.project,
            "stack": request.stack,
            "organization": request.organization,
            "root_directory": request.info.root_directory,
            "pwd": request.pwd,
            "dry_run": "true" if request.dryRun else "false",
            "parallel": str(request.parallel),
        }
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [interpreter(request.info), "-u", executor, *flags, request.program, *request.args]

    def stop(self) -> None:
        """End the programs that still run: their engine is gone."""
        for program in self._programs:
            program.terminate()


def main(arguments: list[str]) -> int:
    """Serve until the CLI that started this is gone or ends it."""
    if not arguments:
        print("usage: pulumi-language-python ENGINE_ADDRESS", file=sys.stderr)
        return 2
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=_WORKERS))
    host = LanguageHost(engine=arguments[-1])
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    process.serve(server)
    host.stop()
    return 0
