"""The Caddyfile: what plain port 80 answers, what it redirects, and what nobody may reach."""

import re
from dataclasses import replace
from typing import Any

import pytest

from components.caddyfile import caddyfile
from components.naming import Stack
from components.settings import parse
from components.settings.model import AcmeSettings, BootstrapSettings, HubSettings, PortSettings
from tests.program.declared import as_pulumi_gives, stack_file

_TOKEN = {"CLOUDFLARE_API_TOKEN": "t" * 40}
SANDBOX = Stack("sandbox", parse(as_pulumi_gives(stack_file("sandbox")), environment=_TOKEN))


def changed(stack: Stack, **changes: Any) -> Stack:
    """Return the stack with other settings."""
    return replace(stack, settings=stack.settings.model_copy(update=changes))


PRODUCTION = changed(SANDBOX, ports=PortSettings(), acme=AcmeSettings(email="operator@example.org"))


def site(text: str, head: str) -> str:
    """Return the block that begins with `head`."""
    found = re.search(rf"^{re.escape(head)} {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
    assert found, head
    return found.group(1)


def node_paths() -> re.Pattern[str]:
    expression = re.search(
        r"path_regexp (\S+)", site(caddyfile(SANDBOX), "http://hub.gridhub.test")
    )
    assert expression
    return re.compile(expression.group(1))


@pytest.mark.parametrize(
    "path",
    [
        "/tf-zos/zos.flist",
        "/tf-zos/zos.flist.md5",
        "/tf-zos/tags/3.12.7/zos.flist",
        "/tf-zos/tags/3.12.7/zos.flist.md5",
        "/tf-autobuilder/bootstrap:latest.flist",
        "/a b/café (1).flist",
        "/not/there/at/all.flist",
        "/somebody/image.fl",
    ],
)
def test_port_80_serves_flists_and_their_md5_to_nodes(path: str) -> None:
    assert node_paths().search(path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/tf-zos",
        "/tf-zos/zos.flist.json",
        "/api/flist/me/upload",
        "/api/flist/me/a/link/b",
        "/upload-flist",
        "/tf-zos/zos.flist/",
        "/tf-zos/zosflist",
        "/tf-zos/zos.flist.md",
    ],
)
def test_port_80_serves_nothing_else_of_the_hub(path: str) -> None:
    assert not node_paths().search(path)


def test_port_80_answers_the_probe_and_only_reads() -> None:
    plain = site(caddyfile(SANDBOX), "http://hub.gridhub.test")
    assert "path /api/flist\n" in plain
    assert plain.count("method GET HEAD") == 2


def test_port_80_serves_kernels_and_boot_scripts() -> None:
    plain = site(caddyfile(SANDBOX), "http://bootstrap.gridhub.test")
    assert "path /kernel/* /ipxe/*\n" in plain
    assert plain.count("reverse_proxy") == 1


def test_a_name_that_a_farms_dns_leads_here_is_answered_like_the_hubs_own() -> None:
    text = caddyfile(
        changed(PRODUCTION, hub=HubSettings(aliases=["hub.grid.tf", "hub.threefold.me"]))
    )
    plain = site(text, "http://hub.gridhub.test, http://hub.grid.tf, http://hub.threefold.me")
    assert plain == site(caddyfile(PRODUCTION), "http://hub.gridhub.test")
    assert "https://hub.grid.tf" not in text


def test_boot_media_without_tls_are_answered_without_a_redirect() -> None:
    plain = site(caddyfile(PRODUCTION), "http://unsecure.bootstrap.gridhub.test")
    assert "import bootstrap" in plain
    assert "redir" not in plain
    assert "https://unsecure" not in caddyfile(PRODUCTION)


def test_what_boot_media_ask_has_an_rsa_key_and_no_stored_certificate_of_another_kind() -> None:
    for config, directive in ((SANDBOX, "tls internal {"), (PRODUCTION, "tls {")):
        text = caddyfile(config)
        assert f"{directive}\n\t\tkey_type rsa2048" in site(text, "https://bootstrap.gridhub.test")
        assert "key_type" not in site(text, "https://hub.gridhub.test")
        assert "storage file_system /data/gridhub" in text


@pytest.mark.parametrize("path", ["/uefimg /uefimg/*", "/krn-provision /uefi-provision"])
def test_what_cannot_work_here_says_so(path: str) -> None:
    shared = site(caddyfile(PRODUCTION), "(bootstrap)")
    found = re.search(rf"@(\w+) path {re.escape(path)}", shared)
    assert found
    answer = re.search(rf'handle @{found.group(1)} {{\s*respond "[^"]+\." 501', shared)
    assert answer


def test_everything_else_is_redirected_to_the_port_that_https_has() -> None:
    for name in ("hub", "bootstrap"):
        host = f"{name}.gridhub.test"
        sandbox = site(caddyfile(SANDBOX), f"http://{host}")
        assert f"redir https://{host}:8443{{uri}} 308" in sandbox
        production = site(caddyfile(PRODUCTION), f"http://{host}")
        assert f"redir https://{host}{{uri}} 308" in production


def test_a_name_that_is_not_ours_is_redirected_nowhere() -> None:
    assert "redir" not in site(caddyfile(PRODUCTION), "http://")


def test_nobody_outside_writes_kernels() -> None:
    text = caddyfile(PRODUCTION)
    shared = site(text, "(bootstrap)")
    assert "@write path /api/kernel /api/kernel/* /api/symlink /api/symlink/*" in shared
    assert "respond 403" in shared
    for head in ("https://bootstrap.gridhub.test", "http://unsecure.bootstrap.gridhub.test"):
        assert "import bootstrap" in site(text, head)
        assert "reverse_proxy" not in site(text, head)


def test_certificates_come_from_the_chosen_authority() -> None:
    text = caddyfile(PRODUCTION)
    assert "acme_ca https://acme-v02.api.letsencrypt.org/directory" in text
    assert "email operator@example.org" in text
    assert "tls internal" not in text
    other = caddyfile(
        changed(
            PRODUCTION,
            acme=AcmeSettings(email="a@b.org", ca="https://ca.example.org/acme/directory"),
        )
    )
    assert "acme_ca https://ca.example.org/acme/directory" in other


def test_the_sandboxes_own_ca_asks_no_one() -> None:
    text = caddyfile(SANDBOX)
    assert "tls internal" in text
    assert "acme_ca" not in text
    assert "Strict-Transport-Security" not in text


def test_security_headers_and_json_logs_on_every_site() -> None:
    text = caddyfile(PRODUCTION)
    for head in ("(plain)", "(encrypted)"):
        block = site(text, head)
        for header in ("-Server", "nosniff", "X-Frame-Options", "Referrer-Policy"):
            assert header in block
        assert "format json" in block
    assert "Strict-Transport-Security" in site(text, "(encrypted)")
    assert text.count("import plain") == 3
    assert text.count("import encrypted") == 2


def test_a_read_only_hub_takes_no_large_bodies_and_a_writable_one_does() -> None:
    assert "max_size 1MB" in caddyfile(SANDBOX)
    assert "max_size" not in caddyfile(changed(SANDBOX, mode="detached"))


def test_without_a_bootstrap_server_its_name_is_not_served() -> None:
    assert "bootstrap" not in caddyfile(
        changed(SANDBOX, bootstrap=BootstrapSettings(enabled=False))
    )


def test_every_phase_of_a_request_has_a_time_out() -> None:
    for config, body in ((PRODUCTION, "30s"), (changed(PRODUCTION, mode="detached"), "1h")):
        for port in (80, 443):
            found = re.search(rf"\tservers :{port} {{\n(.*?)\n\t}}", caddyfile(config), re.DOTALL)
            assert found
            assert "protocols h1\n" in found.group(1)
            assert re.findall(r"(read_header|read_body|idle) (\S+)", found.group(1)) == [
                ("read_header", "10s"),
                ("read_body", body),
                ("idle", "2m"),
            ]


def light(path: str) -> bool:
    found = re.search(r"@light path_regexp (\S+)", site(caddyfile(PRODUCTION), "(bootstrap)"))
    assert found
    return bool(re.search(found[1].replace("$", r"\Z"), path))


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/images", "/images/", "/api/images", "/generate", "/expert"),
        *("/kernel/zero-os.efi", "/kernel/net/prod.efi", "/ipxe/prod", "/ipxe/prod/1/a/b"),
        "/static/css/bootstrap.css",
    ],
)
def test_what_costs_bootstrap_little_is_asked_of_it(path: str) -> None:
    assert light(path)


# Those of 0-bootstrap (development-v3: bootstrap.py) that copy or compile, and what may come.
@pytest.mark.parametrize(
    "path", ["/krn-generic", "/uefi-generic", "/krn-provision", "/uefi-provision"]
)
@pytest.mark.parametrize("end", ["", "/", "\n", "/x"])
def test_nothing_else_is(path: str, end: str) -> None:
    assert not light(path + end)


@pytest.mark.parametrize(
    "path",
    ["/iso/prod", "/usb", "/uefimg/prod/1", "/debug/prod/1", "/new/prod", "/imagesx", "/api"],
)
def test_what_builds_or_is_not_known_is_not_asked_of_it(path: str) -> None:
    assert not light(path)


@pytest.mark.parametrize(
    "path", ["/krn-generic", "/uefi-generic/", "/krn-provision/", "/debug/*", "/provision/*"]
)
def test_what_builds_for_nothing_is_answered_with_a_reason(path: str) -> None:
    found = re.search(
        rf"@(\w+) path [^\n]*{re.escape(path)}( |\n)", site(caddyfile(PRODUCTION), "(bootstrap)")
    )
    assert found
    assert f"handle @{found[1]} {{\n\t\trespond" in caddyfile(PRODUCTION)


def test_no_service_is_asked_what_it_would_read_in_another_way() -> None:
    text = caddyfile(PRODUCTION)
    for head in ("(hub)", "(bootstrap)"):
        assert site(text, head).startswith("\timport misread\n")
    for head in re.findall(r"^(https?://\S.*?) \{$", text, re.MULTILINE):
        block = site(text, head)
        asks = "reverse_proxy" in block
        assert not asks or re.search(r"import (misread|hub|bootstrap)\n", block), head


def test_boot_media_are_the_gates_to_hand_out_and_everything_else_is_bootstraps() -> None:
    shared = site(caddyfile(PRODUCTION), "(bootstrap)")
    media = "@media path /iso/* /usb/* /krn/* /uefi/* /snponly/*"
    assert re.search(rf"{re.escape(media)}\s*handle @media {{\s*reverse_proxy gate:8090", shared)
    assert shared.index("reverse_proxy gate:") < shared.index("reverse_proxy bootstrap:")


def test_braces_balance_and_snippets_come_before_their_use() -> None:
    text = caddyfile(PRODUCTION)
    assert text.count("{\n") == len(re.findall(r"^\s*}$", text, re.MULTILINE))
    assert text.index("(plain)") < text.index("import plain")
