"""Every command of ours that a page tells an operator to type is one that exists, flags and all."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from cli import known_hosts
from sync.agent.__main__ import parser as agent_parser
from tests.program.declared import PROJECT, STACKS

PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), *STACKS.glob("*.yaml")])


def words(page: Path) -> str:
    """Return a page with wrapped lines joined, as a code span may be broken anywhere."""
    return re.sub(r"\s*\n\s*#?\s*", " ", page.read_text())


def spoken(pattern: str) -> list[tuple[str, str]]:
    """Return (page, match) of everything that matches, up to the end of its code."""
    found = [(page.name, text) for page in PAGES for text in re.findall(pattern, words(page))]
    assert found, pattern
    return found


@pytest.mark.parametrize(("page", "line"), spoken(r"python3 -m sync\.agent ([^`$|]+?)\s*(?=[`$|])"))
def test_an_agents_command_is_one(page: str, line: str) -> None:
    options = agent_parser().parse_args(shlex.split(line.replace("JOB", "users")))
    assert options.job in line.replace("JOB", "users"), page


@pytest.mark.parametrize(("page", "line"), spoken(r"-m cli\.known_hosts ([^`]+?)\s*(?=`)"))
def test_a_command_about_host_keys_is_one(page: str, line: str) -> None:
    options = known_hosts._parser().parse_args(shlex.split(line))
    assert options.host.startswith("ssh://"), page
    assert str(options.known_hosts) == "FILE", f"{page}: it names the stack's file"


@pytest.mark.parametrize(("page", "name"), spoken(r"-m ((?:cli|sync|components|tests)\.[\w.]+\w)"))
def test_a_module_that_is_run_exists(page: str, name: str) -> None:
    assert importlib.util.find_spec(name) is not None, page


@pytest.mark.parametrize(("page", "target"), spoken(r"`make ([a-z-]+)"))
def test_a_task_exists(page: str, target: str) -> None:
    assert f"\n.PHONY: {target}\n" in (PROJECT / "Makefile").read_text(), page
