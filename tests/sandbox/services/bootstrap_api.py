"""0-bootstrap's HTTP service over any set of kernels (0-bootstrap, bootstrap.py)."""

import datetime as dt
import html
import json
import re
from dataclasses import dataclass, field
from typing import Protocol

from tests.sandbox.services.http import Content, Request, Response, download, not_found, text


@dataclass(frozen=True)
class BootstrapOptions:
    """run_modes: short name to title. api_images: older revisions have only the HTML page."""

    run_modes: dict[str, str] = field(
        default_factory=lambda: {
            "prod": "production (v3)",
            "test": "testing (v3)",
            "dev": "development (v3)",
            "qa": "qa-network (v3)",
        }
    )
    api_images: bool = True


class Kernels(Protocol):
    """The directory of kernels."""

    def kernels(self) -> list[tuple[str, float]]:
        """Name and modification time of each regular file at the top."""
        ...

    def content(self, path: str) -> Content | None:
        """Return a file by its path (`NAME` or `net/MODE.efi`); None where there is none."""
        ...


class BootstrapApi:
    """Answers what a bootstrap server answers to anybody."""

    def __init__(
        self,
        kernels: Kernels,
        options: BootstrapOptions = BootstrapOptions(),
    ) -> None:
        self.kernels, self.options = kernels, options

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        path = request.path.rstrip("/") or "/"
        if path == "/":
            return text("<!doctype html><title>Zero-OS Bootstrap</title>\n").at("/")
        if path == "/api/images" and self.options.api_images:
            return self._images().at("/api/images")
        if path == "/images":
            return self._page().at("/images")
        if path.startswith("/kernel/"):
            label = "/kernel/net" if path.startswith("/kernel/net/") else "/kernel"
            return self._kernel(request, path.removeprefix("/kernel/")).at(label)
        if match := re.fullmatch(r"/ipxe/([^/]+)(?:/([^/]+))?(?:/([^/]+))?(?:/([^/]+))?", path):
            return self._script(request, *match.groups()).at("/ipxe")
        return not_found().at("404")

    def _sorted(self) -> list[tuple[str, float]]:
        return sorted(self.kernels.kernels(), key=lambda kernel: kernel[1], reverse=True)

    def _images(self) -> Response:
        listed = [
            {
                "name": name,
                "release": name[:-4],
                "timestamp": int(modified),
                "updated": _date(modified),
            }
            for name, modified in self._sorted()
        ]
        return text(json.dumps(listed) + "\n", kind="application/json")

    def _page(self) -> Response:
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

    def _kernel(self, request: Request, path: str) -> Response:
        content = self.kernels.content(path)
        if content is None:
            return not_found()
        return download(request, content, path.rpartition("/")[2])

    def _script(
        self,
        request: Request,
        mode: str,
        farm: str | None,
        extra: str | None,
        kernel: str | None,
    ) -> Response:
        if mode not in self.options.run_modes:
            return text("<title>401 Unauthorized</title>", 401)
        source = kernel or f"net/{mode}.efi"
        if self.kernels.content(source) is None:
            return not_found()
        host = request.headers.get("host", "localhost")
        protocol = "http" if "unsecure" in host else "https"
        line = f"nomodeset version=v3 runmode={mode} panic=7200"
        line += f" farmer_id={farm}" if farm else ""
        line += " " + extra.replace("___", "/") if extra else ""
        script = (
            "#!ipxe\nconsole\n\n"
            f"echo Release.....: {self.options.run_modes[mode]}\necho Farm ID.....: {farm or ''}\n"
            f"echo Parameters..: {extra or ''}\n\n"
            f"imgfetch --name zos {protocol}://{host}/kernel/{source} {line}\nimgexec zos\n"
        )
        return text(script, kind="text/plain")


def _date(seconds: float) -> str:
    moment = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    return moment.strftime("%Y-%m-%d, %H:%M:%S (UTC)")
