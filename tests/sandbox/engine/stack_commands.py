"""stack, cancel, login, logout, whoami, version."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.sandbox.engine import VERSION
from tests.sandbox.engine.backend import Backend, StackRef
from tests.sandbox.engine.difftext import shown_value
from tests.sandbox.engine.errors import EngineError, UsageError
from tests.sandbox.engine.passphrase import Crypter, passphrase_from_environment
from tests.sandbox.engine.project import StackConfig
from tests.sandbox.engine.state import (
    ROOT_TYPE,
    Resource,
    Snapshot,
    read_deployment,
    urn_name,
    write_deployment,
)
from tests.sandbox.engine.values import Properties, contains_secret, mask, unwrap
from tests.sandbox.engine.workspace import Workspace, current_backend, remember_backend

_DEPLOYMENT_VERSION = 3


def _crypter_of(deployment: Mapping[str, Any] | None) -> Crypter | None:
    provider = (deployment or {}).get("secrets_providers") or {}
    salt = (provider.get("state") or {}).get("salt")
    if provider.get("type") not in (None, "", "passphrase"):
        raise EngineError(
            f"secrets provider {provider.get('type')!r} is not known here; only passphrase is"
        )
    return Crypter(passphrase_from_environment(), salt) if salt else None


def load_snapshot(workspace: Workspace, ref: StackRef, *, decrypt: bool) -> Snapshot:
    """Read a stack's resources; without `decrypt` secrets stay closed."""
    written = workspace.backend.load(ref)
    return read_deployment(written, _crypter_of(written) if decrypt else None)


def _outputs(snapshot: Snapshot) -> Properties:
    for resource in snapshot.resources:
        if resource.type == ROOT_TYPE and not resource.delete:
            return resource.outputs
    return {}


def _init(workspace: Workspace, options: argparse.Namespace) -> int:
    name = options.name or options.stack
    if not name:
        raise UsageError("stack init: a name is needed")
    if options.secrets_provider not in (None, "passphrase", "default"):
        raise EngineError(
            f"secrets provider {options.secrets_provider!r} is not known here; only passphrase is"
        )
    ref = workspace.parse(name)
    phrase = passphrase_from_environment()
    workspace.backend.create(ref)
    config = StackConfig.load(workspace.project, ref.name)
    if "encryptionsalt" not in config.document:
        crypter = Crypter.create(phrase)
        config.document = {"encryptionsalt": crypter.state, **config.document}
        config.save()
    if not options.no_select:
        workspace.select(ref)
    print(f"Created stack '{ref.name}'")
    return 0


def _select(workspace: Workspace, options: argparse.Namespace) -> int:
    name = options.name or options.stack
    if not name:
        raise UsageError("stack select: a name is needed")
    ref = workspace.parse(name)
    if not workspace.backend.exists(ref):
        if not options.create:
            workspace = Workspace(Path.cwd(), name)
            workspace.stack()
        return _init(workspace, argparse.Namespace(**vars(options), no_select=False))
    workspace.select(ref)
    return 0


def _ls(workspace: Workspace, options: argparse.Namespace) -> int:
    project = workspace.project.name
    selected = workspace.project.selected(workspace.backend.url)
    rows = []
    for ref in workspace.backend.stacks():
        if ref.project != project and not options.all:
            continue
        written = workspace.backend.load(ref)
        count = len((written or {}).get("resources") or [])
        updated = (written or {}).get("manifest", {}).get("time")
        name = ref.name if ref.project == project else ref.qualified
        row: dict[str, Any] = {"name": name, "current": ref.name == selected}
        if updated:
            row["lastUpdate"] = updated
        if written is not None:
            row["resourceCount"] = count
        rows.append(row)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'NAME':24} {'LAST UPDATE':32} RESOURCE COUNT")
    for row in rows:
        name = row["name"] + ("*" if row["current"] else "")
        print(f"{name:24} {row.get('lastUpdate', 'n/a'):32} {row.get('resourceCount', 'n/a')}")
    return 0


def _output(workspace: Workspace, options: argparse.Namespace) -> int:
    ref = workspace.stack()
    outputs = _outputs(load_snapshot(workspace, ref, decrypt=options.show_secrets))
    shown = unwrap(outputs) if options.show_secrets else mask(outputs)
    if options.property:
        if options.property not in shown:
            raise EngineError(f"current stack does not have output property '{options.property}'")
        value = shown[options.property]
        if options.json:
            print(json.dumps(value, indent=2, ensure_ascii=False))
        else:
            print(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))
        return 0
    if options.json:
        print(json.dumps(shown, indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    _print_outputs(outputs, show_secrets=options.show_secrets)
    return 0


def _print_outputs(outputs: Properties, *, show_secrets: bool) -> None:
    if not outputs:
        print("No output values currently in this stack")
        return
    print(f"Current stack outputs ({len(outputs)}):")
    width = max(len(name) for name in outputs)
    print(f"    {'OUTPUT'.ljust(width)}  VALUE")
    for name in sorted(outputs):
        value = outputs[name]
        secret = contains_secret(value) and not show_secrets
        plain = "[secret]" if secret else unwrap(value)
        text = plain if isinstance(plain, str) else shown_value(plain, show_secrets=True)
        print(f"    {name.ljust(width)}  {text}")


def _export(workspace: Workspace, options: argparse.Namespace) -> int:
    written = workspace.backend.load(workspace.stack())
    if options.show_secrets and written is not None:
        crypter = _crypter_of(written)
        written = write_deployment(read_deployment(written, crypter), crypter, show_secrets=True)
    document = {"version": _DEPLOYMENT_VERSION, "deployment": written or {}}
    text = json.dumps(document, indent=4, ensure_ascii=False) + "\n"
    if options.file:
        Path(options.file).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


def _import(workspace: Workspace, options: argparse.Namespace) -> int:
    ref = workspace.stack()
    source = Path(options.file).read_text("utf-8") if options.file else sys.stdin.read()
    try:
        document = json.loads(source)
    except json.JSONDecodeError as error:
        raise EngineError(f"could not read the deployment: {error}") from error
    if document.get("version") != _DEPLOYMENT_VERSION:
        raise EngineError(f"the deployment is not of version {_DEPLOYMENT_VERSION}")
    written = document.get("deployment") or {}
    crypter = _crypter_of(written)
    snapshot = read_deployment(written, crypter)
    _refuse_foreign(snapshot, ref, force=options.force)
    for operation in snapshot.operations:
        urn = operation.resource.urn
        print(f"warning: removing pending operation '{operation.type}' on '{urn}' from snapshot")
    snapshot.operations = []
    if crypter is None:
        crypter = StackConfig.load(workspace.project, ref.name).crypter()
    with workspace.backend.locked(ref):
        workspace.backend.save(ref, write_deployment(snapshot, crypter))
    print("Import complete.")
    return 0


def _refuse_foreign(snapshot: Snapshot, ref: StackRef, *, force: bool) -> None:
    wanted = f"urn:pulumi:{ref.name}::"
    foreign = [r.urn for r in snapshot.resources if not r.urn.startswith(wanted)]
    if foreign and not force:
        listed = "\n".join(
            f"resource '{urn}' is from a different stack than '{ref.name}'" for urn in foreign
        )
        raise EngineError(
            f"{listed}\nimporting this file could be dangerous; rerun with --force to "
            "proceed anyway"
        )


def _rm(workspace: Workspace, options: argparse.Namespace) -> int:
    if options.name:
        workspace = Workspace(Path.cwd(), options.name)
    ref = workspace.stack()
    if not options.yes:
        raise UsageError("--yes must be passed in to proceed when running in non-interactive mode")
    written = workspace.backend.load(ref)
    if (written or {}).get("resources") and not options.force:
        raise EngineError(
            f"'{ref.name}' still has resources; removal rejected. Possible actions:\n"
            "- Make sure that 'pulumi destroy' was run first\n"
            "- Pass '--force' to force removal"
        )
    with workspace.backend.locked(ref):
        workspace.backend.remove(ref)
    if not options.preserve_config:
        workspace.project.stack_file(ref.name).unlink(missing_ok=True)
    if workspace.project.selected(workspace.backend.url) == ref.name:
        workspace.select(None)
    print(f"Stack '{ref.name}' has been removed!")
    return 0


def _show(workspace: Workspace, options: argparse.Namespace) -> int:
    ref = workspace.stack()
    if options.show_name:
        print(ref.name)
        return 0
    snapshot = load_snapshot(workspace, ref, decrypt=options.show_secrets)
    print(f"Current stack is {ref.name}:\n    Managed by {platform.node()}")
    print(f"    Pulumi version used: {VERSION}")
    print(f"Current stack resources ({len(snapshot.resources)}):")
    known = {resource.urn for resource in snapshot.resources}
    for resource in snapshot.resources:
        if resource.parent not in known:
            _tree(resource, snapshot.resources, "    ", options)
    print()
    _print_outputs(_outputs(snapshot), show_secrets=options.show_secrets)
    return 0


def _tree(
    resource: Resource, resources: list[Resource], indent: str, options: argparse.Namespace
) -> None:
    print(f"{indent}{resource.type}  {urn_name(resource.urn)}")
    if options.show_urns:
        print(f"{indent}    URN: {resource.urn}")
    if options.show_ids and resource.id:
        print(f"{indent}    ID: {resource.id}")
    for child in resources:
        if child.parent == resource.urn and child is not resource:
            _tree(child, resources, indent + "  ", options)


def _cancel(workspace: Workspace, options: argparse.Namespace) -> int:
    if options.name:
        workspace = Workspace(Path.cwd(), options.name)
    ref = workspace.stack()
    workspace.backend.cancel(ref)
    print(f"The currently running update for '{ref.name}' has been canceled!")
    return 0


def _login(workspace: Workspace, options: argparse.Namespace) -> int:
    url = options.url or os.environ.get("PULUMI_BACKEND_URL") or current_backend()
    if options.local:
        url = "file://~"
    if not url:
        raise UsageError("login: a file:// URL is needed")
    Backend(url)
    remember_backend(url)
    print(f"Logged in to {platform.node()} as {getpass.getuser()} ({url})")
    return 0


def _logout(workspace: Workspace, options: argparse.Namespace) -> int:
    remember_backend(None)
    print("Logged out of everything")
    return 0


def _whoami(workspace: Workspace, options: argparse.Namespace) -> int:
    print(getpass.getuser())
    if options.verbose:
        print(f"Backend URL: {workspace.backend.url}")
    return 0


def _version(workspace: Workspace, options: argparse.Namespace) -> int:
    print(f"{VERSION}-sandbox")
    return 0


def _add_stack(commands: Any, common: argparse.ArgumentParser) -> None:
    stack = commands.add_parser("stack", parents=[common], allow_abbrev=False)
    for flag in ("--show-name", "--show-urns", "--show-ids", "--show-secrets"):
        stack.add_argument(flag, action="store_true")
    stack.set_defaults(run=_show)
    subs = stack.add_subparsers(dest="stack_command")

    def sub(name: str, run: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = subs.add_parser(
            name, parents=[common], allow_abbrev=False
        )
        parser.set_defaults(run=run)
        return parser

    init = sub("init", _init)
    init.add_argument("name", nargs="?")
    init.add_argument("--secrets-provider")
    init.add_argument("--no-select", action="store_true")
    select = sub("select", _select)
    select.add_argument("name", nargs="?")
    select.add_argument("--create", "-c", action="store_true")
    select.add_argument("--secrets-provider")
    listing = sub("ls", _ls)
    listing.add_argument("--json", "-j", action="store_true")
    listing.add_argument("--all", "-a", action="store_true")
    output = sub("output", _output)
    output.add_argument("property", nargs="?")
    output.add_argument("--json", "-j", action="store_true")
    output.add_argument("--show-secrets", action="store_true")
    export = sub("export", _export)
    export.add_argument("--file")
    export.add_argument("--show-secrets", action="store_true")
    importing = sub("import", _import)
    importing.add_argument("--file")
    importing.add_argument("--force", "-f", action="store_true")
    remove = sub("rm", _rm)
    remove.add_argument("name", nargs="?")
    for flag in ("--yes", "--force", "--preserve-config"):
        short = [f"-{flag[2]}"] if flag != "--preserve-config" else []
        remove.add_argument(flag, *short, action="store_true")


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands to the parser."""
    _add_stack(commands, common)
    cancel = commands.add_parser("cancel", parents=[common], allow_abbrev=False)
    cancel.add_argument("name", nargs="?")
    cancel.add_argument("--yes", "-y", action="store_true")
    cancel.set_defaults(run=_cancel)
    login = commands.add_parser("login", parents=[common], allow_abbrev=False)
    login.add_argument("url", nargs="?")
    login.add_argument("--local", "-l", action="store_true")
    login.set_defaults(run=_login)
    whoami = commands.add_parser("whoami", parents=[common], allow_abbrev=False)
    whoami.add_argument("--verbose", "-v", action="store_true")
    whoami.set_defaults(run=_whoami)
    for name, run in (("logout", _logout), ("version", _version)):
        commands.add_parser(name, parents=[common], allow_abbrev=False).set_defaults(run=run)
