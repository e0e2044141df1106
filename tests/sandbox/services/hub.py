"""`python3 -m tests.sandbox.services.hub --config FILE`: the mirror's hub.

Reads upstream's config.py (0-hub, src/config.py.sample) and serves what is below
`userdata-root-path`/users; with `readonly: False` it also takes uploads. Before it listens it
tries `zflist-bin` and the 0-db as the real one does, and ends with 1 where they fail.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.sandbox.services import ending, pyconfig, tokens
from tests.sandbox.services.disk import DiskTree
from tests.sandbox.services.http import HttpServer, Request, Response
from tests.sandbox.services.hub_api import HEADERS, HubApi, HubOptions, flist_name
from tests.sandbox.services.hub_flist import Backend, Execute, HubFlist, Workshop, executable
from tests.sandbox.services.hub_writes import HubWrites, Operation
from tests.sandbox.services.web import (
    Route,
    Router,
    absolute,
    cookie,
    handled,
    json_text,
    jsonify,
    page,
)

_REQUIRED: Final = (
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
    "debug",
)
_LOGIN: Final = (
    "iyo-clientid",
    "iyo-secret",
    "iyo-callback",
    "guest-token",
    "threebot-appid",
    "threebot-privatekey",
    "threebot-seed",
    "threebot-users-map",
)
_BACKEND: Final = ("host", "port", "name")
_FORMS: Final = ("/upload", "/upload-flist", "/merge", "/docker-convert")
# Flask keeps the user's name in a signed cookie, new with every answer.
_SESSION: Final = {"Set-Cookie": "session=stand-in; HttpOnly; Path=/", "Vary": "Cookie"}


class Hub:
    """A hub as its configuration describes it; makes the directories that it works in."""

    def __init__(self, config: dict[str, Any], execute: Execute | None = None) -> None:
        pyconfig.required(
            config, *_REQUIRED, *(_LOGIN if config.get("authentication", True) else ())
        )
        self._config = config
        self.readonly = bool(config.get("readonly", False))
        users = Path(config.get("userdata-root-path", "/public")) / "users"
        workdir = Path(config.get("workdir-root-path", "/workdir"))
        for directory in (users.parent, workdir, users, workdir / "temp", workdir / "distfiles"):
            if not directory.exists():
                print(f"[+] creating non-existing directory: {directory}", flush=True)
                directory.mkdir()
        self._shop = Workshop(
            users,
            workdir / "temp",
            Backend(
                *(config[f"backend-internal-{key}"] for key in ("host", "port", "name", "pass"))
            ),
            Backend(*(config[f"backend-public-{key}"] for key in ("host", "port", "name"))),
            execute or executable(config.get("zflist-bin", "/usr/bin/zflist")),
        )
        public = self._shop.public
        options = HubOptions(
            official=tuple(config["official-repositories"]),
            website=config["public-website"],
            backend=f"zdb://{public.host}:{public.port}",
        )
        self._users, self._api = users, HubApi(DiskTree(users), options)
        writes = HubWrites(users, workdir / "distfiles", self._shop)
        self._router = Router([*writes.routes(self._authorized), *self._routes()], HEADERS)

    def _routes(self) -> list[Route]:
        mine = self._authorized(self._my_contents)
        return [
            Route("/api/flist/me/F", mine),
            Route("/api/flist/REPO/F", self._contents),
            Route("/api/flist/REPO/F", self._api.light, ("INFO",)),
            Route("/api/flist/REPO/F/metadata", self._metadata),
            *(Route(form, self._form, ("GET", "POST")) for form in _FORMS),
            Route("/readonly", self._readonly_page),
            *self._api.routes,
        ]

    def __call__(self, request: Request) -> Response:
        """Answer a request; upstream makes a workspace for each, in read-only mode too."""
        with self._shop.workspace():
            return self._router(request)

    # -- start -------------------------------------------------------------------------------

    def check(self) -> bool:
        """Try zflist and the 0-db; what it was tried in stays, and goes where it failed."""
        print("[+] flist: running 0-flist self-check", flush=True)
        workspace = Path(tempfile.mkdtemp(prefix="workspace-", dir=self._shop.work_directory))
        passed = False
        try:
            passed = HubFlist(self._shop, workspace).check()
        finally:
            if not passed:
                shutil.rmtree(workspace)
        return passed

    # -- what needs zflist -------------------------------------------------------------------

    def _contents(self, request: Request, repository: str, name: str) -> Response:
        found = self._api.found(repository, name)
        if isinstance(found, Response):
            return found
        if request.method == "HEAD":
            return page(500)
        with self._shop.flist() as work:
            return json_text(work.contents(self._users / repository / flist_name(name)))

    def _my_contents(self, request: Request, username: str, name: str) -> Response:
        return self._contents(request, username, name)

    def _metadata(self, _: Request, repository: str, name: str) -> Response:
        found = self._api.found(repository, name)
        if isinstance(found, Response):
            return found
        with self._shop.flist() as work:
            return json_text(work.metadata(self._users / repository / flist_name(name)))

    # -- who asks ----------------------------------------------------------------------------

    def _authorized(self, operation: Operation) -> Callable[..., Response]:
        def answer(request: Request, *values: str) -> Response:
            user = self._user(request)
            if isinstance(user, Response):
                return user
            response = handled(operation, request, user, *values)
            response.headers.update(_SESSION)
            return response

        return answer

    def _user(self, request: Request) -> Any:
        """Return whose token it is (any JSON value), or the refusal (src/hub/security.py)."""
        if self.readonly:
            return _refused("readonly mode", 400)
        if not self._config.get("authentication", True):
            return "Administrator"
        header = request.headers.get("authorization", "")
        if not header:
            return _refused("no authorization provided", 401)
        scheme, blank, token = header.partition(" ")
        bearer = token if scheme.lower() == "bearer" and blank else None
        if "." in header:
            return self._guest(bearer)
        if bearer is None:
            return _refused("invalid authorization header", 400)
        return self._signer(request, bearer)

    def _guest(self, token: str | None) -> Any:
        """Take a token with a dot for one of itsyou.online, of which only the guest's is good."""
        if token is None:
            return _refused("could not authenticate", 401)
        return "guest" if token == self._config["guest-token"] else _refused("invalid token", 403)

    def _signer(self, request: Request, token: str) -> Any:
        try:
            username = tokens.username(bytes(self._config["threebot-seed"]), token)
        except tokens.TokenError as error:
            return _refused(str(error), 401)
        return self._acting(request, username)

    def _acting(self, request: Request, username: Any) -> Any:
        virtual = cookie(request, "active-user")
        owners = self._config["threebot-users-map"] or {}
        return virtual if virtual in owners and owners[virtual] == username else username

    # -- pages -------------------------------------------------------------------------------

    def _form(self, request: Request) -> Response:
        place = "/readonly" if self.readonly else "/login-method"
        return page(302, Location=absolute(request, place))

    def _readonly_page(self, request: Request) -> Response:
        return page(200) if self.readonly else page(302, Location=absolute(request, "/"))


def _refused(message: str, status: int) -> Response:
    return jsonify({"status": "error", "message": message}, status)


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="hub", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("/hub/src/config.py"))
    options = parser.parse_args(argv)
    try:
        config = pyconfig.load(options.config)
        hub = Hub(config)
        if not hub.check():
            print("[-] pre-check: your local configuration seems not correct")
            print("[-] pre-check: please check config.py settings and backend status", flush=True)
            return 1
        server = HttpServer(hub, config["listen-addr"], int(config["listen-port"]))
    except (pyconfig.ConfigError, OSError) as error:
        print(f"[-] {error}", file=sys.stderr)
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
