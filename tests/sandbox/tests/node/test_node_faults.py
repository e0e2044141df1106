"""Mirrors with a fault each: the client that asks as a node does catches it and names it."""

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.sandbox.flist import Backend, Flist, pack_directory
from tests.sandbox.node import Mirror, Node, NodeError, Phase
from tests.sandbox.tests.node.edge import DOMAIN, Certificates, Edge
from tests.sandbox.upstream import Fault
from tests.sandbox.upstream.faults import FaultKind
from tests.sandbox.upstream.nodes import File, Link, ModelTree, Tag

NAMES = tuple(f"{name}{DOMAIN}" for name in ("hub.", "bootstrap.", "unsecure.bootstrap."))
BOOTSTRAP = "tf-autobuilder/bootstrap:latest.flist"
BASE = "tf-zos/zos-base.flist"


@dataclass(frozen=True)
class Broken:
    """A fault of a mirror, the step of a node that meets it, and what it says."""

    what: str
    fault: Callable[[Edge, Mirror], Mirror | None]
    step: Callable[[Node], Phase]
    says: str
    unseen: bool = False


def stage_1(node: Node) -> Phase:
    return node.stage_1()


def stage_2(node: Node) -> Phase:
    return node.stage_2("prod")


def upgrade(node: Node) -> Phase:
    return node.upgrade("prod")


def upgrade_old(node: Node) -> Phase:
    return node.upgrade("prod", "tf-zos/tags/3.9")


def medium(node: Node) -> Phase:
    return node.medium(["prod"])


def workload(node: Node) -> Phase:
    return node.workloads([BASE])


def workloads(node: Node) -> Phase:
    return node.workloads()


def internet(node: Node) -> Phase:
    return node.internet()


def no_taglink(edge: Edge, _: Mirror) -> None:
    edge.model.delete_flist("tf-zos", "production")


def dangling_taglink(edge: Edge, _: Mirror) -> None:
    edge.model.set_taglink("tf-zos", "production", "tf-zos", "9.9")


def withheld(edge: Edge, _: Mirror) -> None:
    tag = edge.model.repositories["tf-zos"].nodes[".tag-3.10"]
    assert isinstance(tag, Tag)
    del tag.links["network.flist"]


def withheld_flist(edge: Edge, _: Mirror) -> None:
    edge.model.delete_flist("tf-zos", "zos-network.flist")


def before_1970(edge: Edge, _: Mirror) -> None:
    nodes = edge.model.repositories["tf-zos"].nodes
    found = nodes["zos-base.flist"]
    assert isinstance(found, File)
    nodes["zos-base.flist"] = File(found.data, -1.0)


def probe_fails(edge: Edge, _: Mirror) -> None:
    edge.tls_faults.add(Fault("status", "/api/flist"))


def listing_is_html(edge: Edge, _: Mirror) -> None:
    edge.tls_faults.add(Fault("html", "/api/flist/tf-zos", status=200))


def cut_flist(edge: Edge, _: Mirror) -> None:
    edge.tls_faults.add(Fault("truncate", ".*zos-base.flist"))


def redirected_flist(edge: Edge, _: Mirror) -> None:
    edge.plain_faults.add(Fault("redirect-loop", r".*zos-base\.flist"))


def redirected_md5(edge: Edge, _: Mirror) -> None:
    edge.plain_faults.add(Fault("redirect-loop", r".*\.md5"))


def redirected_stranger(edge: Edge, _: Mirror) -> None:
    edge.plain_faults.add(Fault("redirect-loop", r".*/no-such-flist\.flist"))


def redirected_fl(edge: Edge, _: Mirror) -> None:
    edge.plain_faults.add(Fault("redirect-loop", r".*\.fl"))


def other_md5(edge: Edge, _: Mirror) -> None:
    edge.plain_faults.add(Fault("flip", r".*\.md5", at_byte=0))


def unlisted(edge: Edge, _: Mirror) -> None:
    edge.model.clear_repositories()


def missing_chunk(edge: Edge, _: Mirror) -> None:
    edge.model.drop_chunk(min(edge.model.chunk_keys("tf-zos", "zos-base.flist")))


def missing_boot_chunk(edge: Edge, _: Mirror) -> None:
    edge.model.drop_chunk(min(edge.model.chunk_keys("tf-autobuilder", "bootstrap:latest.flist")))


def damaged_chunk(edge: Edge, _: Mirror) -> None:
    edge.model.corrupt_chunk(min(edge.model.chunk_keys("tf-zos", "zos-base.flist")))


def replaced(edge: Edge, flist: Flist) -> None:
    nodes = edge.model.repositories["tf-zos"].nodes
    nodes["zos-base.flist"] = File(flist.encode(), edge.model.now())


def base_of(edge: Edge) -> Flist:
    file = edge.model.tree.file("tf-zos", "zos-base.flist")
    assert file is not None
    return Flist.decode(file.data)


def other_row_1(edge: Edge, _: Mirror) -> None:
    """Sort the rows of a flist with a folder, whose key then comes before the root's."""
    source = Path(os.__file__).parent / "xml"
    packed = pack_directory(source)
    edge.model.add_chunks(packed.chunks)
    entries = packed.flist.entries
    folder = packed.flist.directory("dom").key
    ordered = {folder: entries[folder], **entries}
    metadata = {"backend": edge.model.backend.encode()}
    replaced(edge, Flist(ordered, metadata))
    edge.model.sources[BASE] = source


def no_backend(edge: Edge, mirror: Mirror) -> Mirror:
    replaced(edge, Flist(base_of(edge).entries))
    return replace(mirror, default_store=None)


def masters_backend(edge: Edge, _: Mirror) -> None:
    replaced(edge, Flist(base_of(edge).entries, {"backend": Backend("hub.grid.tf").encode()}))


def nonsense_backend(edge: Edge, _: Mirror) -> None:
    replaced(edge, Flist(base_of(edge).entries, {"backend": '{"host": "hub", "port": "9900"}'}))


def no_flist(edge: Edge, _: Mirror) -> None:
    edge.model.add_flist("tf-zos", "zos-base.flist", b"<html>not here</html>")


def old_tag_gone(edge: Edge, _: Mirror) -> None:
    edge.model.delete_flist("tf-zos", ".tag-3.9")


def no_storage(_: Edge, mirror: Mirror) -> Mirror:
    return replace(mirror, storage=Backend("hub.grid.tf"))


def other_target(edge: Edge, _: Mirror) -> None:
    edge.model.put_node("tf-zos", "production", Link("../tf-zos/.tag-3.10/deeper", 1.0))


def only_ipv6(_: Edge, mirror: Mirror) -> Mirror:
    for place, addresses in mirror.names.known.items():
        if place[0] == f"bootstrap.{DOMAIN}":
            addresses[:] = [a for a in addresses if ipaddress.ip_address(a[0]).version == 6]
    return mirror


def kernel_is_a_page(edge: Edge, _: Mirror) -> None:
    edge.tls_faults.add(Fault("html", "/kernel/net/prod.efi", status=200))


def no_kernel(edge: Edge, _: Mirror) -> None:
    del edge.model.net_links["prod"]


def kernel_cut_three_times(edge: Edge, _: Mirror) -> None:
    edge.tls_faults.add(Fault("truncate", "/kernel/net/prod.efi", times=3))


def unsecure_leads_away(edge: Edge, _: Mirror) -> None:
    edge.plain_faults.add(Fault("redirect-loop", "/kernel/.*"))


def no_unsecure_script(edge: Edge, _: Mirror) -> None:
    edge.plain_faults.add(Fault("status", "/ipxe/.*", status=404))


def plain_port_closed(_: Edge, mirror: Mirror) -> Mirror:
    for (name, _port), addresses in mirror.names.known.items():
        if name == f"hub.{DOMAIN}":
            addresses[:] = [(address, 1) for address, _ in addresses]
    return mirror


BROKEN = (
    Broken("taglink missing", no_taglink, stage_2, "no taglink production"),
    Broken("taglink missing", no_taglink, upgrade, "0 taglinks production"),
    Broken("taglink to nothing", dangling_taglink, stage_2, "tf-zos/tags/9.9 is not found"),
    Broken("taglink to no tag", other_target, upgrade, "which is no REPO/tags/TAG"),
    Broken("tag without an entry", withheld, stage_2, "lacks network.flist", unseen=True),
    Broken("entry without its flist", withheld_flist, stage_2, "zos-network.flist: status 404"),
    Broken("negative time", before_1970, stage_2, r"updated.*-1"),
    Broken("negative time", before_1970, upgrade, r"updated.*-1"),
    Broken("probe fails", probe_fails, stage_1, "status 500: a node passes this hub over"),
    Broken("listing is a page", listing_is_html, stage_2, "can not read"),
    Broken("flist cut", cut_flist, stage_2, "zos-base.flist"),
    Broken("flist is a page", no_flist, stage_2, "is no flist"),
    Broken("redirect at flistd", redirected_flist, workload, "led to .* flistd has one connection"),
    Broken("redirect of an MD5", redirected_md5, workload, "md5: .* flistd has one connection"),
    Broken("redirect of a stranger", redirected_stranger, workload, "no-such-flist.flist: .*led"),
    Broken("redirect of an .fl", redirected_fl, workload, "no-such-flist.fl: .*led to"),
    Broken("another MD5", other_md5, workload, "the MD5 is not", unseen=True),
    Broken("not listed", unlisted, workloads, "alice-blog.flist is not listed", unseen=True),
    Broken("chunk missing", missing_chunk, stage_2, "is not in the 0-db .*: a node hangs"),
    Broken("chunk missing", missing_chunk, workload, "is not in the 0-db .*: a node hangs"),
    Broken("chunk missing", missing_boot_chunk, stage_1, "is not in the 0-db .*: a node hangs"),
    Broken("chunk damaged", damaged_chunk, workload, "the payload is not what the key says"),
    Broken("folder in row 1", other_row_1, workload, "'dom' is in row 1: a node shows the root"),
    Broken("no backend", no_backend, workload, "names no backend: a node asks redis://hub.grid.tf"),
    Broken("master's backend", masters_backend, workload, "hub.grid.tf:9900 is no name of this"),
    Broken("nonsense backend", nonsense_backend, workload, "metadata.backend is no 0-db"),
    Broken("old tag not listed", old_tag_gone, upgrade_old, "tags/3.9 is not listed"),
    Broken("old tag not listed", old_tag_gone, upgrade, "tags/3.9 is not listed"),
    Broken("master's hub_storage", no_storage, upgrade, "hub.grid.tf:9900 is no name of this"),
    Broken("bootstrap by IPv6 only", only_ipv6, medium, "has no IPv4 address"),
    Broken("kernel is a page", kernel_is_a_page, medium, "which is no kernel, 3 times"),
    Broken("no kernel", no_kernel, medium, "/ipxe/prod/1: status 404"),
    Broken("kernel cut", kernel_cut_three_times, medium, "IncompleteRead.*the machine reboots"),
    Broken("unsecure leads away", unsecure_leads_away, medium, "which this medium is not made for"),
    Broken("no unsecure media", no_unsecure_script, medium, "unsecure.*/ipxe/prod/1: status 404"),
    Broken("plain port closed", plain_port_closed, internet, "takes no connection"),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: f"{b.what}: {b.step.__name__}")
def test_every_fault_is_caught_and_named(edge: Edge, broken: Broken) -> None:
    sources = edge.model.boot_sources()
    mirror = broken.fault(edge, edge.mirror) or edge.mirror
    with Node(mirror, None, sources) as node:
        failures = broken.step(node).failures
    assert re.search(broken.says, str(failures[0]))
    assert failures[0].unseen == broken.unseen


def test_a_certificate_that_no_boot_medium_can_read_is_named(
    edge: Edge, certificates: Certificates
) -> None:
    edge.present(certificates.ecdsa)
    today = replace(edge.mirror, ca_file=certificates.ecdsa.file)
    with Node(today, 4) as node:
        assert node.stage_1().ok, "programs of today are content with it"
        failed = node.medium(["prod"])
    assert "handshake failure" in str(failed.failures[0]).lower()


def test_https_is_checked_against_the_given_authority_and_name(
    edge: Edge, certificates: Certificates
) -> None:
    edge.present(certificates.stranger)
    with Node(edge.mirror, 4) as node:
        assert "certificate" in str(node.stage_1().failures[0])
        assert "certificate" in str(node.medium(["prod"]).failures[0])
    with Node(replace(edge.mirror, ca_file=certificates.stranger.file), 4) as node:
        assert "hub.grid.test" in str(node.stage_1().failures[0])


@pytest.mark.parametrize("md5", [None, ""])
def test_an_md5_that_is_not_told_ends_an_upgrade(
    edge: Edge, md5: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelTree, "digest", lambda *_: md5)
    with Node(edge.mirror, 4) as node:
        assert "tells no md5" in str(node.upgrade("prod", "tf-zos/tags/3.9").failures[0])
        assert node.stage_1().ok == (md5 is not None), "serde takes no null for a text"


@pytest.mark.parametrize("kind", ["status", "truncate", "flip", "reset", "html"])
def test_a_workload_that_does_not_arrive_whole_does_not_start(edge: Edge, kind: FaultKind) -> None:
    edge.plain_faults.add(Fault(kind, rf"/{BASE}", status=500))
    with Node(edge.mirror, 4) as node, pytest.raises(NodeError, match=r"zos-base\.flist"):
        node.boot(BASE)


def test_nothing_boots_from_a_0_db_that_is_gone(edge: Edge) -> None:
    mirror = edge.mirror
    for (_, port), addresses in mirror.names.known.items():
        if port == edge.upstream.zdb.port:
            addresses[:] = [(address, 1) for address, _ in addresses]
    with Node(mirror, 4) as node:
        assert "does not answer" in str(node.stage_1().failures[0])
