"""0-bootstrap's HTTP service over any set of kernels (0-bootstrap, bootstrap.py)."""

import datetime as dt
import html
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from tests.sandbox.services.http import Content, Request, Response, text
from tests.sandbox.services.web import Route, Router, download, jsonify, not_found, page

_FLASK_1_SECONDS: Final = 43200  # how long it lets a client keep a file


@dataclass(frozen=True)
class BootstrapOptions:
    """run_modes: short name to title.

    revision: that of 2023-10 has only the HTML page, lists dot files, and runs on Flask 1.
    """

    run_modes: dict[str, str] = field(
        default_factory=lambda: {
            "prod": "production (v3)",
            "test": "testing (v3)",
            "dev": "development (v3)",
            "qa": "qa-network (v3)",
        }
    )
    revision: Literal["newest", "2023-10"] = "newest"


class Kernels(Protocol):
    """The directory of kernels."""

    def kernels(self) -> list[tuple[str, float]]:
        """Name and modification time of each regular file at the top."""
        ...

    def content(self, path: str) -> Content | None:
        """Return a file by its path (`NAME` or `net/MODE.efi`); None where there is none."""
        ...

    def holds(self, path: str) -> bool:
        """Return whether there is such a file or directory, links followed."""
        ...


class BootstrapApi:
    """What a bootstrap server answers to anybody; `routes` are for one that answers more.

    build: makes a boot medium of a script; without it, only what is refused is answered as the
    real one does.
    """

    def __init__(
        self,
        kernels: Kernels,
        options: BootstrapOptions = BootstrapOptions(),
        build: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._build = build
        self.kernels, self.options = kernels, options
        self._newest = options.revision == "newest"
        images = [Route("/api/images", self._images)] if self._newest else []
        self.routes = [
            *images,
            Route("/images", self._page),
            Route("/kernel/net/PATH", self._net_kernel),
            Route("/kernel/PATH", self._kernel),
            Route("/ipxe/MODE", self._script),
            Route("/ipxe/MODE/FARM", self._script),
            Route("/ipxe/MODE/FARM/EXTRA", self._script),
            Route("/ipxe/MODE/FARM/EXTRA/NAME", self._script),
            *(Route(place, _front_page) for place in ("/", "/generate", "/expert")),
            *(Route(f"/{rule}", self._medium) for rule in _media()),
        ]
        self._router = Router(self.routes)

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        return self._router(request)

    def _sorted(self) -> list[tuple[str, float]]:
        listed = [one for one in self.kernels.kernels() if not (self._newest and one[0][0] == ".")]
        return sorted(listed, key=lambda kernel: kernel[1], reverse=True)

    def _images(self, _: Request) -> Response:
        return jsonify(
            [
                {
                    "name": name,
                    "release": name[:-4],
                    "timestamp": int(modified),
                    "updated": _date(modified),
                }
                for name, modified in self._sorted()
            ]
        )

    def _page(self, _: Request) -> Response:
        rows = "".join(
            "              <tr>\n                    <td>\n"
            '                        <a class="kernel"'
            f' href="/kernel/{html.escape(name)}">{html.escape(name[:-4])}</a>\n'
            f"                    </td>\n                    <td>{_date(modified)}</td>\n"
            "              </tr>\n"
            for name, modified in self._sorted()
        )
        return text(
            "<!doctype html>\n<html><head><title>Zero-OS Bootstrap :: Images (kernels)</title>"
            '</head><body>\n<table class="table table-sm table-normal-head">\n'
            "<thead><tr><th>Kernal name</th><th>Updated</th></tr></thead>\n<tbody>\n"
            f"{rows}</tbody>\n</table>\n</body></html>\n"
        )

    def _net_kernel(self, request: Request, path: str) -> Response:
        return self._kernel(request, f"net/{path}")

    def _kernel(self, request: Request, path: str) -> Response:
        content = self.kernels.content(path)
        if content is None:
            return not_found()
        name = path.rpartition("/")[2]
        if self._newest:
            return download(request, content, name)
        etag = f"{content.modified}-{content.size}-{zlib.adler32(path.encode())}"
        return download(request, content, name, etag, _FLASK_1_SECONDS)

    def _script(
        self, request: Request, mode: str, farm: str = "", extra: str = "", kernel: str = ""
    ) -> Response:
        source = kernel or f"net/{mode}.efi"
        if refused := self._refused(mode, source):
            return refused
        host = request.headers.get("host", "localhost")
        protocol = "http" if "unsecure" in host else "https"
        version = request.query.get("version", "v3") if self._newest else "v3"
        line = f"nomodeset version={version} runmode={mode} panic=7200"
        line += f" farmer_id={farm}" if farm else ""
        line += " " + extra.replace("___", "/") if extra else ""
        script = (
            "#!ipxe\nconsole\n\n"
            f"echo Release.....: {self.options.run_modes[mode]}\necho Farm ID.....: {farm}\n"
            f"echo Parameters..: {extra}\n\n:download\n"
            f"imgfetch --name zos {protocol}://{host}/kernel/{source} {line}"
            " || goto download_retry\n"
            "imgexec zos\n\n:download_retry\nsleep 3\ngoto download\n"
        )
        return text(script, kind="text/plain")

    def _medium(self, request: Request, mode: str, *more: str) -> Response:
        """Refuse as the real one does before it builds; build where there is what it takes."""
        kernel = more[2] if len(more) > 2 else ""
        if refused := self._refused(mode, kernel or f"net/{mode}.efi"):
            return refused
        if self._build is None:
            return page(501)
        script = self._script(request, mode, *more).content.read()
        headers = {"Content-Type": "application/octet-stream"}
        return Response(200, headers, Content(0.0, self._build(script)))

    def _refused(self, mode: str, source: str) -> Response | None:
        if mode not in self.options.run_modes:
            return page(401)
        return None if self.kernels.holds(source) else not_found()


def _media() -> list[str]:
    kinds, whole = ("iso", "usb", "krn", "uefi", "uefimg"), "MODE/FARM/EXTRA"
    shorter = [f"{kind}/{rule}" for kind in kinds for rule in ("MODE", "MODE/FARM", whole)]
    named = [f"{kind}/{whole}/NAME" for kind in kinds if kind != "krn"]
    return [*shorter, *named, f"snponly/{whole}"]


def _front_page(_: Request) -> Response:
    return page(200)


def _date(seconds: float) -> str:
    moment = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    return moment.strftime("%Y-%m-%d, %H:%M:%S (UTC)")
