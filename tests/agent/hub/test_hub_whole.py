"""Flists and listings that come in parts, in a coding, or not at all: whole here, or as before."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from sync.agent.job import PassIncompleteError
from sync.agent.master.client import HttpError
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import DAY, OLD
from tests.agent.mirrors import UsersMirror, model_tree
from tests.sandbox.services.http import Connection, Request, Response

Change = Callable[[Response], Response]


def change_answers(mirror: UsersMirror, suffix: str, change: Change) -> None:
    """Let the master's hub answer so for every path that ends in `suffix`."""
    server = mirror.upstream.hub
    inner = server.deliver

    def deliver(connection: Connection, request: Request, response: Response) -> bool:
        # HEAD is how links are asked for: it stays as it is.
        if request.method == "GET" and request.path.endswith(suffix) and response.status < 300:
            response = change(response)
        return bool(inner(connection, request, response))

    server.deliver = deliver


def first_bytes(count: int) -> Change:
    """Return less of what was asked for, as caches do that cut files into slices."""

    def change(response: Response) -> Response:
        end = min(response.start + count, response.content.size)
        said = f"bytes {response.start}-{end - 1}/{response.content.size}"
        headers = response.headers | {"Content-Range": said}
        return replace(response, status=206, headers=headers, length=end - response.start)

    return change


def with_headers(status: int | None = None, **headers: str) -> Change:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda response: replace(
        response, headers=response.headers | named, status=status or response.status
    )


@pytest.mark.parametrize("count", [100, 400, 1 << 20])
def test_flist_that_comes_in_slices_is_served_whole(count: int, mirror: UsersMirror) -> None:
    change_answers(mirror, ".flist", first_bytes(count))
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_flist_in_a_coding_that_nobody_asked_for_is_not_served(
    coding: str, mirror: UsersMirror
) -> None:
    change_answers(mirror, "/zos-1.flist", with_headers(Content_Encoding=coding))
    with pytest.raises(PassIncompleteError, match=r"zos-1\.flist.*not asked for"):
        mirror.one_pass()
    assert "tf-zos/zos-1.flist" not in mirror.served()
    assert "tf-zos/zos-2.flist" in mirror.served()


@pytest.mark.parametrize("status", [206, 304, 203, 204, 416])
def test_listing_that_is_no_whole_page_changes_nothing(status: int, mirror: UsersMirror) -> None:
    """Unchanged since never, or a part: an empty listing would remove all that is served."""
    mirror.one_pass()
    before = mirror.served()
    change_answers(mirror, "/api/fileslist", with_headers(status))
    mirror.upstream.model.add_flist("alice", "new.flist", small(70), OLD + DAY)
    with pytest.raises(HttpError, match=str(status)):
        mirror.one_pass()
    assert mirror.served() == before


@pytest.mark.parametrize("status", [206, 304])
def test_tag_page_that_is_no_whole_page_leaves_the_tag(status: int, mirror: UsersMirror) -> None:
    mirror.one_pass()
    before = mirror.served()
    change_answers(mirror, "/tags/3.1", with_headers(status))
    mirror.upstream.model.retarget_tag("tf-zos", "3.1", "zos.flist", "tf-zos/zos-2.flist")
    with pytest.raises(PassIncompleteError, match=str(status)):
        mirror.one_pass()
    assert mirror.served() == before
