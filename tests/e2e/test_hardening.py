"""What runs has the rights of docs/containers.md, and no secret shows anywhere."""

import contextlib
import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3

from sync.contract import layout
from tests.e2e.stack import MirrorStack
from tests.sandbox.services.zdb_client import ZdbClient, ZdbError
from tests.sandbox.upstream import Upstream

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

_UIDS: dict[str, int] = {
    "zdb": layout.UID_ZDB,
    "hub": layout.UID_HUB,
    "bootstrap": layout.UID_BOOTSTRAP,
    "caddy": layout.UID_CADDY,
    "gate": layout.UID_GATE,
    **{str(job): uid for job, uid in layout.JOB_UIDS.items()},
}


@pytest.fixture
def stack(running: tuple[MirrorStack, Upstream]) -> MirrorStack:
    return running[0]


def inspected(stack: MirrorStack) -> dict[str, dict[str, Any]]:
    return {service: container.attrs for service, container in stack.containers().items()}


@pytest.mark.parametrize("service", sorted(_UIDS))
def test_a_container_runs_with_least_privilege(stack: MirrorStack, service: str) -> None:
    told = inspected(stack)[service]
    host, config = told["HostConfig"], told["Config"]
    assert config["User"] == f"{_UIDS[service]}:{_UIDS[service]}"
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    added = ["CAP_NET_BIND_SERVICE"] if service == "caddy" else []
    assert (host["CapAdd"] or []) == added
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert 0 < host["Memory"] == host["MemorySwap"]
    assert host["CpuShares"] >= 2
    assert host["LogConfig"]["Type"] == "json-file"
    assert set(host["LogConfig"]["Config"]) == {"max-size", "max-file"}
    assert {limit["Name"] for limit in host["Ulimits"]} >= {"nofile", "nproc"}
    assert config["Healthcheck"]["Test"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert not any("docker.sock" in bind for bind in host["Binds"])
    assert all(bind.startswith(f"{stack.root}/") for bind in host["Binds"])
    assert told["Image"].startswith("sha256:")


@pytest.mark.parametrize("service", sorted(_UIDS))
def test_a_process_in_it_cannot_write_where_it_should_not(stack: MirrorStack, service: str) -> None:
    container = stack.containers()[service]
    for path in ("/planted", "/etc/planted", "/usr/planted"):
        assert container.exec_run(["sh", "-c", f"echo x > {path}"]).exit_code != 0, path
    said = container.exec_run(["sh", "-c", "cat /proc/1/status"]).output
    status = said.decode() if isinstance(said, bytes) else ""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"].strip() == "0" * 16
    assert fields["NoNewPrivs"].strip() == "1"


def test_only_its_own_user_reads_a_secret_file(stack: MirrorStack) -> None:
    files = [path for path in (stack.root / "secrets").rglob("*") if path.is_file()]
    assert len(files) >= 4
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.stat().st_uid in _UIDS.values(), path


def secret_values(stack: MirrorStack) -> list[str]:
    exported = json.loads(stack.pulumi("stack", "export", "--show-secrets"))
    resources = exported["deployment"]["resources"]
    values = [
        json.loads(r["outputs"]["value"]["plaintext"])
        for r in resources
        if r["type"].endswith("StackSecret")
    ]
    assert len(values) == len(set(values)) == 5
    return [str(value) for value in values]


def test_no_secret_shows_in_state_logs_inspect_images_or_process_list(stack: MirrorStack) -> None:
    secrets = secret_values(stack)
    with contextlib.closing(stack.client()) as client:
        ids = [container.attrs["Image"] for container in stack.containers().values()]
        images = [client.images.get(identity).history() for identity in ids]
        logs = [c.logs().decode(errors="replace") for c in stack.containers().values()]
    places = {
        "state": stack.pulumi("stack", "export"),
        "state file": "".join(
            path.read_text(errors="replace")
            for path in stack.workspace.backend.rglob("*")
            if path.is_file()
        ),
        "stack file": stack.stack_file.read_text(),
        "preview": stack.pulumi("preview", "--diff"),
        "outputs": json.dumps(stack.outputs()),
        "inspect": json.dumps(inspected(stack)),
        "images": json.dumps(images),
        "logs": "".join(logs),
        "status": "".join(path.read_text() for path in stack.root.glob("sync/*/state/*.json")),
        "processes": others_commands(),
    }
    for place, text in places.items():
        for secret in secrets:
            assert secret not in text, f"a secret shows in: {place}"


def others_commands() -> str:
    """Return every command line but zdbd's, which takes its password in no other way."""
    lines = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if not any("zdb" in word for word in words):
            lines.append(" ".join(words))
    return "\n".join(lines)


def test_nobody_outside_writes_to_the_mirrors_0_db(stack: MirrorStack) -> None:
    with pytest.raises(ZdbError), ZdbClient("127.0.0.1", stack.zdb_port) as client:
        client.command("SET", b"k" * 16, b"planted")


def test_the_edge_sees_both_families_and_plain_http_serves_only_nodes(
    stack: MirrorStack,
) -> None:
    name = f"hub.{stack.domain}"
    for address in ("127.0.0.1", "[::1]"):
        probe = f"http://{address}:{stack.http_port}"
        assert status_of(f"{probe}/api/flist", name) == 200
        assert status_of(f"{probe}/tf-zos/zos-base.flist.md5", name) == 200
        assert status_of(f"{probe}/api/fileslist", name) == 308
        assert status_of(f"{probe}/kernel/net/prod.efi", f"bootstrap.{stack.domain}") == 200


@pytest.mark.parametrize("path", ["/no/such.flist", "/tf-zos/no.flist.md5", "/tf-zos/no.fl"])
def test_a_flist_that_is_not_here_is_a_404_on_plain_http(stack: MirrorStack, path: str) -> None:
    url = f"http://127.0.0.1:{stack.http_port}{path}"
    assert status_of(url, f"hub.{stack.domain}") == 404


@pytest.mark.parametrize(
    "path",
    [
        "/api/flist/tf-zos/zos-base.flist",
        "/api/flist/tf-zos/zos-base.flist/metadata",
        "/tf-zos/zos-base.md",
        "/search",
    ],
)
def test_a_mirror_opens_no_flist_for_anybody(stack: MirrorStack, path: str) -> None:
    url = f"http://127.0.0.1:{stack.http_port}{path}"
    answer = asked(url, f"hub.{stack.domain}")
    assert answer.status == 403
    assert answer.data.decode().endswith("/light.")


def test_an_alias_is_answered_on_plain_http_like_the_hub(stack: MirrorStack) -> None:
    probe = f"http://127.0.0.1:{stack.http_port}"
    assert status_of(f"{probe}/api/flist", "hub.grid.tf") == 200
    assert status_of(f"{probe}/tf-zos/zos-base.flist", "hub.grid.tf") == 200
    assert status_of(f"{probe}/tf-zos/zos-base.flist", "hub.elsewhere.tf") == 404


@pytest.mark.parametrize(
    "path", ["/uefimg/prod/12", "/krn-provision", "/krn-generic/", "/debug/prod/1", "/provision/0"]
)
def test_what_bootstrap_cannot_do_here_is_a_501_with_a_sentence(
    stack: MirrorStack, path: str
) -> None:
    url = f"http://127.0.0.1:{stack.http_port}{path}"
    answer = asked(url, f"unsecure.bootstrap.{stack.domain}")
    assert answer.status == 501
    assert answer.data.decode().endswith(".")
    assert status_of(url, f"bootstrap.{stack.domain}") == 308


def test_nobody_outside_reaches_what_writes_kernels(stack: MirrorStack) -> None:
    url = f"http://127.0.0.1:{stack.http_port}/api/symlink/a/b"
    assert status_of(url, f"unsecure.bootstrap.{stack.domain}") == 403


def asked(url: str, host: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", url, headers={"Host": host}, redirect=False, timeout=60)


def status_of(url: str, host: str) -> int:
    return asked(url, host).status


def test_the_pages_table_is_what_runs() -> None:
    page = (Path(__file__).parents[2] / "docs/containers.md").read_text()
    for service, uid in _UIDS.items():
        assert f"| `{service}` | " in page
        assert f"| {uid} |" in page
