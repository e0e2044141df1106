"""What no stack may declare, whatever its settings: guard rails on the program's graph."""

import re
from pathlib import PurePosixPath
from typing import Any

import pytest

from components.hub import PACKER_CAPABILITIES
from sync.contract.layout import (
    HUB_PACKING,
    JOB_UIDS,
    UID_BOOTSTRAP,
    UID_CADDY,
    UID_GATE,
    UID_HUB,
    UID_PACKER,
    UID_ZDB,
)
from tests.program.declared import (
    DNS_RECORD,
    IMAGE,
    NETWORK,
    Declared,
    declare,
    pinned_images,
    production,
    stack_file,
    without_secrets,
)

SERVICE_UIDS: dict[str, int] = {
    "zdb": UID_ZDB,
    "hub": UID_HUB,
    "packer": UID_PACKER,
    "bootstrap": UID_BOOTSTRAP,
    "caddy": UID_CADDY,
    "gate": UID_GATE,
    **{str(job): uid for job, uid in JOB_UIDS.items()},
}
TOKEN = {"CLOUDFLARE_API_TOKEN": "t" * 40}
CANARY = "canary-token-0123456789-abcdefghijklmnop"


def _variants() -> dict[str, dict[str, Any]]:
    mirror = production()
    remote = {
        "docker": "ssh://root@203.0.113.10:2222",
        "sshKeyPath": "/keys/id",
        "knownHostsPath": "/keys/known_hosts",
    }
    wildcard = {"provider": "cloudflare", "kind": "wildcard", "zoneId": "z", "ttl": 300}
    return {
        "sandbox": stack_file("sandbox"),
        "mirror": mirror,
        "remote": {**mirror, "gridhub:host": remote, "gridhub:dns": wildcard},
        "detached": {**mirror, "gridhub:mode": "detached", "gridhub:hub": {"guestAccess": True}},
        "standalone": {
            **mirror,
            "gridhub:mode": "standalone",
            "gridhub:bootstrap": {"enabled": False},
            "gridhub:dataRoot": "/data/hub",
        },
    }


@pytest.fixture(scope="module", params=sorted(_variants()))
def declared(request: pytest.FixtureRequest) -> Declared:
    return declare(_variants()[request.param], str(request.param), TOKEN)


@pytest.fixture(scope="module")
def mirror() -> Declared:
    return declare(production(), "prod")


def test_no_container_is_privileged_or_has_the_docker_socket(declared: Declared) -> None:
    for service, inputs in declared.containers().items():
        assert inputs["privileged"] is False, service
        assert "docker.sock" not in str(inputs["volumes"]), service
        assert inputs["securityOpts"] == ["no-new-privileges:true"], service
        for forbidden in ("devices", "pidMode", "ipcMode", "usernsMode", "cgroupParent"):
            assert forbidden not in inputs, service


def test_every_container_drops_every_capability_and_only_edge_and_packer_add_some(
    declared: Declared,
) -> None:
    adding = {"caddy": ["CAP_NET_BIND_SERVICE"], "packer": sorted(PACKER_CAPABILITIES)}
    for service, inputs in declared.containers().items():
        assert inputs["capabilities"]["drops"] == ["ALL"]
        assert (inputs["capabilities"].get("adds") or []) == adding.get(service, [])


def test_only_a_hub_that_accepts_uploads_has_a_packer(declared: Declared) -> None:
    writable = "'readonly': False" in str(declared.resources["hub-config"].raw)
    assert ("packer" in declared.containers()) is writable


def test_the_packer_holds_nothing_of_the_hubs_and_the_hub_no_right_to_write_chunks(
    declared: Declared,
) -> None:
    containers = declared.containers()
    hub = {volume["containerPath"] for volume in containers["hub"]["volumes"]}
    assert hub == {"/public", "/workdir", "/hub/src/config.py", "/gridhub"}
    assert "canary-zdbAdmin" not in str(declared.resources["hub-config"].raw)
    if "packer" in containers:
        packer = {volume["containerPath"] for volume in containers["packer"]["volumes"]}
        assert packer == {"/public", "/workdir", "/packing", "/gridhub", "/secrets"}


def test_every_container_runs_as_its_own_user_on_a_read_only_root(declared: Declared) -> None:
    users = [inputs["user"] for inputs in declared.containers().values()]
    assert len(set(users)) == len(users)
    for service, inputs in declared.containers().items():
        uid = SERVICE_UIDS[service]
        assert inputs["user"] == f"{uid}:{uid}"
        assert inputs["readOnly"] is True


def test_every_container_is_limited_in_memory_swap_processes_files_and_logs(
    declared: Declared,
) -> None:
    for inputs in declared.containers().values():
        assert 0 < inputs["memory"] == inputs["memorySwap"]
        limits = {limit["name"]: limit["hard"] for limit in inputs["ulimits"]}
        assert set(limits) == {"nofile", "nproc"}
        assert inputs["logDriver"] == "json-file"
        assert set(inputs["logOpts"]) == {"max-size", "max-file"}


def test_clients_of_the_hub_leave_the_packers_tools_their_processes(declared: Declared) -> None:
    """The kernel counts a uid's processes in all containers, and the hub has a thread a client."""
    allowed = {
        service: {limit["name"]: limit["hard"] for limit in inputs["ulimits"]}["nproc"]
        for service, inputs in declared.containers().items()
    }
    if "packer" in allowed:
        packers = [e for e in declared.containers()["packer"]["envs"] if "_HUB_UID=" in e]
        assert packers == [f"GRIDHUB_HUB_UID={SERVICE_UIDS['hub']}"]
        assert allowed["packer"] >= allowed["hub"] + 64


def test_every_image_is_pinned_by_the_id_that_the_host_has(declared: Declared) -> None:
    known = {f"sha256:{image.name}" for image in declared.of_type(IMAGE)}
    for inputs in declared.containers().values():
        assert inputs["image"] in known
    pinned = re.compile(r"\S+@sha256:[0-9a-f]{64}|localhost/\S+:\S+")
    for image in declared.of_type(IMAGE):
        assert pinned.fullmatch(image.inputs["name"]), image.inputs
        assert image.inputs["keepLocally"] is True


def test_a_tag_before_a_digest_is_dropped_as_the_engine_forgets_it(mirror: Declared) -> None:
    names = {image.inputs["name"] for image in mirror.of_type(IMAGE)}
    assert names == {ref.replace(":v1@", "@") for ref in pinned_images().values()}


def test_0db_is_never_open(declared: Declared) -> None:
    zdb = declared.containers()["zdb"]
    script = zdb["entrypoints"][2]
    assert "--protect" in script
    assert '--admin "$(cat /secrets/zdb-admin)"' in script
    assert script.startswith("test -s /secrets/zdb-admin && exec /bin/zdb ")
    assert zdb["envs"] == []


def test_0dbs_probe_leaves_a_request_open_so_that_zdbd_sees_its_end(mirror: Declared) -> None:
    (_, line) = mirror.containers()["zdb"]["healthcheck"]["tests"]
    assert r"PING\r\n*' | busybox timeout 5 busybox nc 127.0.0.1 9900" in line


def test_a_probe_of_the_shell_is_bounded_by_every_busyboxs_timeout(declared: Declared) -> None:
    for inputs in declared.containers().values():
        form, *words = inputs["healthcheck"]["tests"]
        if form == "CMD-SHELL":
            assert "busybox timeout 5 busybox " in words[0]


def test_only_edge_and_0db_are_reachable_from_outside(declared: Declared) -> None:
    containers = declared.containers()
    published = {s for s, inputs in containers.items() if inputs.get("ports")}
    assert published - {"caddy"} == {"gate", "zdb"}
    # Caddy's metrics, where they are published, are the host's own.
    for port in containers["caddy"].get("ports") or []:
        assert (port["internal"], port["ip"]) in {(9180, "127.0.0.1"), (9180, "::1")}
    for inputs in declared.containers().values():
        for port in inputs.get("ports") or []:
            assert port["ip"], "a port without an address is bound to all of them"


def test_data_is_inside_the_data_root_and_owned_by_who_writes_it(declared: Declared) -> None:
    folders = declared.resources["data-root-directories"]
    root = PurePosixPath(folders.inputs["root"])
    owners = {entry["path"]: entry["uid"] for entry in folders.inputs["directories"]}
    for service, inputs in declared.containers().items():
        for volume in inputs["volumes"]:
            path = PurePosixPath(volume["hostPath"]).relative_to(root)
            shared = service == "packer" and str(path) != HUB_PACKING
            if not volume["readOnly"] and not shared:
                assert owners[str(path)] == SERVICE_UIDS[service], (service, path)


def test_a_folder_has_one_writer(declared: Declared) -> None:
    """The packer writes where the hub does, for it."""
    writers: dict[str, str] = {}
    for service, inputs in declared.containers().items():
        if service == "packer":
            continue
        for volume in inputs["volumes"]:
            if not volume["readOnly"]:
                assert writers.setdefault(volume["hostPath"], service) == service


def test_a_read_only_hub_can_not_write_what_it_serves(mirror: Declared) -> None:
    volumes = {v["containerPath"]: v for v in mirror.containers()["hub"]["volumes"]}
    assert volumes["/public"]["readOnly"] is True


def test_every_container_has_a_health_check_and_is_waited_for(declared: Declared) -> None:
    for inputs in declared.containers().values():
        assert inputs["wait"] is True
        assert inputs["healthcheck"]["tests"][0] in {"CMD", "CMD-SHELL"}
        assert inputs["restart"] == "unless-stopped"


def test_one_network_named_explicitly_with_both_families(declared: Declared) -> None:
    (network,) = declared.of_type(NETWORK)
    subnets = [config["subnet"] for config in network.inputs["ipamConfigs"]]
    assert network.inputs["ipv6"] is True
    assert ["." in subnet for subnet in subnets] == [True, False]
    for service, inputs in declared.containers().items():
        assert inputs["networkMode"] == "bridge"
        assert [net["name"] for net in inputs["networksAdvanced"]] == [network.inputs["name"]]
        assert inputs["networksAdvanced"][0]["aliases"] == [service]


def test_labels_and_mounts_are_sorted(declared: Declared) -> None:
    for inputs in declared.containers().values():
        labels = [label["label"] for label in inputs["labels"]]
        mounts = [volume["containerPath"] for volume in inputs["volumes"]]
        assert labels == sorted(labels)
        assert mounts == sorted(mounts)
        assert inputs["envs"] == sorted(inputs["envs"])


def test_what_the_plugin_does_not_apply_in_place_forces_a_replacement(declared: Declared) -> None:
    for container in (r for r in declared.resources.values() if r.type.endswith(":Container")):
        assert container.options["replaceOnChanges"] == ["healthcheck", "init", "tmpfs"]
        assert container.options["deleteBeforeReplace"] is True


def test_production_protects_secrets_mode_and_data() -> None:
    resources = declare(production(), "prod").resources
    protected = {name for name, entry in resources.items() if entry.options["protect"]}
    kinds = ("zdbAdmin", "hubKey", "hubSeed", "bootstrapToken", "guestToken")
    assert {"data-root-directories", "mode", *(f"secrets-{kind}" for kind in kinds)} <= protected
    assert not any(entry.options["protect"] for entry in _sandbox().resources.values())


def _sandbox() -> Declared:
    return declare(stack_file("sandbox"), "sandbox", TOKEN)


def test_nothing_on_the_host_changes_before_mode_and_preflight_are_right(
    declared: Declared,
) -> None:
    for entry in declared.resources.values():
        outside = entry.type.startswith(("gridhub:", "pulumi:"))
        if outside or entry.type.endswith((":StackSecret", ":ModeGuard", ":Preflight")):
            continue
        assert {"mode", "preflight"} <= set(entry.options["dependencies"]), entry.name
    assert "mode" in declared.resources["preflight"].options["dependencies"]


def test_secrets_are_files_of_their_one_reader(declared: Declared) -> None:
    for entry in declared.resources.values():
        if entry.type.endswith(":HostFiles") and entry.name not in {
            "edge-config",
            "gate-files",
            "hub-tools",
        }:
            for file in _files(entry.inputs):
                assert file["mode"] == 0o400
                assert file["uid"] != 0 or entry.name == "packer-secrets"


def _files(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    return list(inputs["files"])


def test_no_secret_is_anywhere_but_where_the_state_encrypts_it(declared: Declared) -> None:
    for entry in declared.resources.values():
        readable = str(without_secrets(entry.raw))
        assert "canary-" not in readable, entry.name
        assert "seed-seed" not in readable, entry.name
        if not entry.type.endswith((":HostFiles", ":StackSecret")):
            assert "canary-" not in str(entry.raw), entry.name


def test_the_files_that_hold_secrets_reach_them(declared: Declared) -> None:
    sent = {name: str(entry.raw) for name, entry in declared.resources.items()}
    assert "canary-zdbAdmin" in sent["zdb-secrets"]
    assert "canary-hubKey" in sent["hub-config"]
    if "'readonly': False" in sent["hub-config"]:
        assert "canary-zdbAdmin" in sent["packer-secrets"]


def test_names_derive_from_the_stack_so_two_stacks_share_none() -> None:
    first, second = (declare(production(), name) for name in ("one", "two"))

    def names(declared: Declared) -> set[str]:
        docker = [
            entry for entry in declared.resources.values() if entry.type.startswith("docker:")
        ]
        return {entry.inputs["name"] for entry in docker if entry.type != IMAGE}

    def subnets(declared: Declared) -> set[str]:
        (network,) = declared.of_type(NETWORK)
        return {config["subnet"] for config in network.inputs["ipamConfigs"]}

    assert not names(first) & names(second)
    assert not subnets(first) & subnets(second)


def test_ports_are_bound_on_every_address_of_both_families() -> None:
    bind = {"ipv4": ["203.0.113.10"], "ipv6": ["2001:db8::10", "2001:db8::11"]}
    containers = declare({**production(), "gridhub:bind": bind}, "prod").containers()
    wanted = {*bind["ipv4"], *bind["ipv6"]}
    assert {port["ip"] for port in containers["zdb"]["ports"]} == wanted
    for internal in (8080, 8443):
        got = {p["ip"] for p in containers["gate"]["ports"] if p["internal"] == internal}
        assert got == wanted


def test_records_of_both_families_for_each_name() -> None:
    dns = {"provider": "cloudflare", "zoneId": "z", "ttl": 300}
    config = {**production(), "gridhub:dns": dns}
    records = declare(config, "prod", TOKEN).of_type(DNS_RECORD)
    told = {(r.inputs["name"], r.inputs["type"], r.inputs["content"]) for r in records}
    assert told == {
        (f"{label}.grid.example.org", kind, content)
        for label in ("hub", "bootstrap", "unsecure.bootstrap")
        for kind, content in (("A", "203.0.113.10"), ("AAAA", "2001:db8::10"))
    }
    assert all(r.options["deleteBeforeReplace"] and r.inputs["ttl"] == 300 for r in records)


def test_without_a_provider_the_same_records_are_told() -> None:
    declared = declare({**production(), "gridhub:dns": {"kind": "wildcard"}}, "prod")
    assert not declared.of_type(DNS_RECORD)
    assert declared.outputs["dnsRecords"] == [
        {"name": "*.grid.example.org", "type": "A", "content": "203.0.113.10", "ttl": 1},
        {"name": "*.grid.example.org", "type": "AAAA", "content": "2001:db8::10", "ttl": 1},
    ]


def test_an_api_token_reaches_the_provider_as_a_secret_only() -> None:
    dns = {"provider": "cloudflare", "zoneId": "z"}
    config = {
        **production(),
        "gridhub:dns": dns,
        "gridhub:dnsApiToken": CANARY,
    }
    declared = declare(config, "prod", secret_keys=("gridhub:dnsApiToken",))
    for entry in declared.resources.values():
        holds = CANARY in str(entry.raw)
        assert holds is (entry.name == "dns-cloudflare")
        assert CANARY not in str(without_secrets(entry.raw))
    assert CANARY not in str(declared.outputs)


@pytest.mark.parametrize(
    ("docker", "target"),
    [
        ("ssh://me@[2001:db8::5]:2222", "-p 2222 me@2001:db8::5"),
        ("ssh://me@[2001:db8::5]", "me@2001:db8::5"),
        ("ssh://me@mirror.example.org:22", "-p 22 me@mirror.example.org"),
        ("ssh://me@mirror.example.org", "me@mirror.example.org"),
    ],
)
def test_the_ssh_line_of_the_outputs_is_one_that_a_shell_and_ssh_take(
    docker: str, target: str
) -> None:
    host = {"docker": docker, "sshKeyPath": "/keys/my id", "knownHostsPath": "/keys/known_hosts"}
    commands = declare({**production(), "gridhub:host": host}, "prod").outputs["commands"]
    assert commands["ssh"].startswith("ssh -F none -i '/keys/my id' -o BatchMode=yes ")
    assert commands["ssh"].endswith(f" {target}")
    logs = commands["logs"]["zdb"]
    assert logs == f"{commands['ssh']} docker logs --tail 100 --follow gridhub-prod-zdb"


def test_over_ssh_the_hosts_key_is_pinned_and_checked() -> None:
    declared = declare(_variants()["remote"], "remote", TOKEN)
    provider = declared.resources["docker"].inputs
    options = str(provider["sshOpts"])
    assert provider["host"] == "ssh://root@203.0.113.10:2222"
    assert "StrictHostKeyChecking=yes" in options
    assert "UserKnownHostsFile=/keys/known_hosts" in options
    assert "GlobalKnownHostsFile=/dev/null" in options
    assert "keyMaterial" not in provider
