"""`gridhub status` says where each service stands, and its exit code whether that is well."""

import json

import pytest
import yaml

from tests.cli.conftest import FIRST_NAME, FakeHost, run
from tests.planted import NO_FILES, SECRET
from tests.sandbox.host.ports import free_port

SERVICES = ("bootstrap", "caddy", "flists", "gate", "hub", "kernels", "users", "zdb")


@pytest.fixture
def healthy(host: FakeHost) -> FakeHost:
    host.containers(*SERVICES)
    for job in ("users", "kernels", "flists"):
        host.wrote(job)
    return host


def test_all_are_healthy(healthy: FakeHost) -> None:
    result = run("status", "--stack", "demo")
    assert result.exit_code == 0, result.output
    title, *lines = result.output.splitlines()
    assert title.rstrip().endswith(": healthy")
    assert [line.split()[0] for line in lines] == sorted(SERVICES)
    users = next(line for line in lines if line.startswith("users"))
    assert "3/4" in users
    assert "━" in users
    assert "idle, 3 of 4 flists" in users


def test_json_has_the_whole_records(healthy: FakeHost) -> None:
    seen = json.loads(run("status", "--stack", "demo", "--json").stdout)
    assert (seen["stack"], seen["healthy"]) == ("demo", True)
    assert set(seen["services"]) == set(SERVICES)
    written = json.loads((healthy.root / "sync/users/state/status.json").read_text())
    assert seen["services"]["users"]["record"] == written
    assert seen["services"]["zdb"] == {
        "healthy": True,
        "container": "running (healthy)",
        "summary": "running (healthy)",
        "record": None,
    }


def test_a_failed_job_is_named_with_its_reason(healthy: FakeHost) -> None:
    healthy.wrote("flists", "failed", "the master is another one")
    result = run("status", "--stack", "demo")
    assert result.exit_code == 1
    assert "it failed: the master is another one" in result.output
    assert "NOT healthy" in result.output


@pytest.mark.parametrize("what", NO_FILES)
def test_what_a_job_put_in_place_of_its_record_is_named(healthy: FakeHost, what: str) -> None:
    record = healthy.root / "sync/users/state/status.json"
    record.unlink()
    NO_FILES[what](record)
    result = run("status", "--stack", "demo", "--json")
    assert result.exit_code == 1
    services = json.loads(result.stdout)["services"]
    assert f"{record} is a" in services["users"]["summary"]
    assert services["kernels"]["healthy"]
    assert SECRET not in result.output


def test_a_service_without_a_container_is_missing(healthy: FakeHost) -> None:
    healthy.containers(*(name for name in SERVICES if name not in ("caddy", "users")))
    result = run("status", "--stack", "demo", "--json")
    assert result.exit_code == 1
    services = json.loads(result.stdout)["services"]
    assert [name for name in services if not services[name]["healthy"]] == ["caddy", "users"]
    assert services["users"]["summary"] == "its container is missing"


def test_a_job_whose_record_no_one_may_read_or_wrote_is_not_healthy(host: FakeHost) -> None:
    host.containers(*SERVICES)
    result = run("status", "--stack", "demo")
    assert result.exit_code == 1
    assert "it has written no status record" in result.output


def test_a_host_that_is_not_reached_is_no_verdict(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    result = run("status", "--stack", "demo")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert not result.stdout


def test_so_is_one_whose_ssh_server_does_not_answer(host: FakeHost) -> None:
    (host.root / "known_hosts").touch()
    config = yaml.safe_load((host.stacks / "Pulumi.demo.yaml").read_text())["config"]
    address = {
        "docker": f"ssh://root@127.0.0.1:{free_port()}",
        "sshKeyPath": "/nonexistent/key",
        "knownHostsPath": str(host.root / "known_hosts"),
    }
    host.config({**config, "gridhub:host": address})
    result = run("status", "--stack", "demo")
    assert result.exit_code == 2
    assert "connection refused; is sshd running there" in result.stderr


def test_a_wrong_stack_file_is_no_verdict_either(host: FakeHost) -> None:
    result = run("status", "--stack", "prod")
    assert result.exit_code == 2
    assert "no Pulumi.prod.yaml; stacks here: demo" in result.stderr
    assert run("status").exit_code == 2


def test_a_sealed_token_needs_no_passphrase(healthy: FakeHost) -> None:
    path = healthy.stacks / "Pulumi.demo.yaml"
    token = "config:\n  gridhub:dnsApiToken:\n    secure: v1:abc=\n"
    path.write_text(path.read_text().replace("config:\n", token))
    assert run("status", "--stack", "demo").exit_code == 0


def test_keys_without_the_projects_name_are_pulumis_too(healthy: FakeHost) -> None:
    path = healthy.stacks / "Pulumi.demo.yaml"
    path.write_text(path.read_text().replace("gridhub:", ""))
    result = run("status", "--stack", "demo")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("text", ["", "config:\n", "config: x\n", "config:\n  1: x\n", "- x\n"])
def test_a_file_that_is_none_of_pulumis_is_named(host: FakeHost, text: str) -> None:
    path = host.stacks / "Pulumi.demo.yaml"
    path.write_text(text)
    result = run("status", "--stack", "demo")
    assert result.exit_code == 2
    assert f"{path}: not a stack file of Pulumi" in result.stderr


def test_a_renamed_stack_is_found_by_its_data_root(healthy: FakeHost) -> None:
    assert "gridhub-demo-zdb" not in (healthy.answers / "listing").read_text()
    assert f"gridhub-{FIRST_NAME}-zdb" in (healthy.answers / "listing").read_text()
    assert run("status", "--stack", "demo").exit_code == 0
