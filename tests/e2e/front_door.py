"""Plain HTTP in front of a mirror's HTTPS, under its own name.

It stands for what a test cannot have: a certificate that the agents of another stack trust.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import urllib3

from tests.e2e.nodes import authority
from tests.e2e.stack import MirrorStack

_PASSED = ("range", "if-range", "if-modified-since", "if-none-match", "accept-encoding")
_KEPT = (
    *("content-type", "last-modified", "etag", "content-range", "accept-ranges"),
    *("content-encoding", "retry-after"),
)


class FrontDoor:
    """Serves `http://ADDRESS:port` as `https://NAME` of the stack; a context manager."""

    def __init__(self, stack: MirrorStack, service: str, address: str) -> None:
        name = f"{service}.{stack.domain}"
        pool = urllib3.HTTPSConnectionPool(
            "127.0.0.1",
            stack.https_port,
            maxsize=16,
            server_hostname=name,
            assert_hostname=name,
            ca_certs=str(authority(stack)),
            timeout=60,
        )
        host = f"{name}:{stack.https_port}"

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                return

            def do_GET(self) -> None:
                asked = {key: self.headers[key] for key in _PASSED if key in self.headers}
                answer = pool.request(
                    self.command,
                    self.path,
                    headers={**asked, "Host": host},
                    redirect=False,
                    retries=False,
                    decode_content=False,
                )
                self.send_response(answer.status)
                for key in _KEPT:
                    if key in answer.headers:
                        self.send_header(key, answer.headers[key])
                length = answer.headers.get("content-length")
                body = answer.data
                self.send_header("content-length", length or str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - named by http.server

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://{address}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
