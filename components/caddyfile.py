"""The Caddyfile of the edge: what is served on which port, to whom, with which headers.

Written for Caddy 2.6 and later. Plain port 80 answers what a booting node asks there; everything
else is redirected to HTTPS.
"""

from dataclasses import dataclass
from typing import Final

METRICS_PORT: Final = 9180
LOG_MOUNT: Final = "/log"
_FLIST: Final = r"^/[^/]+(/tags/[^/]+)?/[^/]+\.flist(\.md5)?$"
_AUTHORITIES: Final = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


@dataclass(frozen=True)
class CaddyfileConfig:
    """hub, bootstrap: host names (bootstrap: null where it does not run here).

    https_port: as the outside sees it. ca: see AcmeSettings. uploads: the hub accepts them.
    """

    hub: str
    bootstrap: str | None
    https_port: int
    ca: str
    email: str | None
    uploads: bool


def caddyfile(config: CaddyfileConfig) -> str:
    """Return the whole Caddyfile."""
    blocks = [_global(config), *_snippets(config), _monitoring()]
    blocks += [_hub_http(config), _hub_https(config)]
    if config.bootstrap is not None:
        blocks += [_bootstrap_http(config, config.bootstrap), _bootstrap_https(config.bootstrap)]
    return "\n\n".join([*blocks, _other_http()]) + "\n"


def _block(head: str, *lines: str) -> str:
    body = "\n".join(f"\t{line}" if line else "" for line in lines)
    return f"{head} {{\n{body}\n}}".lstrip()


def _indented(text: str) -> tuple[str, ...]:
    return tuple(text.split("\n"))


def _global(config: CaddyfileConfig) -> str:
    authority = []
    if config.ca != "internal":
        authority = [f"acme_ca {_AUTHORITIES.get(config.ca, config.ca)}", f"email {config.email}"]
    return _block(
        "",
        # No one reconfigures a running edge: it restarts with a new file.
        "admin off",
        # The redirects below are ours: they leave plain what nodes ask plainly.
        "auto_https disable_redirects",
        "grace_period 10s",
        *authority,
        *_indented(_block("log", "format json", "output stdout", "exclude http.log.access")),
        *_indented(_block("servers", "metrics", "protocols h1 h2")),
    )


def _monitoring() -> str:
    return _block(f":{METRICS_PORT}", "metrics /metrics", "respond /healthz 200")


def _snippets(config: CaddyfileConfig) -> list[str]:
    log = _block(
        "log",
        "format json",
        *_indented(
            _block(f"output file {LOG_MOUNT}/access.log", "roll_size 50MiB", "roll_keep 10")
        ),
    )
    headers = _block(
        "header",
        "-Server",
        "Referrer-Policy same-origin",
        "X-Content-Type-Options nosniff",
        "X-Frame-Options SAMEORIGIN",
    )
    secure = (
        [] if config.ca == "internal" else ['header Strict-Transport-Security "max-age=31536000"']
    )
    tls = ["tls internal"] if config.ca == "internal" else []
    return [
        _block("(plain)", *_indented(log), *_indented(headers)),
        _block("(encrypted)", *tls, *_indented(log), *_indented(headers), *secure),
    ]


def _redirect(config: CaddyfileConfig, host: str) -> str:
    port = "" if config.https_port == 443 else f":{config.https_port}"  # noqa: PLR2004  https
    return _block("handle", f"redir https://{host}{port}{{uri}} 308")


def _hub_http(config: CaddyfileConfig) -> str:
    nodes = _block("@node", "method GET HEAD", f"path_regexp {_FLIST}")
    return _block(
        f"http://{config.hub}",
        "import plain",
        # What a node asks before and while it boots: is there a hub, which flist, its md5.
        *_indented(_block("@probe", "method GET HEAD", "path /api/flist")),
        *_indented(nodes),
        *_indented(_block("handle @probe", "reverse_proxy hub:5555")),
        *_indented(_block("handle @node", "reverse_proxy hub:5555")),
        *_indented(_redirect(config, config.hub)),
    )


def _hub_https(config: CaddyfileConfig) -> str:
    # A read-only hub has no use for a body.
    limit = [] if config.uploads else list(_indented(_block("request_body", "max_size 1MB")))
    return _block(
        f"https://{config.hub}", "import encrypted", "encode gzip", *limit, "reverse_proxy hub:5555"
    )


def _bootstrap_http(config: CaddyfileConfig, host: str) -> str:
    return _block(
        f"http://{host}",
        "import plain",
        *_indented(_block("@node", "method GET HEAD", "path /kernel/* /ipxe/*")),
        *_indented(_block("handle @node", "reverse_proxy bootstrap:5555")),
        *_indented(_redirect(config, host)),
    )


def _bootstrap_https(host: str) -> str:
    # /api/kernel takes file names with `../`, /api/symlink replaces kernels: the kernels are the
    # kernels job's alone, so nobody outside needs either.
    return _block(
        f"https://{host}",
        "import encrypted",
        "@write path /api/kernel /api/kernel/* /api/symlink /api/symlink/*",
        "handle @write {",
        "\trespond 403",
        "}",
        *_indented(_block("handle", "reverse_proxy bootstrap:5555")),
    )


def _other_http() -> str:
    # A request for a name that is not ours: no answer is a redirect to somewhere else.
    return _block("http://", "respond 404")
