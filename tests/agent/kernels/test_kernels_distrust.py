"""Kernels that are half, hostile or suddenly gone, and kills in the middle of them."""

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from sync.agent.job import Directories, JobPaused, PassIncompleteError
from sync.agent.master.client import HttpError
from sync.contract import spec as contract
from sync.contract.spec import KernelsSpec
from tests.agent.hub.small_hub import corrupt
from tests.agent.kernels.kernels_mirror import (
    DAY,
    OLD,
    kernels,
    links,
    one_pass,
    served,
)
from tests.agent.mirrors import QUICK, kernels_spec
from tests.agent.scripted import Answer, ScriptedServer
from tests.sandbox.services.http import Connection, Request, Response
from tests.sandbox.upstream import Fault, FaultKind, Upstream


def test_kernel_of_unknown_length_that_may_be_half_is_not_published(
    directories: Directories,
) -> None:
    with ScriptedServer() as server:
        server.put_json("/api/images", [{"name": "zos.efi", "timestamp": OLD}])
        server.pages["/kernel/zos.efi"] = Answer(b"MZ half of a ker", fault="no-length")
        spec = KernelsSpec(
            stack="t", sources=[server.url], run_modes=[], backoff=QUICK, free_space_floor_bytes=0
        )
        with pytest.raises(PassIncompleteError, match="does not say how long it is"):
            one_pass(spec, directories)
        assert served(directories) == {}
        server.pages["/kernel/zos.efi"] = Answer(b"MZ a whole kernel")
        one_pass(spec, directories)
    assert served(directories) == {"zos.efi": b"MZ a whole kernel"}


def test_page_of_kernels_that_may_be_half_removes_nothing(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(kernels_spec(upstream), directories)
    page = b'<a href="/kernel/zos-0.efi">kernel</a><td>2023-11-14, 22:13:20 (UTC)</td>'
    with ScriptedServer() as server:
        server.pages["/images"] = Answer(page, fault="no-length")
        with pytest.raises(HttpError, match="does not say how long it is"):
            one_pass(kernels_spec(upstream, sources=[server.url]), directories)
    assert served(directories) == kernels(upstream)


def test_master_that_suddenly_lists_nothing_pauses_the_job(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    before = served(directories)
    upstream.model.kernels.clear()
    upstream.model.net_links.clear()
    with pytest.raises(JobPaused, match="removalConfirmation"):
        one_pass(spec, directories)
    assert served(directories) == before
    confirmed = kernels_spec(upstream, removal_confirmation=1, run_modes=[])
    one_pass(confirmed, directories)
    one_pass(confirmed, directories)
    assert served(directories) == {}


def test_too_many_vanished_at_once_pauses_before_anything_is_removed(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream, removal_floor_items=1)
    one_pass(spec, directories)
    for number in (0, 3):
        upstream.model.delete_kernel(f"zos-{number}.efi")
    with pytest.raises(JobPaused, match="2 of 6"):
        one_pass(spec, directories)
    assert len(served(directories)) == 6


def test_list_that_lost_a_kernel_only_once_removes_nothing(
    upstream: Upstream, directories: Directories
) -> None:
    """A byte turned over on its way: the second reading tells."""
    one_pass(kernels_spec(upstream), directories)
    sound = upstream.bootstrap.deliver
    corrupt(upstream.bootstrap, "/api/images", b"zos-1.efi", b"zos-q.efi")
    damaged = upstream.bootstrap.deliver

    def once(connection: Connection, request: Request, response: Response) -> bool:
        upstream.bootstrap.deliver = sound
        return bool(damaged(connection, request, response))

    upstream.bootstrap.deliver = once
    one_pass(kernels_spec(upstream), directories)
    assert served(directories) == kernels(upstream)


@pytest.mark.parametrize("kind", ["truncate", "reset", "status", "hang", "endless", "html"])
def test_one_bad_kernel_never_blocks_the_others_and_is_never_half_there(
    kind: FaultKind, upstream: Upstream, directories: Directories
) -> None:
    upstream.bootstrap_faults.add(Fault(kind, r"/kernel/zos-3\.efi"))
    limits = {"connections": 4, "read_timeout_seconds": 0.5, "connect_timeout_seconds": 2}
    spec = kernels_spec(upstream, http=limits, max_kernel_bytes=1 << 20)
    with pytest.raises(PassIncompleteError, match=r"zos-3\.efi"):
        one_pass(spec, directories)
    expected = kernels(upstream)
    del expected["zos-3.efi"]
    assert served(directories) == expected
    upstream.bootstrap_faults.clear()
    one_pass(spec, directories)
    assert served(directories) == kernels(upstream)


def test_kernel_that_is_being_written_on_the_master_is_not_published_half(
    directories: Directories,
) -> None:
    """0-bootstrap writes an upload in place: its mtime is now, and its size still grows."""
    now = time.time()
    with ScriptedServer() as server:
        server.put_json("/api/images", [{"name": "growing.efi", "timestamp": int(now)}])
        sizes = iter([1000, *range(2000, 90000, 1000)])
        server.script = lambda asked: (
            Answer(b"MZ" + bytes(next(sizes)), mtime=time.time())
            if "growing" in asked.path
            else None
        )
        spec = KernelsSpec(
            stack="t",
            sources=[server.url],
            run_modes=[],
            free_space_floor_bytes=0,
        )
        with pytest.raises(PassIncompleteError, match="changed while it was fetched"):
            one_pass(spec, directories)
    assert served(directories) == {}


def test_kills_in_mid_transfer_leave_no_half_kernel_and_it_converges(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(kernels_spec(upstream), directories)
    allowed = {name: {data} for name, data in kernels(upstream).items()}
    spec = kernels_spec(upstream, schedule={"interval_seconds": 0.05})
    (directories.spec / "spec.json").write_bytes(contract.canonical(spec))
    command = [sys.executable, "-m", "sync.agent", "run", "kernels"]
    for name in ("spec", "state", "kernels"):
        command += [f"--{name}-dir", str(getattr(directories, name))]
    chance = random.Random(3)
    for number in range(6):
        name = f"zos-{number}.efi"
        data = b"MZ" + chance.randbytes(60_000)
        upstream.model.add_kernel(name, data, OLD + 100 * DAY + number)
        allowed[name].add(data)
        upstream.bootstrap_faults.clear()
        slow = Fault("slow", rf"/kernel/{re.escape(name)}", bytes_per_second=60_000)
        upstream.bootstrap_faults.add(slow)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(0.3, 1.2))
            process.kill()
        for served_name, served_data in served(directories).items():
            assert served_data in allowed[served_name]
        assert links(directories).keys() == {"prod", "test", "dev", "qa"}
    upstream.bootstrap_faults.clear()
    one_pass(spec, directories)
    assert served(directories) == kernels(upstream)
    assert list((directories.kernels / ".gridhub").iterdir()) == []


HOSTILE = (
    *("../../etc/cron.d/x", "/etc/passwd", "net/prod.efi", "..", ".", "", ".hidden", "a\0b"),
    *("a/b.efi", "x" * 300, "\ud800.efi", "a\x85b", "net", "\n", "a\nb", "\x7f"),
    *(7, None, ["x"], {"y": 1}, True),
)
ODD = (
    *("%2e%2e%2fx.efi", "a\\b", "-rf", "\u202egnp.efi", "z\u043es.efi", "a b (1).efi", "~root"),
    *("\uff1c.efi", "é" * 127, "a?b#c%d+e", "'a' \"b\""),
)


def test_odd_names_are_mirrored_byte_for_byte(upstream: Upstream, directories: Directories) -> None:
    for number, name in enumerate(ODD):
        upstream.model.add_kernel(name, b"MZ %d" % number, OLD)
    one_pass(kernels_spec(upstream), directories)
    assert served(directories) == kernels(upstream)
    assert set(ODD) < set(served(directories))


def test_hostile_names_are_listed_and_nothing_is_written_outside(
    directories: Directories, tmp_path: Path
) -> None:
    with ScriptedServer() as server:
        rows: list[object] = [{"name": name, "timestamp": OLD} for name in HOSTILE]
        rows += ["not an object", None, {"name": "good.efi", "timestamp": OLD}]
        server.put_json("/api/images", rows)
        server.script = lambda asked: (
            Answer(b"MZ kernel", mtime=OLD) if asked.path.startswith("/kernel/") else None
        )
        spec = KernelsSpec(
            stack="t", sources=[server.url], run_modes=["prod"], free_space_floor_bytes=0
        )
        before = {path for path in tmp_path.rglob("*") if directories.kernels not in path.parents}
        record = one_pass(spec, directories)
        after = {path for path in tmp_path.rglob("*") if directories.kernels not in path.parents}
    assert served(directories) == {"good.efi": b"MZ kernel"}
    assert record.refused.count == len(HOSTILE) + 2
    assert {path.parent for path in after - before} <= {directories.state}
    assert links(directories) == {"prod": "../good.efi"}


def test_a_run_mode_that_is_no_plain_name_is_refused_with_the_spec() -> None:
    with pytest.raises(ValidationError, match=r"run_modes\.0\n.*is not a plain name"):
        KernelsSpec(stack="t", sources=["http://master.example"], run_modes=["../x", "prod"])


@pytest.mark.parametrize("page", [b"", b"null", b"{}", b"[[", b"<html>oops</html>", b"[" * 100_000])
def test_listing_that_is_none_stops_the_pass_and_changes_nothing(
    page: bytes, upstream: Upstream, directories: Directories
) -> None:
    one_pass(kernels_spec(upstream), directories)
    before = served(directories)
    with ScriptedServer() as server:
        server.pages["/api/images"] = Answer(page)
        spec = kernels_spec(upstream, sources=[server.url])
        with pytest.raises(HttpError):
            one_pass(spec, directories)
    assert served(directories) == before


def test_leftovers_of_an_upstream_sync_are_taken_over_or_removed(
    upstream: Upstream, directories: Directories
) -> None:
    half = next(iter(kernels(upstream)))
    (directories.kernels / half).write_bytes(b"half of a kernel")
    (directories.kernels / "gone-from-master.efi").write_bytes(b"old")
    (directories.kernels / ".keep").write_bytes(b"")
    one_pass(kernels_spec(upstream), directories)
    assert served(directories) == kernels(upstream) | {".keep": b""}
