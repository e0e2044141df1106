"""`gridhub known-hosts`: show and pin a host's SSH key."""

import contextlib
import shlex
from pathlib import Path

import click
import paramiko

from sync.providers.host.connection import HostKeyError, SshAddress
from sync.providers.host.host_keys import fingerprint, pin, pinned
from sync.providers.host.ssh import CONNECT_SECONDS, dial, refused_greeting


def _offered_key(address: SshAddress) -> paramiko.PKey:
    """Ask the host for its key (ed25519 before others), and print it; nothing of ours is sent."""
    transport = paramiko.Transport(dial(address))
    with contextlib.closing(transport):
        options = transport.get_security_options()
        options.key_types = sorted(options.key_types, key=lambda name: "ed25519" not in name)
        try:
            transport.start_client(timeout=CONNECT_SECONDS)
            key = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise refused_greeting(address, error) from error
    click.echo(f"{address} offers {fingerprint(key)}")
    return key


def show(host: str, path: Path) -> int:
    """Print what the host offers and whether the file has it; 1 where it has another key."""
    address = SshAddress.parse(host)
    key = _offered_key(address)
    known = pinned(path, address)
    if any(entry.asbytes() == key.asbytes() for entry in known):
        click.echo(f"pinned in {path}: the same key")
    elif known:
        others = ", ".join(fingerprint(entry) for entry in known)
        click.echo(f"pinned in {path}: ANOTHER key, {others}")
        return 1
    else:
        where = shlex.quote(str(path))
        command = f"gridhub known-hosts pin {address} --known-hosts {where}"
        click.echo(f"not pinned in {path}; compare it on the host's console, then: {command}")
    return 0


def pin_offered(host: str, path: Path, expected: str | None, *, yes: bool, replace: bool) -> None:
    """Pin the key that the host offers: the expected one, or any after a question.

    expected: a fingerprint, with or without its type; asks nothing. yes: neither does this.
    Raises click.ClickException where nothing was pinned.
    """
    address = SshAddress.parse(host)
    key = _offered_key(address)
    if expected and expected not in (fingerprint(key), fingerprint(key).split(" ")[1]):
        raise click.ClickException(f"expected {expected}; nothing was pinned")
    if not (expected or yes or _confirmed()):
        raise click.ClickException("not confirmed; nothing was pinned")
    try:
        added = pin(path, address, key, replace=replace)
    except HostKeyError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{'pinned in' if added else 'was pinned already in'} {path}")


def _confirmed() -> bool:
    question = "Is this the host's own fingerprint? Type yes to pin it"
    try:
        return bool(click.prompt(question, default="", show_default=False).strip().lower() == "yes")
    except click.Abort:
        return False
