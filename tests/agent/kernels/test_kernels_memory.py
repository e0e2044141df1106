"""A list of kernels costs no more memory than the job has, whatever a few KiB of gzip unfold to."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from sync.agent.budget import Budget
from sync.agent.job import JobPaused
from sync.agent.kernels import listing
from sync.agent.master.client import HttpError
from sync.agent.name_room import KERNEL_BYTES, NameRoom
from sync.contract.job_memory import OWN_BYTES
from tests.agent.kernels.kernels_mirror import engine_of, kernels_model, one_pass, served
from tests.agent.mirrors import kernels_spec, make_directories
from tests.sandbox.services.http import Connection, HttpServer, Request, Response, text
from tests.sandbox.upstream import Upstream

MIB = 1 << 20
SMALL_MB = (OWN_BYTES >> 20) + 10
ROWS = {
    "rows without anything": f"[{','.join(['{}'] * 40_000)}]",
    "rows that are no rows": f"[{','.join(['1'] * 40_000)}]",
    "kernels": json.dumps([{"name": f"k{number}", "timestamp": 1} for number in range(4_000)]),
    "one row of many objects": f"[[{','.join(['{}'] * 300_000)}]]",
    "a name of megabytes": json.dumps([{"name": "x" * 4 * MIB}]),
    "brackets": "[" * MIB,
}
PAGES = {
    "kernels": "".join(f'<a href="/kernel/k{number}">' for number in range(4_000)),
    "kernels without names": '<a href="/kernel/">' * 40_000,
    "more than any page has": "kernel" * 2 * MIB,
}


def send(server: HttpServer, path: str, body: str) -> None:
    """Let the master send `body` for a page, as gzip, and have no other list."""
    inner = server.deliver

    def deliver(connection: Connection, request: Request, response: Response) -> bool:
        if request.path == path:
            made = text(body)
            content = type(made.content)(0.0, gzip.compress(body.encode()))
            response = Response(200, {"Content-Encoding": "gzip"}, content)
        elif request.path == "/api/images":
            response = text("", 404)
        return bool(inner(connection, request, response))

    server.deliver = deliver


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *(pytest.param("/api/images", body, id=f"api: {what}") for what, body in ROWS.items()),
        *(pytest.param("/images", body, id=f"page: {what}") for what, body in PAGES.items()),
    ],
)
def test_list_that_costs_more_than_the_job_has_is_refused_and_removes_nothing(
    path: str, body: str, tmp_path: Path
) -> None:
    with Upstream(kernels_model()) as upstream:
        directories = make_directories(tmp_path)
        spec = kernels_spec(upstream, memory_limit_mb=SMALL_MB)
        one_pass(spec, directories)
        before = served(directories)
        send(upstream.bootstrap, path, body)
        with engine_of(spec, directories) as engine:
            tracemalloc.start()
            # A row that is too long is left out: the guard sees that nothing else is listed.
            reason = r"memoryMb|not JSON|longer than|no longer lists"
            with pytest.raises((HttpError, JobPaused), match=reason):
                engine.one_pass()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 32 * MIB
        assert served(directories) == before


def test_the_default_memory_has_room_for_tens_of_thousands_of_kernels(tmp_path: Path) -> None:
    with Upstream(kernels_model()) as upstream:
        budget = Budget.of(kernels_spec(upstream))
    with NameRoom.of(budget).page() as room:
        for number in range(40_000):
            room.take(KERNEL_BYTES, [f"zos-development-v3.{number}.efi"])
    assert budget.total_bytes > listing.MAX_PAGE_BYTES * listing.PAGE_COST
