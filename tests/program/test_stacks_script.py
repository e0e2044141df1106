"""The script of the workflows: which stacks a change touches, and what reviewers are told."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.program.declared import PROJECT
from tests.program.stacks_script import SCRIPT, load

FAKE_GH = """#!/usr/bin/env python3
import json, os, sys
log = open(os.environ["GH_LOG"], "a")
if "--paginate" in sys.argv:
    print(open(os.environ["GH_LIST"]).read())
else:
    print(json.dumps([sys.argv[1:], json.load(sys.stdin)]), file=log)
"""
FAKE_PULUMI = """#!/bin/sh
echo "$@" >> "$PULUMI_LOG"
cat "$PULUMI_SAYS"
exit "$PULUMI_CODE"
"""


REMOTE = "config: {'gridhub:host': {docker: ssh://hub@203.0.113.10}}\n"
BOT = {"login": "github-actions[bot]", "type": "Bot"}


class Runner:
    """The script in a project of its own; its `gh` and `pulumi` write down their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".github").mkdir()
        shutil.copy(SCRIPT, folder / ".github" / "stacks.py")
        (folder / "stacks").mkdir()
        for stack in ("sandbox", "example-records", "berlin", "ghent"):
            (folder / "stacks" / f"Pulumi.{stack}.yaml").write_text(REMOTE)
        # These would be brought up on the runner itself.
        (folder / "stacks" / "Pulumi.local.yaml").write_text(REMOTE.replace("ssh://", "unix:///"))
        (folder / "stacks" / "Pulumi.unsaid.yaml").write_text("config: {}\n")
        for name, text in (("gh", FAKE_GH), ("pulumi", FAKE_PULUMI)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.says = folder / "says"
        self.says.write_text("")
        self.listing = folder / "listing"
        self.listing.write_text("[[]]")

    def run(self, *arguments: str, code: int = 0, **variables: str) -> str:
        environment = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "GITHUB_REPOSITORY": "grid/hub",
            "GH_LOG": str(self.folder / "gh.log"),
            "GH_LIST": str(self.listing),
            "PULUMI_LOG": str(self.folder / "pulumi.log"),
            "PULUMI_SAYS": str(self.says),
            "PULUMI_CODE": str(code),
            **variables,
        }
        command = [sys.executable, ".github/stacks.py", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        self.code, self.errors = done.returncode, done.stderr
        return done.stdout

    def told_github(self) -> list[Any]:
        log = self.folder / "gh.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_all_stacks_are_those_that_are_somebodys(runner: Runner) -> None:
    assert json.loads(runner.run("all")) == ["berlin", "ghent"]


HOST = "docker: ssh://hub@203.0.113.10"


@pytest.mark.parametrize(
    "text",
    [
        f"config:\n  host: {{{HOST}}}\n",
        f"config:\n  gridhub:config:host: {{{HOST}}}\n",
        f"config:\n  domain: grid.example.org\n  host:\n    {HOST}\n    sshKeyPath: /k\n",
        """config:\n  host: '{"docker": "ssh://hub@203.0.113.10"}'\n""",
        f"encryptionsalt: v1:x\nconfig:\n  'host': {{{HOST}}}\n  other:host: unix:///x\n",
        f"# umlaut: Köln\nconfig:\n  gridhub:host: {{{HOST}}}\n",
    ],
)
def test_a_stack_is_seen_however_pulumi_lets_its_host_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "Pulumi.bare.yaml").write_text(text, encoding="utf-8")
    script = load()
    monkeypatch.setattr(script, "STACKS", tmp_path)
    assert script.deployed() == ["bare"]


@pytest.mark.parametrize(
    "text",
    [
        *("config: [", "config: {host: 7}\n", "- a\n", "config: x\n", "\0", "config: {1: 2}\n"),
        "[" * 5000,
        "config: {host: '" + "[" * 5000 + "'}\n",
    ],
)
def test_a_stack_file_that_cannot_be_read_keeps_none_of_the_others_back(
    runner: Runner, text: str
) -> None:
    # Not left out: its own preview and `up` fail, and say why.
    (runner.folder / "stacks" / "Pulumi.broken.yaml").write_text(text)
    broken_is_its_own_fault(runner)


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_what_is_no_file_keeps_none_of_the_others_back(runner: Runner, kind: str) -> None:
    path = runner.folder / "stacks" / "Pulumi.broken.yaml"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    broken_is_its_own_fault(runner)


def broken_is_its_own_fault(runner: Runner) -> None:
    assert json.loads(runner.run("all")) == ["berlin", "broken", "ghent"]
    runner.run("connect", "broken")
    assert runner.code == 1
    assert "Pulumi.broken.yaml: no stack file of Pulumi" in runner.errors
    assert "Traceback" not in runner.errors


def test_a_stack_that_is_named_like_an_example_is_left_out_by_name(runner: Runner) -> None:
    (runner.folder / "stacks" / "Pulumi.example-grid-com.yaml").write_text(REMOTE)
    assert json.loads(runner.run("all")) == ["berlin", "ghent"]
    assert "stack example-grid-com is left out: its name begins with example-" in runner.errors
    shipped = {path.name for path in (PROJECT / "stacks").glob("Pulumi.*.yaml")}
    assert shipped == {f"Pulumi.{name}.yaml" for name in load().NOBODYS}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("gridhub:host: {docker: 'unix:///var/run/docker.sock'}", "is run on the host itself"),
        ("host: {docker: 'tcp://203.0.113.10:2376'}", "is run on the host itself"),
        ("domain: grid.example.org", "not in plain text"),
        ("host: {secure: v1:abc}", "not in plain text"),
        ("host: {docker: {secure: v1:abc}}", "not in plain text"),
        ("other:host: {docker: 'ssh://hub@203.0.113.10'}", "not in plain text"),
        ("host: {}", "not in plain text"),
    ],
)
def test_a_stack_that_is_left_out_is_named_with_the_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
    reason: str,
) -> None:
    for name in ("other", "sandbox", "example-records"):
        (tmp_path / f"Pulumi.{name}.yaml").write_text(f"config:\n  {config}\n")
    script = load()
    monkeypatch.setattr(script, "STACKS", tmp_path)
    assert script.deployed() == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("::warning file=stacks/Pulumi.other.yaml::stack other is left out: ")
    assert reason in line


def test_only_the_stacks_that_a_change_is_about_are_named_as_left_out(runner: Runner) -> None:
    runner.git("init", "--quiet", ".")
    runner.git("add", "stacks", ".github")
    runner.git("commit", "--quiet", "-m", "first")
    first = runner.git("rev-parse", "HEAD")
    (runner.folder / "stacks" / "Pulumi.local.yaml").write_text("config: {}\n")
    runner.git("commit", "--quiet", "-am", "second")
    assert json.loads(runner.run("affected", first)) == []
    assert "stack local is left out" in runner.errors
    assert "unsaid" not in runner.errors


def test_a_change_touches_the_stacks_it_is_about(runner: Runner) -> None:
    runner.git("init", "--quiet", ".")
    runner.git("add", "stacks", ".github")
    runner.git("commit", "--quiet", "-m", "first")
    first = runner.git("rev-parse", "HEAD")
    (runner.folder / "stacks" / "Pulumi.ghent.yaml").write_text(f"# another\n{REMOTE}")
    (runner.folder / "README.md").write_text("words\n")
    runner.git("add", "stacks", "README.md")
    runner.git("commit", "--quiet", "-m", "second")
    second = runner.git("rev-parse", "HEAD")
    assert json.loads(runner.run("affected", first)) == ["ghent"]
    assert json.loads(runner.run("affected", second)) == []
    (runner.folder / "components").mkdir()
    (runner.folder / "components" / "hub.py").write_text("pass\n")
    runner.git("add", "components")
    runner.git("commit", "--quiet", "-m", "third")
    assert json.loads(runner.run("affected", second)) == ["berlin", "ghent"]


@pytest.mark.parametrize(
    ("name", "moved"),
    [("hub.py", "tests/hub.py"), ("größe.j2", "components/größe.txt"), ("ü b.py", "docs/u.md")],
)
def test_a_file_of_the_program_that_moves_touches_every_stack(
    runner: Runner, name: str, moved: str
) -> None:
    runner.git("init", "--quiet", ".")
    (runner.folder / "components").mkdir()
    (runner.folder / "components" / name).write_text("a = 1\nb = 2\nc = 3\n")
    runner.git("add", "stacks", "components")
    runner.git("commit", "--quiet", "-m", "first")
    first = runner.git("rev-parse", "HEAD")
    (runner.folder / moved).parent.mkdir(exist_ok=True)
    runner.git("mv", f"components/{name}", moved)
    runner.git("commit", "--quiet", "-m", "second")
    assert json.loads(runner.run("affected", first)) == ["berlin", "ghent"]


def test_a_first_push_whose_base_is_unknown_touches_what_is_there(runner: Runner) -> None:
    runner.git("init", "--quiet", ".")
    runner.git("add", "stacks")
    runner.git("commit", "--quiet", "-m", "first")
    assert json.loads(runner.run("affected", "0" * 40)) == ["berlin", "ghent"]


def test_a_preview_writes_what_it_saw_and_what_it_could_not_see(runner: Runner) -> None:
    runner.says.write_text("  ~ hub: memory 1 => 2\n```\nfence\n")
    runner.run("preview", "berlin", "out.md")
    text = (runner.folder / "out.md").read_text()
    assert runner.code == 0
    assert text.startswith("<!-- gridhub preview berlin -->\n### Preview of `berlin`\n")
    assert "~ hub: memory" in text
    assert "````diff" in text, "a fence in the output does not end ours"
    assert "Not seen: the host as it is" in text
    assert "--refresh" not in (runner.folder / "pulumi.log").read_text()


def test_a_failed_preview_is_told_and_fails_its_job(runner: Runner) -> None:
    runner.says.write_text("error: gridhub:domain: is required\n")
    runner.run("preview", "berlin", "out.md", code=255)
    assert runner.code == 255
    assert "**failed**" in (runner.folder / "out.md").read_text()


@pytest.mark.parametrize("kind", ["x", "`", "x`", "````\n"])
def test_a_long_preview_is_cut_to_what_a_comment_holds(runner: Runner, kind: str) -> None:
    runner.says.write_text(kind * 200_000)
    log = runner.run("preview", "berlin", "out.md")
    text = (runner.folder / "out.md").read_text()
    assert len(text) < 65_536
    assert "the whole is in the job's log" in text
    assert kind * 200_000 in log
    fence = re.search("^`+(?=diff$)", text, re.MULTILINE)
    assert fence
    assert text.count(f"\n{fence[0]}") == 2


def test_each_stack_has_one_comment_that_is_updated(runner: Runner) -> None:
    (runner.folder / "out.md").write_text("<!-- gridhub preview berlin -->\nnew")
    runner.run("comment", "7", "berlin", "out.md")
    others = [
        {"id": 1, "user": BOT, "body": "<!-- gridhub preview ghent -->\nold"},
        {"id": 2, "user": BOT, "body": "<!-- gridhub preview berlin -->\nold"},
    ]
    runner.listing.write_text(json.dumps([others[:1], others[1:]]))
    runner.run("comment", "7", "berlin", "out.md")
    (posted, first), (patched, second) = runner.told_github()
    assert "POST" in posted
    assert "repos/grid/hub/issues/7/comments" in posted
    assert "PATCH" in patched
    assert "repos/grid/hub/issues/comments/2" in patched
    assert first == second == {"body": "<!-- gridhub preview berlin -->\nnew"}


def test_drift_opens_one_issue_then_updates_it_then_closes_it(runner: Runner) -> None:
    runner.says.write_text("  ~ sync-users-sync: phase idle => failed\n")
    runner.run("drift", "berlin", code=255)
    assert runner.code == 0
    body = runner.told_github()[0][1]["body"]
    assert "phase idle => failed" in body
    assert body.startswith("<!-- gridhub drift berlin -->")
    runner.listing.write_text(json.dumps([[{"number": 12, "user": BOT, "body": body}]]))
    runner.run("drift", "berlin", code=255)
    runner.run("drift", "berlin", code=0)
    opened, updated, closed = runner.told_github()
    assert "POST" in opened[0]
    assert "repos/grid/hub/issues/12" in updated[0]
    assert closed[1] == {"state": "closed"}
    assert "--refresh" in (runner.folder / "pulumi.log").read_text()


FOREIGN: list[dict[str, Any]] = [
    {"user": {"login": "mallory", "type": "User"}},
    {"user": {"login": "github-actions", "type": "User"}},
    {"user": {"login": "dependabot[bot]", "type": "Bot"}},
    {"user": {"login": "owner", "type": "User"}, "author_association": "OWNER"},
    {"user": None},
    {},
]


def test_a_strangers_comment_with_the_marker_is_not_touched(runner: Runner) -> None:
    text = "<!-- gridhub preview berlin -->\nnew"
    (runner.folder / "out.md").write_text(text)
    foreign = [{"id": 600 + n, "body": text, **author} for n, author in enumerate(FOREIGN)]
    for listing in ([foreign, [{"id": 7, "user": BOT, "body": text}]], [foreign]):
        runner.listing.write_text(json.dumps(listing))
        runner.run("comment", "7", "berlin", "out.md")
    (updated, _), (posted, _) = runner.told_github()
    assert "repos/grid/hub/issues/comments/7" in updated
    assert "POST" in posted


def test_a_strangers_issue_with_the_marker_is_neither_updated_nor_closed(runner: Runner) -> None:
    body = "<!-- gridhub drift berlin -->"
    authors = [*FOREIGN, {"user": BOT, "pull_request": {}}]
    foreign = [{"number": 13 + n, "body": body, **author} for n, author in enumerate(authors)]
    runner.listing.write_text(json.dumps([foreign]))
    runner.run("drift", "berlin", code=0)
    assert runner.told_github() == []
    runner.run("drift", "berlin", code=255)
    ((posted, _),) = runner.told_github()
    assert "POST" in posted


def test_a_bot_of_another_token_knows_its_own(runner: Runner) -> None:
    text = "<!-- gridhub preview berlin -->\nnew"
    (runner.folder / "out.md").write_text(text)
    comment = {"id": 8, "user": {"login": "gridhub-reports[bot]"}, "body": text}
    runner.listing.write_text(json.dumps([[comment]]))
    runner.run("comment", "7", "berlin", "out.md", GRIDHUB_BOT="gridhub-reports[bot]")
    ((patched, _),) = runner.told_github()
    assert "PATCH" in patched


def test_no_drift_and_no_issue_says_nothing(runner: Runner) -> None:
    runner.run("drift", "berlin", code=0)
    assert runner.told_github() == []


def test_the_hosts_key_is_written_where_the_stack_says_and_for_one_reader(runner: Runner) -> None:
    key, known = runner.folder / "keys" / "id", runner.folder / "keys" / "known_hosts"
    host = {"docker": "ssh://a@b", "sshKeyPath": str(key), "knownHostsPath": str(known)}
    stack = runner.folder / "stacks" / "Pulumi.berlin.yaml"
    stack.write_text(yaml.safe_dump({"config": {"gridhub:host": host}}))
    runner.run("connect", "berlin", GRIDHUB_SSH_KEY="KEY", GRIDHUB_KNOWN_HOSTS="b ssh-ed25519 A")
    assert runner.code == 0
    assert key.read_text() == "KEY\n"
    assert key.stat().st_mode & 0o777 == 0o600
    for pasted in ("A\r\nB", "\ufeffA\nB\n", "\n A \n  B\n\n", "A\rB\r", "A\nB"):
        runner.run("connect", "berlin", GRIDHUB_SSH_KEY=pasted, GRIDHUB_KNOWN_HOSTS=pasted)
        assert key.read_bytes() == known.read_bytes() == b"A\nB\n"
    runner.run("connect", "berlin", GRIDHUB_SSH_KEY="", GRIDHUB_KNOWN_HOSTS="")
    assert runner.code == 1
    assert "GRIDHUB_SSH_KEY is empty" in runner.errors
    runner.run("connect", "ghent")
    assert runner.code == 0


def test_an_unknown_verb_says_what_there_is(runner: Runner) -> None:
    runner.run("destroy", "berlin")
    assert runner.code == 2
    assert "stacks.py drift" in runner.errors
