"""One kernel or link that the master never delivers: everything else is complete all the same."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Final

import pytest

from sync.agent.job import Directories, PassIncompleteError
from sync.contract.spec import KernelsSpec
from sync.contract.status import StatusRecord
from tests.agent.kernels.kernels_mirror import (
    DAY,
    OLD,
    engine_of,
    kernels,
    links,
    one_pass,
    served,
)
from tests.agent.mirrors import kernels_spec
from tests.agent.scripted import Answer, Asked, ScriptedServer
from tests.sandbox.upstream import Fault, FaultKind, Upstream

# For what hangs: elsewhere a machine that is busy for a moment would be a fault, too.
QUICK: Final = {"connections": 4, "read_timeout_seconds": 0.5, "connect_timeout_seconds": 2}
KERNEL: Final = r"/kernel/zos-3\.efi"
Damage = Callable[[Upstream], None]


def fault(kind: FaultKind, path: str, status: int = 500) -> Damage:
    return lambda upstream: upstream.bootstrap_faults.add(Fault(kind, path, status=status))


def empty(upstream: Upstream) -> None:
    upstream.model.add_kernel("zos-3.efi", b"", OLD + 3 * DAY)


def too_large(upstream: Upstream) -> None:
    upstream.model.add_kernel("zos-3.efi", b"MZ" + bytes(2 << 20), OLD + 3 * DAY)


NEVER_DELIVERED: Final[dict[str, tuple[Damage, str]]] = {
    "kernel 500": (fault("status", KERNEL), "kernel zos-3.efi"),
    "kernel 403": (fault("status", KERNEL, 403), "kernel zos-3.efi"),
    "kernel 404": (fault("html", KERNEL, 404), "kernel zos-3.efi"),
    "kernel hangs": (fault("hang", KERNEL), "kernel zos-3.efi"),
    "kernel cut off": (fault("truncate", KERNEL), "kernel zos-3.efi"),
    "kernel without end": (fault("endless", KERNEL), "kernel zos-3.efi"),
    "kernel of no bytes": (empty, "kernel zos-3.efi"),
    "kernel over the limit": (too_large, "kernel zos-3.efi"),
    "net link 500": (fault("status", r"/kernel/net/qa\.efi"), "net link qa"),
    "net link 403": (fault("status", r"/kernel/net/qa\.efi", 403), "net link qa"),
    "link 500": (fault("status", r"/kernel/latest\.efi"), "link latest.efi"),
}


def spec_of(upstream: Upstream, **settings: object) -> KernelsSpec:
    values: dict[str, object] = {"max_kernel_bytes": 1 << 20}
    return kernels_spec(upstream, **(values | {"links": ["latest.efi"]} | settings))


def passes(spec: KernelsSpec, directories: Directories, number: int = 2) -> StatusRecord:
    """Make passes, of which the first may be incomplete; returns the last record."""
    with engine_of(spec, directories) as engine:
        with suppress(PassIncompleteError):
            engine.one_pass()
        for _ in range(number - 1):
            engine.one_pass()
        return engine._status.record


@pytest.mark.parametrize("kind", NEVER_DELIVERED)
def test_what_is_never_delivered_is_named_and_the_pass_is_complete(
    kind: str, upstream: Upstream, directories: Directories
) -> None:
    damage, name = NEVER_DELIVERED[kind]
    upstream.model.set_kernel_link("latest.efi", "zos-5.efi")
    damage(upstream)
    record = passes(spec_of(upstream, http=QUICK), directories)
    assert record.lag.items == 0
    assert [line for line in record.broken.names if line.startswith(f"{name}: ")]
    expected = kernels(upstream)
    if name.startswith("kernel"):
        del expected["zos-3.efi"]
    assert served(directories) == expected
    modes = {"prod", "test", "dev", "qa"} - ({"qa"} if name.startswith("net") else set())
    assert links(directories).keys() == modes


def test_what_is_delivered_again_is_served_and_the_link_to_it_moves(
    upstream: Upstream, directories: Directories
) -> None:
    spec = spec_of(upstream, links=[])
    one_pass(spec, directories)
    upstream.model.add_kernel("zos-9.efi", b"MZ brand new", OLD + 20 * DAY)
    upstream.model.set_net_link("prod", "zos-9.efi")
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/zos-9\.efi"))
    record = passes(spec, directories, 4)
    assert links(directories)["prod"] == "../zos-1.efi", "nodes go on booting"
    assert "kernel zos-9.efi: /kernel/zos-9.efi: 500" in record.broken.names
    upstream.bootstrap_faults.clear()
    for _ in range(200):
        if not one_pass(spec, directories).broken.count:
            break
        time.sleep(0.02)
    assert links(directories)["prod"] == "../zos-9.efi"
    assert served(directories) == kernels(upstream)


def test_what_the_master_dropped_goes_although_another_is_quarantined(
    upstream: Upstream, directories: Directories
) -> None:
    one_pass(spec_of(upstream, links=[]), directories)
    upstream.model.add_kernel("zos-9.efi", b"MZ brand new", OLD + 20 * DAY)
    upstream.bootstrap_faults.add(Fault("status", r"/kernel/zos-9\.efi"))
    upstream.model.delete_kernel("zos-0.efi")
    passes(spec_of(upstream, links=[]), directories)
    assert "zos-0.efi" not in served(directories)


@pytest.mark.parametrize("path", [r"/kernel/.*", r"/kernel/(zos-|net/qa).*"])
def test_a_master_in_trouble_makes_no_pass_complete(
    path: str, upstream: Upstream, directories: Directories
) -> None:
    upstream.bootstrap_faults.add(Fault("status", path))
    for _ in range(3):
        with pytest.raises(PassIncompleteError):
            one_pass(spec_of(upstream, links=[]), directories)
    upstream.bootstrap_faults.clear()
    assert one_pass(spec_of(upstream, links=[]), directories).broken.count == 0
    assert served(directories) == kernels(upstream)


def test_a_quarantined_kernel_is_asked_for_when_its_time_has_come_also_after_a_restart(
    upstream: Upstream, directories: Directories
) -> None:
    slow = {"first_seconds": 3600.0, "longest_seconds": 3600.0}
    spec = spec_of(upstream, backoff=slow, links=[])
    fault("status", KERNEL, 403)(upstream)
    passes(spec, directories)
    upstream.bootstrap_faults.clear()
    for _ in range(2):
        record = one_pass(spec, directories)
        assert "zos-3.efi" not in served(directories)
        assert record.broken.names == ["kernel zos-3.efi: /kernel/zos-3.efi: 403"]
    one_pass(spec.model_copy(update={"retention_days": 1.0}), directories)
    assert served(directories) == kernels(upstream), "a changed spec may be just what it takes"


# Rows and pages


@pytest.mark.parametrize(
    "row",
    [
        b'{"name": "bad.efi", "timestamp": NaN}',
        b'{"name": "bad.efi", "timestamp": -1e999, "updated": null}',
        b'{"name": "bad.efi", "timestamp": 1' + b"0" * 5000 + b"}",
        b'{"name": "bad.efi", "timestamp": true, "updated": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"name": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"name": "\\ud800\\u001b[2J"}',
        b'{"name": "\xff\xfe.efi"}',
        b'{"name": "' + b"x" * 4000 + b'"}',
        b"[" * 5000 + b"]" * 5000,
        b"-" + b"7" * 9000,
        b"null",
    ],
)
def test_one_bad_row_costs_no_other(row: bytes, directories: Directories) -> None:
    with ScriptedServer() as server:
        rows = b'[%s, {"name": "good.efi", "timestamp": %d}]' % (row, OLD)
        server.pages["/api/images"] = Answer(rows)
        server.script = lambda asked: (
            Answer(b"MZ kernel", mtime=OLD) if asked.path.startswith("/kernel/") else None
        )
        spec = KernelsSpec(stack="t", sources=[server.url], run_modes=[], free_space_floor_bytes=0)
        record = one_pass(spec, directories)
    assert served(directories).keys() - {"bad.efi"} == {"good.efi"}
    assert record.refused.count + len(served(directories)) == 2


def test_one_bad_name_of_an_older_page_costs_no_other(directories: Directories) -> None:
    page = b"".join(
        b'<a href="/kernel/%s">kernel</a><td>2023-11-14, 22:13:20 (UTC)</td>' % name
        for name in (b"&#" + b"9" * 5000 + b";", b"good.efi", b"&#xd800;.efi")
    )
    with ScriptedServer() as server:
        server.pages["/images"] = Answer(page)
        server.script = lambda asked: (
            Answer(b"MZ kernel", mtime=OLD) if asked.path == "/kernel/good.efi" else None
        )
        spec = KernelsSpec(
            stack="t", sources=[server.url], run_modes=[], http=QUICK, free_space_floor_bytes=0
        )
        with suppress(PassIncompleteError):
            one_pass(spec, directories)
    assert served(directories).keys() == {"good.efi"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Last-Modified": "Fri, 01 Jan 100000000000 00:00:00 GMT"},
        {"Last-Modified": "Fri, 01 Jan 2021 00:00:00 +99999999999999"},
        {"ETag": '"\xe9"'},
        {"ETag": '"a\tb\x7f"'},
        {"Date": "1 Jan 99999999999999999999 00:00:00 GMT"},
        {"Retry-After": "9" * 5000},
    ],
)
def test_one_page_s_odd_headers_cost_no_other(
    headers: dict[str, str], directories: Directories
) -> None:
    with ScriptedServer() as server:
        names = ("odd.efi", "good.efi")
        server.put_json("/api/images", [{"name": name, "timestamp": OLD} for name in names])
        server.pages["/kernel/odd.efi"] = Answer(b"MZ odd", mtime=None, headers=headers)
        server.pages["/kernel/good.efi"] = Answer(b"MZ good", mtime=OLD)
        spec = KernelsSpec(stack="t", sources=[server.url], run_modes=[], free_space_floor_bytes=0)
        for _ in range(2):
            one_pass(spec, directories)
    assert served(directories) == {"odd.efi": b"MZ odd", "good.efi": b"MZ good"}


@pytest.mark.parametrize("newest", [1, 3, 5])
@pytest.mark.parametrize("came", [1, 2, 6])
@pytest.mark.parametrize("kind", ["status", "truncate"])
def test_newer_kernels_push_none_out_until_they_are_here(
    kind: FaultKind, came: int, newest: int, upstream: Upstream, directories: Directories
) -> None:
    """`newest` counts what is listed, and nodes need what is served."""
    spec = spec_of(upstream, newest=newest, run_modes=["prod"], links=[])
    one_pass(spec, directories)
    before = served(directories)
    for number in range(6, 6 + came):
        name = f"zos-{number}.efi"
        upstream.model.add_kernel(name, b"MZ" + bytes(4_000 + number), OLD + number * DAY)
    upstream.bootstrap_faults.add(Fault(kind, r"/kernel/zos-([6-9]|1\d)\.efi"))
    passes(spec, directories, 3)
    assert served(directories) == before
    upstream.bootstrap_faults.clear()
    # Another spec: they are tried again at once.
    one_pass(spec.model_copy(update={"removal_floor_items": 100}), directories)
    last = 6 + came
    chosen = [f"zos-{number}.efi" for number in range(max(0, last - newest), last)]
    assert served(directories).keys() == {"zos-1.efi", *chosen}


def steady(_: int) -> list[dict[str, object]]:
    return []


# What else stands in the list each time that it is read.
MOVING: Final[dict[str, Callable[[int], list[dict[str, object]]]]] = {
    "nothing": steady,
    "a log that is written to": lambda at: [{"name": "access.log", "timestamp": OLD + at}],
    "another name each time": lambda at: [{"name": f"part-{at}", "timestamp": OLD}],
    "a name that comes and goes": lambda at: [{"name": "odd.efi", "timestamp": OLD}] * (at % 2),
    "a served name comes and goes": lambda at: [{"name": "c.efi", "timestamp": OLD}] * (at % 2),
    "times that no clock has": lambda at: [{"name": "b.log", "timestamp": 1e300 * at}],
}


@pytest.mark.parametrize("kind", MOVING)
def test_list_that_is_another_each_time_keeps_nothing_else_away(
    kind: str, directories: Directories
) -> None:
    names, readings = ["a.efi", "b.efi", "c.efi"], count()

    def script(asked: Asked) -> Answer | None:
        name = asked.path.rpartition("/")[2]
        if asked.path == "/api/images":
            rows = [{"name": name, "timestamp": OLD} for name in names]
            return Answer(json.dumps([*rows, *MOVING[kind](next(readings))]).encode(), mtime=None)
        return Answer(b"MZ " + name.encode(), mtime=OLD) if name in {*names, "c.efi"} else None

    with ScriptedServer(script) as server:
        spec = KernelsSpec(
            stack="t", sources=[server.url], run_modes=[], http=QUICK, free_space_floor_bytes=0
        )
        with engine_of(spec, directories) as engine:
            for changed in (names, ["a.efi", "d.efi"]):
                names[:] = changed
                for _ in range(3):
                    with suppress(PassIncompleteError):
                        engine.one_pass()
    assert served(directories).keys() - {"c.efi"} == {"a.efi", "d.efi"}
