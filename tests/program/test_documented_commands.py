"""Every command of ours that a page tells an operator to type is one that exists, flags and all."""

import importlib.util
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from cli.__main__ import gridhub
from sync.providers.host import ssh
from sync.providers.host.connection import HostConnection
from tests.program.declared import PROJECT, STACKS

PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), *STACKS.glob("*.yaml")])

SOURCES = sorted(
    path
    for folder in ("cli", "components", "hub_tools", "sync", "tests/sandbox")
    for path in (PROJECT / folder).rglob("*.py")
)


def words(page: Path) -> str:
    """Return a page with wrapped lines joined, as a code span may be broken anywhere."""
    return re.sub(r"\s*\n\s*#?\s*", " ", page.read_text())


def spoken(pattern: str, more: Sequence[Path] = ()) -> list[tuple[str, str]]:
    """Return (page, match) of everything that matches, up to the end of its code."""
    pages = [*PAGES, *more]
    found = [(page.name, text) for page in pages for text in re.findall(pattern, words(page))]
    assert found, pattern
    return found


def parsed(line: str) -> dict[str, Any]:
    """Return what the real command makes of a line's words; click.UsageError where it refuses."""
    command: click.Command = gridhub
    words = shlex.split(line.replace("JOB", "users"))
    path = ""
    while isinstance(command, click.Group) and words:
        _name, found, words = command.resolve_command(click.Context(command), words)
        assert found is not None
        command, path = found, f"{path} {found.name}".strip()
    # A command may be quoted by its name alone.
    parameters = command.make_context(path, words).params if words else {}
    return {"command": path, **parameters}


QUOTED = rf"\bgridhub ((?:{'|'.join(gridhub.commands)})\b(?:(?!  )[^`$|)#\"])*)"


@pytest.mark.parametrize(("page", "line"), spoken(QUOTED, SOURCES))
def test_a_quoted_command_is_one(page: str, line: str) -> None:
    options = parsed(line)
    if "path" in options:
        assert options["host"].startswith(("ssh://", "{address}")), page
        named = ("FILE", "{path}", "{where}")
        assert str(options["path"]) in named, f"{page}: it names the stack's file"


def test_an_errors_command_to_pin_a_host_key_is_one() -> None:
    connection = HostConnection("ssh://me@[2001:db8::5]:22", "/key", "/etc/gridhub/known_hosts")
    options = parsed(ssh._pin_command(connection).removeprefix("gridhub "))
    assert options["command"] == "known-hosts pin"
    assert (options["host"], str(options["path"])) == (
        connection.docker_host,
        connection.known_hosts_path,
    )


def test_no_page_and_no_message_quotes_a_command_of_before() -> None:
    for page in (*PAGES, *SOURCES):
        for old in ("make pin-images", "-m cli.", "-m sync.providers", "docker exec gridhub-"):
            assert old not in words(page), page


@pytest.mark.parametrize(
    ("page", "name"), spoken(r"-m ((?:cli|sync|components|tests)\.[\w.]+\w)", SOURCES)
)
def test_a_module_that_is_run_exists(page: str, name: str) -> None:
    assert importlib.util.find_spec(name) is not None, page


@pytest.mark.parametrize(("page", "target"), spoken(r"`make ([a-z-]+)"))
def test_a_task_exists(page: str, target: str) -> None:
    assert f"\n.PHONY: {target}\n" in (PROJECT / "Makefile").read_text(), page
