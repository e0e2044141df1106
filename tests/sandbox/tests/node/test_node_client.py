"""The client that asks as a node does decides whether a mirror works: it notices what is wrong."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sandbox.flist import pack_directory
from tests.sandbox.node import RUN_MODES, Node, Phase
from tests.sandbox.node.__main__ import main
from tests.sandbox.tests.node.edge import DOMAIN, LOOPBACKS, Edge
from tests.sandbox.upstream import Fault

NAMES = tuple(f"{name}{DOMAIN}" for name in ("hub.", "bootstrap.", "unsecure.bootstrap."))
BOOTSTRAP = "tf-autobuilder/bootstrap:latest.flist"
BASE = "tf-zos/zos-base.flist"


@pytest.mark.parametrize("family", [4, 6])
def test_a_node_lives_from_the_whole_world(edge: Edge, family: int) -> None:
    sources = edge.model.boot_sources()
    with Node(edge.mirror, family, sources) as node:
        assert set(node.bootable()) == set(sources)
        report = node.visit()
    assert report.failures() == []
    assert report.phase("medium").family == 4
    assert report.phase("medium").done == 2 * len(RUN_MODES)
    assert report.phase("stage 1").done == 1
    assert report.phase("stage 2 (production)").done == 4
    assert report.phase("upgrader (production)").done >= 2
    assert report.phase("flistd").done == len(sources) >= 22
    assert report.phase("kernels").done == len(edge.model.kernels)
    assert "tf-autobuilder/zos:v3.9.0:1f0c2d4.flist" in report.phase("flistd").defaulted


def test_the_light_version_has_a_taglink_of_its_own(edge: Edge) -> None:
    with Node(edge.mirror, 4, edge.model.boot_sources()) as node:
        assert node.stage_2("prod", light=True).ok
        assert node.upgrade("prod", light=True).ok
        assert "no taglink qa-v3light" in str(node.stage_2("qa", light=True).failures)


def asked_paths(phase: Phase) -> list[str]:
    found = (re.fullmatch(r"GET https://hub\.[^/]*(/.*)", asked.what) for asked in phase.asked)
    return [match[1] for match in found if match]


def test_bootstrap_asks_what_zos_asks_in_its_order(edge: Edge) -> None:
    with Node(edge.mirror, 4) as node:
        first, second = node.stage_1(), node.stage_2("dev")
    assert asked_paths(first) == ["/api/flist", f"/api/flist/{BOOTSTRAP}/light", f"/{BOOTSTRAP}"]
    assert asked_paths(second) == [
        *("/api/flist", "/api/flist/tf-zos"),
        *("/api/flist", "/api/flist/tf-zos/tags/3.11"),
        f"/{BASE}",
    ]


def test_the_upgrader_lists_the_running_tag_too_and_passes_over_what_it_has(edge: Edge) -> None:
    with Node(edge.mirror, 4) as node:
        done = node.upgrade("dev", "tf-zos/tags/3.9")
        from_alice = node.upgrade("dev", "alice.3bot/tags/stable")
    listed = ["/api/flist/tf-zos", "/api/flist/tf-zos/tags/3.11"]
    assert asked_paths(done) == [*listed, "/api/flist/tf-zos/tags/3.9"]
    assert asked_paths(from_alice) == [
        *listed,
        "/api/flist/alice.3bot/tags/stable",
        f"/api/flist/{BASE}/light",
        f"/{BASE}",
    ]


def test_the_upgrader_returns_at_once_where_the_target_runs(edge: Edge) -> None:
    with Node(edge.mirror, 4) as node:
        done = node.upgrade("prod", "tf-zos/tags/3.10")
    assert done.ok
    assert asked_paths(done) == ["/api/flist/tf-zos"]


def test_chunks_are_asked_for_one_by_one_and_no_namespace_is_selected(edge: Edge) -> None:
    requests = edge.upstream.zdb.requests
    requests.clear()
    with Node(edge.mirror, 4) as node:
        chunks = node.boot(BASE).chunks
    assert dict(requests) == {"GET": chunks}


def test_another_namespace_is_selected(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    packed = pack_directory(tmp_path)
    edge.model.store.create("other")
    edge.model.add_chunks(packed.chunks, "other")
    place = replace(edge.model.backend, namespace="other")
    edge.model.add_flist("alice.3bot", "other.flist", packed.archive(place))
    with Node(edge.mirror, 4) as node:
        assert node.boot("alice.3bot/other.flist", tmp_path).files == 1


def test_a_kernel_that_comes_at_the_third_try_is_booted(edge: Edge) -> None:
    edge.tls_faults.add(Fault("truncate", "/kernel/net/prod.efi", times=2))
    with Node(edge.mirror) as node:
        assert node.medium(["prod"]).ok


def test_names_that_a_url_must_quote_are_booted(edge: Edge, tmp_path: Path) -> None:
    names = ("a b (1).flist", "café.flist", "zos:v1+2~3%20.flist")
    (tmp_path / "file").write_bytes(b"content")
    for name in names:
        edge.model.add_flist("alice.3bot", name, tmp_path)
    edge.model.set_tag("tf-zos", "v4", {n: f"alice.3bot/{n}" for n in names})
    edge.model.set_taglink("tf-zos", "development", "tf-zos", "v4")
    with Node(edge.mirror, 4) as node:
        for phase in (
            node.stage_2("dev"),
            node.upgrade("dev", "tf-zos/tags/3.9"),
            node.workloads([f"alice.3bot/{name}" for name in names]),
        ):
            assert (phase.failures, phase.done) == ([], 3)


# -- command line ------------------------------------------------------------------------------


def test_the_command_tells_every_phase(edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    place = [
        *(DOMAIN, *LOOPBACKS, "--mode", "dev", "--ca", str(edge.certificate.file)),
        *("--https", str(edge.tls[0].port), "--http", str(edge.plain[0].port)),
        *("--zdb", str(edge.upstream.zdb.port)),
    ]
    for repository in ("tf-autobuilder", "tf-bootable", "tf-official-apps", "alice.3bot"):
        edge.model.delete_repository(repository)
    edge.model.delete_flist("tf-zos", ".tag-3.9")
    edge.model.delete_flist("tf-zos", ".tag-3.10")
    assert main(place) == 1
    told = capsys.readouterr().out
    assert "well    medium over IPv4: 4 requests, 2 read whole" in told
    assert "FAILED  stage 1 over IPv6" in told
    assert "/light: status 404" in told
    assert "well    stage 2 (development) over IPv6: 6 requests, 1 read whole" in told
