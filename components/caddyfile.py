"""The Caddyfile of the edge, rendered from the template `Caddyfile.j2` beside this module."""

from pathlib import Path
from typing import Final

from jinja2 import StrictUndefined, Template

from components.naming import Stack

HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
METRICS_PORT: Final = 9180
# The gate's, for boot media, and for the hub's lists of all there is.
MEDIA_PORT: Final = 8090
LISTINGS_PORT: Final = 8091
LOG_MOUNT: Final = "/log"
_TEMPLATE: Final = Path(__file__).with_name("Caddyfile.j2")
_AUTHORITIES: Final = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


def caddyfile(stack: Stack) -> str:
    """Return the whole Caddyfile."""
    template: Template = Template(
        _TEMPLATE.read_text(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    ca = stack.settings.acme.ca
    return template.render(
        stack=stack,
        settings=stack.settings,
        authority=_AUTHORITIES.get(ca, ca),
        internal=ca == "internal",
        log_mount=LOG_MOUNT,
        http_port=HTTP_PORT,
        https_port=HTTPS_PORT,
        metrics_port=METRICS_PORT,
        media_port=MEDIA_PORT,
        listings_port=LISTINGS_PORT,
    )
