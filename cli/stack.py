"""From a stack's name to its settings, its host and its containers; the state is not needed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import yaml

from components.settings import PROJECT, Settings, parse
from sync.contract.layout import directories, under
from sync.providers.host.connection import HostConnection, HostError
from sync.providers.host.host import DataRoot, Host

CHECKOUT: Final = Path(__file__).resolve().parents[1]
LINE_BYTES: Final = 1 << 16  # a longer line comes in pieces
# Stands for a value that only the passphrase opens, in a form that the settings' checks take.
_SEALED: Final = "0" * 40


class StackFileError(click.ClickException):
    """The stack file cannot be read or edited; the message says where and what to do."""

    exit_code = 2


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
        written = yaml.safe_load(path.read_text(encoding="utf-8"))["config"]
        # As Pulumi does (sdk/go/common/workspace/loaders.go: stackConfigNamespacedWithProject).
        config: dict[str, Any] = {
            key if ":" in key else f"{PROJECT}:{key}": value for key, value in written.items()
        }
        sealed = {
            key for key, value in config.items() if isinstance(value, dict) and "secure" in value
        }
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise StackFileError(f"{path}: not a stack file of Pulumi: {error}") from error
    # `up` needs a token of Cloudflare; nothing here does.
    environment = {"CLOUDFLARE_API_TOKEN": _SEALED, **os.environ}
    return parse(config | dict.fromkeys(sealed, _SEALED), sealed, environment)


@dataclass(frozen=True)
class StackOnHost:
    """A stack's mirror, where it runs; the host is connected on first use."""

    settings: Settings
    root: DataRoot

    @classmethod
    def of(cls, stack: str) -> "StackOnHost":
        """Return the mirror that the stack file describes."""
        settings = settings_of(stack)
        host = settings.host
        way = HostConnection(host.docker, host.ssh_key_path or "", host.known_hosts_path or "")
        return cls(settings, DataRoot(way, settings.data_root))

    @property
    def host(self) -> Host:
        """The host."""
        return self.root.on_host()

    def containers(self, *services: str) -> dict[str, str]:
        """Return the names of these services' containers, or of all, running or not.

        They are known by the folders of the data root that they mount: a renamed stack's have the
        name that it had at its first `up`. HostError where one of `services` has none.
        """
        ours = {under(self.root.path, entry.path) for entry in directories(hub_writes=True)}
        listing = self.host.run_docker(
            *("ps", "--all", "--no-trunc", "--filter", "label=gridhub.service"),
            *("--format", '{{.Names}}\t{{.Label "gridhub.service"}}\t{{.Mounts}}'),
        )
        rows = (line.split("\t") for line in sorted(listing.splitlines()))
        found = {what: name for name, what, mounts in rows if ours & {*mounts.split(",")}}
        if missing := sorted({*services} - {*found}):
            raise HostError(
                f"{self.settings.host.docker}: no container of {', '.join(missing)} with data root "
                f"{self.root.path}; there are: {', '.join(found) or 'none'}; see what "
                "`pulumi preview --refresh` says"
            )
        return {service: found[service] for service in services or found}
