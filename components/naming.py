"""Every name on the host and in DNS, derived from the stack's name and its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from components.settings import Settings
from sync.contract.layout import JOBS, Job

SERVICES: Final = ("zdb", "packer", "hub", "bootstrap", "caddy", "gate")


@dataclass(frozen=True)
class Stack:
    """A stack and what its names lead to. name: the present one, also in DNS comments."""

    name: str
    settings: Settings

    @property
    def hub(self) -> str:
        """Host name of the hub."""
        return f"hub.{self.settings.domain}"

    @property
    def bootstrap(self) -> str:
        """Host name of the bootstrap server."""
        return f"bootstrap.{self.settings.domain}"

    @property
    def unsecure_bootstrap(self) -> str:
        """Host name of the bootstrap server for boot media that cannot speak TLS.

        It writes http:// URLs into what it makes where the Host header has `unsecure`
        (0-bootstrap: bootstrap.py, get_protocol).
        """
        return f"unsecure.{self.bootstrap}"

    @property
    def hosts(self) -> Sequence[str]:
        """Every host name that is served here, the hub's first."""
        media = [self.bootstrap, self.unsecure_bootstrap]
        return [self.hub, *(media if self.settings.bootstrap.enabled else ())]

    @property
    def jobs(self) -> Sequence[Job]:
        """The sync jobs that run here: none unless the stack is a mirror."""
        enabled = [job for job in JOBS if getattr(self.settings, job).enabled]
        return [] if self.settings.writable else enabled

    @property
    def services(self) -> Sequence[str]:
        """The services that have a container in this stack, jobs among them, sorted."""
        absent = set() if self.settings.inspects else {"packer"}
        if not self.settings.bootstrap.enabled:
            absent.add("bootstrap")
        return sorted({*SERVICES, *self.jobs} - absent)

    def url(self, host: str) -> str:
        """HTTPS URL of a host name of the stack, as the outside sees it."""
        port = self.settings.ports.https
        return f"https://{host}" if port == 443 else f"https://{host}:{port}"  # noqa: PLR2004


@dataclass(frozen=True)
class DockerNames:
    """Names of one stack's Docker objects; two stacks on one host share none.

    stack: the name that it had at its first `up` (ModeGuard keeps it): a renamed stack is the
    same mirror, whose containers would otherwise all be replaced for a name.
    """

    stack: str

    @property
    def prefix(self) -> str:
        """What every Docker object of the stack starts with; also the network's name."""
        return f"gridhub-{self.stack}"

    def container(self, service: str) -> str:
        """Name of a service's container."""
        return f"{self.prefix}-{service}"

    @property
    def containers(self) -> Sequence[str]:
        """Names of all containers that a stack may have."""
        return sorted(self.container(service) for service in (*SERVICES, *JOBS))

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every Docker object of the stack."""
        return {"gridhub.stack": self.stack}
