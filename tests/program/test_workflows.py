"""The workflows: pinned, without needless rights, and made of steps that run here too."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.program.declared import PROJECT
from tests.program.stacks_script import load
from tests.sandbox.pulumi import cli

FOLDER = PROJECT / ".github" / "workflows"
NAMES = sorted(path.name for path in FOLDER.glob("*.yaml"))
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.7"


def workflow(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((FOLDER / name).read_text())
    # YAML 1.1 reads the key `on` as true.
    return {str(key if key is not True else "on"): value for key, value in loaded.items()}


def steps(name: str) -> list[dict[str, Any]]:
    jobs = workflow(name)["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def every_run() -> list[tuple[str, str]]:
    return [(name, step["run"]) for name in NAMES for step in steps(name) if "run" in step]


def test_the_four_workflows_are_there() -> None:
    assert NAMES == ["drift.yaml", "preview.yaml", "test.yaml", "up.yaml"]


def test_the_page_names_every_secret_that_the_workflows_use() -> None:
    page = (PROJECT / "docs" / "pull-requests.md").read_text()
    text = "".join((FOLDER / name).read_text() for name in NAMES)
    for name in set(re.findall(r"(?:secrets|vars)\.(\w+)", text)):
        assert f"`{name}`" in page


@pytest.mark.parametrize("name", NAMES)
def test_every_action_is_pinned_by_a_whole_commit_hash_with_its_version(name: str) -> None:
    used = re.findall(r"uses: (\S+)(.*)", (FOLDER / name).read_text())
    assert used
    for action, rest in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", rest), action


def test_the_workflows_run_the_cli_that_the_lock_names() -> None:
    named = [re.findall(r"pulumi-version: (\S+)", (FOLDER / name).read_text()) for name in NAMES]
    assert {version for found in named for version in found} == {cli.version()}


@pytest.fixture
def actionlint(tmp_path: Path) -> str:
    """Return the program's path; Go builds it where it is not installed."""
    found = shutil.which("actionlint")
    if found:
        return found
    if shutil.which("go") is None:
        pytest.skip("actionlint is not on PATH, nor is Go to build it")
    environment = {**os.environ, "GOBIN": str(tmp_path)}
    built = subprocess.run(
        ["go", "install", ACTIONLINT],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if built.returncode != 0:
        pytest.skip(f"actionlint is not on PATH and cannot be built: {built.stderr[-300:]}")
    return str(tmp_path / "actionlint")


def test_actionlint_finds_nothing(actionlint: str) -> None:
    command = [actionlint, "-no-color", *(str(FOLDER / name) for name in NAMES)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_one_version_of_an_action_everywhere() -> None:
    text = "".join((FOLDER / name).read_text() for name in NAMES)
    found: dict[str, set[str]] = {}
    for action, commit in re.findall(r"uses: ([\w/-]+)@([0-9a-f]{40})", text):
        found.setdefault(action, set()).add(commit)
    assert {action: len(commits) for action, commits in found.items()} == dict.fromkeys(found, 1)


@pytest.mark.parametrize("name", NAMES)
def test_rights_are_none_by_default_and_named_per_job(name: str) -> None:
    content = workflow(name)
    assert content["permissions"] == {}
    allowed = {"contents": {"read"}, "pull-requests": {"write"}, "issues": {"write"}}
    for job in content["jobs"].values():
        assert job["permissions"]["contents"] == "read"
        assert all(right in allowed[scope] for scope, right in job["permissions"].items())
        assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("name", NAMES)
def test_checkouts_leave_no_token_behind(name: str) -> None:
    for step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_a_forks_run_gets_no_secret() -> None:
    for name in NAMES:
        content = workflow(name)
        assert "pull_request_target" not in content["on"]
        if "pull_request" not in content["on"]:
            continue
        for job_name, job in content["jobs"].items():
            if "secrets." in json.dumps(job):
                gate = content["jobs"][job["needs"]]["if"]
                assert "head.repo.full_name == github.repository" in gate, job_name


def test_a_preview_has_no_key_to_any_host() -> None:
    text = (FOLDER / "preview.yaml").read_text()
    assert "SSH_KEY" not in text
    assert "connect" not in text


def test_up_asks_for_approval_per_stack_and_is_never_cancelled_half_way() -> None:
    job = workflow("up.yaml")["jobs"]["up"]
    assert job["environment"] == "${{ matrix.stack }}"
    assert job["concurrency"]["cancel-in-progress"] is False
    assert set(workflow("up.yaml")["on"]) == {"push"}


@pytest.mark.parametrize(("name", "line"), every_run())
def test_no_expression_is_pasted_into_a_shell_line(name: str, line: str) -> None:
    assert "${{" not in line, f"{name}: pass it by env"


@pytest.mark.parametrize(("name", "line"), every_run())
def test_shell_lines_parse_and_call_what_exists(name: str, line: str) -> None:
    done = subprocess.run(["bash", "-n"], input=line, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    targets = re.findall(r"^\.PHONY: ([\w-]+)", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"^make ([\w-]+)", line, re.MULTILINE):
        assert target in targets
    for verb in re.findall(r"stacks\.py (\w+)", line):
        assert f"stacks.py {verb}" in str(load().__doc__)
    for path in re.findall(r"^\.ci/run", line, re.MULTILINE):
        assert os.access(PROJECT / path, os.X_OK)


@pytest.mark.parametrize("name", ["drift.yaml", "preview.yaml"])
def test_the_author_that_is_looked_for_is_the_tokens(name: str) -> None:
    (env,) = [step["env"] for step in steps(name) if "GH_TOKEN" in step.get("env", {})]
    assert (env["GH_TOKEN"], env["GRIDHUB_BOT"]) == ("${{ github.token }}", load().BOT)
