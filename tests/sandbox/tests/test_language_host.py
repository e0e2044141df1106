"""The language host under the real CLI: what a program is given, and how its end is told."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.sandbox.host.processes import wait_until
from tests.sandbox.pulumi.workspace import PulumiError, Workspace, search_path

pytestmark = pytest.mark.timeout(300)
_PLAIN = "name: small\nruntime: python\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    project = tmp_path / "project"
    project.mkdir()
    mark = {"LANGUAGE_HOST_TEST": str(tmp_path)}
    made = Workspace(project, tmp_path / "backend", "words", mark)
    yield made
    for process in marked(tmp_path):
        process.kill()


def marked(root: Path) -> list[psutil.Process]:
    """Return the processes that a workspace below this folder has started."""
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("LANGUAGE_HOST_TEST") == str(root)
    ]


def declare(workspace: Workspace, program: str, project: str = _PLAIN) -> None:
    (workspace.project / "Pulumi.yaml").write_text(project)
    (workspace.project / "__main__.py").write_text(program)
    if "dev" not in workspace.run("stack", "ls", "--json"):
        workspace.run("stack", "init", "dev")


def up(workspace: Workspace) -> str:
    return workspace.run("up", "--yes", "--skip-preview", "--stack", "dev")


def test_a_program_has_its_configuration_its_folder_and_its_names(workspace: Workspace) -> None:
    program = """
import os, sys, pulumi
config = pulumi.Config()
pulumi.export("plain", config.get("plain"))
pulumi.export("hidden", config.require_secret("hidden"))
pulumi.export("where", os.getcwd())
pulumi.export("who", f"{pulumi.get_project()}/{pulumi.get_stack()}/{pulumi.get_organization()}")
print("said aloud")
pulumi.log.warn("mind this")
"""
    declare(workspace, program)
    workspace.run("config", "set", "plain", "words", "--stack", "dev")
    workspace.run("config", "set", "--secret", "hidden", "hush", "--stack", "dev")
    said = up(workspace)
    assert "said aloud" in said
    assert "warning: mind this" in said
    assert "hush" not in said
    told = workspace.run("stack", "output", "--json", "--show-secrets", "--stack", "dev")
    for value in ("words", "hush", str(workspace.project), "small/dev/organization"):
        assert value in told


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("def deep():\n    raise ValueError('too deep')\ndeep()\n", "ValueError: too deep"),
        ("import pulumi\nraise pulumi.RunError('one sentence')\n", "one sentence"),
        ("import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'"),
        # The sandbox's own modules are no part of what a program finds.
        ("import tests.sandbox\n", "No module named 'tests'"),
        ("import os\nos._exit(7)\n", "Program exited with non-zero exit code: 7"),
    ],
)
def test_a_program_that_fails_is_told_of_once(
    workspace: Workspace, program: str, told: str
) -> None:
    declare(workspace, program)
    with pytest.raises(PulumiError) as failure:
        up(workspace)
    diagnostics = failure.value.output.partition("Diagnostics:")[2]
    assert diagnostics.count(told) == 1, failure.value.output


def test_a_missing_environment_is_named_with_the_remedy(workspace: Workspace) -> None:
    absent = "name: small\nruntime:\n  name: python\n  options: {virtualenv: absent}\n"
    declare(workspace, "", absent)
    with pytest.raises(PulumiError, match=r"absent is no virtual environment; `pulumi install`"):
        up(workspace)


def test_install_makes_the_environment_and_fills_it(workspace: Workspace) -> None:
    package = workspace.project / "tiny"
    package.mkdir()
    (package / "pyproject.toml").write_text('[project]\nname = "tiny-package"\nversion = "1.2"\n')
    (workspace.project / "requirements.txt").write_text("./tiny\n")
    declare(workspace, "", "name: small\nruntime:\n  name: python\n  options: {virtualenv: env}\n")
    workspace.run("install")
    installed = list((workspace.project / "env").glob("lib/python3*/site-packages/tiny_package-*"))
    assert [path.name for path in installed] == ["tiny_package-1.2.dist-info"]
    assert "tiny-package" in workspace.run("about", "--transitive", "--stack", "dev")


def test_when_the_cli_is_killed_host_and_program_end(workspace: Workspace, tmp_path: Path) -> None:
    declare(workspace, "import time, pathlib\npathlib.Path('runs').touch()\ntime.sleep(600)\n")
    command = ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--stack", "dev"]
    environment = {**os.environ, **workspace.variables(), "PATH": search_path()}
    with subprocess.Popen(
        command, cwd=workspace.project, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        wait_until((workspace.project / "runs").exists, "the program runs", 60)
        process.kill()
    wait_until(lambda: marked(tmp_path) == [], "its processes have ended", 30)
