"""`python3 -m tests.sandbox.services.hub --config FILE`: the mirror's hub.

Reads upstream's config.py (0-hub, src/config.py.sample) and serves what is below
`userdata-root-path`/users; with `readonly: False` it also takes uploads.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from tests.sandbox.flist import Backend
from tests.sandbox.services import ending, pyconfig, tokens
from tests.sandbox.services.disk import DiskTree
from tests.sandbox.services.http import HttpServer, Request, Response, text
from tests.sandbox.services.hub_api import HubApi, HubOptions, api_error, cors
from tests.sandbox.services.hub_writes import ChunkStore, HubWrites
from tests.sandbox.services.zdb_client import ZdbError

_REQUIRED = (
    "backend-internal-host",
    "backend-internal-port",
    "backend-internal-pass",
    "backend-internal-name",
    "backend-public-host",
    "backend-public-port",
    "backend-public-name",
    "public-website",
    "listen-addr",
    "listen-port",
    "official-repositories",
    "threebot-seed",
    "debug",
)


class Hub:
    """A hub as its configuration describes it."""

    def __init__(self, config: dict[str, Any]) -> None:
        pyconfig.required(config, *_REQUIRED)
        self.readonly = bool(config.get("readonly", False))
        self.authentication = bool(config.get("authentication", True))
        self._seed = bytes(config["threebot-seed"])
        self._guest = config.get("guest-token")
        self._virtual_users = dict(config.get("threebot-users-map") or {})
        users = Path(config.get("userdata-root-path", "/public")) / "users"
        workdir = Path(config.get("workdir-root-path", "/workdir"))
        public = Backend(
            config["backend-public-host"],
            int(config["backend-public-port"]),
            config["backend-public-name"],
        )
        self.chunks = ChunkStore(
            config["backend-internal-host"],
            int(config["backend-internal-port"]),
            config["backend-internal-name"],
            config["backend-internal-pass"] or "",
        )
        options = HubOptions(
            official=tuple(config["official-repositories"]),
            website=config["public-website"],
            backend=f"zdb://{public.host}:{public.port}",
        )
        self._api = HubApi(DiskTree(users), options)
        self._writes = HubWrites(users, workdir, self.chunks, public)

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        path = request.path.rstrip("/")
        if path == "/api/flist/me" or path.startswith("/api/flist/me/"):
            return cors(self._me(request)).at("/api/flist/me")
        if path in {"/upload", "/upload-flist", "/merge", "/docker-convert"}:
            place = "/readonly" if self.readonly else "/login-method"
            return cors(text("", 302, Location=place)).at(path)
        return self._api(request)

    def _me(self, request: Request) -> Response:
        if self.readonly:
            return api_error("readonly mode", 400)
        if not self.authentication:
            return self._writes.answer(request, "Administrator")
        header = request.headers.get("authorization")
        if not header:
            return api_error("no authorization provided", 401)
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            return api_error("invalid authorization header", 400)
        try:
            username = self._username(request, token.strip())
        except tokens.TokenError as error:
            return api_error(str(error), 401)
        return self._writes.answer(request, username)

    def _username(self, request: Request, token: str) -> str:
        if self._guest is not None and token == self._guest:
            return "guest"
        username = tokens.username(self._seed, token)
        cookies = request.headers.get("cookie", "")
        for virtual, owner in self._virtual_users.items():
            if owner == username and f"active-user={virtual}" in cookies.split("; "):
                return str(virtual)
        return username


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="hub", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("/hub/src/config.py"))
    options = parser.parse_args(argv)
    try:
        config = pyconfig.load(options.config)
        hub = Hub(config)
        hub.chunks.connect().close()  # as 0-hub does at start: no 0-db, no hub
        server = HttpServer(hub, config["listen-addr"], int(config["listen-port"]))
    except (pyconfig.ConfigError, ZdbError, OSError) as error:
        print(f"[-] pre-check: {error}; check config.py and the backend", file=sys.stderr)
        return 1
    return serve(server, "hub (read-only)" if hub.readonly else "hub")


def serve(server: HttpServer, name: str) -> int:
    """Run a server until SIGTERM or SIGINT."""
    ending.block()
    server.start()
    print(f"[+] {name} listening on {server.url}", flush=True)
    ending.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
