"""preview, up, refresh and destroy."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tests.sandbox.engine import VERSION
from tests.sandbox.engine.backend import StackRef
from tests.sandbox.engine.deployment import Deployment, Plan, Surroundings
from tests.sandbox.engine.digest import Counts, Digest
from tests.sandbox.engine.display import Display
from tests.sandbox.engine.errors import EngineError, NoChangesExpectedError, UsageError
from tests.sandbox.engine.eventlog import EventLog
from tests.sandbox.engine.events import Context
from tests.sandbox.engine.journal import Journal
from tests.sandbox.engine.monitor import EngineService, Server, StackInfo
from tests.sandbox.engine.passphrase import Crypter
from tests.sandbox.engine.plugins import PluginHost, PluginSettings
from tests.sandbox.engine.program import interpreter
from tests.sandbox.engine.project import StackConfig
from tests.sandbox.engine.registry import package_of
from tests.sandbox.engine.schema import apply_schema
from tests.sandbox.engine.services import add_engine
from tests.sandbox.engine.state import ROOT_TYPE, Snapshot, read_deployment, write_deployment
from tests.sandbox.engine.values import Properties
from tests.sandbox.engine.workspace import Workspace

Listening = Display | Digest | EventLog
Kind = Literal["update", "refresh", "destroy"]
_DEFAULT_PARALLEL = 16
_TITLES = {
    ("update", True): "Previewing update",
    ("update", False): "Updating",
    ("refresh", True): "Previewing refresh",
    ("refresh", False): "Refreshing",
    ("destroy", True): "Previewing destroy",
    ("destroy", False): "Destroying",
}


@dataclass(frozen=True)
class Loaded:
    """A stack, ready to be worked on."""

    ref: StackRef
    crypter: Crypter
    config: dict[str, str]
    secret_keys: list[str]
    stored: StackConfig


class Operation:
    """One command that previews or changes a stack."""

    def __init__(self, workspace: Workspace, kind: Kind, options: argparse.Namespace) -> None:
        self._workspace = workspace
        self._kind: Kind = kind
        self._options = options
        self._loaded = self._load()

    def _load(self) -> Loaded:
        ref = self._workspace.stack()
        stored = StackConfig.load(self._workspace.project, ref.name)
        crypter = stored.crypter()
        try:
            crypter.verify()
        except EngineError as error:
            raise EngineError(
                f"getting stack configuration: get stack secrets manager: {error}"
            ) from error
        effective = stored
        if self._kind != "destroy":
            effective = apply_schema(self._workspace.project, stored, ref.name, crypter)
        config, secret_keys = effective.environment(crypter)
        return Loaded(ref, crypter, config, secret_keys, stored)

    def run(self) -> int:
        """Preview and, unless only that was asked for, do it; the exit code."""
        options = self._options
        only = options.preview_only
        if not only and not options.yes and not options.skip_preview and not self._interactive:
            raise UsageError(
                "--yes or --skip-preview or --preview-only must be passed in to proceed when "
                "running in non-interactive mode"
            )
        if only:
            return self._pass(preview=True)
        with self._workspace.backend.locked(self._loaded.ref):
            if not options.skip_preview:
                # An update that its own preview fails is not begun.
                if code := self._pass(preview=True, expect=False):
                    return code
                if not options.yes and not self._confirmed():
                    raise EngineError(
                        "confirmation declined, not proceeding with the " + self._kind
                    )
            return self._pass(preview=False)

    @property
    def _interactive(self) -> bool:
        return sys.stdin.isatty() and not self._options.non_interactive

    def _confirmed(self) -> bool:
        answer = input(f"Do you want to perform this {self._kind}? (yes/no) ")
        return answer.strip().lower() in ("y", "yes")

    def _listener(self, *, preview: bool) -> Listening:
        options, loaded = self._options, self._loaded
        shown = {
            key: "[secret]" if key in loaded.secret_keys else value
            for key, value in loaded.config.items()
        }
        context = Context(loaded.ref.name, loaded.ref.project, shown, preview)
        refresh_only = self._kind == "refresh"
        if options.json and not preview:
            return EventLog(context, refresh_only=refresh_only)
        if options.json:
            return Digest(
                context, refresh_only=refresh_only, suppress_outputs=options.suppress_outputs
            )
        return Display(
            context,
            _TITLES[self._kind, preview],
            diff=options.diff,
            refresh_only=refresh_only,
            suppress_outputs=options.suppress_outputs,
            show_secrets=options.show_secrets,
        )

    def _pass(self, *, preview: bool, expect: bool = True) -> int:
        listener = self._listener(preview=preview)
        started = int(time.time())
        ok = self._deploy(listener, preview=preview)
        listener.finish(ok=ok)
        if not preview:
            self._record(listener.counts, started, ok=ok)
        if not ok:
            return 1
        if expect and self._options.expect_no_changes and listener.counts.changes:
            raise NoChangesExpectedError(
                f"no changes were expected but changes {'were proposed' if preview else 'occurred'}"
            )
        return 0

    def _deploy(self, listener: Listening, *, preview: bool) -> bool:
        loaded, backend = self._loaded, self._workspace.backend
        base = read_deployment(backend.load(loaded.ref), loaded.crypter)

        def save(snapshot: Snapshot) -> None:
            backend.save(loaded.ref, write_deployment(snapshot, loaded.crypter))

        engine = EngineService(listener.diagnostic)
        server = Server(lambda target: add_engine(engine, target))
        journal = Journal(base, (lambda _: None) if preview else save)
        try:
            host = self._host(server.address, listener)
            self._prefetch(host, base)
            around = Surroundings(
                self._workspace.project,
                self._info(preview=preview),
                host,
                engine,
                server.address,
                journal,
                listener,
                self._stack_outputs,
            )
            deployment = Deployment(self._plan(preview=preview), around)
            try:
                with _interruptible(deployment):
                    return deployment.run()
            finally:
                host.close()
                if not preview:
                    journal.write()
        finally:
            server.stop()

    def _prefetch(self, host: PluginHost, base: Snapshot) -> None:
        """Start the plugins that the old state names beside the program's own start."""
        for resource in base.resources:
            if resource.is_provider and not resource.delete:
                host.prefetch(package_of(resource.type))

    def _host(self, address: str, listener: Listening) -> PluginHost:
        project, loaded = self._workspace.project, self._loaded
        program = project.program
        settings = PluginSettings(
            engine_address=address,
            project=project.name,
            root=project.directory,
            program=program if program.is_dir() else program.parent,
            python=interpreter(project),
            config_json=json.dumps(loaded.config),
            runtime_options=project.runtime_options,
        )
        return PluginHost(settings, listener.diagnostic)

    def _info(self, *, preview: bool) -> StackInfo:
        loaded = self._loaded
        return StackInfo(
            project=loaded.ref.project,
            stack=loaded.ref.name,
            config=loaded.config,
            secret_keys=loaded.secret_keys,
            preview=preview,
            parallel=self._parallel,
            root=self._workspace.project.directory,
        )

    @property
    def _parallel(self) -> int:
        return int(self._options.parallel or _DEFAULT_PARALLEL)

    def _plan(self, *, preview: bool) -> Plan:
        refresh = self._kind == "refresh" or bool(self._options.refresh)
        return Plan(
            preview=preview,
            refresh=refresh,
            run_program=self._kind == "update",
            destroy=self._kind == "destroy",
            targets=frozenset(self._options.target or ()),
            parallel=self._parallel,
        )

    def _stack_outputs(self, name: str) -> Properties:
        """Read another stack's outputs for a StackReference."""
        ref = self._workspace.parse(name)
        written = self._workspace.backend.load(ref)
        salt = ((written or {}).get("secrets_providers") or {}).get("state", {}).get("salt")
        crypter = None
        if salt:
            phrase = os.environ.get("PULUMI_CONFIG_PASSPHRASE", "")
            crypter = Crypter(phrase, salt)
        snapshot = read_deployment(written, crypter)
        for resource in snapshot.resources:
            if resource.type == ROOT_TYPE:
                return resource.outputs
        return {}

    def _record(self, counts: Counts, started: int, *, ok: bool) -> None:
        update: dict[str, Any] = {
            "kind": self._kind,
            "startTime": started,
            "message": self._options.message or "",
            "environment": {"exec.kind": "cli", "pulumi.version": VERSION},
            "config": self._history_config(),
            "version": 0,
            "result": "succeeded" if ok else "failed",
            "endTime": int(time.time()),
            "resourceChanges": dict(counts.by_op),
        }
        self._workspace.backend.record(self._loaded.ref, update)

    def _history_config(self) -> dict[str, Any]:
        """Give the config as the history keeps it: secrets stay encrypted."""
        stored = self._loaded.stored.values
        written: dict[str, Any] = {}
        for key, value in stored.items():
            if isinstance(value, dict | list) and "secure" not in value:
                written[key] = {"object": json.dumps(value, sort_keys=True)}
            else:
                written[key] = value if isinstance(value, dict | str) else json.dumps(value)
        return written


@contextmanager
def _interruptible(deployment: Deployment) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the update with a true state; a second one ends it at once."""

    def handle(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print("Stopping after what is under way; interrupt again to end at once", file=sys.stderr)
        deployment.interrupt()

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
