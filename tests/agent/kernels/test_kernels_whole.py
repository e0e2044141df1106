"""A kernel is served whole or not at all, whatever a server or a cache before it answers."""

import gzip
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from sync.agent.job import Directories, PassIncompleteError
from sync.agent.kernels.state_db import DATABASE
from sync.contract.spec import KernelsSpec
from tests.agent.kernels.kernels_mirror import OLD, kernels, one_pass, served
from tests.agent.mirrors import QUICK, QUICK_HTTP, kernels_spec
from tests.agent.scripted import Answer, Asked, ScriptedServer
from tests.sandbox.upstream import Upstream

WHOLE = b"MZ" + bytes(range(256)) * 40
SIZE = len(WHOLE)
PAGE = b"<!doctype html><title>Log in to this network</title>" * 40
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
SLICE = 1000

Script = Callable[[Asked], Answer | None]


def span(first: int, last: int, total: object = SIZE) -> dict[str, str]:
    return {"Content-Range": f"bytes {first}-{last}/{total}", "Last-Modified": DATE}


def start_of(asked: Asked) -> int | None:
    said = asked.headers.get("Range")
    return None if said is None else int(said.removeprefix("bytes=").removesuffix("-"))


def sliced(start: int) -> Answer:
    end = min(start + SLICE, SIZE)
    return Answer(WHOLE[start:end], 206, headers=span(start, end - 1))


def resumed_in_slices(asked: Asked) -> Answer:
    start = start_of(asked)
    return Answer(WHOLE, fault="truncate") if start is None else sliced(start)


def slices_unasked(asked: Asked) -> Answer:
    return sliced(start_of(asked) or 0)


def resumed_by(answer: Callable[[int], Answer]) -> Script:
    """Break off in the middle, and answer the resumption so."""

    def script(asked: Asked) -> Answer:
        start = start_of(asked)
        return Answer(WHOLE, fault="truncate") if start is None else answer(start)

    return script


@pytest.mark.parametrize(
    "script",
    [resumed_in_slices, slices_unasked, resumed_by(lambda _: Answer(WHOLE))],
    ids=["resumed in slices", "slices that nobody asked for", "resumption ignored"],
)
def test_kernel_that_comes_in_parts_is_served_whole(
    script: Script, directories: Directories
) -> None:
    passed(script, directories)
    assert served(directories) == {"zos.efi": WHOLE}


NOTHING: dict[str, Script] = {
    "a part, and no word of the whole": lambda _: Answer(
        WHOLE[:SLICE], 206, headers={"Last-Modified": DATE}
    ),
    "the same first part again and again": lambda _: Answer(
        WHOLE[:SLICE], 206, headers=span(0, SLICE - 1)
    ),
    "all of another length": resumed_by(
        lambda start: Answer(WHOLE[start:], 206, headers=span(start, SIZE - 1, SIZE + 1))
    ),
    "an end beyond the total": resumed_by(
        lambda start: Answer(WHOLE[start:] + b"x", 206, headers=span(start, SIZE))
    ),
    "less than its range": resumed_by(
        lambda start: Answer(WHOLE[start:-1], 206, headers=span(start, SIZE - 1))
    ),
    "ranges in parts": resumed_by(
        lambda start: Answer(
            WHOLE[start:],
            206,
            headers={"Content-Type": "multipart/byteranges; boundary=x", "Last-Modified": DATE},
        )
    ),
    "a part that is called all": lambda _: Answer(
        WHOLE[:SLICE], headers={"Content-Range": f"bytes 0-{SLICE - 1}/{SIZE}"}
    ),
    "in gzip": lambda _: Answer(gzip.compress(WHOLE), headers={"Content-Encoding": "gzip"}),
    "in a coding that it does not have": lambda _: Answer(
        WHOLE, headers={"Content-Encoding": "br"}
    ),
    "a page that asks to log in": lambda _: Answer(PAGE, headers={"Content-Type": "text/html"}),
    "a text": lambda _: Answer(b"MAINTENANCE\n"),
    "an archive of it": lambda _: Answer(gzip.compress(WHOLE)),
    "nothing": lambda _: Answer(b""),
}


def only_get(script: Script, length: int = SIZE) -> Script:
    """Let HEAD say what is true."""
    return lambda asked: script(asked) if asked.method == "GET" else Answer(bytes(length))


def spec_of(url: str) -> KernelsSpec:
    return KernelsSpec(
        stack="t",
        sources=[url],
        run_modes=[],
        backoff=QUICK,
        http=QUICK_HTTP,
        free_space_floor_bytes=0,
    )


def passed(script: Script, directories: Directories) -> None:
    """Run a pass at a master with one kernel, which it sends so."""
    with ScriptedServer() as server:
        server.put_json("/api/images", [{"name": "zos.efi", "timestamp": int(OLD)}])
        server.script = lambda asked: (
            only_get(script)(asked) if asked.path == "/kernel/zos.efi" else None
        )
        one_pass(spec_of(server.url), directories)


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_no_whole_kernel_is_not_served(name: str, directories: Directories) -> None:
    with pytest.raises(PassIncompleteError, match=r"zos\.efi"):
        passed(NOTHING[name], directories)
    assert served(directories) == {}
    assert list((directories.kernels / ".gridhub").iterdir()) == []


@pytest.mark.parametrize("kept", [SIZE - 1, SIZE // 2, 2], ids=["all but a byte", "half", "little"])
def test_kernel_that_is_shorter_by_get_than_by_head_is_not_served(
    kept: int, directories: Directories
) -> None:
    """A cache that kept half of it answers with a length that agrees with itself."""
    with pytest.raises(PassIncompleteError, match=rf"HEAD says {SIZE} bytes"):
        passed(lambda _: Answer(WHOLE[:kept]), directories)
    assert served(directories) == {}


@pytest.mark.parametrize(
    "head",
    [Answer(bytes(SIZE + 1)), Answer(bytes(SIZE), mtime=OLD + 1), Answer(b"", 500)],
    ids=["longer", "of another date", "fails"],
)
def test_kernel_is_served_only_where_head_agrees(head: Answer, directories: Directories) -> None:
    with ScriptedServer() as server:
        server.put_json("/api/images", [{"name": "zos.efi", "timestamp": int(OLD)}])
        kernel = Answer(WHOLE, mtime=OLD)
        server.script = lambda asked: (
            None if "/kernel" not in asked.path else kernel if asked.method == "GET" else head
        )
        with pytest.raises(PassIncompleteError):
            one_pass(spec_of(server.url), directories)
        assert served(directories) == {}
        head = kernel
        one_pass(spec_of(server.url), directories)
    assert served(directories) == {"zos.efi": WHOLE}


@pytest.mark.parametrize(
    "data",
    [
        b"MZ" + bytes(100),
        b"\x7fELF" + bytes(100),
        bytes(0x202) + b"HdrS" + bytes(100),
        b"\xea\x05\x00\xc0\x07" + bytes(0x202 - 5) + b"HdrS",
        b"MZ",
    ],
    ids=["EFI", "ELF", "bzImage", "bzImage with a boot sector", "short"],
)
def test_kernel_begins_as_one_of_those_that_boot(data: bytes, directories: Directories) -> None:
    with ScriptedServer() as server:
        server.put_json("/api/images", [{"name": "zos.efi", "timestamp": int(OLD)}])
        server.pages["/kernel/zos.efi"] = Answer(data, mtime=OLD)
        one_pass(spec_of(server.url), directories)
    assert served(directories) == {"zos.efi": data}


def test_page_instead_of_a_net_file_leaves_the_old_link(directories: Directories) -> None:
    link = directories.kernels / "net" / "prod.efi"
    with ScriptedServer() as server:
        server.put_json("/api/images", [{"name": "zos.efi", "timestamp": int(OLD)}])
        for path in ("/kernel/zos.efi", "/kernel/net/prod.efi"):
            server.pages[path] = Answer(WHOLE, mtime=OLD)
        spec = spec_of(server.url).model_copy(update={"run_modes": ["prod"]})
        one_pass(spec, directories)
        assert link.read_bytes() == WHOLE
        server.pages["/kernel/net/prod.efi"] = Answer(PAGE, mtime=OLD + 1)
        with pytest.raises(PassIncompleteError, match=r"net link prod.*is no kernel"):
            one_pass(spec, directories)
        assert link.read_bytes() == WHOLE


def test_truncated_kernel_of_the_release_before_is_found_once_and_mended(
    upstream: Upstream, directories: Directories
) -> None:
    spec = kernels_spec(upstream)
    one_pass(spec, directories)
    half = kernels(upstream)["zos-3.efi"][:20_000]
    (directories.kernels / "zos-3.efi").write_bytes(half)
    with closing(sqlite3.connect(directories.state / DATABASE)) as database:
        database.execute("UPDATE kernel SET size_bytes=? WHERE name='zos-3.efi'", (len(half),))
        database.execute("DELETE FROM meta WHERE name='lengths_checked'")
        database.commit()
    one_pass(spec, directories)
    assert served(directories) == kernels(upstream)
    before = one_pass(spec, directories).details["master_requests"]
    assert before == 1 + len(spec.run_modes), "the list and the net links, and no kernel"
