"""A small hub with all four shapes of links, and damage done to the pages that it sends."""

import time
from dataclasses import replace

from tests.agent.hub.flists_of import small
from tests.sandbox.services.http import Connection, HttpServer, Request, Response
from tests.sandbox.upstream import UpstreamModel

OLD = 1_700_000_000.0
DAY = 86_400.0


def small_model() -> UpstreamModel:
    """Return two official repositories and one of a user, all of them old."""
    model = UpstreamModel()
    model.now = lambda: OLD
    for number in range(3):
        model.add_flist("tf-zos", f"zos-{number}.flist", small(number), OLD + number * DAY)
    model.add_flist("tf-bootable", "debian.flist", small(10), OLD)
    model.add_flist("alice", "blog.flist", small(20), OLD + 9 * DAY)
    model.add_flist("alice", "shop.flist", small(21), OLD)
    model.set_link("tf-zos", "zos.flist", "zos-1.flist")
    model.set_link("alice", "base.flist", "tf-bootable/debian.flist")
    model.set_tag("tf-zos", "3.1", {"zos.flist": "tf-zos/zos-1.flist"})
    model.set_taglink("tf-zos", "production", "tf-zos", "3.1")
    model.set_taglink("alice", "zos", "tf-zos", "3.1")
    model.now = time.time
    return model


def corrupt(server: HttpServer, path: str, old: bytes, new: bytes) -> None:
    """Let the master send `new` for `old` in the body of one page."""
    inner = server.deliver

    def deliver(connection: Connection, request: Request, response: Response) -> bool:
        if request.path == path:
            body = b"".join(response.content.blocks(response.start, response.length))
            content = replace(response.content, data=body.replace(old, new), path=None)
            response = replace(response, content=content, start=0, length=None)
        return bool(inner(connection, request, response))

    server.deliver = deliver
