"""`gridhub verify` and `repair` run the agent's own in the job's container, and ask first."""

import pytest

from sync.agent.__main__ import parser as agent_parser
from tests.cli.conftest import FakeHost, run


@pytest.fixture
def agent(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Return a host whose containers have an agent that prints its arguments."""
    host.containers("users")
    host.program("python3", '#!/bin/sh\necho "$@"\necho trouble >&2\nexit "${AGENT_STATUS:-0}"\n')
    return host


def test_verify_is_the_agents_with_all_its_options(agent: FakeHost) -> None:
    result = run("verify", "--stack", "demo", "users", "--part", "1/7", "--chunks", "--offline")
    assert result.exit_code == 0, result.output
    assert result.output == ("-m sync.agent verify users --chunks --offline --part 1/7\ntrouble\n")
    options = agent_parser().parse_args(result.output.splitlines()[0].split()[2:])
    assert (options.command, options.job, options.part) == ("verify", "users", (1, 7))
    assert options.chunks
    assert options.offline


def test_what_a_job_prints_does_not_reach_the_terminal_as_a_command(agent: FakeHost) -> None:
    agent.program(
        "python3",
        r"""#!/bin/sh
        printf 'a\033[2J\033]0;x\007\tb\303\050\r\nlast'""",
    )
    result = run("verify", "--stack", "demo", "users")
    assert result.output == "a\\x1b[2J\\x1b]0;x\\x07     b\ufffd(\nlast"


@pytest.mark.parametrize("status", ["1", "3"])
def test_what_is_wrong_is_exit_code_1(
    agent: FakeHost, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setenv("AGENT_STATUS", status)
    result = run("verify", "--stack", "demo", "users")
    assert result.exit_code == 1, result.output


def test_so_is_one_whose_docker_is_killed(agent: FakeHost) -> None:
    agent.program("python3", "#!/bin/sh\nkill -9 $PPID\n")
    assert run("verify", "--stack", "demo", "users").exit_code == 1


def test_a_job_without_a_container_is_named(agent: FakeHost) -> None:
    result = run("verify", "--stack", "demo", "kernels")
    assert result.exit_code == 2
    assert "no container of kernels" in result.stderr
    assert "there are: users" in result.stderr


def test_repair_is_refused_where_nobody_can_be_asked(agent: FakeHost) -> None:
    result = run("repair", "--stack", "demo", "users", stdin="y\n")
    assert result.exit_code == 1
    assert "--yes" in result.stderr
    assert "sync.agent" not in result.output


def test_repair_asks_on_a_terminal(agent: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _self: True)
    refused = run("repair", "--stack", "demo", "users", stdin="\n")
    assert refused.exit_code == 1
    assert "sync.agent" not in refused.output
    result = run("repair", "--stack", "demo", "users", stdin="y\n")
    assert result.exit_code == 0, result.output
    assert "-m sync.agent repair users" in result.output


def test_a_dry_run_of_repair_verifies(agent: FakeHost) -> None:
    result = run("repair", "--stack", "demo", "users", "--dry-run")
    assert "-m sync.agent verify users" in result.output
    assert "repair" not in result.output
    result = run("repair", "--stack", "demo", "users", "--yes")
    assert "-m sync.agent repair users" in result.output
