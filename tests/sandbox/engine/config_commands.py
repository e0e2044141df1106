"""config, config set, get, rm."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tests.sandbox.engine.errors import EngineError, UsageError
from tests.sandbox.engine.project import StackConfig, has_secure
from tests.sandbox.engine.workspace import Workspace


def _load(workspace: Workspace) -> tuple[StackConfig, str]:
    ref = workspace.stack()
    return StackConfig.load(workspace.project, ref.name), ref.name


def _set(workspace: Workspace, options: argparse.Namespace) -> int:
    config, _ = _load(workspace)
    value = options.value
    if value is None:
        if sys.stdin.isatty():
            raise UsageError("config set: a value is needed")
        value = sys.stdin.read().removesuffix("\n")
    crypter = config.crypter() if options.secret else None
    config.set(options.key, value, path=options.path, crypter=crypter)
    config.save()
    return 0


def _get(workspace: Workspace, options: argparse.Namespace) -> int:
    config, stack = _load(workspace)
    key = config.key(options.key)
    if options.path:
        return _get_path(config, stack, options)
    if key not in config.values:
        raise EngineError(f"configuration key '{options.key}' not found for stack '{stack}'")
    secret = has_secure(config.values[key])
    values, _ = config.environment(config.crypter() if secret else None)
    if options.json:
        print(json.dumps({"value": values[key], "secret": secret}, indent=2))
    else:
        print(values[key])
    return 0


def _get_path(config: StackConfig, stack: str, options: argparse.Namespace) -> int:
    from tests.sandbox.engine.paths import parse_path

    head, *rest = parse_path(options.key)
    found: Any = config.values.get(config.key(str(head)))
    for step in rest:
        if isinstance(found, dict):
            found = found.get(str(step))
        elif isinstance(found, list) and isinstance(step, int) and step < len(found):
            found = found[step]
        else:
            found = None
    if found is None:
        raise EngineError(f"configuration key '{options.key}' not found for stack '{stack}'")
    if has_secure(found):
        single = StackConfig(
            config.file, config.project, {**config.document, "config": {"v": found}}
        )
        values, _ = single.environment(single.crypter())
        print(values[single.key("v")])
    else:
        print(
            found
            if isinstance(found, str)
            else json.dumps(found, separators=(",", ":"), sort_keys=True)
        )
    return 0


def _rm(workspace: Workspace, options: argparse.Namespace) -> int:
    config, _ = _load(workspace)
    config.remove(options.key, path=options.path)
    config.save()
    return 0


def _list(workspace: Workspace, options: argparse.Namespace) -> int:
    config, _ = _load(workspace)
    secrets = any(has_secure(value) for value in config.values.values())
    crypter = config.crypter() if secrets and options.show_secrets else None
    values, secret_keys = config.environment(crypter)
    hidden = set() if options.show_secrets else set(secret_keys)
    if options.json:
        print(json.dumps(_listed(config, values, set(secret_keys), hidden), indent=2))
        return 0
    print(f"{'KEY':32} VALUE")
    for key in sorted(values):
        name = key.removeprefix(f"{config.project}:")
        print(f"{name:32} {'[secret]' if key in hidden else values[key]}")
    return 0


def _listed(
    config: StackConfig, values: dict[str, str], secret_keys: set[str], hidden: set[str]
) -> dict[str, Any]:
    listed: dict[str, Any] = {}
    for key in sorted(values):
        entry: dict[str, Any] = {} if key in hidden else {"value": values[key]}
        raw = config.values[key]
        is_object = isinstance(raw, dict | list) and "secure" not in raw
        if is_object and key not in hidden:
            entry["objectValue"] = json.loads(values[key])
        listed[key] = {**entry, "secret": key in secret_keys}
    return listed


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands to the parser."""
    config = commands.add_parser("config", parents=[common], allow_abbrev=False)
    config.add_argument("--show-secrets", action="store_true")
    config.add_argument("--json", "-j", action="store_true")
    config.set_defaults(run=_list)
    subs = config.add_subparsers(dest="config_command")
    for name, run in (("set", _set), ("get", _get), ("rm", _rm)):
        sub = subs.add_parser(name, parents=[common], allow_abbrev=False)
        sub.add_argument("key")
        sub.add_argument("--path", action="store_true")
        sub.set_defaults(run=run)
        if name == "set":
            sub.add_argument("value", nargs="?")
            sub.add_argument("--secret", action="store_true")
            sub.add_argument("--plaintext", action="store_true")
        if name == "get":
            sub.add_argument("--json", "-j", action="store_true")
