"""From a stack's name to its settings, its host and its containers; the state is not needed."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from components.settings import Settings, parse
from sync.contract.layout import directories, under
from sync.providers.host.connection import (
    NO_STATUS,
    HostConnection,
    HostError,
    HostUnreachableError,
    Running,
)
from sync.providers.host.host import DataRoot, Host

CHECKOUT: Final = Path(__file__).resolve().parents[1]
LINE_BYTES: Final = 1 << 16  # a longer line comes in pieces
# Stands for a value that only the passphrase opens, in a form that the settings' checks take.
_SEALED: Final = "0" * 40


class StackFileError(Exception):
    """The stack file cannot be read or edited; `str()` says where and what to do."""


def stacks_folder() -> Path:
    """Return the folder of stack files that `pulumi` would take here, else this checkout's."""
    here = Path.cwd()
    projects = (folder for folder in (here, *here.parents) if (folder / "Pulumi.yaml").is_file())
    return next(projects, CHECKOUT) / "stacks"


def stack_names() -> list[str]:
    """Return the names of the stacks that have a stack file, sorted."""
    files = stacks_folder().glob("Pulumi.*.yaml")
    return sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in files)


def stack_file(stack: str) -> Path:
    """Return the path of a stack's file; StackFileError names the stacks where it has none."""
    if stack not in stack_names():
        known = ", ".join(stack_names()) or "none"
        raise StackFileError(f"{stacks_folder()}: no Pulumi.{stack}.yaml; stacks here: {known}")
    return stacks_folder() / f"Pulumi.{stack}.yaml"


def settings_of(stack: str) -> Settings:
    """Return a stack's settings; raises StackFileError, or SettingsError as `pulumi up` does."""
    path = stack_file(stack)
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["config"]
        secrets = {key for key, value in config.items() if _is_sealed(value)}
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise StackFileError(f"{path}: not a stack file of Pulumi: {error}") from error
    # `up` needs a token of Cloudflare; nothing here does.
    environment = {"CLOUDFLARE_API_TOKEN": _SEALED, **os.environ}
    values = {key: _SEALED if key in secrets else value for key, value in config.items()}
    return parse(values, secrets, environment)


def _is_sealed(value: object) -> bool:
    return isinstance(value, dict) and "secure" in value


@dataclass(frozen=True)
class StackOnHost:
    """A stack's mirror, where it runs."""

    stack: str
    settings: Settings

    @classmethod
    def of(cls, stack: str) -> "StackOnHost":
        """Return the mirror that the stack file describes; nothing is connected yet."""
        return cls(stack, settings_of(stack))

    @property
    def data_root(self) -> DataRoot:
        """The data root on its host, as the stack's resources have it."""
        host = self.settings.host
        connection = HostConnection(
            host.docker, host.ssh_key_path or "", host.known_hosts_path or ""
        )
        return DataRoot(connection, self.settings.data_root)

    @property
    def host(self) -> Host:
        """The host; it is connected on first use."""
        return self.data_root.on_host()

    def containers(self) -> dict[str, str]:
        """Return the names of the mirror's containers by service, running or not.

        They are known by the folders of the data root that they mount: a renamed stack's have the
        name that it had at its first `up`.
        """
        root = self.settings.data_root
        ours = {under(root, entry.path) for entry in directories(hub_writes=True)}
        listing = self.host.run_docker(
            *("ps", "--all", "--no-trunc", "--filter", "label=gridhub.service"),
            *("--format", '{{.Names}}\t{{.Label "gridhub.service"}}\t{{.Mounts}}'),
        )
        rows = (line.split("\t") for line in sorted(listing.splitlines()))
        return {
            service: name for name, service, mounts in rows if ours.intersection(mounts.split(","))
        }

    def container(self, service: str) -> str:
        """Return the name of a service's container; HostError where there is none."""
        found = self.containers()
        if service not in found:
            there = f"there are {', '.join(found)}" if found else "there is none of this stack"
            raise HostError(
                f"{self.settings.host.docker}: no container of {service} with data root "
                f"{self.settings.data_root}; {there}: see `pulumi preview --refresh`"
            )
        return found[service]

    @contextlib.contextmanager
    def running(self, argv: Sequence[str]) -> Iterator[Running]:
        """Start a command on the host; it ends there when the block is left."""
        running = self.host.start(argv)
        try:
            yield running
        finally:
            running.end()

    def status_of(self, running: Running) -> int:
        """Wait for a command's exit status; HostUnreachableError where the connection broke."""
        status = running.status()
        if status == NO_STATUS:
            raise HostUnreachableError(f"{self.settings.host.docker}: the connection broke")
        return status
