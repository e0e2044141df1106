"""The command line of `gridhub`: what an operator does by hand beside `pulumi`.

Modules are imported by the command that needs them, so that help and completion come at once.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import shell_complete

from sync.contract.layout import JOBS, Job

_STDIN_LIMIT: Final = 1 << 20
_COLUMNS: Final = 160  # where no terminal has a width


class Gridhub(click.Group):
    """A group whose commands fail with one sentence that names the remedy, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what kept it from seeing the mirror is printed, and exit code 2."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            from components.settings import SettingsError
            from sync.contract.names import RefusedNameError
            from sync.providers.host.connection import HostError

            seen = HostError | SettingsError | RefusedNameError | OSError
            if isinstance(error, BrokenPipeError) or not isinstance(error, seen):
                raise
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)


def _stacks(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    from cli.stack import stack_names

    return [name for name in stack_names() if name.startswith(typed)]


def _services(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    from components.naming import SERVICES

    return [name for name in (*SERVICES, *JOBS) if name.startswith(typed)]


def _flag(name: str, text: str) -> Callable[[Any], Any]:
    return click.option(name, is_flag=True, help=text)


_STACK: Final = click.option(
    "--stack",
    metavar="NAME",
    required=True,
    envvar="PULUMI_STACK",
    show_envvar=True,
    shell_complete=_stacks,
    help="The stack, by the name of its file stacks/Pulumi.NAME.yaml.",
)
_HOST: Final = click.argument("host", metavar="ssh://USER@HOST[:PORT]")
_KNOWN_HOSTS: Final = click.option(
    "--known-hosts",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default="known_hosts",
    show_default=True,
    help="The file that pins host keys: the stack's host.knownHostsPath.",
)


def _of_a_job(command: Any) -> Any:
    for parameter in (  # the last is the first that --help shows
        _flag("--offline", "Ask the master nothing."),
        _flag("--chunks", "Read every chunk (users)."),
        click.option("--part", metavar="N/M", help="Scan the N-th of M parts, such as 1/7."),
        click.argument("job", type=click.Choice(JOBS)),
        _STACK,
    ):
        command = parameter(command)
    return command


@click.group(cls=Gridhub, context_settings={"help_option_names": ["-h", "--help"]})
def gridhub() -> None:
    """Look after a hub mirror: what is done by hand beside `pulumi`.

    The exit code is 0 when all is well, 1 when something is wrong or was refused, and 2 when it
    could not be seen: the host is not reached, or the stack file or the command line is wrong.
    """


@gridhub.command("pin-images")
@_STACK
@_flag("--dry-run", "Print the digests and write nothing.")
def pin_images(stack: str, *, dry_run: bool) -> None:
    """Fill the image digests of a stack.

    Each image in the stack file is asked for at its registry by its tag, and the digest found now
    is written beside it; all else in the file stays as it is. A file without images gets
    upstream's.
    """
    from cli.pin_images import pin_images

    pin_images(stack, dry_run=dry_run)


@gridhub.group("known-hosts")
def known_hosts() -> None:
    """Show and pin a host's SSH key.

    Compare the fingerprint with the host's own before you pin it; on its console:
    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    """


@known_hosts.command("show")
@_HOST
@_KNOWN_HOSTS
def show_host_key(host: str, path: Path) -> None:
    """Print the fingerprint that a host offers, and whether it is pinned."""
    from cli.known_hosts import show

    sys.exit(show(host, path))


@known_hosts.command("pin")
@_HOST
@_KNOWN_HOSTS
@click.option("--fingerprint", help="Pin only this one (SHA256:…); asks nothing.")
@_flag("--yes", "Pin what is offered; asks nothing.")
@_flag("--replace", "Replace another key: the host was reinstalled.")
@_flag("--dry-run", "Print what is offered and pinned, as `show` does.")
def pin_host_key(host: str, path: Path, fingerprint: str | None, **flags: bool) -> None:
    """Write the key that a host offers into the file, after a question."""
    from cli.known_hosts import pin_offered, show

    if flags["dry_run"]:
        sys.exit(show(host, path))
    pin_offered(host, path, fingerprint, yes=flags["yes"], replace=flags["replace"])


@gridhub.command("token")
@click.argument("user")
def token(user: str) -> None:
    """Mint a token of USER for a writable hub's API.

    The stack's seed comes on stdin: pulumi stack output hubSeed --show-secrets | gridhub token USER
    """
    from cli.tokens import mint, read_seed

    seed = read_seed("" if sys.stdin.isatty() else sys.stdin.read(_STDIN_LIMIT))
    click.echo(mint(seed, user, int(time.time())))


@gridhub.group("config")
def config() -> None:
    """Describe the settings of a stack file."""


@config.command("docs")
@_flag("--dry-run", "Print the page and write nothing.")
def config_docs(*, dry_run: bool) -> None:
    """Write docs/configuration.md from the settings' own descriptions."""
    from components.settings.configuration_page import PAGE, page

    if dry_run:
        click.echo(page(), nl=False)
    else:
        PAGE.write_text(page(), encoding="utf-8")


@gridhub.command("verify")
@_of_a_job
def verify(stack: str, job: Job, part: str | None, **flags: bool) -> None:
    """Compare a job's mirror with its master.

    It changes nothing. The exit code is 1 when something is wrong.
    """
    from cli.jobs import check

    sys.exit(check("verify", stack, job, part, **flags))


@gridhub.command("repair")
@_of_a_job
@_flag("--dry-run", "Verify only.")
@_flag("--yes", "Ask nothing.")
def repair(stack: str, job: Job, part: str | None, **flags: bool) -> None:
    """Verify a job's mirror and repair what is wrong, after a question."""
    from cli.jobs import check

    verify_only = flags.pop("dry_run")
    if not (flags.pop("yes") or verify_only):
        if not sys.stdin.isatty():
            raise click.ClickException("nobody is there to ask; repair with --yes, or --dry-run")
        click.confirm(f"Repair what is wrong with {job} of {stack}?", abort=True)
    sys.exit(check("verify" if verify_only else "repair", stack, job, part, **flags))


@gridhub.command("status")
@_STACK
@click.option("--json", "as_json", is_flag=True, help="Print all that is known, as JSON.")
def status(stack: str, *, as_json: bool) -> None:
    """Show where each job and service of a stack stands.

    The exit code is 0 when all are healthy, 1 when one is not, 2 when they could not be seen.
    """
    from rich.console import Console

    from cli.status import drawn, look

    seen = look(stack)
    if as_json:
        click.echo(seen.model_dump_json(indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else _COLUMNS).print(drawn(seen))
    sys.exit(0 if seen.healthy else 1)


@gridhub.command("logs")
@_STACK
@click.option("--tail", default=100, show_default=True, help="Earlier lines to show.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Show new lines too.")
@_flag("--merged", "Line by line, also where there is tmux.")
@click.argument("services", nargs=-1, metavar="[SERVICE]...", shell_complete=_services)
def logs(stack: str, tail: int, services: tuple[str, ...], *, follow: bool, merged: bool) -> None:
    """Follow the services' logs side by side, until Ctrl-C.

    Without SERVICE: of all that have a container.

    On a terminal where tmux is installed each has a pane; else, and with --merged, lines come one
    by one with the service's name before them.
    """
    from cli.logs import in_panes, merge
    from cli.stack import StackOnHost

    mirror = StackOnHost.of(stack)
    containers = mirror.containers(*services)
    if not containers:
        raise click.ClickException(
            f"{stack} has no container; see what `pulumi preview --refresh` says"
        )
    panes = follow and not merged and sys.stdin.isatty() and sys.stdout.isatty()
    if panes and shutil.which("tmux"):
        sys.exit(in_panes(stack, containers, tail))
    with contextlib.suppress(KeyboardInterrupt):
        merge(mirror, containers, ["--tail", str(tail), *(["--follow"] if follow else [])])


@gridhub.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For bash, in ~/.bashrc: eval "$(gridhub completion bash)"
    """
    sys.exit(shell_complete(gridhub, {}, "gridhub", "_GRIDHUB_COMPLETE", f"{shell}_source"))


if __name__ == "__main__":
    gridhub(prog_name="gridhub")
