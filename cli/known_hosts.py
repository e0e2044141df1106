"""Show and pin a host's SSH key: `python -m cli.known_hosts pin ssh://user@host`.

Compare the fingerprint with the host's own (on its console:
`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`) before you pin it: `pin` shows it and asks.
"""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Final

import paramiko

from sync.providers.host.connection import HostError, HostUnreachableError, SshAddress
from sync.providers.host.host_keys import fingerprint, pin, pinned
from sync.providers.host.ssh import CONNECT_SECONDS, dial

DEFAULT_PATH: Final = Path("known_hosts")


def offered_key(address: SshAddress) -> paramiko.PKey:
    """Ask the host for its key (ed25519 before others); nothing of ours is sent."""
    transport = paramiko.Transport(dial(address))
    with contextlib.closing(transport):
        options = transport.get_security_options()
        first = [name for name in options.key_types if "ed25519" in name]
        options.key_types = [*first, *(name for name in options.key_types if name not in first)]
        try:
            transport.start_client(timeout=CONNECT_SECONDS)
            return transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise HostUnreachableError(f"{address}: SSH failed: {error}") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when the host's key is pinned (show: when it could be seen)."""
    options = _parser().parse_args(arguments)
    try:
        address = SshAddress.parse(options.host)
        key = offered_key(address)
        print(f"{address} offers {fingerprint(key)}")
        if options.action == "show":
            return _show(options.known_hosts, address, key)
        return _pin(options, address, key)
    except HostError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _show(path: Path, address: SshAddress, key: paramiko.PKey) -> int:
    known = pinned(path, address)
    if any(entry.asbytes() == key.asbytes() for entry in known):
        print(f"pinned in {path}: the same key")
    elif known:
        print(f"pinned in {path}: ANOTHER key, {', '.join(fingerprint(entry) for entry in known)}")
        return 1
    else:
        print(f"not pinned in {path}; compare it on the host's console, then use: pin {address}")
    return 0


def _pin(options: argparse.Namespace, address: SshAddress, key: paramiko.PKey) -> int:
    wanted = options.fingerprint
    if wanted and wanted not in (fingerprint(key), fingerprint(key).split(" ")[1]):
        print(f"error: expected {wanted}; nothing was pinned", file=sys.stderr)
        return 1
    if not (wanted or options.yes or _confirmed()):
        print("error: not confirmed; nothing was pinned", file=sys.stderr)
        return 1
    added = pin(options.known_hosts, address, key, replace=options.replace)
    print(f"{'pinned in' if added else 'was pinned already in'} {options.known_hosts}")
    return 0


def _confirmed() -> bool:
    try:
        answer = input("Is this the host's own fingerprint? Type yes to pin it: ")
    except EOFError:
        return False
    return answer.strip().lower() == "yes"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cli.known_hosts")
    parser.add_argument("action", choices=["show", "pin"])
    parser.add_argument("host", help="ssh://user@host[:port], as in the setting host.docker")
    parser.add_argument(
        "--known-hosts", type=Path, default=DEFAULT_PATH, help="default: %(default)s"
    )
    parser.add_argument("--fingerprint", help="pin only this one (SHA256:…); asks nothing")
    parser.add_argument("--yes", action="store_true", help="pin what is offered; asks nothing")
    parser.add_argument("--replace", action="store_true", help="the host was reinstalled")
    return parser


if __name__ == "__main__":
    sys.exit(main())
