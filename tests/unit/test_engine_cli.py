"""The sandbox's `pulumi`: what it refuses, locks, interruptions, secrets at rest."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_PULUMI = _ROOT / "tests/sandbox/bin/pulumi"
_PROGRAM = _ROOT / "tests/sandbox/compare/program/__main__.py"
_PLUGINS = _ROOT / "tests/sandbox/compare/bin"
_TIMEOUT_SECONDS = 60


class Checkout:
    """A project with an empty program, and a `pulumi` that runs in it."""

    def __init__(self, root: Path) -> None:
        self.directory, self.backend, self.store = root / "p", root / "backend", root / "store"
        for made in (self.directory, self.backend, self.store):
            made.mkdir()
        (self.directory / "__main__.py").write_text(_PROGRAM.read_text("utf-8"), "utf-8")
        runtime = {"name": "python", "options": {"virtualenv": sys.prefix}}
        document = {"name": "cli", "runtime": runtime}
        (self.directory / "Pulumi.yaml").write_text(yaml.safe_dump(document), "utf-8")
        self.declare()
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PULUMI_")},
            "PATH": f"{_PLUGINS}{os.pathsep}{os.environ['PATH']}",
            "PULUMI_HOME": str(root / "home"),
            "PULUMI_BACKEND_URL": f"file://{self.backend}",
            "PULUMI_CONFIG_PASSPHRASE": "sesame",
            "COMPARE_STORE": str(self.store),
        }

    def declare(self, *resources: dict[str, object]) -> None:
        spec = {"resources": list(resources), "outputs": {}}
        (self.directory / "spec.json").write_text(json.dumps(spec), "utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(_PULUMI), *arguments],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=_TIMEOUT_SECONDS)
        return process.returncode, out, err

    def succeed(self, *arguments: str) -> str:
        code, out, err = self.run(*arguments)
        assert code == 0, out + err
        return out


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    made.succeed("stack", "init", "dev")
    return made


def _slow_thing() -> dict[str, object]:
    """Declare a resource whose create waits until the test lets it go on."""
    return {"kind": "thing", "name": "slow", "props": {"v": 1, "waitFor": "go"}}


def _let_go(checkout: Checkout) -> None:
    (checkout.store / "go").touch()


def _wait_for_create(checkout: Checkout) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    log = checkout.store / "calls.log"
    while not (log.exists() and "create slow" in log.read_text("utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("watch",), "watch"),
        (("up", "--plan", "file"), "--plan"),
        (("preview", "--policy-pack", "x"), "--policy-pack"),
        (("stack", "rename", "x"), "rename"),
        (("config", "env", "ls"), "env"),
        ((), "a command is needed"),
    ],
)
def test_what_is_not_on_the_closed_list_is_refused_by_name(
    checkout: Checkout, arguments: tuple[str, ...], named: str
) -> None:
    code, out, err = checkout.run(*arguments)
    assert code == 1
    assert named in err
    assert "It knows:" in err
    assert not out


def test_a_resource_option_that_it_does_not_know_is_refused_before_anything_is_made(
    checkout: Checkout,
) -> None:
    option = {"import_": "a-1"}
    checkout.declare({"kind": "thing", "name": "a", "props": {}, "opts": option})
    code, out, _ = checkout.run("up", "-f", "--yes")
    assert code == 1
    assert "import_" in out
    assert not list(checkout.store.glob("*.json"))


def test_a_second_run_is_refused_while_the_first_holds_the_lock(checkout: Checkout) -> None:
    checkout.declare(_slow_thing())
    first = checkout.start("up", "-f", "--yes")
    try:
        _wait_for_create(checkout)
        code, _, err = checkout.run("up", "-f", "--yes")
        assert code == 1
        assert "the stack is currently locked by 1 lock(s)" in err
        assert f"(pid {first.pid})" in err
    finally:
        _let_go(checkout)
        out, _ = first.communicate(timeout=_TIMEOUT_SECONDS)
    assert first.returncode == 0, out
    checkout.succeed("preview", "--expect-no-changes")


def test_an_interrupt_lets_what_is_under_way_finish_and_keeps_it(checkout: Checkout) -> None:
    checkout.declare(
        _slow_thing(),
        {"kind": "thing", "name": "after", "props": {"v": {"$ref": ["slow", "computed"]}}},
    )
    process = checkout.start("up", "-f", "--yes")
    _wait_for_create(checkout)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "interrupt again" in process.stderr.readline()
    _let_go(checkout)
    out, err = process.communicate(timeout=_TIMEOUT_SECONDS)
    assert process.returncode == 1, out + err
    assert "update canceled" in out
    state = json.loads(checkout.succeed("stack", "export"))["deployment"]
    names = {r["urn"].rsplit("::", 1)[-1] for r in state["resources"]}
    assert "slow" in names
    assert "after" not in names
    assert "pending_operations" not in state
    checkout.succeed("up", "-f", "--yes")
    assert len(list(checkout.store.glob("slow-*.json"))) == 1


def test_a_create_that_a_kill_cut_short_is_recorded_as_pending(checkout: Checkout) -> None:
    checkout.declare(_slow_thing())
    process = checkout.start("up", "-f", "--yes")
    _wait_for_create(checkout)
    process.kill()
    _let_go(checkout)
    process.communicate(timeout=_TIMEOUT_SECONDS)
    state = json.loads(checkout.succeed("stack", "export"))["deployment"]
    pending = [(o["type"], o["resource"]["urn"]) for o in state["pending_operations"]]
    assert pending == [("creating", "urn:pulumi:dev::cli::compare:index:Thing::slow")]
    checkout.succeed("cancel", "--yes")
    out = checkout.succeed("up", "-f", "--yes")
    assert "interrupted while creating" in out


def test_secrets_are_nowhere_in_clear(checkout: Checkout) -> None:
    checkout.succeed("config", "set", "--secret", "key", "canary-4711")
    secret = {"$configSecret": "key"}
    checkout.declare({"kind": "thing", "name": "a", "props": {"s": secret, "diffStyle": "keys"}})
    shown = [checkout.succeed(*command) for command in (("preview", "--diff"), ("up", "--yes"))]
    shown += [checkout.succeed("preview", "--json"), checkout.succeed("stack", "export")]
    shown += [checkout.succeed("config"), checkout.succeed("stack", "output", "--json")]
    assert not [text for text in shown if "canary-4711" in text]
    files = [*checkout.backend.rglob("*"), *checkout.directory.glob("*.yaml")]
    written = [f for f in files if f.is_file() and "canary-4711" in f.read_text("utf-8")]
    assert not written
    assert "canary-4711" in checkout.succeed("stack", "export", "--show-secrets")


def test_a_wrong_passphrase_stops_before_the_program_runs(checkout: Checkout) -> None:
    checkout.env["PULUMI_CONFIG_PASSPHRASE"] = "wrong"
    code, out, err = checkout.run("preview")
    assert code == 1
    assert "incorrect passphrase" in err
    assert "Previewing" not in out


def test_previews_of_an_unchanged_stack_are_empty_and_write_nothing(checkout: Checkout) -> None:
    checkout.declare(_slow_thing(), {"kind": "dynamic", "name": "d", "props": {"label": "d"}})
    _let_go(checkout)
    checkout.succeed("up", "-f", "--yes")
    before = (checkout.backend / ".pulumi/stacks/cli/dev.json").read_text("utf-8")
    for _ in range(3):
        summary = json.loads(checkout.succeed("preview", "--json", "--expect-no-changes"))
        assert summary["changeSummary"] == {"same": 3}
    assert (checkout.backend / ".pulumi/stacks/cli/dev.json").read_text("utf-8") == before
