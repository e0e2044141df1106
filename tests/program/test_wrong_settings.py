"""Wrong stack files: each is refused by key with the remedy, all errors of it at once."""

import contextlib
import copy
import json
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

from components.settings import SettingsError, parse
from tests.program.declared import as_pulumi_gives, declare, pinned_images, production

REMOVED = object()
REMOTE = {
    "docker": "ssh://root@203.0.113.10",
    "sshKeyPath": "/keys/id",
    "knownHostsPath": "/keys/known_hosts",
}
# Of a form that Cloudflare makes: 40 characters.
CANARY = "canary-token-0123456789-abcdefghijklmnop"

# name: (what is set on top of a right production stack, the keys that must be named)
WRONG: dict[str, tuple[dict[str, Any], set[str]]] = {
    "domain missing": ({"domain": REMOVED}, {"domain"}),
    "domain in capitals": ({"domain": "Grid.Example.org"}, {"domain"}),
    "domain is an address": ({"domain": "203.0.113.10"}, {"domain"}),
    "unknown key": ({"donain": "x.example.org"}, {"donain"}),
    "unknown nested key": ({"ports": {"htps": 443}}, {"ports.htps"}),
    "two unknown keys": ({"a": "1", "acme.mail": "x"}, {"a", "acme.mail"}),
    "key as a spec names it": ({"users": {"retention_days": 3}}, {"users.retention_days"}),
    "port as text": ({"ports": {"http": "80"}}, {"ports.http"}),
    "port too high": ({"ports": {"zdb": 99999}}, {"ports.zdb"}),
    "ports equal": ({"ports": {"http": 443}}, {"ports.https"}),
    "section is text": ({"ports": "80"}, {"ports"}),
    "flag is a word": ({"purge": "maybe"}, {"purge"}),
    "mode unknown": ({"mode": "slave"}, {"mode"}),
    "ready unknown": ({"ready": "done"}, {"ready"}),
    "images missing": ({"images": REMOVED}, {"images"}),
    "image by tag": ({"images": {**pinned_images(), "caddy": "caddy:2.8.4"}}, {"images.caddy"}),
    "image digest cut": (
        {"images": {**pinned_images(), "hub": "ghcr.io/x/hub@sha256:abcd"}},
        {"images.hub"},
    ),
    "two images forgotten": (
        {"images": {k: v for k, v in pinned_images().items() if k not in {"zdb", "python"}}},
        {"images.zdb", "images.python"},
    ),
    "no address to publish": ({"publicAddresses": {"ipv4": []}}, {"publicAddresses"}),
    "IPv6 among IPv4": ({"publicAddresses": {"ipv4": ["2001:db8::1"]}}, {"publicAddresses.ipv4.0"}),
    "address twice": ({"bind": {"ipv4": ["10.0.0.1", "10.0.0.1"]}}, {"bind.ipv4"}),
    "listens nowhere": (
        {"bind": {"ipv4": [], "ipv6": []}},
        {"bind", "bind.ipv4", "bind.ipv6"},
    ),
    "publishes IPv6, binds none": ({"bind": {"ipv6": []}}, {"bind.ipv6"}),
    "boot media without IPv4": (
        {
            "bind": {"ipv4": [], "ipv6": ["::"]},
            "publicAddresses": {"ipv4": [], "ipv6": ["2001:db8::1"]},
        },
        {"bind.ipv4", "publicAddresses.ipv4"},
    ),
    "own name as an alias": (
        {"hub": {"aliases": ["hub.grid.tf", "hub.grid.example.org"]}},
        {"hub.aliases"},
    ),
    "alias is a URL": ({"hub": {"aliases": ["http://hub.grid.tf"]}}, {"hub.aliases.0"}),
    "data root is the system": ({"dataRoot": "/usr"}, {"dataRoot"}),
    "data root climbs": ({"dataRoot": "/srv/../etc"}, {"dataRoot"}),
    "docker by tcp": ({"host": {"docker": "tcp://203.0.113.10:2375"}}, {"host.docker"}),
    "ssh without key and pin": (
        {"host": {"docker": "ssh://root@203.0.113.10"}},
        {"host.sshKeyPath", "host.knownHostsPath"},
    ),
    "files that ssh looks for elsewhere": (
        {"host": {**REMOTE, "sshKeyPath": "/k/100%h", "knownHostsPath": "/${HOME}/known"}},
        {"host.sshKeyPath", "host.knownHostsPath"},
    ),
    "a path that ends its quotes": (
        {"host": {**REMOTE, "knownHostsPath": '/k/a"b'}},
        {"host.knownHostsPath"},
    ),
    "key for a socket": ({"host": {"sshKeyPath": "/root/.ssh/id"}}, {"host.sshKeyPath"}),
    "one subnet of two": ({"network": {"ipv4Subnet": "10.9.0.0/24"}}, {"network.ipv6Subnet"}),
    "subnet is public": (
        {"network": {"ipv4Subnet": "8.8.8.0/24", "ipv6Subnet": "fd00::/64"}},
        {"network.ipv4Subnet"},
    ),
    "Cloudflare half set": ({"dns": {"provider": "cloudflare"}}, {"dns.zoneId", "dnsApiToken"}),
    "token in plain text": (
        {"dns": {"provider": "cloudflare", "zoneId": "z"}, "dnsApiToken": CANARY},
        {"dnsApiToken"},
    ),
    "zone without provider": ({"dns": {"zoneId": "z"}}, {"dns.zoneId"}),
    "proxy in front of 0-db": (
        {"dns": {"provider": "cloudflare", "zoneId": "z", "proxied": True, "ttl": 300}},
        {"dns.ttl", "zdb.publishHost", "dnsApiToken"},
    ),
    "no contact for ACME": ({"acme": {}}, {"acme.email"}),
    "own CA in production": ({"acme": {"ca": "internal"}}, {"acme.ca"}),
    "purge in production": ({"purge": True}, {"purge"}),
    "waits for a mirror that is none": ({"mode": "detached", "ready": "in-sync"}, {"ready"}),
    "waits for a paused job": (
        {"ready": "first-pass", "users": {"paused": True}},
        {"users.paused"},
    ),
    "guests on a read-only hub": ({"hub": {"guestAccess": True}}, {"hub.guestAccess"}),
    "kernels that nobody serves": ({"bootstrap": {"enabled": False}}, {"kernels.enabled"}),
    "net link of no run mode": (
        {"kernels": {"netLinks": {"beta": "k.efi"}}},
        {"kernels.netLinks.beta"},
    ),
    "net link climbs": (
        {"kernels": {"netLinks": {"prod": "../../etc/passwd"}}},
        {"kernels.netLinks.prod"},
    ),
    "deletes without a judge": (
        {"flists": {"deletesWithoutUsers": True}},
        {"flists.deletesWithoutUsers"},
    ),
    "foreign chunks among ours": (
        {"users": {"foreignNamespace": "default"}},
        {"users.foreignNamespace"},
    ),
    "its own master": (
        {"source": {"hub": "https://hub.grid.example.org"}},
        {"source.hub"},
    ),
    "password in a URL": (
        {"source": {"bootstrap": "https://me:secret@bootstrap.grid.tf"}},
        {"source.bootstrap"},
    ),
    "port of a URL": ({"source": {"hub": "http://hub.example.net:99999"}}, {"source.hub"}),
    "space in a URL": ({"source": {"hub": "http://hub.example.net/a b"}}, {"source.hub"}),
    "its own master, among others": (
        {"source": {"hub": ["https://hub.grid.tf", "https://hub.grid.example.org"]}},
        {"source.hub"},
    ),
    "no master": ({"source": {"hub": []}}, {"source.hub"}),
    "a master twice": (
        {"source": {"bootstrap": ["http://b.example.net", "http://b.example.net/"]}},
        {"source.bootstrap"},
    ),
    "a 0-db twice": (
        {"source": {"zdb": [{"host": "a.example"}, {"host": "a.example", "port": 9900}]}},
        {"source.zdb"},
    ),
    "one of several masters": (
        {"source": {"hub": ["https://hub.grid.tf", "hub.example.net"]}},
        {"source.hub.1"},
    ),
    "lines in an authority": (
        {"acme": {"email": "a@b.cd", "ca": "https://ca.example.org/dir\n}\nadmin on"}},
        {"acme.ca"},
    ),
    "port of the host": (
        {
            "host": {
                "docker": "ssh://root@203.0.113.10:ssh",
                "sshKeyPath": "/k",
                "knownHostsPath": "/h",
            }
        },
        {"host.docker"},
    ),
    "data root inside the system": ({"dataRoot": "/etc/gridhub"}, {"dataRoot"}),
    "data root with two slashes": ({"dataRoot": "//etc"}, {"dataRoot"}),
    "accounts on a read-only hub": ({"hub": {"usersMap": {"tf-zos": "a.3bot"}}}, {"hub.usersMap"}),
    "a check to ignore that there is not": (
        {"preflight": {"ignore": ["spase"]}},
        {"preflight.ignore.0"},
    ),
    "backoff shrinks": (
        {"flists": {"backoff": {"firstSeconds": 10, "longestSeconds": 5}}},
        {"flists.backoff.longestSeconds"},
    ),
    "rotation goes back": ({"rotation": {"hubKey": -1}}, {"rotation.hubKey"}),
    "no room for 100 clients in Caddy": (
        {"limits": {"caddy": {"memoryMb": 64}}},
        {"limits.caddy.memoryMb"},
    ),
    "no threads for 100 clients in the hub": (
        {"limits": {"hub": {"processes": 128}}},
        {"limits.hub.processes"},
    ),
    "no room for flists that are opened": (
        {"limits": {"packer": {"memoryMb": 64}}, "hub": {"inspection": True}},
        {"limits.packer.memoryMb"},
    ),
    "no room for uploads": (
        {"limits": {"packer": {"memoryMb": 127}}, "mode": "detached"},
        {"limits.packer.memoryMb"},
    ),
    "no room for what is built": (
        {"limits": {"bootstrap": {"memoryMb": 128}}},
        {"limits.bootstrap.memoryMb"},
    ),
    "more builds than memory": (
        {"bootstrap": {"builds": 8}},
        {"limits.bootstrap.memoryMb"},
    ),
    "more connections than memory": (
        {"edge": {"connections": 8000}},
        {
            *("limits.gate.memoryMb", "limits.caddy.memoryMb"),
            *("limits.hub.processes", "limits.bootstrap.processes"),
            *("limits.hub.memoryMb", "limits.bootstrap.memoryMb"),
        },
    ),
    "one address has more than all": (
        {"edge": {"connections": 500, "connectionsPerAddress": 600}},
        {"edge.connectionsPerAddress"},
    ),
    "a share of nothing": (
        {"limits": {"zdb": {"cpuShares": 0}}},
        {"limits.zdb.cpuShares"},
    ),
    "too little memory": ({"limits": {"hub": {"memoryMb": 1}}}, {"limits.hub.memoryMb"}),
    "a kernel link twice": ({"kernels": {"links": ["zos.efi", "zos.efi"]}}, {"kernels.links"}),
    "the net folder as a link": ({"kernels": {"links": ["net"]}}, {"kernels.links"}),
    "a kernel link with a path": ({"kernels": {"links": ["../zos.efi"]}}, {"kernels.links.0"}),
    "less memory than 0-db's table": (
        {"limits": {"zdb": {"memoryMb": 142}}},
        {"limits.zdb.memoryMb"},
    ),
    "no room for a large chunk": (
        {"limits": {"flists": {"memoryMb": 200}}},
        {"limits.flists.memoryMb"},
    ),
    "no room for a usual hub": (
        {"limits": {"users": {"memoryMb": 158}, "kernels": {"memoryMb": 83}}},
        {"limits.users.memoryMb", "limits.kernels.memoryMb"},
    ),
    "no room for many connections": (
        {"limits": {"flists": {"memoryMb": 300}}, "flists": {"connections": 64, "scanners": 64}},
        {"limits.flists.memoryMb"},
    ),
    "no room for large batches": (
        {"flists": {"batchBytes": 64 << 20}, "limits": {"flists": {"memoryMb": 256}}},
        {"limits.flists.memoryMb"},
    ),
    "many at once": (
        {
            "domain": "no",
            "ports": {"http": "80", "zdb": 0},
            "mode": "slave",
            "prots": {},
            "purge": True,
            "acme": {"ca": "ftp://ca"},
        },
        {"domain", "ports.http", "ports.zdb", "mode", "prots", "purge", "acme.ca"},
    ),
}


def changed(edit: Mapping[str, Any]) -> dict[str, Any]:
    """Return a right production config with an edit; REMOVED takes a key away."""
    config = copy.deepcopy(production())
    for key, value in edit.items():
        if value is REMOVED:
            del config[f"gridhub:{key}"]
        else:
            config[f"gridhub:{key}"] = value
    return config


def named_keys(error: SettingsError) -> set[str]:
    return {problem.key for problem in error.problems}


def test_there_are_at_least_forty() -> None:
    assert len(WRONG) >= 40


def test_what_they_are_made_from_is_right() -> None:
    assert parse(as_pulumi_gives(production())).domain == "grid.example.org"


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_key_is_named_at_once_and_no_other(name: str) -> None:
    edit, keys = WRONG[name]
    with pytest.raises(SettingsError) as caught:
        parse(as_pulumi_gives(changed(edit)))
    assert named_keys(caught.value) == keys


@pytest.mark.parametrize("name", WRONG)
def test_every_error_says_what_to_do_or_what_is_expected(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(as_pulumi_gives(changed(WRONG[name][0])))
    for problem in caught.value.problems:
        assert problem.remedy or "must be" in problem.message or " is not " in str(problem)
        assert str(problem).startswith(f"gridhub:{problem.key}: ")


@pytest.mark.parametrize("name", WRONG)
def test_the_program_ends_with_a_message_and_registers_nothing(name: str) -> None:
    with pytest.raises(pulumi.RunError) as caught:
        declare(changed(WRONG[name][0]))
    assert "nothing was changed" in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_secret_in_plain_text_is_not_repeated_in_the_message() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(as_pulumi_gives(changed(WRONG["token in plain text"][0])))
    assert "canary-token" not in str(caught.value)


def test_a_password_in_a_url_is_not_repeated_in_the_message() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(as_pulumi_gives(changed(WRONG["password in a URL"][0])))
    assert "secret" not in str(caught.value)


def test_a_misspelt_key_is_told_the_one_that_was_meant() -> None:
    with pytest.raises(SettingsError, match="did you mean `domain`"):
        parse(as_pulumi_gives(changed({"donain": "x.example.org"})))


def test_keys_of_other_projects_are_not_ours_to_judge() -> None:
    parse(as_pulumi_gives({**production(), "aws:region": "eu-west-1"}))


def test_a_docker_host_of_the_environment_is_checked_like_one_of_the_stack() -> None:
    config = as_pulumi_gives(production())
    chosen = parse(config, environment={"DOCKER_HOST": "unix:///run/other.sock"})
    assert chosen.host.docker == "unix:///run/other.sock"
    with pytest.raises(SettingsError, match=r"host\.docker"):
        parse(config, environment={"DOCKER_HOST": "tcp://127.0.0.1:2375"})


def test_the_stack_names_its_host_whatever_the_environment_says() -> None:
    config = changed({"host": {"docker": "unix:///run/mine.sock"}})
    chosen = parse(as_pulumi_gives(config), environment={"DOCKER_HOST": "unix:///run/other.sock"})
    assert chosen.host.docker == "unix:///run/mine.sock"


def test_a_remedy_with_brackets_passes_every_shell() -> None:
    for value in (REMOVED, {"ipv4": []}):
        edit = {"publicAddresses": value}
        with pytest.raises(SettingsError) as caught:
            parse(as_pulumi_gives(changed(edit)))
        assert "--path 'publicAddresses.ipv4[0]'" in str(caught.value)


CLOUDFLARE = {"dns": {"provider": "cloudflare", "zoneId": "z"}}
SECRET = ["gridhub:dnsApiToken"]


def test_a_token_of_the_environment_makes_the_setting_superfluous() -> None:
    parse(as_pulumi_gives(changed(CLOUDFLARE)), environment={"CLOUDFLARE_API_TOKEN": CANARY})


@pytest.mark.parametrize("token", [CANARY, f"cfut_{CANARY}0123abcd", "_-" * 40])
def test_tokens_that_cloudflare_makes_are_taken_from_either_place(token: str) -> None:
    parse(as_pulumi_gives(changed(CLOUDFLARE)), environment={"CLOUDFLARE_API_TOKEN": token})
    parse(as_pulumi_gives(changed({**CLOUDFLARE, "dnsApiToken": token})), SECRET)


@pytest.mark.parametrize(
    "token",
    [
        *(CANARY[:39], f"{CANARY}\n", f" {CANARY}", f"Bearer {CANARY}", f'"{CANARY}"'),
        *(CANARY.replace("n", "ü"), CANARY + "x" * 41, f"{CANARY}={CANARY}"),
    ],
)
def test_a_token_that_the_provider_refuses_is_refused_from_either_place_and_not_repeated(
    token: str,
) -> None:
    for key, edit, variable in (
        ("dnsApiToken", {**CLOUDFLARE, "dnsApiToken": token}, CANARY),
        ("CLOUDFLARE_API_TOKEN", CLOUDFLARE, token),
    ):
        with pytest.raises(SettingsError, match="is no API token of Cloudflare") as caught:
            parse(as_pulumi_gives(changed(edit)), SECRET, {"CLOUDFLARE_API_TOKEN": variable})
        assert [problem.key for problem in caught.value.problems] == [key]
        assert "canary" not in str(caught.value)


def test_a_token_that_nothing_uses_is_not_looked_at() -> None:
    parse(as_pulumi_gives(changed({})), environment={"CLOUDFLARE_API_TOKEN": "of another"})
    right = {"CLOUDFLARE_API_TOKEN": "of another"}
    parse(as_pulumi_gives(changed({**CLOUDFLARE, "dnsApiToken": CANARY})), SECRET, right)


@pytest.mark.parametrize(
    ("ttl", "provider", "taken"),
    [
        *((ttl, "cloudflare", True) for ttl in (1, 60, 300, 86400)),
        *((ttl, "cloudflare", False) for ttl in (0, 2, 30, 59, 86401)),
        *((ttl, "none", True) for ttl in (1, 2, 30, 59, 86400)),
    ],
)
def test_a_ttl_that_cloudflare_refuses_is_refused_where_cloudflare_sets_it(
    ttl: int, provider: str, *, taken: bool
) -> None:
    zone = {"zoneId": "z"} if provider == "cloudflare" else {}
    config = as_pulumi_gives(changed({"dns": {"provider": provider, "ttl": ttl, **zone}}))
    expected = (
        contextlib.nullcontext() if taken else pytest.raises(SettingsError, match=r"dns\.ttl")
    )
    with expected:
        parse(config, environment={"CLOUDFLARE_API_TOKEN": CANARY})


TEXTS: dict[str, tuple[dict[str, Any], str]] = {
    "host.sshKeyPath": ({"host": {**REMOTE, "sshKeyPath": "/k/i d"}}, "/k/i d"),
    "host.knownHostsPath": ({"host": {**REMOTE, "knownHostsPath": "/k/my kn$wn"}}, "/k/my kn$wn"),
    "users.repositories.include.0": ({"users": {"repositories": {"include": ["tf-*"]}}}, "tf-*"),
    "users.flists.exclude.0": ({"users": {"flists": {"exclude": ["a b"]}}}, "a b"),
    "dns.zoneId": (CLOUDFLARE, "z"),
    "domain": ({"domain": "grid.example.org"}, "grid.example.org"),
    "dataRoot": ({"dataRoot": "/srv/mirror"}, "/srv/mirror"),
    "acme.email": ({"acme": {"email": "ops@example.org"}}, "ops@example.org"),
    "hub.aliases.0": ({"hub": {"aliases": ["hub.example.net"]}}, "hub.example.net"),
    "source.hub.0": ({"source": {"hub": ["https://hub.grid.tf"]}}, "https://hub.grid.tf"),
}


@pytest.mark.parametrize("stray", ["\r", "\r\n", "\0", "\ufeff", "\u200b"])
@pytest.mark.parametrize("key", TEXTS)
def test_what_no_editor_shows_is_in_no_setting(key: str, stray: str) -> None:
    """A stack file or a value that came by Windows: each place of each text."""
    edit, text = TEXTS[key]
    right = json.dumps(edit, ensure_ascii=False)
    secrets = {"environment": {"CLOUDFLARE_API_TOKEN": CANARY}}
    parse(as_pulumi_gives(changed(edit)), **secrets)
    for wrong in (text + stray, stray + text, text[:1] + stray + text[1:]):
        spoilt = json.loads(right.replace(json.dumps(text), json.dumps(wrong)))
        with pytest.raises(SettingsError) as caught:
            parse(as_pulumi_gives(changed(spoilt)), **secrets)
        (problem,) = caught.value.problems
        assert problem.key == key
        assert not {*stray} & {*str(problem)}
