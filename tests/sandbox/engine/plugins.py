"""Plugin processes: started, connected to, ended.

A plugin is `pulumi-resource-NAME` on PATH; `pulumi-python` is the dynamic provider of the
`pulumi` wheel, run by the program's own interpreter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from tests.sandbox.engine import spans
from tests.sandbox.engine.errors import EngineError
from tests.sandbox.engine.events import Diagnostic, Severity
from tests.sandbox.engine.provider import Provider

DYNAMIC = "pulumi-python"
_MAX_MESSAGE_BYTES = 400 * 1024 * 1024
_MAX_METADATA_BYTES = 16 * 1024 * 1024
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    # A half-made resource's whole state comes in the metadata of its error, beyond 8 KiB.
    ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
]
_PLUGIN_STOP_SECONDS = 5
_READY_POLL_SECONDS = 0.2
_READY_POLLS = 300
_DYNAMIC_HOST = Path(__file__).with_name("dynamic_host.py")


@dataclass(frozen=True)
class PluginSettings:
    """What the host tells every plugin process."""

    engine_address: str
    project: str
    root: Path
    program: Path
    python: Path
    config_json: str
    runtime_options: dict[str, Any]


def plugin_path(package: str) -> str | None:
    """Find a package's plugin on PATH."""
    return shutil.which(f"pulumi-resource-{package}")


class PluginProcess:
    """One running plugin; its first line of output is its port."""

    def __init__(
        self, package: str, settings: PluginSettings, show: Callable[[Diagnostic], None]
    ) -> None:
        self.package = package
        self._show = show
        self._noise: list[str] = []
        self._stopping = False
        self._process = subprocess.Popen(
            [*self._command(package, settings), settings.engine_address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=settings.program if settings.program.is_dir() else settings.program.parent,
            env=self._environment(settings),
            process_group=0,
        )
        self._readers = [self._drain(self._process.stderr, "info#err")]

    @staticmethod
    def _command(package: str, settings: PluginSettings) -> list[str]:
        if package == DYNAMIC:
            return [str(settings.python), "-u", str(_DYNAMIC_HOST)]
        if path := plugin_path(package):
            return [path]
        raise EngineError(
            f"no resource plugin 'pulumi-resource-{package}' found on PATH; "
            "install it and put it there (this engine downloads none)"
        )

    @staticmethod
    def _environment(settings: PluginSettings) -> dict[str, str]:
        options = settings.runtime_options.items()
        runtime = {f"PULUMI_RUNTIME_{name.upper()}": str(value) for name, value in options}
        own = {"PULUMI_PROJECT": settings.project, "PULUMI_CONFIG": settings.config_json}
        return {**os.environ, **runtime, **own}

    def _drain(self, stream: Any, severity: Severity) -> threading.Thread:
        """Show what the plugin prints."""

        def read() -> None:
            for line in stream:
                text = line.decode(errors="replace").rstrip("\n")
                self._noise.append(text)
                if not self._stopping:
                    self._show(Diagnostic("", text, severity))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def connect(self, settings: PluginSettings) -> provider_pb2_grpc.ResourceProviderStub:
        """Wait for the plugin's port, connect and shake hands."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode(errors="replace").strip()
        if not line.isdigit():
            self.stop()
            noise = "\n".join(self._noise[-20:])
            raise EngineError(
                f"could not read plugin pulumi-resource-{self.package}: it printed {line!r} "
                f"where its port was expected\n{noise}"
            )
        self._readers.append(self._drain(self._process.stdout, "info"))
        channel = grpc.insecure_channel(f"127.0.0.1:{line}", options=CHANNEL_OPTIONS)
        self._await(channel)
        stub = provider_pb2_grpc.ResourceProviderStub(spans.timed(channel, self.package))
        request = provider_pb2.ProviderHandshakeRequest(
            engine_address=settings.engine_address,
            root_directory=str(settings.root),
            program_directory=str(settings.program),
            configure_with_urn=True,
            invoke_with_preview=True,
        )
        with contextlib.suppress(grpc.RpcError):
            stub.Handshake(request)
        return stub

    def _await(self, channel: grpc.Channel) -> None:
        """Wait until the plugin answers; raises EngineError where it died or never does."""
        ready = grpc.channel_ready_future(channel)
        for _ in range(_READY_POLLS):
            try:
                ready.result(timeout=_READY_POLL_SECONDS)
            except grpc.FutureTimeoutError:
                if self._process.poll() is None:
                    continue
                break
            return
        ready.cancel()
        self.stop()
        noise = "\n".join(self._noise[-20:])
        raise EngineError(f"plugin pulumi-resource-{self.package} died or does not answer\n{noise}")

    def stop(self) -> None:
        """End the process, by force if it does not hear."""
        self._stopping = True
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PLUGIN_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class PluginHost:
    """Starts plugins, keeps count of them and ends them."""

    def __init__(self, settings: PluginSettings, show: Callable[[Diagnostic], None]) -> None:
        self.settings = settings
        self._show = show
        self._warned: set[str] = set()
        self._spare: dict[str, PluginProcess] = {}
        self._processes: list[PluginProcess] = []
        self._providers: list[Provider] = []
        self._lock = threading.Lock()

    def prefetch(self, package: str) -> None:
        """Start a plugin that will be wanted soon."""
        if package == DYNAMIC or plugin_path(package):
            self._spare[package] = self._start(package)

    def _start(self, package: str) -> PluginProcess:
        process = PluginProcess(package, self.settings, self._show)
        with self._lock:
            self._processes.append(process)
        return process

    def load(self, package: str) -> Provider:
        """Start (or take the prefetched) plugin and connect to it."""
        with self._lock:
            process = self._spare.pop(package, None)
        process = process or self._start(package)
        path = plugin_path(package)
        if package != DYNAMIC and path and package not in self._warned:
            self._warned.add(package)
            message = f"using pulumi-resource-{package} from $PATH at {path}"
            self._show(Diagnostic("", message, "warning"))
        provider = Provider(process.connect(self.settings))
        with self._lock:
            self._providers.append(provider)
        return provider

    def cancel(self) -> None:
        """Tell every plugin to give up."""
        with self._lock:
            providers = list(self._providers)
        for provider in providers:
            provider.cancel()

    def close(self) -> None:
        """End every plugin."""
        with self._lock:
            processes, self._processes = self._processes, []
        for process in processes:
            process.stop()


def default_python() -> Path:
    """Tell the interpreter that runs this engine."""
    return Path(sys.executable)
