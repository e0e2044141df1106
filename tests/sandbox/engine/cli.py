"""The command line: a closed list of commands and flags, everything else refused by name."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tests.sandbox.engine import config_commands, stack_commands
from tests.sandbox.engine.display import fail
from tests.sandbox.engine.errors import EngineError, RefusedError
from tests.sandbox.engine.operations import Operation
from tests.sandbox.engine.workspace import Workspace

CLOSED_LIST = """\
This is the sandbox's stand-in for the Pulumi CLI. It knows:
  stack [init|select|ls|output|export|import|rm]
  config [get|set|rm]           --secret --path --plaintext --json --show-secrets
  preview                       --diff --json --refresh --expect-no-changes --target
  up                            + --yes --skip-preview --preview-only --message
  refresh, destroy              + --yes --skip-preview --preview-only
  cancel, login file://…, logout, whoami, version, about
  everywhere: --stack --cwd --non-interactive --parallel --color --suppress-outputs --show-secrets
For all else use the real Pulumi CLI; put it on PATH and it is taken instead."""

Command = Callable[[Workspace, argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RefusedError(f"{message}\n{CLOSED_LIST}")


def _common() -> _Parser:
    common = _Parser(add_help=False, allow_abbrev=False)
    common.add_argument("--stack", "-s")
    common.add_argument("--cwd", "-C")
    common.add_argument("--non-interactive", action="store_true")
    common.add_argument("--color")
    common.add_argument("--emoji", "-e", action="store_true")
    common.add_argument("--disable-integrity-checking", action="store_true")
    return common


def _operation_flags(parser: argparse.ArgumentParser, kind: str) -> None:
    switches = ["--diff", "--json", "--expect-no-changes", "--suppress-outputs", "--show-secrets"]
    switches += ["--suppress-progress", "--show-sames", "--show-replacement-steps"]
    for switch in switches:
        short = ["-j"] if switch == "--json" else []
        parser.add_argument(switch, *short, action="store_true")
    parser.add_argument("--target", "-t", action="append")
    parser.add_argument("--parallel", "-p", type=int)
    parser.add_argument("--message", "-m")
    if kind != "refresh":
        parser.add_argument(
            "--refresh", "-r", nargs="?", const=True, default=False, type=lambda t: t != "false"
        )
    if kind != "preview":
        parser.add_argument("--yes", "-y", action="store_true")
        parser.add_argument("--skip-preview", "-f", action="store_true")
        parser.add_argument("--preview-only", action="store_true")


def _operate(kind: str) -> Command:
    def command(workspace: Workspace, options: argparse.Namespace) -> int:
        if kind == "preview":
            options.yes, options.skip_preview, options.preview_only = True, False, True
        if kind == "refresh":
            options.refresh = True
        operation = {"refresh": "refresh", "destroy": "destroy"}.get(kind, "update")
        return Operation(workspace, operation, options).run()  # type: ignore[arg-type]

    return command


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the closed list."""
    common = _common()
    parser = _Parser(prog="pulumi", parents=[common], allow_abbrev=False, usage=CLOSED_LIST)
    commands = parser.add_subparsers(dest="command", parser_class=_Parser)
    for name, aliases in (
        ("preview", ["pre"]),
        ("up", ["update"]),
        ("refresh", []),
        ("destroy", ["down", "dn"]),
    ):
        sub = commands.add_parser(name, aliases=aliases, parents=[common], allow_abbrev=False)
        _operation_flags(sub, name)
        sub.set_defaults(run=_operate(name))
    stack_commands.add(commands, common)
    config_commands.add(commands, common)
    return parser


def _global_flags(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take the flags that may stand before or after the command."""
    return _common().parse_known_args(list(arguments))


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit code is the real CLI's."""
    try:
        flags, rest = _global_flags(arguments)
        options = build_parser().parse_args(rest)
        if not options.command:
            raise RefusedError(f"a command is needed\n{CLOSED_LIST}")
        for name, value in vars(flags).items():
            setattr(options, name, value)
        if flags.cwd:
            os.chdir(flags.cwd)
        run: Command = options.run
        return run(Workspace(Path.cwd(), flags.stack), options)
    except EngineError as error:
        fail(str(error))
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
