"""The Caddyfile of the edge, rendered from the template `Caddyfile.j2` beside this module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import StrictUndefined, Template

from components.naming import Naming

METRICS_PORT: Final = 9180
LOG_MOUNT: Final = "/log"
_TEMPLATE: Final = Path(__file__).with_name("Caddyfile.j2")
_AUTHORITIES: Final = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


@dataclass(frozen=True)
class CaddyfileConfig:
    """naming: host names of hub and bootstrap server. bootstrap: whether one runs here.

    https_port: as the outside sees it. ca: see AcmeSettings. uploads: the hub accepts them.
    hub_aliases: further names of the hub, on plain HTTP only.
    """

    naming: Naming
    bootstrap: bool
    https_port: int
    ca: str
    email: str | None
    uploads: bool
    hub_aliases: tuple[str, ...] = ()


def caddyfile(config: CaddyfileConfig) -> str:
    """Return the whole Caddyfile."""
    template: Template = Template(
        _TEMPLATE.read_text(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return template.render(
        vars(config),
        authority=_AUTHORITIES.get(config.ca, config.ca),
        internal=config.ca == "internal",
        log_mount=LOG_MOUNT,
        metrics_port=METRICS_PORT,
    )
