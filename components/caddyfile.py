"""The Caddyfile of the edge: what is served on which port, to whom, with which headers.

Written for Caddy 2.6 and later. Plain port 80 answers what a booting node asks there; everything
else is redirected to HTTPS.
"""

from dataclasses import dataclass
from typing import Final

from components.naming import unsecure

METRICS_PORT: Final = 9180
LOG_MOUNT: Final = "/log"
# What flistd downloads on one plain connection that no redirect may end; what is not there is the
# hub's 404 (zos: pkg/flist/flist.go).
_FLIST: Final = r"\.(flist|flist\.md5|fl)$"
# Certificates of upstream's layout or of an earlier release lie in /data/caddy with P-256 keys; a
# stored one is used until it expires, whatever `key_type` says by then.
_STORAGE: Final = "/data/gridhub"
_AUTHORITIES: Final = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


@dataclass(frozen=True)
class CaddyfileConfig:
    """hub, bootstrap: host names (bootstrap: null where it does not run here).

    https_port: as the outside sees it. ca: see AcmeSettings. uploads: the hub accepts them.
    hub_aliases: further names of the hub, on plain HTTP only.
    """

    hub: str
    bootstrap: str | None
    https_port: int
    ca: str
    email: str | None
    uploads: bool
    hub_aliases: tuple[str, ...] = ()


def caddyfile(config: CaddyfileConfig) -> str:
    """Return the whole Caddyfile."""
    blocks = [_global(config), *_snippets(config), _monitoring()]
    blocks += [_hub_http(config), _hub_https(config)]
    if config.bootstrap is not None:
        blocks += [
            _bootstrap(),
            _bootstrap_http(config, config.bootstrap),
            _bootstrap_unsecure(config.bootstrap),
            _bootstrap_https(config, config.bootstrap),
        ]
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
        f"storage file_system {_STORAGE}",
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
    return [
        _block("(plain)", *_indented(log), *_indented(headers)),
        _block("(encrypted)", *_indented(log), *_indented(headers), *secure),
    ]


def _tls(config: CaddyfileConfig, *options: str) -> tuple[str, ...]:
    """Return a site's `tls` directive; none where the defaults are meant."""
    internal = " internal" if config.ca == "internal" else ""
    if options:
        return _indented(_block(f"tls{internal}", *options))
    return (f"tls{internal}",) if internal else ()


def _redirect(config: CaddyfileConfig, host: str) -> str:
    port = "" if config.https_port == 443 else f":{config.https_port}"  # noqa: PLR2004  https
    return _block("handle", f"redir https://{host}{port}{{uri}} 308")


def _hub_http(config: CaddyfileConfig) -> str:
    names = ", ".join(f"http://{name}" for name in (config.hub, *config.hub_aliases))
    nodes = _block("@node", "method GET HEAD", f"path_regexp {_FLIST}")
    return _block(
        names,
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
        f"https://{config.hub}",
        *_tls(config),
        "import encrypted",
        "encode gzip",
        *limit,
        "reverse_proxy hub:5555",
    )


def _bootstrap() -> str:
    """Return the snippet of what bootstrap answers under each of its names."""
    return _block(
        "(bootstrap)",
        # /api/kernel takes file names with `../`, /api/symlink replaces kernels: the kernels are
        # the kernels job's alone, so nobody outside needs either.
        "@write path /api/kernel /api/kernel/* /api/symlink /api/symlink/*",
        *_indented(_block("handle @write", "respond 403")),
        # Without loop devices and mounts the server answers 200 and 2 MiB of zeros.
        "@uefimg path /uefimg /uefimg/*",
        *_indented(
            _block(
                "handle @uefimg",
                'respond "No UEFI disk images are built here: take /uefi, /iso or /usb." 501',
            )
        ),
        # These ask a database of clients that only its maintainers fill.
        "@provision path /krn-provision /uefi-provision /provision/*",
        *_indented(_block("handle @provision", 'respond "This server provisions no clients." 501')),
        *_indented(_block("handle", "reverse_proxy bootstrap:5555")),
    )


def _bootstrap_http(config: CaddyfileConfig, host: str) -> str:
    return _block(
        f"http://{host}",
        "import plain",
        *_indented(_block("@node", "method GET HEAD", "path /kernel/* /ipxe/*")),
        *_indented(_block("handle @node", "reverse_proxy bootstrap:5555")),
        *_indented(_redirect(config, host)),
    )


def _bootstrap_unsecure(host: str) -> str:
    # Media made under this name fetch their kernel from it, plainly (0-bootstrap: bootstrap.py,
    # get_protocol): upstream's way out for firmware that has no TLS, or no trust in the authority.
    return _block(f"http://{unsecure(host)}", "import plain", "import bootstrap")


def _bootstrap_https(config: CaddyfileConfig, host: str) -> str:
    # The iPXE of boot media speaks RSA suites only, up to TLS 1.2 (ipxe: src/crypto/mishmash).
    return _block(
        f"https://{host}",
        *_tls(config, "key_type rsa2048"),
        "import encrypted",
        "import bootstrap",
    )


def _other_http() -> str:
    # A request for a name that is not ours: no answer is a redirect to somewhere else.
    return _block("http://", "respond 404")
