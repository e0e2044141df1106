"""`python3 -m tests.sandbox.services.bootstrap --config FILE`: the mirror's bootstrap server.

Reads upstream's config.py (0-bootstrap, config.py.sample) and serves `kernel-path`; whoever has
the `api-token` may upload kernels and set links.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from tests.sandbox.services import pyconfig
from tests.sandbox.services.bootstrap_api import BootstrapApi, BootstrapOptions
from tests.sandbox.services.disk import DiskKernels
from tests.sandbox.services.http import HttpServer, Request, Response, not_found
from tests.sandbox.services.hub import serve
from tests.sandbox.services.hub_api import api_error, api_success
from tests.sandbox.services.hub_writes import RefusedUploadError, uploaded


class Bootstrap:
    """A bootstrap server as its configuration describes it."""

    def __init__(self, config: dict[str, Any]) -> None:
        pyconfig.required(config, "kernel-path", "kernel-net-path", "http-port", "api-token")
        pyconfig.required(config, "runmodes", "debug")
        self._root = Path(config["kernel-path"])
        self._token = str(config["api-token"])
        kernels = DiskKernels(self._root, Path(config["kernel-net-path"]))
        self._api = BootstrapApi(kernels, BootstrapOptions(run_modes=dict(config["runmodes"])))

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        path = request.path.rstrip("/")
        if path == "/api/kernel" and request.method == "POST":
            return self._guarded(request) or self._upload(request)
        words = path.split("/")
        if words[:3] == ["", "api", "symlink"] and len(words) == 5:
            return self._guarded(request) or self._link(words[3], words[4])
        if request.method not in {"GET", "HEAD"}:
            return not_found()
        return self._api(request)

    def _guarded(self, request: Request) -> Response | None:
        """Refuse who does not show the token; upstream says so with 200, and so do we."""
        cookies = request.headers.get("cookie", "").split("; ")
        given = next((c.partition("=")[2] for c in cookies if c.startswith("token=")), None)
        if given is None:
            return api_error("token not found", 200)
        return None if given == self._token else api_error("invalid token", 200)

    def _upload(self, request: Request) -> Response:
        try:
            kernel = uploaded(_as_file(request))
            (self._root / kernel.filename).write_bytes(kernel.data)
        except (RefusedUploadError, OSError) as error:
            return api_error(str(error), 200)
        return api_success()

    def _link(self, name: str, target: str) -> Response:
        if name in {"", ".", ".."} or target in {"", ".", ".."}:
            return api_error("not a name", 200)
        temporary = self._root / f".{os.urandom(8).hex()}"
        temporary.symlink_to(target)
        temporary.replace(self._root / name)
        return api_success()


def _as_file(request: Request) -> Request:
    """Rename the form's field `kernel` to the hub's `file`."""
    renamed = request.body.replace(b'name="kernel"', b'name="file"', 1)
    return Request(request.method, request.path, request.query, request.headers, renamed)


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="bootstrap", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("/bootstrap/config.py"))
    parser.add_argument("--listen", default="::")
    options = parser.parse_args(argv)
    try:
        config = pyconfig.load(options.config)
        server = HttpServer(Bootstrap(config), options.listen, int(config["http-port"]))
    except (pyconfig.ConfigError, OSError) as error:
        print(f"[-] {error}", file=sys.stderr)
        return 1
    return serve(server, "bootstrap")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
