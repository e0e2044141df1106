"""Records that are in the zone before the stack: under the Pulumi CLI, against the sandbox's zone.

The project under test declares the program's `Dns` and nothing else, so no host is needed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sandbox.dns import DnsSandbox
from tests.sandbox.dns.zones import DnsRecord
from tests.sandbox.host.dockerd import PROJECT
from tests.sandbox.pulumi.workspace import Workspace

_TOKEN = "e2e-dns-token-of-forty-characters-000000"
_PROGRAM = f"""
import sys

sys.path.insert(0, {str(PROJECT)!r})
import pulumi

from components.dns import Dns
from components.dns_adoption import ExistingRecordsError
from components.naming import Stack
from components.settings import Settings
from components.settings.model import (
    BootstrapSettings, DnsSettings, PreflightSettings, PublicAddressSettings
)

config = pulumi.Config()
try:
    settings = Settings.model_construct(
        domain=config.require("domain"),
        dns=DnsSettings.model_validate_json(config.require("dns"), by_alias=True),
        public_addresses=PublicAddressSettings.model_validate_json(config.require("addresses")),
        bootstrap=BootstrapSettings(enabled=False),
        preflight=PreflightSettings(),
        dns_api_token=None,
    )
    dns = Dns("dns", Stack(pulumi.get_stack(), settings))
except ExistingRecordsError as error:
    raise pulumi.RunError(str(error)) from None
dns.set_records(after=())
"""
_RUNTIME = "name: gridhub\nruntime:\n  name: python\n"
_HUB = {"name": "hub", "type": "A", "content": "203.0.113.10", "ttl": 60}
_HUB6 = {**_HUB, "type": "AAAA", "content": "2001:db8::10"}
_OTHER = {**_HUB, "content": "198.51.100.9"}
_ALIAS = {**_HUB, "type": "CNAME", "content": "old.grid.test"}
_COMMAND = re.compile(r"`((?:\S+=\S+ )?pulumi import .*?)`")


@dataclass(frozen=True)
class Project:
    """A stack that sets `hub.grid.test`, and the zone that it sets it in."""

    workspace: Workspace
    dns: DnsSandbox

    @property
    def zone(self) -> str:
        return self.dns.zone_id("grid.test")

    def configure(
        self, ttl: int = 60, domain: str = "grid.test", ipv4: Sequence[str] = ("203.0.113.10",)
    ) -> None:
        file = self.workspace.project / "Pulumi.one.yaml"
        config = yaml.safe_load(file.read_text()) if file.exists() else {}
        config["config"] = {
            "gridhub:dns": {"provider": "cloudflare", "zoneId": self.zone, "ttl": ttl},
            "gridhub:addresses": {"ipv4": list(ipv4), "ipv6": ["2001:db8::10"]},
            "gridhub:domain": domain,
        }
        file.write_text(yaml.safe_dump(config))

    def run(self, *arguments: str, check: bool = True) -> str:
        return self.workspace.run(*arguments, "--stack", "one", check=check)

    def change(self, command: str, *arguments: str) -> str:
        """Run a command that changes the stack, without the preview that a person reads first."""
        return self.run(command, "--yes", "--skip-preview", *arguments)

    def preview(self, *arguments: str) -> tuple[int, str]:
        """Return the exit code (0: no change) and what a person is shown."""
        return self.shell("pulumi preview --expect-no-changes --stack one " + " ".join(arguments))

    def shell(self, command: str) -> tuple[int, str]:
        """Run a command as a person would, on this project."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.workspace.project,
            env={**os.environ, **self.workspace.variables()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout

    def put(self, **record: Any) -> DnsRecord:
        return self.dns.zones.create(self.zone, record)

    def records(self) -> set[tuple[str, str, int, str | None]]:
        found = self.dns.zones.records(self.zone)
        return {(r.type, r.content, r.ttl, r.comment) for r in found}


WHOLE = {
    ("A", "203.0.113.10", 60, "gridhub stack one"),
    ("AAAA", "2001:db8::10", 60, "gridhub stack one"),
}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with DnsSandbox(["grid.test", "other.test"], token=_TOKEN) as dns:
        environment = {"CLOUDFLARE_BASE_URL": dns.api_url, "CLOUDFLARE_API_TOKEN": _TOKEN}
        folder = tmp_path / "project"
        folder.mkdir()
        (folder / "Pulumi.yaml").write_text(_RUNTIME)
        (folder / "__main__.py").write_text(_PROGRAM)
        workspace = Workspace(folder, tmp_path / "state", "of this test", environment)
        made = Project(workspace, dns)
        made.run("stack", "init")
        made.configure()
        yield made


def test_identical_records_are_adopted_once_and_previews_are_unchanged(project: Project) -> None:
    ids = {project.put(**_HUB).id, project.put(**_HUB6).id}
    _, shown = project.preview("--diff")
    assert "= 2 to import" in shown
    assert "`pulumi destroy` will delete it" in shown
    project.run("up", "--yes")  # with its preview, as a person runs it
    assert {record.id for record in project.dns.zones.records()} == ids
    assert project.records() == WHOLE
    for arguments in ("", "--refresh"):
        code, shown = project.preview(arguments)
        assert code == 0, shown
    note = {record.id: "a note of somebody" for record in project.dns.zones.records()}
    for identity, comment in note.items():
        project.dns.zones.patch(project.zone, identity, {"comment": comment})
    code, shown = project.preview()
    assert code == 0, shown
    project.configure(ttl=120)
    project.change("up")
    assert {record.id for record in project.dns.zones.records()} == ids
    project.change("destroy")
    assert project.records() == set()


# name: (what the zone has, what of it a person has to delete, how many commands are named,
# whether the stack sets records already)
IN_THE_WAY: dict[str, tuple[list[dict[str, Any]], list[int], int, bool]] = {
    "another ttl": ([{**_HUB, "ttl": 300}], [], 1, False),
    "another content": ([_OTHER], [], 1, True),
    "another owner": ([{**_HUB, "comment": "gridhub stack other"}], [], 1, True),
    "two of the name": ([_OTHER, {**_HUB6, "ttl": 300}], [], 2, False),
    "one more than wanted": ([_OTHER, _HUB], [0], 0, False),
    "an alias": ([_ALIAS], [0], 0, True),
}
# A new stack and one that sets records; the judgement on all is in tests/program.
_IN_A_HURRY = ("two of the name", "another content")
_CASES = [
    pytest.param(name, marks=() if name in _IN_A_HURRY else pytest.mark.soak) for name in IN_THE_WAY
]


@pytest.mark.parametrize("name", _CASES)
def test_records_in_the_way_are_named_before_anything_is_changed_and_the_commands_work(
    project: Project, name: str
) -> None:
    there, to_delete, commands, existing = IN_THE_WAY[name]
    if existing:
        project.change("up")
        for record in project.dns.zones.records():
            project.dns.zones.delete(project.zone, record.id)
        project.change("refresh")
    made = [project.put(**record) for record in there]
    before = project.records()
    failed, shown = project.shell("pulumi up --yes --skip-preview --stack one")
    assert failed
    assert "nothing was changed" in shown
    assert project.records() == before
    for record in made:
        assert (record.id in shown) is (name != "one more than wanted" or record is made[0])
    # The CLI shows an error twice: as it comes, and among the diagnostics.
    named = list(dict.fromkeys(_COMMAND.findall(shown)))
    assert len(named) == commands
    for number in to_delete:
        project.dns.zones.delete(project.zone, made[number].id)
    for command in named:
        failed, said = project.shell(f"{command} --yes --non-interactive")
        assert not failed, said
    project.change("up")
    assert project.records() == WHOLE
    code, shown = project.preview("--refresh")
    assert code == 0, shown
    kept = {record.id for number, record in enumerate(made) if number not in to_delete}
    assert kept <= {record.id for record in project.dns.zones.records()}


def test_the_same_records_of_another_zone_are_not_the_stacks(project: Project) -> None:
    other = project.dns.zone_id("other.test")
    for record in (_HUB, _HUB6):
        project.dns.zones.create(other, record)
    _, shown = project.preview()
    assert "import" not in shown
    project.change("up")
    assert project.records() == WHOLE
    project.change("destroy")
    assert len(project.dns.zones.records(other)) == 2


def test_a_record_deleted_by_hand_is_told_and_needs_a_refresh(project: Project) -> None:
    project.change("up")
    gone = next(r for r in project.dns.zones.records() if r.type == "A")
    project.dns.zones.delete(project.zone, gone.id)
    code, shown = project.preview()
    assert code == 0
    assert "hub.grid.test A (dns-hub-a) is not in the zone any more" in shown
    assert "`pulumi up --refresh` sets it again" in shown
    project.configure(ttl=120)
    for command in ("up --yes --skip-preview", "destroy --yes --skip-preview"):
        failed, shown = project.shell(f"pulumi {command} --target '**dns-hub-a' --stack one")
        assert failed
        assert "Record does not exist." in shown
    project.configure()
    project.change("up", "--refresh")
    assert project.records() == WHOLE
    project.dns.zones.delete(project.zone, project.dns.zones.records()[-1].id)
    project.change("destroy", "--refresh")
    assert project.records() == set()


def test_a_record_made_anew_by_hand_is_adopted_after_a_refresh(project: Project) -> None:
    project.change("up")
    gone = next(r for r in project.dns.zones.records() if r.type == "A")
    project.dns.zones.delete(project.zone, gone.id)
    made = project.put(**_HUB)
    for command in ("preview", "up --yes --refresh --skip-preview"):
        failed, shown = project.shell(f"pulumi {command} --stack one")
        assert failed
        assert "hub.grid.test A (dns-hub-a) is not in the zone any more" in shown
        assert "run `pulumi refresh`, which drops the stack's own (dns-hub-a)" in shown
    project.change("refresh")
    project.change("up")
    assert project.records() == WHOLE
    assert made.id in {record.id for record in project.dns.zones.records()}
    code, shown = project.preview("--refresh")
    assert code == 0, shown


def test_another_domain_with_an_alias_ends_before_anything_is_changed(project: Project) -> None:
    project.change("up")
    alias = project.put(**{**_ALIAS, "name": "hub.new"})
    before = project.records()
    project.configure(domain="new.grid.test")
    failed, shown = project.shell("pulumi up --yes --skip-preview --stack one")
    assert failed
    assert "nothing was changed" in shown
    assert alias.id in shown
    assert project.records() == before
    project.dns.zones.delete(project.zone, alias.id)
    project.change("up")
    assert {record.name for record in project.dns.zones.records()} == {"hub.new.grid.test"}


def test_addresses_may_be_swapped_taken_out_and_changed(project: Project) -> None:
    project.configure(ipv4=["203.0.113.10", "203.0.113.11"])
    project.change("up")
    kept = next(r.id for r in project.dns.zones.records() if r.content == "203.0.113.11")
    project.configure(ipv4=["203.0.113.11", "203.0.113.10"])
    code, shown = project.preview("--refresh")
    assert code == 0, shown
    for wanted in ("203.0.113.11", "203.0.113.12"):
        project.configure(ipv4=[wanted])
        project.change("up")
        left = {r.id: r.content for r in project.dns.zones.records() if r.type == "A"}
        assert left == {kept: wanted}
        code, shown = project.preview()
        assert code == 0, shown


def test_a_record_that_a_cut_off_run_left_is_adopted(project: Project) -> None:
    project.put(**_HUB, comment="gridhub stack one")
    project.change("up")
    assert project.records() == WHOLE


def test_a_zone_that_can_not_be_looked_at_is_told_and_the_preview_goes_on(project: Project) -> None:
    project.change("up")
    project.dns.stop()
    code, shown = project.preview()
    assert code == 0, shown
    assert "the DNS zone could not be looked at" in shown
