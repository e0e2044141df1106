"""The command itself: where it is found, what it says of itself, how a shell completes it."""

import os
import subprocess
from pathlib import Path

import click
import pytest

from cli.__main__ import gridhub
from tests.cli.conftest import FakeHost, run
from tests.program.declared import PROJECT

COMMAND = PROJECT / "cli" / "gridhub"


def commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, *path, name)
    return found


def test_the_link_in_an_environment_works_in_any_folder(tmp_path: Path) -> None:
    link = tmp_path / "gridhub"
    link.symlink_to(COMMAND)
    asked = [str(link), "--help"]
    done = subprocess.run(
        asked, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("Usage: gridhub ")


def test_make_setup_puts_it_into_the_environment() -> None:
    asked = ["make", "--dry-run", "--always-make", "setup"]
    done = subprocess.run(
        asked, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True
    )
    link = next(line.split() for line in done.stdout.splitlines() if line.startswith("ln "))
    assert link[-1] == ".venv/bin/gridhub"
    assert Path(os.path.normpath(f".venv/bin/{link[-2]}")) == COMMAND.relative_to(PROJECT)
    assert os.access(COMMAND, os.X_OK)


@pytest.mark.parametrize("path", commands(gridhub), ids=" ".join)
def test_every_command_says_what_it_is_for_and_what_each_option_does(
    path: tuple[str, ...],
) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    about, options = result.output.split("Options:")
    assert about.split("\n\n")[1].strip().endswith(".")
    for line in options.split("\n\n")[0].splitlines()[1:]:
        assert line.strip().count("  ") or line.startswith("        "), f"no help: {line}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    script = run("completion", shell)
    assert script.exit_code == 0
    assert "_GRIDHUB_COMPLETE" in script.output


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("gridhub st", {"status"}),
        ("gridhub known-hosts ", {"show", "pin"}),
        ("gridhub status --stack d", {"demo"}),
        ("gridhub verify --stack demo ", {"users", "kernels", "flists"}),
        ("gridhub logs --stack demo z", {"zdb"}),
    ],
)
def test_commands_stacks_jobs_and_services_complete(
    host: FakeHost, typed: str, completed: set[str]
) -> None:
    variables = {
        **os.environ,
        "_GRIDHUB_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split(" ")) - 1),
    }
    done = subprocess.run(
        [COMMAND], env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert {line.removeprefix("plain,") for line in done.stdout.splitlines()} == completed
    assert host.root.exists()


def test_config_docs_prints_the_page_that_it_would_write() -> None:
    page = (PROJECT / "docs" / "configuration.md").read_text()
    assert run("config", "docs", "--dry-run").output == page
