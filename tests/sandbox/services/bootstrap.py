"""`python3 -m tests.sandbox.services.bootstrap --config FILE`: the mirror's bootstrap server.

Reads upstream's config.py (0-bootstrap, config.py.sample) and serves `kernel-path`; whoever has
the `api-token` may upload kernels and set links.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.sandbox.services import pyconfig
from tests.sandbox.services.bootstrap_api import BootstrapApi, BootstrapOptions
from tests.sandbox.services.disk import DiskKernels
from tests.sandbox.services.http import HttpServer, Request, Response
from tests.sandbox.services.hub import serve
from tests.sandbox.services.web import Form, Handler, Route, Router, cookie, jsonify


class Bootstrap:
    """A bootstrap server as its configuration describes it."""

    def __init__(self, config: dict[str, Any], options: BootstrapOptions | None = None) -> None:
        pyconfig.required(config, "kernel-path", "kernel-net-path", "http-port", "api-token")
        pyconfig.required(config, "runmodes", "debug")
        self._root = Path(config["kernel-path"])
        self._token = str(config["api-token"])
        kernels = DiskKernels(self._root, Path(config["kernel-net-path"]))
        given = options or BootstrapOptions()
        template = Path(config.get("ipxe-template", "/nonexistent"))
        build = partial(built, template) if template.is_dir() else None
        api = BootstrapApi(kernels, replace(given, run_modes=dict(config["runmodes"])), build)
        own = [
            Route("/api/kernel", self._guarded(self._upload), ("POST",)),
            Route("/api/symlink/NAME/TARGET", self._guarded(self._link)),
        ]
        self._router = Router([*own, *api.routes])

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        return self._router(request)

    def _guarded(self, operation: Handler) -> Handler:
        """Refuse who does not show the token; upstream says so with 200, and so do we."""

        def answer(request: Request, *values: str) -> Response:
            given = cookie(request, "token")
            if not given:
                return _said("token not found")
            if given != self._token:
                return _said("invalid token")
            return operation(request, *values)

        return answer

    def _upload(self, request: Request) -> Response:
        kernel = Form.of(request).files.get("kernel")
        if kernel is None:
            return _said("no file found")
        if not kernel.filename:
            return _said("no file selected")
        # Upstream's: a path in the name leads anywhere, and a link is written through.
        (self._root / kernel.filename).write_bytes(kernel.data)
        return jsonify({"status": "success"})

    def _link(self, _: Request, name: str, target: str) -> Response:
        place = self._root / name
        if place.is_symlink() or place.is_file():
            place.unlink()
        place.symlink_to(target)
        return jsonify({"status": "success"})


def built(template: Path, script: bytes) -> bytes:
    """Make a boot medium at upstream's cost: a copy of the template in /tmp, then work on it.

    The image of the sandbox has no template; that of a load test has.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree(template, copy)
        for file in sorted(copy.rglob("*")):
            subprocess.run(["gzip", "-9", "-k", str(file)], check=False, capture_output=True)
            file.with_name(f"{file.name}.gz").unlink(missing_ok=True)
    return script + bytes(1 << 20)


def _said(message: str) -> Response:
    return jsonify({"status": "error", "message": message})


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="bootstrap", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("/bootstrap/config.py"))
    parser.add_argument("--listen", default="0.0.0.0")
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
